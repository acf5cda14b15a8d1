"""Layouts of checkpoints of other projects: whose a file is, by its keys, and its encoders under the names of CLIP.

The rule: a tensor of an encoder is used or the file is refused. What may be left behind is known by name (heads that
serve training, the token selection of RDE), or stands beside an encoder that has a name of its own.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .foreign_files import some

# IRRA and those who started from its code train with a fixed temperature that their files don't hold.
PEER_TEMPERATURE = 0.02

_ANCHOR = "visual.class_embedding"
# What OpenAI's archives carry beside the weights.
_OPENAI_MARKS = {"input_resolution", "context_length", "vocab_size"}
# OpenCLIP's CustomTextCLIP and TBPS-CLIP put the text encoder under a name of its own.
_TBPS_TEXT = "encode_text."
_TEXT_PREFIXES = ("text.", _TBPS_TEXT)
# Long-CLIP (model/model_longclip.py) takes the first rows of one table of positions, all others of a second one.
_SECOND_TABLE, _FROM_FIRST = "positional_embedding_res", 20
# IRRA's and RDE's classes, which their followers kept.
_TOKEN_SELECTION = re.compile(r"(visul|texual)_emb_layer\.")
# Beside the encoders, and no part of a feature: heads of IRRA and TBPS-CLIP, OpenCLIP's bias of the sigmoid loss and
# causal mask.
_HEADS = re.compile(
    r"(classifier|cross_attn|cross_modal_transformer|ln_pre_[it]|ln_post|mlm_head|simclr_mlp|(visul|texual)_emb_layer)\."
    r"|(logit_bias|attn_mask|input_resolution|context_length|vocab_size)$"
)
# Beside an encoder under a name of its own, all but these may be left behind.
_CHANGES_FEATURES = re.compile(r"(\w*proj|(.*\.)?\w*(adapter|prompt|lora))\w*(\.|$)", re.IGNORECASE)
# What other models are, by a part of each of two keys.
_OTHERS = (
    (("visual.layer1.", ""), "a ResNet, only CLIP's vision transformers can be converted"),
    (("visual.trunk.", ""), "a timm image encoder, only CLIP's own vision transformers can be converted"),
    (("visual.blocks.", "visual.patch_embed."), "EVA-CLIP, whose blocks are not CLIP's (rotary positions, SwiGLU)"),
    (("image_encoder.", "text_encoder."), "PLIP: BERT beside a ResNet, ViT or Swin of its own, not CLIP's encoders"),
    (("vision_encoder.", "text_encoder."), "APTM or another of X-VLM's family: Swin beside BERT, not CLIP's encoders"),
    (
        ("visual_encoder.", "text_encoder."),
        "RaSa or another of ALBEF's family: a ViT beside a BERT that looks at the image, not CLIP's encoders",
    ),
    (
        ("vision_model.embeddings.", ""),
        "transformers' layout without its configuration; pass the folder with config.json",
    ),
)
# Inside CLIP's encoders.
_ADDITIONS = (
    (re.compile(r"lora_", re.IGNORECASE), "LoRA adapters; merge them into the weights before you save"),
    (re.compile(r"adapt", re.IGNORECASE), "adapters in its blocks"),
    (re.compile(r"prompt|\bctx\b", re.IGNORECASE), "learned prompts"),
    (re.compile(r"transformer\.(embeddings|encoder)\."), "a text encoder of transformers' (BERT's kind)"),
    (re.compile(r"text_decoder\."), "a text decoder as CoCa"),
)


class Origin(NamedTuple):
    """What is known of a file by whose it is.

    Attributes:
        hidden_act: activation; `None` if the keys don't tell.
        temperature: that it was trained with, where the file doesn't hold it.
        preprocessing: fields of an image processor that differ from OpenAI's.
        note: what a reader has to know.
    """

    hidden_act: str | None = None
    temperature: float | None = None
    preprocessing: Mapping[str, Any] = {}
    note: str = ""


# Bilinear, as torchvision's `Resize` is.
_IRRA = Origin("quick_gelu", PEER_TEMPERATURE, {"resample": Image.Resampling.BILINEAR})
_RDE = _IRRA._replace(
    note="Half of the similarity is left behind: RDE, CECA and ICL rank by the sum of a global similarity and one of "
    "selected tokens (visul_emb_layer, texual_emb_layer). This model has the global one: compare it with their "
    "figures for that half (BGE), not with those of the sum (BGE+TSE)."
)
# By misc/data.py of its code: ImageNet's statistics, bicubic, whole images.
_TBPS_CLIP = Origin(
    "quick_gelu", preprocessing={"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD}
)


class Encoders(NamedTuple):
    """The encoders of a file.

    Attributes:
        tensors: by the names of OpenAI's CLIP, in the order of the file.
        left_over: names in the file of what is no part of them.
        origin: what is known of it.
    """

    tensors: dict[str, Tensor]
    left_over: list[str]
    origin: Origin


def read_encoders(tensors: Mapping[str, Tensor]) -> Encoders:
    """The encoders in a state dict.

    Raises:
        ValueError: it is of another model, holds several encoders, or tensors of an encoder that CLIP has not.
    """
    prefix = _encoder_prefix(tensors)
    inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    beside = [key for key in tensors if not key.startswith(prefix)]
    refuse_unknown(key for key in beside if _CHANGES_FEATURES.match(key))
    heads = [key for key in inside if _HEADS.match(key)]
    encoders: dict[str, Tensor] = {}
    for key in (key for key in inside if key not in heads):
        name = next((key.removeprefix(text) for text in _TEXT_PREFIXES if key.startswith(text)), key)
        if name in encoders:
            raise ValueError(f"holds two text encoders, both have {name}. Save the one you want by itself.")
        encoders[name] = inside[key]
    if _SECOND_TABLE in encoders:
        encoders["positional_embedding"] = _one_table(
            encoders.get("positional_embedding"), encoders.pop(_SECOND_TABLE)
        )
    return Encoders(encoders, beside + [prefix + key for key in heads], _origin(prefix, tensors))


def refuse_unknown(names: Iterable[str]) -> None:
    """A ValueError for tensors of encoders that CLIP has not, which says what they are where their names tell."""
    names = list(names)
    if not names:
        return
    kind = next((text for pattern, text in _ADDITIONS if any(pattern.search(name) for name in names)), "")
    raise ValueError(
        f"the encoders have {len(names)} weights that CLIP's ViT has not ({some(names)}){kind and ': ' + kind}; "
        "without them the features would differ. Only models of CLIP's shape can be converted; if these serve "
        "training alone, save the state dict without them."
    )


def _one_table(first: Tensor | None, second: Tensor) -> Tensor:
    """Positions of Long-CLIP, whose two tables [248, width] never apply to the same one."""
    if first is None or first.shape != second.shape or len(second) <= _FROM_FIRST:
        shapes = f"{None if first is None else list(first.shape)} and {list(second.shape)}"
        raise ValueError(f"Long-CLIP's two tables of positions must have one shape, longer than 20; found {shapes}.")
    return torch.cat([first[:_FROM_FIRST], second[_FROM_FIRST:].to(first.dtype)])


def _origin(prefix: str, tensors: Iterable[str]) -> Origin:
    names = set(tensors)
    if prefix.endswith("base_model."):
        return _RDE if any(_TOKEN_SELECTION.match(name) for name in names) else _IRRA
    if any(name.startswith(prefix + _TBPS_TEXT) for name in names):
        return _TBPS_CLIP
    known = prefix + _SECOND_TABLE in names or names >= _OPENAI_MARKS
    return Origin("quick_gelu" if known else None)


def _encoder_prefix(tensors: Mapping[str, Tensor]) -> str:
    """What stands before `visual.class_embedding`: nothing in CLIP and OpenCLIP, `base_model.` in IRRA and RDE."""
    found = [key[: -len(_ANCHOR)] for key in tensors if key == _ANCHOR or key.endswith("." + _ANCHOR)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"holds several image encoders, under {some(found)}. Save the one you want by itself.")
    for marks, kind in _OTHERS:
        if all(any(mark in key for key in tensors) for mark in marks):
            raise ValueError(f"this is {kind}.")
    raise ValueError(
        f"no key ends with {_ANCHOR}, so this is no file of CLIP, OpenCLIP, Long-CLIP, TBPS-CLIP, IRRA, RDE or "
        f"their like; found {some(tensors)}."
    )


__all__ = ["PEER_TEMPERATURE", "Encoders", "Origin", "read_encoders", "refuse_unknown"]
