"""What transformers' own common tests ask of a model, on each class of ours and against CLIP with equal weights."""

import inspect
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import accelerate
import pytest
import torch
from conftest import IMAGE_SIZE, REFUSE_THE_PACKAGE, tiny_config
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, BertConfig, CLIPModel, CLIPTextModel, CLIPVisionModel, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from modeling_amns import (
    AMNSConfig,
    AMNSForPersonRetrieval,
    AMNSModel,
    AMNSTextConfig,
    AMNSTextModel,
    AMNSVisionConfig,
    AMNSVisionModel,
)
from modeling_amns.gradient_cache import cached_backward

CLASSES = (AMNSModel, AMNSForPersonRetrieval, AMNSVisionModel, AMNSTextModel)
IDS = torch.tensor([[618, 5, 9, 619, 619], [618, 7, 8, 11, 619]])
SQUARE = {"vision_config": {"image_size": 64}}


def part(config: AMNSConfig, model_class):
    return {AMNSVisionModel: config.vision_config, AMNSTextModel: config.text_config}.get(model_class, config)


def build(model_class, **changes):
    torch.manual_seed(0)
    return model_class(part(tiny_config(num_identities=5, **changes), model_class)).eval()


def inputs(model_class) -> dict[str, torch.Tensor]:
    pixels = {"pixel_values": torch.randn(2, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(1))}
    tokens = {"input_ids": IDS, "attention_mask": (torch.arange(5) < 4).long().expand(2, 5)}
    return {AMNSVisionModel: pixels, AMNSTextModel: tokens}.get(model_class, {**pixels, **tokens})


def embedded(model) -> torch.Tensor:
    """One tensor that depends on every encoder that a model has."""
    with torch.no_grad():
        outputs = model(**inputs(type(model)))
    if "pooler_output" in outputs:
        return outputs.pooler_output
    return torch.cat([outputs.image_embeds, outputs.text_embeds])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A dual encoder of AMNS, a trained one with its classifier and CLIP's own, all with the same weights."""
    root = tmp_path_factory.mktemp("folders")
    trained = build(AMNSForPersonRetrieval, **SQUARE)
    trained.save_pretrained(root / "retrieval")
    trained.amns.save_pretrained(root / "amns")
    clip = CLIPModel.from_pretrained(root / "amns")
    clip.save_pretrained(root / "clip")
    return root


# What `PreTrainedModel` hands to the methods of its own that we override, without self.
HOOKS = {
    "_init_weights": "module",
    "post_init": "",
    "_adjust_missing_and_unexpected_keys": "loading_info",
    "_get_files_timestamps": "working_dir",
}
# Public ones, whose first arguments are known and whose others are passed on.
PUBLIC = {
    "from_pretrained": "pretrained_model_name_or_path",
    "save_pretrained": "save_directory is_main_process",
    "push_to_hub": "repo_id",
}


def test_the_hooks_of_transformers_models_are_as_we_know_them():
    ours = {kind for model_class in CLASSES for kind in model_class.__mro__ if "modeling_amns" in kind.__module__}
    overridden = {name for kind in ours for name in vars(kind) if callable(getattr(PreTrainedModel, name, None))}
    assert overridden - set(dir(torch.nn.Module)) == {*HOOKS, *PUBLIC}
    for name, known in {**HOOKS, **PUBLIC}.items():
        found = [part for part in inspect.signature(getattr(PreTrainedModel, name)).parameters if part != "self"]
        assert (found if name in HOOKS else found[: len(known.split())]) == known.split(), f"look at our {name}"


def test_transformers_still_calls_the_hooks_that_we_override(tmp_path, monkeypatch):
    called = set()

    def watch(model_class, name):
        original = getattr(model_class, name)

        def noted(self, *args):
            called.add(name)
            return original(self, *args)

        monkeypatch.setattr(model_class, name, noted)

    for name in HOOKS:
        watch(AMNSModel if name == "_get_files_timestamps" else AMNSVisionModel, name)
    repository = SimpleNamespace(create_repo=lambda repo_id, **_: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr("transformers.modeling_utils.hf_api", lambda: repository)
    monkeypatch.setattr(AMNSModel, "_upload_modified_files", lambda *_, **__: None)
    build(AMNSModel).save_pretrained(tmp_path, push_to_hub=True, repo_id="org/name")
    AMNSVisionModel.from_pretrained(tmp_path)
    assert called == set(HOOKS)


@pytest.mark.parametrize("model_class", CLASSES)
def test_a_saved_model_comes_back_whole(model_class, tmp_path):
    model = build(model_class)
    model.save_pretrained(tmp_path)
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.equal(embedded(loaded), embedded(model)) and not loaded.training
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [model_class.__name__]


@pytest.mark.parametrize("model_class", CLASSES)
def test_a_missing_weight_is_named_and_starts_anew(model_class, tmp_path):
    model = build(model_class)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.endswith("k_proj.weight"))
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {name}
    assert loaded.state_dict()[name].isfinite().all() and loaded.state_dict()[name].std() > 1e-3


@pytest.mark.parametrize("model_class", CLASSES)
def test_a_weight_that_has_no_place_is_named(model_class, tmp_path):
    build(model_class).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    last = [name for name in weights if "layers.2." in name]
    left_over = {name.replace("layers.2.", "layers.3."): weights[name].clone() for name in last}
    save_file({**weights, **left_over}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert info["unexpected_keys"] == left_over.keys() and not info["missing_keys"]


@pytest.mark.parametrize("model_class", CLASSES)
@pytest.mark.parametrize(
    "asked, dtype",
    [
        ({}, torch.bfloat16),
        ({"dtype": "auto"}, torch.bfloat16),
        ({"torch_dtype": "auto"}, torch.bfloat16),
        ({"dtype": "float16"}, torch.float16),
        ({"dtype": torch.float32}, torch.float32),
        ({"torch_dtype": torch.float64}, torch.float64),
    ],
)
def test_weights_load_in_the_type_that_is_asked_for_or_their_own(model_class, asked, dtype, tmp_path):
    build(model_class).to(torch.bfloat16).save_pretrained(tmp_path)
    assert {value.dtype for value in model_class.from_pretrained(tmp_path, **asked).parameters()} == {dtype}


@pytest.mark.parametrize("model_class", CLASSES)
def test_attention_backends_agree_and_outputs_hold_what_is_asked_for(model_class, tmp_path):
    build(model_class).save_pretrained(tmp_path)
    sdpa = model_class.from_pretrained(tmp_path)
    eager = model_class.from_pretrained(tmp_path, attn_implementation="eager")
    assert (sdpa.config._attn_implementation, eager.config._attn_implementation) == ("sdpa", "eager")
    assert torch.allclose(embedded(sdpa), embedded(eager), atol=1e-5)
    outputs = eager(**inputs(model_class), output_hidden_states=True, output_attentions=True)
    encoders = [outputs[name] for name in outputs if name.endswith("model_output")] or [outputs]
    assert len(encoders) == (2 if model_class in (AMNSModel, AMNSForPersonRetrieval) else 1)
    for encoder in encoders:
        assert len(encoder.hidden_states) == 4 and len(encoder.attentions) == 3
        assert torch.allclose(encoder.attentions[0].sum(-1), torch.ones(()), atol=1e-5)
    as_tuple = eager(**inputs(model_class), output_hidden_states=True, return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == sum(name != "attentions" for name in outputs)


def test_the_retrieval_model_returns_what_the_dual_encoder_returns_when_asked():
    model = build(AMNSForPersonRetrieval)
    want = model.amns(**inputs(AMNSModel), return_loss=True, output_hidden_states=True)
    got = model(**inputs(AMNSModel), return_loss=True, output_hidden_states=True)
    for name in ("loss", "logits_per_image", "logits_per_text", "image_embeds"):
        assert torch.equal(got[name], want[name]), name
    for name in ("vision_model_output", "text_model_output"):
        assert all(map(torch.equal, got[name].hidden_states, want[name].hidden_states))
    # What a training step keeps on the device.
    assert set(model(**inputs(AMNSModel))) == {
        "image_embeds",
        "text_embeds",
        "image_identity_logits",
        "text_identity_logits",
    }


@pytest.mark.parametrize("model_class", CLASSES)
def test_gradient_checkpointing_reaches_every_parameter(model_class):
    gradients = []
    for checkpointing in (False, True):
        model = build(model_class).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        outputs = model(**inputs(model_class))
        sum(value.float().square().sum() for value in outputs.values() if torch.is_tensor(value)).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 30
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


def test_transformers_finds_the_encoders_of_a_dual_encoder():
    trained = build(AMNSForPersonRetrieval)
    for model in (trained, trained.amns):
        assert model.get_encoder(modality="image") is trained.amns.vision_model
    # Names by which transformers and its tests look for an encoder.
    assert not any(hasattr(trained.amns, name) for name in ("vision_tower", "visual", "vision_encoder", "image_tower"))


@pytest.mark.parametrize("model_class", CLASSES)
def test_forwards_name_the_type_of_their_further_arguments(model_class):
    forwards = [model_class.forward]
    if model_class is AMNSModel:
        forwards += [AMNSModel.get_image_features, AMNSModel.get_text_features]
    for forward in forwards:
        assert inspect.signature(forward).parameters["kwargs"].annotation == Unpack[TransformersKwargs]


@pytest.mark.parametrize("model_class", CLASSES)
def test_the_second_positional_argument_of_saving_is_whether_this_process_saves(model_class, tmp_path):
    model = build(model_class)
    model.save_pretrained(tmp_path / "not", False)
    assert not (tmp_path / "not").exists() or not any((tmp_path / "not").glob("*.*"))
    model.save_pretrained(tmp_path / "here", True)
    assert torch.equal(embedded(model_class.from_pretrained(tmp_path / "here")), embedded(model))


@pytest.mark.parametrize("model_class", CLASSES)
def test_pushing_while_saving_uploads_the_code_that_the_folder_names(model_class, tmp_path, monkeypatch):
    uploaded = {}

    class Api:
        def create_repo(self, repo_id, **options):
            return SimpleNamespace(repo_id=repo_id)

        def create_commit(self, repo_id, operations, **options):
            uploaded[repo_id] = {operation.path_in_repo for operation in operations}

    monkeypatch.setattr("transformers.modeling_utils.hf_api", Api)
    monkeypatch.setattr("transformers.utils.hub.hf_api", Api)
    (tmp_path / "notes.txt").write_text("there before")
    build(model_class).save_pretrained(tmp_path, push_to_hub=True, repo_id="org/name")
    config = json.loads((tmp_path / "config.json").read_text())
    named = {f"{reference.split('.')[0]}.py" for reference in config["auto_map"].values()}
    assert {"config.json", "model.safetensors"} | named | {"pretrained_amns.py"} <= uploaded["org/name"]
    assert "notes.txt" not in uploaded["org/name"]


def partly_on_disk(offloaded: str, folder) -> dict:
    """Options of `from_pretrained`."""
    parts = ("vision_model", "text_model", "visual_projection", "text_projection", "logit_scale")
    device_map = {name: "disk" if name == offloaded else "cpu" for name in parts}
    return {"device_map": device_map, "offload_folder": folder / "offload"}


@pytest.mark.parametrize("offloaded", ["vision_model", "text_model"])
def test_a_model_that_is_partly_on_disk_gives_equal_results(offloaded, tmp_path, pixels):
    model = build(AMNSModel)
    model.save_pretrained(tmp_path)
    loaded = AMNSModel.from_pretrained(tmp_path, **partly_on_disk(offloaded, tmp_path))
    assert any(value.is_meta for value in loaded.parameters())
    assert torch.equal(embedded(loaded), embedded(model))
    for last_layers in (None, 1):
        want = model.image_attention_scores(pixels, last_layers)
        assert torch.allclose(loaded.image_attention_scores(pixels, last_layers), want, atol=1e-6)
    larger = torch.randn(1, 3, 96, 48)
    want = model.get_image_features(larger, interpolate_pos_encoding=True).pooler_output
    found = loaded.get_image_features(larger, interpolate_pos_encoding=True).pooler_output
    # Weights at another place in memory may be summed in another order.
    assert torch.allclose(found, want, atol=1e-5)


@pytest.mark.parametrize("how", ["cpu", "disk"])
@pytest.mark.parametrize("model_class", CLASSES)
def test_offloading_by_accelerate_gives_equal_results(model_class, how, tmp_path, pixels):
    want, model = embedded(build(model_class)), build(model_class)
    if how == "cpu":
        accelerate.cpu_offload(model, "cpu", offload_buffers=True)
    else:
        accelerate.disk_offload(model, str(tmp_path), "cpu", offload_buffers=True)
    assert torch.equal(embedded(model), want)
    if model_class is AMNSModel:
        scores = build(model_class).image_attention_scores(pixels)
        assert torch.allclose(model.image_attention_scores(pixels), scores, atol=1e-6)
        assert all(value.is_meta for value in model.vision_model.parameters())


def test_positions_that_are_offloaded_are_not_resized_in_silence(tmp_path):
    build(AMNSModel).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"grid of \(8, 4\) can't be resized to \(12, 4\) while they are offloaded"):
        AMNSModel.from_pretrained(tmp_path, image_size=[96, 32], **partly_on_disk("vision_model", tmp_path))


@pytest.mark.parametrize("source", ["amns", "retrieval", "clip"])
@pytest.mark.parametrize(
    "model_class, clip_class", [(AMNSVisionModel, CLIPVisionModel), (AMNSTextModel, CLIPTextModel)]
)
def test_an_encoder_loads_its_part_of_a_dual_encoder(source, model_class, clip_class, folders, tmp_path):
    loaded, info = model_class.from_pretrained(folders / source, output_loading_info=True)
    assert not any(info.values())
    reference = clip_class.from_pretrained(folders / "clip")
    given = {"pixel_values": torch.randn(2, 3, 64, 64)} if model_class is AMNSVisionModel else {"input_ids": IDS}
    with torch.no_grad():
        want = reference(**given).pooler_output
        assert torch.allclose(loaded(**given).pooler_output, want, atol=1e-5)
        # Saved again by itself, whatever folder it came from, the Auto classes and CLIP's own class read it.
        loaded.save_pretrained(tmp_path)
        assert load_file(tmp_path / "model.safetensors").keys() == loaded.state_dict().keys()
        for again in (AutoModel.from_pretrained(tmp_path), clip_class.from_pretrained(tmp_path)):
            assert torch.allclose(again(**given).pooler_output, want, atol=1e-5)
    assert type(AutoModel.from_pretrained(tmp_path)) is model_class
    assert type(AutoConfig.from_pretrained(tmp_path)) is model_class.config_class


@pytest.mark.parametrize("source", ["amns", "retrieval", "clip"])
def test_an_image_encoder_takes_another_grid_as_the_dual_encoder_does(source, folders):
    asked = {"image_size": [96, 32], "stride": 4, "position_interpolation": "bicubic"}
    alone = AMNSVisionModel.from_pretrained(folders / source, **asked)
    whole = AMNSModel.from_pretrained(folders / source, **asked)
    assert alone.config.grid_size == whole.grid_size == (23, 7) and whole.config.position_interpolation == "bicubic"
    positions = [model.embeddings.position_embedding.weight for model in (alone, whole.vision_model)]
    assert torch.equal(*positions)
    smooth = AMNSModel.from_pretrained(folders / source, **{**asked, "position_interpolation": "bilinear"})
    assert not torch.allclose(positions[1], smooth.vision_model.embeddings.position_embedding.weight, atol=1e-3)


def test_encoders_saved_by_themselves_load_without_the_package(folders, tmp_path):
    program = f"""{REFUSE_THE_PACKAGE}
import torch
from transformers import AutoModel
for folder in sys.argv[1:]:
    model, info = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    total = sum(value.double().abs().sum() for value in model.parameters()).item()
    print(type(model).__name__, any(info.values()), total)
"""
    want = []
    for model_class in (AMNSVisionModel, AMNSTextModel):
        model = model_class.from_pretrained(folders / "retrieval")
        model.save_pretrained(tmp_path / model_class.__name__)
        total = sum(value.double().abs().sum() for value in model.parameters()).item()
        want += [model_class.__name__, "False", str(total)]
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "AMNSVisionModel", tmp_path / "AMNSTextModel"],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == want


def test_clip_reads_a_square_folder_of_ours(folders, tmp_path):
    ours = AMNSModel.from_pretrained(folders / "amns")
    given = {"input_ids": IDS, "pixel_values": torch.randn(2, 3, 64, 64)}
    with torch.no_grad():
        theirs = CLIPModel.from_pretrained(folders / "amns")(**given)
        assert torch.allclose(ours(**given).logits_per_image, theirs.logits_per_image, atol=1e-5)
    assert json.loads((folders / "amns" / "config.json").read_text())["vision_config"]["image_size"] == 64
    assert ours.config.image_size == [64, 64]


def test_a_configuration_of_clip_is_taken_and_another_is_refused_by_name(folders):
    clip = CLIPModel.from_pretrained(folders / "clip")
    want = AMNSModel.from_pretrained(folders / "clip")
    given = AMNSModel.from_pretrained(folders / "clip", config=clip.config)
    assert type(given.config) is AMNSConfig and given.config.to_dict() == want.config.to_dict()
    built = AMNSForPersonRetrieval(clip.config)
    built.amns.load_state_dict(clip.state_dict())
    assert built.config.image_size == [64, 64]
    assert AMNSVisionModel(clip.config.vision_config).config.grid_size == (8, 8)
    assert AMNSTextModel(clip.config.text_config).config.vocab_size == 620
    for model_class in CLASSES:
        with pytest.raises(TypeError, match=f"Expected an {model_class.config_class.__name__}.* found BertConfig"):
            model_class(BertConfig())
        with pytest.raises(TypeError, match="found BertConfig"):
            model_class.from_pretrained(folders / "amns", config=BertConfig())


@pytest.mark.parametrize("config_class", [AMNSConfig, AMNSVisionConfig, AMNSTextConfig])
def test_a_folder_that_does_not_say_whose_it_is_is_refused(config_class, tmp_path):
    for fields, found in (
        ({}, "no config.json"),
        ({"hidden_size": 4}, "type None"),
        ({"model_type": "bert"}, "'bert'"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(fields))
        with pytest.raises((ValueError, OSError), match=found):
            config_class.from_pretrained(tmp_path)


@pytest.mark.parametrize("size, saved", [(32, 32), ([32, 32], 32), ((64, 32), [64, 32])])
def test_sizes_are_pairs_however_and_whenever_they_are_set(size, saved, tmp_path):
    config = tiny_config()
    config.vision_config.image_size = size
    pair = [size, size] if isinstance(size, int) else list(size)
    assert config.vision_config.image_size == config.image_size == pair
    assert AMNSModel(config).grid_size == (pair[0] // 8, pair[1] // 8)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["vision_config"]["image_size"] == saved
    assert AMNSConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert AMNSVisionConfig.from_pretrained(tmp_path).image_size == pair
    with pytest.raises(ValueError, match="image_size must be"):
        config.vision_config.image_size = [1, 2, 3]
    with pytest.raises(ValueError, match="patch_size must be square"):
        config.vision_config.patch_size = [8, 4]


@pytest.mark.parametrize("stored, asked", [(5, 9), (0, 9), (5, 0)])
def test_a_classifier_that_starts_anew_is_in_the_report_of_the_loading(stored, asked, tmp_path):
    torch.manual_seed(0)
    AMNSForPersonRetrieval(tiny_config(num_identities=stored)).save_pretrained(tmp_path)
    model, info = AMNSForPersonRetrieval.from_pretrained(tmp_path, num_identities=asked, output_loading_info=True)
    names = {"classifier.weight", "classifier.bias"}
    assert info["missing_keys"] == (names if asked else set())
    assert info["unexpected_keys"] == (set() if asked else names)
    shapes = {("classifier.weight", (5, 16), (9, 16)), ("classifier.bias", (5,), (9,))}
    assert info["mismatched_keys"] == (shapes if stored and asked else set())
    assert {name for name in model.state_dict() if "classifier" in name} == (names if asked else set())


class FakeAccelerator:
    """torch.mps: a generator, its state by device, and no context of a device."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(3)

    def get_rng_state(self, device):
        assert torch.device(device).type == "mps"
        return self.generator.get_state()

    def set_rng_state(self, state, device):
        assert torch.device(device).type == "mps"
        self.generator.set_state(state)


def test_the_gradient_cache_repeats_the_random_numbers_of_a_device_without_a_context(monkeypatch):
    fake = FakeAccelerator()
    monkeypatch.setattr(torch, "get_device_module", lambda device=None: fake)
    weight = torch.nn.Parameter(torch.ones(3))
    chunks = [{"rows": SimpleNamespace(device=torch.device("mps:0"))} for _ in range(2)]
    drawn = []

    def forward(chunk):
        noise = torch.rand(2, 3, generator=fake.generator)
        drawn.append((noise, torch.rand(1)))
        return {"out": noise * weight}

    def loss_backward(outputs):
        loss = outputs["out"].square().sum()
        loss.backward()
        return loss

    cached_backward(torch.nn.Identity(), chunks, forward, loss_backward)
    first, second = drawn[:2], drawn[2:]
    assert not torch.equal(first[0][0], first[1][0])
    for (noise, cpu), (again, cpu_again) in zip(first, second, strict=True):
        assert torch.equal(noise, again) and torch.equal(cpu, cpu_again)
    assert torch.allclose(weight.grad, 2 * torch.cat([noise for noise, _ in first]).square().sum(0))
