"""Patch selection, score kinds and the teacher."""

import math

import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE, tiny_retrieval_model

from modeling_amns import AMNSModel, AMNSProcessor
from modeling_amns.ema import ImageTeacher
from modeling_amns.masking import MASK_SCORES, erased_patches, patch_scores, select_patches


@pytest.mark.parametrize("keep_ratio", [0.1, 0.3, 0.5, 0.7, 0.99, 1.0])
def test_the_best_patches_are_kept_in_their_order(keep_ratio):
    scores = torch.rand(5, 32, generator=torch.Generator().manual_seed(0))
    kept = select_patches(scores, keep_ratio)
    assert kept.shape == (5, math.ceil(keep_ratio * 32))
    for row, indices in zip(scores.tolist(), kept.tolist()):
        best = sorted(range(32), key=lambda j: (-row[j], j))[: len(indices)]
        assert indices == sorted(best)


def test_ties_go_to_the_earlier_patch():
    assert select_patches(torch.zeros(1, 6), 0.5).tolist() == [[0, 1, 2]]


def test_a_share_that_binary_floats_overshoot_keeps_the_exact_number():
    assert select_patches(torch.rand(1, 10), 0.7).shape[1] == 7


@pytest.mark.parametrize("grid", [(4, 6), (5, 3)])
def test_blocks_average_their_patches_also_where_the_border_cuts_them(grid):
    rows, columns = grid
    scores = torch.rand(2, rows * columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = select_patches(scores, 0.4, grid=grid, block=2)
    for row, indices in zip(scores.tolist(), kept.tolist()):
        pooled = []
        for patch in range(rows * columns):
            top, left = patch // columns // 2 * 2, patch % columns // 2 * 2
            block = [
                row[y * columns + x]
                for y in range(top, min(top + 2, rows))
                for x in range(left, min(left + 2, columns))
            ]
            pooled.append(sum(block) / len(block))
        best = sorted(range(rows * columns), key=lambda j: (-round(pooled[j], 6), j))[: len(indices)]
        assert indices == sorted(best)


@pytest.mark.parametrize("keep_ratio", [0, -0.1, 1.01, float("nan")])
def test_a_keep_ratio_outside_the_range_is_an_error(keep_ratio):
    with pytest.raises(ValueError, match=r"keep_ratio must lie in \(0, 1\]"):
        select_patches(torch.zeros(1, 4), keep_ratio)


def test_the_smallest_keep_ratio_keeps_a_patch():
    assert select_patches(torch.tensor([[0.0, 2.0, 1.0]]), 1e-10).tolist() == [[1]]


def test_blocks_need_the_grid_of_the_patches():
    with pytest.raises(ValueError, match="needs grid"):
        select_patches(torch.zeros(1, 6), 0.5, block=2)
    with pytest.raises(ValueError, match="of the 6 patches"):
        select_patches(torch.zeros(1, 6), 0.5, grid=(2, 2), block=2)


@pytest.mark.parametrize("patch, stride, size", [(8, 8, (64, 32)), (8, 5, (64, 33)), (7, 7, (30, 20))])
def test_a_patch_is_erased_when_most_of_its_pixels_are(patch, stride, size):
    grid = ((size[0] - patch) // stride + 1, (size[1] - patch) // stride + 1)
    generator = np.random.default_rng(0)
    boxes = [[0, 0, 0, 0], [0, 0, *size]]
    for _ in range(20):
        top, left = generator.integers(0, size[0]), generator.integers(0, size[1])
        boxes.append([top, left, generator.integers(top, size[0] + 1), generator.integers(left, size[1] + 1)])
    got = erased_patches(torch.tensor(np.array(boxes)), grid, patch, stride).reshape(len(boxes), *grid)
    for (top, left, bottom, right), patches in zip(boxes, got.tolist()):
        pixels = np.zeros(size)
        pixels[top:bottom, left:right] = 1
        for row in range(grid[0]):
            for column in range(grid[1]):
                y, x = row * stride, column * stride
                assert patches[row][column] == (pixels[y : y + patch, x : x + patch].mean() > 0.5)
    assert got[1].all() and not got[0].any() and 0 < got[2:].float().mean() < 1


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("share", [0.25, 0.75])
def test_erased_patches_are_kept_only_when_nothing_else_is_left(block, share):
    """Though their scores are the best; by score go the others, and so do the erased ones among themselves."""
    grid = (8, 4)
    scores = torch.rand(2, 32, generator=torch.Generator().manual_seed(0))
    erased = torch.zeros(2, 32, dtype=torch.bool)
    erased[0, 3 : 3 + int(share * 32)] = True
    scores[erased] += 10
    kept = select_patches(scores, 0.5, grid, block, erased)
    assert kept.shape == (2, 16)
    left = erased[0].logical_not().nonzero()[:, 0].tolist()
    assert set(kept[0].tolist()) <= set(left) if len(left) >= 16 else set(left) < set(kept[0].tolist())
    assert torch.equal(kept[1], select_patches(scores, 0.5, grid, block)[1])
    if block == 1:
        order = sorted(range(32), key=lambda patch: (bool(erased[0, patch]), -float(scores[0, patch])))
        assert kept[0].tolist() == sorted(order[:16])


def test_the_worst_patches_are_those_that_attention_leaves(model, pixels):
    teacher = ImageTeacher(model)
    best, worst = (select_patches(patch_scores(kind, teacher, pixels), 0.5) for kind in ("attention", "worst"))
    for one, other in zip(best.tolist(), worst.tolist()):
        assert sorted(one + other) == list(range(32))


def test_attention_score_is_the_teachers_own_and_last_layers_differ(model, pixels):
    teacher = ImageTeacher(model)
    scores = patch_scores("attention", teacher, pixels)
    assert torch.equal(scores, model.image_attention_scores(pixels))
    assert not torch.allclose(scores, patch_scores("attention_last", teacher, pixels, last_layers=1))
    assert torch.equal(scores, patch_scores("attention_last", teacher, pixels, last_layers=3))


def test_text_score_is_the_cosine_of_projected_patch_and_caption(model, pixels):
    text = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    scores = patch_scores("text", ImageTeacher(model), pixels, text)
    hidden = model.vision_model(pixels).last_hidden_state
    for image in range(4):
        for patch in (0, 17, 31):
            projected = model.visual_projection(model.vision_model.post_layernorm(hidden[image, patch + 1]))
            expected = torch.cosine_similarity(projected, text[image], dim=0)
            assert scores[image, patch].item() == pytest.approx(expected.item(), abs=1e-5)


def test_random_scores_repeat_with_their_generator(model, pixels):
    teacher = ImageTeacher(model)
    first, second, other = (
        patch_scores("random", teacher, pixels, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (4, 32)
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_unknown_scores_and_a_missing_caption_are_errors(model, pixels):
    teacher = ImageTeacher(model)
    with pytest.raises(ValueError, match=", ".join(f"'{kind}'" for kind in MASK_SCORES)):
        patch_scores("gradient", teacher, pixels)
    with pytest.raises(ValueError, match="needs text_embeds"):
        patch_scores("text", teacher, pixels)


def test_the_teacher_follows_the_ramped_average_of_the_student(model):
    teacher = ImageTeacher(model, decay=0.5)
    expected = model.visual_projection.weight.detach().double().clone()
    for update in range(1, 12):
        with torch.no_grad():
            model.visual_projection.weight.add_(update)
        teacher.update(model)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * model.visual_projection.weight.detach().double()
    assert torch.allclose(teacher.module.visual_projection.weight.double(), expected, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_without_a_ramp_the_decay_is_the_final_one_from_the_first_update(model, decay):
    teacher = ImageTeacher(model, decay, ramp=False)
    start = model.visual_projection.weight.detach().double().clone()
    expected = start.clone()
    for _ in range(3):
        with torch.no_grad():
            model.visual_projection.weight.add_(1)
        teacher.update(model)
        expected = decay * expected + (1 - decay) * model.visual_projection.weight.detach().double()
    assert torch.allclose(teacher.module.visual_projection.weight.double(), expected, rtol=1e-5)
    # Whoever reads the state goes on without a ramp, however its teacher was made.
    other = ImageTeacher(model, decay)
    other.load_state_dict(teacher.state_dict())
    with torch.no_grad():
        model.visual_projection.weight.add_(1)
    other.update(model)
    expected = decay * expected + (1 - decay) * model.visual_projection.weight.detach().double()
    assert torch.allclose(other.module.visual_projection.weight.double(), expected, rtol=1e-5)


def test_the_teacher_of_a_bfloat16_student_is_float32_and_does_not_lose_small_steps(model):
    model.bfloat16()
    teacher = ImageTeacher(model, decay=0.999)
    teacher.n_averaged.fill_(10**6)
    with torch.no_grad():
        model.visual_projection.weight.fill_(1.0)
        teacher.module.visual_projection.weight.fill_(0.5)
    teacher.update(model)
    assert teacher.module.visual_projection.weight.dtype == torch.float32
    assert torch.allclose(teacher.module.visual_projection.weight, torch.tensor(0.5005))


def test_the_teacher_survives_saving_and_stays_in_eval_mode(model, pixels):
    teacher = ImageTeacher(model)
    with torch.no_grad():
        model.vision_model.encoder.layers[0].mlp.fc1.weight.mul_(2)
    teacher.update(model)
    restored = ImageTeacher(model)
    restored.load_state_dict(teacher.state_dict())
    assert int(restored.n_averaged) == 2
    assert torch.equal(restored.cls_attention(pixels), teacher.cls_attention(pixels))
    assert not restored.train().training


def halved(size: int) -> np.ndarray:
    """Rows that halve a signal by a triangle four pixels wide, cut at its ends."""
    rows = np.zeros((size // 2, size))
    for i in range(size // 2):
        for place, weight in zip(range(2 * i - 1, 2 * i + 3), (1, 3, 3, 1)):
            if 0 <= place < size:
                rows[i, place] = weight
    return rows / rows.sum(axis=1, keepdims=True)


def doubled(size: int) -> np.ndarray:
    """Rows that double a signal linearly between the middles of its pixels; its ends stay."""
    rows = np.zeros((2 * size, size))
    for i in range(2 * size):
        middle = min(max((i + 0.5) / 2 - 0.5, 0), size - 1)
        low = min(int(middle), size - 2)
        rows[i, low : low + 2] = 1 - (middle - low), middle - low
    return rows


@pytest.mark.parametrize("last_layers", [None, 1])
def test_a_smaller_image_is_scored_on_its_own_grid_and_the_scores_are_stretched(model, pixels, tmp_path, last_layers):
    """Against a model that is loaded at half the size, and both resizings as products of matrices."""
    model.save_pretrained(tmp_path)
    height, width = pixels.shape[-2:]
    half = AMNSModel.from_pretrained(tmp_path, image_size=[height // 2, width // 2]).eval()
    smaller = torch.from_numpy(halved(height) @ pixels.double().numpy() @ halved(width).T).float()
    coarse = half.vision_model.cls_attention(smaller, last_layers).unflatten(1, half.grid_size).double().numpy()
    want = doubled(half.grid_size[0]) @ coarse @ doubled(half.grid_size[1]).T
    found = ImageTeacher(model, scale=0.5).cls_attention(pixels, last_layers)
    assert found.numpy() == pytest.approx(want.reshape(len(pixels), -1), rel=1e-4)


@pytest.mark.parametrize("scale", [0.3, 0.01])
def test_a_smaller_grid_is_rounded_up_to_whole_patches(scale, pixels):
    """With patches that overlap, whose steps are shorter than they are wide."""
    model = tiny_retrieval_model(
        AMNSProcessor.from_captions(["a man"] * 9, IMAGE_SIZE), vision_config={"stride": 6}
    ).amns
    teacher, seen = ImageTeacher(model, scale=scale), []
    teacher.module.vision_model.embeddings.patch_embedding.register_forward_hook(
        lambda module, args, output: seen.append(output.shape[-2:])
    )
    assert teacher.cls_attention(pixels).shape == (len(pixels), model.grid_size[0] * model.grid_size[1])
    assert [tuple(grid) for grid in seen] == [tuple(math.ceil(scale * patches) for patches in model.grid_size)]


@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_a_scale_outside_the_range_is_an_error(model, scale):
    with pytest.raises(ValueError, match=r"mask_image_scale must lie in \(0, 1\], found"):
        ImageTeacher(model, scale=scale)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_outside_the_range_is_an_error(model, decay):
    with pytest.raises(ValueError, match=r"ema_decay must lie in \[0, 1\)"):
        ImageTeacher(model, decay)
