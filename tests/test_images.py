"""Decoding: every mode, rotated photographs, large files, broken files; what is evaluated is what is served."""

import io
import os
import time

import datasets
import numpy as np
import pytest
import torch
from conftest import IMAGE_SIZE
from PIL import Image

from modeling_amns import AMNSProcessor, image_modes_amns
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


def many_scans(size=(4000, 4000), times=2000):
    """A progressive JPEG whose second scan, of a hundred bytes, is repeated: each time costs a whole picture's."""
    file = io.BytesIO()
    Image.new("L", size, 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    third = data.index(b"\xff\xda", second + 2)
    return data[:-2] + data[second:third] * times + data[-2:]


def large_bitmap():
    """A sound file of eight thousand by eleven thousand black points."""
    file = io.BytesIO()
    Image.new("1", (8_000, 11_000)).save(file, "PNG")
    return file.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
REFUSED = {
    "pipe.png": (None, "no regular file"),
    "eps.jpg": (EPS, "JPEG"),
    "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "JPEG"),
    "icon.png": (b"\0\0\1\0\1\0\1\1\0\0\1\0 \0\4\0\0\0\x16\0\0\0\0\0\0\0", "JPEG"),
    "scans.jpg": (many_scans(), "more than 100 scans"),
    "large.png": (large_bitmap(), "8,000 x 11,000 pixels, expected at most 80,000,000"),
    "sparse.bmp": (b"BM", "expected at most 268,435,456"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("road", ["data set", "processor", "export"])
def test_what_blocks_runs_a_program_or_takes_memory_is_refused_on_every_road(tmp_path, name, road, monkeypatch):
    content, message = REFUSED[name]
    if content is None:
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    if name == "sparse.bmp":
        os.truncate(tmp_path / name, 2**34)
    monkeypatch.setattr("subprocess.Popen", None)
    start = time.monotonic()
    with pytest.raises(ValueError, match=message if road != "export" or message != "JPEG" else "cannot identify"):
        if road == "data set":
            decode_image({"path": str(tmp_path / name), "bytes": None})
        elif road == "processor":
            AMNSImageProcessor()(str(tmp_path / name))
        else:
            amns_onnx = pytest.importorskip("modeling_amns.export.amns_onnx")
            amns_onnx.OnnxRetrieval.pixels(None, tmp_path / name)
    assert time.monotonic() - start < 2


def test_the_export_opens_what_the_processor_opens():
    amns_onnx = pytest.importorskip("modeling_amns.export.amns_onnx")
    for name in ("IMAGE_FORMATS", "MAX_IMAGE_BYTES", "MAX_IMAGE_PIXELS", "_MAX_SCANS"):
        assert getattr(amns_onnx, name) == getattr(image_modes_amns, name)


def test_thumbnails_and_the_usual_scans_of_a_photograph_are_no_obstacle():
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x010E] = "\xff\xda" * 200
    Image.linear_gradient("L").convert("RGB").save(file, "JPEG", progressive=True, exif=exif)
    assert decode_image({"bytes": file.getvalue() + b"\xff\xda\0\2" * 200, "path": None}).size == (256, 256)


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
