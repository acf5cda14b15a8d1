"""OpenCLIP's folders, local or on the Hub, as `from_pretrained` of configuration, model and processor reads them.

They hold `open_clip_config.json`, weights in OpenCLIP's names and, as a rule, a tokenizer. Folders that hold
transformers' `config.json` too are read by that. `registration` adds these readers; the files that travel beside
weights know nothing of them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils.hub import cached_file

from .configuration_amns import AMNSConfig
from .configuration_base_amns import LOCATION_ARGUMENTS

if TYPE_CHECKING:
    from torch import Tensor

    from .processing_amns import AMNSProcessor

CONFIG = "open_clip_config.json"
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HEAD_WIDTH = 64
# CLIP's byte-pair vocabulary; its last two ids are the start and the end token.
CLIP_VOCABULARY = 49408

# OpenCLIP's own defaults (`CLIPVisionCfg`, `CLIPTextCfg`) of what decides the shape.
_VISION = {"image_size": 224, "patch_size": 16, "width": 768, "layers": 12, "mlp_ratio": 4.0, "head_width": HEAD_WIDTH}
_TEXT = {"context_length": 77, "vocab_size": CLIP_VOCABULARY, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
# Values of other settings that mean CLIP's own encoders; what is off or empty means them too.
_NEUTRAL = {"pool_type": ("tok", "argmax"), "pos_embed_type": ("learnable",), "proj_type": ("linear",)}
# Of training, of poolers and pretrained parts that other settings ask for, and of the tokenizer.
_WITHOUT_EFFECT = ("patch_dropout", "output_tokens", "attn_pooler_", "timm_", "hf_", "tokenizer_", "pad_id", "eos_id")
_WITH_EFFECT = ("timm_model_name", "hf_model_name")


def text_tokens(vocabulary: int) -> dict[str, int]:
    """Ids of the start, end and padding token of a vocabulary of so many tokens, as transformers' CLIP names them."""
    if vocabulary == CLIP_VOCABULARY:
        return {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    # 2 makes transformers pool at the largest id, as all code that writes this layout does.
    return {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}


def read_settings(file: str | Path) -> dict[str, Any]:
    """`open_clip_config.json`, whose encoders are CLIP's own.

    Raises:
        ValueError: it can't be read, or asks for encoders that CLIP has not.
    """
    try:
        settings = json.loads(Path(file).read_text(encoding="utf-8"))
        model = settings["model_cfg"]
        parts = {"vision_cfg": model["vision_cfg"], "text_cfg": model.get("text_cfg") or {}}
        asked = [(f"{part}.{name}", name, value) for part, fields in parts.items() for name, value in fields.items()]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no configuration of OpenCLIP ({type(error).__name__}: {error}).") from error
    for place, name, value in asked:
        shape = (_VISION | _TEXT).get(name)
        known = shape is not None and not (name == "layers" and isinstance(value, list))
        ignored = name.startswith(_WITHOUT_EFFECT) and name not in _WITH_EFFECT
        if value and not (known or ignored or value in _NEUTRAL.get(name, ())):
            raise ValueError(
                f"{file} asks for {place} {str(value)[:60]!r}, which CLIP's own vision transformer and text encoder "
                "have not; only they can be read."
            )
    if not isinstance(model.get("quick_gelu", False), bool):
        raise ValueError(f"{file} has quick_gelu {str(model['quick_gelu'])[:60]!r}, expected true or false.")
    vision, text = encoder_settings(settings)
    for part, given, heads in (("vision_cfg", vision, "head_width"), ("text_cfg", text, "heads")):
        for name in ("width", "layers", heads):
            if isinstance(given[name], bool) or not isinstance(given[name], int) or given[name] < 1:
                raise ValueError(f"{file} has {part}.{name} {str(given[name])[:60]}, expected a whole number above 0.")
        if given["width"] % given[heads]:
            raise ValueError(
                f"{file} has {part}.width {given['width']}, which {part}.{heads} {given[heads]} does not divide."
            )
    return settings


def encoder_settings(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the image and of the text encoder, with OpenCLIP's defaults where they are silent."""
    model = settings["model_cfg"]
    return {**_VISION, **model["vision_cfg"]}, {**_TEXT, **(model.get("text_cfg") or {})}


def read_config(name: str, location: Mapping[str, Any]) -> dict[str, Any] | None:
    """Fields of an `AMNSConfig` from OpenCLIP's folder `name`, or `None` if it is none.

    Args:
        name: folder or Hub id.
        location: what `cached_file` takes besides: cache_dir, revision, token and the like.
    Raises:
        ValueError: its encoders are not CLIP's.
    """
    file = _file(name, CONFIG, location)
    if file is None:
        return None
    settings = read_settings(file)
    model = settings["model_cfg"]
    vision, text = encoder_settings(settings)
    hidden_act = "quick_gelu" if model.get("quick_gelu") else "gelu"
    try:
        config = AMNSConfig(
            vision_config={
                **_tower(vision, hidden_act),
                "num_attention_heads": vision["width"] // vision["head_width"],
                "image_size": vision["image_size"],
                "patch_size": vision["patch_size"],
                "projection_dim": model["embed_dim"],
            },
            text_config={
                **_tower(text, hidden_act),
                "num_attention_heads": text["heads"],
                "vocab_size": text["vocab_size"],
                "max_position_embeddings": text["context_length"],
                **text_tokens(text["vocab_size"]),
                "projection_dim": model["embed_dim"],
            },
            projection_dim=model["embed_dim"],
        )
    except (LookupError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{file} is no configuration of OpenCLIP ({type(error).__name__}: {error}).") from error
    return config.to_dict()


def read_weights(name: str, location: Mapping[str, Any]) -> "dict[str, Tensor] | None":
    """Weights of OpenCLIP's folder `name` under the names of `AMNSModel`, or `None` if it is none.

    Raises:
        ValueError: the file is damaged, holds code, or weights that CLIP has not.
        OSError: there are no weights.
    """
    # The configuration was read before: which of the two files is there needs no further question to the Hub.
    there = {**location, "local_files_only": True, "force_download": False}
    if _file(name, "config.json", there) or not _file(name, CONFIG, there):
        return None
    from .conversion import read_weights as read

    file = next((file for wanted in FILES if (file := _file(name, wanted, location))), None)
    if file is None:
        raise OSError(f"{name} holds {CONFIG}, but neither {' nor '.join(FILES)}.")
    return read(file)


def read_processor(name: str, location: Mapping[str, Any]) -> "AMNSProcessor | None":
    """The processor of OpenCLIP's folder `name`: its statistics, whole images at its size; `None` if it is none.

    The tokenizer is the folder's, or OpenAI's where the folder has none and the vocabulary is CLIP's.
    """
    location = {argument: value for argument, value in location.items() if argument in LOCATION_ARGUMENTS}
    if _file(name, "config.json", location) or (file := _file(name, CONFIG, location)) is None:
        return None
    from transformers import AutoTokenizer

    from .clip_tokenizer import clip_tokenizer
    from .foreign_files import openclip_preprocessing
    from .processing_amns import AMNSImageProcessor, AMNSProcessor

    config = AMNSConfig.from_dict(read_config(name, location) or {})
    height, width = config.image_size
    size = {"height": height, "width": width}
    images = AMNSImageProcessor(**openclip_preprocessing(file), size=size, crop_size=size, do_center_crop=False)
    positions = config.text_config.max_position_embeddings
    if any(_file(name, own, location) for own in ("tokenizer.json", "vocab.json")):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **location)
    elif config.text_config.vocab_size == CLIP_VOCABULARY:
        tokenizer = clip_tokenizer()
    else:
        raise OSError(f"{name} holds no tokenizer, and its vocabulary is not CLIP's.")
    processor = AMNSProcessor(images, tokenizer)
    processor.max_tokens = min(processor.max_tokens, positions)
    return processor


def _tower(fields: Mapping[str, Any], hidden_act: str) -> dict[str, Any]:
    return {
        "hidden_size": fields["width"],
        "intermediate_size": int(fields["width"] * fields["mlp_ratio"]),
        "num_hidden_layers": fields["layers"],
        "hidden_act": hidden_act,
    }


def _file(name: str, file: str, location: Mapping[str, Any]) -> str | None:
    """Where a file of a folder or repository lies, `None` if it holds none."""
    quiet = {
        "_raise_exceptions_for_gated_repo": False,
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    return cached_file(name, file, **location, **quiet)


__all__ = ["encoder_settings", "read_config", "read_processor", "read_settings", "read_weights", "text_tokens"]
