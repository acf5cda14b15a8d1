"""Checkpoints of other projects by their keys: read whole, or refused by what they are."""

import pytest
import torch
from foreign_weights import CROP, IRRA_HEADS, RDE_HEADS, assert_equals_reference, openai_weights, saved

from modeling_amns.conversion import convert_checkpoint

BLOCK = "transformer.resblocks.0"


def named(*names, prefix=""):
    return {f"{prefix}{name}": torch.zeros(2) for name in names}


def peers_file(heads=None, weights=None):
    """What IRRA's code and those who started from it save: the encoders in half precision, heads beside them."""
    weights = openai_weights(CROP) if weights is None else weights
    weights.pop("logit_scale", None)
    weights = {k: v.half() if v.ndim > 1 and "embedding" not in k else v for k, v in weights.items()}
    content = {"model": {f"base_model.{key}": value for key, value in weights.items()} | (heads or {}), "epoch": 3}
    return content, {key: value.float() for key, value in weights.items()}


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("image_encoder.backbone.cls_token", "text_encoder.bert.embeddings.word_embeddings.weight"), "PLIP"),
        (("vision_encoder.layers.0.blocks.0.norm1.weight", "text_encoder.bert.cls.bias", "temp"), "APTM"),
        (("visual_encoder.cls_token", "visual_encoder_m.cls_token", "text_encoder.bert.x", "prd_head.bias"), "RaSa"),
        (("visual.cls_token", "visual.patch_embed.proj.weight", "visual.blocks.0.attn.q_bias"), "EVA-CLIP"),
    ],
)
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_models_of_other_encoders_are_named(tmp_path, names, kind, wrapper):
    with pytest.raises(
        ValueError, match=rf"checkpoint\.pt: this is {kind}.*not CLIP's|checkpoint\.pt: this is {kind}"
    ):
        convert_checkpoint(saved(tmp_path, {"model": named(*names, prefix=wrapper)}))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"visual.{BLOCK}.adapter.down.weight", "adapters in its blocks"),
        (f"{BLOCK}.adaptmlp.up.bias", "adapters in its blocks"),
        (f"visual.{BLOCK}.attn.lora_A", "LoRA adapters; merge them"),
        ("visual.prompt_embeddings", "learned prompts"),
        ("prompt_learner.ctx", "learned prompts"),
        ("text.transformer.embeddings.word_embeddings.weight", r"BERT's kind"),
        ("text_decoder.resblocks.0.ln_1.weight", "as CoCa"),
        # Known to nobody, and named as parts of the text encoder are, or as nothing that serves training alone.
        ("token_embedding.scale", ""),
        ("ln_final.gate", ""),
        ("ln_middle.weight", ""),
        ("visual.ln_pre.gate", ""),
        (f"{BLOCK}.ln_1.gate", ""),
        (f"{BLOCK}.ln_3.weight", ""),
    ],
)
@pytest.mark.parametrize("prefix", ["", "base_model."])
def test_a_tensor_that_the_encoders_would_lose_refuses_the_file(tmp_path, name, kind, prefix):
    content = openai_weights(CROP) | named(name)
    content = {prefix + key: value for key, value in content.items()}
    with pytest.raises(ValueError, match=rf"checkpoint\.pt: .* 1 weights that CLIP's ViT has not \(.*{kind}.*differ"):
        convert_checkpoint(saved(tmp_path, content))


@pytest.mark.parametrize("name", ["prompt_learner.ctx", "image_adapter.fc.weight", "visual_proj.weight", "lora.A"])
def test_what_changes_features_beside_the_encoders_refuses_the_file(tmp_path, name):
    content, _ = peers_file(IRRA_HEADS | named(name))
    with pytest.raises(ValueError, match=f"1 weights that CLIP's ViT has not .{name}"):
        convert_checkpoint(saved(tmp_path, content))


def test_two_text_encoders_are_refused(tmp_path):
    weights = openai_weights()
    content = weights | {f"text.{key}": value for key, value in weights.items() if not key.startswith("visual.")}
    with pytest.raises(ValueError, match="two text encoders, both have"):
        convert_checkpoint(saved(tmp_path, content))


def test_token_selection_is_left_behind_aloud(tmp_path, caplog):
    """RDE, CECA and ICL."""
    content, weights = peers_file(RDE_HEADS)
    assert_equals_reference(convert_checkpoint(saved(tmp_path, content)), weights, CROP)
    lines = [line for line in caplog.messages if "half of the similarity" in line.lower()]
    assert len(lines) == 1 and "BGE" in lines[0] and "compare it with their figures" in lines[0]
    caplog.clear()
    content, weights = peers_file(IRRA_HEADS)
    convert_checkpoint(saved(tmp_path, content))
    assert "similarity" not in caplog.text and "5 keys are left over" not in caplog.text
