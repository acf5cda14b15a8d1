"""Masks on drawn scores: the best ceil(rho L) patches in their order, by blocks, as plain Python picks them."""

import math
from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_amns.masking import select_patches


@st.composite
def images(draw):
    """Scores of few values, hence of many ties, [B][L], on a grid, with a block that need not divide it."""
    grid = draw(st.tuples(st.integers(1, 7), st.integers(1, 5)))
    patches = grid[0] * grid[1]
    row = st.lists(st.integers(-3, 3), min_size=patches, max_size=patches)
    return draw(st.lists(row, min_size=1, max_size=3)), grid, draw(st.integers(1, 4))


def block_means(scores, grid, block):
    """Each patch's score becomes the mean of its block, of as much of it as lies in the image."""
    members = {}
    for patch in range(len(scores)):
        members.setdefault((patch // grid[1] // block, patch % grid[1] // block), []).append(patch)
    means = [Fraction(0)] * len(scores)
    for patches in members.values():
        for patch in patches:
            means[patch] = Fraction(sum(scores[p] for p in patches), len(patches))
    return means


def best(scores, count):
    return sorted(sorted(range(len(scores)), key=lambda patch: (-scores[patch], patch))[:count])


@given(images(), st.integers(1, 100), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_selection_is_that_of_a_plain_loop(case, percent, dtype):
    scores, grid, block = case
    count = math.ceil(Fraction(percent, 100) * grid[0] * grid[1])
    kept = select_patches(torch.tensor(scores, dtype=dtype), percent / 100, grid, block)
    assert kept.dtype == torch.int64
    assert kept.tolist() == [best(block_means(row, grid, block), count) for row in scores]


@given(images(), st.integers(1, 100))
def test_an_image_is_masked_as_it_would_be_alone(case, percent):
    scores, grid, block = case
    together = select_patches(torch.tensor(scores).float(), percent / 100, grid, block)
    for row, kept in zip(scores, together, strict=True):
        assert torch.equal(select_patches(torch.tensor([row]).float(), percent / 100, grid, block)[0], kept)


@given(images(), st.integers(1, 99))
def test_a_larger_share_keeps_what_a_smaller_one_kept(case, percent):
    scores, grid, block = case
    few, more = (select_patches(torch.tensor(scores).float(), p / 100, grid, block) for p in (percent, percent + 1))
    assert all(set(a) <= set(b) for a, b in zip(few.tolist(), more.tolist(), strict=True))
