"""Decoding: every mode, rotated photographs, large files, broken files."""

import io

import pytest
from PIL import Image

from modeling_amns.data.images import decode_image

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
