"""What a page shows of a gallery's images: thumbnails made here, never a file as it lies on the disk."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..data.images import decode_image
from ..image_modes_amns import open_image, to_rgb, why_unreadable
from ..retrieval.encoders import Encoder, TorchEncoder
from ..retrieval.fragments import cut_from
from ..retrieval.pages import jpeg_address, read_file

# Height and width at most in pixels: of what is sent to the page, about twice what it shows.
TALL, WIDE = 384, 512
_KEPT = 1000
# Colour that lies over what a model looks at.
_HEAT = (255, 120, 0)


class GalleryPictures:
    """Reads images of a gallery, and of nothing else.

    Args:
        root: folder of the gallery's images; `None` where each was named by itself when it was indexed.
        follow_links: read what links of the folder lead to outside of it.
    """

    def __init__(self, root: Path | None, follow_links: bool = False):
        self.root, self.follow_links = root, follow_links
        self._cut = read_file(root)
        self._thumbnail = functools.lru_cache(maxsize=_KEPT)(self._make_thumbnail)

    def file(self, path: str) -> Path:
        """Where an image lies, or the frame or recording that a person was cut out of.

        Raises:
            ValueError: outside of the gallery's folder.
            FileNotFoundError: it is gone.
        """
        if self.root is not None and (os.path.isabs(path) or ".." in Path(path).parts):
            raise ValueError("outside of the gallery's folder")
        found = cut_from(self.root, path)
        source = path if found is None else found.source
        if self.root is None:
            return Path(source)
        root, file = os.path.realpath(self.root), os.path.realpath(self.root / source)
        if not self.follow_links and os.path.commonpath([root, file]) != root:
            raise ValueError("a link that leaves the gallery's folder")
        return Path(file)

    def read(self, path: str, size: tuple[int, int] | None = None) -> Image.Image:
        """An image, or a person cut out of a frame, upright RGB; `size` as for `decode_image`."""
        file = self.file(path)
        if cut_from(self.root, path) is not None:
            return self._cut(path)
        return decode_image({"path": str(file), "bytes": None}, path, size)

    def query(self, path: str) -> Path | Image.Image:
        """An image of the gallery as a query takes it."""
        return self.file(path) if cut_from(self.root, path) is None else self.read(path)

    def thumbnail(self, path: str) -> str:
        """An image as a `data:` address of a small JPEG.

        Raises:
            ValueError, OSError: it can't be shown; the text is short.
        """
        file = self.file(path)
        try:
            return self._thumbnail(path, file.stat().st_mtime_ns)
        except OSError:
            raise FileNotFoundError("no longer there") from None

    def _make_thumbnail(self, path: str, _: int) -> str:
        try:
            return data_address(self.read(path, (TALL, WIDE)))
        except (ValueError, ImportError):
            raise ValueError("can't be read") from None


def data_address(image: Image.Image) -> str:
    """An image as a `data:` address of a JPEG of at most `TALL` x `WIDE` pixels, without what its file said."""
    return jpeg_address(image, (WIDE, TALL), quality=82)


def uploaded_image(file: str, name: str) -> Image.Image:
    """What a user sent, upright RGB; opened as every image is: named formats, bounded size, no other program.

    Raises:
        ValueError: it can't be read; the text calls it by `name`.
    """
    try:
        with open_image(file) as opened:
            opened.draft("RGB", (WIDE, TALL))
            return to_rgb(opened)
    # Pillow's plugins raise whatever a broken file leads them to.
    except Exception as error:
        raise ValueError(f"{name} can't be read as an image: {why_unreadable(error)}.") from error


def draw_attention(image: Image.Image, scores: Sequence[float], grid: tuple[int, int]) -> Image.Image:
    """An image with colour over the patches that a model attends to, each as strong as its score by the highest.

    Args:
        image: as the model sees it.
        scores: a patch each, row by row, 0 or more.
        grid: rows and columns of the patches.

    >>> picture = draw_attention(Image.new("RGB", (2, 1), "white"), [0.0, 1.0], (1, 2))
    >>> picture.getpixel((0, 0)), picture.getpixel((1, 0))
    ((255, 255, 255), (255, 147, 51))
    """
    highest = max(*scores, 1e-12)
    # What is covered can't be compared with the words any more.
    strength = bytes(round(0.8 * 255 * max(0.0, score) / highest) for score in scores)
    mask = Image.frombytes("L", (grid[1], grid[0]), strength).resize(image.size, Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGB", image.size, _HEAT), image, mask)


def attention_picture(encoder: Encoder, image: Image.Image) -> Image.Image:
    """An image as the model sees it, with colour over the patches that its image encoder attends to.

    Raises:
        ValueError: the model is an export, which keeps its attention to itself.
    """
    if not isinstance(encoder, TorchEncoder):
        raise ValueError(
            "An exported model does not say where it looks; start the page with the checkpoint: --model CHECKPOINT."
        )
    import torch

    height, width = encoder.processor.image_size
    pixels = encoder.processor(images=[image], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        scores = encoder.model.image_attention_scores(pixels.to(encoder.model.device))[0]
    rows, columns = encoder.model.config.vision_config.grid_size
    seen = image.resize((width, height), Image.Resampling.BICUBIC)
    # Small pictures would be shown blurred.
    scale = max(1, TALL // height)
    seen = seen.resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    return draw_attention(seen, scores.float().cpu().tolist(), (rows, columns))


__all__ = [
    "TALL",
    "WIDE",
    "GalleryPictures",
    "attention_picture",
    "data_address",
    "draw_attention",
    "uploaded_image",
]
