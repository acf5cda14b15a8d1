"""Pictures of what a model does, drawn with Pillow: whom it ranks first, what it looks at, what AWM keeps, losses."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .data.collator import load_image
from .evaluation import EmbeddedSplit
from .fonts import font_for
from .metrics.ranking import rank_similarity
from .protocols import PairProcessor

HEIGHT = 160
GAP = 8
FRAME = 4
TEXT_WIDTH = 300
FONT_SIZE = 13
RIGHT, WRONG = (0, 140, 60), (200, 30, 30)
BARS, BAR = 60, 8
# Of tables of pictures: taller, so that patches can be told apart.
TILE = 224
DROPPED = (190, 190, 190)
# Dark for what is scored low to light for what is scored high (inferno, of matplotlib).
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)


def spread(total: int, count: int) -> list[int]:
    """`count` rows at even distances, or all if there are fewer: what is shown is not chosen by its result."""
    count = min(count, total)
    return [row * total // count for row in range(count)]


def draw_rankings(
    captions: Sequence[str],
    first_hits: Sequence[int],
    images: Sequence[Sequence[Image.Image]],
    right: Sequence[Sequence[bool]],
) -> Image.Image:
    """A row for each caption: its text, the rank of the first right image, and the images ranked first.

    Args:
        captions: queries.
        first_hits: rank of the first image of the right person, from 1.
        images: best first; every row as long as the first.
        right: whether an image shows the person meant: green frame, else red.
    """
    tiles = [[_framed(image, RIGHT if hit else WRONG) for image, hit in zip(*row)] for row in zip(images, right)]
    wide = max(tile.width for row in tiles for tile in row)
    tall = HEIGHT + 2 * FRAME
    size = (TEXT_WIDTH + 2 * GAP + len(tiles[0]) * (wide + GAP), GAP + len(tiles) * (tall + GAP))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for row, (caption, rank, shown) in enumerate(zip(captions, first_hits, tiles)):
        top = GAP + row * (tall + GAP)
        _write(pen, (GAP, top), caption, f"first right image: rank {rank}")
        for place, tile in enumerate(shown):
            sheet.paste(tile, (TEXT_WIDTH + 2 * GAP + place * (wide + GAP), top))
    return sheet


def draw_masks(images: Sequence[Image.Image], keep_indices: Tensor, grid: tuple[int, int]) -> Image.Image:
    """Pairs side by side: an image, and the same with the patches faded that the student does not see.

    Args:
        images: all of one size, as the model sees them.
        keep_indices: int64 [images, K], as `select_patches` returns.
        grid: rows and columns of the patches.
    """
    wide = _width(images[0], HEIGHT)
    sheet = Image.new("RGB", (GAP + len(images) * (2 * wide + 2 * GAP), HEIGHT + 2 * GAP), "white")
    for place, (image, seen) in enumerate(zip(images, keep_indices)):
        image = image.resize((wide, HEIGHT))
        mask = _kept_mask(seen, grid, image.size)
        faded = Image.blend(image, Image.new("RGB", image.size, "white"), 0.85)
        left = GAP + place * (2 * wide + 2 * GAP)
        sheet.paste(image, (left, GAP))
        sheet.paste(Image.composite(image, faded, mask), (left + wide, GAP))
    return sheet


def draw_pair_losses(
    losses: Sequence[float | None], plausible: Sequence[float], is_clean: Sequence[bool] | None = None
) -> Image.Image:
    """A histogram of training pairs by their losses, each bar cut by how plausible its pairs are.

    Args:
        losses: moving averages in nats, `None` of a pair that was not seen, [pairs].
        plausible: probability that a pair is right, [pairs].
        is_clean: which pairs are right, where it is known: a line shows how many of each bar are not.
    """
    values, right = np.asarray(losses, float), np.asarray(plausible, float)
    known = np.isfinite(values)
    top = float(values[known].max(initial=0.0)) or 1.0
    place = np.minimum((values[known] / top * BARS).astype(int), BARS - 1)
    counts, green = (np.bincount(place, weights, BARS) for weights in (None, right[known]))
    tall = HEIGHT / max(1.0, counts.max())
    wide = 2 * GAP + BARS * BAR
    sheet = Image.new("RGB", (wide, HEIGHT + 5 * FONT_SIZE), "white")
    pen = ImageDraw.Draw(sheet)
    floor = HEIGHT + 2 * FONT_SIZE
    for bar, (count, sure) in enumerate(zip(counts, green)):
        left, middle = GAP + bar * BAR, floor - round(sure * tall)
        pen.rectangle((left, middle, left + BAR - 2, floor), RIGHT)
        if round(count * tall) > round(sure * tall):
            pen.rectangle((left, floor - round(count * tall), left + BAR - 2, middle), WRONG)
    title = f"{known.sum():,} training pairs, doubtful: {1 - right[known].mean():.1%}" if known.any() else "no pairs"
    if is_clean is not None:
        wrong = np.bincount(place[~np.asarray(is_clean, bool)[known]], minlength=BARS)
        line = [(GAP + (bar + 0.5) * BAR, floor - round(count * tall)) for bar, count in enumerate(wrong)]
        pen.line(line, "black", 2)
        title += f", wrong: {wrong.sum() / max(1, known.sum()):.1%} (line)"
    font, title = font_for(title, FONT_SIZE)
    pen.text((GAP, GAP // 2), title, "black", font)
    for share, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
        pen.text((GAP + share * BARS * BAR, floor + 4), f"{share * top:.3g}", "black", font, anchor)
    pen.text((GAP, floor + 4 + FONT_SIZE + 4), "moving average of -log m, nats", "black", font)
    return sheet


def kept_patches(image: Image.Image, keep_indices: Tensor, grid: tuple[int, int]) -> Image.Image:
    """An image whose dropped patches are grey.

    Args:
        image: as the model sees it.
        keep_indices: patches that are kept, int64 [K].
        grid: rows and columns of the patches.
    """
    mask = _kept_mask(keep_indices, grid, image.size)
    return Image.composite(image, Image.new("RGB", image.size, DROPPED), mask)


def _kept_mask(keep_indices: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """White where the patches [K] of one image are kept."""
    kept = torch.zeros(grid[0] * grid[1], dtype=torch.uint8)
    kept[keep_indices.cpu()] = 255
    return Image.fromarray(kept.view(grid).numpy()).resize(size, Image.Resampling.NEAREST)


def heat_map(image: Image.Image, scores: Tensor, grid: tuple[int, int]) -> Image.Image:
    """Scores of patches over an image in grey: from dark, the lowest of this image, to light, its highest.

    Args:
        image: as the model sees it.
        scores: of its patches, float [L].
        grid: rows and columns of the patches.
    """
    numbers = scores.detach().cpu().double().view(grid).numpy()
    low, high = numbers.min(), numbers.max()
    share = (numbers - low) / (high - low) if high > low else np.zeros_like(numbers)
    smooth = Image.fromarray(share.astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    places = np.linspace(0, 1, len(_HEAT))
    heat = np.stack([np.interp(np.asarray(smooth), places, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    grey = image.convert("L").convert("RGB")
    return Image.blend(grey, Image.fromarray(heat.round().astype(np.uint8)), 0.65)


def draw_table(captions: Sequence[str], columns: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """A row for each caption: its text, then a picture of each column.

    Args:
        captions: of the rows.
        columns: pictures of the rows, all of one size, by what stands above them in up to two lines.
    """
    wide = [max(_width(images[0], TILE), _length(title)) for title, images in columns.items()]
    head = GAP + 3 * FONT_SIZE
    size = (TEXT_WIDTH + 2 * GAP + sum(wide) + GAP * len(wide), head + len(captions) * (TILE + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for row, caption in enumerate(captions):
        _write(pen, (GAP, head + row * (TILE + GAP)), caption)
    left = TEXT_WIDTH + 2 * GAP
    for (title, images), width in zip(columns.items(), wide):
        font, title = font_for(title, FONT_SIZE)
        pen.multiline_text((left, head - GAP // 2), title, "black", font, anchor="ld", spacing=2)
        for row, image in enumerate(images):
            sheet.paste(tile(image), (left, head + row * (TILE + GAP)))
        left += width + GAP
    return sheet


def tile(image: Image.Image) -> Image.Image:
    """An image in the size that it has in a table: marked in this size, patches keep sharp edges."""
    return image.resize((_width(image, TILE), TILE))


def ranking_picture(
    embedded: EmbeddedSplit,
    processor: PairProcessor,
    split: Mapping[str, datasets.Dataset],
    rows: int = 6,
    columns: int = 8,
) -> Image.Image:
    """Ranks the whole gallery for some captions of a split, spread evenly over it, and draws the first images.

    Args:
        embedded: the split, as `evaluation.embed_split` returns it.
        processor: what the images were seen through.
        split: `{"gallery", "queries"}`, for images and captions.
        rows, columns: captions, images for each.
    """
    gallery, places = split["gallery"], spread(len(split["queries"]), rows)
    captions = split["queries"].select(places)["caption"][:]
    wanted = embedded.query_ids[places]
    similarity = embedded.queries[places] @ embedded.gallery.T
    order = similarity.argsort(dim=1, descending=True, stable=True)[:, :columns]
    right = embedded.gallery_ids[order] == wanted[:, None]
    return draw_rankings(
        captions,
        rank_similarity(similarity, wanted, embedded.gallery_ids).first_hit.tolist(),
        [[as_seen(gallery[place], processor) for place in hits] for hits in order.tolist()],
        right.tolist(),
    )


def as_seen(row: Mapping[str, Any], processor: PairProcessor) -> Image.Image:
    """A row's image as the model sees it: RGB, in the processor's size."""
    return load_image(row, processor)


def _write(pen: ImageDraw.ImageDraw, place: tuple[int, int], caption: str, last: str | None = None) -> None:
    """A caption in lines of `TEXT_WIDTH`, and one more line below."""
    font, caption = font_for(caption, FONT_SIZE)
    # As many characters of this text's own width as fill the column.
    wide_enough = max(1, int(TEXT_WIDTH * len(caption) / max(1.0, font.getlength(caption))))
    lines = textwrap.wrap(caption, wide_enough, max_lines=8, placeholder=" ...")
    pen.multiline_text(place, "\n".join([*lines, last] if last else lines), "black", font)


def _width(image: Image.Image, height: int) -> int:
    return max(1, round(height * image.width / image.height))


def _length(title: str) -> int:
    font, title = font_for(title, FONT_SIZE)
    return max(int(font.getlength(line)) + 1 for line in title.split("\n"))


def _framed(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    wide = _width(image, HEIGHT)
    tile = Image.new("RGB", (wide + 2 * FRAME, HEIGHT + 2 * FRAME), colour)
    tile.paste(image.resize((wide, HEIGHT)), (FRAME, FRAME))
    return tile


__all__ = [
    "as_seen",
    "draw_masks",
    "draw_pair_losses",
    "draw_rankings",
    "draw_table",
    "heat_map",
    "kept_patches",
    "ranking_picture",
    "spread",
    "tile",
]
