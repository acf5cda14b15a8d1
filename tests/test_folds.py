"""Persons in folds, and runs that leave one out."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from test_recipe import arguments, start

from modeling_amns import RunReport, inject_noise, make_synthetic_benchmark, recipe
from modeling_amns.data.benchmarks import load_benchmark
from modeling_amns.data.folds import Fold, leave_out, pairs_digest, person_folds
from modeling_amns.recipe import DataArguments


def uneven(generator: np.random.Generator, persons: int) -> np.ndarray:
    """Person of each pair; 1 to 9 pairs a person, whose numbers have gaps."""
    numbers = generator.choice(10 * persons, persons, replace=False)
    return generator.permutation(np.repeat(numbers, generator.integers(1, 10, persons)))


def test_folds_part_the_persons_and_none_is_heavier_than_the_average_and_one_person(fuzz):
    def check(generator):
        persons, count = int(generator.integers(2, 40)), int(generator.integers(2, 8))
        ids = uneven(generator, max(persons, count))
        folds = person_folds(ids, count)
        of_person: dict[int, set[int]] = {}
        pairs = dict.fromkeys(range(1, count + 1), 0)
        for person, fold in zip(ids.tolist(), folds.tolist()):
            of_person.setdefault(person, set()).add(fold)
            pairs[fold] += 1
        assert all(len(found) == 1 for found in of_person.values())
        assert min(pairs.values()) > 0
        largest = max(ids.tolist().count(person) for person in of_person)
        assert max(pairs.values()) <= len(ids) / count + largest

    fuzz(30, check)


def test_folds_are_those_of_a_plain_loop_in_any_order_of_the_rows():
    rng = np.random.default_rng(0)
    ids = uneven(rng, 25)
    filled, expected = [0, 0, 0], {}
    for person in sorted(set(ids.tolist()), key=lambda person: (-ids.tolist().count(person), person)):
        place = filled.index(min(filled))
        expected[person] = place + 1
        filled[place] += ids.tolist().count(person)
    for order in (np.arange(len(ids)), rng.permutation(len(ids))):
        assert person_folds(ids[order], 3).tolist() == [expected[person] for person in ids[order].tolist()]


@pytest.mark.parametrize(
    "text, message",
    [
        ("third", "must read I/K, as 1/3 for the first of three folds, found 'third'"),
        ("1/3/4", "must read I/K"),
        ("1.5/3", "must read I/K"),
        ("-1/3", "must read I/K"),
        ("1/1", "left_out_fold 1/1: expected at least 2 folds"),
        ("0/3", "left_out_fold 0/3: expected a fold from 1 to 3"),
        ("4/3", "left_out_fold 4/3: expected a fold from 1 to 3"),
    ],
)
def test_what_is_no_fold_is_refused_with_the_options(text, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(left_out_fold=text)


def test_more_folds_than_persons_and_streams_are_refused():
    pairs = datasets.Dataset.from_dict({"person_id": [0, 0, 4], "caption": list("abc")})
    with pytest.raises(ValueError, match="3 folds of 2 persons: each needs a person"):
        leave_out(pairs, Fold(1, 3))
    with pytest.raises(ValueError, match="left_out_fold 1/2 .* found IterableDataset"):
        leave_out(pairs.to_iterable_dataset(), Fold(1, 2))


def test_the_digest_knows_persons_and_captions_and_not_their_order():
    pairs = datasets.Dataset.from_dict({"person_id": [0, 0, 4], "caption": list("abc")})
    assert pairs_digest(pairs) == pairs_digest(pairs.select([2, 0, 1]))
    for other in ({"person_id": [0, 4, 0], "caption": list("abc")}, {"person_id": [0, 0, 4], "caption": list("abd")}):
        assert pairs_digest(datasets.Dataset.from_dict(other)) != pairs_digest(pairs)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_synthetic_benchmark(
        folder, train_identities=7, val_identities=4, test_identities=4, images_per_identity=2, num_workers=1
    )
    return folder


def test_a_run_lacks_the_persons_of_its_fold_and_has_the_noise_of_the_whole_set(tmp_path, root):
    """With a classifier, whose numbers of persons have gaps then; the last person is among those left out."""
    whole = inject_noise(load_benchmark("synthetic-pedes", root, "train"), 0.5, seed=3)
    folds = person_folds(whole["person_id"][:], 3)
    last = int(folds[whole["person_id"][:].index(6)])
    weights = {"loss_weights": {"sdm": 1.0, "identity": 1.0}, "num_train_epochs": 1}
    args = arguments(tmp_path / "run", **weights)
    data = DataArguments(data_root=str(root), noise_rate=0.5, noise_seed=3, left_out_fold=f"{last}/3")
    trainer, report = recipe.run(data, start(), args)
    rows = trainer.train_dataset.dataset
    kept = np.flatnonzero(folds != last)
    for name in ("caption", "person_id", "image_id", "image_path", "is_clean"):
        assert rows[name][:] == [whole[name][row] for row in kept.tolist()]
    assert 6 not in rows["person_id"][:] and len(set(rows["person_id"][:])) in (4, 5)
    assert trainer.model.config.num_identities == 7
    assert report == RunReport.load(tmp_path / "run")
    assert report.training["left_out_fold"] == f"{last}/3" and report.training["left_out_of"] == pairs_digest(whole)
    assert report.noise_rate == 0.5  # of the whole set, as it was asked for
    (checkpoint,) = Path(tmp_path / "run").glob("checkpoint-*")
    assert json.loads((checkpoint / "run.json").read_text())["options"]["left_out_fold"] == f"{last}/3"
    for other, message in ((f"{last % 3 + 1}/3", f'left_out_fold was "{last}/3", now'), (None, "now null")):
        data.left_out_fold = other
        again = arguments(tmp_path / "run", **weights, resume_from_checkpoint="true")
        with pytest.raises(ValueError, match=message):
            recipe.run(data, start(), again)
