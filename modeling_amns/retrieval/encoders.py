"""What makes vectors of images and sentences: a model of torch, or an exported one, which needs no torch."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ..extras import require
from .arguments import ImageLike, Model, Processor

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn

    from ..export.amns_onnx import OnnxRetrieval
    from ..processing_amns import AMNSProcessor

# Its tokens tell tokenizers apart.
_PROBE = "A woman in a red coat, 25 years old, with 2 black-and-white bags &amp; a hat"
_PREPROCESSING = "preprocessing.json"


@runtime_checkable
class Encoder(Protocol):
    """Images and sentences to vectors of one space.

    Args:
        name: what messages call the model: its folder or its id on the Hub.
        max_tokens: tokens of the longest sentence that is read in full.
    """

    name: str
    dimension: int
    max_tokens: int

    @property
    def identity(self) -> dict[str, Any]:
        """What tells models apart, see `check_same`; JSON."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """L2-normalised, float32 [texts, D]."""

    def embed_images(self, images: Sequence[ImageLike]) -> tuple[np.ndarray, dict[int, str]]:
        """Vectors of images that can be read, and of the others number and fault.

        Args:
            images: paths, PIL images or {"path", "bytes"}.
        Returns:
            L2-normalised, float32 [images that can be read, D], in their order; the fault of each other by its place.
        """

    def token_count(self, text: str) -> int:
        """Tokens of a sentence, at most `max_tokens`."""


class TorchEncoder:
    """An `AMNSModel` and its processor. Several processes share the images of a call; each returns all vectors.

    Args:
        model: on its device.
        processor: its processor.
        batch_size, num_workers: as `embedding.embed_images`.
    """

    def __init__(self, model: "nn.Module", processor: "AMNSProcessor", batch_size: int = 128, num_workers: int = 0):
        from ..export.onnx import preprocessing
        from ..fingerprint import model_fingerprint
        from ..loading import check_fit

        # Of a model for training the part that embeds.
        self.model: Any = getattr(model, "base_model", model)
        check_fit(self.model, processor)
        self.processor, self.batch_size, self.num_workers = processor, batch_size, num_workers
        self.name = str(getattr(model, "name_or_path", "") or type(model).__name__)
        made = preprocessing(self.model, processor, {})
        self.dimension = int(made["embedding"]["dimension"])
        self.max_tokens = int(made["text"]["max_length"])
        tokens = processor(text=[_PROBE], padding=False)["input_ids"][0]
        self.identity = identity(model_fingerprint(model), made, tokens)

    @property
    def long_captions(self) -> str:
        """What becomes of a sentence of more than `max_tokens`: cut, refuse or windows."""
        return self.processor.long_captions

    @long_captions.setter
    def long_captions(self, choice: str) -> None:
        self.processor.long_captions = choice

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`."""
        from ..embedding import embed_texts

        with _fast_on(self.model.device):
            # Who asks is told by `queries.cut_sentences`.
            return embed_texts(self.model, self.processor, list(texts), what=None).numpy()

    def token_count(self, text: str) -> int:
        """See `Encoder`."""
        return len(self.processor(text=[text], padding=False)["input_ids"][0])

    def embed_images(self, images: Sequence[ImageLike]) -> tuple[np.ndarray, dict[int, str]]:
        """See `Encoder`."""
        import datasets

        from ..embedding import embed_images

        feature = datasets.Features({"image": datasets.Image(decode=False)})
        faults = self._shared_faults(images) if process_count() > 1 else {}
        while True:
            good = [image for number, image in enumerate(images) if number not in faults]
            if not good:
                return np.zeros((0, self.dimension), np.float32), faults
            try:
                data = datasets.Dataset.from_dict({"image": [_as_file(image) for image in good]}, features=feature)
                with _fast_on(self.model.device):
                    vectors = embed_images(self.model, self.processor, data, self.batch_size, self.num_workers)
                return vectors.numpy(), faults
            except (ValueError, OSError):
                # Which of them it was is looked for only now: decoding everything twice would cost as much again.
                found = image_faults(images)
                if process_count() > 1 or set(found) <= set(faults):
                    raise
                faults = found

    def _shared_faults(self, images: Sequence[ImageLike]) -> dict[int, str]:
        """The faults of all images, each process looking at its share: none may be left waiting for another."""
        from accelerate.utils import gather_object

        count, own = process_count(), process_index()
        found = image_faults(images[own::count])
        return dict(gather_object([(own + place * count, text) for place, text in found.items()]))


class ExportedEncoder:
    """A folder that `scripts/export.py` wrote, run by onnxruntime: no torch, no transformers.

    Args:
        folder: the export.
        int8: take the quantised encoders.
        batch_size: images at a time.
    """

    def __init__(self, folder: str | Path, int8: bool = False, batch_size: int = 32):
        if process_count() > 1:
            raise ValueError(
                f"{folder}: an exported model is run by one process with all cores; leave out accelerate."
            )
        self.folder, self.int8, self.name, self.batch_size = Path(folder), int8, str(folder), batch_size
        try:
            made = json.loads((self.folder / _PREPROCESSING).read_text(encoding="utf-8"))
            self.dimension = int(made["embedding"]["dimension"])
            self.max_tokens = int(made["text"]["max_length"])
            # As of `TorchEncoder`; folders of before it was written cut.
            self.long_captions = str(made["text"].get("long_captions", "cut"))
            files = [made["models"][encoder]["fp32"] for encoder in ("image", "text")]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder}/{_PREPROCESSING} can't be read ({error}); export the model again.") from error
        self._files, self._made = files, made
        self._encoders: dict[str, OnnxRetrieval] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """See `Encoder`; exports of older versions are known by their files."""
        weights = self._made.get("weights")
        if weights is None:
            digest = hashlib.sha256()
            for name in self._files:
                with open(self.folder / name, "rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
            weights = f"onnx:{digest.hexdigest()}"
        tokens = self._model("text").tokens([_PROBE])["input_ids"][0].tolist()
        return identity(weights, self._made, tokens)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """See `Encoder`."""
        model = self._model("text")
        model.text["long_captions"] = self.long_captions
        return model.embed_texts(list(texts))

    def token_count(self, text: str) -> int:
        """See `Encoder`."""
        return int(self._model("text").tokens([text])["attention_mask"].sum())

    def embed_images(self, images: Sequence[ImageLike]) -> tuple[np.ndarray, dict[int, str]]:
        """See `Encoder`."""
        from ..export.amns_onnx import open_image

        model, faults = self._model("image"), {}
        pixels, parts = [], [np.zeros((0, self.dimension), np.float32)]
        for number, image in enumerate(images):
            try:
                if not isinstance(image, Mapping):
                    pixels.append(model.pixels(image))
                elif image.get("bytes") is None:
                    pixels.append(model.pixels(image["path"]))
                else:
                    with open_image(image["bytes"]) as opened:
                        pixels.append(model.pixels(opened))
            # Pillow's plugins raise whatever a broken file leads them to.
            except Exception as error:
                faults[number] = str(error)
            if len(pixels) == self.batch_size:
                parts += model.sessions["image"].run(None, {"pixel_values": np.stack(pixels)})
                pixels = []
        if pixels:
            parts += model.sessions["image"].run(None, {"pixel_values": np.stack(pixels)})
        return np.concatenate(parts), faults

    def _model(self, encoder: str) -> "OnnxRetrieval":
        """The encoder that is needed: reading the other would take as long again."""
        if encoder not in self._encoders:
            require("onnxruntime", "onnx", "Running an exported model")
            from ..export.amns_onnx import OnnxRetrieval

            try:
                self._encoders[encoder] = OnnxRetrieval(self.folder, self.int8, encoders=(encoder,))
            except OSError:
                raise
            # Of files that were not copied in full onnxruntime and tokenizers each complain in their own way.
            except Exception as error:
                raise ValueError(
                    f"{self.folder}: the {encoder} encoder can't be read, was it copied in full? "
                    f"{type(error).__name__}: {error}"
                ) from error
        return self._encoders[encoder]


def open_encoder(model: Model, processor: Processor = None, batch_size: int = 128, num_workers: int = 0) -> Encoder:
    """The encoder that a user's arguments stand for.

    Args:
        model: an `AMNSModel`; a checkpoint's folder or its id on the Hub; the folder of an export; an `Encoder`.
        processor: of an `AMNSModel`.
        batch_size: images at a time.
        num_workers: processes that decode images, for a model of torch.
    Raises:
        ValueError, OSError: there is no such model, or it can't be read.
    """
    if isinstance(model, (str, Path)):
        if (Path(model) / _PREPROCESSING).is_file():
            if num_workers:
                raise ValueError(f"{model}: an exported model decodes images itself; leave out num_workers.")
            return ExportedEncoder(model, batch_size=batch_size)
        from accelerate import PartialState

        from ..loading import load_checkpoint

        loaded, processor = load_checkpoint(model)
        encoder = TorchEncoder(loaded.to(PartialState().device), processor, batch_size, num_workers)
        encoder.name = str(Path(model).resolve()) if Path(model).exists() else str(model)
        return encoder
    if isinstance(model, Encoder):
        return model
    if processor is None:
        raise ValueError("A model needs its processor: pass both, or the folder of their checkpoint.")
    return TorchEncoder(model, processor, batch_size, num_workers)


def identity(weights: str, made: Mapping[str, Any], tokens: Sequence[int]) -> dict[str, Any]:
    """What tells models apart: their weights, how pixels and tokens are made, and the dimension.

    Args:
        weights: their fingerprint.
        made: what an export's `preprocessing.json` holds.
        tokens: of the probe.
    """
    pixels = {name: made["image"][name] for name in ("height", "width", "resample", "rescale_factor", "mean", "std")}
    return {
        "weights": weights,
        "preprocessing": {**pixels, "max_tokens": made["text"]["max_length"], "probe": list(map(int, tokens))},
        "dimension": made["embedding"]["dimension"],
    }


def check_same(stored: Mapping[str, Any], encoder: Encoder, gallery: str, stored_name: str) -> None:
    """A ValueError if a gallery's vectors are not this model's; the text says what to do."""
    found = json.loads(json.dumps(encoder.identity))
    differing = [name for name in ("dimension", "preprocessing", "weights") if stored.get(name) != found[name]]
    if differing:
        what = {"weights": "other weights", "preprocessing": "other preprocessing", "dimension": "another dimension"}
        raise ValueError(
            f"{gallery} was embedded by another model ({stored_name}); {encoder.name} has {what[differing[0]]}. "
            "Search it with that model, or index the images anew with this one in another gallery."
        )


def image_faults(images: Sequence[ImageLike]) -> dict[int, str]:
    """What is wrong with each image that can't be read, by its place."""
    from concurrent.futures import ThreadPoolExecutor

    from ..data.images import decode_image

    def fault(image: ImageLike) -> str | None:
        try:
            decode_image({"path": str(image), "bytes": None} if isinstance(image, (str, Path)) else image)
        except (ValueError, OSError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {number: text for number, text in enumerate(pool.map(fault, images)) if text is not None}


def end_processes() -> None:
    """Ends the group of the processes that `accelerate launch` started; left to the interpreter it can abort it."""
    if process_count() > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()


def process_count() -> int:
    """Processes that `accelerate launch` started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_index() -> int:
    """Which of them this is."""
    return int(os.environ.get("RANK", "0"))


def _as_file(image: ImageLike) -> "Mapping[str, object] | Image.Image":
    from ..image_modes_amns import to_rgb

    if isinstance(image, (str, Path)):
        return {"path": str(image), "bytes": None}
    # Files that hold every mode of Pillow there are not.
    return image if isinstance(image, Mapping) else to_rgb(image)


@contextlib.contextmanager
def _fast_on(device: "torch.device") -> Iterator[None]:
    """bfloat16 products on an accelerator that has them: half the time, and the third digit of a score."""
    import torch

    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        with torch.autocast("cuda", torch.bfloat16):
            yield
    else:
        yield


__all__ = [
    "Encoder",
    "ExportedEncoder",
    "TorchEncoder",
    "check_same",
    "end_processes",
    "image_faults",
    "open_encoder",
    "process_count",
    "process_index",
]
