"""Ablations: what a grid asks for, what its runs leave, and what their comparison says."""

import json
import math
import random
import runpy
import shutil
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

from modeling_amns.ablation import (
    CellRunner,
    PersonFigures,
    ablation_page,
    check_grid,
    draw_curves,
    paired_difference,
    read_grid,
    read_records,
    sort_records,
)
from modeling_amns.ablation.grid import as_words
from modeling_amns.data.synthetic import make_synthetic_benchmark
from modeling_amns.data.synthetic.elsewhere import mix_colours
from modeling_amns.query_figures import read_query_figures
from modeling_amns.report import EpochFigures, RunReport
from modeling_amns.run_arguments import parse_arguments

SYNTHETIC = {"root": "/nonexistent/unused", "train_identities": 2, "val_identities": 1, "test_identities": 2}
GRID = {
    "about": "A | trial.",
    "synthetic": SYNTHETIC,
    "base": {"keep_ratio": 1, "report_to": "none"},
    "baseline": "itc",
    "noise_rates": [0, 0.5],
    "seeds": [0, 1],
    "rows": {"itc": {"loss_weights": {"itc": 1}}, "bsdm / 2": {"loss_weights": {"bsdm": 1}, "seeds": [0]}},
}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def figures(values, queries=None) -> PersonFigures:
    values = np.asarray(values, dtype=float)
    return PersonFigures(np.ones(len(values), int) if queries is None else np.asarray(queries), values)


def test_a_rate_is_the_same_run_however_its_number_is_written(tmp_path):
    whole, broken = (
        [cell.digest for cell in read_grid(write(tmp_path / "grid.yaml", {**GRID, "noise_rates": rates})).cells()]
        for rates in ([0, 0.5], [0.0, 0.5])
    )
    assert whole == broken


def test_a_difference_is_the_mean_over_seeds_and_queries():
    draw = random.Random(0)
    queries = [draw.randint(1, 4) for _ in range(30)]
    ours, theirs = ({seed: [draw.random() * 100 for _ in range(30)] for seed in range(3)} for _ in range(2))
    total = sum(q * (ours[seed][p] - theirs[seed][p]) for seed in range(3) for p, q in enumerate(queries))
    rows = [{seed: figures(values, queries) for seed, values in row.items()} for row in (ours, theirs)]
    found = paired_difference(*rows)
    assert found is not None and found.seeds == 3
    assert found.mean == pytest.approx(total / (3 * sum(queries)))
    assert found.low < found.mean < found.high


def test_the_interval_of_one_seed_is_that_of_a_mean_over_persons():
    values = np.random.default_rng(1).normal(3.0, 10.0, 400)
    found = paired_difference({0: figures(values)}, {0: figures(np.zeros(400))})
    assert found is not None
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)
    assert found.excludes_zero and not paired_difference({0: figures(values)}, {0: figures(values)}).excludes_zero


def test_a_hard_person_is_hard_under_each_seed():
    # The same differences under each seed: more seeds say nothing new of the persons, so the interval stays.
    values = np.random.default_rng(2).normal(0.0, 10.0, 300)
    one, five = (
        paired_difference({s: figures(values) for s in range(n)}, {s: figures(np.zeros(300)) for s in range(n)})
        for n in (1, 5)
    )
    assert one is not None and five is not None
    assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.06)


def test_seeds_that_disagree_widen_the_interval():
    persons = np.zeros(300)
    shifts = {0: -3.0, 1: 0.0, 2: 3.0}
    found = paired_difference(
        {s: figures(persons + d) for s, d in shifts.items()}, dict.fromkeys(shifts, figures(persons))
    )
    assert found is not None and found.low < -1.5 and found.high > 1.5
    assert paired_difference({0: figures(persons)}, {1: figures(persons)}) is None
    with pytest.raises(ValueError, match="different persons"):
        paired_difference({0: figures(persons)}, {0: figures(persons[1:])})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rows": {}}, "rows must map names to values, found nothing"),
        ({"row": {}}, "unknown field.s. row; a grid has rows, base.*, like"),
        ({"rows": {"a": {"loss_wieghts": {"itc": 1}}}, "baseline": None}, "row a: .*loss_wieghts"),
        ({"rows": {"a": {"loss_weights": {"ict": 1}}}, "baseline": None}, "row a: There is no loss 'ict'"),
        ({"rows": {"a": {"seed": 3}}, "baseline": None}, "row a: seed can't be set"),
        ({"rows": {"a": {"output_dir": "x"}}, "baseline": None}, "row a: output_dir can't be set"),
        ({"rows": {"a": 3}, "baseline": None}, "row a must map names to values, found int"),
        ({"baseline": "sdm"}, "baseline 'sdm' is no row; the rows are itc, bsdm / 2"),
        ({"noise_rates": [1]}, "noise_rates must lie in"),
        ({"noise_rates": 0.5}, "noise_rates must be a list"),
        ({"seeds": [0.5]}, "seeds must be whole numbers"),
        ({"synthetic": {"train_identities": 3}}, "synthetic takes .*; root is missing"),
        ({"synthetic": {**SYNTHETIC, "people": 3}}, "synthetic takes .*; found people"),
        ({"start": {"option": {}}}, "start has synthetic and options, found option"),
        ({"synthetic": None, "base": {"data_root": "nowhere"}}, "nowhere"),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused_before_its_first_run(tmp_path, change, text):
    path = write(
        tmp_path / "grid.yaml", {name: value for name, value in {**GRID, **change}.items() if value is not None}
    )
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        check_grid(read_grid(path), tmp_path / "start")


@pytest.mark.parametrize("text", ["[1, 2]", "rows: [", "\x00", "rows: {1: {}}"])
def test_a_file_that_is_no_grid_is_refused(tmp_path, text):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"grid\.yaml"):
        read_grid(tmp_path / "grid.yaml")
    with pytest.raises(FileNotFoundError, match="There is no grid"):
        read_grid(tmp_path / "other.yaml")


def test_the_packages_own_grids_are_understood(tmp_path):
    for path in sorted((Path(__file__).parents[1] / "scripts" / "ablations").glob("*.yaml")):
        assert check_grid(read_grid(path), tmp_path)


def test_a_grid_takes_the_setting_of_another_and_keeps_what_it_says_itself(tmp_path):
    write(tmp_path / "setting.yaml", GRID)
    rows = {"sdm": {"loss_weights": {"sdm": 1}}}
    grid = read_grid(write(tmp_path / "grid.yaml", {"like": "setting.yaml", "rows": rows, "seeds": [7]}))
    assert (grid.rows, grid.seeds, grid.noise_rates, grid.base) == (rows, (7,), (0, 0.5), GRID["base"])
    assert grid.synthetic == SYNTHETIC and grid.baseline is None and not grid.about
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        read_grid(write(tmp_path / "grid.yaml", {"like": "nowhere.yaml", "rows": rows}))


def test_options_reach_a_run_as_the_grid_has_them(tmp_path):
    grid = read_grid(write(tmp_path / "grid.yaml", GRID))
    cells = list(grid.cells())
    # Seed by seed: what is there when a grid is cut short can be compared.
    assert [(cell.row, cell.noise_rate, cell.seed) for cell in cells] == [
        ("itc", 0, 0), ("itc", 0.5, 0), ("bsdm / 2", 0, 0), ("bsdm / 2", 0.5, 0), ("itc", 0, 1), ("itc", 0.5, 1),
    ]  # fmt: skip
    data, _, args = parse_arguments(as_words({**cells[-1].options, "output_dir": str(tmp_path)}))
    assert (args.seed, data.noise_rate, data.noise_seed, args.loss_weights) == (1, 0.5, 1, {"itc": 1.0})
    assert args.keep_ratio == 1


@pytest.fixture
def runner(tmp_path):
    """A runner whose runs are over at once: 90 - 40 * noise for itc, two points more for others; `bad` fails."""
    program = tmp_path / "program.py"
    program.write_text(
        "import json, shutil, sys, pathlib\n"
        "words = sys.argv[1:]\n"
        "folder = pathlib.Path(words[words.index('--config') + 1]).parent\n"
        "(folder / 'words.txt').write_text(' '.join(words[2:]))\n"
        "if 'bad' in folder.parent.name: sys.exit('train.py: a run that can only fail')\n"
        f"shutil.copytree({str(tmp_path / 'left')!r}, folder, dirs_exist_ok=True)\n"
    )
    left = tmp_path / "left"
    left.mkdir()
    last = EpochFigures(2.0, rank1=50.0, rank5=100.0, rank10=100.0, mAP=75.0, mINP=60.0)
    RunReport("synthetic-pedes", best=last, last=last, seconds=2.0, peak_memory_mb=7).save(left)
    history = [{"epoch": e, "step": e, "eval_rank1": 10.0 * e, "eval_mAP": 5.0 * e} for e in (1, 2)]
    write(left / "trainer_state.json", {"log_history": [{"loss": 1.0, "epoch": 1}, *history]})
    table = {"weights": ["best"] * 4 + ["last"] * 4, "person_id": [3, 1, 1, 3] * 2, "first_hit": [1, 2, 1, 1] * 2}
    table |= {"average_precision": [1.0, 0.5, 1.0, 0.5] * 2, "inverse_negative_penalty": [1.0] * 8}
    datasets.Dataset.from_dict(table).to_parquet(str(left / "queries.parquet"))
    return CellRunner(tmp_path / "runs", tmp_path / "results.jsonl", 2, [sys.executable, str(program)])


def test_a_grid_runs_once_goes_on_after_a_failure_and_names_what_no_longer_belongs(tmp_path, runner):
    rows = {**GRID["rows"], "bad": {"loss_weights": {"sdm": 1}, "seeds": [0], "noise_rates": [0]}}
    grid = read_grid(write(tmp_path / "grid.yaml", {**GRID, "rows": rows}))
    told: list[str] = []
    runner.run(list(grid.cells()), lambda count, record: told.append(f"{count} {record.row}"))
    assert len(told) == 7 and told[-1].startswith("7 ")
    records, others = sort_records(read_records(runner.results), grid.cells())
    assert len(records) == 7 and not others
    failed = [record for record in records if record.failed]
    assert [record.row for record in failed] == ["bad"]
    assert failed[0].failed == "exit code 1: train.py: a run that can only fail"
    ended = next(record for record in records if record.failed is None)
    # Persons in the order of their ids, the last weights' figures.
    assert ended.persons == {"queries": [2, 2], "rank1": [50.0, 100.0], "mAP": [75.0, 75.0]}
    assert ended.curve == [[1, 10.0, 5.0], [2, 20.0, 10.0]]

    page = ablation_page(grid, records)
    assert "A \\| trial." in page and "| itc | 2 | 50.00 ± 0.00 | 75.00 ± 0.00 | 50.00 | 0.00 | – | – |" in page
    assert "| bsdm / 2 | 1 | 50.00 | 75.00 | 50.00 | 0.00 | +0.00 [+0.00, +0.00] |" in page
    assert "- bad, noise 0, seed 0: failed, exit code 1" in page and "| itc | 50.00 | +0.0 % |" in page
    pytest.importorskip("matplotlib")
    draw_curves(tmp_path / "curves.png", grid, records)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")

    changed = {**GRID["rows"], "itc": {"loss_weights": {"itc": 2}}}
    changed_grid = read_grid(write(tmp_path / "grid.yaml", {**GRID, "rows": changed}))
    records, others = sort_records(read_records(runner.results), changed_grid.cells())
    assert {record.row for record in records} == {"bsdm / 2"} and {record.row for record in others} == {"itc", "bad"}


def test_a_start_that_fails_is_an_error_of_the_operating_system_which_a_script_says_in_a_line(tmp_path, runner):
    grid = read_grid(write(tmp_path / "grid.yaml", {**GRID, "start": {"options": {"loss_weights": {"sdm": 1}}}}))
    bad = CellRunner(tmp_path / "bad", runner.results, 1, [sys.executable, str(tmp_path / "program.py")])
    with pytest.raises(OSError, match="The start could not be trained: exit code 1: train.py: a run that can only"):
        bad.make_start(grid)


def test_a_run_goes_on_from_its_own_checkpoint_only(tmp_path, runner):
    grid = read_grid(write(tmp_path / "grid.yaml", GRID))
    cell = next(iter(grid.cells()))
    runner.run([cell], lambda *_: None)
    folder = runner.place(cell)
    assert "--overwrite_output_dir true" in (folder / "words.txt").read_text()
    (folder / "words.txt").unlink()
    runner.run([cell], lambda *_: None)
    # It is whole: read again, not run again.
    assert not (folder / "words.txt").exists()
    (folder / "results.json").unlink()
    (folder / "checkpoint-10").mkdir()
    runner.run([cell], lambda *_: None)
    assert "--resume_from_checkpoint true" in (folder / "words.txt").read_text()
    (folder / "cell.txt").write_text("of other options")
    runner.run([cell], lambda *_: None)
    assert "--overwrite_output_dir true" in (folder / "words.txt").read_text()


def test_rows_of_any_name_have_folders_of_their_own(tmp_path, runner):
    rows = {name: {"loss_weights": {"itc": 1}} for name in ("a/b", "a b", "..", "é", "a" * 300)}
    cells = list(read_grid(write(tmp_path / "g.yaml", {**GRID, "rows": rows, "baseline": None})).cells())
    places = {runner.place(cell) for cell in cells}
    assert len(places) == len(cells)
    assert all(place.resolve().is_relative_to(runner.folder.resolve()) for place in places)


def test_a_line_that_a_crash_cut_off_is_left_out_and_a_broken_one_named(tmp_path, runner):
    grid = read_grid(write(tmp_path / "grid.yaml", GRID))
    runner.run(list(grid.cells())[:2], lambda *_: None)
    whole = runner.results.read_text()
    runner.results.write_text(whole + whole[:40])
    assert len(read_records(runner.results)) == 2
    runner.results.write_text("{]\n" + whole)
    with pytest.raises(ValueError, match=r"results\.jsonl, line 1, is no record"):
        read_records(runner.results)


def test_people_elsewhere_have_other_colours_and_words(tmp_path):
    sizes = {"train_identities": 2, "val_identities": 1, "test_identities": 1, "images_per_identity": 1}
    options = {**sizes, "image_size": (64, 24), "num_workers": 1}
    plain = make_synthetic_benchmark(tmp_path / "plain", **options)
    other, again = (make_synthetic_benchmark(tmp_path / name, **options, look="elsewhere") for name in "ab")
    files = sorted(path.relative_to(plain) for path in plain.rglob("*.jpg"))
    assert files and all((other / file).read_bytes() == (again / file).read_bytes() for file in files)
    assert all((other / file).read_bytes() != (plain / file).read_bytes() for file in files)
    assert (other / "reid_raw.json").read_bytes() != (plain / "reid_raw.json").read_bytes()
    with pytest.raises(FileExistsError, match="look"):
        make_synthetic_benchmark(tmp_path / "plain", **options, look="elsewhere")
    with pytest.raises(FileExistsError, match="look"):
        make_synthetic_benchmark(tmp_path / "a", **options)
    with pytest.raises(ValueError, match="Unknown look 'new'"):
        make_synthetic_benchmark(tmp_path / "c", **options, look="new")


def test_colours_are_mixed_by_rows_that_keep_grey_grey_before_the_tint():
    from PIL import Image

    grey = Image.new("RGB", (2, 2), (100, 100, 100))
    red, green, blue = mix_colours(grey, np.random.default_rng(0)).getpixel((0, 0))
    assert all(75 - 1 <= value <= 125 + 1 for value in (red, green, blue))


def test_figures_of_queries_are_read_back_or_refused(tmp_path, runner):
    left = tmp_path / "left"
    assert read_query_figures(left, "best")["first_hit"].tolist() == [1, 2, 1, 1]
    with pytest.raises(ValueError, match="no figures of the weights 'first'"):
        read_query_figures(left, "first")
    with pytest.raises(FileNotFoundError, match=r"queries\.parquet"):
        read_query_figures(tmp_path)
    shutil.copy(left / "results.json", left / "queries.parquet")
    with pytest.raises(ValueError, match="is no table of queries"):
        read_query_figures(left)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--jobs", "0"], "jobs must be at least 1, found 0."),
        (["--rows", "itc", "sdm"], "There is no row sdm; the rows are itc, bsdm / 2."),
        (["--noise_rates", "2"], "noise_rates must lie in"),
        (["--benchmark", "cuhk-pedes", "--data_root", "nowhere"], "nowhere"),
    ],
)
def test_the_script_says_what_is_wrong_before_any_run(tmp_path, monkeypatch, capsys, words, text):
    write(tmp_path / "grid.yaml", GRID)
    code, said = ablate(monkeypatch, tmp_path, *words), capsys.readouterr().err
    assert code == 1 and text in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_script_writes_the_table_of_what_is_there(tmp_path, monkeypatch, capsys, runner):
    grid = read_grid(write(tmp_path / "grid.yaml", GRID))
    runner.run(list(grid.cells()), lambda *_: None)
    write(tmp_path / "grid.yaml", {**GRID, "seeds": [0]})
    words = ["--results", str(runner.results), "--table_only", "true"]
    assert ablate(monkeypatch, tmp_path, *words) == 0
    # Lines of the other seed stay in the file and out of the table.
    said = capsys.readouterr().out
    # Two runs at a time end in either order.
    assert "2 line(s)" in said and "itc, noise 0, seed 1" in said and "itc, noise 0.5, seed 1" in said
    assert "| itc | 1 | 50.00 | 75.00 |" in (tmp_path / "out" / "table.md").read_text()


def ablate(monkeypatch, folder: Path, *words: str) -> int:
    script = Path(__file__).parents[1] / "scripts" / "ablate.py"
    told = [str(script), str(folder / "grid.yaml"), "--output_dir", str(folder / "out"), *words]
    monkeypatch.setattr(sys, "argv", told)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    return end.value.code
