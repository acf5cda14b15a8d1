"""Spoiled checkpoints: a whole model or a documented error, and never a line of code that came with them."""

import contextlib
import json
import logging
import pickle
import shutil
import warnings
import zipfile

import pytest
import torch
from conftest import tiny_retrieval_model
from mutators import ODD_VALUES, json_bytes, pick, spoil_bytes, spoil_json
from safetensors.torch import load_file, save_file

from modeling_amns import AMNSModel
from modeling_amns.adapters import AdapterArguments, add_adapters, load_adapter
from modeling_amns.foreign_files import read_checkpoint
from modeling_amns.loading import load_checkpoint

# Numbers that take memory or time in proportion are a test of their own.
ODD = tuple(value for value in ODD_VALUES if not (isinstance(value, int | float) and value > 1e6))
ODD += (0, 3, 1e-300, "float64", "meta", "auto", "../..", [0, 0], [-1, 3], {"model_type": "clip"}, {"0": 1})
JSON_FILES = ("config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json")


@pytest.fixture(scope="module")
def sound(tmp_path_factory, processor):
    folder = tmp_path_factory.mktemp("sound")
    tiny_retrieval_model(processor, num_identities=4).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, sound):
    pytest.importorskip("peft")
    from modeling_amns import AMNSForPersonRetrieval

    folder = tmp_path_factory.mktemp("adapter")
    model = add_adapters(AMNSForPersonRetrieval.from_pretrained(sound), AdapterArguments(use_peft=True, lora_r=2))
    model.save_pretrained(folder)
    model.config.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def quiet():
    """Warnings about what a spoiled file lacks."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def outcome(load):
    try:
        load()
    except (ValueError, OSError) as error:
        return str(error)
    return "ok"


def spoiled(sound, folder, file, generator):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    data = json.loads((sound / file).read_text(encoding="utf-8"))
    (folder / file).write_bytes(json_bytes(spoil_json(data, generator, ODD), generator))
    return folder


def test_spoiled_settings_give_a_whole_model_or_a_documented_error(sound, tmp_path, fuzz):
    outcomes = []

    def check(generator):
        folder = spoiled(sound, tmp_path / "spoiled", pick(generator, JSON_FILES), generator)
        outcomes.append(outcome(lambda: load_checkpoint(folder)))

    fuzz(60, check)
    assert len(outcomes) < 60 or 0.05 < outcomes.count("ok") / len(outcomes) < 0.95


def test_a_long_value_does_not_make_a_long_error(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "spoiled")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_size"] = ["x" * 200_000]
    (folder / "config.json").write_text(json.dumps(config))
    message = outcome(lambda: load_checkpoint(folder))
    assert message != "ok" and len(message) < 3000


def test_spoiled_weights_give_a_documented_error(sound, tmp_path, fuzz):
    weights = (sound / "model.safetensors").read_bytes()
    shutil.copytree(sound, tmp_path / "spoiled")

    def check(generator):
        # The header is JSON behind its length; what follows is numbers, which may be any.
        head = 8 + int.from_bytes(weights[:8], "little")
        data = spoil_bytes(weights[:head], generator) + weights[head:]
        (tmp_path / "spoiled" / "model.safetensors").write_bytes(data)
        outcome(lambda: load_checkpoint(tmp_path / "spoiled"))

    fuzz(40, check)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The records of a small TorchScript archive."""
    file = tmp_path_factory.mktemp("archive") / "a.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))).save(file)
    with zipfile.ZipFile(file) as found:
        return {info.filename: (found.read(info), info.compress_type) for info in found.infolist()}


def test_spoiled_torchscript_archives_are_tensors_or_a_documented_error(archive, tmp_path, fuzz):
    outcomes = []

    def check(generator):
        named = [name for name in archive if name.endswith(("data.pkl", ".py")) or "/data/" in name]
        chosen = pick(generator, named + [name for name in named if name.endswith("data.pkl")] * 5)
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
            for name, (data, kind) in archive.items():
                file.writestr(name, spoil_bytes(data, generator, 2) if name == chosen else data, kind)
        outcomes.append(outcome(lambda: read_checkpoint(tmp_path / "a.pt")))

    fuzz(300, check)
    assert len(outcomes) < 300 or 0.02 < outcomes.count("ok") / len(outcomes) < 0.95


def test_spoiled_adapters_give_a_whole_model_or_a_documented_error(sound, adapter, tmp_path, fuzz):
    def check(generator):
        folder = spoiled(
            adapter, tmp_path / "spoiled", pick(generator, ("adapter_config.json", "config.json")), generator
        )
        outcome(lambda: load_adapter(folder, sound))

    fuzz(30, check)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"target_modules": "(((a+)+)+)+$"}, "target_modules is .*expected a list of layers' names"),
        ({"target_modules": ["(a+)+$"]}, "target_modules is .*expected a list of layers' names"),
        ({"target_modules": []}, "names no layers"),
        ({"layers_pattern": "(a+)+$", "layers_to_transform": [0]}, "expected the options of plain LoRA alone"),
        ({"rank_pattern": {"(a+)+$": 2}}, "'rank_pattern' is .*expected the options of plain LoRA alone"),
        ({"exclude_modules": "(a+)+$"}, "'exclude_modules' is"),
        ({"layer_replication": [[0, 3]] * 10**6}, "'layer_replication' is"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "'megatron_config' is"),
        ({"init_lora_weights": "pissa_niter_1000000"}, "init_lora_weights is"),
        ({"r": 10**12}, "r is 1000000000000, expected a rank from 1 to 4096"),
        ({"r": 0}, "r is 0, expected a rank"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan, expected a number"),
        ({"lora_dropout": 2}, "lora_dropout is 2, expected a number from 0 to 0.99"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
        ({"base_model_name_or_path": ["x"]}, "expected a folder or a Hub id"),
        ({"a_new_option": "x" * 10**6}, "'a_new_option' is 'x"),
    ],
)
def test_of_an_adapter_only_plain_lora_is_read(sound, adapter, tmp_path, fields, message):
    folder = shutil.copytree(adapter, tmp_path / "spoiled")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | fields))
    with pytest.raises(ValueError, match=message) as caught:
        load_adapter(folder, sound)
    assert len(str(caught.value)) < 500


def test_weights_of_an_adapter_are_safetensors_and_finite(sound, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "spoiled")
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_A" in name)
    save_file(weights | {name: weights[name] * float("nan")}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="1 weights hold NaN or infinite values"):
        load_adapter(folder, sound)
    (folder / "adapter_model.safetensors").unlink()
    torch.save(weights, folder / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match="holds no adapter_model.safetensors"):
        load_adapter(folder, sound)


def test_no_module_that_an_adapter_names_is_imported(sound, adapter, tmp_path, monkeypatch):
    folder = shutil.copytree(adapter, tmp_path / "spoiled")
    canary = tmp_path / "canary"
    (tmp_path / "hostile_module.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"megatron_config": {"a": 1}, "megatron_core": "hostile_module"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with contextlib.suppress(Exception):
        load_adapter(folder, sound)
    assert not canary.exists()


class Canary:
    """A pickle that writes a file as it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


def foreign_code(folder, canary):
    for name in ("hostile", "modeling_amns", "processing_amns", "configuration_amns"):
        (folder / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')\nclass Hostile: pass\n")


def name_it_in(file, *fields):
    def spoil(folder, canary):
        foreign_code(folder, canary)
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        classes = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")
        content["auto_map"] = dict.fromkeys(classes, "hostile.Hostile")
        content["auto_map"]["AutoTokenizer"] = ["hostile.Hostile", None]
        for name in fields:
            content.pop(name, None)
        (folder / file).write_text(json.dumps(content))

    spoil.__name__ = "_without_".join([file, *fields])
    return spoil


def pickled_weights(folder, canary):
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"logit_scale": Canary(canary)}, file)


def zipped_weights(folder, canary):
    (folder / "model.safetensors").unlink()
    torch.save({"logit_scale": Canary(canary)}, folder / "pytorch_model.bin")


def template_that_runs(folder, canary):
    hostile = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for x in range(10**9) %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(hostile)


@pytest.mark.parametrize(
    "spoil",
    [
        foreign_code,
        name_it_in("config.json"),
        name_it_in("config.json", "model_type"),
        name_it_in("processor_config.json"),
        name_it_in("processor_config.json", "processor_class"),
        name_it_in("tokenizer_config.json"),
        name_it_in("tokenizer_config.json", "tokenizer_class"),
        pickled_weights,
        zipped_weights,
        template_that_runs,
    ],
)
def test_no_code_of_a_checkpoint_is_run(sound, tmp_path, spoil, monkeypatch):
    folder = shutil.copytree(sound, tmp_path / "hostile")
    canary = tmp_path / "canary"
    spoil(folder, canary)
    asked = []
    # A tool that is piped `yes` must not ask.
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    outcome(lambda: load_checkpoint(folder))
    # What transformers itself does has errors of many kinds.
    with contextlib.suppress(Exception):
        AMNSModel.from_pretrained(folder)
    assert not canary.exists() and not asked
