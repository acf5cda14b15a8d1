"""Decodes an image file as the model needs it; what is wrong with a file is said with its name."""

import io
import os
from typing import Any

from PIL import Image

from ..processing_amns import to_rgb


def decode_image(image: Image.Image | dict[str, Any], where: str | None = None, size: tuple[int, int] | None = None):
    """An RGB image, upright, from a PIL image or the undecoded `{"path", "bytes"}` of `datasets`.

    Args:
        image: what a row of a data set holds.
        where: name for error messages; default the file's path.
        size: height and width that it will be resized to; a large JPEG is then decoded at a fraction of its size, never
            below twice these (the reduction is part of the JPEG decoder and costs nothing).
    Raises:
        ValueError: the file is missing, truncated or no image; the message names it.
    """
    if isinstance(image, Image.Image):
        return to_rgb(image)
    path, content = image.get("path"), image.get("bytes")
    where = path if path is not None and os.path.isabs(path) else where or path or "an image without a path"
    try:
        opened = Image.open(path if content is None else io.BytesIO(content))
        if size is not None and opened.format == "JPEG":
            opened.draft("RGB", (2 * size[1], 2 * size[0]))
        return to_rgb(opened)
    except FileNotFoundError as error:
        raise ValueError(f"The image {where} does not exist.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"The image {where} can't be read: {error}. Replace the file or remove its records.") from error


__all__ = ["decode_image"]
