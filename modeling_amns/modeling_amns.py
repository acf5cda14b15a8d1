"""The AMNS dual encoder: CLIP or SigLIP with rectangular images, dropped patches and the attention that pools them.

Method: AMNS (arXiv 2409.06385). Parameter names are those of transformers' `CLIPModel` or `SiglipModel`, so
checkpoints of either load into the other at the same position grid.
"""

import importlib
import os
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import CLIPModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.dynamic_module_utils import custom_object_save
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import (
    CLIPPreTrainedModel,
    image_text_contrastive_loss,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple

from .configuration_amns import AMNSConfig, as_config
from .families_amns import FAMILIES, TextModel, VisionModel
from .outputs_amns import AMNSOutput, AMNSPersonRetrievalOutput
from .pretrained_amns import LoadsItsGrid, PartOfDualEncoder
from .text_amns import AMNSTextModel, resize_text_positions
from .vision_amns import AMNSImageTower, AMNSVisionModel

logger = logging.get_logger(__name__)


class AMNSPreTrainedModel(LoadsItsGrid, CLIPPreTrainedModel):
    """Loading, saving and initialisation shared by the AMNS models."""

    config: AMNSConfig
    base_model_prefix = "amns"
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "AMNSVisionEmbeddings"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, IdentityClassifier):
            module.reset_parameters()
            return
        if isinstance(module, AMNSModel) and isinstance(module.visual_projection, nn.Identity):
            # transformers would start the projections of CLIP; encoders start theirs.
            return
        super()._init_weights(module)

    def post_init(self) -> None:
        """As `PreTrainedModel`, but a weight of an encoder that has no place here is reported."""
        super().post_init()
        # transformers takes over from the encoders what each leaves out when it is loaded alone: all of the other.
        ignored = set(self._keys_to_ignore_on_load_unexpected or [])
        for module in self.modules():
            if isinstance(module, PartOfDualEncoder):
                ignored -= set(type(module)._keys_to_ignore_on_load_unexpected or [])
        self._keys_to_ignore_on_load_unexpected = ignored

    def save_pretrained(
        self, save_directory: str | os.PathLike, is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """As `PreTrainedModel`; the Auto classes of the folder give the dual encoder, with the package or without."""
        if is_main_process:
            os.makedirs(save_directory, exist_ok=True)
            config: Any = self.config
            custom_object_save(getattr(self, self.base_model_prefix, self), save_directory, config=config)
            # Of the pipeline that cards name; `register_for_auto_class` takes one Auto class for each of ours.
            config.auto_map["AutoModelForZeroShotImageClassification"] = config.auto_map["AutoModel"]
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)

    def _get_files_timestamps(self, working_dir: str | os.PathLike) -> dict[str, float]:
        # transformers uploads what changed since; the code was copied a moment before.
        found = super()._get_files_timestamps(working_dir)
        return {name: changed for name, changed in found.items() if not name.endswith("_amns.py")}

    # transformers' is an object of `functools.wraps`, whose type no method has.
    def push_to_hub(self, *args: Any, **kwargs: Any) -> object:  # type: ignore[override]
        """As `PreTrainedModel`; with the package installed the card is the package's, which has no figures here: those
        of a run are pushed by its trainer or by `modeling_amns.hub.push_checkpoint`."""
        try:
            # By name: this file is copied beside weights and must not need the rest of the package there.
            repository = importlib.import_module("modeling_amns.repository")
        except ModuleNotFoundError:
            return super().push_to_hub(*args, **kwargs)
        return repository.push_model(self, *args, **kwargs)

    @classmethod
    def _as_stored(cls, config: PreTrainedConfig, stored: PreTrainedConfig) -> PreTrainedConfig:
        if isinstance(config, AMNSConfig) and isinstance(stored, AMNSConfig):
            config.num_identities = stored.num_identities or config.num_identities
            config.text_config.max_position_embeddings = stored.text_config.max_position_embeddings
        return super()._as_stored(config, stored)

    def _become(self, config: PreTrainedConfig, info: dict[str, Any]) -> None:
        super()._become(config, info)
        before = _classifier_shapes(self)
        if isinstance(config, AMNSConfig):
            self.resize_identities(config.num_identities)
            self.resize_text_positions(config.text_config.max_position_embeddings)
        after = _classifier_shapes(self)
        if info and before != after:
            # Left out of the checkpoint, as its shape is another, and so missing from the model.
            info["missing_keys"] |= after.keys()
            info["unexpected_keys"] |= before.keys() - after.keys()
            info["mismatched_keys"] |= {(name, before[name], after[name]) for name in before.keys() & after.keys()}

    def resize_text_positions(self, length: int) -> None:
        """Gives the text encoder more positions, in place; the processor's `max_tokens` has to follow.

        Args:
            length: positions, at least as many as there are. The first 20 stay, the others are stretched
                (`text_amns.stretch_positions`).
        Raises:
            ValueError: there are more of them now, too few to stretch, or they are offloaded.
        """
        dual: Any = getattr(self, self.base_model_prefix, self)
        resize_text_positions(dual.text_model, length)

    def resize_identities(self, num_identities: int) -> None:
        """Sets how many training identities the classifier tells apart; `AMNSModel` has none and only notes it."""
        self.config.num_identities = num_identities


class AMNSModel(AMNSPreTrainedModel, CLIPModel):
    """Dual encoder for text-to-image person retrieval, `CLIPModel`'s interface plus `keep_indices`.

    Its encoders are those of the family that the configuration names (`families_amns`), CLIP's or SigLIP's.

    ```python
    >>> import torch
    >>> from modeling_amns import AMNSConfig, AMNSModel
    >>> tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> vision = {**tiny, "image_size": [64, 32]}
    >>> model = AMNSModel(AMNSConfig(vision_config=vision, text_config=tiny, projection_dim=16))
    >>> features = model.get_image_features(torch.zeros(1, 3, 64, 32), keep_indices=torch.tensor([[0, 3, 5]]))
    >>> features.pooler_output.shape, features.last_hidden_state.shape
    (torch.Size([1, 16]), torch.Size([1, 4, 32]))

    ```
    """

    _keys_to_ignore_on_load_unexpected = [r"classifier\..*"]

    vision_model: VisionModel
    text_model: TextModel
    # Linear in CLIP, the identity where encoders project by themselves.
    visual_projection: nn.Module  # type: ignore[assignment]
    text_projection: nn.Module  # type: ignore[assignment]

    def __init__(self, config: AMNSConfig):
        config = as_config(config, AMNSConfig)
        CLIPPreTrainedModel.__init__(self, config)
        self.projection_dim = config.projection_dim
        self.text_embed_dim = config.text_config.hidden_size
        self.vision_embed_dim = config.vision_config.hidden_size
        family = FAMILIES[type(config.vision_config)]
        self.text_model = family.text_model._from_config(config.text_config)
        self.vision_model = family.vision_model._from_config(config.vision_config)
        self.visual_projection = family.projection(self.vision_embed_dim, config)
        self.text_projection = family.projection(self.text_embed_dim, config)
        # The bias, of SigLIP's sigmoid, changes no ranking and no softmax: kept for whoever reads chances off logits.
        self.logit_scale, self.logit_bias = family.logit_parameters(config)
        self.post_init()

    @property
    def embedding_dim(self) -> int:
        """Size of the shared space."""
        return self.config.projection_dim

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the patches."""
        return self.config.vision_config.grid_size

    @property
    def patch_and_stride(self) -> tuple[int, int]:
        """Side of a patch, and the step from one to the next, in pixels."""
        vision = self.config.vision_config
        return vision.patch_size, vision.stride or vision.patch_size

    @property
    def attended_layers(self) -> int:
        """Layers whose attention scores patches; see `image_attention_scores`."""
        return self.vision_model.attended_layers

    def image_side(self) -> AMNSImageTower:
        """Image encoder and projection as one module, shared and not copied: what a teacher averages."""
        return AMNSImageTower(self.vision_model, self.visual_projection)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool | None = False,
        keep_indices: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Image embeddings, not normalised, in `pooler_output` [B, projection_dim]; arguments as `AMNSVisionModel`."""
        outputs = self.vision_model(
            pixel_values=pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            keep_indices=keep_indices,
            return_dict=True,
            **kwargs,
        )
        outputs.pooler_output = self.visual_projection(outputs.pooler_output)
        return outputs

    def image_attention_scores(self, pixel_values: Tensor, last_layers: int | None = None) -> Tensor:
        """Attention of the pooled token to each patch, averaged over layers and heads: float32 [B, patches].

        Without gradient; see `cls_attention` of the image encoder.
        """
        return self.vision_model.cls_attention(pixel_values, last_layers)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool | None = False,
        keep_indices: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> AMNSOutput:
        """Embeds images and texts and compares them all; arguments and output as `CLIPModel`, plus `keep_indices`.

        Other than in `CLIPModel`, one of both may be left out; its fields and the logits are `None` then.

        Args:
            input_ids: token ids, int64 [texts, tokens], each row with an end token.
            pixel_values: normalised images, float [images, 3, height, width].
            attention_mask: 1 for tokens, 0 for padding, [texts, tokens].
            keep_indices: patches that are encoded, without CLS, int64 [images, K]; `None` means all.
        """
        if pixel_values is None and input_ids is None or return_loss and (pixel_values is None or input_ids is None):
            raise ValueError("AMNSModel needs pixel_values or input_ids, and both of them for return_loss=True.")
        vision = text = image_embeds = text_embeds = logits_per_text = None
        if pixel_values is not None:
            vision = self.get_image_features(
                pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, keep_indices=keep_indices, **kwargs
            )
            image_embeds = nn.functional.normalize(vision.pooler_output, dim=-1)
        if input_ids is not None:
            text = self.get_text_features(
                input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
            )
            text_embeds = nn.functional.normalize(text.pooler_output, dim=-1)
        if image_embeds is not None and text_embeds is not None:
            logits_per_text = text_embeds @ image_embeds.T.to(text_embeds.device)
            logits_per_text = logits_per_text * self.logit_scale.exp().to(text_embeds.device)
            if self.logit_bias is not None:
                logits_per_text = logits_per_text + self.logit_bias.to(text_embeds.device)
        return AMNSOutput(
            loss=image_text_contrastive_loss(logits_per_text) if return_loss and logits_per_text is not None else None,
            logits_per_image=None if logits_per_text is None else logits_per_text.T,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            # CLIPOutput knows no missing half.
            text_model_output=cast(BaseModelOutputWithPooling, text),
            vision_model_output=cast(BaseModelOutputWithPooling, vision),
        )


class AMNSForPersonRetrieval(AMNSPreTrainedModel):
    """`AMNSModel` under `amns`, plus the identity classifier that only training needs.

    The classifier is one linear layer over the training identities, shared by both modalities and fed with the
    unnormalised embeddings (dual-path identity loss, arXiv 1711.05535). Its checkpoint loads into `AMNSModel` as it
    is.
    """

    def __init__(self, config: AMNSConfig):
        config = as_config(config, AMNSConfig)
        super().__init__(config)
        self.amns = AMNSModel(config)
        self.classifier = _classifier(config)
        self.post_init()

    def resize_identities(self, num_identities: int) -> None:
        """Replaces the classifier by a new one when the number of identities differs."""
        if num_identities == self.config.num_identities:
            return
        self.config.num_identities = num_identities
        old = self.classifier
        self.classifier = _classifier(self.config)
        if old is not None:
            logger.warning(
                f"The checkpoint's classifier tells {old.out_features} identities apart, {num_identities} are asked "
                "for: it is left out and starts anew."
            )
        if self.classifier is not None:
            self.classifier.to(self.device, self.dtype)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool | None = False,
        keep_indices: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> AMNSPersonRetrievalOutput:
        """Embeds pairs and classifies both halves; arguments as `AMNSModel.forward`, both halves needed."""
        if pixel_values is None or input_ids is None:
            raise ValueError(
                "AMNSForPersonRetrieval embeds pairs, pass pixel_values and input_ids; AMNSModel takes one."
            )
        outputs = self.amns(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            return_loss=return_loss,
            interpolate_pos_encoding=interpolate_pos_encoding,
            keep_indices=keep_indices,
            return_dict=True,
            **kwargs,
        )
        vision, text = outputs.vision_model_output, outputs.text_model_output
        image_logits = text_logits = None
        if self.classifier is not None:
            image_logits = self.classifier(vision.pooler_output)
            text_logits = self.classifier(text.pooler_output)
        # Training keeps and joins whatever a step returns: no more than its losses need, unless more is asked for.
        whole = return_loss or vision.hidden_states is not None or vision.attentions is not None
        return AMNSPersonRetrievalOutput(
            image_embeds=outputs.image_embeds,
            text_embeds=outputs.text_embeds,
            image_identity_logits=image_logits,
            text_identity_logits=text_logits,
            loss=outputs.loss,
            logits_per_image=outputs.logits_per_image if whole else None,
            logits_per_text=outputs.logits_per_text if whole else None,
            text_model_output=text if whole else None,
            vision_model_output=vision if whole else None,
        )


class IdentityClassifier(nn.Linear):
    """Linear scores of the training identities, initialised as in IRRA so that all start equally likely."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Small normal weights (standard deviation 0.001), zero bias."""
        nn.init.normal_(self.weight, std=0.001)
        nn.init.zeros_(self.bias)


def _classifier_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if name.startswith("classifier.")}


def _classifier(config: AMNSConfig) -> IdentityClassifier | None:
    return IdentityClassifier(config.projection_dim, config.num_identities) if config.num_identities else None


AMNSModel.register_for_auto_class("AutoModel")

__all__ = [
    "AMNSForPersonRetrieval",
    "AMNSModel",
    "AMNSOutput",
    "AMNSPersonRetrievalOutput",
    "AMNSPreTrainedModel",
    "AMNSTextModel",
    "AMNSVisionModel",
]
