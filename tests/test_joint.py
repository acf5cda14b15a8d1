"""Several benchmarks as one training set: what is whose, how each is evaluated, and that a run says it."""

import json

import pytest
from test_recipe import arguments, start

from modeling_amns import RunReport, evaluation, load_benchmark, make_synthetic_benchmark, recipe
from modeling_amns.cards import model_card
from modeling_amns.data.joint import join_pairs
from modeling_amns.data.tables import dropped_pairs
from modeling_amns.loading import load_checkpoint
from modeling_amns.recipe import DataArguments
from modeling_amns.report import METRICS, EpochFigures

pytestmark = pytest.mark.filterwarnings("ignore:(rstpreid|icfg-pedes). (train|val|test) has")
BOTH = ["rstpreid", "icfg-pedes"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two benchmarks in one folder, of six and of five persons to train on, the second without val."""
    folder = tmp_path_factory.mktemp("data")
    for layout, persons in zip(BOTH, (6, 5)):
        sizes = {"train_identities": persons, "val_identities": 3, "test_identities": 4, "images_per_identity": 2}
        make_synthetic_benchmark(folder, layout=layout, num_workers=1, image_size=(64, 32), **sizes)
    return folder


def test_persons_and_images_of_two_benchmarks_stay_apart_and_rows_in_their_order(root):
    parts = {name: load_benchmark(name, root, "train") for name in BOTH}
    whole = DataArguments(benchmark=BOTH, data_root=str(root)).load_train()
    assert whole.column_names == parts["rstpreid"].column_names and whole.features == parts["rstpreid"].features
    first, second = parts.values()
    assert whole["caption"][:] == first["caption"][:] + second["caption"][:]
    assert whole["person_id"][:] == first["person_id"][:] + [6 + person for person in second["person_id"]]
    assert whole["image_id"][:] == first["image_id"][:] + [12 + image for image in second["image_id"]]
    paths = [f"{name}/{path}" for name, part in parts.items() for path in part["image_path"]]
    assert whole["image_path"][:] == paths
    assert whole[len(first)]["image"].tobytes() == second[0]["image"].tobytes()


def test_captions_are_moved_within_their_own_benchmark(root):
    whole = DataArguments(benchmark=BOTH, data_root=str(root), noise_rate=0.5).load_train()
    for name, rows in zip(BOTH, (slice(0, 24), slice(24, 34))):
        own = load_benchmark(name, root, "train")
        assert sorted(whole["caption"][rows]) == sorted(own["caption"][:])
        assert whole["is_clean"][rows].count(False) == len(own) // 2


def test_missing_pairs_of_all_are_counted_and_truth_of_some_is_refused(root):
    part = load_benchmark("rstpreid", root, "train")
    part.info.description = "rstpreid.\ndropped_pairs: 3"
    assert dropped_pairs(join_pairs({"a": part, "b": part})) == 6
    with pytest.raises(ValueError, match="b says which captions are right .*, a does not"):
        join_pairs({"a": part, "b": part.add_column("is_clean", [True] * len(part))})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"benchmark": ["rstpreid", "rstpreid"]}, "must name one or more sets, each once; found 'rstpreid rstpreid'"),
        ({"benchmark": []}, "must name one or more sets"),
        ({"benchmark": BOTH, "noise_file": "a.npy"}, "noise_file is an index into one benchmark"),
    ],
)
def test_names_that_make_no_joint_set_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**options)


def test_a_run_on_two_benchmarks_reports_each_and_selects_by_their_mean(root, tmp_path):
    data = DataArguments(benchmark=BOTH, data_root=str(root))
    options = {"loss_weights": {"bsdm": 1.0, "identity": 1.0}, "metric_for_best_model": "rank1"}
    options |= {"eval_strategy": "epoch", "save_strategy": "epoch"}
    trainer, report = recipe.run(data, start(), arguments(tmp_path / "run", num_train_epochs=2, **options))
    assert trainer.model.config.num_identities == 11
    assert (report.benchmark, report.selected_on) == ("rstpreid + icfg-pedes", "val/test rank1")
    model, processor = load_checkpoint(tmp_path / "run")
    tests = {name: load_benchmark(name, root, "test") for name in BOTH}
    found = {name: evaluation.evaluate_retrieval(model, processor, test) for name, test in tests.items()}
    for name, figures in found.items():
        best = report.by_benchmark[name]["best"]
        assert {key: best[key] for key in METRICS} == pytest.approx(figures, abs=0.006)
    for key in METRICS:
        assert report.best[key] == pytest.approx(sum(figures[key] for figures in found.values()) / 2, abs=0.006)
    history = trainer.state.log_history
    means = [entry["eval_rank1"] for entry in history if "eval_rank1" in entry]
    each = [[entry[key] for entry in history if key in entry] for key in (f"eval_{name}_rank1" for name in BOTH)]
    assert len(means) == 2 and means == [pytest.approx((one + other) / 2) for one, other in zip(*each)]
    assert trainer.state.best_metric == max(means)
    # Whose classes are whose is read back from the report and from the checkpoint.
    again = RunReport.load(tmp_path / "run")
    assert again.training["persons"] == {"rstpreid": 6, "icfg-pedes": 5} and again.by_benchmark == report.by_benchmark
    kept = next((tmp_path / "run").glob("checkpoint-*/run.json"))
    assert json.loads(kept.read_text())["options"]["persons"] == {"rstpreid": 6, "icfg-pedes": 5}
    card = model_card(tmp_path / "run", "org/name")
    assert card.data.datasets == BOTH and "rstpreid, best" in card.text and "mean, best" in card.text
    results = {(one.dataset_name, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert results["icfg-pedes", "mAP"] == report.by_benchmark["icfg-pedes"]["best"]["mAP"] and len(results) == 10
    swapped = DataArguments(benchmark=BOTH[::-1], data_root=str(root))
    resumed = arguments(tmp_path / "run", num_train_epochs=3, resume_from_checkpoint="true", **options)
    with pytest.raises(ValueError, match="benchmark was .rstpreid . icfg-pedes., now .icfg-pedes . rstpreid"):
        recipe.run(swapped, start(), resumed)


def test_a_report_of_several_benchmarks_with_rows_that_are_none_is_refused(tmp_path):
    row = EpochFigures(1.0, rank1=1.0)
    RunReport("a + b", by_benchmark={"a": {"best": row}}).save(tmp_path)
    assert RunReport.load(tmp_path).by_benchmark["a"]["best"]["rank1"] == 1.0
    (tmp_path / "results.json").write_text(json.dumps({"by_benchmark": {"a": 3}}))
    with pytest.raises(ValueError, match="by_benchmark must hold best and last of each"):
        RunReport.load(tmp_path)
