"""What the AMNS models return."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput
from transformers.utils import ModelOutput


@dataclass
class AMNSOutput(CLIPOutput):
    """Output of `AMNSModel`, the fields of transformers' `CLIPOutput`.

    Args:
        loss: symmetric InfoNCE, scalar; with `return_loss=True` only.
        logits_per_image: cosine similarities times `exp(logit_scale)`, of SigLIP plus `logit_bias`: float
            [images, texts].
        logits_per_text: its transpose, float [texts, images].
        text_embeds: L2-normalised text embeddings, float [texts, projection_dim].
        image_embeds: L2-normalised image embeddings, float [images, projection_dim].
        text_model_output: output of the text encoder, its `pooler_output` projected.
        vision_model_output: output of the image encoder, its `pooler_output` projected.
    """


@dataclass
class AMNSPersonRetrievalOutput(ModelOutput):
    """Output of `AMNSForPersonRetrieval`.

    Args:
        image_embeds: L2-normalised image embeddings, float [B, projection_dim].
        text_embeds: L2-normalised text embeddings, float [B, projection_dim].
        image_identity_logits: scores of the training identities, float [B, num_identities]; `None` without classifier.
        text_identity_logits: the same from the text, float [B, num_identities]; `None` without classifier.
        loss, logits_per_image, logits_per_text, text_model_output, vision_model_output: as in `AMNSOutput`; only with
            `return_loss`, `output_hidden_states` or `output_attentions`.
    """

    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    image_identity_logits: Tensor | None = None
    text_identity_logits: Tensor | None = None
    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """As `CLIPOutput`: the outputs of the encoders become tuples too."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


__all__ = ["AMNSOutput", "AMNSPersonRetrievalOutput"]
