"""Spoiled recipes and options: parsed, or one documented error that names what is wrong."""

import logging
import warnings
from pathlib import Path

import pytest
import yaml
from mutators import ODD_VALUES, pick, spoil_bytes, spoil_json

from modeling_amns.recipe import parse_arguments
from modeling_amns.run_options import RECIPES, read_recipe

OWN = sorted(file for folder in RECIPES for file in folder.glob("*.yaml"))
# What yaml.safe_load can make besides what JSON knows.
ODD_TEXTS = (
    "",
    "3",
    "- a\n- b",
    "a: b: c",
    "{",
    "\t",
    "seed: !!python/object/apply:os.system ['touch canary']",
    "seed: !!python/name:os.system",
    "seed: &a [*a]",
    "? [a, b]\n: c",
    "seed: 2020-01-01",
    "seed: !!binary aGk=",
    "seed: !!set {a, b}",
    "1: 2",
    "null: 2",
    "seed: 1\nseed: 2",
    "<<: {seed: 1}",
    "config: other.yaml",
    "help: true",
    "seed: .nan",
    "seed: 1e999",
    "eval_strategy: no",
    "loss_weights: [1, 2]",
    "loss_weights: {bsdm: yes}",
    "report_to: {a: b}",
    "output_dir: [a]",
    "vision_config: [1]",
    "a" * 100_000,
)


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)
    # Reading options writes nothing.
    assert not (tmp_path / "canary").exists()


def outcome(load):
    try:
        load()
    except SystemExit as ended:  # argparse, which has printed its line
        assert ended.code == 2
        return "a line of argparse"
    except (ValueError, FileNotFoundError, ImportError) as error:
        assert type(error) in (ValueError, FileNotFoundError, ImportError), repr(error)[:1000]
        return str(error)
    return "ok"


def parse(folder, text: bytes):
    file = folder / "recipe.yaml"
    file.write_bytes(text)
    return outcome(lambda: parse_arguments(["--config", str(file), "--output_dir", "out", "--report_to", "none"]))


def test_spoiled_recipes_are_read_or_are_a_documented_error(tmp_path, fuzz):
    fields = {name for file in OWN for name in yaml.safe_load(file.read_text())}
    outcomes = []

    def check(generator):
        file = pick(generator, OWN)
        # What YAML does not take as text is a test of its own.
        text = spoil_bytes(file.read_bytes(), generator).decode(errors="replace")
        data = "".join(letter for letter in text if letter.isprintable() or letter == "\n").encode()
        (tmp_path / "recipe.yaml").write_bytes(data)
        outcomes.append(outcome(lambda: read_recipe(tmp_path / "recipe.yaml", fields)))

    fuzz(150, check)
    assert len(outcomes) < 150 or 0.05 < outcomes.count("ok") / len(outcomes) < 0.95


NO_TEXTS = (
    "seed: 1 # \u00e9".encode("latin-1"),
    b"\xff\xfes\0",
    b"seed: 1 \x1d",
    b"? [a, b]\n: yes\n",
    b"seed: 2020-13-45",
    b"[" * 3000,
    b"seed: !!int x",
    b"seed: !!timestamp x",
)


@pytest.mark.parametrize("data", NO_TEXTS, ids=range(len(NO_TEXTS)))
def test_what_yaml_does_not_take_is_an_error_that_names_the_file(tmp_path, data):
    assert "recipe.yaml" in parse(tmp_path, data)


def test_a_long_value_does_not_make_a_long_error(tmp_path):
    message = parse(tmp_path, b"vision_config: {hidden_act: [" + b"x" * 200_000 + b"]}")
    assert "vision_config" in message and len(message) < 3000


@pytest.mark.parametrize("text", ODD_TEXTS, ids=range(len(ODD_TEXTS)))
def test_a_recipe_that_is_none_is_a_documented_error(tmp_path, text):
    parse(tmp_path, text.encode())


def test_odd_values_of_options_are_taken_or_are_a_documented_error(tmp_path, fuzz):
    recipe = {}
    for file in OWN:
        recipe |= yaml.safe_load(file.read_text())
    odd = [value for value in ODD_VALUES if not (isinstance(value, str) and "\0" in value)]

    def check(generator):
        spoiled = spoil_json(recipe, generator, odd, changes=2)
        text = yaml.safe_dump(spoiled, allow_unicode=True) if isinstance(spoiled, dict) else str(spoiled)
        parse(tmp_path, text.encode("utf-8", "surrogatepass"))

    fuzz(40, check)


def test_the_packages_own_recipes_are_sound(tmp_path):
    assert OWN
    for file in OWN:
        assert parse(tmp_path, Path(file).read_bytes()) == "ok", file
