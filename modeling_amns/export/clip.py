"""An AMNS checkpoint in the formats of others, so that their tools read its weights: transformers' CLIP and OpenCLIP.

```python
from modeling_amns.export import export_clip, export_open_clip

export_clip("outputs/quickstart", "exported/clip")  # a square grid only
export_open_clip("outputs/quickstart", "exported/open_clip")
```
"""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from ..clip_names import as_openai
from ..configuration_amns import AMNSConfig, AMNSTextConfig, TextConfig, VisionConfig
from ..disk import refuse_model, whole_folder, whole_model
from ..loading import end_token_id, load_checkpoint
from ..modeling_amns import AMNSModel
from ..open_clip_folders import CONFIG, FILES
from ..processing_amns import AMNSProcessor

# Of the layer norms of CLIP, which OpenCLIP doesn't write down.
_EPSILON = 1e-5


def export_clip(checkpoint: str | Path, folder: str | Path) -> None:
    """Writes a checkpoint as transformers' `CLIPModel` and `CLIPProcessor`, whose features are equal.

    Args:
        checkpoint: an AMNS checkpoint with its processor, folder or Hub id; a run's classifier is left out.
        folder: receives the model, and a processor that resizes whole images, as AMNS does.
    Raises:
        ValueError: the checkpoint is not whole, its encoders are SigLIP's, its grid of patches is none of CLIP's
            (rectangular, or of patches that overlap), or the folder holds a model already.
    """
    model, processor = load_checkpoint(checkpoint, dtype=torch.float32)
    _check(model.config, checkpoint, folder)
    vision = model.config.vision_config
    height, width = vision.image_size
    if height != width or _overlap(model.config):
        raise ValueError(
            f"{checkpoint} has images of {height}x{width} with a patch of {vision.patch_size} every "
            f"{vision.stride or vision.patch_size} pixels; transformers' CLIP has square images and patches side by "
            f"side. {'Export to OpenCLIP, which has rectangles, or l' if height != width else 'L'}oad the checkpoint "
            f"with image_size={min(height, width)} and stride={vision.patch_size}, which resizes its positions, save "
            "it and export that: features then differ, and so may retrieval."
        )
    config = model.config.to_dict()
    encoders = CLIPConfig(
        vision_config=_without(config["vision_config"]),
        text_config=_without(config["text_config"]),
        projection_dim=config["projection_dim"],
    )
    clip = CLIPModel(encoders)
    clip.load_state_dict(model.state_dict())
    with whole_model(folder) as aside:
        clip.save_pretrained(aside)
        CLIPProcessor(_images(processor), processor.tokenizer).save_pretrained(aside)


def export_open_clip(checkpoint: str | Path, folder: str | Path) -> None:
    """Writes a checkpoint as a folder of OpenCLIP: `open_clip_config.json`, weights, tokenizer.

    OpenCLIP has rectangular images. `AMNSModel.from_pretrained` reads the folder back.

    Args:
        checkpoint: an AMNS checkpoint with its processor, folder or Hub id; a run's classifier is left out.
        folder: receives the files.
    Raises:
        ValueError: the checkpoint is not whole, its encoders are SigLIP's, its patches overlap, or it has what
            OpenCLIP's configuration can't say (two activations, another epsilon, texts that end with another token
            than the last of the vocabulary); or the folder holds a model already.
    """
    model, processor = load_checkpoint(checkpoint, dtype=torch.float32)
    _check(model.config, checkpoint, folder)
    settings = {"model_cfg": _settings(model, checkpoint), "preprocess_cfg": _statistics(processor, checkpoint)}
    weights = {name: value.contiguous().clone() for name, value in as_openai(model.state_dict()).items()}
    with whole_folder(folder, last=CONFIG, replaces=FILES) as aside:
        save_file(weights, aside / FILES[0], metadata={"format": "pt"})
        processor.tokenizer.save_pretrained(aside)
        (aside / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _check(config: AMNSConfig, checkpoint: str | Path, folder: str | Path) -> None:
    if not isinstance(config.text_config, AMNSTextConfig):
        raise ValueError(f"{checkpoint} has SigLIP's encoders; only CLIP's have a place in folders of CLIP.")
    refuse_model(folder, ("config.json", CONFIG))


def _overlap(config: AMNSConfig) -> bool:
    vision = config.vision_config
    return vision.stride not in (None, vision.patch_size)


def _settings(model: AMNSModel, checkpoint: str | Path) -> dict[str, Any]:
    """OpenCLIP's `model_cfg`."""
    config = model.config
    vision, text = config.vision_config, config.text_config
    found = None
    if _overlap(config):
        found = f"a patch of {vision.patch_size} pixels every {vision.stride}"
    elif vision.hidden_act != text.hidden_act or vision.hidden_act not in ("gelu", "quick_gelu"):
        found = f"the activations {vision.hidden_act} and {text.hidden_act}"
    elif {vision.layer_norm_eps, text.layer_norm_eps} != {_EPSILON}:
        found = f"layer norms of epsilon {vision.layer_norm_eps} and {text.layer_norm_eps}"
    elif end_token_id(text) != text.vocab_size - 1:
        found = f"texts that end with token {end_token_id(text)} of {text.vocab_size}"
    if found:
        raise ValueError(
            f"{checkpoint} has {found}; OpenCLIP's own transformers have patches side by side, one activation "
            f"(gelu or quick_gelu), epsilon {_EPSILON}, and end a text with the last token."
        )
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": vision.hidden_act == "quick_gelu",
        "vision_cfg": {
            "image_size": vision.to_dict()["image_size"],
            "patch_size": vision.patch_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": _ratio(vision),
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "layers": text.num_hidden_layers,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "mlp_ratio": _ratio(text),
        },
    }


def _ratio(config: VisionConfig | TextConfig) -> float:
    """OpenCLIP cuts width times ratio at the point."""
    ratio = config.intermediate_size / config.hidden_size
    exact = int(config.hidden_size * ratio) == config.intermediate_size
    return ratio if exact else (config.intermediate_size + 0.5) / config.hidden_size


def _statistics(processor: AMNSProcessor, checkpoint: str | Path) -> dict[str, Any]:
    """OpenCLIP's `preprocess_cfg`, whose pixels are always bytes / 255."""
    images = processor.image_processor
    factor, mean, deviation = images.normalization
    interpolation = Image.Resampling(images.resample).name.lower()
    if abs(factor - 1 / 255) > 1e-9 or interpolation not in ("bilinear", "bicubic"):
        raise ValueError(
            f"{checkpoint} has pixels scaled by {factor} and resized by {interpolation}; OpenCLIP scales by 1/255 and "
            "resizes by bilinear or bicubic."
        )
    return {"mean": list(mean), "std": list(deviation), "interpolation": interpolation, "resize_mode": "squash"}


def _images(processor: AMNSProcessor) -> CLIPImageProcessorPil:
    own = processor.image_processor
    names = ("do_resize", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    height, width = processor.image_size
    size = {"height": height, "width": width}
    fields = {name: getattr(own, name) for name in names}
    return CLIPImageProcessorPil(**fields, size=size, crop_size=size, do_center_crop=False)


def _without(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of an encoder without those that only ours have."""
    ours = ("model_type", "stride", "position_interpolation", "_name_or_path", "auto_map")
    return {name: value for name, value in fields.items() if name not in ours}


__all__ = ["export_clip", "export_open_clip"]
