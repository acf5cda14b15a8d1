"""Whatever shows an image to upright 8-bit RGB, the one place where that is decided; copied with the processor."""

import base64
import binascii
import functools
import io
import os
import stat
from collections.abc import Iterable, Sequence
from typing import TypeGuard, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where a file keeps its orientation. A turned image must not carry it on, or the next reader turns it again.
_METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
# Pillow hands these to other programs (Ghostscript, Windows' own drawing) or has no decoder for them at all.
_NOT_READ = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
# Rounding may carry a float image in [0, 1] a little beyond its ends.
_SLACK = 1e-3
_URL_TIMEOUT = 30


def size_pair(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of `image_size`: a pair, or one number (alone or in a list) for a square.

    ```python
    >>> size_pair(64), size_pair([384, 128])
    ((64, 64), (384, 128))

    ```
    """
    sides = [image_size] if isinstance(image_size, int) else list(image_size)
    if len(sides) not in (1, 2) or any(isinstance(side, bool) or int(side) != side or side < 1 for side in sides):
        raise ValueError(f"image_size must be a positive integer or [height, width], found {image_size!r}.")
    return int(sides[0]), int(sides[-1])


@functools.lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """The formats of Pillow that are opened, for `Image.open(file, formats=...)`: those that it decodes by itself."""
    # The common ones are tried first.
    Image.preinit()
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_READ)


def orientation(image: Image.Image) -> int:
    """How a camera says that the image is turned, 1 to 8; 1 (upright) where it says nothing that can be read."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    # Broken blocks make Pillow raise whatever they lead it to; the pixels are fine.
    except Exception:
        return 1
    return found if found in _TURNS else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any mode in RGB, upright.

    A camera's rotation is applied; of its metadata only that is read. 16-bit greys keep their upper byte (PIL alone
    would clip them to white), 32-bit integers and floats are read by their range (`array_to_rgb`), integers beyond 16
    bits are clipped. Transparency is dropped, as CLIP's own preprocessing does.

    Raises:
        ValueError: floats that are neither in [0, 1] nor in [0, 255].
    """
    # Before the metadata is asked for: Pillow turns TIFF files itself, when it reads them.
    image.load()
    turned = orientation(image)
    if turned != 1:
        image = image.transpose(_TURNS[turned])
        for name in _METADATA:
            image.info.pop(name, None)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "I":
        image = Image.fromarray(_eight_bits(np.asarray(image).clip(0, 65535)))
    elif image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGB")
    # One colour that a palette, PNG or GIF calls transparent; the image processor would paint it white.
    image.info.pop("transparency", None)
    return image


def read_image(source: str | os.PathLike[str]) -> Image.Image:
    """The image behind a path, an `http(s)` URL, a `data:image/` URL or a base64 string, as `to_rgb` makes it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: what is there is no image that can be read.
    """
    name = os.fspath(source)
    shown = name if len(name) <= 200 else f"{name[:100]}..."
    try:
        data = None
        if isinstance(source, str):
            data = _download(name) if name.startswith(("http://", "https://")) else _base64_bytes(name)
        if data is None:
            check_regular(name)
        with Image.open(io.BytesIO(data) if data is not None else name, formats=readable_formats()) as opened:
            return to_rgb(opened)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image {shown}.") from None
    # Pillow's plugins raise whatever a broken file leads them to, a connection has errors of its own.
    except Exception as error:
        raise ValueError(f"Cannot read image {shown}: {type(error).__name__}: {error}") from error


def check_regular(path: str | os.PathLike[str]) -> None:
    """A ValueError if a path leads to something other than a file: reading a pipe or a device may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is no regular file")


def _download(url: str) -> bytes:
    # Not transformers' `load_image`, which has clipped a 16-bit grey to white before anyone sees its mode.
    import httpx

    response = httpx.get(url, timeout=_URL_TIMEOUT, follow_redirects=True)
    response.raise_for_status()
    return response.content


def _base64_bytes(text: str) -> bytes | None:
    """The bytes of a `data:image/` URL or of a base64 string that is no path; `None` for what is neither."""
    if text.startswith("data:image/"):
        return base64.b64decode(text.partition(",")[2])
    if len(text) < 64 or os.path.exists(text):
        return None
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        return None


def array_to_rgb(array: ArrayLike, channels_first: bool | None = None) -> Image.Image:
    """An array or tensor as a PIL image in RGB.

    Args:
        array: numpy array or torch tensor [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels, the fourth
            (transparency) dropped. Bytes are taken as they are, 16-bit unsigned integers by their upper byte. Other
            integers are bytes if none exceeds 255, else 16-bit. Floats are in [0, 1], or in [0, 255] if one is 2 or
            more.
        channels_first: the order of the axes; `None`: by the place of the channels, first if both ends could be.
    Raises:
        ValueError: another shape, another type, or values outside these ranges, such as normalised ones.

    ```python
    >>> import numpy as np
    >>> array_to_rgb(np.full((3, 4, 2), 0.2)).getpixel((0, 0))
    (51, 51, 51)

    ```
    """
    values = _numpy(array)
    found = f"an array of shape {list(values.shape)}"
    if values.ndim == 2:
        values = values[..., None]
    elif values.ndim != 3:
        raise ValueError(f"An image has 2 or 3 axes, found {found}; pass batches as 4 axes or as lists.")
    else:
        if channels_first is None:
            channels_first = values.shape[0] in (1, 3, 4)
        if channels_first:
            values = values.transpose(1, 2, 0)
    if values.shape[2] not in (1, 3, 4) or not values.size:
        raise ValueError(f"An image is [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels, found {found}.")
    values = _eight_bits(values[..., :3])
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).convert("RGB")


def as_rgb(image: object, channels_first: bool | None = None) -> Image.Image:
    """A PIL image, path, URL, array or tensor as a PIL image in RGB, upright: all the same pixels.

    Raises:
        ValueError: it is none of these, or can't be read as an image.
        FileNotFoundError: there is no such file.
    """
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if _is_array(image):
        return array_to_rgb(image, channels_first)
    raise ValueError(
        f"An image is a PIL image, a path, a URL, an array or a tensor, found {type(image).__name__}: {image!r:.80}."
    )


def is_unit_range(image: object) -> bool:
    """Whether an image is an array of floats in [0, 1], which others call rescaled already."""
    if isinstance(image, Image.Image) or not _is_array(image):
        return False
    values = _numpy(image)
    return values.dtype.kind == "f" and values.size > 0 and bool(values.max() <= 1 + _SLACK)


def flat_images(images: object) -> list[object]:
    """One image, a batch of them [B, ...], or lists of either, nested as they may be, as a flat list of images."""
    if isinstance(images, (list, tuple)):
        return [image for part in images for image in flat_images(part)]
    if _is_array(images, axes=4):
        return [image for part in cast(Iterable[object], images) for image in flat_images(part)]
    return [images]


def _is_array(image: object, axes: int = 1) -> TypeGuard[ArrayLike]:
    return hasattr(image, "__array__") and getattr(image, "ndim", 0) >= axes


def _numpy(array: ArrayLike) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        # Perhaps on another device; numpy knows no bfloat16.
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
    return np.asarray(array)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Values of an image as bytes, by their type and range; see `array_to_rgb`."""
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return values
    if kind == "b":
        return values.astype(np.uint8) * 255
    if kind == "u" and values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    if kind not in "iuf":
        raise ValueError(f"An image holds numbers or booleans, found an array of {values.dtype}.")
    low, high = values.min(), values.max()
    if kind in "iu" and low >= 0 and high <= 65535:
        return (values if high <= 255 else values >> 8).astype(np.uint8)
    # An image in [0, 1] that was sharpened or resized may reach 1.1. In [0, 255] nothing but black ends there.
    if kind == "f" and low >= -_SLACK and (high <= 1 + _SLACK or 2 <= high <= 255 + _SLACK):
        scaled = values.astype(np.float64) * (255 if high <= 1 + _SLACK else 1)
        return np.rint(scaled.clip(0, 255)).astype(np.uint8)
    raise ValueError(
        f"An image's values go from {low:g} to {high:g}; bytes or 16-bit integers, or floats in [0, 1] or [0, 255] "
        "are expected. Was it normalised already? Then pass it to the model, not to the processor."
    )


__all__ = [
    "array_to_rgb",
    "as_rgb",
    "check_regular",
    "flat_images",
    "is_unit_range",
    "orientation",
    "read_image",
    "readable_formats",
    "size_pair",
    "to_rgb",
]
