"""Exports both encoders: ONNX, int8 and `torch.export`, each with any batch size and checked against PyTorch.

```python
from modeling_amns.export import export_onnx

export_onnx(model, processor, "exported", int8=True)  # {"image": 2e-07, "text": 3e-07}, largest deviations
```

The folder then searches without torch and transformers, see `amns_onnx.py`, which is copied into it.
"""

import contextlib
import copy
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..configuration_amns import AMNSConfig
from ..disk import whole_folder, write_whole
from ..evaluation import evaluate_retrieval
from ..extras import require
from ..fingerprint import model_fingerprint
from ..loading import check_fit, end_token_id
from ..modeling_amns import AMNSModel
from ..processing_amns import AMNSProcessor
from ..protocols import Embedder

# Largest difference of an embedding's entry (of a vector of length 1) that an export may show.
TOLERANCE = 1e-4
# A protobuf ends at 2 GiB; weights beyond this go to a file beside the graph.
SINGLE_FILE_BYTES = 1_900_000_000


class ImageEncoder(nn.Module):
    """Normalised images, float32 [B, 3, height, width], to L2-normalised embeddings, float32 [B, D]."""

    def __init__(self, model: AMNSModel):
        super().__init__()
        self.vision_model, self.visual_projection = model.vision_model, model.visual_projection

    def forward(self, pixel_values: Tensor) -> Tensor:
        """As the class says."""
        pooled = self.vision_model(pixel_values=pixel_values).pooler_output
        return nn.functional.normalize(self.visual_projection(pooled), dim=-1)


class TextEncoder(nn.Module):
    """Token ids and their mask, int64 [B, T], to L2-normalised embeddings, float32 [B, D]."""

    def __init__(self, model: AMNSModel):
        super().__init__()
        self.text_model, self.text_projection = model.text_model, model.text_projection

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """As the class says."""
        pooled = self.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
        return nn.functional.normalize(self.text_projection(pooled), dim=-1)


@dataclass
class Encoder:
    """One encoder to export.

    Args:
        module: float32, on the CPU, in eval mode.
        dynamic_shapes: of its inputs, by name, as `torch.export` takes them.
        config: of the model.
    """

    module: nn.Module
    dynamic_shapes: dict[str, dict]
    config: AMNSConfig

    def inputs(self, batch: int, length: int = 9) -> dict[str, Tensor]:
        """Random inputs of the right shapes, by name; captions of `length` tokens, every other one padded."""
        generator = torch.Generator().manual_seed(batch)
        if "pixel_values" in self.dynamic_shapes:
            vision = self.config.vision_config
            shape = (batch, vision.num_channels, *vision.image_size)
            return {"pixel_values": torch.randn(shape, generator=generator)}
        text = self.config.text_config
        length = text.padded_length or min(length, text.max_position_embeddings)
        end = text.vocab_size - 1 if text.padded_length else end_token_id(text)
        ids = torch.randint(3, text.vocab_size - 1, (batch, length), generator=generator)
        ids[ids == end] = 3
        mask = torch.ones_like(ids)
        ids[:, -1] = end
        ids[1::2, length // 2 :] = end
        mask[1::2, length // 2 + 1 :] = 0
        return {"input_ids": ids, "attention_mask": mask}


def encoders(model: AMNSModel) -> dict[str, Encoder]:
    """Both encoders of a model, `image` and `text`, ready to export; the model itself stays as it is."""
    model = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    batch = torch.export.Dim("batch", min=1)
    text = model.config.text_config
    tokens = {0: batch}
    if text.padded_length is None:
        tokens[1] = torch.export.Dim("length", min=2, max=text.max_position_embeddings)
    return {
        "image": Encoder(ImageEncoder(model), {"pixel_values": {0: batch}}, model.config),
        "text": Encoder(TextEncoder(model), {"input_ids": tokens, "attention_mask": tokens}, model.config),
    }


def export_programs(model: AMNSModel) -> dict[str, torch.export.ExportedProgram]:
    """`torch.export` of both encoders, any batch and caption length; store one with `torch.export.save(p, "x.pt2")`.

    Returns:
        `image` (`pixel_values`) and `text` (`input_ids`, `attention_mask`): L2-normalised embeddings, float32 [B, D].
    Raises:
        RuntimeError: an exported program differs from the model by more than `TOLERANCE`.
    """
    programs = {}
    for name, encoder in encoders(model).items():
        programs[name] = torch.export.export(
            encoder.module, (), encoder.inputs(2), dynamic_shapes=encoder.dynamic_shapes
        )
        run = programs[name].module()

        def call(inputs: dict[str, Tensor], run: nn.Module = run) -> Tensor:
            return run(**inputs)

        _largest_deviation(f"torch.export of the {name} encoder", encoder, call)
    return programs


def export_onnx(
    model: AMNSModel, processor: AMNSProcessor, folder: str | Path, int8: bool = False
) -> dict[str, float]:
    """Writes both encoders as ONNX with everything that a program needs to use them.

    Args:
        model: on any device, in any precision; exported in float32.
        processor: its processor.
        folder: receives `image_encoder.onnx`, `text_encoder.onnx` (with `int8` also `*_encoder.int8.onnx`),
            `tokenizer.json`, `preprocessing.json` and `amns_onnx.py`, which uses them.
        int8: also write encoders whose matrices and embeddings are quantised to 8 bits (activations at run time).
    Returns:
        the largest difference between onnxruntime and PyTorch in an entry of an embedding, by encoder.
    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        ValueError: the processor does not make what the model takes.
        RuntimeError: an exported encoder differs from the model by more than `TOLERANCE`.
        modeling_amns.disk.DiskFullError: it does not fit; an earlier export in the folder is as it was.
    """
    check_fit(model, processor)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "onnx", "Export to ONNX")
    from .amns_onnx import PREPROCESSING_FILE

    deviations, files = {}, {}
    # Of an earlier export, which stays whole until this one is.
    earlier = ("*_encoder*.onnx*", "*_encoder.pt2", "export.json")
    with whole_folder(folder, last=PREPROCESSING_FILE, replaces=earlier) as aside:
        for name, encoder in encoders(model).items():
            file = aside / f"{name}_encoder.onnx"
            deviations[name] = _write_onnx(name, encoder, file)
            files[name] = {"fp32": file.name}
            if int8:
                files[name]["int8"] = f"{name}_encoder.int8.onnx"
                _quantize(file, aside / files[name]["int8"], _weight_bytes(encoder.module) > SINGLE_FILE_BYTES)
        # A copy, because a tokenizer remembers how it padded and cut last.
        tokenizer = copy.deepcopy(processor.tokenizer.backend_tokenizer)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.save(str(aside / "tokenizer.json"))
        shutil.copy(Path(__file__).with_name("amns_onnx.py"), aside)
        parameters = {**preprocessing(model, processor, files), "weights": model_fingerprint(model)}
        write_whole(aside / PREPROCESSING_FILE, json.dumps(parameters, indent=2) + "\n")
    return deviations


def preprocessing(model: AMNSModel, processor: AMNSProcessor, files: Mapping[str, Mapping[str, str]]) -> dict:
    """What `preprocessing.json` holds: how pixels and tokens are made, and which files take them."""
    text = processor.tokenizer
    height, width = processor.image_size
    rescale_factor, mean, std = processor.image_processor.normalization
    return {
        "image": {
            "height": height,
            "width": width,
            # Pillow's number of the filter, 3 for bicubic.
            "resample": int(processor.image_processor.resample),
            "rescale_factor": rescale_factor,
            "mean": list(mean),
            "std": list(std),
        },
        "text": {
            "tokenizer": "tokenizer.json",
            "max_length": processor.max_tokens,
            # Of a caption of more: cut, refuse or windows.
            "long_captions": processor.long_captions,
            # Of each caption; null pads to the longest of a batch.
            "padded_length": processor.padded_length,
            "bos_token_id": text.bos_token_id,
            "eos_token_id": text.eos_token_id,
            "pad_token_id": text.pad_token_id,
        },
        "embedding": {"dimension": model.config.projection_dim, "normalized": True},
        "models": {name: dict(variants) for name, variants in files.items()},
    }


class OnnxModel(nn.Module):
    """An exported model under the methods of `AMNSModel` that `evaluate_retrieval` calls, on the CPU."""

    device = torch.device("cpu")

    def __init__(self, folder: str | Path, config: AMNSConfig, int8: bool = False):
        super().__init__()
        require("onnxruntime", "onnx", "Running an exported model")
        from .amns_onnx import OnnxRetrieval

        self.config = config
        self.sessions = OnnxRetrieval(folder, int8).sessions

    @property
    def embedding_dim(self) -> int:
        """Size of the shared space."""
        return self.config.projection_dim

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """L2-normalised embeddings in `pooler_output`."""
        return self._run("image", pixel_values=pixel_values.contiguous())

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutputWithPooling:
        """L2-normalised embeddings in `pooler_output`."""
        return self._run("text", input_ids=input_ids, attention_mask=attention_mask)

    def _run(self, name: str, **inputs: Tensor) -> BaseModelOutputWithPooling:
        [embeds] = self.sessions[name].run(None, {key: value.numpy() for key, value in inputs.items()})
        return BaseModelOutputWithPooling(pooler_output=torch.from_numpy(embeds))


def compare(
    model: AMNSModel,
    processor: AMNSProcessor,
    folder: str | Path,
    split: Mapping[str, datasets.Dataset],
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, dict[str, float]]:
    """Retrieval figures of a model in float32, and of its exports in a folder, on the same split and the same pixels.

    Returns:
        for `PyTorch fp32`, `ONNX fp32` and, where it was exported, `ONNX int8`: `rank1`, `rank5`, `rank10`, `mAP`,
        `mINP` in percent and `megabytes`, the size of the weights or files of both encoders.
    """
    folder = Path(folder)
    model = copy.deepcopy(model).float()
    rows: dict[str, tuple[Embedder, int]] = {
        "PyTorch fp32": (model, sum(_weight_bytes(encoder.module) for encoder in encoders(model).values()))
    }
    for label, suffix in (("ONNX fp32", ".onnx"), ("ONNX int8", ".int8.onnx")):
        # With the file of weights that may lie beside a graph.
        files = [path for name in ("image", "text") for path in folder.glob(f"{name}_encoder{suffix}*")]
        if files:
            onnx_model = OnnxModel(folder, model.config, int8="int8" in suffix)
            rows[label] = (onnx_model, sum(path.stat().st_size for path in files))
    results = {}
    for label, (encoder, size) in rows.items():
        figures = evaluate_retrieval(encoder, processor, split, batch_size, progress=progress)
        results[label] = {**figures, "megabytes": round(size / 1e6, 1)}
    return results


def _write_onnx(name: str, encoder: Encoder, file: Path) -> float:
    import onnxruntime

    with _quiet():
        torch.onnx.export(
            encoder.module,
            (),
            file,
            kwargs=encoder.inputs(2),
            dynamic_shapes=encoder.dynamic_shapes,
            input_names=list(encoder.dynamic_shapes),
            output_names=["embeds"],
            external_data=_weight_bytes(encoder.module) > SINGLE_FILE_BYTES,
            dynamo=True,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, Tensor]) -> Tensor:
        return torch.from_numpy(session.run(None, {key: value.numpy() for key, value in inputs.items()})[0])

    return _largest_deviation(f"{file.name}, run by onnxruntime,", encoder, run)


def _largest_deviation(what: str, encoder: Encoder, run: Callable[[dict[str, Tensor]], Tensor]) -> float:
    """Largest difference from eager at two batch sizes and caption lengths other than those exported with."""
    deviation = 0.0
    with torch.no_grad():
        for batch, length in ((1, 5), (5, 12)):
            inputs = encoder.inputs(batch, length)
            difference = (run(inputs) - encoder.module(**inputs)).abs().max().item()
            deviation = max(deviation, difference)
    if not deviation <= TOLERANCE:
        raise RuntimeError(
            f"{what} differs from PyTorch by {deviation:.2g} in an entry of an embedding, {TOLERANCE:g} is allowed. "
            "Don't use it; the versions that the export is tested with are in constraints.txt."
        )
    return deviation


def _quantize(source: Path, target: Path, external_data: bool) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    # They are inferred anew; onnxruntime 1.23 transposes weights and then trips over the shapes that they had.
    del model.graph.value_info[:]
    with _quiet():
        quantize_dynamic(
            model,
            target,
            # The patch convolution stays float: it is small, and onnxruntime's integer convolution is slow.
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            # Seven bits: processors without VNNI add two products in 16 bits, and eight overflow there in silence.
            reduce_range=True,
            use_external_data_format=external_data,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what the exporters say of themselves: operators of absent torchvision, deprecated internals, advice."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _weight_bytes(module: nn.Module) -> int:
    return sum(4 * parameter.numel() for parameter in module.parameters())


__all__ = [
    "TOLERANCE",
    "Encoder",
    "ImageEncoder",
    "OnnxModel",
    "TextEncoder",
    "compare",
    "encoders",
    "export_onnx",
    "export_programs",
    "preprocessing",
]
