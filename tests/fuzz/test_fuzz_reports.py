"""Reports of strangers: read or one documented error; what they hold reaches a card as text, never as markup."""

import dataclasses
import json
import logging
import re

import pytest
from conftest import tiny_config
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from mutators import ODD_VALUES, json_bytes, spoil_json

from modeling_amns import RunReport
from modeling_amns.cards import model_card
from modeling_amns.report import EpochFigures, figures_table

FIGURES = EpochFigures(3.0, rank1=41.37, rank5=70.11, rank10=80.22, mAP=40.43, mINP=27.54)
REPORT = RunReport(
    benchmark="own.csv",
    own_pairs=True,
    noise_rate=0.5,
    noise_seed=7,
    noise_file="noise.npy",
    losses={"bsdm": 1.0},
    best=FIGURES,
    last=dataclasses.replace(FIGURES, epoch=5.0),
    selected_on="val rank1",
    dropped_pairs={"train": 3},
    start="start",
    base_model="org/start",
    training={"seed": 42, "learning_rate": 1e-5, "mask_score": "attention"},
    environment={"torch": "2.13.0"},
    seconds=812.5,
    peak_memory_mb=1931,
    more={"audit": {"doubtful": 0.2}},
)
STATE = {"log_history": [{"epoch": 1.0, "step": 17, "eval_rank1": 12.5, "eval_mAP": 9.5}, {"loss": 3.0, "step": 3}]}
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- ",
    "<details><summary>x</summary>",
    "[x](http://x.example)",
    "![x](http://x.example/x.png)",
    "<http://x.example>",
    "[x]: http://x.example",
    "a|b.csv",
    "a\\|b",
    "a\\",
    "`a`|`b",
    "``` x",
    "~~~",
    "*a* **b** _c_ __d__ ~~e~~",
    "# head",
    "\n# head\n",
    "\r\n\r\n- list",
    "\u2028# head",
    "\n---\nlicense: mit\n---\n",
    "1. one",
    "> quote",
    "a\n\n    code",
    "&lt;b&gt;&#60;b&#62;",
    "{{ 7*7 }}{% raw %}",
    "$x$ $$y$$",
    "\x1b[31mred",
    "\u202etxt.exe",
)


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def content():
    values = dataclasses.asdict(REPORT)
    return values | values.pop("more") | {"best": dict(REPORT.best), "last": dict(REPORT.last)}


def rendered(folder, results, state=STATE):
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "trainer_state.json").write_text(json.dumps(state))
    model_card(folder, "org/name", pictures=["ranking.png"]).save(folder / "README.md")
    return ModelCard.load(folder / "README.md")


def test_spoiled_reports_are_read_or_are_a_documented_error_as_are_their_cards(tmp_path, fuzz):
    config = tiny_config().to_dict()
    odd = (*ODD_VALUES, *HOSTILE)
    outcomes = []

    def check(generator):
        for name, value in (("results.json", content()), ("trainer_state.json", STATE)):
            (tmp_path / name).write_bytes(json_bytes(spoil_json(value, generator, odd), generator))
        data = json.dumps(config).encode()
        if not generator.integers(4):
            data = json_bytes(spoil_json(config, generator, odd), generator)
        (tmp_path / "config.json").write_bytes(data)
        for read in (
            lambda: str(model_card(tmp_path, "org/name")),
            lambda: figures_table(RunReport.load(tmp_path).rows),
        ):
            try:
                read()
                outcomes.append("ok")
            except ValueError as error:
                assert type(error) is ValueError and ".json" in str(error), repr(error)[:1000]
                assert len(str(error)) < 1000 and "\n" not in str(error), str(error)[:1000]
                outcomes.append(str(error))

    fuzz(150, check)
    assert len(outcomes) < 300 or 0.1 < outcomes.count("ok") / len(outcomes) < 0.9


def shape(text):
    """What a reader of Markdown makes of a card, without its words."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    return [token.type for block in tokens for token in (block, *(block.children or ())) if token.type != "text"]


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_markup_in_a_report_reaches_no_card_as_markup(tmp_path, hostile):
    def card(text):
        results = content()
        results |= dict.fromkeys(("benchmark", "noise_file", "selected_on", "start", "base_model"), text)
        results["training"] = {text: 1, "mask_score": text, "list": [text, {text: text}]}
        results["environment"] = {"torch": text, text: text}
        results["dropped_pairs"] = {text: 3}
        results["losses"] = {text: 1.0}
        return rendered(tmp_path, results)

    plain, spoiled = card("word"), card(hostile)
    assert shape(spoiled.text) == shape(plain.text), hostile
    assert set(spoiled.data.to_dict()) == set(plain.data.to_dict())
    assert not set(spoiled.text) & set("\x1b\u202e\u2028")


@pytest.mark.parametrize("name", ["a|b.csv", "a\\|b.csv", "a\\", "`|`", "<b>.csv", "a\nb", "[a](b)"])
def test_own_pairs_of_any_name_keep_the_tables_columns(tmp_path, name):
    text = rendered(tmp_path, content() | {"benchmark": name}).text
    tokens = MarkdownIt().enable("table").parse(text)
    cells = [token.type for token in tokens if token.type in ("th_open", "tr_open", "td_open")]
    assert cells[:7] == ["tr_open", *["th_open"] * 6]
    # GitHub's parser, unlike this one, pairs backslashes up before it looks at a bar.
    lines = [line for line in text.splitlines() if line.startswith("|")][:4]
    assert [re.sub(r"\\.", "", line).count("|") for line in lines] == [7] * 4
    assert cells[7:21] == ["tr_open", *["td_open"] * 6, "tr_open", *["td_open"] * 6]
    head = next(token for token in tokens if token.type == "inline" and "percent" in token.content)
    read = "".join(child.content for child in head.children)
    assert read == f"{' '.join(name.split())}, test, percent"
