"""Ranking figures against a brute-force ranking in plain Python."""

import math
import random
import subprocess
import sys

import datasets
import ml_dtypes
import numpy as np
import pytest
import torch

from modeling_amns.metrics.person_retrieval import ranking
from modeling_amns.metrics.ranking import rank_metrics, rank_queries, rank_similarity, similarity_metrics


def brute_force(similarity, query_ids, gallery_ids):
    """Each query's (first hit, AP, INP), gallery sorted by (-similarity, index)."""
    rows = []
    for scores, person in zip(similarity, query_ids, strict=True):
        order = sorted(range(len(gallery_ids)), key=lambda j: (-scores[j], j))
        hits = [rank for rank, j in enumerate(order, start=1) if gallery_ids[j] == person]
        precisions = [found / rank for found, rank in enumerate(hits, start=1)]
        rows.append((hits[0], sum(precisions) / len(hits), len(hits) / hits[-1]))
    return rows


def brute_force_metrics(similarity, query_ids, gallery_ids):
    rows = brute_force(similarity, query_ids, gallery_ids)
    figures = {f"rank{k}": 100 * sum(first <= k for first, _, _ in rows) / len(rows) for k in (1, 5, 10)}
    figures["mAP"] = 100 * sum(ap for _, ap, _ in rows) / len(rows)
    figures["mINP"] = 100 * sum(inp for _, _, inp in rows) / len(rows)
    return figures


def random_case(seed, queries=23, gallery=31, persons=7, levels=None):
    """A similarity matrix as lists, ids with every person on both sides; `levels` few values make many ties."""
    rng = random.Random(seed)
    value = rng.random if levels is None else lambda: rng.randrange(levels) / levels - 0.5
    similarity = [[value() for _ in range(gallery)] for _ in range(queries)]
    ids = [[*range(persons), *(rng.randrange(persons) for _ in range(n - persons))] for n in (queries, gallery)]
    for side in ids:
        rng.shuffle(side)
    return similarity, *ids


@pytest.mark.parametrize("block_size", [1, 31, 100, 2**20])
@pytest.mark.parametrize("levels", [None, 5, 2, 1])
@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_a_brute_force_ranking(seed, levels, block_size):
    similarity, query_ids, gallery_ids = random_case(seed, levels=levels)
    ranks = rank_similarity(similarity, query_ids, gallery_ids, block_size)
    found = list(zip(*(x.tolist() for x in vars(ranks).values()), strict=True))
    assert found == [pytest.approx(row, abs=1e-12) for row in brute_force(similarity, query_ids, gallery_ids)]

    figures = similarity_metrics(similarity, query_ids, gallery_ids, image_to_text=True, block_size=block_size)
    transposed = [list(column) for column in zip(*similarity, strict=True)]
    backward = brute_force_metrics(transposed, gallery_ids, query_ids)
    expected = brute_force_metrics(similarity, query_ids, gallery_ids)
    expected |= {f"i2t_{name}": value for name, value in backward.items()}
    assert figures == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("many_positives", [0, 1000])
@pytest.mark.parametrize("persons", [1, 3, 20])
def test_embeddings_rank_by_exact_cosine(persons, many_positives, monkeypatch):
    monkeypatch.setattr(ranking, "MANY_POSITIVES", many_positives)
    generator = torch.Generator().manual_seed(persons)
    queries, gallery = (torch.randn(20, 6, generator=generator) for _ in range(2))
    ids = [(5 * i) % persons for i in range(20)]
    cosine = [
        [math.fsum(a * b for a, b in zip(q, g)) / (math.hypot(*q) * math.hypot(*g)) for g in gallery.tolist()]
        for q in queries.tolist()
    ]
    figures = rank_metrics(queries, ids, gallery, ids, image_to_text=True)
    assert {k: v for k, v in figures.items() if "i2t" not in k} == pytest.approx(brute_force_metrics(cosine, ids, ids))
    backward = brute_force_metrics([list(column) for column in zip(*cosine)], ids, ids)
    assert {k: figures[f"i2t_{k}"] for k in backward} == pytest.approx(backward)


def test_published_definitions_on_a_ranking_by_hand():
    # The person's images are at ranks 2, 3 and 6 of 6.
    similarity, ids = [[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]], [0, 1, 1, 0, 0, 1]
    assert similarity_metrics(similarity, [1], ids) == pytest.approx(
        {"rank1": 0, "rank5": 100, "rank10": 100, "mAP": 100 * (1 / 2 + 2 / 3 + 3 / 6) / 3, "mINP": 50}
    )


def test_ties_rank_in_gallery_order():
    gallery = torch.ones(4, 8)
    ranks = rank_queries(torch.ones(4, 8), [0, 1, 2, 3], gallery, [0, 1, 2, 3])
    assert ranks.first_hit.tolist() == [1, 2, 3, 4]
    # The wrong twin comes first in one gallery and second in the other.
    query, other = torch.tensor([[1.0, 0.2]]), torch.tensor([[0.9, 0.3]])
    assert rank_queries(query, [1], torch.cat([other, other]), [0, 1]).first_hit.item() == 2
    assert rank_queries(query, [1], torch.cat([other, other]), [1, 0]).first_hit.item() == 1


@pytest.mark.parametrize("block_size", [1, 2000, 2**20])
def test_duplicate_embeddings_tie_to_the_last_bit_whatever_the_block(block_size):
    generator = torch.Generator().manual_seed(0)
    unique = torch.randn(101, 512, generator=generator)
    # Five copies, scaled by powers of two, at positions that matrix kernels treat differently.
    gallery = torch.cat([unique * 2.0**i for i in range(5)])
    queries = torch.randn(8, 512, generator=generator).repeat_interleave(101, dim=0)
    persons = torch.arange(101).repeat(8)
    once = rank_queries(queries, persons, unique, torch.arange(101)).first_hit
    # Each copy is another person, so the order among copies shows: the first copy leads them, the last one trails.
    for copy in (0, 4):
        ranks = rank_queries(queries, persons + 101 * copy, gallery, torch.arange(505), block_size)
        assert torch.equal(ranks.first_hit, 5 * (once - 1) + copy + 1)


def test_block_products_are_free_of_rounding():
    generator = torch.Generator().manual_seed(1)
    queries, gallery = (
        ranking._on_grid(torch.randn(9, 512, generator=generator), "x").double() / ranking._GRID for _ in range(2)
    )
    exact = [[math.fsum(map(float.__mul__, q, g)) for g in gallery.tolist()] for q in queries.tolist()]
    assert (queries @ gallery.T).tolist() == exact
    assert [[q.flip(0) @ g.flip(0) for g in gallery] for q in queries] == exact


def test_block_size_never_changes_a_figure():
    generator = torch.Generator().manual_seed(2)
    queries, gallery = torch.randn(50, 64, generator=generator), torch.randn(60, 64, generator=generator)
    ids = torch.arange(60) % 10
    results = [rank_metrics(queries, ids[:50], gallery, ids, True, block) for block in (1, 60, 61, 777, 10**6)]
    assert all(result == results[0] for result in results)


def test_memory_follows_the_block_and_not_queries_times_gallery(monkeypatch):
    seen = []
    original = ranking._positive_ranks

    def spy(similarity, positives):
        seen.append(tuple(similarity.shape))
        return original(similarity, positives)

    monkeypatch.setattr(ranking, "_positive_ranks", spy)
    rank_metrics(torch.randn(100, 4), [0] * 100, torch.randn(50, 4), [0] * 50, block_size=200)
    assert seen == [(4, 50)] * 25
    seen.clear()
    rank_metrics(torch.randn(3, 4), [0] * 3, torch.randn(50, 4), [0] * 50, block_size=1)
    assert seen == [(1, 50)] * 3


def test_rank_k_of_a_gallery_smaller_than_k_counts_all_of_it():
    figures = rank_metrics([[1.0, 0.0]], [1], [[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]], [0, 0, 1])
    assert (figures["rank1"], figures["rank5"], figures["rank10"]) == (0, 100, 100)
    assert figures["mAP"] == pytest.approx(100 / 3)


def test_inputs_may_be_arrays_lists_half_precision_or_dataset_columns():
    generator = torch.Generator().manual_seed(3)
    queries, gallery = torch.randn(6, 8, generator=generator).half(), torch.randn(6, 8, generator=generator).half()
    ids = [0, 1, 2, 0, 1, 2]
    expected = rank_metrics(queries, torch.tensor(ids), gallery, torch.tensor(ids))
    column = datasets.Dataset.from_dict({"person_id": ids})["person_id"]
    assert rank_metrics(queries.numpy(), np.array(ids, np.int32), gallery.tolist(), column) == expected
    assert rank_metrics(queries.float().requires_grad_(), ids, gallery.bfloat16(), ids).keys() == expected.keys()


KINDS_OF_ROWS = {
    "float32": lambda x: x,
    "negative strides": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "foreign byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "read only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "long double": lambda x: x.astype(np.longdouble),
    "objects": lambda x: x.astype(object),
    "an array of arrays": lambda x: np.array([*x, None], dtype=object)[:-1],
    "a generator": lambda x: (row for row in x),
    "tensors with grad": lambda x: [torch.tensor(row).requires_grad_() for row in x],
    "bfloat16 tensors": lambda x: [torch.tensor(row).bfloat16() for row in x],
    "bfloat16 arrays": lambda x: x.astype(ml_dtypes.bfloat16),
    "numbers that are tensors": lambda x: [[torch.tensor(value) for value in row] for row in x],
    "rows of several kinds": lambda x: [x[0].tolist(), torch.tensor(x[1]).double(), *x[2:]],
}


@pytest.mark.parametrize("kind", KINDS_OF_ROWS)
@pytest.mark.filterwarnings("error")
def test_rows_of_any_kind_give_the_same_figures(kind):
    # Small whole numbers, which every kind holds exactly.
    queries, gallery = np.random.default_rng(5).integers(-9, 10, (2, 6, 4)).astype(np.float32)
    ids = [0, 1, 2, 0, 1, 2]
    given = KINDS_OF_ROWS[kind]
    expected = rank_metrics(queries, ids, gallery, ids)
    assert rank_metrics(given(queries), ids, given(gallery), ids) == expected
    similarity = queries @ gallery.T
    assert similarity_metrics(given(similarity), ids, ids) == similarity_metrics(similarity, ids, ids)


KINDS_OF_IDS = {
    "strings": lambda ids: [f"person {i}" for i in ids],
    "an array of strings": lambda ids: np.array([f"p{i}" for i in ids]),
    "an array of objects": lambda ids: np.array([f"p{i}" for i in ids], dtype=object),
    "a column of strings": lambda ids: datasets.Dataset.from_dict({"id": [f"p{i}" for i in ids]})["id"],
    "numpy's strings": lambda ids: list(np.array([f"p{i}" for i in ids])),
    "tensors": lambda ids: [torch.tensor(i) for i in ids],
    "numpy's numbers": lambda ids: list(np.array(ids)),
    "negative strides": lambda ids: np.array(ids[::-1])[::-1],
    "foreign byte order": lambda ids: np.array(ids).astype(">i8"),
    "unsigned": lambda ids: np.array(ids, dtype=np.uint64) + np.uint64(2**63),
    "numbers beyond 64 bits": lambda ids: [10**30 + i for i in ids],
}


@pytest.mark.parametrize("kind", KINDS_OF_IDS)
def test_ids_of_any_kind_give_the_same_figures(kind):
    queries, gallery = np.random.default_rng(6).standard_normal((2, 6, 4))
    query_ids, gallery_ids = [0, 1, 2, 0, 1, 2], [2, 2, 0, 1, 0, 1]
    given = KINDS_OF_IDS[kind]
    expected = rank_metrics(queries, query_ids, gallery, gallery_ids, True)
    assert rank_metrics(queries, given(query_ids), gallery, given(gallery_ids), True) == expected


def test_persons_whose_names_are_nearly_equal_are_others():
    # Read as numbers, cut at the zero byte or normalised, they would be one.
    names = ["7", "07", "7.0", "7\0", "\uff17", "\u00e9", "e\u0301"]
    unit = torch.eye(len(names))
    assert rank_metrics(unit, names, unit, names) == rank_metrics(unit, range(7), unit, range(7))


def test_length_of_an_embedding_does_not_matter_even_where_squares_overflow():
    generator = torch.Generator().manual_seed(4)
    queries, gallery = (torch.randn(8, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    ids = [0, 1, 2, 3, 0, 1, 2, 3]
    expected = rank_metrics(queries, ids, gallery, ids)
    scale = torch.tensor([2.0**e for e in (-900, -30, 0, 1, 30, 900, 5, -5)], dtype=torch.float64)[:, None]
    assert rank_metrics(queries * scale, ids, gallery * scale, ids) == expected


def test_zero_embedding_is_similar_to_nothing():
    assert rank_queries([[1.0, 0.0]], [0], [[0.0, 0.0], [-1.0, 0.0]], [0, 1]).first_hit.item() == 1


NAN, INF = float("nan"), float("inf")
GOOD = [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((GOOD, [0, 9], GOOD, [0, 1]), r"1 of 2 queries have no item .*query 1 \(person 9\)\."),
        ((GOOD * 4, [0, 9, *range(10, 16)], GOOD, [0, 1]), r"7 of 8 .*query 5 \(person 13\), \.\.\."),
        (([[1.0, 0.0], [NAN, 0.0]], [0, 1], GOOD, [0, 1]), "query_embeddings: NaN or infinity in 1 of 2 rows.*row 1"),
        ((GOOD, [0, 1], [[INF, 0.0], [NAN, 0.0]], [0, 1]), "gallery_embeddings: .* 2 of 2 rows, first in row 0"),
        ((torch.empty(0, 2), [], GOOD, [0, 1]), r"query_embeddings .*at least one row.*\[0, 2\]"),
        ((GOOD, [0, 1], torch.empty(0, 2), []), r"gallery_embeddings .*at least one row.*\[0, 2\]"),
        (([1.0, 0.0], [0, 1], GOOD, [0, 1]), r"query_embeddings must be a matrix.*\[2\]"),
        (([[1.0], [1.0, 0.0]], [0, 1], GOOD, [0, 1]), "query_embeddings must be one float matrix, rows of equal"),
        ((GOOD, [0, 1], [[1.0], [0.0]], [0, 1]), r"query_embeddings \[2, 2\] and gallery_embeddings \[2, 1\]"),
        ((GOOD, [0], GOOD, [0, 1]), r"query_ids must .* expected \[2\], found \[1\]"),
        ((GOOD, [0, 1], GOOD, [[0, 1]]), r"gallery_ids must .* expected \[2\], found \[1, 2\]"),
        ((GOOD, [0.0, 1.0], GOOD, [0, 1]), r"query_ids must be integers, or all .* found 0.0 \(float\) in row 0"),
        ((GOOD, [0, 1], GOOD, torch.ones(2)), r"gallery_ids must be integers.* found 1.0 \(float\) in row 0"),
        ((GOOD, [0, "1"], GOOD, [0, 1]), r"query_ids must be integers, or all .* found '1' \(str\) in row 1"),
        ((GOOD, ["0", 1], GOOD, [0, 1]), r"query_ids must be .* or all of them strings; found 1 \(int\) in row 1"),
        ((GOOD, [0, None], GOOD, [0, 1]), r"query_ids .* found None \(NoneType\) in row 1"),
        ((GOOD, [b"0", b"1"], GOOD, [0, 1]), r"query_ids .* found b'0' \(bytes\) in row 0"),
        ((GOOD, "01", GOOD, [0, 1]), "query_ids must hold one person id per row, found str"),
        ((GOOD, None, GOOD, [0, 1]), "query_ids must hold one person id per row, found NoneType"),
        ((GOOD, ["0", "1"], GOOD, [0, 1]), "query_ids are strings, gallery_ids are integers: .* 7 is not '7'"),
        ((GOOD, ["a", "b" * 999], GOOD, ["a", "c"]), r"query 1 \(person 'b{59}\.\.\.\)\. Leave"),
        ((GOOD, [0, 2**70], GOOD, [0, 1]), rf"query 1 \(person {2**70}\)"),
        (([["a", "b"]] * 2, [0, 1], GOOD, [0, 1]), "query_embeddings must be one float matrix.* type <U1"),
        (([[None, 1.0]] * 2, [0, 1], GOOD, [0, 1]), "query_embeddings must be one float matrix.*NoneType"),
        ((None, [0, 1], GOOD, [0, 1]), "query_embeddings must be one float matrix.*NoneType"),
        ((np.array(GOOD) * 1j, [0, 1], GOOD, [0, 1]), "query_embeddings must be one float matrix, found complex"),
        ((GOOD, [0, 1], GOOD, [0, 1], False, 0), "block_size must be at least 1"),
        ((GOOD, [0, 0], GOOD, [0, 1], True), r"image to text, .*query 1 \(person 1\)"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        rank_metrics(*arguments)


def test_bad_similarity_is_named():
    with pytest.raises(ValueError, match="similarity: NaN or infinity in 1 of 2 rows, first in row 1"):
        similarity_metrics([[0.0, 1.0], [0.0, NAN]], [0, 1], [0, 1])
    with pytest.raises(ValueError, match=r"gallery_ids must .* expected \[3\], found \[2\]"):
        similarity_metrics([[0.0, 1.0, 0.5]], [0], [0, 1])


def test_plain_functions_do_not_import_evaluate():
    code = "import sys, modeling_amns.metrics; assert 'evaluate' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def near_cases():
    """Gallery and queries of 64 columns by name, from well apart to hardly apart; ids four to a person."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1200, 64, generator=generator)
    queries = torch.randn(40, 64, generator=generator)
    twins = noise[::4].repeat_interleave(4, dim=0)
    galleries = {
        "apart": noise,
        "trained": twins + 0.3 * noise,
        "copies": noise[:400].repeat(3, 1),
        "nearly copies": twins.double() + 1e-8 * noise,
        "some zero": noise * (torch.arange(1200) % 9 > 0)[:, None],
        "huge and tiny": noise.double() * 10.0 ** (torch.arange(1200.0).double() % 300 - 150)[:, None],
        "collapsed": 1 + 1e-4 * noise,
        "all the same": torch.ones(1200, 64),
    }
    return {name: (gallery, torch.cat([queries.to(gallery), gallery[:300:30]])) for name, gallery in galleries.items()}


NEAR_CASES = near_cases()


def counted(monkeypatch):
    """How many blocks float64 does alone, a list that grows."""
    blocks, original = [], ranking._Cosines._block
    monkeypatch.setattr(ranking._Cosines, "_block", lambda self, rows: (blocks.append(rows), original(self, rows))[1])
    return blocks


@pytest.mark.parametrize("block_size", [1, 5000, 2**20])
@pytest.mark.parametrize("name", NEAR_CASES)
def test_screening_in_float32_never_changes_a_rank(name, block_size, monkeypatch):
    gallery, queries = NEAR_CASES[name]
    ids = torch.arange(1200) // 4
    asked = torch.cat([torch.arange(40), torch.arange(0, 300, 30) // 4])
    blocks = counted(monkeypatch)
    screened = rank_queries(queries, asked, gallery, ids, block_size)
    # Where little is near it was enough to settle single pairs; where all is near float64 did it all.
    if block_size == 2**20 and name not in ("copies", "some zero"):
        assert bool(blocks) == (name in ("collapsed", "all the same"))
    # Whole numbers, without any float: the grid's own inner products.
    grids = [ranking._on_grid(rows, "x").numpy().astype(object) for rows in (queries, gallery)]
    by_hand = brute_force((grids[0] @ grids[1].T).tolist(), asked.tolist(), ids.tolist())
    found = list(zip(*(x.tolist() for x in vars(screened).values()), strict=True))
    assert found == [pytest.approx(row, abs=1e-12) for row in by_hand]
    monkeypatch.setattr(ranking, "SCREENED", 10**9)
    plain = rank_queries(queries, asked, gallery, ids, block_size)
    assert all(torch.equal(value, getattr(plain, name)) for name, value in vars(screened).items())


def test_float32_scores_lie_within_the_bound():
    generator = torch.Generator().manual_seed(3)
    # Sums without cancellation err most.
    for width, sign in ((3, 0), (512, 0), (512, 1), (1100, 1)):
        queries, gallery = (torch.randn(1000, width, generator=generator) for _ in range(2))
        grids = [ranking._on_grid(rows.abs() if sign else rows, "x") for rows in (queries, gallery)]
        cosines = ranking._Cosines(*grids)
        rough = (grids[0].float() / ranking._GRID) @ cosines.rough.T
        exact = grids[0].double() @ grids[1].double().T / ranking._GRID**2
        assert cosines.screened and (rough.double() - exact).abs().max() < cosines.margin < 2e-5


def test_fewer_bits_of_a_float32_product_turn_screening_off(monkeypatch):
    rows = torch.randn(1000, 8, generator=torch.Generator().manual_seed(4))
    ids = torch.arange(1000)
    blocks = counted(monkeypatch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = rank_queries(rows, ids, rows.flip(0), ids)
    assert not blocks
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        coarse = rank_queries(rows, ids, rows.flip(0), ids)
    finally:
        torch.set_float32_matmul_precision(before)
    assert blocks
    for name, value in vars(rank_queries(rows, ids, rows.flip(0), ids)).items():
        assert torch.equal(value, getattr(inside, name)) and torch.equal(value, getattr(coarse, name))
