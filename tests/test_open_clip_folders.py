"""OpenCLIP's folders are read by `from_pretrained` as transformers' are, and only where their encoders are CLIP's."""

import json
import subprocess
import sys

import pytest
import torch
from foreign_weights import (
    CONTEXT,
    PATCH,
    SQUARE,
    assert_features,
    captions,
    images,
    openai_weights,
    reference_image_features,
    reference_text_features,
    saved,
)
from hub_double import HubDouble, Repo
from hub_programs import run
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from modeling_amns import (
    AMNSConfig,
    AMNSForPersonRetrieval,
    AMNSModel,
    AMNSProcessor,
    AMNSTextModel,
    AMNSVisionModel,
)
from modeling_amns.conversion import convert_checkpoint
from modeling_amns.loading import load_checkpoint
from modeling_amns.recipe import ModelArguments, build

SETTINGS = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": PATCH},
    "text_cfg": {"context_length": CONTEXT, "width": 64, "heads": 1, "layers": 2},
}
STATISTICS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bilinear", "resize_mode": "squash"}


def written(folder, processor, weights=None, kind="safetensors", **changes):
    """What OpenCLIP's push_to_hf_hub.py leaves: configuration, weights, tokenizer."""
    vocabulary = len(processor.tokenizer)
    weights = openai_weights(vocab=vocabulary) if weights is None else weights
    model = {**SETTINGS, **changes, "text_cfg": {**SETTINGS["text_cfg"], "vocab_size": vocabulary}}
    for part in ("vision_cfg", "text_cfg"):
        model[part] = {**SETTINGS[part], **model[part], **changes.get(part, {})}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": STATISTICS}))
    if kind == "safetensors":
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / "open_clip_model.safetensors")
    else:
        saved(folder, weights, "open_clip_pytorch_model.bin")
    processor.tokenizer.save_pretrained(folder)
    return weights


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize(("quick", "act"), [(True, lambda x: x * torch.sigmoid(1.702 * x)), (False, F.gelu)])
def test_from_pretrained_gives_the_features_of_the_weights(tmp_path, processor, kind, quick, act):
    weights = written(tmp_path, processor, kind=kind, quick_gelu=quick)
    model, info = AMNSModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokens = captions(len(processor.tokenizer))
    expected = reference_image_features(weights, images(), act), reference_text_features(weights, tokens, act)
    assert_features(model.eval(), images(), tokens, *expected)
    assert model.logit_scale.item() == 3.5
    same = convert_checkpoint(tmp_path).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())


def test_model_and_processor_fit_and_keep_the_statistics(tmp_path, processor):
    written(tmp_path, processor)
    model, read = load_checkpoint(tmp_path)
    assert read.image_size == (32, 32) and read.max_tokens == CONTEXT
    assert read.image_processor.image_mean == (0.5, 0.4, 0.3) and read.image_processor.image_std == (0.2, 0.25, 0.3)
    assert read.image_processor.resample == Image.Resampling.BILINEAR
    model, read = load_checkpoint(tmp_path, [64, 32])
    assert model.config.vision_config.grid_size == (8, 4) and read.image_size == (64, 32)
    assert AMNSConfig.from_pretrained(tmp_path, image_size=[64, 32], num_identities=3).num_identities == 3


def test_a_run_starts_from_it_and_what_it_saves_is_of_amns(tmp_path, processor):
    weights = written(tmp_path, processor)
    start, read = build(ModelArguments(model_name_or_path=str(tmp_path), image_size=[64, 32]), [], 5)
    assert isinstance(start, AMNSForPersonRetrieval) and start.classifier.out_features == 5
    start.save_pretrained(tmp_path / "own")
    read.save_pretrained(tmp_path / "own")
    model, _ = load_checkpoint(tmp_path / "own")
    assert torch.equal(model.text_projection.weight, weights["text_projection"].T)
    assert AMNSProcessor.from_pretrained(tmp_path / "own").image_processor.image_mean == (0.5, 0.4, 0.3)


def test_the_image_encoder_alone_is_read(tmp_path, processor):
    weights = written(tmp_path, processor)
    model = AMNSVisionModel.from_pretrained(tmp_path)
    assert torch.equal(model.embeddings.class_embedding, weights["visual.class_embedding"])


def test_the_text_encoder_alone_is_read(tmp_path, processor):
    weights = written(tmp_path, processor)
    tokens = captions(len(processor.tokenizer))
    alone, info = AMNSTextModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    pooled = alone.eval()(tokens).pooler_output @ weights["text_projection"]
    expected = reference_text_features(weights, tokens, F.gelu)
    assert torch.allclose(F.normalize(pooled), F.normalize(expected), atol=1e-5)


def test_a_processor_that_is_imported_first_reads_it_too(tmp_path, processor):
    written(tmp_path, processor)
    code = "import sys; from modeling_amns import AMNSProcessor as P; print(P.from_pretrained(sys.argv[1]).max_tokens)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.strip() == str(CONTEXT), done.stderr


def test_a_setting_that_is_no_yes_or_no_is_refused(tmp_path, processor):
    written(tmp_path, processor, quick_gelu="false")
    for read in (AMNSModel.from_pretrained, convert_checkpoint):
        with pytest.raises(ValueError, match="quick_gelu 'false', expected true or false"):
            read(tmp_path)


def test_a_text_encoder_of_other_heads_is_read_by_its_configuration(tmp_path, processor):
    written(tmp_path, processor, text_cfg={"heads": 4})
    assert AMNSModel.from_pretrained(tmp_path).config.text_config.num_attention_heads == 4
    assert convert_checkpoint(tmp_path).config.text_config.num_attention_heads == 4


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("vision_cfg", {"timm_model_name": "vit_base"}),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}),
        ("vision_cfg", {"pool_type": "avg"}),
        ("vision_cfg", {"norm_kwargs": {"eps": 1e-6}}),
        ("text_cfg", {"hf_model_name": "roberta-base"}),
        ("text_cfg", {"no_causal_mask": True}),
        ("text_cfg", {"pool_type": "last"}),
    ],
)
@pytest.mark.parametrize("read", [AMNSModel.from_pretrained, convert_checkpoint])
def test_settings_that_make_other_encoders_are_refused(tmp_path, processor, part, changes, read):
    """Most of them leave no trace in the weights."""
    written(tmp_path, processor, **{part: changes})
    with pytest.raises(ValueError, match=rf"open_clip_config.json asks for {part}.{next(iter(changes))} .* only they"):
        read(tmp_path)


def test_neutral_settings_of_open_clip_are_no_hindrance(tmp_path, processor):
    vision = {"patch_dropout": 0.5, "timm_pool": "avg", "attentional_pool": False, "pool_type": "tok"}
    written(tmp_path, processor, vision_cfg=vision, text_cfg={"hf_tokenizer_name": "x", "pool_type": "argmax"})
    assert AMNSModel.from_pretrained(tmp_path).config.vision_config.grid_size == SQUARE


def test_folders_that_are_not_whole_are_named(tmp_path, processor):
    weights = written(tmp_path, processor)
    for broken, message in (
        (weights | {"visual.ln_mid.weight": torch.zeros(1)}, "1 weights that CLIP's ViT has not"),
        ({key: value for key, value in weights.items() if "ln_pre" not in key}, "2 weights are missing"),
    ):
        written(tmp_path, processor, broken)
        with pytest.raises(ValueError, match=message):
            load_checkpoint(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(OSError, match="holds open_clip_config.json, but neither open_clip_model.safetensors nor"):
        load_checkpoint(tmp_path)
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is no configuration of OpenCLIP"):
        load_checkpoint(tmp_path)
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(OSError, match="holds no config.json, so it is no checkpoint"):
        AMNSModel.from_pretrained(tmp_path)


def test_a_mistyped_name_is_not_asked_for_in_another_layout(tmp_path):
    program = """
from modeling_amns import AMNSModel
try:
    AMNSModel.from_pretrained("org/nowhere")
except OSError as error:
    print(error)
"""
    with HubDouble() as hub:
        done = run(hub, tmp_path, program)
    assert "org/nowhere" in done.stdout, done.stderr[-2000:]
    asked = [path.rpartition("/")[-1] for _, path in hub.log if "/resolve/" in path]
    assert asked == ["config.json"], hub.log


def test_a_folder_on_the_hub_is_read_and_then_again_offline(tmp_path, processor):
    written(tmp_path, processor)
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    program = """
from modeling_amns import AMNSModel, AMNSProcessor
model, processor = AMNSModel.from_pretrained("org/plain"), AMNSProcessor.from_pretrained("org/plain")
print(model.config.text_config.max_position_embeddings, processor.max_tokens)
"""
    with HubDouble() as hub:
        repo = hub.repos["models", "org/plain"] = Repo(private=False)
        hub.blobs |= {f"oid of {name}": content for name, content in files.items()}
        repo.commits.append(("1" * 40, {name: f"oid of {name}" for name in files}))
        repo.branches["main"] = "1" * 40
        for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
            asked = len(hub.log)
            done = run(hub, tmp_path, program, **environment)
            assert done.stdout.split() == [str(CONTEXT)] * 2, done.stderr[-2000:]
        assert len(hub.log) == asked
