"""Conversion of checkpoints: features equal to an independent forward and to OpenCLIP's, no key dropped in silence."""

import contextlib
import importlib.machinery
import importlib.util
import json
import pickle
import re
import runpy
import sys
import types
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from foreign_weights import (
    CONTEXT,
    CROP,
    IRRA_HEADS,
    OPENAI_MARKS,
    PATCH,
    RDE_HEADS,
    SQUARE,
    VOCAB,
    assert_equals_reference,
    assert_features,
    captions,
    images,
    openai_weights,
    reference_image_features,
    reference_text_features,
    saved,
)
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from modeling_amns import AMNSModel, AMNSProcessor
from modeling_amns.clip_tokenizer import clip_tokenizer
from modeling_amns.conversion import convert_checkpoint, convert_preprocessing, read_checkpoint
from modeling_amns.loading import load_checkpoint

SCRIPT = str(Path(__file__).parent.parent / "scripts" / "convert_checkpoint.py")


@pytest.mark.parametrize("grid", [SQUARE, CROP])
def test_openai_state_dict_gives_equal_features(tmp_path, caplog, grid):
    weights = openai_weights(grid)
    model = convert_checkpoint(saved(tmp_path, {**weights, **OPENAI_MARKS}))
    assert_equals_reference(model, weights, grid)
    assert model.config.image_size == [side * PATCH for side in grid]
    assert model.logit_scale.item() == 3.5
    assert "3 keys are left over" in caplog.text and "context_length, input_resolution, vocab_size" in caplog.text
    assert "activation" not in caplog.text


def test_torchscript_archive_gives_equal_features(tmp_path):
    weights = openai_weights()
    root = nn.Module()
    for key, value in {**weights, **OPENAI_MARKS}.items():
        *path, name = key.split(".")
        module = root
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        module.register_buffer(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(root).save(tmp_path / "ViT-B-16.pt")
    assert_equals_reference(convert_checkpoint(tmp_path / "ViT-B-16.pt"), weights)


class Attributes(nn.Module):
    """What an archive holds besides weights: other tensors, lists, dictionaries, and two names for one layer."""

    def __init__(self):
        super().__init__()
        self.mask = torch.zeros(4)
        self.sizes, self.others, self.nothing = [1, 2], {"a": torch.ones(1)}, None
        self.layers = nn.Sequential(nn.Linear(2, 2, bias=False), nn.LayerNorm(2))
        self.again = self.layers[1]
        self.weight = nn.Parameter(torch.randn(3, 2).half().T)
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x):
        return self.again(self.layers(x)) + self.mask.sum() + self.sizes[0] + self.others["a"]


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_torchscript_archive_is_read_as_torch_would(tmp_path, how):
    module = torch.jit.script(Attributes()) if how == "script" else torch.jit.trace(Attributes(), torch.ones(2, 2))
    module.save(tmp_path / "a.pt")
    want, found = torch.jit.load(tmp_path / "a.pt").state_dict(), read_checkpoint(tmp_path / "a.pt")
    assert list(found) == list(want) and "mask" not in want
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in want.items())


class WritesWhenItIsLoaded(nn.Module):
    def __init__(self, place: str):
        super().__init__()
        self.place, self.weight = place, nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.place

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str]):
        self.weight, self.place = state[0], state[1]
        torch.save(state[0], state[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_that_does_something_when_it_is_loaded_is_refused_and_does_nothing(tmp_path):
    torch.jit.script(WritesWhenItIsLoaded(str(tmp_path / "written"))).save(tmp_path / "ViT-B-16.pt")
    # The control: torch's own reader does it, and then misses what `Module` keeps besides.
    with contextlib.suppress(RuntimeError):
        torch.jit.load(tmp_path / "ViT-B-16.pt")
    (tmp_path / "written").unlink()
    with pytest.raises(ValueError, match=r"ViT-B-16\.pt: refused, .*its own code makes it.* could run code"):
        convert_checkpoint(tmp_path / "ViT-B-16.pt")
    assert not (tmp_path / "written").exists()


def rewritten(file, **records: bytes):
    """An archive with other records in the place of its own."""
    with zipfile.ZipFile(file) as archive:
        content = {info.filename: (archive.read(info), info.compress_type) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, (data, kind) in content.items():
            archive.writestr(name, records.get(name.partition("/")[2], data), kind)


SYSTEM = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00echo\x85R."


@pytest.mark.parametrize(
    "content, message",
    [
        (SYSTEM, "refused, .*Unsupported global: GLOBAL os.system"),
        (pickle.dumps(Path("x"), 4), "refused, .*Unsupported opcode: FRAME"),
        (b"\x80\x02c__torch__\nA\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb.", "nested without end"),
        (b"\x80\x02X\xff\xff\xff\x7fa.", "not readable as a checkpoint"),
        (b"\x80\x02", "not readable as a checkpoint"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_archive_with_another_pickle_is_refused(tmp_path, content, message):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "A.pt")
    source = b"class A(Module):\n  __parameters__ = []\n"
    rewritten(tmp_path / "A.pt", **{"data.pkl": content, "code/__torch__.py": source})
    with zipfile.ZipFile(tmp_path / "A.pt", "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/code/__torch__.py", source)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / "A.pt")


def test_a_few_bytes_that_stand_for_many_values_and_a_file_without_end_are_refused(tmp_path):
    large = {"visual.class_embedding": torch.zeros(1).expand(10**13)}
    with pytest.raises(ValueError, match="class_embedding is no plain tensor, its 10000000000000 values"):
        convert_checkpoint(saved(tmp_path, large))
    endless: dict = {}
    endless["model"] = endless
    with pytest.raises(ValueError, match="model holds itself"):
        convert_checkpoint(saved(tmp_path, endless))


def test_end_token_of_clips_vocabulary_is_known_however_captions_are_padded(tmp_path):
    weights = openai_weights(vocab=49408)
    model = convert_checkpoint(saved(tmp_path, weights), hidden_act="quick_gelu")
    assert model.config.text_config.eos_token_id == 49407
    tokens = captions(vocab=49408)
    expected = reference_text_features(weights, tokens)
    assert_features(model, images(), tokens, reference_image_features(weights, images()), expected)
    # Padded as transformers does, the first end token counts.
    padded = tokens.masked_fill(tokens == 0, 49407)
    assert_features(model, images(), padded, reference_image_features(weights, images()), expected)


def test_other_vocabulary_pools_at_the_largest_id_whichever_it_is(tmp_path):
    weights = openai_weights()
    model = convert_checkpoint(saved(tmp_path, weights), hidden_act="quick_gelu")
    tokens = captions() % 200
    assert not (tokens == VOCAB - 1).any()
    expected = reference_image_features(weights, images()), reference_text_features(weights, tokens)
    assert_features(model, images(), tokens, *expected)


def test_a_name_that_stands_twice_is_refused(tmp_path):
    """With and without the prefix of a distributed run: which of the two was trained nobody can tell."""
    weights = openai_weights()
    file = saved(tmp_path, weights | {"module.text_projection": weights["text_projection"] + 1})
    with pytest.raises(ValueError, match="holds text_projection twice, with and without the prefix module"):
        convert_checkpoint(file)


@pytest.mark.parametrize("wrapper", ["", "module."])
@pytest.mark.parametrize("heads", [IRRA_HEADS, RDE_HEADS], ids=["irra", "rde"])
def test_half_precision_files_of_irra_and_rde_give_equal_features(tmp_path, caplog, heads, wrapper):
    weights = openai_weights(CROP)
    weights.pop("logit_scale")
    # As `convert_weights` does: matrices in half precision, norms and embeddings not.
    weights = {k: v.half() if v.ndim > 1 and "embedding" not in k else v for k, v in weights.items()}
    stored = {f"{wrapper}base_model.{k}": v for k, v in weights.items()} | {wrapper + k: v for k, v in heads.items()}
    content = {"model": stored, "optimizer": {"state": {}, "param_groups": []}, "scheduler": {"step": 3}, "epoch": 60}
    model = convert_checkpoint(saved(tmp_path, content, "best.pth"))
    assert model.config.vision_config.grid_size == CROP
    assert_equals_reference(model, {k: v.float() for k, v in weights.items()}, CROP)
    assert model.logit_scale.exp().item() == pytest.approx(50)
    for key in [*heads, "optimizer", "scheduler", "epoch"]:
        assert key in caplog.text
    assert "activation" not in caplog.text


def test_overlapping_patches_of_irra_keep_their_positions(tmp_path):
    weights = openai_weights((7, 3))
    file = saved(tmp_path, {f"base_model.{k}": v for k, v in weights.items()})
    with pytest.raises(ValueError, match=r"21 positions for patches of 8 pixels are neither .* Pass the image_size"):
        convert_checkpoint(file)
    with pytest.raises(ValueError, match=r"nor that of image_size \[32, 16\], stride None"):
        convert_checkpoint(file, image_size=[32, 16])
    model = convert_checkpoint(file, image_size=[32, 16], stride=4)
    pixels = torch.randn(2, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    expected = reference_image_features(weights, pixels, stride=4)
    torch.testing.assert_close(model.get_image_features(pixels).pooler_output, expected, atol=1e-5, rtol=1e-5)


def test_square_grid_is_resized_to_person_crops(tmp_path):
    weights = openai_weights(SQUARE)
    model = convert_checkpoint(saved(tmp_path, weights), image_size=(192, 64), hidden_act="quick_gelu")
    positions = weights["visual.positional_embedding"]
    patches = positions[1:].T.reshape(1, -1, *SQUARE)
    patches = F.interpolate(patches, size=CROP, mode="bilinear", align_corners=False).flatten(2)[0].T
    weights["visual.positional_embedding"] = torch.cat([positions[:1], patches])
    assert model.config.image_size == [192, 64]
    assert_equals_reference(model, weights, CROP)


def test_ambiguous_grid_follows_image_size_with_a_warning(tmp_path, caplog):
    weights = openai_weights((8, 2))
    model = convert_checkpoint(saved(tmp_path, weights), image_size=(64, 16), hidden_act="quick_gelu")
    assert_equals_reference(model, weights, (8, 2))
    assert "16 positions are read as the grid 8x2" in caplog.text
    assert convert_checkpoint(tmp_path / "checkpoint.pt", hidden_act="gelu").config.image_size == [32, 32]


def test_activation_is_guessed_from_the_order_of_keys_and_told(tmp_path, caplog):
    weights = openai_weights()
    assert_equals_reference(convert_checkpoint(saved(tmp_path, weights)), weights)
    assert "quick_gelu is taken because it looks like OpenAI's CLIP" in caplog.text
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "model.safetensors")
    assert_equals_reference(convert_checkpoint(tmp_path / "model.safetensors"), weights, act=F.gelu)
    assert "gelu is taken because it looks like OpenCLIP" in caplog.text


def test_wide_image_encoder_warns_about_its_heads(tmp_path, caplog):
    weights = openai_weights(width=1280, layers=1)
    model = convert_checkpoint(saved(tmp_path, weights), head_width=80)
    assert model.config.vision_config.num_attention_heads == 16
    assert "heads can't be seen" not in caplog.text
    convert_checkpoint(tmp_path / "checkpoint.pt")
    assert "heads can't be seen" in caplog.text


@pytest.fixture(scope="module")
def open_clip():
    """OpenCLIP, which imports torchvision for its transforms; its models don't need it, so a stand-in is enough."""
    if importlib.util.find_spec("open_clip") is None:
        pytest.skip("needs open-clip-torch: pip install --no-deps open-clip-torch")
    if importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("open_clip")

    class Anything(type):
        def __getattr__(cls, name):
            if name.startswith("__"):
                raise AttributeError(name)

    class StandIn(types.ModuleType):
        __path__ = []

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return Anything(name, (), {})

    names = ["torchvision", "torchvision.transforms", "torchvision.transforms.functional"]
    names += ["torchvision.ops", "torchvision.ops.misc"]
    for name in names:
        sys.modules[name] = StandIn(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    try:
        return importlib.import_module("open_clip")
    finally:
        # Others ask whether torchvision is installed.
        for name in names:
            del sys.modules[name]


def open_clip_model(open_clip, image_size, **options):
    torch.manual_seed(0)
    custom = options.pop("custom_text", False)
    model = (open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP)(
        embed_dim=32,
        vision_cfg={
            "image_size": image_size,
            "patch_size": 16,
            "width": 128,
            "layers": 2,
            **options.pop("vision", {}),
        },
        text_cfg={"width": 64, "heads": 1, "layers": 2, "vocab_size": VOCAB, "context_length": CONTEXT},
        **options,
    ).eval()
    # At their own initialisation the residual branches are so small that a wrong activation would hardly show.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "resblocks" in name and weight.ndim > 1:
                weight.mul_(3)
    return model


@torch.no_grad()
def assert_equals_open_clip(converted, model, grid):
    pixels, tokens = images(grid, 16), captions()
    assert_features(converted, pixels, tokens, model.encode_image(pixels), model.encode_text(tokens))


@pytest.mark.parametrize("custom_text", [False, True])
@pytest.mark.parametrize(("image_size", "grid"), [(64, (4, 4)), ((384, 128), (24, 8))])
def test_open_clip_models_give_equal_features(tmp_path, caplog, open_clip, image_size, grid, custom_text):
    model = open_clip_model(open_clip, image_size, custom_text=custom_text)
    converted = convert_checkpoint(saved(tmp_path, model.state_dict()))
    assert_equals_open_clip(converted, model, grid)
    assert "gelu is taken because it looks like OpenCLIP" in caplog.text


def test_open_clip_training_checkpoint_with_quick_gelu(tmp_path, open_clip):
    model = open_clip_model(open_clip, 64, quick_gelu=True)
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    file = saved(tmp_path, {"epoch": 3, "name": "run", "state_dict": state})
    assert_equals_open_clip(convert_checkpoint(file, hidden_act="quick_gelu"), model, (4, 4))


def test_open_clip_folder_tells_activation_and_head_width(tmp_path, caplog, open_clip):
    model = open_clip_model(open_clip, 64, quick_gelu=True, vision={"head_width": 32})
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    config = {"model_cfg": {"embed_dim": 32, "quick_gelu": True, "vision_cfg": {"head_width": 32}, "text_cfg": {}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert_equals_open_clip(convert_checkpoint(tmp_path), model, (4, 4))
    assert not caplog.text


@pytest.mark.parametrize("options", [{"ls_init_value": 0.1}, {"attentional_pool": True, "attn_pooler_heads": 4}])
def test_open_clip_models_of_another_shape_are_refused(tmp_path, open_clip, options):
    model = open_clip_model(open_clip, 64, vision=options)
    with pytest.raises(ValueError, match="weights that CLIP's ViT has not"):
        convert_checkpoint(saved(tmp_path, model.state_dict()))


PREPROCESSING = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.25, 0.3],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}


def open_clip_folder(folder, grid, image_size, **preprocessing):
    """Random weights in OpenAI's layout beside a configuration of OpenCLIP's."""
    weights = openai_weights(grid)
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "open_clip_model.safetensors")
    config = {"model_cfg": {"vision_cfg": {"image_size": image_size}}, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return weights


def test_preprocessing_of_open_clip_comes_along(tmp_path):
    open_clip_folder(tmp_path, SQUARE, 32, **PREPROCESSING)
    images = convert_preprocessing(tmp_path)
    assert images.image_mean == (0.5, 0.4, 0.3) and images.image_std == (0.2, 0.25, 0.3)
    assert images.resample == Image.Resampling.BILINEAR and not images.do_center_crop
    assert dict(images.size) == {"height": 32, "width": 32}
    assert dict(convert_preprocessing(tmp_path, (192, 64)).size) == {"height": 192, "width": 64}
    open_clip_folder(tmp_path, SQUARE, 32)
    assert convert_preprocessing(tmp_path).resample == Image.Resampling.BICUBIC
    open_clip_folder(tmp_path, SQUARE, 32, interpolation="area")
    with pytest.raises(ValueError, match="open_clip_model.safetensors: .* interpolation 'area'; known are bicubic"):
        convert_preprocessing(tmp_path)


def test_open_clip_names_the_grid_that_no_number_of_positions_tells(tmp_path):
    weights = open_clip_folder(tmp_path, (2, 8), [16, 64])
    model = convert_checkpoint(tmp_path, hidden_act="quick_gelu")
    assert model.config.image_size == [16, 64] and dict(convert_preprocessing(tmp_path).size)["width"] == 64
    assert_equals_reference(model, weights, (2, 8))
    # Sixteen positions: not to be read as the square of the size asked for.
    resized = convert_checkpoint(tmp_path, image_size=32, hidden_act="quick_gelu")
    kept = resized.vision_model.embeddings.position_embedding.weight[1:]
    assert resized.config.vision_config.grid_size == SQUARE
    assert not torch.allclose(kept, weights["visual.positional_embedding"][1:])


@pytest.mark.parametrize("prefix, resample", [("base_model.", "BILINEAR"), ("", "BICUBIC")])
def test_files_are_resampled_as_their_authors_did(tmp_path, prefix, resample):
    """IRRA and RDE by torchvision's Resize, which is bilinear; OpenAI bicubic."""
    file = saved(tmp_path, {"model": {prefix + key: value for key, value in openai_weights(CROP).items()}})
    images = convert_preprocessing(file)
    assert images.resample == Image.Resampling[resample]
    assert dict(images.size) == {"height": CROP[0] * PATCH, "width": CROP[1] * PATCH}
    assert images.image_mean == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_a_stride_alone_is_used_and_a_size_alone_leaves_it(tmp_path):
    file = saved(tmp_path, openai_weights(SQUARE))
    model = convert_checkpoint(file, stride=4, hidden_act="quick_gelu")
    assert model.config.vision_config.grid_size == (7, 7) and model.config.image_size == [32, 32]
    model.save_pretrained(tmp_path / "own")
    assert convert_checkpoint(tmp_path / "own", image_size=48).config.vision_config.grid_size == (11, 11)
    assert convert_checkpoint(tmp_path / "own", stride=8).config.vision_config.grid_size == SQUARE


def test_transformers_folder_keeps_its_grid_or_is_resized(tmp_path, caplog):
    tiny = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1}
    vision = {**tiny, "image_size": 32, "patch_size": PATCH}
    text = {**tiny, "vocab_size": VOCAB, "eos_token_id": VOCAB - 1, "max_position_embeddings": CONTEXT}
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=32)).eval()
    clip.half().save_pretrained(tmp_path)
    clip.float()
    pixels, tokens = images(), captions()
    expected = clip.get_image_features(pixels).pooler_output, clip.get_text_features(tokens).pooler_output
    assert_features(convert_checkpoint(tmp_path), pixels, tokens, *expected)
    assert convert_checkpoint(tmp_path, image_size=(192, 64)).config.vision_config.grid_size == CROP
    assert convert_preprocessing(tmp_path).resample == Image.Resampling.BICUBIC
    CLIPImageProcessorPil(resample=0, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    own = convert_preprocessing(tmp_path)
    assert own.resample == 0 and own.image_mean == (0.1, 0.2, 0.3) and not own.do_center_crop
    assert dict(own.size) == {"height": 32, "width": 32}
    with pytest.raises(ValueError, match="stand in config.json"):
        convert_checkpoint(tmp_path, hidden_act="gelu")


class Code:
    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle ran')",)


@pytest.mark.parametrize("content", [{"model": openai_weights(), "args": Code()}, Code()])
def test_pickle_that_holds_code_is_refused_unread(tmp_path, content):
    with pytest.raises(ValueError, match=r"checkpoint\.pt: refused, .*exec.* could run code\..*state_dict"):
        convert_checkpoint(saved(tmp_path, content))


def without(weights, *parts):
    return {key: value for key, value in weights.items() if not any(part in key for part in parts)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"visual.layer1.0.conv1.weight": torch.zeros(1)}, "a ResNet"),
        ({"visual.trunk.patch_embed.proj.weight": torch.zeros(1)}, "a timm image encoder"),
        ({"vision_model.embeddings.class_embedding": torch.zeros(1)}, "pass the folder with config.json"),
        ({"state_dict": {"weight": torch.zeros(1)}}, r"no key ends with visual.class_embedding, .* found weight"),
        ([torch.zeros(1)], "holds a list, expected a state dict"),
        (without(openai_weights(), "ln_pre"), r"2 weights of CLIP are missing: vision_model.pre_layrnorm.bias"),
        (without(openai_weights(), "resblocks.1.attn.in_proj_bias"), r"6 weights of CLIP are missing"),
        (without(openai_weights(), "text_projection"), "1 weights of CLIP are missing: text_projection"),
        (without(openai_weights(), "visual.transformer"), "no transformer blocks under visual.transformer"),
        (
            openai_weights() | {"visual.ln_mid.weight": torch.zeros(1)},
            "1 weights that CLIP's ViT has not .visual.ln_mid",
        ),
        (openai_weights() | {"ema.visual.class_embedding": torch.zeros(1)}, "several image encoders, under , ema."),
        (openai_weights(width=96), "an encoder is 96 wide"),
    ],
)
def test_file_that_is_no_clip_vit_is_named_with_the_reason(tmp_path, content, message):
    with pytest.raises(ValueError, match=r"checkpoint\.pt: .*" + message):
        convert_checkpoint(saved(tmp_path, content))


def test_damaged_or_missing_files_are_named(tmp_path):
    file = saved(tmp_path, openai_weights())
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not readable as a checkpoint .* Is the file complete"):
        convert_checkpoint(file)
    file.with_suffix(".safetensors").write_text("no weights")
    with pytest.raises(ValueError, match="not readable as a checkpoint"):
        convert_checkpoint(file.with_suffix(".safetensors"))
    with pytest.raises(FileNotFoundError, match="missing.pt: no such file or folder"):
        convert_checkpoint(tmp_path / "missing.pt")
    with pytest.raises(FileNotFoundError, match="holds neither config.json"):
        convert_checkpoint(tmp_path)


def run_script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(SCRIPT, run_name="__main__")
    return exit.value.code


def test_script_writes_a_folder_that_from_pretrained_loads(tmp_path, monkeypatch, capsys, processor):
    vocab = len(processor.tokenizer)
    weights = openai_weights(vocab=vocab)
    processor.save_pretrained(tmp_path / "clip")
    options = ["--image_size", "192", "64", "--hidden_act", "gelu", "--processor", tmp_path / "clip"]
    assert run_script(monkeypatch, saved(tmp_path, weights), tmp_path / "out", *options) == 0
    assert "grid (24, 8), gelu; tokenizer of" in capsys.readouterr().out
    model = AMNSModel.from_pretrained(tmp_path / "out")
    expected = convert_checkpoint(tmp_path / "checkpoint.pt", image_size=(192, 64), hidden_act="gelu")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    converted = AMNSProcessor.from_pretrained(tmp_path / "out")
    assert converted.image_size == (192, 64) and converted.max_tokens == CONTEXT
    peer = {f"base_model.{key}": value for key, value in openai_weights(CROP, vocab=vocab).items()}
    irra = saved(tmp_path, peer, "best.pth")
    assert run_script(monkeypatch, irra, tmp_path / "irra", "--processor", tmp_path / "clip") == 0
    assert AMNSProcessor.from_pretrained(tmp_path / "irra").image_processor.resample == Image.Resampling.BILINEAR
    assert not any("resblocks" in key for key in model.state_dict())


def test_captions_of_a_long_clip_file_are_cut_at_its_248_tokens(tmp_path, monkeypatch, processor):
    weights = openai_weights(vocab=len(processor.tokenizer))
    table = torch.randn(248, 64, generator=torch.Generator().manual_seed(1))
    weights |= {"positional_embedding": table, "positional_embedding_res": table}
    processor.save_pretrained(tmp_path / "clip")
    file = saved(tmp_path, weights, "longclip-B.pt")
    assert run_script(monkeypatch, file, tmp_path / "out", "--processor", tmp_path / "clip") == 0
    model, converted = load_checkpoint(tmp_path / "out")
    ids = converted(text="a red coat " * 200, return_tensors="pt").input_ids
    assert ids.shape == (1, 248) and model.get_text_features(ids).pooler_output.shape == (1, 32)


def test_a_folder_with_a_model_keeps_it(tmp_path, monkeypatch, capsys, processor):
    """Weights of one and the processor and results of another would stand there together."""
    processor.save_pretrained(tmp_path / "clip")
    file = saved(tmp_path, openai_weights(vocab=len(processor.tokenizer)))
    options = [file, tmp_path / "out", "--processor", tmp_path / "clip"]
    assert run_script(monkeypatch, *options) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run_script(monkeypatch, *options, "--hidden_act", "gelu") == 1
    assert "out holds a model already (config.json); choose a new folder" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_what_a_folder_makes_of_captions_comes_along(tmp_path, monkeypatch, processor):
    processor.save_pretrained(tmp_path / "clip")
    file = saved(tmp_path, openai_weights(vocab=len(processor.tokenizer)))
    assert run_script(monkeypatch, file, tmp_path / "one", "--processor", tmp_path / "clip") == 0
    changed = AMNSProcessor.from_pretrained(tmp_path / "one")
    changed.long_captions, changed.max_tokens = "windows", 12
    changed.save_pretrained(tmp_path / "one")
    assert run_script(monkeypatch, tmp_path / "one", tmp_path / "two", "--image_size", "64", "32") == 0
    _, found = load_checkpoint(tmp_path / "two")
    assert (found.long_captions, found.max_tokens, found.image_size) == ("windows", 12, (64, 32))
    # A folder of weights and a tokenizer alone has no say in it.
    for path in (tmp_path / "one").glob("*processor_config.json"):
        path.unlink()
    assert run_script(monkeypatch, tmp_path / "one", tmp_path / "three") == 0
    _, found = load_checkpoint(tmp_path / "three")
    assert (found.long_captions, found.max_tokens) == ("cut", 12)


def test_a_processor_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path, monkeypatch, capsys, processor):
    processor.save_pretrained(tmp_path / "clip")
    file = saved(tmp_path, openai_weights(vocab=len(processor.tokenizer) + 1))
    assert run_script(monkeypatch, file, tmp_path / "out", "--processor", tmp_path / "clip") == 1
    assert "the tokenizer has" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, change, message",
    [
        (
            "visual.proj",
            lambda value: (value * 10).to(torch.int8),
            "visual_projection.weight is int8, expected floating",
        ),
        (
            "ln_final.weight",
            lambda value: value * float("nan"),
            "text_model.final_layer_norm.weight has values that are",
        ),
    ],
)
def test_weights_that_are_no_finite_numbers_are_refused(tmp_path, name, change, message):
    weights = openai_weights()
    weights[name] = change(weights[name])
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(saved(tmp_path, weights))


@pytest.mark.parametrize(
    "name, value",
    [
        ("visual.positional_embedding", torch.tensor(1.0)),
        ("visual.positional_embedding", torch.zeros(0, 128)),
        ("visual.conv1.weight", torch.zeros(128, 192)),
        ("text_projection", torch.zeros(32)),
        ("logit_scale", torch.zeros(2)),
        ("transformer.resblocks.0.mlp.c_fc.weight", torch.tensor(1.0)),
        ("visual.transformer.resblocks.1.attn.in_proj_bias", torch.tensor(1.0)),
    ],
)
def test_a_weight_of_another_shape_is_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=re.escape(f"{name} has the shape {list(value.shape)}, expected ")):
        convert_checkpoint(saved(tmp_path, {**openai_weights(), name: value}))


@pytest.mark.parametrize(
    "part, field, value, message",
    [
        ("vision_cfg", "head_width", 0, "vision_cfg.head_width 0, expected a whole number above 0"),
        ("vision_cfg", "head_width", 50, "vision_cfg.width 128, which vision_cfg.head_width 50 does not divide"),
        ("text_cfg", "heads", 0, "text_cfg.heads 0, expected a whole number above 0"),
        ("text_cfg", "heads", None, "text_cfg.heads None, expected a whole number above 0"),
    ],
)
def test_heads_that_can_not_be_are_refused_on_both_roads(tmp_path, part, field, value, message):
    settings = {"embed_dim": 32, "vision_cfg": {"width": 128, "layers": 2, "image_size": 32, "patch_size": 8}}
    settings["text_cfg"] = {"width": 64, "heads": 1, "layers": 2, "context_length": CONTEXT, "vocab_size": 300}
    settings[part][field] = value
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings}))
    saved(tmp_path, openai_weights(), "open_clip_pytorch_model.bin")
    for read in (convert_checkpoint, AMNSModel.from_pretrained):
        with pytest.raises(ValueError, match=message):
            read(tmp_path)


def test_a_head_width_of_nothing_and_a_file_in_the_place_of_a_folder_are_said(tmp_path):
    file = saved(tmp_path, openai_weights())
    with pytest.raises(ValueError, match="head_width must be at least 1, found 0"):
        convert_checkpoint(file, head_width=0)
    with pytest.raises(ValueError, match="checkpoint.pt is a file; pass the folder of a checkpoint"):
        load_checkpoint(file)


@pytest.mark.parametrize("name", ["fusion.adapter.weight", "image.prompt_learner.ctx"])
def test_what_changes_features_is_refused_wherever_it_stands(tmp_path, name):
    weights = {f"base_model.{key}": value for key, value in openai_weights().items()}
    with pytest.raises(ValueError, match=re.escape(name)):
        convert_checkpoint(saved(tmp_path, {"model": {**weights, name: torch.zeros(4)}}, "best.pth"))
    # The head of a masked language model has projections of its own, and does not.
    weights["cross_modal_transformer.resblocks.0.attn.in_proj_weight"] = torch.zeros(4)
    convert_checkpoint(saved(tmp_path, {"model": weights}, "best.pth"))


def test_script_fails_with_one_line(tmp_path, monkeypatch, capsys):
    assert run_script(monkeypatch, tmp_path / "missing.pt", tmp_path / "out") == 1
    assert capsys.readouterr().err.startswith("convert_checkpoint.py: ")
    assert not (tmp_path / "out").exists()


def test_clip_tokenizer_gives_the_ids_of_open_clip(open_clip):
    tokenizer, reference = clip_tokenizer(), open_clip.tokenizer.SimpleTokenizer()
    assert len(tokenizer) == 49408
    for text in ["A man's red coat, 2 bags!", "naïve café  x\ty", "红色 外套 🙂", "ÿ¬­®~"]:
        assert tokenizer(text).input_ids == [49406, *reference.encode(text), 49407]


def test_clip_tokenizer_names_the_file_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no vocabulary of CLIP at '.*x.gz'. Install open-clip-torch"):
        clip_tokenizer(tmp_path / "x.gz")
