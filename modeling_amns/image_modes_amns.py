"""Images of every mode to upright RGB, the one place where that is decided; copied with the processor."""

import numpy as np
from PIL import Image, ImageOps


def to_rgb(image):
    """A PIL image in RGB, upright; anything else (array, tensor) is returned as it is.

    EXIF rotation is applied. 16-bit greys keep their upper byte (PIL alone would clip them to white). Transparency is
    dropped, as CLIP's own preprocessing does.
    """
    if not isinstance(image, Image.Image):
        return image
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGB")
    # One colour that a palette, PNG or GIF calls transparent; the image processor would paint it white.
    image.info.pop("transparency", None)
    return image


__all__ = ["to_rgb"]
