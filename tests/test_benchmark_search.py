"""Vectors that look like persons, and what `benchmark.py search` tells of a gallery of them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from modeling_amns.retrieval import lance_store

ROOT = Path(__file__).parents[1]


@pytest.fixture
def persons(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import benchmark_persons

    monkeypatch.setattr(benchmark_persons, "BLOCK", 400)
    return benchmark_persons


def rows_of(persons, rows: int, dimension: int = 32, seed: int = 0) -> np.ndarray:
    return np.concatenate(list(persons.person_blocks(rows, dimension, seed)))


def test_vectors_are_float32_of_length_1_and_the_same_again(persons):
    rows, (queries, _) = rows_of(persons, 1001), persons.person_queries(30, 1001, 32)
    assert rows.shape == (1001, 32) and queries.shape == (30, 32)
    assert rows.dtype == queries.dtype == np.float32
    for vectors in (rows, queries):
        assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
    # Whatever the size: a larger gallery begins as a smaller one.
    assert (rows_of(persons, 450) == rows[:450]).all()
    assert (persons.person_queries(30, 1001, 32)[0] == queries).all()
    assert not np.isclose(rows_of(persons, 450, seed=1), rows[:450]).any(axis=1).all()
    # No block repeats another.
    assert (rows[:400] != rows[400:800]).any(axis=1).all()


def test_images_of_a_person_are_nearer_to_each_other_than_to_others(persons):
    rows = rows_of(persons, 800, 512)
    scores, owner = rows @ rows.T, np.arange(800) // persons.IMAGES
    same = owner[:, None] == owner
    others = np.where(same, -np.inf, scores).max(axis=1)
    mates = np.where(same, scores, np.inf).min(axis=1)
    assert (mates > others).all()


def test_queries_are_near_their_person_and_all_shifted_one_way(persons):
    rows = rows_of(persons, 800, 512)
    queries, asked = persons.person_queries(60, 800, 512)
    best = (queries @ rows.T).argmax(axis=1) // persons.IMAGES
    assert (best == asked).all() and len(set(asked)) > 40
    gap = queries.mean(axis=0) - rows.mean(axis=0)
    gap /= np.linalg.norm(gap)
    # Along the gap the two do not even touch; images alone lie about 0.
    assert (queries @ gap).min() > (rows @ gap).max()
    assert abs((rows @ gap).mean()) < 0.02


def test_the_reference_is_that_of_one_product_of_all(persons):
    rows, (queries, _) = rows_of(persons, 1001), persons.person_queries(20, 1001, 32)
    scores = queries @ rows.T
    assert persons.exact_ranks(queries, 1001, 7) == np.argsort(-scores, axis=1)[:, :7].tolist()
    kept = np.arange(3, 1001, 50)
    wanted = kept[np.argsort(-scores[:, kept], axis=1)[:, :7]].tolist()
    assert persons.exact_ranks(queries, 1001, 7, every=50, offset=3) == wanted


@pytest.mark.parametrize("limit, kind", [(5000, "exact"), (500, "index")])
def test_every_way_to_search_is_measured_at_every_size(persons, monkeypatch, limit, kind):
    monkeypatch.delitem(sys.modules, "benchmark_search", raising=False)
    import benchmark_search

    # In this process: others cost seconds each.
    monkeypatch.setattr(benchmark_search, "apart", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(benchmark_search, "BLOCK", persons.BLOCK)
    monkeypatch.setattr(benchmark_search, "COMMIT", 2)
    monkeypatch.setattr(lance_store, "EXACT_ROWS", limit)
    *table, empty, last = benchmark_search.search_report([1100], queries=10, dimension=16).split("\n")
    figures = json.loads(last)
    ways = [(row["search"], row["filtered"]) for row in figures]
    assert ways == [(f"gallery, {kind}", False), (f"gallery, {kind}", True), ("torch matmul, topk", False)]
    assert len(table) == 2 + len(figures) and not empty
    for row, line in zip(figures, table[2:]):
        assert 0 < row["p50_ms"] <= row["p99_ms"] and row["mib"] > 10
        assert row["recall"] == 1 if kind == "exact" else row["recall"] > 0.95
        assert line.startswith("| 1,100 |") and f"| {row['recall']:.3f} |" in line


def test_a_size_whose_filter_keeps_too_few_is_refused(persons):
    import benchmark_search

    with pytest.raises(ValueError, match="--sizes are 1,000 or more.*found 900"):
        benchmark_search.search_report([900])
