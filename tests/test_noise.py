"""Noise: exactly the stated share, nobody else touched, and the published index files."""

import datasets
import numpy as np
import pytest

from modeling_amns import inject_noise


def pairs(persons):
    rows = {"caption": [f"caption {i}" for i in range(len(persons))], "person_id": list(persons)}
    return datasets.Dataset.from_dict({"image_path": [f"{i}.png" for i in range(len(persons))], **rows})


PERSONS = np.repeat(np.arange(50), 4)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.8, 0.99])
def test_exactly_the_stated_share_of_captions_moves_to_other_persons(rate):
    clean = pairs(PERSONS)
    noisy = inject_noise(clean, rate, seed=3)
    moved = [a != b for a, b in zip(clean["caption"], noisy["caption"])]
    assert sum(moved) == round(rate * len(clean))
    assert noisy["is_clean"][:] == [not value for value in moved]
    assert sorted(noisy["caption"]) == sorted(clean["caption"])
    assert noisy["person_id"][:] == clean["person_id"][:] and noisy["image_path"][:] == clean["image_path"][:]
    source = [int(caption.split()[1]) for caption in noisy["caption"]]
    assert all(PERSONS[i] != PERSONS[j] for i, (j, value) in enumerate(zip(source, moved)) if value)


def test_it_repeats_with_its_seed_and_is_random():
    first, second, other = (inject_noise(pairs(PERSONS), 0.5, seed=seed)["caption"][:] for seed in (1, 1, 2))
    assert first == second != other
    source = np.array([int(caption.split()[1]) for caption in first])
    step = (source - np.arange(len(source)))[source != np.arange(len(source))]
    assert len(np.unique(step)) > 60


def test_captions_of_the_same_person_are_used_only_where_unavoidable_and_counted(caplog):
    with caplog.at_level("WARNING"):
        import logging

        logging.getLogger("modeling_amns").propagate = True
        noisy = inject_noise(pairs([0] * 9 + [1]), 0.95, seed=0)
    assert noisy["is_clean"][:].count(False) == round(0.95 * 10)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_outside_the_range_is_an_error(rate):
    with pytest.raises(ValueError, match=r"noise_rate must lie in \[0, 1\)"):
        inject_noise(pairs(PERSONS), rate)


def test_an_index_file_moves_caption_index_i_to_row_i(tmp_path):
    index = np.arange(200)
    index[[3, 7, 90]] = [7, 90, 3]
    np.save(tmp_path / "n.npy", index)
    noisy = inject_noise(pairs(PERSONS), 0.0, index_file=tmp_path / "n.npy")
    assert noisy["caption"][3] == "caption 7" and noisy["caption"][90] == "caption 3"
    assert [i for i, clean in enumerate(noisy["is_clean"]) if not clean] == [3, 7, 90]


@pytest.mark.parametrize(
    "index, message",
    [
        (np.arange(150), "has 150 entries, the training set 200 pairs"),
        (np.zeros(200, dtype=int), "no permutation of 0 to 199"),
        (np.arange(200.0), "whole numbers in one dimension, found float64"),
        (np.arange(200).reshape(2, 100), "one dimension"),
        (np.array([object()]), "no .npy file of numbers"),
    ],
)
def test_an_index_file_that_does_not_fit_is_an_error(tmp_path, index, message):
    np.save(tmp_path / "n.npy", index, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        inject_noise(pairs(PERSONS), 0.2, index_file=tmp_path / "n.npy")


def test_a_missing_index_file_is_an_error_and_nothing_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no noise index file"):
        inject_noise(pairs(PERSONS), 0.2, index_file=tmp_path / "n.npy")
    assert not list(tmp_path.iterdir())
