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
import html
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer

PREPROCESSING_FILE = "preprocessing.json"
BATCH_SIZE = 32
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


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
        self.tokenizer.enable_truncation(self.text["max_length"])
        self.tokenizer.enable_padding(pad_id=self.text["pad_token_id"])

    def pixels(self, image: Image.Image | str | Path) -> np.ndarray:
        """One image, or its file, resized and normalised: float32 [3, height, width].

        Raises:
            ValueError: the file is there and can't be read; the text names it.
        """
        if not isinstance(image, Image.Image):
            try:
                with Image.open(image) as opened:
                    opened.load()
                    return self.pixels(opened)
            except FileNotFoundError:
                raise
            # Pillow's plugins raise whatever a broken file leads them to.
            except Exception as error:
                raise ValueError(f"Cannot read image {image}: {type(error).__name__}: {error}") from error
        resized = to_rgb(image).resize((self.image["width"], self.image["height"]), self.image["resample"])
        values = np.asarray(resized, dtype=np.float32) * np.float32(self.image["rescale_factor"])
        values = (values - np.float32(self.image["mean"])) / np.float32(self.image["std"])
        return values.transpose(2, 0, 1)

    def tokens(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        """`input_ids` and `attention_mask`, int64 [captions, tokens], padded to the longest."""
        # Unescaped twice, as in OpenAI's CLIP.
        rows = self.tokenizer.encode_batch([html.unescape(html.unescape(caption)).strip() for caption in captions])
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
        """L2-normalised embeddings of captions, in their order: float32 [captions, dimension]."""
        if isinstance(captions, str):
            captions = [captions]
        return self._embed("text", captions, batch_size, self.tokens, lambda caption: caption)

    def _embed(self, encoder, items, batch_size, collate, prepare) -> np.ndarray:
        parts = [np.zeros((0, self.dimension), np.float32)]
        for start in range(0, len(items), batch_size):
            batch = [prepare(item) for item in items[start : start + batch_size]]
            parts += self.sessions[encoder].run(None, collate(batch))
        return np.concatenate(parts)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image in RGB, upright: EXIF rotation applied, 16-bit greys to their upper byte, transparency dropped."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGB")


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
    files = sorted(path for path in options.images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    files = [path for path in files if path.is_file()]
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
    found = []
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
            found += zip(embeds @ query, paths)
    for similarity, path in sorted(found, key=lambda hit: -hit[0])[: options.top]:
        print(f"{similarity:.4f}  {path}")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
