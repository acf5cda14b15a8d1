"""Checkpoints of other projects by their keys: read whole, or refused by what they are."""

import argparse
import contextlib
import sys
import types

import numpy as np
import pytest
import torch
from foreign_weights import (
    CROP,
    IRRA_HEADS,
    RDE_HEADS,
    VOCAB,
    assert_equals_reference,
    captions,
    images,
    openai_weights,
    reference_image_features,
    reference_text_features,
    saved,
)
from PIL import Image

from modeling_amns.conversion import convert_checkpoint, convert_preprocessing

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


LONG_CLIP_TOKENS = 248


def long_clip_weights():
    """As Long-CLIP's code saves them: two tables of positions, the second trained beyond its twentieth row."""
    weights, generator = openai_weights(), torch.Generator().manual_seed(1)
    weights.pop("positional_embedding")
    tables = torch.randn(2, LONG_CLIP_TOKENS, 64, generator=generator)
    return {"positional_embedding": tables[0], "positional_embedding_res": tables[1], **weights}


def long_clip_text_features(weights, tokens):
    """`encode_text` of Long-CLIP (model/model_longclip.py) in float64: both tables, each under its mask."""
    weights = {key: value.double() for key, value in weights.items()}
    kept = torch.zeros(LONG_CLIP_TOKENS, 1, dtype=torch.float64)
    kept[:20] = 1
    beyond = torch.zeros(LONG_CLIP_TOKENS, 1, dtype=torch.float64)
    beyond[20:] = 1
    positions = weights["positional_embedding"] * kept + weights["positional_embedding_res"] * beyond
    return reference_text_features({**weights, "positional_embedding": positions}, tokens)


def test_long_clip_reads_captions_of_248_tokens_as_its_own_code_does(tmp_path, caplog):
    weights = long_clip_weights()
    model = convert_checkpoint(saved(tmp_path, weights))
    assert model.config.text_config.max_position_embeddings == LONG_CLIP_TOKENS
    tokens = captions(context=LONG_CLIP_TOKENS)
    tokens[0, 2], tokens[0, 19], tokens[1, 7], tokens[1, 20] = 5, VOCAB - 1, 6, VOCAB - 1
    tokens = torch.cat([tokens, tokens.new_full((1, LONG_CLIP_TOKENS), 9)])
    tokens[-1, 150] = VOCAB - 1
    with torch.no_grad():
        found = model.get_text_features(tokens).pooler_output.double()
    torch.testing.assert_close(found, long_clip_text_features(weights, tokens), atol=1e-5, rtol=1e-5)
    pixels = images().double()
    expected = reference_image_features({key: value.double() for key, value in weights.items()}, pixels)
    with torch.no_grad():
        found = model.get_image_features(pixels.float()).pooler_output.double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not caplog.text


@pytest.mark.parametrize("rows", [20, 247])
def test_tables_of_long_clip_that_do_not_fit_are_refused(tmp_path, rows):
    weights = long_clip_weights()
    weights["positional_embedding_res"] = weights["positional_embedding_res"][:rows]
    with pytest.raises(ValueError, match=rf"Long-CLIP's two tables .* \[248, 64\] and \[{rows}, 64\]"):
        convert_checkpoint(saved(tmp_path, weights))


TBPS_HEADS = {"simclr_mlp.0.weight": torch.zeros(8, 32), "simclr_mlp.2.bias": torch.zeros(8)} | {
    key: value for key, value in IRRA_HEADS.items() if key.startswith("mlm_head")
}


class EasyDict(dict):
    """As of the package of that name: a dictionary whose entries are attributes too, in its `__dict__`."""

    def __init__(self, **entries):
        super().__init__(entries)
        self.__dict__.update(entries)


@pytest.fixture
def easydict(monkeypatch):
    """The package is there while a file is written, and not while it is read."""

    @contextlib.contextmanager
    def installed():
        module = types.ModuleType("easydict")
        module.EasyDict = EasyDict
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "easydict", module)
            patch.setattr(EasyDict, "__module__", "easydict")
            yield

    return installed


def tbps_clip_file(tmp_path, **more):
    """As TBPS-CLIP's main.py saves it: learning rates are numpy's, the configuration is an EasyDict of EasyDicts."""
    weights = openai_weights()
    towers = {
        key if key.startswith(("visual.", "logit_scale")) else f"encode_text.{key}": weights[key] for key in weights
    }
    config = EasyDict(device="cuda", model=EasyDict(embed_dim=32, use_gather=True), **more)
    optimizer = {"state": {}, "param_groups": [{"lr": np.float64(1e-4) * 0.5, "params": [0]}]}
    return weights, saved(tmp_path, {"model": towers | TBPS_HEADS, "optimizer": optimizer, "config": config})


def test_tbps_clip_is_read_with_its_pickled_configuration(tmp_path, caplog, easydict):
    with easydict():
        weights, file = tbps_clip_file(tmp_path, schedule=EasyDict(lr=1e-4, epoch=5))
    assert b"easydict" in file.read_bytes() and "easydict" not in sys.modules
    model = convert_checkpoint(file)
    assert_equals_reference(model, weights)
    assert model.logit_scale.item() == 3.5
    assert all(key in caplog.text for key in [*TBPS_HEADS, "optimizer", "config"]) and "activation" not in caplog.text
    images = convert_preprocessing(file)
    # Its code normalises by ImageNet's statistics and resizes bicubically, without a crop.
    assert images.image_mean == (0.485, 0.456, 0.406) and images.image_std == (0.229, 0.224, 0.225)
    assert images.resample == Image.Resampling.BICUBIC and not images.do_center_crop


def test_options_of_argparse_beside_weights_are_read(tmp_path):
    weights = openai_weights()
    content = {"model": weights, "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.98), nested=argparse.Namespace(a=1))}
    assert_equals_reference(convert_checkpoint(saved(tmp_path, content), hidden_act="quick_gelu"), weights)


class RunsCode:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return open, (str(self.place), "w")


def test_a_configuration_that_would_run_code_runs_nothing(tmp_path, easydict):
    place = tmp_path / "written"
    with easydict():
        _, file = tbps_clip_file(tmp_path, hook=RunsCode(place))
    # The control: plain unpickling does it.
    with easydict():
        torch.load(file, weights_only=False)
    place.unlink()
    with pytest.raises(ValueError, match=r"checkpoint\.pt: refused, .*io\.open.* could run code") as error:
        convert_checkpoint(file)
    assert "\n" not in str(error.value) and not place.exists()


def heads_of(*names):
    return {key: value for key, value in IRRA_HEADS.items() if key.startswith(names)}


# Those who train IRRA's class by losses of their own; heads are there for the losses that ask for one.
FOLLOWERS = {
    "nam": ({}, "module.", "best0.pth"),
    "ham": ({}, "", "best.pth"),
    "ga-dms": (heads_of("cross", "ln_pre", "mlm_head") | named("ln_pre_i.bias", "ln_post.bias"), "", "best.pth"),
    "fmfa": (heads_of("classifier"), "", "best.pth"),
}


@pytest.mark.parametrize("who", FOLLOWERS)
def test_followers_of_irra_give_the_features_of_their_encoders(tmp_path, caplog, who):
    heads, wrapper, name = FOLLOWERS[who]
    content, weights = peers_file(heads)
    content["model"] = {wrapper + key: value for key, value in content["model"].items()}
    content |= {"optimizer": {"state": {}, "param_groups": []}, "scheduler": {"last_epoch": 3}}
    file = saved(tmp_path, content, name)
    model = convert_checkpoint(file)
    assert_equals_reference(model, weights, CROP)
    assert model.logit_scale.exp().item() == pytest.approx(50)
    assert convert_preprocessing(file).resample == Image.Resampling.BILINEAR
    assert f"{len(heads) + 3} keys are left over" in caplog.text and len(caplog.messages) == 1


KINDS = {
    "openai": openai_weights,
    "long-clip": long_clip_weights,
    "irra": lambda: peers_file(IRRA_HEADS)[0],
    "rde": lambda: peers_file(RDE_HEADS)[0],
    "tbps-clip": lambda: {"model": {tbps_name(k): v for k, v in openai_weights().items()} | TBPS_HEADS},
}


def tbps_name(name):
    return name if name.startswith(("visual.", "logit_scale")) else f"encode_text.{name}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_file_of_each_kind_is_one_clear_line(tmp_path, kind):
    content = KINDS[kind]()
    weights = content.get("model", content)
    fc = next(name for name in weights if name.endswith("visual.transformer.resblocks.1.mlp.c_fc.weight"))
    wide = {**weights, fc: torch.zeros(512, 96)}
    lacking = {name: value for name, value in weights.items() if name != fc}
    no_block = {name: value for name, value in weights.items() if "visual.transformer.resblocks.0." not in name}
    for broken, message in (
        (wide, r"1 weights have another shape .*layers\.1\.mlp\.fc1\.weight first: found \[512, 96\], expected"),
        (lacking, r"1 weights of CLIP are missing: vision_model\.encoder\.layers\.1\.mlp\.fc1\.weight"),
        (no_block, r"no transformer blocks under visual\.transformer\.resblocks"),
    ):
        file = saved(tmp_path, {**content, "model": broken} if "model" in content else broken)
        with pytest.raises(ValueError, match=rf"checkpoint\.pt: .*{message}") as error:
            convert_checkpoint(file)
        assert "\n" not in str(error.value)
    file = saved(tmp_path, content)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not readable as a checkpoint .*complete") as error:
        convert_checkpoint(file)
    assert "\n" not in str(error.value)
