"""A run's report: what it holds comes back, what it does not know is not invented, other weights are told apart."""

import dataclasses
import hashlib
import json
import mmap

import pytest

from modeling_amns import RunReport
from modeling_amns.markdown import markdown_table, plain
from modeling_amns.memory import PeakMemory
from modeling_amns.report import METRICS, EpochFigures, figures_table, find_report

BEST = EpochFigures(3.0, rank1=41.37, rank5=70.11, rank10=80.22, mAP=40.43, mINP=27.54)
FULL = RunReport(
    benchmark="cuhk-pedes",
    noise_rate=0.5,
    noise_seed=7,
    losses={"bsdm": 1.0},
    best=BEST,
    last=dataclasses.replace(BEST, epoch=5.0, rank1=40.0),
    selected_on="val rank1",
    dropped_pairs={"train": 3},
    start="from scratch",
    training={"seed": 42},
    environment={"torch": "2.13.0"},
    seconds=812.5,
    peak_memory_mb=1931,
    weights_sha256="ab",
    more={"audit": {"doubtful": 0.2}},
)


def test_a_saved_report_comes_back_equal_with_fields_of_later_versions(tmp_path):
    FULL.save(tmp_path)
    assert RunReport.load(tmp_path) == FULL
    written = json.loads((tmp_path / "results.json").read_text())
    # The names that DESIGN promises, at the top level.
    assert {"benchmark", "noise_rate", "losses", "best", "last", "seconds", "peak_memory_mb", "audit"} <= set(written)
    assert written["best"] == {"epoch": 3.0, **{name: getattr(BEST, name) for name in METRICS}}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_figures_are_attributes_and_a_mapping_of_what_was_measured():
    known = EpochFigures(1.0, rank1=10.0)
    assert dict(known) == {"epoch": 1.0, "rank1": 10.0} and len(known) == 2 and known.mAP is None
    with pytest.raises(KeyError):
        known["mAP"]
    with pytest.raises(KeyError):
        known["__class__"]
    assert RunReport(best=known).figures == {"rank1": 10.0}
    assert EpochFigures.of(dict.fromkeys(METRICS, 12.3456), 2.3333) == EpochFigures(2.33, *[12.35] * 5)


@pytest.mark.parametrize("lost", [None, "12", float("nan"), True])
def test_a_figure_that_is_no_number_was_not_measured(tmp_path, lost):
    FULL.save(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    content["best"]["mAP"] = lost
    (tmp_path / "results.json").write_text(json.dumps(content))
    report = RunReport.load(tmp_path)
    assert report.best.mAP is None and "mAP" not in report.figures and report.best.rank1 == 41.37
    assert "| best, epoch 3 | 41.37 | 70.11 | 80.22 | not measured | 27.54 |" in figures_table(report.rows)


@pytest.mark.parametrize(
    "field, value",
    [
        *[
            ("benchmark", 3),
            ("best", [1]),
            ("losses", "bsdm"),
            ("seconds", "3"),
            ("own_pairs", 1),
            ("noise_rate", True),
        ],
        *[("noise_rate", float("nan")), ("seconds", 10**400), ("noise_seed", 10**400), ("training", "x" * 999)],
    ],
)
def test_a_field_of_the_wrong_kind_names_file_and_field(tmp_path, field, value):
    (tmp_path / "results.json").write_text(json.dumps({field: value}))
    with pytest.raises(ValueError, match=f"results.json: {field} must be a JSON .*, found") as error:
        RunReport.load(tmp_path)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("count", ["<b>", None, True, 1e400, [3]])
def test_counts_of_dropped_pairs_are_numbers(tmp_path, count):
    (tmp_path / "results.json").write_text(json.dumps({"dropped_pairs": {"train": count}}))
    with pytest.raises(
        ValueError, match="results.json: dropped_pairs must be numbers of pairs by split, found .* 'train'"
    ):
        RunReport.load(tmp_path)


def test_a_folder_without_a_report_says_what_to_pass(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no results.json; pass the output_dir"):
        RunReport.load(tmp_path)
    assert find_report(tmp_path) is None


@pytest.mark.parametrize("names", [["model.safetensors"], ["model-00001-of-00002.safetensors", "model-2.safetensors"]])
def test_a_report_knows_its_weights_from_others(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    sums = [hashlib.sha256(name.encode()).digest() for name in names]
    own = sums[0].hex() if len(names) == 1 else hashlib.sha256(b"".join(sums)).hexdigest()
    report = dataclasses.replace(FULL, weights_sha256=own)
    report.save(tmp_path)
    assert report.belongs_to(tmp_path) and find_report(tmp_path) == report
    (tmp_path / names[-1]).write_bytes(b"of a later run")
    assert not report.belongs_to(tmp_path) and find_report(tmp_path) is None
    # Nothing is known against a report without weights beside it, or without a sum.
    assert report.belongs_to(tmp_path / "elsewhere")
    assert dataclasses.replace(FULL, weights_sha256=None).belongs_to(tmp_path)


def test_text_of_others_stays_text_in_a_table_and_in_a_sentence():
    table = markdown_table(["a|b", "n"], [["x|y\nz", 1]])
    assert table.splitlines() == ["| a\\|b | n |", "| --- | ---: |", "| x\\|y z | 1 |"]
    assert plain("![x](http://y)<script>`a`") == "\\!\\[x\\](http://y)&lt;script&gt;\\`a\\`"


def test_a_mark_of_memory_that_the_system_lowers_does_not_fall(monkeypatch):
    memory = PeakMemory()
    marks = iter([60 * 2**20 + 1, 59 * 2**20, 61 * 2**20])
    monkeypatch.setattr("modeling_amns.memory._peak_resident", lambda: next(marks))
    assert [memory.mib, memory.mib, memory.mib] == [60, 60, 61]


def resident(mib):
    """So much memory fresh from the system: a tensor may be given some that the process held and had free."""
    memory = mmap.mmap(-1, mib * 2**20)
    for page in range(0, len(memory), mmap.PAGESIZE):
        memory[page] = 1
    return memory


def test_peak_memory_is_that_of_the_work_and_not_of_what_came_before():
    resident(150).close()  # gone before the work begins
    memory = PeakMemory()
    start = memory.mib
    work = resident(60)
    grown = memory.mib - start
    assert 55 <= grown <= 90
    work.close()
    assert memory.mib - start >= grown
