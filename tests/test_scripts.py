"""The scripts as a user types them: the whole path on a tiny benchmark, and one clear line on bad input."""

import csv
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import warm_python

from modeling_amns import AMNSTrainingArguments, recipe
from modeling_amns.cards import PICTURES
from modeling_amns.query_figures import read_query_figures
from modeling_amns.recipe import DataArguments

ROOT = Path(__file__).parents[1]


def run(script: str, *options: object) -> subprocess.CompletedProcess:
    return warm_python.run([ROOT / "scripts" / script, *options], dict(os.environ), ROOT)


def run_here(monkeypatch, capsys, script: str, *options: object) -> tuple[int, str]:
    """As `run`, in this process, which has imported everything; for what ends before any work."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, options)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
    return end.value.code, capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("path")
    sizes = ["--train_identities", 16, "--val_identities", 6, "--test_identities", 8, "--images_per_identity", 2]
    made = run("make_synthetic.py", "--root", folder / "data", "--num_workers", 1, *sizes)
    assert made.returncode == 0, made.stderr[-2000:]
    options = ["--config", "scripts/recipes/quickstart.yaml", "--data_root", folder / "data"]
    options += ["--output_dir", folder / "out", "--num_train_epochs", 2, "--noise_rate", 0.25, "--keep_ratio", 0.5]
    options += ["--per_device_train_batch_size", 16, "--use_cpu", "true"]
    done = run("train.py", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done


def test_the_recipe_trains_and_leaves_model_and_results(trained):
    folder, done = trained
    results = json.loads((folder / "out" / "results.json").read_text())
    assert results["benchmark"] == "synthetic-pedes" and results["noise_rate"] == 0.25
    assert {"epoch", "rank1", "rank5", "rank10", "mAP", "mINP"} == set(results["best"]) == set(results["last"])
    assert results["last"]["epoch"] == 2 and results["seconds"] > 0 and results["peak_memory_mb"] > 100
    assert "| last, epoch 2 |" in done.stdout and (folder / "out" / "model.safetensors").is_file()
    for weights in ("best", "last"):
        queries = read_query_figures(folder / "out", weights)
        assert round(100 * float((queries["first_hit"] == 1).mean()), 2) == results[weights]["rank1"]
        assert round(100 * float(queries["average_precision"].mean()), 2) == results[weights]["mAP"]


def test_options_in_json_are_read_from_the_command_line(tmp_path, monkeypatch, capsys):
    options = ["--loss_weights", '{"sdm": 2, "nothing": 1}', "--vision_config", '{"hidden_size": 48}']
    code, said = run_here(monkeypatch, capsys, "train.py", "--output_dir", tmp_path, "--loss_options", "{}", *options)
    assert code == 1 and "There is no loss 'nothing'" in said.strip().splitlines()[-1]


def test_evaluating_the_saved_model_gives_the_reported_figures(trained):
    folder, _ = trained
    pictures = folder / "pictures"
    done = run("evaluate.py", folder / "out", "--data_root", folder / "data", "--json", "--figures", pictures)
    assert done.returncode == 0, done.stderr[-2000:]
    drawn = {file.name for file in pictures.iterdir()}
    assert {"ranking.png", "attention.png", "masks.png"} <= drawn <= set(PICTURES)
    assert all(f"wrote {pictures / name}" in done.stderr for name in drawn)
    figures = json.loads(done.stdout)
    best = json.loads((folder / "out" / "results.json").read_text())["best"]
    assert set(figures) == {"rank1", "rank5", "rank10", "mAP", "mINP"}
    assert all(figures[name] == pytest.approx(best[name], abs=0.01) for name in figures)


def test_own_pairs_train_and_evaluate_by_options(trained, tmp_path):
    folder, _ = trained
    records = json.loads((folder / "data" / "synthetic-pedes" / "reid_raw.json").read_text())
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "text", "name", "split"])
        for record in records:
            if record["split"] != "val":
                for caption in record["captions"]:
                    table.writerow([record["file_path"], caption, f"p{record['id']}", record["split"]])
    columns = ["--image_column", "file", "--caption_column", "text", "--person_id_column", "name"]
    own = ["--pairs", tmp_path / "pairs.csv", "--image_root", folder / "data" / "synthetic-pedes" / "imgs", *columns]
    options = ["--config", "quickstart", "--output_dir", tmp_path / "out", "--val_split", "test"]
    done = run("train.py", *options, *own, "--num_train_epochs", 1, "--per_device_train_batch_size", 16)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["benchmark"] == "pairs.csv" and results["selected_on"] == "test rank1"
    found = run("evaluate.py", tmp_path / "out", *own, "--json")
    assert found.returncode == 0, found.stderr[-2000:]
    assert json.loads(found.stdout)["mAP"] == pytest.approx(results["best"]["mAP"], abs=0.01)
    # The same persons and images under other names: the benchmark's own loader must agree.
    plain = run("evaluate.py", tmp_path / "out", "--data_root", folder / "data", "--json")
    assert json.loads(plain.stdout) == json.loads(found.stdout)


@pytest.mark.parametrize(
    "recipe, options, message",
    [
        ("no_such_field: 1", [], "has unknown field(s): no_such_field"),
        ("- a\n- b", [], "must map option names to values, found list"),
        ("a: [", [], "is not valid YAML"),
        ("{}", ["--data_root", "/nowhere"], "/nowhere"),
        ("{}", ["--benchmark", "market"], "There is no benchmark 'market'"),
        ("{}", ["--pairs", "/nowhere.csv"], "/nowhere.csv"),
        ("val_split: train", [], "val_split must be val or test"),
        ("keep_ratio: 1.5", [], "keep_ratio must lie in (0, 1]"),
        ("loss_weights: {focal: 1}", [], "There is no loss 'focal'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(tmp_path, monkeypatch, capsys, recipe, options, message):
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe)
    code, said = run_here(monkeypatch, capsys, "train.py", "--config", file, "--output_dir", tmp_path, *options)
    assert code == 1 and message in said.strip().splitlines()[-1] and "Traceback" not in said


def test_a_recipe_or_checkpoint_that_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    code, said = run_here(monkeypatch, capsys, "train.py", "--config", tmp_path / "none.yaml")
    assert code == 1 and "the package's own are cuhk_pedes, icfg_pedes, irra, quickstart, rde, rstpreid" in said
    code, said = run_here(monkeypatch, capsys, "evaluate.py", tmp_path, "--data_root", tmp_path)
    assert code == 1 and "Traceback" not in said and str(tmp_path) in said


@pytest.mark.parametrize(
    "options, refused",
    [
        ({}, False),
        ({"save_strategy": "best"}, False),
        ({"save_strategy": "no"}, False),
        ({"eval_strategy": "no", "save_strategy": "steps"}, False),
        ({"eval_strategy": "steps", "eval_steps": 20, "save_strategy": "steps", "save_steps": 10}, False),
        ({"eval_strategy": "steps", "eval_steps": 10, "save_strategy": "steps", "save_steps": 20}, True),
        ({"save_strategy": "steps"}, True),
    ],
)
def test_a_run_whose_best_epoch_would_have_no_checkpoint_is_refused_at_its_start(tmp_path, options, refused):
    arguments = AMNSTrainingArguments(output_dir=str(tmp_path), report_to="none", **options)
    nowhere = DataArguments(data_root=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError if refused else FileNotFoundError, match="each evaluation needs one|nowhere"):
        recipe.run(nowhere, recipe.ModelArguments(), arguments)


def test_a_model_is_evaluated_on_several_benchmarks_as_on_each(trained, tmp_path):
    """The second is the first one's test persons in another official layout."""
    folder, _ = trained
    sizes = ["--train_identities", 4, "--val_identities", 2, "--test_identities", 6, "--images_per_identity", 2]
    for layout in ("rstpreid", "icfg-pedes"):
        made = run("make_synthetic.py", "--root", tmp_path, "--layout", layout, "--num_workers", 1, *sizes)
        assert made.returncode == 0, made.stderr[-2000:]
    place = ["--data_root", tmp_path, "--json"]
    both = run("evaluate.py", folder / "out", "--benchmark", "rstpreid", "icfg-pedes", *place)
    assert both.returncode == 0, both.stderr[-2000:]
    alone = [run("evaluate.py", folder / "out", "--benchmark", name, *place) for name in ("rstpreid", "icfg-pedes")]
    assert json.loads(both.stdout) == dict(zip(("rstpreid", "icfg-pedes"), (json.loads(one.stdout) for one in alone)))
    missing = run("evaluate.py", folder / "out", "--benchmark", "rstpreid", "cuhk-pedes", *place)
    assert missing.returncode == 1 and "cuhk-pedes: no annotation file" in missing.stderr


@pytest.mark.parametrize("script", ["evaluate.py", "audit_noise.py"])
def test_an_unknown_choice_for_long_captions_is_refused_before_any_work(tmp_path, script, monkeypatch, capsys):
    options = tmp_path, "--data_root", tmp_path, "--long_captions", "split"
    code, said = run_here(monkeypatch, capsys, script, *options)
    assert code == 1 and "long_captions must be one of cut, refuse, windows, found 'split'" in said
