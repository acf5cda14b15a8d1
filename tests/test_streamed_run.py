"""Runs of `train.py` whose pairs are streamed, and runs that are evaluated on other data than they train on."""

import dataclasses
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_recipe import arguments, start

from modeling_amns import RunReport, evaluation, load_benchmark, make_synthetic_benchmark, recipe
from modeling_amns.cards import model_card
from modeling_amns.loading import load_checkpoint
from modeling_amns.report import METRICS
from modeling_amns.run_arguments import DataArguments

LOSSES = {"loss_weights": {"bsdm": 1.0}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two benchmarks of other persons, and the training pairs of the first as shards of Parquet with no split."""
    folder = tmp_path_factory.mktemp("data")
    for layout, seed in (("synthetic-pedes", 0), ("rstpreid", 1)):
        sizes = {"train_identities": 6, "val_identities": 3, "test_identities": 4, "images_per_identity": 2}
        make_synthetic_benchmark(folder, layout=layout, seed=seed, num_workers=1, image_size=(64, 32), **sizes)
    photos = folder / "synthetic-pedes" / "imgs"
    train = load_benchmark("synthetic-pedes", folder, "train")
    rows = [
        {"image": {"bytes": (photos / path).read_bytes(), "path": path}, "caption": caption, "person_id": person}
        for path, caption, person in zip(train["image_path"][:], train["caption"][:], train["person_id"][:])
    ]
    (folder / "shards").mkdir()
    for number in range(3):
        table = pa.Table.from_pylist(rows[number * 8 : number * 8 + 8])
        pq.write_table(table, folder / "shards" / f"{number}.parquet", row_group_size=4)
    return folder


@pytest.fixture
def data(root):
    return DataArguments(
        pairs=f"{root}/shards/*.parquet",
        split_column="none",
        streaming=True,
        eval_benchmark="rstpreid",
        data_root=str(root),
    )


@pytest.mark.filterwarnings("ignore:rstpreid. (train|val|test) has")
def test_a_streamed_run_trains_on_its_shards_and_is_evaluated_on_the_benchmark_that_was_named(tmp_path, root, data):
    options = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
    args = arguments(tmp_path / "run", stream_shuffle_block=5, **LOSSES, **options)
    trainer, report = recipe.run(data, start(), args)
    assert trainer.state.global_step == 6
    # The same vocabulary as of the rows, and all of them were seen: 24 pairs are three steps of 8.
    rows = load_benchmark("synthetic-pedes", root, "train")
    assert (
        trainer.processing_class.tokenizer.get_vocab()
        == recipe.build(start(), rows["caption"][:], 0)[1].tokenizer.get_vocab()
    )
    assert (report.benchmark, report.evaluated_on, report.measured_on) == ("shards", "rstpreid", "rstpreid")
    assert report.selected_on == "val rank1" and report.noise_rate == 0 and not report.by_benchmark
    model, processor = load_checkpoint(tmp_path / "run")
    found = evaluation.evaluate_retrieval(model, processor, load_benchmark("rstpreid", root, "test"))
    assert {key: report.best[key] for key in METRICS} == pytest.approx(found, abs=0.006)
    assert RunReport.load(tmp_path / "run") == report
    card = model_card(tmp_path / "run", "org/name")
    assert {one.dataset_name for one in card.data.eval_results} == {"rstpreid"} and card.data.datasets is None
    assert "Trained on shards" in card.text and "rstpreid, test, percent" in card.text


@pytest.mark.filterwarnings("ignore:rstpreid. (train|val|test) has")
def test_a_streamed_run_that_is_resumed_ends_as_one_that_was_not_stopped(tmp_path, data):
    options = LOSSES | {"stream_shuffle_block": 5, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "no"}
    whole = arguments(tmp_path / "whole", max_steps=5, **options)
    recipe.run(data, start(), whole)
    part = arguments(
        tmp_path / "whole", max_steps=5, resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"), **options
    )
    again = (tmp_path / "whole" / "model.safetensors").read_bytes()
    recipe.run(data, start(), part)
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == again
    told = json.loads((tmp_path / "whole" / "checkpoint-4" / "run.json").read_text())["options"]
    assert told["streaming"] is True and told["eval_benchmark"] == "rstpreid"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"noise_rate": 0.5}, "noise_rate 0.5 needs to know all rows"),
        ({"left_out_fold": "1/3"}, "left_out_fold 1/3 needs to know all rows"),
        ({"eval_benchmark": []}, "split_column none leaves no pairs of shards to evaluate.*--eval_benchmark"),
        ({"eval_benchmark": [], "split_column": "split"}, "streaming reads the training pairs of shards only"),
        ({"eval_benchmark": ["pedes"]}, "There is no benchmark 'pedes'"),
        ({"eval_benchmark": ["rstpreid"] * 2}, "each once"),
        ({"pairs": None, "split_column": "split"}, "streaming is of own pairs"),
    ],
)
def test_data_options_that_a_stream_cannot_take_are_refused_by_name(data, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(data, **change)


@pytest.mark.parametrize(
    "change, message",
    [
        ({}, "pass max_steps"),
        ({"max_steps": 3, "train_sampling_strategy": "group_by_length"}, "group_by_length needs to know all rows"),
        ({"max_steps": 3, "pair_weighting": "mixture"}, "pair_weighting mixture needs to know all rows"),
        ({"max_steps": 3, "loss_weights": {"identity": 1.0}}, "identity needs the number of persons"),
    ],
)
def test_training_options_that_a_stream_cannot_take_are_refused_before_data_are_read(tmp_path, data, change, message):
    nowhere = dataclasses.replace(data, pairs="nowhere/*.parquet", data_root="nowhere")
    with pytest.raises(ValueError, match=message):
        recipe.run(nowhere, start(), arguments(tmp_path / "run", **LOSSES | change))
    assert not (tmp_path / "run" / "results.json").exists()


def test_own_pairs_without_splits_have_nothing_to_rank(data):
    with pytest.raises(
        ValueError, match="split_column none takes all pairs of shards to train on: there are none of test"
    ):
        data.load("test")
    assert len(data.load("train")) == 24


def test_a_folder_of_images_that_is_not_there_is_said_before_the_first_step(tmp_path, root, data):
    (tmp_path / "pairs.csv").write_text("image,caption,person_id\na.jpg,a hat,0\n")
    nowhere = dataclasses.replace(data, pairs=str(tmp_path / "pairs.csv"), image_root=str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="There is no image folder .*nowhere; pass image_root="):
        nowhere.load_parts()
