"""Augmentation: batch against one image at a time, distributions, determinism."""

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_amns.data.transforms import (
    Augmentation,
    _erase_boxes,
    _erase_by_mask,
    augment_images,
    flip_and_crop,
    normalize_images,
)

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
HEIGHT, WIDTH = 24, 12


def images(count=8):
    return torch.randint(
        0, 256, (count, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def draw(augmentation, count=8):
    drawn = [augmentation.draw(np.random.default_rng([0, row]), HEIGHT, WIDTH) for row in range(count)]
    return {name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in drawn[0]}


def moved(images, parameters):
    """uint8 [B, 3, H, W] after each image's own flip and crop."""
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    done = [flip_and_crop(*one) for one in zip(pictures, parameters["flip"].tolist(), parameters["shift"].tolist())]
    return torch.from_numpy(np.stack([np.asarray(image) for image in done])).permute(0, 3, 1, 2)


def one_image(image, parameters):
    """The same by index: flip, pad with black, crop, normalise, erase with the mean."""
    pixels = image.permute(1, 2, 0).numpy()
    if parameters["flip"]:
        pixels = pixels[:, ::-1]
    pad = 4
    pixels = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)))
    top, left = (int(value) + pad for value in parameters["shift"])
    pixels = pixels[top : top + HEIGHT, left : left + WIDTH]
    values = (pixels / 255 - MEAN.numpy()) / STD.numpy()
    top, left, bottom, right = parameters["erase"].tolist()
    values[top:bottom, left:right] = 0
    return torch.from_numpy(values.transpose(2, 0, 1)).float()


def test_the_batch_equals_one_image_after_the_other():
    parameters = draw(Augmentation(crop_padding=4, erasing=0.7))
    got = augment_images(moved(images(), parameters), MEAN, STD, parameters["erase"])
    for row, image in enumerate(images()):
        want = one_image(image, {name: value[row] for name, value in parameters.items()})
        assert torch.allclose(got[row], want, atol=1e-5)
    assert parameters["flip"].any() and not parameters["flip"].all()
    assert (parameters["erase"].sum(1) > 0).any() and len(parameters["shift"].unique()) > 3


@pytest.mark.parametrize("shift", [[HEIGHT, 0], [0, -WIDTH], [-HEIGHT - 5, WIDTH + 5]])
def test_an_image_moved_out_of_its_frame_is_black(shift):
    image = Image.new("RGB", (WIDTH, HEIGHT), (200, 200, 200))
    assert not np.asarray(flip_and_crop(image, True, shift)).any()


def test_erasing_by_mask_equals_erasing_box_by_box():
    erase = draw(Augmentation(erasing=0.8), count=8)["erase"]
    values = torch.randn(8, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    boxes = _erase_boxes(values.clone(), erase)
    assert torch.equal(boxes, _erase_by_mask(values.clone(), erase)) and not torch.equal(boxes, values)


def test_no_augmentation_is_normalisation_alone():
    parameters = draw(Augmentation(flip=0, crop_padding=0, erasing=0))
    want = normalize_images(images(), MEAN, STD)
    assert torch.allclose(want, (images() / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1), atol=1e-5)
    assert torch.equal(moved(images(), parameters), images())
    assert torch.equal(augment_images(images(), MEAN, STD, parameters["erase"]), want)
    assert torch.allclose(
        augment_images(images(), MEAN, STD, parameters["erase"], parameters["jitter"]), want, atol=1e-5
    )


def test_colour_jitter_changes_brightness_contrast_and_saturation_by_its_factors():
    flat = torch.tensor([100, 50, 200], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, HEIGHT, WIDTH)
    got = augment_images(flat, torch.zeros(3), torch.ones(3), jitter=torch.tensor([[1.1, 1.0, 0.5]]))
    bright = np.array([100, 50, 200]) / 255 * 1.1
    grey = bright @ np.array([0.299, 0.587, 0.114])
    assert got[0, :, 0, 0].numpy() == pytest.approx(grey + 0.5 * (bright - grey), abs=1e-6)


def test_draws_depend_on_their_generator_alone_and_have_the_stated_ranges():
    augmentation = Augmentation(crop_padding=3, color_jitter=0.2)
    drawn = [augmentation.draw(np.random.default_rng([7, row]), HEIGHT, WIDTH) for row in range(2000)]
    again = augmentation.draw(np.random.default_rng([7, 11]), HEIGHT, WIDTH)
    assert all(np.array_equal(again[name], drawn[11][name]) for name in again)
    shifts = np.stack([one["shift"] for one in drawn])
    assert set(shifts.flatten()) == set(range(-3, 4))
    assert np.mean([one["flip"] for one in drawn]) == pytest.approx(0.5, abs=0.05)
    boxes = np.stack([one["erase"] for one in drawn])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (HEIGHT * WIDTH)
    assert np.mean(areas > 0) == pytest.approx(0.5, abs=0.05) and areas.max() <= 0.5
    assert (boxes[:, 2] <= HEIGHT).all() and (boxes[:, 3] <= WIDTH).all()
    jitter = np.stack([one["jitter"] for one in drawn])
    assert 0.8 <= jitter.min() < 0.85 and 1.15 < jitter.max() <= 1.2


def torchvision_box(generator, height, width):
    """As torchvision's RandomErasing draws it, with scale (0.02, 0.4) and ratio (0.3, 3.3)."""
    for _ in range(10):
        area = height * width * generator.uniform(0.02, 0.4)
        ratio = math.exp(generator.uniform(math.log(0.3), math.log(3.3)))
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if rows < height and columns < width:
            top, left = generator.randint(0, height - rows), generator.randint(0, width - columns)
            return top, left, top + rows, left + columns
    return 0, 0, 0, 0


def test_boxes_are_distributed_as_those_of_torchvision_and_never_cross_the_image():
    height, width, count = 384, 128, 4000
    augmentation, generator = Augmentation(erasing=1.0), random.Random(0)
    got = np.stack([augmentation.draw(np.random.default_rng([0, i]), height, width)["erase"] for i in range(count)])
    want = np.array([torchvision_box(generator, height, width) for _ in range(count)])
    for boxes in (got, want):
        rows, columns = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        assert rows.max() < height and columns.max() < width and boxes.min() >= 0
        assert (boxes[:, 2] <= height).all() and (boxes[:, 3] <= width).all()
    # Corners, heights, widths and areas, by their quantiles: of 4,000 draws the largest gap is about 0.03.
    for of in (lambda b: b[:, 0], lambda b: b[:, 1], lambda b: b[:, 2] - b[:, 0], lambda b: b[:, 3] - b[:, 1],
               lambda b: (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])):  # fmt: skip
        one, other = np.sort(of(got)), np.sort(of(want))
        at = np.union1d(one, other)
        gap = np.abs(np.searchsorted(one, at, "right") - np.searchsorted(other, at, "right")).max() / count
        assert gap < 0.043


def test_what_is_drawn_after_the_box_does_not_depend_on_it():
    jitters = [
        Augmentation(erasing=chance, color_jitter=0.2).draw(np.random.default_rng(5), HEIGHT, WIDTH)["jitter"]
        for chance in (0.0, 1.0)
    ]
    assert np.array_equal(*jitters)


def test_text_augmentation_masks_replaces_and_removes_at_the_stated_shares():
    ids = [900, *range(100, 400), 901]
    changed = Augmentation(text=0.2).change_tokens(ids, np.random.default_rng(0), mask_id=899, ordinary=range(50))
    assert changed[0] == 900 and changed[-1] == 901
    masked = changed.count(899)
    replaced = sum(token < 50 for token in changed)
    removed = len(ids) - len(changed)
    assert masked == pytest.approx(36, abs=15) and replaced == pytest.approx(12, abs=8)
    assert removed == pytest.approx(12, abs=8)
    kept = [token for token in changed if 100 <= token < 400]
    assert kept == sorted(kept) and len(kept) == 300 - masked - replaced - removed


def test_text_augmentation_is_off_by_default_and_never_empties_a_caption():
    ids = [900, 5, 901]
    assert Augmentation().change_tokens(ids, np.random.default_rng(0), 899, range(50)) is ids
    for seed in range(50):
        changed = Augmentation(text=1.0).change_tokens(ids, np.random.default_rng(seed), 899, range(50))
        assert len(changed) == 3


@pytest.mark.parametrize("fields", [{"flip": 1.5}, {"erasing": -0.1}, {"crop_padding": -1}, {"text": 2}])
def test_strengths_outside_their_range_are_errors(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Augmentation(**fields)
