"""Decoding one image: any file and any PIL mode to upright RGB, errors that name the file."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from ..image_modes_amns import open_image, orientation, to_rgb, why_unreadable

# A JPEG is decoded at a fraction of its size while that is at least this many times the size wanted: the decoder
# averages what the resize would have averaged. `scripts/benchmark.py data` prints how far the pixels differ.
REDUCING_GAP = 1


def decode_image(
    image: Image.Image | Mapping[str, Any], where: str | None = None, size: tuple[int, int] | None = None
) -> Image.Image:
    """An image in RGB, upright, read to its end.

    Modes are treated as the processor does (`to_rgb`): EXIF rotation applied, 16-bit greys scaled to 8 bits,
    transparency dropped, palettes, CMYK and greys converted as PIL does. Files are opened by `open_image`, which names
    the formats and sizes that it takes.

    Args:
        image: a PIL image, or what a `datasets.Image(decode=False)` column holds: `{"path": ..., "bytes": ...}`.
        where: what an error calls the image; by default its path.
        size: (height, width) in pixels that the caller will resize to. Large JPEG files are then decoded at a half, a
            quarter or an eighth of their size, never below this one: much quicker, nearly the same pixels. For
            training alone: what is evaluated is what is served, by programs that decode whole files.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be decoded: truncated, not an image, too large.

    Example:

        >>> decode_image(Image.new("LA", (4, 2))).mode
        'RGB'
    """
    path = image.get("path") if isinstance(image, Mapping) else getattr(image, "filename", None)
    where = where or path or "an image without a path"
    try:
        if isinstance(image, Mapping):
            return _decode_file(image, size)
        return to_rgb(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image {path} ({where}). Was it moved after loading?") from None
    except Exception as error:  # PIL's plugins raise whatever a broken file leads them to, up to struct.error
        found = f" in {path}" if path and str(path) != str(where) else ""
        raise ValueError(
            f"Cannot read image {where}{found}: {why_unreadable(error)}. Get the file again or remove its "
            "record; scripts/check_data.py lists all unreadable images."
        ) from error


def _decode_file(image: Mapping[str, Any], size: tuple[int, int] | None) -> Image.Image:
    data = image.get("bytes")
    if data is None and image.get("path") is None:
        raise ValueError("it has neither a path nor bytes")
    with open_image(image["path"] if data is None else data) as opened:
        if size is not None and opened.format == "JPEG" and opened.mode == "RGB":
            height, width = size
            if orientation(opened) >= 5:
                height, width = width, height
            opened.draft(None, (REDUCING_GAP * width, REDUCING_GAP * height))
        opened.load()
        return to_rgb(opened)


__all__ = ["decode_image"]
