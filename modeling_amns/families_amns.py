"""The encoder families: of which classes a dual encoder consists, by its configuration, and what lies between them.

A family more is a configuration and a file of encoders, and an entry here.
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from .configuration_amns import AMNSConfig, AMNSSiglipVisionConfig, AMNSVisionConfig, VisionConfig
from .siglip_amns import AMNSSiglipTextModel, AMNSSiglipVisionModel
from .text_amns import AMNSTextModel
from .vision_amns import AMNSVisionModel

VisionModel: TypeAlias = AMNSVisionModel | AMNSSiglipVisionModel
TextModel: TypeAlias = AMNSTextModel | AMNSSiglipTextModel


@dataclass(frozen=True)
class Family:
    """One family.

    Args:
        vision_model, text_model: the encoders.
        projects: linear layers beside the encoders lead into the shared space; else the encoders' own heads do.
        logit_bias: start of the bias of the logits; `None` means that there is none.
    """

    vision_model: type[VisionModel]
    text_model: type[TextModel]
    projects: bool = True
    logit_bias: float | None = None

    def projection(self, width: int, config: AMNSConfig) -> nn.Module:
        """From an encoder's pooled output, so wide, into the shared space."""
        return nn.Linear(width, config.projection_dim, bias=False) if self.projects else nn.Identity()

    def logit_parameters(self, config: AMNSConfig) -> tuple[nn.Parameter, nn.Parameter | None]:
        """Scale and bias of the logits, in the shapes of the family's checkpoints."""
        scale = torch.tensor(config.logit_scale_init_value)
        if self.logit_bias is None:
            return nn.Parameter(scale), None
        return nn.Parameter(scale.reshape(1)), nn.Parameter(torch.full((1,), self.logit_bias))


FAMILIES: dict[type[VisionConfig], Family] = {
    AMNSVisionConfig: Family(AMNSVisionModel, AMNSTextModel),
    # SigLIP's paper starts the bias of its sigmoid at -10.
    AMNSSiglipVisionConfig: Family(AMNSSiglipVisionModel, AMNSSiglipTextModel, projects=False, logit_bias=-10.0),
}

__all__ = ["FAMILIES", "Family", "TextModel", "VisionModel"]
