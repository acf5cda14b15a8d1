"""Ranking on drawn cases: ties, duplicates, unequal persons, both directions, any block, layout and thread count."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_amns.metrics import QueryRanks, rank_metrics, rank_queries, rank_similarity, similarity_metrics
from modeling_amns.metrics.person_retrieval import ranking


@st.composite
def labelled(draw, values):
    """(queries, query ids, gallery, gallery ids): every person is on both sides; `values` draws a row or a number."""
    persons = draw(st.integers(1, 4))
    sides = []
    for _ in range(2):
        more = draw(st.lists(st.integers(0, persons - 1), max_size=9))
        sides.append(draw(st.permutations([*range(persons), *more])))
    rows = [draw(st.lists(values, min_size=len(ids), max_size=len(ids))) for ids in sides]
    return rows[0], sides[0], rows[1], sides[1]


@st.composite
def matrices(draw):
    """A similarity matrix of few values, hence of many ties, with its ids."""
    _, query_ids, _, gallery_ids = draw(labelled(st.just(0)))
    row = st.lists(st.integers(-2, 2), min_size=len(gallery_ids), max_size=len(gallery_ids))
    return draw(st.lists(row, min_size=len(query_ids), max_size=len(query_ids))), query_ids, gallery_ids


def by_hand(similarity, query_ids, gallery_ids):
    """(first hit, AP, INP) of each query in fractions; equal similarities in gallery order."""
    rows = []
    for scores, person in zip(similarity, query_ids, strict=True):
        order = sorted(range(len(gallery_ids)), key=lambda j: (-scores[j], j))
        hits = [rank for rank, j in enumerate(order, start=1) if gallery_ids[j] == person]
        precision = sum(Fraction(found, rank) for found, rank in enumerate(hits, start=1)) / len(hits)
        rows.append((hits[0], precision, Fraction(len(hits), hits[-1])))
    return rows


def assert_ranked(ranks, rows):
    assert ranks.first_hit.tolist() == [first for first, _, _ in rows]
    assert ranks.average_precision.tolist() == pytest.approx([float(ap) for _, ap, _ in rows], rel=4e-16)
    assert ranks.inverse_negative_penalty.tolist() == [float(inp) for _, _, inp in rows]


@given(matrices(), st.sampled_from([1, 7, 40, 2**20]))
def test_a_matrix_with_ties_ranks_as_by_hand_in_both_directions(case, block_size):
    similarity, query_ids, gallery_ids = case
    rows = by_hand(similarity, query_ids, gallery_ids)
    assert_ranked(rank_similarity(similarity, query_ids, gallery_ids, block_size), rows)
    figures = similarity_metrics(similarity, query_ids, gallery_ids, image_to_text=True, block_size=block_size)
    backward = by_hand(list(zip(*similarity, strict=True)), gallery_ids, query_ids)
    for prefix, ranked in (("", rows), ("i2t_", backward)):
        for place, name in ((1, "mAP"), (2, "mINP")):
            mean = sum(row[place] for row in ranked) / len(ranked)
            assert figures[prefix + name] == pytest.approx(float(100 * mean), rel=1e-15)
        for k in (1, 5, 10):
            assert figures[f"{prefix}rank{k}"] == 100 * sum(first <= k for first, _, _ in ranked) / len(ranked)


@given(labelled(st.lists(st.integers(-1, 1), min_size=4, max_size=4)), st.sampled_from([1, 9, 2**20]))
def test_embeddings_with_duplicates_rank_as_by_hand(case, block_size):
    queries, query_ids, gallery, gallery_ids = case
    # Cosines of such vectors are equal or at least 0.01 apart.
    cosines = [
        [round(sum(map(int.__mul__, q, g)) / (math.hypot(*q) * math.hypot(*g) or 1), 6) for g in gallery]
        for q in queries
    ]
    scales = [2.0 ** (row % 5 - 2) for row in range(len(gallery))]
    scaled = [[scale * value for value in row] for scale, row in zip(scales, gallery, strict=True)]
    ranks = rank_queries(queries, query_ids, scaled, gallery_ids, block_size)
    assert_ranked(ranks, by_hand(cosines, query_ids, gallery_ids))


@given(labelled(st.lists(st.integers(-9, 9), min_size=3, max_size=3)))
def test_string_ids_give_the_figures_of_the_numbers_that_they_stand_for(case):
    queries, query_ids, gallery, gallery_ids = case
    # As numbers, or as numpy's strings, some of these would be one person.
    names = ["7", "07", "7\0", "７"]
    expected = rank_metrics(queries, query_ids, gallery, gallery_ids, image_to_text=True)
    as_names = [[names[person] for person in ids] for ids in (query_ids, gallery_ids)]
    assert rank_metrics(queries, as_names[0], gallery, as_names[1], image_to_text=True) == expected
    huge = [[person + 2**63 - 2 for person in ids] for ids in (query_ids, gallery_ids)]
    assert rank_metrics(queries, huge[0], gallery, huge[1], image_to_text=True) == expected


@settings(max_examples=settings.default.max_examples // 5)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([0, 12, 1000]))
def test_block_and_layout_never_change_a_bit(seed, persons, many_positives):
    generator = np.random.default_rng(seed)
    # Persons of very unequal numbers: the longest row of a block decides how far the others are padded.
    ids = np.sort(generator.integers(0, persons, 90) * generator.integers(0, 2, 90))
    queries, gallery = generator.standard_normal((2, 90, 33)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "MANY_POSITIVES", many_positives)
        whole = rank_queries(queries, ids, gallery, ids)
        for block_size in (1, 180, 700):
            for layout in (np.ascontiguousarray, np.asfortranarray):
                ranks = rank_queries(layout(queries), ids, layout(gallery), ids, block_size)
                for name, value in vars(whole).items():
                    assert torch.equal(getattr(ranks, name), value), name
                assert ranks.metrics() == whole.metrics()


def test_the_number_of_threads_never_changes_a_bit():
    generator = torch.Generator().manual_seed(0)
    ap, inp = torch.rand(2, 200_000, generator=generator, dtype=torch.float64)
    ranks = QueryRanks(torch.ones(200_000, dtype=torch.int64), ap, inp)
    embeddings = torch.randn(3, 100_000, generator=generator)
    before, figures, grids = torch.get_num_threads(), [], []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            figures.append(ranks.metrics())
            grids.append(ranking._on_grid(embeddings, "x"))
    finally:
        torch.set_num_threads(before)
    assert all(found == figures[0] for found in figures)
    assert all(torch.equal(grid, grids[0]) for grid in grids)
    assert figures[0]["mAP"] == 100 * math.fsum(ap.tolist()) / 200_000


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_sums_are_free_of_order_and_of_padding(seed, terms):
    values = torch.rand(5, terms, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    padded = torch.nn.functional.pad(values, (3, 40))
    sums = ranking._exact_sum(values, 300)
    assert torch.equal(sums, ranking._exact_sum(values.flip(1), 300))
    assert torch.equal(sums, ranking._exact_sum(padded, 300))
    assert sums.tolist() == pytest.approx([math.fsum(row) for row in values.tolist()], rel=3e-16)
