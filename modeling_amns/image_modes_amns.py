"""Whatever shows an image to upright 8-bit RGB, the one place where that is decided; copied with the processor.

Every file of images is opened by `open_image`: a regular file, of a format that is named here, of bounded size.
"""

import base64
import binascii
import contextlib
import functools
import io
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeGuard, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image, UnidentifiedImageError

# Pillow decodes these by itself (HEIF where pillow-heif is installed). Others it hands to programs, as EPS to
# Ghostscript, or guesses at. MPO is JPEG with more pictures behind the first.
IMAGE_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000")
# A photograph has a twentieth of either; a file that claims more is to take memory or time.
MAX_IMAGE_BYTES = 256 * 2**20
MAX_IMAGE_PIXELS = 80_000_000
# Of the images that a model takes: more is a typing error, or to take memory.
MAX_SIDE = 8192
# Encoders write about ten. Each costs the time of the whole picture, and a few bytes.
_MAX_SCANS = 100
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
# Rounding may carry a float image in [0, 1] a little beyond its ends.
_SLACK = 1e-3
# Seconds for the next bytes of a download, and for all of it.
_URL_TIMEOUT, _URL_SECONDS = 30, 120
# A JPEG marker, as opposed to escaped bytes and restarts inside a scan.
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")


def size_pair(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of `image_size`: a pair, or one number (alone or in a list) for a square.

    ```python
    >>> size_pair(64), size_pair([384, 128])
    ((64, 64), (384, 128))

    ```
    """
    sides = [image_size] if isinstance(image_size, int) else list(image_size)
    # `side % 1` is not 0 for infinity and NaN either, of which no integer can be made.
    if len(sides) not in (1, 2) or any(isinstance(side, bool) or side % 1 != 0 or side < 1 for side in sides):
        raise ValueError(f"image_size must be a positive integer or [height, width], found {image_size!r:.80}.")
    if max(sides) > MAX_SIDE:
        raise ValueError(f"image_size must be at most {MAX_SIDE:,} pixels a side, found {image_size!r:.80}.")
    return int(sides[0]), int(sides[-1])


@functools.lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """Those of `IMAGE_FORMATS` that this Pillow reads, for `Image.open(file, formats=...)`."""
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


@contextlib.contextmanager
def open_image(source: str | os.PathLike[str] | bytes) -> Iterator[Image.Image]:
    """An image file, or its bytes, opened by Pillow and not yet decoded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no regular file, none of `IMAGE_FORMATS`, too large, or a JPEG made to take hours.
        OSError: and whatever else Pillow makes of a broken file.
    """
    data = source if isinstance(source, bytes) else read_regular(source)
    if len(data) > MAX_IMAGE_BYTES:
        raise _too_long(len(data), MAX_IMAGE_BYTES)
    try:
        opened = Image.open(io.BytesIO(data), formats=readable_formats())
    except UnidentifiedImageError:
        raise ValueError(f"it is no image that is read; expected {', '.join(readable_formats())}") from None
    with opened:
        width, height = opened.size
        if width * height > MAX_IMAGE_PIXELS:
            raise ValueError(f"it has {width:,} x {height:,} pixels, expected at most {MAX_IMAGE_PIXELS:,} in all")
        if opened.info.get("progressive") and _scans(data) > _MAX_SCANS:
            raise ValueError(f"it has more than {_MAX_SCANS} scans, expected about ten; save it anew")
        yield opened


def read_regular(path: str | os.PathLike[str], limit: int = MAX_IMAGE_BYTES) -> bytes:
    """The bytes of a regular file; a ValueError for a pipe or a device, which may never end, and for a longer file."""
    # Before it is opened: with some devices that alone does something.
    if stat.S_ISREG(os.stat(path).st_mode):
        # It may have changed since; a pipe that is opened so is not waited for.
        flags = (getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK"))
        with open(os.open(path, os.O_RDONLY | sum(flags)), "rb") as file:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode):
                data = b"" if found.st_size > limit else file.read(limit + 1)
                if max(found.st_size, len(data)) > limit:
                    raise _too_long(max(found.st_size, len(data)), limit)
                return data
    raise ValueError("it is no regular file")


def _too_long(found: int, limit: int) -> ValueError:
    return ValueError(f"it has {found:,} bytes, expected at most {limit:,}")


def _scans(data: bytes) -> int:
    """Scans of the first picture of a JPEG file, counted no further than is asked."""
    scans, place = 0, 2
    while scans <= _MAX_SCANS and (marker := _MARKER.search(data, place)):
        kind, place = data[marker.end() - 1], marker.end()
        if kind == 0xD9:
            break
        scans += kind == 0xDA
        # What a segment holds is skipped, thumbnails too.
        place += int.from_bytes(data[place : place + 2], "big")
    return scans


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
        with open_image(name if data is None else data) as opened:
            return to_rgb(opened)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image {shown}.") from None
    # Pillow's plugins raise whatever a broken file leads them to, a connection has errors of its own.
    except Exception as error:
        raise ValueError(f"Cannot read image {shown}: {why_unreadable(error)}") from error


def why_unreadable(error: Exception) -> str:
    """What a reader of images raised, in words: ours as they stand, of Pillow with their kind."""
    return str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"


def _download(url: str) -> bytes:
    # Not transformers' `load_image`, which has clipped a 16-bit grey to white before anyone sees its mode.
    import httpx

    data, end = bytearray(), time.monotonic() + _URL_SECONDS
    with httpx.stream("GET", url, timeout=_URL_TIMEOUT, follow_redirects=True) as response:
        response.raise_for_status()
        for part in response.iter_bytes():
            data += part
            if len(data) > MAX_IMAGE_BYTES:
                raise ValueError(f"it has more than {MAX_IMAGE_BYTES:,} bytes")
            if time.monotonic() > end:
                raise ValueError(f"it took more than {_URL_SECONDS} seconds")
    return bytes(data)


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
    "IMAGE_FORMATS",
    "MAX_IMAGE_BYTES",
    "MAX_IMAGE_PIXELS",
    "MAX_SIDE",
    "array_to_rgb",
    "as_rgb",
    "flat_images",
    "is_unit_range",
    "open_image",
    "orientation",
    "read_image",
    "read_regular",
    "readable_formats",
    "size_pair",
    "to_rgb",
    "why_unreadable",
]
