"""Spoiled image files: an RGB image or a documented error, in bounded time and memory, never anything else."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from mutators import spoil_bytes
from PIL import Image

from modeling_amns.data.images import decode_image

FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "PCX", "DDS", "SGI", "AVIF"]


def picture(size=(24, 48), mode="RGB"):
    values = np.random.default_rng(0).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size).convert(mode)


def files():
    """A file of each format that this Pillow writes, some with an orientation, interlacing, palettes or 16 bits."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "somebody"
    options = [(name, "RGB", {}) for name in FORMATS]
    options += [
        ("JPEG", "RGB", {"exif": exif, "progressive": True}),
        ("JPEG", "CMYK", {}),
        ("PNG", "P", {"exif": exif}),
    ]
    options += [("PNG", "I;16", {}), ("PNG", "RGBA", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"})]
    for name, mode, more in options:
        opened = io.BytesIO()
        try:
            image = Image.new("I;16", (24, 48), 40_000) if mode == "I;16" else picture(mode=mode)
            image.save(opened, name, **more)
        except (KeyError, OSError):  # this build of Pillow lacks the codec
            continue
        yield opened.getvalue()


def outcome(data, where="row 7", **options):
    """`ok`, or the text of a documented error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = decode_image({"bytes": data, "path": None}, where, **options)
        except ValueError as error:
            assert type(error) is ValueError and where in str(error), repr(error)
            return str(error)
    assert image.mode == "RGB" and len(image.tobytes()) == 3 * image.width * image.height
    return "ok"


def test_spoiled_images_decode_or_are_a_documented_error(fuzz):
    # Which formats are read is decided elsewhere; these are enough to test with.
    sound = [data for data in files() if outcome(data) == "ok"]
    assert len(sound) > 6
    outcomes = []

    def check(generator):
        data = spoil_bytes(sound[int(generator.integers(len(sound)))], generator)
        outcomes.append(outcome(data))
        assert len(outcomes[-1]) < 1500 and "\n" not in outcomes[-1], outcomes[-1]

    fuzz(600, check)
    assert len(outcomes) < 600 or 0.1 < outcomes.count("ok") / len(outcomes) < 0.9


def test_a_file_cut_anywhere_decodes_or_is_a_documented_error():
    for data in files():
        for length in range(0, len(data), max(1, len(data) // 12)):
            outcome(data[:length])


def png(width, height, rows, depth=1, colour=0):
    """A PNG of any stated size whose rows are compressed zeros."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [20_000, 100_000, 2**31 - 1])
def test_a_small_file_that_claims_a_huge_picture_is_refused_before_it_takes_memory(side):
    rows = b"\0" * 1_000_000
    message = outcome(png(side, side, rows))
    assert message != "ok" and "Cannot read image row 7" in message and len(message) < 500
