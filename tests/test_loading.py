"""What tools load is whole and fits together; what is not is one clear error."""

import copy
import dataclasses
import json
import os
import shutil

import pytest
import torch
from conftest import tiny_config, tiny_retrieval_model
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from modeling_amns import AMNSForPersonRetrieval, AMNSModel, AMNSProcessor
from modeling_amns.loading import load_checkpoint
from modeling_amns.recipe import ModelArguments, build, parse_arguments


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, processor):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_retrieval_model(processor, num_identities=4).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory, processor):
    """A CLIP checkpoint as transformers saves it, whose processor crops a square of 224."""
    folder = tmp_path_factory.mktemp("clip")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, **processor.text_config_fields}
    config = CLIPConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 8}, text_config=text, projection_dim=16
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessorPil(resample=0), processor.tokenizer).save_pretrained(folder)
    return folder


def test_model_and_processor_come_in_eval_mode_and_in_the_size_asked_for(checkpoint):
    model, processor = load_checkpoint(checkpoint)
    assert type(model) is AMNSModel and not model.training and processor.image_size == (64, 32)
    model, processor = load_checkpoint(checkpoint, [96, 48], dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16 and tuple(model.config.image_size) == processor.image_size == (96, 48)


def test_a_clip_checkpoint_needs_an_image_size(clip):
    with pytest.raises(ValueError, match="the processor crops .*224.* takes whole images resized to 32x32. Load both"):
        load_checkpoint(clip)
    model, processor = load_checkpoint(clip, [32, 16])
    assert tuple(model.config.image_size) == processor.image_size == (32, 16)
    assert processor.image_processor.resample == 0
    model, processor = load_checkpoint(clip, 64)
    assert tuple(model.config.image_size) == processor.image_size == (64, 64)


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:2000])


def lose(name):
    return lambda folder: (folder / name).unlink()


def lose_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["amns.text_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def break_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights["amns.text_projection.weight"][3, 2] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def shorten(folder):
    """A configuration of fewer layers than the weights have."""
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] -= 1
    (folder / "config.json").write_text(json.dumps(config))


def change(file, **fields):
    def write(folder):
        content = json.loads((folder / file).read_text())
        content["image_processor"] |= fields
        (folder / file).write_text(json.dumps(content))

    return write


def set_token_limit(limit):
    def write(folder):
        content = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**content, "model_max_length": limit}))

    return write


def in_shards(spoil):
    """The weights in several files, one of them spoiled or the index."""

    def write(folder):
        model = AMNSForPersonRetrieval.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="60KB")
        spoil(folder)

    return write


def break_a_shard(folder):
    file = sorted(folder.glob("model-*.safetensors"))[1]
    weights = load_file(file)
    name = min(weights)
    save_file(weights | {name: weights[name] * float("inf")}, file, {"format": "pt"})


def name_a_shard(name):
    def write(folder):
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        index["weight_map"] = dict.fromkeys(index["weight_map"], name)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return write


def pipe_for_a_shard(folder):
    file = sorted(folder.glob("model-*.safetensors"))[1]
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (in_shards(break_a_shard), ValueError, "1 weights hold NaN or infinite values"),
        (in_shards(lambda folder: shorten(folder)), ValueError, "16 weights of the encoders have no place"),
        (in_shards(name_a_shard("../other.safetensors")), ValueError, "'../other.safetensors' is no file of this"),
        (in_shards(name_a_shard("/dev/zero")), ValueError, "'/dev/zero' is no file of this folder"),
        (in_shards(pipe_for_a_shard), ValueError, "is no file of this folder"),
        (shutil.rmtree, OSError, "There is no folder .*spoiled, and no id of the Hub"),
        (lose("config.json"), OSError, "holds no config.json"),
        (lose("model.safetensors"), OSError, "model.safetensors"),
        (cut("model.safetensors"), ValueError, "the model can't be read, was it copied in full.*SafetensorError"),
        (
            shorten,
            ValueError,
            "16 weights of the encoders have no place in the model .*vision_model.encoder.layers.2",
        ),
        (break_a_weight, ValueError, "1 weights hold NaN or infinite values, text_projection.weight first"),
        (lose_a_weight, ValueError, "1 weights are missing, text_projection.weight first; they would be random"),
        (cut("tokenizer.json"), ValueError, "the processor can't be read"),
        (lose("tokenizer.json"), ValueError, "the tokenizer has . tokens and ends captions with .*tokenizer.json"),
        (change("processor_config.json", do_resize=False), ValueError, "the processor skips resize"),
        (change("processor_config.json", do_pad=True), ValueError, "the processor pads images"),
        (set_token_limit(78), ValueError, "cuts captions at 78 tokens, the model has positions for 77. Set"),
        (
            change("processor_config.json", size={"height": 48, "width": 32}),
            ValueError,
            "makes .*48.* to 64x32",
        ),
    ],
)
def test_what_is_not_whole_is_refused(checkpoint, tmp_path, spoil, error, message):
    folder = shutil.copytree(checkpoint, tmp_path / "spoiled")
    spoil(folder)
    with pytest.raises(error, match=message):
        load_checkpoint(folder)


@pytest.fixture(scope="module")
def own_start(tmp_path_factory, processor):
    """A start with overlapping patches, whose preprocessing and token limit are its own."""
    folder = tmp_path_factory.mktemp("start")
    text = {**processor.text_config_fields, "max_position_embeddings": 20}
    vision = {"image_size": [64, 32], "stride": 4}
    AMNSForPersonRetrieval(tiny_config(text_config=text, vision_config=vision)).save_pretrained(folder)
    own = AMNSProcessor.from_tokenizer(copy.deepcopy(processor.tokenizer), [64, 32])
    own.max_tokens = 20
    own.image_processor.image_mean, own.image_processor.resample = (0.5, 0.5, 0.5), 2
    own.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "asked, size, grid",
    [
        ({}, (64, 32), (15, 7)),
        ({"image_size": [96, 32]}, (96, 32), (23, 7)),
        ({"image_size": 48}, (48, 48), (11, 11)),
        ({"stride": 8}, (64, 32), (8, 4)),
        ({"image_size": [48], "stride": 8}, (48, 48), (6, 6)),
    ],
)
def test_fine_tuning_keeps_of_the_start_what_nobody_asked_to_change(own_start, asked, size, grid):
    model, processor = build(ModelArguments(model_name_or_path=str(own_start), **asked), [], 0)
    assert processor.image_size == tuple(model.config.image_size) == size
    assert model.config.vision_config.grid_size == grid
    assert processor.image_processor.image_mean == (0.5, 0.5, 0.5) and processor.image_processor.resample == 2
    assert processor.max_tokens == 20


def test_a_clip_start_keeps_its_square_without_the_crop(clip):
    model, processor = build(ModelArguments(model_name_or_path=str(clip)), [], 0)
    assert processor.image_size == tuple(model.config.image_size) == (32, 32)
    assert not processor.image_processor.do_center_crop and processor.image_processor.resample == 0


def test_a_start_from_scratch_has_the_size_asked_for_and_cuts_at_its_positions(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    arguments = ModelArguments(
        vision_config=sizes, text_config={**sizes, "max_position_embeddings": 9}, vocab_size=600, projection_dim=8
    )
    model, processor = build(arguments, ["a man in a red coat"], 0)
    assert processor.image_size == tuple(model.config.image_size) == (384, 128)
    tokens = processor(text="word " * 50, return_tensors="pt")
    assert tokens.input_ids.shape == (1, 9)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, processor = load_checkpoint(tmp_path)
    assert model.get_text_features(**tokens).pooler_output.shape == (1, 8) and processor.max_tokens == 9
    arguments = dataclasses.replace(arguments, image_size=64, stride=8, text_config={**sizes})
    model, processor = build(arguments, ["a man in a red coat"], 0)
    assert processor.image_size == (64, 64) and model.config.vision_config.grid_size == (7, 7)


def test_an_option_or_a_recipe_names_a_square_by_one_number(tmp_path):
    (tmp_path / "recipe.yaml").write_text("image_size: 64\n")
    output = ["--output_dir", str(tmp_path)]
    for options in (["--image_size", "64"], ["--config", str(tmp_path / "recipe.yaml")]):
        assert parse_arguments([*options, *output])[1].image_size == [64, 64]
    assert parse_arguments(output)[1].image_size is None


def test_what_a_checkpoint_says_of_normalisation_is_taken(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "own")
    change("processor_config.json", do_normalize=False, rescale_factor=0.5)(folder)
    _, processor = load_checkpoint(folder)
    assert processor.normalize_images(torch.full((1, 3, 64, 32), 8, dtype=torch.uint8)).unique().tolist() == [4]


def test_loading_runs_no_code_of_a_folder(checkpoint, tmp_path, monkeypatch):
    """A folder that names code for all its parts, and a user who would agree to anything."""
    folder = shutil.copytree(checkpoint, tmp_path / "foreign")
    change("processor_config.json", image_processor_type="Foreign", auto_map={"AutoImageProcessor": "x.Foreign"})(
        folder
    )
    (folder / "x.py").write_text("raise SystemExit('it ran')")
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    with pytest.raises(ValueError, match="the processor can't be read"):
        load_checkpoint(folder)
