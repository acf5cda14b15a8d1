"""Noise on drawn data: a permutation, exactly as many as asked for, as few as possible to the same person."""

from itertools import permutations

import datasets
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from modeling_amns.data.noise import inject_noise, shuffle_persons

SEEDS = st.integers(0, 2**31 - 1)
PERSONS = st.lists(st.integers(0, 4), min_size=1, max_size=30).map(np.array)


@given(PERSONS, st.data(), SEEDS)
def test_exactly_the_rows_asked_for_move(persons, data, seed):
    count = data.draw(st.integers(0, len(persons)))
    index = shuffle_persons(persons, count, np.random.default_rng(seed))
    assert index.dtype == np.int64 and sorted(index) == list(range(len(persons)))
    assert (index != np.arange(len(persons))).sum() == (count if count > 1 else 0)
    assert (shuffle_persons(persons, count, np.random.default_rng(seed)) == index).all()


@given(st.lists(st.integers(0, 3), min_size=2, max_size=7).map(np.array), st.data(), SEEDS)
def test_no_other_shuffle_of_the_moved_rows_keeps_fewer_with_their_person(persons, data, seed):
    count = data.draw(st.integers(2, min(6, len(persons))))
    index = shuffle_persons(persons, count, np.random.default_rng(seed))
    moved = np.flatnonzero(index != np.arange(len(persons)))
    least = min(
        sum(persons[row] == persons[source] for row, source in zip(moved, order, strict=True))
        for order in permutations(moved)
        if all(row != source for row, source in zip(moved, order, strict=True))
    )
    assert (persons[index[moved]] == persons[moved]).sum() == least


@given(PERSONS, st.integers(0, 99), SEEDS)
def test_a_noisy_data_set_marks_what_moved_and_keeps_everything_else(persons, percent, seed):
    rows = range(len(persons))
    dataset = datasets.Dataset.from_dict({"person_id": persons, "caption": [f"caption {row}" for row in rows]})
    noisy = inject_noise(dataset, percent / 100, seed)
    sources = [int(caption.split()[1]) for caption in noisy["caption"]]
    wanted = round(percent / 100 * len(persons))
    assert sorted(sources) == list(rows) and noisy["person_id"][:] == persons.tolist()
    assert noisy["is_clean"][:] == [row == source for row, source in zip(rows, sources, strict=True)]
    assert noisy["is_clean"][:].count(False) == (wanted if wanted > 1 else 0)
    assert inject_noise(dataset, percent / 100, seed)["caption"][:] == noisy["caption"][:]
