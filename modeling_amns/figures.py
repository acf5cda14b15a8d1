"""The pictures of a model on a split, as files: rankings, what it looks at, what AWM would keep, training curves."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .curves import draw_training
from .data.collator import pad_tokens
from .evaluation import EmbeddedSplit
from .masking import patch_scores, select_patches
from .protocols import ImageTower, MaskedEncoder, PairProcessor
from .report import read_history
from .visualization import as_seen, draw_table, heat_map, kept_patches, ranking_picture, spread, tile

ROWS = 6
# Scores that are shown, and what stands above their columns; `worst` keeps what `attention` drops.
TITLES = {
    "attention": "attention\nall layers",
    "attention_last": "attention\nlast layer",
    "text": "similarity\nto caption",
    "random": "random",
}


def shown_pairs(
    split: Mapping[str, datasets.Dataset], processor: PairProcessor, rows: int = ROWS
) -> tuple[list[str], list[Image.Image]]:
    """Captions of a split at even distances, and the image that each was written for, as the model sees it."""
    queries = split["queries"].select(spread(len(split["queries"]), rows))
    place = {image_id: row for row, image_id in enumerate(split["gallery"]["image_id"][:])}
    images = [as_seen(split["gallery"][place[image_id]], processor) for image_id in queries["image_id"][:]]
    return queries["caption"][:], images


@torch.no_grad()
def scores_by_kind(
    model: MaskedEncoder, processor: PairProcessor, captions: list[str], images: list[Image.Image]
) -> dict[str, Tensor]:
    """Each score of `TITLES` of the patches of images, with the model as its own teacher.

    Args:
        model: in eval mode, on its device.
        processor: its processor.
        captions: one for each image.
        images: in the processor's size.
    Returns:
        float32 [images, patches] by kind, on the CPU.
    """
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    pixels = processor.normalize_images(pixels.to(model.device))
    tokens = pad_tokens(processor.token_ids(captions), processor.tokenizer.pad_token_id, processor.padded_length)
    # Of this process alone: with several, one draws.
    texts = model.get_text_features(**{name: value.to(model.device) for name, value in tokens.items()}).pooler_output
    generator = torch.Generator(model.device).manual_seed(0)
    tower = cast(ImageTower, model.image_side())
    return {
        kind: patch_scores(kind, tower, pixels, cast(Tensor, texts), generator=generator).float().cpu()
        for kind in TITLES
    }


def attention_picture(
    model: MaskedEncoder, processor: PairProcessor, split: Mapping[str, datasets.Dataset], rows: int = ROWS
) -> Image.Image:
    """Images of a split beside maps of what the model looks at in them."""
    captions, images = shown_pairs(split, processor, rows)
    scores = scores_by_kind(model, processor, captions, images)
    images = [tile(image) for image in images]
    maps = {
        TITLES[kind]: [heat_map(image, own, model.grid_size) for image, own in zip(images, scores[kind])]
        for kind in TITLES
        if kind != "random"
    }
    return draw_table(captions, {"image": images, **maps})


def masks_picture(
    model: MaskedEncoder,
    processor: PairProcessor,
    split: Mapping[str, datasets.Dataset],
    keep_ratio: float = 0.5,
    rows: int = ROWS,
) -> Image.Image:
    """Images of a split beside what each score of AWM would keep of them.

    Args:
        model: as the teacher.
        processor: its processor.
        split: `{"gallery", "queries"}`.
        keep_ratio: share of the patches that is kept, in (0, 1].
        rows: captions and their images.
    """
    captions, images = shown_pairs(split, processor, rows)
    by_kind = scores_by_kind(model, processor, captions, images)
    images = [tile(image) for image in images]
    columns = {"image": images}
    for kind, scores in by_kind.items():
        kept = select_patches(scores, keep_ratio)
        columns[TITLES[kind]] = [kept_patches(image, own, model.grid_size) for image, own in zip(images, kept)]
    return draw_table(captions, columns)


def write_figures(
    folder: str | Path,
    model: MaskedEncoder,
    processor: PairProcessor,
    split: Mapping[str, datasets.Dataset],
    embedded: EmbeddedSplit,
    keep_ratio: float = 0.5,
    run: str | Path | None = None,
) -> dict[str, str | None]:
    """Writes `ranking.png`, `attention.png`, `masks.png` and, of a run that left its history, `curves.png`.

    Args:
        folder: made if there is none.
        model: in eval mode, on its device.
        processor: its processor.
        split: `{"gallery", "queries"}`.
        embedded: the split, as `evaluation.embed_split` returns it.
        keep_ratio: of the masks.
        run: folder of the run that the model came from, if it came from one.
    Returns:
        what went wrong with each picture by its name, `None` where it was drawn.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Callable[[], Image.Image]] = {
        "ranking.png": lambda: ranking_picture(embedded, processor, split),
        "attention.png": lambda: attention_picture(model, processor, split),
        "masks.png": lambda: masks_picture(model, processor, split, keep_ratio),
    }
    said: dict[str, str | None] = {}
    for name, draw in pictures.items():
        said[name] = _why_not(lambda draw=draw, name=name: draw().save(folder / name))  # type: ignore[misc]
    history = read_history(run) if run is not None else []
    if history:
        drawn: list[bool] = []
        reason = _why_not(lambda: drawn.append(draw_training(history, folder / "curves.png")))
        if reason is not None or any(drawn):
            said["curves.png"] = reason
    return said


def _why_not(draw: Callable[[], object]) -> str | None:
    try:
        draw()
    # Whatever it is, of a font, an image, a package that is missing: the other pictures are drawn.
    except Exception as error:
        return f"{type(error).__name__}: {error}" if not isinstance(error, (ImportError, OSError)) else str(error)
    return None


__all__ = ["attention_picture", "masks_picture", "scores_by_kind", "shown_pairs", "write_figures"]
