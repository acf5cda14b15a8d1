"""Pictures: frames tell right from wrong, the best comes first, faded patches are those that were dropped."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_amns.evaluation import EmbeddedSplit
from modeling_amns.fonts import font_for
from modeling_amns.masking import select_patches
from modeling_amns.visualization import (
    BAR,
    BARS,
    FONT_SIZE,
    FRAME,
    GAP,
    HEIGHT,
    RIGHT,
    TEXT_WIDTH,
    WRONG,
    draw_masks,
    draw_pair_losses,
    draw_rankings,
    ranking_picture,
    spread,
)


def flat(colour, size=(40, 80)) -> Image.Image:
    return Image.new("RGB", size, colour)


def tiles(sheet: Image.Image, rows: int, columns: int, ratio: float = 0.5) -> list[list[tuple]]:
    """Colour of frame and of centre of every image of a sheet, read from its pixels."""
    wide, tall = round(HEIGHT * ratio) + 2 * FRAME, HEIGHT + 2 * FRAME
    found = []
    for row in range(rows):
        top = GAP + row * (tall + GAP)
        lefts = [TEXT_WIDTH + 2 * GAP + column * (wide + GAP) for column in range(columns)]
        found.append([(sheet.getpixel((x + 1, top + 1)), sheet.getpixel((x + wide // 2, top + 90))) for x in lefts])
    return found


def test_a_ranking_shows_images_in_their_order_with_the_frame_of_right_or_wrong():
    rows = [[flat("red"), flat("blue")], [flat("lime"), flat("white")]]
    sheet = draw_rankings(["a man", "a woman " * 60], [2, 1], rows, [[False, True], [True, False]])
    assert tiles(sheet, 2, 2) == [
        [(WRONG, (255, 0, 0)), (RIGHT, (0, 0, 255))],
        [(RIGHT, (0, 255, 0)), (WRONG, (255, 255, 255))],
    ]
    text = np.asarray(sheet)[:, :TEXT_WIDTH]
    # Both captions are drawn, and a long one stays in its row and left of the images.
    assert (text[: HEIGHT // 2] < 100).any() and (text[HEIGHT + 20 :] < 100).any()
    between = np.asarray(sheet)[:, TEXT_WIDTH + GAP : TEXT_WIDTH + 2 * GAP]
    assert (between == 255).all() and (np.asarray(sheet)[-GAP:] == 255).all()


def test_a_mask_fades_the_dropped_patches_and_no_other():
    scores = torch.tensor([[0.1, 0.9, 0.8, 0.2], [0.9, 0.1, 0.2, 0.8]])
    sheet = draw_masks([flat("red"), flat("blue")], select_patches(scores, 0.5), (2, 2))
    wide = HEIGHT // 2
    for place, (colour, seen) in enumerate([((255, 0, 0), [False, True, True, False]), ((0, 0, 255), [1, 0, 0, 1])]):
        left = GAP + place * (2 * wide + 2 * GAP)
        assert sheet.getpixel((left + 5, GAP + 5)) == colour
        for patch, kept in enumerate(seen):
            x, y = left + wide + (patch % 2) * wide // 2, GAP + (patch // 2) * HEIGHT // 2
            corners = {sheet.getpixel((x + dx, y + dy)) for dx in (2, wide // 2 - 3) for dy in (2, HEIGHT // 2 - 3)}
            assert (corners == {colour}) == bool(kept) and len(corners) == 1


@pytest.mark.parametrize("total, count, rows", [(10, 5, [0, 2, 4, 6, 8]), (3, 6, [0, 1, 2]), (7, 2, [0, 3])])
def test_rows_are_taken_at_even_distances(total, count, rows):
    assert spread(total, count) == rows


def test_the_picture_of_a_split_ranks_its_whole_gallery(processor):
    """Embeddings are given, so that the order is known: the caption means person 5, whose image is second best."""
    colours = ["red", "blue", "lime"]
    gallery = datasets.Dataset.from_dict(
        {"image": [flat(colour) for colour in colours], "person_id": [4, 5, 6], "image_id": [0, 1, 2]}
    )
    queries = datasets.Dataset.from_dict({"caption": ["a"], "person_id": [5], "image_id": [1]})
    embedded = EmbeddedSplit(torch.eye(3), torch.tensor([4, 5, 6]), torch.tensor([[0.9, 0.4, 0.1]]), torch.tensor([5]))
    sheet = ranking_picture(embedded, processor, {"gallery": gallery, "queries": queries}, columns=2)
    height, width = processor.image_size
    assert tiles(sheet, 1, 2, width / height) == [[(WRONG, (255, 0, 0)), (RIGHT, (0, 0, 255))]]


def test_characters_that_no_font_here_has_are_written_as_code_points(monkeypatch):
    monkeypatch.setattr("modeling_amns.fonts.SYSTEM_FONTS", ())
    _, text = font_for("a red 红 coat", 13)
    assert text == "a red U+7EA2  coat"
    assert font_for("plain", 13)[1] == "plain"
    # The sheet shows two texts that differ in such characters only as two.
    rows = [[flat("red")]], [[True]]
    one, other = (np.asarray(draw_rankings([caption], [1], *rows)) for caption in ("红", "蓝"))
    assert (one != other).any()


def test_bars_of_pair_losses_are_as_high_as_their_pairs_and_cut_by_what_is_plausible():
    losses = [0.0] * 8 + [6.0] * 4 + [None]
    sheet = draw_pair_losses(losses, [1.0] * 8 + [0.25] * 4 + [1.0], [True] * 10 + [False] * 3)

    def rows(bar, colour):
        return [y for y in range(sheet.height) if sheet.getpixel((GAP + bar * BAR + 1, y)) == colour]

    floor = HEIGHT + 2 * FONT_SIZE
    assert (min(rows(0, RIGHT)), rows(0, WRONG)) == (floor - HEIGHT, [])
    assert min(rows(BARS - 1, WRONG)) == floor - HEIGHT // 2
    assert min(rows(BARS - 1, RIGHT)) == floor - HEIGHT // 8 + 1
    assert not rows(BARS // 2, RIGHT)[1:] and not rows(BARS // 2, WRONG), "an empty bar is a line at most"
    middle = GAP + (BARS - 1) * BAR + BAR // 2
    black = [y for y in range(2 * FONT_SIZE, floor) if sheet.getpixel((middle, y)) == (0, 0, 0)]
    assert min(abs(y - (floor - HEIGHT // 4)) for y in black) <= 1, "2 of 8 pairs are wrong"


@pytest.mark.parametrize("losses", [[], [None, None], [0.0, 0.0]])
def test_pairs_of_which_nothing_is_known_are_drawn_too(losses):
    assert draw_pair_losses(losses, [1.0] * len(losses)).size[0] > BARS * BAR
