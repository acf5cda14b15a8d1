"""Noise: exactly the stated share, nobody else touched, and the published index files."""

import logging

import datasets
import numpy as np
import pytest

from modeling_amns import inject_noise
from modeling_amns.data.noise import moved_captions, shuffle_persons

PERSONS = np.repeat(np.arange(50), 4)


def pairs(persons):
    rows = {"caption": [f"caption {i}" for i in range(len(persons))], "person_id": list(persons)}
    images = [f"{i}.png" for i in range(len(persons))]
    return datasets.Dataset.from_dict({"image": images, **rows}).cast_column("image", datasets.Image())


def sources(dataset):
    return np.array([int(caption.split()[1]) for caption in dataset["caption"]])


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.8, 0.99])
def test_exactly_the_stated_share_of_captions_moves_to_other_persons(rate):
    noisy = inject_noise(pairs(PERSONS), rate, seed=3)
    source = sources(noisy)
    moved = source != np.arange(200)
    assert moved.sum() == round(rate * 200)
    assert noisy["is_clean"][:] == (~moved).tolist()
    assert sorted(source) == list(range(200))
    assert noisy["person_id"][:] == PERSONS.tolist()
    assert not (PERSONS[source] == PERSONS)[moved].any()


def test_images_stay_files_and_all_columns_stay():
    noisy = inject_noise(pairs(PERSONS), 0.5)  # the image files do not exist
    assert set(noisy.column_names) == {"image", "caption", "person_id", "is_clean"}
    assert noisy.features["is_clean"] == datasets.Value("bool")
    undecoded = noisy.cast_column("image", datasets.Image(decode=False))
    assert undecoded[7]["image"]["path"] == "7.png"


def test_a_selection_of_rows_is_shuffled_within_itself():
    noisy = inject_noise(pairs(PERSONS).select(range(100, 200)), 0.5)
    assert sorted(sources(noisy)) == list(range(100, 200))


def test_it_repeats_with_its_seed():
    first, second, other = (inject_noise(pairs(PERSONS), 0.5, seed=seed) for seed in (1, 1, 2))
    assert first["caption"][:] == second["caption"][:] != other["caption"][:]
    assert first._fingerprint == second._fingerprint


def test_every_caption_may_go_to_every_other_person():
    seen = np.zeros((8, 8), dtype=int)
    persons = np.arange(8) // 2
    for seed in range(600):
        index = shuffle_persons(persons, 8, np.random.default_rng(seed))
        seen[np.arange(8), index] += 1
    allowed = persons[:, None] != persons
    assert (seen[~allowed] == 0).all()
    assert seen[allowed].min() > 60 and seen[allowed].max() < 140  # 100 expected


@pytest.mark.parametrize("seed", range(200))
def test_no_fewer_captions_could_stay_with_their_person(seed):
    generator = np.random.default_rng(seed)
    count = int(generator.integers(2, 12))
    persons = generator.integers(0, generator.integers(1, 5), count)
    index = shuffle_persons(persons, count, generator)
    assert sorted(index) == list(range(count)) and (index != np.arange(count)).all()
    most = np.bincount(persons).max()
    assert (persons[index] == persons).sum() == max(0, 2 * most - count)


def test_captions_of_the_same_person_are_counted_in_the_log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("modeling_amns"), "propagate", True)
    with caplog.at_level("WARNING", logger="modeling_amns"):
        noisy = inject_noise(pairs([0] * 15 + [1] * 5), 0.95, seed=0)
    moved = np.flatnonzero(~np.array(noisy["is_clean"][:]))
    most = max((moved < 15).sum(), (moved >= 15).sum())
    assert f"{2 * most - 19} of 19 moved captions went to a pair of the same person" in caplog.text
    caplog.clear()
    inject_noise(pairs(PERSONS), 0.95)
    assert not caplog.text


def test_one_caption_alone_has_nowhere_to_go():
    assert all(inject_noise(pairs(PERSONS[:10]), 0.1)["is_clean"])


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_outside_the_range_is_an_error(rate):
    with pytest.raises(ValueError, match=r"noise_rate must lie in \[0, 1\)"):
        inject_noise(pairs(PERSONS), rate)


def test_noise_goes_into_clean_training_pairs_only():
    clean = pairs(PERSONS)
    with pytest.raises(ValueError, match="40 captions of the data set were moved already. Start from"):
        inject_noise(inject_noise(clean, 0.2), 0.2)
    with pytest.raises(ValueError, match="found DatasetDict. Test sets stay clean"):
        inject_noise(datasets.DatasetDict(queries=clean), 0.2)
    with pytest.raises(ValueError, match="lacks caption; it has image, person_id"):
        inject_noise(clean.remove_columns("caption"), 0.2)


def test_an_index_file_gives_row_i_the_caption_of_row_index_i(tmp_path):
    index = np.arange(200)
    index[[3, 7, 90]] = [7, 90, 3]
    np.save(tmp_path / "n.npy", index)
    noisy = inject_noise(pairs(PERSONS), 0.0, index_file=tmp_path / "n.npy")
    assert sources(noisy).tolist() == index.tolist()
    assert [i for i, clean in enumerate(noisy["is_clean"]) if not clean] == [3, 7, 90]


def test_an_index_file_of_another_rate_is_an_error(tmp_path):
    np.save(tmp_path / "n.npy", shuffle_persons(PERSONS, 100, np.random.default_rng(0)))
    assert inject_noise(pairs(PERSONS), 0.5, index_file=tmp_path / "n.npy")["is_clean"][:].count(True) == 100
    with pytest.raises(ValueError, match=r"n.npy moves 0.5000 of the captions, noise_rate asks for 0.2"):
        inject_noise(pairs(PERSONS), 0.2, index_file=tmp_path / "n.npy")


@pytest.mark.parametrize(
    "index, message",
    [
        (np.arange(150), "has 150 entries, the training set 200 pairs"),
        (np.zeros(200, dtype=np.int64), "no permutation of 0 to 199"),
        (np.arange(1, 201), "no permutation of 0 to 199"),
        (np.arange(200.0), r"holds float64 of shape \(200,\); expected int64 in one dimension"),
        (np.arange(200, dtype=np.int32), "holds int32"),
        (np.arange(200).reshape(2, 100), r"int64 of shape \(2, 100\)"),
        (np.array([object()]), "no .npy file of numbers"),
    ],
)
def test_an_index_file_that_does_not_fit_is_an_error(tmp_path, index, message):
    np.save(tmp_path / "n.npy", index, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        inject_noise(pairs(PERSONS), 0.0, index_file=tmp_path / "n.npy")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"3 1 2\n", b"PK\x03\x04"])
def test_an_index_file_that_is_broken_is_an_error(tmp_path, content):
    (tmp_path / "n.npy").write_bytes(content)
    with pytest.raises(ValueError, match="n.npy"):
        inject_noise(pairs(PERSONS), 0.0, index_file=tmp_path / "n.npy")


def test_a_missing_index_file_is_an_error_and_nothing_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no noise index file"):
        inject_noise(pairs(PERSONS), 0.2, index_file=tmp_path / "n.npy")
    assert not list(tmp_path.iterdir())


def test_a_wrong_caption_is_clean_nowhere_and_a_right_one_only_where_it_stays():
    said = [row % 3 > 0 for row in range(200)]
    known = pairs(PERSONS).add_column("is_clean", said)
    noisy = inject_noise(known, 0.4, seed=2)
    moved = sources(noisy) != np.arange(200)
    assert moved.sum() == 80
    expected = [bool(right and not gone) for right, gone in zip(said, moved, strict=True)]
    assert noisy["is_clean"][:] == expected and noisy.features["is_clean"] == datasets.Value("bool")
    assert noisy["caption"][:] == inject_noise(pairs(PERSONS), 0.4, seed=2)["caption"][:]
    assert (moved_captions(known), moved_captions(noisy), moved_captions(noisy.select(range(9)))) == (None, 80, 80)


def test_truth_of_some_pairs_only_is_an_error():
    known = pairs(PERSONS).add_column("is_clean", [None, *[True] * 199])
    with pytest.raises(ValueError, match="does not say is_clean of every pair"):
        inject_noise(known, 0.2)
