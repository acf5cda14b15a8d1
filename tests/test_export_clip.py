"""AMNS checkpoints as other tools read them: equal features in transformers' CLIP; OpenCLIP's layout and back."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CAPTIONS, tiny_retrieval_model
from foreign_weights import reference_blocks
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPProcessor

from modeling_amns import AMNSModel, AMNSProcessor
from modeling_amns.export import export_clip, export_open_clip
from modeling_amns.loading import load_checkpoint

SCRIPT = str(Path(__file__).parent.parent / "scripts" / "convert_checkpoint.py")


def checkpoint(folder, processor, image_size, **vision):
    """A trained model: with a classifier, and weights that are not those of a start."""
    processor.save_pretrained(folder)
    processor = AMNSProcessor.from_pretrained(folder, image_size=image_size)
    processor.image_processor.image_mean = (0.5, 0.4, 0.3)
    processor.image_processor.resample = Image.Resampling.BILINEAR
    vision = {"num_attention_heads": 4, "intermediate_size": 100, **vision}
    model = tiny_retrieval_model(processor, num_identities=4, vision_config=vision)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return load_checkpoint(folder)


def pictures(size):
    values = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    return [Image.fromarray(value) for value in values]


@torch.no_grad()
def features(model, pixels, tokens):
    found = model.eval()(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixels)
    return found.image_embeds, found.text_embeds, found.logits_per_image


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_transformers_clip_gives_equal_features_and_pixels(tmp_path, processor, hidden_act):
    model, own = checkpoint(tmp_path / "amns", processor, 32, hidden_act=hidden_act)
    export_clip(tmp_path / "amns", tmp_path / "clip")
    clip, info = CLIPModel.from_pretrained(tmp_path / "clip", output_loading_info=True)
    assert type(clip) is CLIPModel and not info["missing_keys"] and not info["unexpected_keys"]
    read = CLIPProcessor.from_pretrained(tmp_path / "clip")
    images = pictures((75, 31))
    ours = own(images=images, text=CAPTIONS, return_tensors="pt")
    theirs = read(images=images, text=CAPTIONS, padding=True, return_tensors="pt")
    torch.testing.assert_close(theirs.pixel_values, ours.pixel_values, atol=1e-5, rtol=0)
    assert torch.equal(theirs.input_ids, ours.input_ids)
    for found, expected in zip(features(clip, ours.pixel_values, ours), features(model, ours.pixel_values, ours)):
        torch.testing.assert_close(found, expected)
    fields = json.loads((tmp_path / "clip" / "config.json").read_text())
    assert fields["model_type"] == "clip" and "auto_map" not in fields and not list((tmp_path / "clip").glob("*.py"))
    again = AMNSModel.from_pretrained(tmp_path / "clip").state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def open_clip_image_features(weights, pixels, settings):
    """OpenCLIP's `VisionTransformer` in float64, from the file's weights and configuration alone."""
    weights = {name: value.double() for name, value in weights.items()}
    vision = settings["vision_cfg"]
    x = torch.nn.functional.conv2d(pixels.double(), weights["visual.conv1.weight"], stride=vision["patch_size"])
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([weights["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
    x = x + weights["visual.positional_embedding"]
    norm = torch.nn.functional.layer_norm
    x = norm(x, x.shape[-1:], weights["visual.ln_pre.weight"], weights["visual.ln_pre.bias"])
    act = (lambda x: x * torch.sigmoid(1.702 * x)) if settings["quick_gelu"] else torch.nn.functional.gelu
    x = reference_blocks(weights, "visual.", x, act, head_width=vision["head_width"])[:, 0]
    return (
        norm(x, x.shape[-1:], weights["visual.ln_post.weight"], weights["visual.ln_post.bias"])
        @ weights["visual.proj"]
    )


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("size", [(64, 32), (32, 32)])
def test_open_clip_layout_is_theirs_and_comes_back_as_it_was(tmp_path, processor, size, hidden_act):
    model, own = checkpoint(tmp_path / "amns", processor, size, hidden_act=hidden_act)
    model.config.text_config.hidden_act = hidden_act
    model.save_pretrained(tmp_path / "amns")
    model, _ = load_checkpoint(tmp_path / "amns")
    export_open_clip(tmp_path / "amns", tmp_path / "open_clip")
    files = {file.name for file in (tmp_path / "open_clip").iterdir()}
    assert files >= {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"}
    assert not any(name.endswith(".py") or name == "config.json" for name in files)
    settings = json.loads((tmp_path / "open_clip" / "open_clip_config.json").read_text())
    weights = load_file(tmp_path / "open_clip" / "open_clip_model.safetensors")
    block = "transformer.resblocks.2"
    parts = [
        f"{part}.{kind}"
        for part in ("attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
        for kind in ("weight", "bias")
    ]
    parts += ["attn.in_proj_weight", "attn.in_proj_bias"]
    assert {f"{tower}{block}.{part}" for tower in ("", "visual.") for part in parts} < set(weights)
    assert len(weights) == 11 + 4 + 2 * 3 * 12 - 1
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model.get_image_features(pixels).pooler_output.double()
    torch.testing.assert_close(
        found, open_clip_image_features(weights, pixels, settings["model_cfg"]), atol=1e-4, rtol=1e-4
    )
    assert settings["preprocess_cfg"]["mean"] == [0.5, 0.4, 0.3]
    assert settings["preprocess_cfg"]["interpolation"] == "bilinear"
    again, read = load_checkpoint(tmp_path / "open_clip")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    inputs = own(images=pictures(size), text=CAPTIONS, return_tensors="pt")
    same = read(images=pictures(size), text=CAPTIONS, return_tensors="pt")
    assert torch.equal(inputs.pixel_values, same.pixel_values) and torch.equal(inputs.input_ids, same.input_ids)
    for found, expected in zip(
        features(again, inputs.pixel_values, inputs), features(model, inputs.pixel_values, inputs)
    ):
        torch.testing.assert_close(found, expected)


def test_what_a_format_can_not_hold_is_refused_by_name(tmp_path, processor):
    checkpoint(tmp_path / "tall", processor, (64, 32))
    with pytest.raises(ValueError, match=r"tall has images of 64x32 .* Export to OpenCLIP, which has rectangles"):
        export_clip(tmp_path / "tall", tmp_path / "out")
    checkpoint(tmp_path / "overlap", processor, (32, 32), stride=4)
    with pytest.raises(ValueError, match=r"a patch of 8 every 4 pixels; .* Load the checkpoint with image_size=32"):
        export_clip(tmp_path / "overlap", tmp_path / "out")
    with pytest.raises(ValueError, match="a patch of 8 pixels every 4; OpenCLIP's own"):
        export_open_clip(tmp_path / "overlap", tmp_path / "out")
    checkpoint(tmp_path / "mixed", processor, (32, 32), hidden_act="gelu")
    with pytest.raises(ValueError, match="the activations gelu and quick_gelu"):
        export_open_clip(tmp_path / "mixed", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for export in (export_clip, export_open_clip):
        with pytest.raises(ValueError, match=r"mixed holds a model already \(config.json\)"):
            export(tmp_path / "mixed", tmp_path / "mixed")


def run_script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(SCRIPT, run_name="__main__")
    return end.value.code


def test_the_script_converts_back(tmp_path, processor, monkeypatch, capsys):
    model, _ = checkpoint(tmp_path / "amns", processor, 32)
    for kind in ("clip", "open_clip"):
        assert run_script(monkeypatch, tmp_path / "amns", tmp_path / kind, "--to", kind) == 0
        again = AMNSModel.from_pretrained(tmp_path / kind).state_dict()
        assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())
    capsys.readouterr()
    assert run_script(monkeypatch, tmp_path / "amns", tmp_path / "x", "--to", "open_clip", "--stride", "4") == 1
    assert "--stride has no effect with --to open_clip" in capsys.readouterr().err
    assert run_script(monkeypatch, tmp_path / "amns", tmp_path / "x", "--to", "onnx") == 1
    assert "--to must be amns, clip or open_clip" in capsys.readouterr().err
