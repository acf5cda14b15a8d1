"""What tools load is whole and fits together; what is not is one clear error."""

import json
import shutil

import pytest
import torch
from conftest import tiny_retrieval_model
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from modeling_amns import AMNSModel, AMNSProcessor
from modeling_amns.loading import load_checkpoint


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


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (shutil.rmtree, OSError, "There is no folder .*spoiled, and no id of the Hub"),
        (lose("config.json"), OSError, "holds no config.json"),
        (lose("model.safetensors"), OSError, "model.safetensors"),
        (cut("model.safetensors"), ValueError, "the model can't be read, was it copied in full.*SafetensorError"),
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
