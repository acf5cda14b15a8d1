"""The text encoder of AMNS: CLIP's text transformer, whose words start stronger, and longer tables of positions."""

import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel
from transformers import initialization as init
from transformers.models.clip.modeling_clip import CLIPTextEmbeddings
from typing_extensions import Self

from .configuration_amns import AMNSTextConfig, as_config, check_limit
from .configuration_base_amns import LOCATION_ARGUMENTS, ReadsFamilies
from .pretrained_amns import PartOfDualEncoder

# Of the first positions, which short captions have trained well; Long-CLIP keeps as many.
KEPT_POSITIONS = 20


def stretch_positions(positions: Tensor, length: int, keep_last: bool = False) -> Tensor:
    """A longer table of text positions: the first 20 stay, those behind them are interpolated linearly.

    With L old and N new positions, new position j of 20 to N - 1 lies at 20 + (j - 20) (L - 20) / (N - 20) of the old
    ones; the few beyond the last old one continue the line through the last two. From 77 to 248 these are the numbers
    of Long-CLIP.

    Args:
        positions: embeddings, float [L, D], L at least 22.
        length: N, at least L.
        keep_last: the last position stays the last, and L and N count one less in the formula: of encoders that pool
            the last position, as SigLIP's.
    Returns:
        [N, D], of the same type.
    Raises:
        ValueError: N is smaller than L, or L than 22.
    Source: Long-CLIP (arXiv 2403.15378), knowledge-preserved stretching, as `load_from_clip` of its code has it.
    """
    old = len(positions)
    if length < old:
        raise ValueError(
            f"The text encoder has {old} positions, found max_text_positions {length}; they can only become more. To "
            "read fewer tokens, set max_tokens of the processor."
        )
    if length == old:
        return positions
    if old < KEPT_POSITIONS + 2:
        raise ValueError(
            f"The text encoder has {old} positions, of which the first {KEPT_POSITIONS} would be kept; expected at "
            f"least {KEPT_POSITIONS + 2}, so that there is something to stretch."
        )
    ends = int(keep_last)
    steps = torch.arange(length - KEPT_POSITIONS, device=positions.device, dtype=torch.float64)
    places = KEPT_POSITIONS + steps * ((old - KEPT_POSITIONS - ends) / (length - KEPT_POSITIONS - ends))
    before = places.floor().long().clamp(max=old - 2)
    share = (places - before)[:, None]
    wide = positions.double()
    stretched = wide[before] * (1 - share) + wide[before + 1] * share
    return torch.cat([positions[:KEPT_POSITIONS], stretched.to(positions.dtype)])


@torch.no_grad()
def resize_text_positions(text_model: nn.Module, length: int) -> None:
    """Gives a text encoder of CLIP's or SigLIP's kind more positions, in place; errors as of `stretch_positions`.

    Args:
        text_model: with `embeddings`, and `config`, which follows.
        length: positions.
    """
    model: Any = text_model
    embeddings, config = model.embeddings, model.config
    table = embeddings.position_embedding
    if length == config.max_position_embeddings:
        return
    check_limit("max_position_embeddings", length)
    if table.weight.is_meta:
        raise ValueError(
            f"The text encoder's {len(table.weight)} positions can't be stretched to {length} while they are "
            "offloaded. Load the model without device_map, save it with its new positions, and offload that."
        )
    weight = stretch_positions(table.weight.data, length, keep_last=config.padded_length is not None)
    config.max_position_embeddings = length
    # The module stays: hooks of accelerate may hang on it.
    table.weight = nn.Parameter(weight.contiguous(), requires_grad=table.weight.requires_grad)
    table.num_embeddings = length
    ids = torch.arange(length, device=weight.device).expand((1, -1))
    embeddings.position_ids = nn.Buffer(ids, persistent=False)


class AMNSTextModel(PartOfDualEncoder, CLIPTextModel):
    """Text encoder: transformers' CLIP text transformer.

    `from_pretrained` takes a folder of its own, of CLIP's text encoder, or of a dual encoder of AMNS, CLIP, OpenCLIP.
    """

    config: AMNSTextConfig
    part_name = "text_model"

    def __init__(self, config: AMNSTextConfig):
        super().__init__(as_config(config, AMNSTextConfig))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *model_args: Any, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """As `PreTrainedModel`; of OpenCLIP's folders too."""
        name, read = pretrained_model_name_or_path, ReadsFamilies.weights_elsewhere
        if name is not None and read is not None:
            location = {key: kwargs[key] for key in LOCATION_ARGUMENTS if key in kwargs}
            config = kwargs.get("config") or AMNSTextConfig.from_pretrained(name, **location)
            weights = read(str(name), location)
            if weights is not None:
                name, kwargs = None, {**kwargs, "config": config, "state_dict": weights}
        return super().from_pretrained(name, *model_args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CLIPTextEmbeddings):
            # CLIP starts words as weak as positions (0.02), and the first layer's output, some ten times stronger,
            # drowns both: a small model then takes epochs to learn which words stand in a caption.
            init.normal_(module.token_embedding.weight, std=0.2 * self.config.initializer_factor)


AMNSTextModel.register_for_auto_class("AutoModel")

__all__ = ["KEPT_POSITIONS", "AMNSTextModel", "resize_text_positions", "stretch_positions"]
