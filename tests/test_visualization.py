"""Pictures: frames tell right from wrong, the best comes first, faded patches are those that were dropped."""

import json

import datasets
import numpy as np
import pytest
import torch
from conftest import CAPTIONS, tiny_retrieval_model
from PIL import Image

from modeling_amns import curves, figures
from modeling_amns.cards import model_card
from modeling_amns.curves import draw_training, figure_lines, training_figure
from modeling_amns.evaluation import EmbeddedSplit, embed_split
from modeling_amns.fonts import font_for
from modeling_amns.masking import select_patches
from modeling_amns.report import EpochFigures, RunReport, read_history
from modeling_amns.visualization import (
    BAR,
    BARS,
    DROPPED,
    FONT_SIZE,
    FRAME,
    GAP,
    HEIGHT,
    RIGHT,
    TEXT_WIDTH,
    TILE,
    WRONG,
    draw_masks,
    draw_pair_losses,
    draw_rankings,
    draw_table,
    heat_map,
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


@pytest.fixture(scope="module")
def split(processor):
    """Noise, so that patches differ; the caption of row n was written for image 2 - n."""
    draw = np.random.default_rng(0)
    height, width = processor.image_size
    images = [Image.fromarray(draw.integers(0, 150, (height, width, 3), dtype=np.uint8)) for _ in range(3)]
    gallery = datasets.Dataset.from_dict({"image": images, "person_id": [4, 5, 6], "image_id": [0, 1, 2]})
    queries = datasets.Dataset.from_dict({"caption": CAPTIONS, "person_id": [6, 5, 4], "image_id": [2, 1, 0]})
    return {"gallery": gallery, "queries": queries}, images[::-1]


@pytest.fixture(scope="module")
def seer(processor):
    return tiny_retrieval_model(processor).amns.eval()


def cell(sheet, row, left, width):
    """A picture of a table, as it was pasted."""
    top = sheet.height - GAP - 3 * (TILE + GAP) + row * (TILE + GAP)
    return np.asarray(sheet.crop((left, top, left + width, top + TILE))).astype(int)


def test_dropped_patches_are_grey_exactly_where_the_scores_drop_them(seer, processor, split):
    """A picture of the whole road, read from its pixels, against scores that are computed here."""
    split, images = split
    sheet = figures.masks_picture(seer, processor, split, keep_ratio=0.4)
    batch = processor(images=images, text=CAPTIONS, padding=True, return_tensors="pt")
    seer.set_attn_implementation("eager")  # which alone gives its maps
    with torch.no_grad():
        output = seer(**batch, output_attentions=True)
        states = seer.vision_model(batch["pixel_values"]).last_hidden_state[:, 1:]
        patches = seer.visual_projection(seer.vision_model.post_layernorm(states))
        attention = torch.stack(output.vision_model_output.attentions).mean(2)[:, :, 0, 1:]
        similarity = torch.nn.functional.cosine_similarity(patches, output.text_embeds[:, None], dim=-1)
    wanted = {"attention": attention.mean(0), "attention_last": attention[-1], "text": similarity}
    rows, columns = seer.grid_size
    width = TILE * images[0].width // images[0].height
    assert list(figures.TITLES) == [*wanted, "random"]
    left = TEXT_WIDTH + 2 * GAP
    assert np.abs(cell(sheet, 0, left, width) - np.asarray(images[0].resize((width, TILE)))).max() == 0
    for scores in wanted.values():
        left += width + GAP
        for row, own in enumerate(scores):
            pixels = cell(sheet, row, left, width)
            kept = set(own.topk(-(-len(own) * 2 // 5)).indices.tolist())
            for patch in range(rows * columns):
                y, x = (patch // columns * TILE // rows, patch % columns * width // columns)
                inner = pixels[y + 4 : y + TILE // rows - 4, x + 4 : x + width // columns - 4]
                assert (inner == DROPPED).all() == (patch not in kept) and (inner == DROPPED).all() == (
                    inner > 160
                ).all()
    # The random ones are as many, and the same in each picture.
    again = figures.masks_picture(seer, processor, split, keep_ratio=0.4)
    assert (np.asarray(again) == np.asarray(sheet)).all()


def test_a_map_is_light_where_the_score_is_high_and_keeps_the_image_apart():
    scores = torch.tensor([0.1, 0.9, 0.3, 0.5])
    for ground in ("black", "white"):
        pixels = np.asarray(heat_map(flat(ground), scores, (2, 2))).sum(-1).astype(int)
        light = [pixels[y, x] for y in (3, 76) for x in (3, 36)]
        assert np.argsort(light).tolist() == scores.argsort().tolist()
    assert np.asarray(heat_map(flat("white"), torch.ones(4), (2, 2))).std((0, 1)).max() == 0
    red, green = (np.asarray(heat_map(flat(colour), scores, (2, 2))) for colour in ("#4c4c4c", "red"))
    assert np.abs(red.astype(int) - green).max() <= 1  # of the image only its light is left


def test_a_table_writes_its_titles_above_its_columns_and_cuts_none_off():
    title = "a title wider\nthan its picture"
    sheet = draw_table(["a man", "a woman"], {"image": [flat("red")] * 2, title: [flat("blue", (20, 80))] * 2})
    dark = np.asarray(sheet.convert("L")) < 100
    head = sheet.height - 2 * (TILE + GAP) - GAP
    first, second = TEXT_WIDTH + 2 * GAP, TEXT_WIDTH + 3 * GAP + TILE // 2
    assert dark[:head, first:second].any() and dark[:head, second:].any() and not dark[:head, :first].any()
    assert not dark[0].any() and not dark[:head, -2:].any()
    colours = [sheet.getpixel((x + 9, head + 99)) for x in (first, second)]
    assert colours == [(255, 0, 0), (0, 0, 255)]


HISTORY = [
    {"epoch": 0.5, "step": 5, "loss": 9.0, "loss_bsdm": 80.0, "loss_identity": 2.0, "learning_rate": 1e-3},
    {"epoch": 1.0, "step": 10, "eval_rank1": 40.0, "eval_mAP": 30.0, "eval_runtime": 3.0},
    {"epoch": 1.5, "step": 15, "loss": 7.0, "loss_bsdm": 20.0, "loss_identity": float("nan")},
    {"epoch": 2.0, "step": 20, "eval_rank1": 55.5, "eval_mAP": "broken"},
    {"epoch": 2.0, "step": 20, "test_rank1": 50.0},
    {"step": 20, "eval_rank1": 1.0},
]


def test_curves_show_what_the_run_has_logged():
    pytest.importorskip("matplotlib")
    drawn = [
        {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
        for axes in training_figure(HISTORY).axes
    ]
    assert drawn == [
        {"Rank-1": [[1.0, 40.0], [2.0, 55.5]], "mAP": [[1.0, 30.0]]},
        {"bsdm": [[0.5, 80.0], [1.5, 20.0]], "identity": [[0.5, 2.0]]},
    ]
    # A factor of 40 between the parts; figures in percent begin at 0.
    assert [axes.get_yscale() for axes in training_figure(HISTORY).axes] == ["linear", "log"]
    assert training_figure(HISTORY).axes[0].get_ylim()[0] == 0
    assert training_figure([{"epoch": 1.0, "loss": 3.0}]) is None and len(training_figure(HISTORY[:1]).axes) == 1
    several = figure_lines([{"epoch": 1.0, "eval_a_b_rank1": 3.0, "eval_a_b_rank10": 4.0}])
    assert several == {"Rank-1 (a_b)": [(1.0, 3.0)]}


def test_a_model_s_pictures_are_written_and_one_that_fails_keeps_none_back(
    seer, processor, split, tmp_path, monkeypatch
):
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": HISTORY}))
    embedded = embed_split(seer, processor, split[0])
    monkeypatch.setattr(curves, "require", lambda *_: (_ for _ in ()).throw(ImportError("pip install it")))
    monkeypatch.setattr(figures, "attention_picture", lambda *_: 1 / 0)
    said = figures.write_figures(tmp_path / "a" / "b", seer, processor, split[0], embedded, run=tmp_path)
    assert said == {
        "ranking.png": None,
        "attention.png": "ZeroDivisionError: division by zero",
        "masks.png": None,
        "curves.png": "pip install it",
    }
    assert {file.name for file in (tmp_path / "a" / "b").iterdir()} == {"ranking.png", "masks.png"}


def test_the_card_of_a_run_shows_its_curves(tmp_path):
    pytest.importorskip("matplotlib")
    found = EpochFigures(2.0, rank1=50.0, rank5=60.0, rank10=70.0, mAP=40.0, mINP=30.0)
    RunReport("synthetic-pedes", best=found, last=found).save(tmp_path)
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": HISTORY}))
    assert draw_training(read_history(tmp_path), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG" and picture.width > 800
    text = str(model_card(tmp_path, "org/name", pictures=["curves.png"]))
    assert "![curves.png](./curves.png)" in text and "the parts of the loss" in text
    assert not draw_training([], tmp_path / "none.png") and not (tmp_path / "none.png").exists()
