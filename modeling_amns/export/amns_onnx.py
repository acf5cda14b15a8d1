"""Searches images with a sentence on an exported AMNS model: onnxruntime, Pillow, tokenizers and numpy, nothing else.

`scripts/export.py` copies this file next to the models, so that the folder runs where neither torch nor transformers
is installed. It imports nothing of the package; preprocessing is that of `AMNSProcessor` (tested to be equal).

python exported/amns_onnx.py photos "a woman in a red coat with a black backpack"

```python
import sys

sys.path.insert(0, "exported")  # the folder that scripts/export.py wrote
from amns_onnx import OnnxRetrieval

model = OnnxRetrieval("exported")  # or OnnxRetrieval("exported", int8=True)
paths = ["photos/0.png", "photos/1.png", "photos/2.png"]
gallery = model.embed_images(paths)
query = model.embed_texts(["a woman in a red coat with a black backpack"])
for index in (-(query @ gallery.T)[0]).argsort()[:5]:
    print(f"{(query @ gallery[index])[0]:.3f}  {paths[index]}")
```
"""

import argparse
import contextlib
import functools
import html
import io
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

PREPROCESSING_FILE = "preprocessing.json"
BATCH_SIZE = 32
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
# Pillow decodes these by itself; others it hands to programs, as EPS to Ghostscript. As the processor reads.
IMAGE_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000")
MAX_IMAGE_BYTES = 256 * 2**20
MAX_IMAGE_PIXELS = 80_000_000
# Encoders write about ten. Each costs the time of the whole picture, and a few bytes.
_MAX_SCANS = 100
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
# Rounding may carry a float image in [0, 1] a little beyond its ends.
_SLACK = 1e-3


class OnnxRetrieval:
    """Both encoders of an exported model with their preprocessing.

    Args:
        folder: what `scripts/export.py` wrote.
        int8: take the quantised encoders.
        providers: execution providers of onnxruntime; default the CPU's.
        encoders: which of the two to read.
    Raises:
        FileNotFoundError: the folder is no export, or was exported without `--int8`.
    """

    def __init__(
        self,
        folder: str | Path,
        int8: bool = False,
        providers: Sequence[str] | None = None,
        encoders: Sequence[str] = ("image", "text"),
    ):
        folder = Path(folder)
        if not (folder / PREPROCESSING_FILE).is_file():
            raise FileNotFoundError(f"{folder} has no {PREPROCESSING_FILE}; write it with scripts/export.py.")
        parameters = json.loads((folder / PREPROCESSING_FILE).read_text(encoding="utf-8"))
        self.image, self.text = parameters["image"], parameters["text"]
        self.dimension = parameters["embedding"]["dimension"]
        self.sessions = {}
        for encoder in encoders:
            files = parameters["models"][encoder]
            file = folder / files.get("int8" if int8 else "fp32", "")
            if not file.is_file():
                raise FileNotFoundError(
                    f"{folder} has no {'int8' if int8 else 'fp32'} {encoder} encoder; it has {', '.join(files)}. "
                    "Export it again with scripts/export.py" + (" --int8." if int8 else ".")
                )
            self.sessions[encoder] = onnxruntime.InferenceSession(
                file, providers=list(providers or ["CPUExecutionProvider"])
            )
        self.tokenizer = Tokenizer.from_file(str(folder / self.text["tokenizer"]))
        # A literal end token inside a caption is plain characters and must not end it early.
        self.tokenizer.encode_special_tokens = True
        # Of whole captions: a tokenizer keeps its limit and padding.
        self.whole = Tokenizer.from_str(self.tokenizer.to_str())
        self.whole.encode_special_tokens = True
        self.whole.no_truncation()
        self.whole.no_padding()
        self.tokenizer.enable_truncation(self.text["max_length"])
        # Folders of before it was written pad to the longest.
        self.tokenizer.enable_padding(pad_id=self.text["pad_token_id"], length=self.text.get("padded_length"))

    def pixels(self, image: Image.Image | str | Path) -> np.ndarray:
        """One image, or its file, resized and normalised: float32 [3, height, width].

        Raises:
            ValueError: the file is there and can't be read; the text names it.
        """
        if not isinstance(image, Image.Image):
            try:
                with open_image(image) as opened:
                    return self.pixels(opened)
            except FileNotFoundError:
                raise
            # Pillow's plugins raise whatever a broken file leads them to.
            except Exception as error:
                raise ValueError(f"Cannot read image {image}: {type(error).__name__}: {error}") from error
        resized = to_rgb(image).resize((self.image["width"], self.image["height"]), self.image["resample"])
        # The processor's arithmetic, to the bit: rescaled and normalised in one.
        mean, std = np.array(self.image["mean"]), np.array(self.image["std"])
        scale, shift = np.float32(self.image["rescale_factor"] / std), np.float32(mean / std)
        return (np.asarray(resized, dtype=np.float32) * scale - shift).transpose(2, 0, 1)

    def tokens(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        """`input_ids` and `attention_mask`, int64 [captions, tokens], padded as the text encoder takes them."""
        rows = self.tokenizer.encode_batch([_clean(caption) for caption in captions])
        return {
            "input_ids": np.array([row.ids for row in rows], dtype=np.int64),
            "attention_mask": np.array([row.attention_mask for row in rows], dtype=np.int64),
        }

    def embed_images(self, images: Sequence[Image.Image | str | Path], batch_size: int = BATCH_SIZE) -> np.ndarray:
        """L2-normalised embeddings of images or their files, in their order: float32 [images, dimension]."""
        if isinstance(images, Image.Image | str | Path):
            images = [images]
        return self._embed("image", images, batch_size, lambda batch: {"pixel_values": np.stack(batch)}, self.pixels)

    def embed_texts(self, captions: Sequence[str], batch_size: int = 128) -> np.ndarray:
        """L2-normalised embeddings of captions, in their order: float32 [captions, dimension].

        Those of more tokens than the encoder reads are cut, refused by a ValueError, or read in windows, of which
        theirs is then the mean, normalised again: as the folder's `long_captions` says.
        """
        if isinstance(captions, str):
            captions = [captions]
        # Folders of before it was written cut.
        choice = self.text.get("long_captions", "cut")
        if choice == "cut" or not captions:
            return self._embed("text", captions, batch_size, self.tokens, lambda caption: caption)
        parts = [self._windows(caption) for caption in captions]
        long = [place for place, part in enumerate(parts) if len(part) > 1]
        if choice == "refuse" and long:
            raise ValueError(
                f"Caption {long[0]} has more than the {self.text['max_length']} tokens that the text encoder reads. "
                "Shorten it, or export the model with long_captions cut or windows."
            )
        windows = [window for part in parts for window in part]
        vectors = self._embed("text", windows, batch_size, self._padded, lambda window: window)
        ends = np.cumsum([len(part) for part in parts])
        means = np.stack([part.mean(axis=0) for part in np.split(vectors, ends[:-1])])
        means[long] /= np.linalg.norm(means[long], axis=1, keepdims=True)
        return means

    def _windows(self, caption: str) -> list[list[int]]:
        """A caption's tokens in as few equal windows as hold them, each with start and end, as the processor's."""
        ids = self.whole.encode(_clean(caption)).ids
        start = ids[:1] if ids[:1] == [self.text["bos_token_id"]] else []
        end = ids[len(start) :][-1:] if ids[-1:] == [self.text["eos_token_id"]] else []
        words = ids[len(start) : len(ids) - len(end)]
        room = self.text["max_length"] - len(start) - len(end)
        parts = np.array_split(np.array(words, np.int64), max(1, -(-len(words) // room)))
        return [[*start, *part.tolist(), *end] for part in parts]

    def _padded(self, windows: Sequence[list[int]]) -> dict[str, np.ndarray]:
        length = self.text.get("padded_length") or max(map(len, windows))
        ids = np.full((len(windows), length), self.text["pad_token_id"], np.int64)
        mask = np.zeros_like(ids)
        for row, window in enumerate(windows):
            ids[row, : len(window)], mask[row, : len(window)] = window, 1
        return {"input_ids": ids, "attention_mask": mask}

    def _embed(
        self, encoder: str, items: Sequence[Any], batch_size: int, collate: Callable, prepare: Callable
    ) -> np.ndarray:
        parts = [np.zeros((0, self.dimension), np.float32)]
        for start in range(0, len(items), batch_size):
            batch = [prepare(item) for item in items[start : start + batch_size]]
            parts += self.sessions[encoder].run(None, collate(batch))
        return np.concatenate(parts)


def _clean(caption: str) -> str:
    # Unescaped twice, as in OpenAI's CLIP.
    return html.unescape(html.unescape(caption)).strip()


@contextlib.contextmanager
def open_image(source: str | Path | bytes) -> Iterator[Image.Image]:
    """An image file, or its bytes, opened by Pillow and not yet decoded.

    Raises:
        ValueError: no regular file, too large, or a JPEG made to take hours.
    """
    if not isinstance(source, bytes):
        found = os.stat(source)
        if not stat.S_ISREG(found.st_mode):
            # Reading a pipe or a device may never end.
            raise ValueError("it is no regular file")
        size = found.st_size
    else:
        size = len(source)
    if size > MAX_IMAGE_BYTES:
        raise ValueError(f"it has {size:,} bytes, expected at most {MAX_IMAGE_BYTES:,}")
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    with Image.open(io.BytesIO(data), formats=readable_formats()) as opened:
        width, height = opened.size
        if width * height > MAX_IMAGE_PIXELS:
            raise ValueError(f"it has {width:,} x {height:,} pixels, expected at most {MAX_IMAGE_PIXELS:,} in all")
        if opened.info.get("progressive") and _scans(data) > _MAX_SCANS:
            raise ValueError(f"it has more than {_MAX_SCANS} scans, expected about ten; save it anew")
        yield opened


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


@functools.lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """The formats that are opened, of those that this Pillow knows."""
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image in RGB, upright, as `AMNSProcessor` makes it.

    A camera's rotation is applied, 16-bit greys keep their upper byte, 32-bit integers are bytes if none exceeds 255,
    floats are in [0, 1] or [0, 255], transparency is dropped.

    Raises:
        ValueError: floats that are neither in [0, 1] nor in [0, 255].
    """
    image.load()
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
        for name in _METADATA:
            image.info.pop(name, None)
    if image.mode == "I":
        image = Image.fromarray(_eight_bits(np.asarray(image).clip(0, 65535)))
    elif image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    # Broken blocks make Pillow raise whatever they lead it to; the pixels are fine.
    except Exception:
        return 1


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Greys as bytes, by their type and range."""
    if values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    low, high = values.min(), values.max()
    if values.dtype.kind in "iu":
        return (values if high <= 255 else values >> 8).astype(np.uint8)
    if low >= -_SLACK and (high <= 1 + _SLACK or 2 <= high <= 255 + _SLACK):
        scaled = values.astype(np.float64) * (255 if high <= 1 + _SLACK else 1)
        return np.rint(scaled.clip(0, 255)).astype(np.uint8)
    raise ValueError(f"its values go from {low:g} to {high:g}; floats in [0, 1] or [0, 255] are expected.")


def find_images(folder: Path) -> tuple[list[Path], int]:
    """The images of a folder and its sub-folders by the endings that Pillow reads, and how many files have others."""
    formats = set(readable_formats())
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in formats}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [path for path in files if path.suffix.lower() in endings]
    return found, len(files) - len(found)


def main() -> int:
    """Ranks the images of a folder for a sentence; the models lie next to this file."""
    parser = argparse.ArgumentParser(description="Ranks the images of a folder by how well they fit a sentence.")
    parser.add_argument("images", type=Path, help="folder of images, read with its sub-folders")
    parser.add_argument("sentence")
    parser.add_argument("--top", type=int, default=5, help="how many to print")
    parser.add_argument("--int8", action="store_true", help="use the quantised encoders")
    options = parser.parse_args()
    if options.top < 1:
        parser.error("--top must be 1 or more")
    for stream in (sys.stdout, sys.stderr):
        # Names that the console can't show are escaped; an error here would lose the search.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    files, others = find_images(options.images)
    if others:
        print(f"amns_onnx.py: left out {others} file(s) with endings of no image that can be read.", file=sys.stderr)
    if not files:
        print(f"amns_onnx.py: there are no images in {options.images}.", file=sys.stderr)
        return 1
    try:
        model = OnnxRetrieval(Path(__file__).parent, options.int8)
        query = model.embed_texts([options.sentence])[0]
    # Of a folder that was not copied in full each library complains in its own way.
    except Exception as error:
        print(f"amns_onnx.py: the models can't be read. {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    hits: list[tuple[float, Path]] = []
    for start in range(0, len(files), BATCH_SIZE):
        paths, pixels = [], []
        for path in files[start : start + BATCH_SIZE]:
            try:
                pixels.append(model.pixels(path))
                paths.append(path)
            except (ValueError, FileNotFoundError) as error:
                print(f"amns_onnx.py: left out. {error}", file=sys.stderr)
        if paths:
            [embeds] = model.sessions["image"].run(None, {"pixel_values": np.stack(pixels)})
            hits += zip(embeds @ query, paths)
    for similarity, path in sorted(hits, key=lambda hit: -hit[0])[: options.top]:
        print(f"{similarity:.4f}  {path}")
    return 0 if hits else 1


if __name__ == "__main__":
    sys.exit(main())
