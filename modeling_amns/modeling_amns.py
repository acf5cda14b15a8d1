"""The AMNS dual encoder: CLIP with rectangular images, dropped patches and the CLS row of its own attention.

Method: AMNS (arXiv 2409.06385). Parameter names are those of transformers' `CLIPModel`, so checkpoints of either load
into the other at the same position grid.
"""

import copy
import importlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTextModel
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.dynamic_module_utils import custom_object_save
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import (
    CLIPOutput,
    CLIPPreTrainedModel,
    CLIPTextEmbeddings,
    image_text_contrastive_loss,
)
from transformers.utils import ModelOutput, logging
from transformers.utils.generic import can_return_tuple

from .configuration_amns import AMNSConfig, AMNSTextConfig, AMNSVisionConfig
from .vision_amns import AMNSImageTower, AMNSVisionModel, resize_positions

logger = logging.get_logger(__name__)

# What `from_pretrained` needs to find a file, as opposed to what it does with the weights.
_LOCATION_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


@dataclass
class AMNSOutput(CLIPOutput):
    """Output of `AMNSModel`, the fields of transformers' `CLIPOutput`.

    Args:
        loss: symmetric InfoNCE, scalar; with `return_loss=True` only.
        logits_per_image: cosine similarities times `exp(logit_scale)`, float [images, texts].
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
    """

    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    image_identity_logits: Tensor | None = None
    text_identity_logits: Tensor | None = None


class AMNSPreTrainedModel(CLIPPreTrainedModel):
    """Loading, saving and initialisation shared by the AMNS models."""

    config: AMNSConfig
    base_model_prefix = "amns"
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "AMNSVisionEmbeddings"]

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, IdentityClassifier):
            module.reset_parameters()
            return
        super()._init_weights(module)

    def save_pretrained(self, save_directory, **kwargs):
        """As `PreTrainedModel`; the Auto classes of the folder give the dual encoder, with the package or without."""
        if kwargs.get("is_main_process", True):
            os.makedirs(save_directory, exist_ok=True)
            custom_object_save(getattr(self, self.base_model_prefix, self), save_directory, config=self.config)
            # Of the pipeline that cards name; `register_for_auto_class` takes one Auto class for each of ours.
            self.config.auto_map["AutoModelForZeroShotImageClassification"] = self.config.auto_map["AutoModel"]
        super().save_pretrained(save_directory, **kwargs)

    def push_to_hub(self, repo_id, **kwargs):
        """As `PreTrainedModel`; with the package installed the card is the package's, which has no figures here: those
        of a run are pushed by its trainer or by `modeling_amns.hub.push_checkpoint`."""
        try:
            # By name: this file is copied beside weights and must not need the rest of the package there.
            repository = importlib.import_module("modeling_amns.repository")
        except ModuleNotFoundError:
            return super().push_to_hub(repo_id, **kwargs)
        return repository.push_model(self, repo_id, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, config=None, **kwargs):
        """Loads an AMNS or CLIP checkpoint (folder or Hub id), safetensors first.

        The weights are read at the checkpoint's own position grid; where the configuration asks for another one
        (`image_size=[height, width]`, `stride=...` or a `config`), the position embeddings are then resized once
        (`position_interpolation`). A classifier over another number of identities starts anew.

        Raises:
            ValueError: the checkpoint is of another model type, holds adapters without their model, or its patch size
                differs from the configuration's.
        """
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(None, *model_args, config=config, **kwargs)
        folder = Path(pretrained_model_name_or_path)
        if (folder / "adapter_config.json").is_file() and not any(folder.glob("model*.safetensors")):
            raise ValueError(
                f"{folder} holds LoRA adapters, no model. Put them onto the model that they were trained on with "
                "modeling_amns.adapters.load_adapter; the output_dir of a run with use_peft holds both, merged."
            )
        location = {key: kwargs[key] for key in _LOCATION_ARGUMENTS if key in kwargs}
        if not isinstance(config, PreTrainedConfig):
            config, kwargs = AMNSConfig.from_pretrained(
                config or pretrained_model_name_or_path, return_unused_kwargs=True, **kwargs
            )
            kwargs = {**kwargs, **location}
        stored = AMNSConfig.from_pretrained(pretrained_model_name_or_path, **location)
        stored_vision, vision = stored.vision_config, config.vision_config
        if stored_vision.patch_size != vision.patch_size:
            raise ValueError(
                f"{pretrained_model_name_or_path} has patches of {stored_vision.patch_size} pixels, the configuration "
                f"asks for {vision.patch_size}. Position grids can be resized, patches can't: set "
                f"patch_size={stored_vision.patch_size} and choose image_size or stride."
            )
        load_config = copy.deepcopy(config)
        load_config.vision_config.image_size = stored_vision.image_size
        load_config.vision_config.stride = stored_vision.stride
        load_config.num_identities = stored.num_identities or config.num_identities
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, config=load_config, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.resize_grid(vision.image_size, vision.stride)
        model.resize_identities(config.num_identities)
        return loaded

    def resize_grid(self, image_size: list[int] | tuple[int, int], stride: int | None = None) -> None:
        """Fits the model to images of another size by resizing the position embeddings, in place.

        Args:
            image_size: height and width in pixels.
            stride: step between patches in pixels; `None` means the patch size.
        """
        old = self.config.vision_config
        new = AMNSVisionConfig(**{**old.to_dict(), "image_size": list(image_size), "stride": stride})
        embeddings = self.base_model.vision_model.embeddings
        if new.grid_size != old.grid_size:
            logger.warning(
                f"Position embeddings resized from a grid of {old.grid_size} to {new.grid_size} "
                f"({new.position_interpolation})."
            )
            weight = embeddings.position_embedding.weight
            weight = resize_positions(weight.data, old.grid_size, new.grid_size, new.position_interpolation)
            embeddings.position_embedding = nn.Embedding.from_pretrained(weight.contiguous(), freeze=False)
            embeddings.num_patches = len(weight) - 1
            embeddings.num_positions = len(weight)
            embeddings.position_ids = torch.arange(len(weight), device=weight.device).expand((1, -1))
        # One configuration object is shared by the model, the encoder and its embeddings; all see the new size.
        old.image_size, old.stride = new.image_size, new.stride
        embeddings.image_size = new.image_size
        step = (new.stride or new.patch_size,) * 2
        embeddings.patch_embedding.stride = step

    def resize_identities(self, num_identities: int) -> None:
        """Sets how many training identities the classifier tells apart; `AMNSModel` has none and only notes it."""
        self.config.num_identities = num_identities


class AMNSModel(AMNSPreTrainedModel, CLIPModel):
    """Dual encoder for text-to-image person retrieval, `CLIPModel`'s interface plus `keep_indices`.

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

    def __init__(self, config: AMNSConfig):
        CLIPPreTrainedModel.__init__(self, config)
        self.projection_dim = config.projection_dim
        self.text_embed_dim = config.text_config.hidden_size
        self.vision_embed_dim = config.vision_config.hidden_size
        self.text_model = AMNSTextModel._from_config(config.text_config)
        self.vision_model = AMNSVisionModel._from_config(config.vision_config)
        self.visual_projection = nn.Linear(self.vision_embed_dim, self.projection_dim, bias=False)
        self.text_projection = nn.Linear(self.text_embed_dim, self.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.post_init()

    @property
    def embedding_dim(self) -> int:
        """Size of the shared space."""
        return self.config.projection_dim

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of the patches."""
        return self.config.vision_config.grid_size

    def image_tower(self) -> AMNSImageTower:
        """Image encoder and projection as one module, shared and not copied: what a teacher averages."""
        return AMNSImageTower(self.vision_model, self.visual_projection)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool = False,
        keep_indices: Tensor | None = None,
        **kwargs,
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
        """Attention of CLS to each patch, averaged over layers and heads: float32 [B, patches], no gradient.

        See `AMNSVisionModel.cls_attention`.
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
        interpolate_pos_encoding: bool = False,
        keep_indices: Tensor | None = None,
        **kwargs,
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
        if vision is not None and text is not None:
            logits_per_text = text_embeds @ image_embeds.T.to(text_embeds.device) * self.logit_scale.exp()
        return AMNSOutput(
            loss=image_text_contrastive_loss(logits_per_text) if return_loss else None,
            logits_per_image=None if logits_per_text is None else logits_per_text.T,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text,
            vision_model_output=vision,
        )


class AMNSTextModel(CLIPTextModel):
    """Text encoder: transformers' CLIP text transformer."""

    config: AMNSTextConfig

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, CLIPTextEmbeddings):
            # CLIP starts words as weak as positions (0.02), and the first layer's output, some ten times stronger,
            # drowns both: a small model then takes epochs to learn which words stand in a caption.
            init.normal_(module.token_embedding.weight, std=0.2 * self.config.initializer_factor)


class AMNSForPersonRetrieval(AMNSPreTrainedModel):
    """`AMNSModel` under `amns`, plus the identity classifier that only training needs.

    The classifier is one linear layer over the training identities, shared by both modalities and fed with the
    unnormalised embeddings (dual-path identity loss, arXiv 1711.05535). Its checkpoint loads into `AMNSModel` as it
    is.
    """

    def __init__(self, config: AMNSConfig):
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
        self.to(self.device, self.dtype)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        keep_indices: Tensor | None = None,
        **kwargs,
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
            keep_indices=keep_indices,
            **kwargs,
        )
        image_logits = text_logits = None
        if self.classifier is not None:
            image_logits = self.classifier(outputs.vision_model_output.pooler_output)
            text_logits = self.classifier(outputs.text_model_output.pooler_output)
        return AMNSPersonRetrievalOutput(
            image_embeds=outputs.image_embeds,
            text_embeds=outputs.text_embeds,
            image_identity_logits=image_logits,
            text_identity_logits=text_logits,
        )


class IdentityClassifier(nn.Linear):
    """Linear scores of the training identities, initialised as in IRRA so that all start equally likely."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Small normal weights (standard deviation 0.001), zero bias."""
        nn.init.normal_(self.weight, std=0.001)
        nn.init.zeros_(self.bias)


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
