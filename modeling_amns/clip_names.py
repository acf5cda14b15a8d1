"""Names of CLIP's weights: OpenAI's, which OpenCLIP, IRRA and many others kept, and transformers'.

Beside the names, transformers has query, key and value apart, and both projections transposed. Its own
`WeightConverter` is not used: its loader notes the conversion on the model, so that `save_pretrained` would write the
old names back, and it reports keys left over under changed names.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
# Of a block of OpenAI's: the tower, the block, the module in it, the kind.
BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)\.?(weight|bias)")
_BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_TRANSPOSED = ("visual.proj", "text_projection")
# Dimensions of the weights from which the architecture is read, or that are put into another form.
_DIMENSIONS = {
    "visual.class_embedding": 1,
    "visual.conv1.weight": 4,
    "visual.positional_embedding": 2,
    "visual.proj": 2,
    "token_embedding.weight": 2,
    "positional_embedding": 2,
    "text_projection": 2,
}


def as_transformers(encoders: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """OpenAI's names to transformers'; query, key and value apart, projections transposed; and the unknown names.

    Raises:
        ValueError: a weight has another number of dimensions than CLIP's, or none of a size above 0.
    """
    renamed, unknown = {}, []
    for key, value in encoders.items():
        _check_dimensions(key, value)
        module, _, kind = key.rpartition(".")
        block = BLOCK.fullmatch(key)
        if key in _NAMES:
            value = value.T if key in _TRANSPOSED else value
            renamed[_NAMES[key]] = value.reshape(()) if key == "logit_scale" else value
        elif module in _NAMES:
            renamed[f"{_NAMES[module]}.{kind}"] = value
        elif block and block[3] == "attn.in_proj_":
            for part, rows in zip("qkv", value.chunk(3)):
                renamed[f"{_layer(block)}.self_attn.{part}_proj.{block[4]}"] = rows
        elif block and block[3] in _BLOCK_NAMES:
            renamed[f"{_layer(block)}.{_BLOCK_NAMES[block[3]]}.{block[4]}"] = value
        else:
            unknown.append(key)
    return renamed, unknown


def as_openai(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Transformers' names to OpenAI's, as `as_transformers` back: of a whole dual encoder, every tensor contiguous."""
    names = {new: old for old, new in _NAMES.items()}
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        module, _, kind = key.rpartition(".")
        layer = re.fullmatch(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)", module)
        if key in names:
            renamed[names[key]] = value.T.contiguous() if names[key] in _TRANSPOSED else value
        elif module in names:
            renamed[f"{names[module]}.{kind}"] = value
        elif layer is None:
            raise ValueError(f"{key} is no weight of CLIP.")
        else:
            block = f"{'visual.' if layer[1] == 'vision' else ''}transformer.resblocks.{layer[2]}"
            old = next((old for old, new in _BLOCK_NAMES.items() if new == layer[3]), None)
            if old is not None:
                renamed[f"{block}.{old}.{kind}"] = value
            elif layer[3] == "self_attn.q_proj":
                parts = [weights[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
                renamed[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
            elif layer[3] not in ("self_attn.k_proj", "self_attn.v_proj"):
                raise ValueError(f"{key} is no weight of CLIP.")
    return renamed


def _check_dimensions(key: str, value: Tensor) -> None:
    block, expected = BLOCK.fullmatch(key), _DIMENSIONS.get(key)
    if block and (block[3] == "attn.in_proj_" or block[3] in _BLOCK_NAMES):
        expected = 1 if block[4] == "bias" or block[3].startswith("ln_") else 2
    wrong = value.numel() != 1 if key == "logit_scale" else expected is not None and value.dim() != expected
    if wrong or 0 in value.shape:
        wanted = "one value" if key == "logit_scale" else f"{expected or 'some'} dimension(s), none of them empty"
        raise ValueError(f"{key} has the shape {list(value.shape)}, expected {wanted}.")


def _layer(block: re.Match) -> str:
    return f"{'vision' if block[1] else 'text'}_model.encoder.layers.{block[2]}"


__all__ = ["BLOCK", "as_openai", "as_transformers"]
