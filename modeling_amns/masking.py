"""AWM, the attention-weighted selective mask: which patches the student sees. Torch only."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from .protocols import PatchScorer

MASK_SCORES = ("attention", "attention_last", "text", "random", "worst")
MASK_IMAGES = ("raw", "augmented")


def select_patches(
    scores: Tensor,
    keep_ratio: float,
    grid: tuple[int, int] | None = None,
    block: int = 1,
    erased: Tensor | None = None,
) -> Tensor:
    """The best `ceil(keep_ratio * L)` patches of each image, at least one, in their original order.

    Args:
        scores: one number per patch, float [B, L]; higher is kept first, ties go to the earlier patch.
        keep_ratio: share of the patches that is kept, in (0, 1].
        grid: rows and columns of the patches, rows * columns = L; needed when `block` is above 1.
        block: scores are averaged over blocks of `block` x `block` patches first, so that whole neighbourhoods are
            kept (A-CLIP uses 2). The number of patches kept does not change; the last block may be kept in part.
        erased: patches that show nothing, bool [B, L]; kept only once all others of their image are.
    Returns:
        int64 [B, K], ascending in each row.
    Raises:
        ValueError: keep_ratio, block or grid does not fit.

    ```python
    >>> import torch
    >>> select_patches(torch.tensor([[0.1, 0.4, 0.2, 0.3]]), keep_ratio=0.5)
    tensor([[1, 3]])

    ```
    """
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"keep_ratio must lie in (0, 1], found {keep_ratio}; 1 keeps every patch.")
    if scores.ndim != 2:
        raise ValueError(f"scores must be [images, patches], found shape {tuple(scores.shape)}.")
    patches = scores.shape[1]
    if block < 1:
        raise ValueError(f"block must be at least 1, found {block}.")
    if block > 1:
        if grid is None or grid[0] * grid[1] != patches:
            raise ValueError(f"block={block} needs grid=(rows, columns) of the {patches} patches, found {grid}.")
        image = scores.float().reshape(-1, 1, *grid)
        # ceil_mode with count_include_pad=False averages a block that the border cuts over its real patches.
        pooled = F.avg_pool2d(image, block, ceil_mode=True, count_include_pad=False)
        spread = pooled.repeat_interleave(block, 2).repeat_interleave(block, 3)
        scores = spread[:, 0, : grid[0], : grid[1]].flatten(1)
    # The tiny allowance keeps ceil(0.7 * 10) at 7 although 0.7 * 10 is 7.000000000000001 in binary.
    kept = min(patches, max(1, math.ceil(keep_ratio * patches - 1e-9)))
    order = scores.sort(dim=1, descending=True, stable=True).indices
    if erased is not None:
        order = order.gather(1, erased.gather(1, order).int().sort(dim=1, stable=True).indices)
    return order[:, :kept].sort(dim=1).values


def erased_patches(boxes: Tensor, grid: tuple[int, int], patch_size: int, stride: int) -> Tensor:
    """The patches of which a box covers more than half.

    Args:
        boxes: top, left, bottom, right in pixels, int64 [B, 4]; empty where equal.
        grid: rows and columns of the patches.
        patch_size: side of a patch in pixels.
        stride: pixels from one patch to the next.
    Returns:
        bool [B, rows * columns].

    ```python
    >>> import torch
    >>> erased_patches(torch.tensor([[0, 3, 8, 8]]), grid=(2, 2), patch_size=4, stride=4)
    tensor([[False,  True, False,  True]])

    ```
    """
    covered = []
    for count, low, high in ((grid[0], boxes[:, 0], boxes[:, 2]), (grid[1], boxes[:, 1], boxes[:, 3])):
        start = stride * torch.arange(count, device=boxes.device)
        stop = (start + patch_size).minimum(high[:, None])
        covered.append((stop - start.maximum(low[:, None])).clamp(min=0))
    rows, columns = covered
    return (2 * rows[:, :, None] * columns[:, None, :] > patch_size**2).flatten(1)


@torch.no_grad()
def patch_scores(
    kind: str,
    teacher: "PatchScorer",
    pixel_values: Tensor,
    text_embeds: Tensor | None = None,
    last_layers: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Scores of all patches by the teacher, which sees the whole image.

    Args:
        kind: "attention": CLS row of the attention, averaged over heads and all layers (A-CLIP, ICCV 2023);
            "attention_last": the same over `last_layers`; "text": cosine of each projected patch with the caption's
            embedding. Two controls: "random": uniform noise; "worst": "attention" with its sign turned, so that what
            the teacher looks at least is kept. In CLIP's own weights a patch's similarity with a text is higher on the
            background than on what the text names (CLIP Surgery, arXiv 2304.05653), so "text" is for teachers that
            training has brought further.
        teacher: an `ImageTeacher`, or any other `PatchScorer`.
        pixel_values: normalised images, float [B, 3, height, width].
        text_embeds: captions' embeddings, float [B, D]; for "text".
        last_layers: for "attention_last".
        generator: for "random", on the device of the images.
    Returns:
        float32 [B, L].
    Raises:
        ValueError: unknown kind, or "text" without `text_embeds`.
    """
    if kind == "attention":
        return teacher.cls_attention(pixel_values)
    if kind == "worst":
        return -teacher.cls_attention(pixel_values)
    if kind == "attention_last":
        return teacher.cls_attention(pixel_values, last_layers)
    if kind == "text":
        if text_embeds is None:
            raise ValueError("mask_score 'text' compares patches with captions and needs text_embeds.")
        patches = F.normalize(teacher.patch_embeds(pixel_values).float(), dim=-1)
        return torch.einsum("bld,bd->bl", patches, F.normalize(text_embeds.float(), dim=-1))
    if kind == "random":
        return torch.rand(len(pixel_values), teacher.num_patches, generator=generator, device=pixel_values.device)
    raise ValueError(f"mask_score must be one of {MASK_SCORES}, found {kind!r}.")


__all__ = ["MASK_IMAGES", "MASK_SCORES", "erased_patches", "patch_scores", "select_patches"]
