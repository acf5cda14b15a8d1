"""README and the pages of docs/ are programs: Python runs as printed and in order, commands are accepted."""

import contextlib
import csv
import itertools
import json
import re
import runpy
import shlex
import sys
from argparse import ArgumentParser
from pathlib import Path

import datasets
import pytest
from PIL import Image
from transformers import HfArgumentParser

from modeling_amns import make_synthetic_benchmark
from modeling_amns.cli import OptionParser
from modeling_amns.commands import main as run_command
from modeling_amns.options import with_tables

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What these need is not here: a benchmark, weights of others, the Hub, minutes, somebody who ends a page. Their
# options are read all the same.
TOO_LARGE = re.compile(
    r"demo\.py|make_synthetic|ablate|cuhk|recipes/(?!quickstart)|ViT-B-16|best\.pth|--private|benchmark\.py|pairs\.csv"
    r"|cam3|qdrant://|hf://|outputs/ablation"
)


class Accepted(BaseException):
    """The options of a command were read."""


def commands(text: str) -> list[list[str]]:
    """The words of each command that starts one of the package's programs."""
    lines = [part for line in text.splitlines() for part in line.split("&&")]
    words = [shlex.split(line.removeprefix("accelerate launch ").strip()) for line in lines]
    # Settings of the environment before a program, and its interpreter.
    words = [list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=|python$", word), line)) for line in words]
    return [line for line in words if line and (line[0].endswith(".py") or line[0] == "amns")]


RUN: set[tuple[str, ...]] = set()


def start(words: list[str], monkeypatch) -> None:
    """Runs a program in this process; one that ran before on the same things, or is too large, only reads options."""
    if words[0] == "amns" and words[1] in ("index", "search"):
        if TOO_LARGE.search(" ".join(words)):
            only_read_options(monkeypatch)
        with contextlib.suppress(Accepted):
            assert run_command(words[1:]) == 0, words
        return
    if words[0] == "amns":
        words = [f"scripts/{words[1]}.py", *words[2:]]
    if TOO_LARGE.search(" ".join(words)) or tuple(words[:3]) in RUN:
        only_read_options(monkeypatch)
    else:
        RUN.add(tuple(words[:3]))
    monkeypatch.setattr(sys, "argv", list(words))
    monkeypatch.syspath_prepend(str(Path(words[0]).parent.resolve()))
    with contextlib.suppress(Accepted):
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as end:
            assert not end.code, (words, end.code)


def only_read_options(monkeypatch) -> None:
    def stop_after(kind: type, method: str) -> None:
        original = getattr(kind, method)

        def read(self, *arguments, **options):
            parsed = original(self, *arguments, **options)
            if method != "parse_args_into_dataclasses" or not isinstance(self, OptionParser):
                raise Accepted
            return parsed

        monkeypatch.setattr(kind, method, read)

    stop_after(OptionParser, "parse_all")
    stop_after(HfArgumentParser, "parse_args_into_dataclasses")
    stop_after(ArgumentParser, "parse_args")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a reader has who followed README to its end of the quick start, only small."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("scripts", "modeling_amns"):
        (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    sizes = {"train_identities": 16, "val_identities": 4, "test_identities": 6, "images_per_identity": 2}
    benchmark = make_synthetic_benchmark(folder / "data", num_workers=1, **sizes)
    records = json.loads((benchmark / "reid_raw.json").read_text())
    (folder / "images").symlink_to(benchmark / "imgs", target_is_directory=True)
    with (folder / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "text", "person", "split"])
        table.writerows([r["file_path"], r["captions"][0], r["id"], r["split"]] for r in records)
    (folder / "shards").mkdir()
    for shard in range(3):
        rows = [
            {"image": r["file_path"], "text": r["captions"][0], "person": r["id"]}
            for r in records[shard::3]
            if r["split"] == "train"
        ]
        datasets.Dataset.from_list(rows).to_parquet(str(folder / "shards" / f"{shard}.parquet"), batch_size=4)
    (folder / "photos").mkdir()
    for place in range(3):
        with Image.open(benchmark / "imgs" / records[place]["file_path"]) as image:
            image.save(folder / "photos" / f"{place}.png")
    (folder / "cameras.csv").write_text("path,camera\n0.png,cam_a\n1.png,cam_b\n2.png,cam_a\n")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        start(["scripts/train.py", "--config", "scripts/recipes/quickstart.yaml"], monkeypatch)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_as_printed(page, folder, monkeypatch, own_losses):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "amns_onnx", raising=False)
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks, f"{page} starts with no run"
    names: dict[str, object] = {"__name__": "__main__"}
    for language, text in blocks:
        if language == "python":
            exec(compile(text, f"{page}: {text.splitlines()[0]}", "exec"), names)
            continue
        for words in commands(text):
            with pytest.MonkeyPatch.context() as patch:
                start(words, patch)


def test_a_command_with_an_option_that_is_not_there_is_noticed(folder, monkeypatch):
    monkeypatch.chdir(folder)
    only_read_options(monkeypatch)
    with pytest.raises(AssertionError, match="no_such_option"):
        start(["scripts/train.py", "--no_such_option", "1"], monkeypatch)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", text):
        path, _, heading = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.is_file(), target
        titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        assert not heading or heading in [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles], target


def test_the_table_of_options_is_that_of_the_dataclasses():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert with_tables(page) == page, "run: python -m modeling_amns.options --write docs/training.md"
    assert "| `keep_ratio` | `0.5` |" in page
