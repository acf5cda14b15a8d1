"""Decoding: every mode, rotated photographs, large files, broken files; what is evaluated is what is served."""

import io

import datasets
import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE
from PIL import Image

from modeling_amns import AMNSProcessor
from modeling_amns.data.collator import PairPreparer, load_image
from modeling_amns.data.images import decode_image
from modeling_amns.embedding import embed_images
from modeling_amns.processing_amns import AMNSImageProcessor
from modeling_amns.visualization import as_seen

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"]


def test_a_truncated_or_missing_image_is_named(tmp_path):
    file = tmp_path / "1.png"
    Image.new("RGB", (8, 16)).save(file)
    file.write_bytes(file.read_bytes()[:45])
    with pytest.raises(ValueError, match="Cannot read image a/1.png in .*1.png: .*"):
        decode_image({"path": str(file), "bytes": None}, where="a/1.png")
    with pytest.raises(FileNotFoundError, match="There is no image nothing.png"):
        decode_image({"path": "nothing.png", "bytes": None})
    with pytest.raises(ValueError, match="Cannot read image row 3: .*neither a path nor bytes"):
        decode_image({"path": None, "bytes": None}, where="row 3")


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(mode):
    assert decode_image(Image.new(mode, (3, 5))).mode == "RGB"


def test_a_rotated_photograph_stands_upright():
    image, file, exif = Image.new("RGB", (4, 2)), io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    image.save(file, "PNG", exif=exif)
    assert decode_image({"bytes": file.getvalue(), "path": None}).size == (2, 4)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_smaller_but_never_below_the_size(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    size = (800, 2400) if orientation == 1 else (2400, 800)
    Image.linear_gradient("L").resize(size).convert("RGB").save(tmp_path / "big.jpg", exif=exif)
    where = {"path": str(tmp_path / "big.jpg"), "bytes": None}
    small, whole = decode_image(where, size=(384, 128)), decode_image(where)
    assert whole.size == (800, 2400) and small.size == (200, 600)
    resized = [image.resize((128, 384), Image.Resampling.BICUBIC) for image in (small, whole)]
    worst = max(abs(a - b) for a, b in zip(*(image.tobytes() for image in resized)))
    assert worst <= 4


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """A JPEG file so large that training decodes it at a part of its size, with detail that this changes."""
    file = tmp_path_factory.mktemp("photograph") / "1.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (400, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((600, 1200), Image.Resampling.BICUBIC).save(file, quality=95)
    return file


class Pixels:
    """An encoder whose embedding is the image itself."""

    training, device = False, torch.device("cpu")
    config = type("Config", (), {"projection_dim": 3 * IMAGE_SIZE[0] * IMAGE_SIZE[1]})
    embedding_dim = config.projection_dim

    def train(self, mode=True):
        pass

    eval = train

    def get_image_features(self, pixel_values):
        return type("Output", (), {"pooler_output": pixel_values.flatten(1)})


def test_evaluation_embeds_the_pixels_of_the_processor(processor, photograph):
    """Its settings too: here none of them is CLIP's."""
    size = dict(zip(("height", "width"), IMAGE_SIZE))
    own = {"image_mean": [0.1, 0.2, 0.3], "rescale_factor": 1 / 127.5, "resample": 0, "do_normalize": True}
    gallery = datasets.Dataset.from_dict({"image": [str(photograph)], "image_path": ["1.jpg"]})
    gallery = gallery.cast_column("image", datasets.Image())
    for ours in (processor, AMNSProcessor(AMNSImageProcessor(size=size, **own), processor.tokenizer)):
        want = ours(images=str(photograph), return_tensors="pt").pixel_values.flatten(1)
        got = embed_images(Pixels(), ours, gallery)
        assert torch.equal(got, torch.nn.functional.normalize(want, dim=-1))
        seen = torch.from_numpy(np.array(as_seen(gallery[0], ours))).permute(2, 0, 1)[None]
        assert torch.equal(ours.normalize_images(seen).flatten(1), want)


def test_training_alone_decodes_large_files_at_a_part_of_their_size(processor, photograph):
    row = {"image": {"path": str(photograph), "bytes": None}, "image_path": "1.jpg"}
    whole = processor.resize_image(Image.open(photograph))
    assert np.array_equal(load_image(row, processor), whole)
    reduced = PairPreparer(processor).image(row)
    assert reduced.size == whole.size and not np.array_equal(reduced, whole)
    assert np.array_equal(reduced, processor.resize_image(decode_image(row["image"], size=processor.image_size)))


def test_training_sees_the_pixels_of_the_processor_before_augmentation(processor, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 65536, (90, 50), dtype=np.uint16)).save(tmp_path / "1.png")
    row = {"image": {"path": str(tmp_path / "1.png"), "bytes": None}, "image_path": "1.png"}
    image = torch.from_numpy(np.array(PairPreparer(processor).image(row))).permute(2, 0, 1)[None]
    want = processor(images=str(tmp_path / "1.png"), return_tensors="pt").pixel_values
    assert torch.equal(processor.normalize_images(image), want)
