"""The processor: whatever shows an image, its size and settings, tokens that keep their end, round trips, threads."""

import base64
import copy
import functools
import http.server
import os
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import CAPTIONS, IMAGE_SIZE
from PIL import Image, ImageOps
from transformers import AutoProcessor, AutoTokenizer, CLIPImageProcessorPil, CLIPProcessor

from modeling_amns import AMNSProcessor
from modeling_amns.data.images import decode_image
from modeling_amns.processing_amns import AMNSImageProcessor, to_rgb, train_tokenizer

MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]


MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def by_hand(image, mean=MEAN, std=STD, factor=1 / 255, resample=Image.Resampling.BICUBIC):
    """An RGB image as pixels, with Pillow's resize and float64 arithmetic alone."""
    resized = np.asarray(image.resize((IMAGE_SIZE[1], IMAGE_SIZE[0]), resample), dtype=np.float64)
    return ((resized * factor - np.array(mean)) / np.array(std)).transpose(2, 0, 1)


def noise(height=90, width=50, seed=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixels_of(processor, image, **kwargs):
    return processor(images=image, return_tensors="np", **kwargs).pixel_values


@pytest.mark.parametrize("mode", MODES)
def test_every_pil_mode_becomes_normalised_rgb_of_the_fixed_size(processor, mode):
    grey = Image.fromarray(noise()).convert("L")
    via = {"La": "LA", "PA": "LA", "LAB": "RGB", "HSV": "RGB"}.get(mode, "L")
    image = grey.convert(via).convert(mode) if mode not in ("I;16", "LAB") else Image.new(mode, (50, 20))
    want = by_hand(image.convert("LA").convert("RGB") if mode == "La" else image.convert("RGB"))
    assert np.abs(pixels_of(processor, image)[0] - want).max() < 1e-5


def test_sixteen_bit_greys_are_scaled_not_clipped():
    grey = Image.fromarray(np.full((2, 2), 128 * 256 + 5, dtype=np.uint16))
    assert to_rgb(grey).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("name, mode", [("a.png", "P"), ("a.png", "RGB"), ("a.png", "L"), ("a.gif", "P")])
def test_a_colour_that_a_file_calls_transparent_keeps_its_pixels(processor, tmp_path, name, mode):
    """The image processor by itself paints it white."""
    grey = Image.new("RGB", (20, 40), (60, 60, 60)).convert(mode, palette=Image.Palette.ADAPTIVE)
    first = grey.getpixel((0, 0))
    grey.save(tmp_path / name, transparency=first)
    opened = Image.open(tmp_path / name)
    assert "transparency" in opened.info
    assert to_rgb(opened).getpixel((0, 0)) == (60, 60, 60)
    want = processor(images=Image.new("RGB", (20, 40), (60, 60, 60)), return_tensors="pt").pixel_values
    assert torch.equal(processor(images=opened, return_tensors="pt").pixel_values, want)


def test_the_rotation_of_a_camera_is_applied():
    image = Image.new("RGB", (4, 2))
    image.getexif()[0x0112] = 6
    assert to_rgb(image).size == (2, 4)


def test_long_captions_are_cut_to_77_tokens_that_end_with_the_end_token(processor):
    ids = processor(text=["word " * 200, "a man"], return_tensors="pt").input_ids
    end = processor.tokenizer.eos_token_id
    assert ids.shape == (2, 77)
    assert ids[0, -1] == end and (ids[0] == end).sum() == 1
    assert ids[0, 0] == processor.tokenizer.bos_token_id


@pytest.mark.parametrize(
    "caption",
    ["a <|endoftext|> man", "a <|ENDOFTEXT|> man", "&lt;|endoftext|&gt;", "é 你好 🙂 ﬁ", "<|startoftext|>", ""],
)
def test_no_text_can_hold_an_end_token_of_its_own(processor, caption):
    ids = processor(text=caption)["input_ids"]
    assert ids.count(processor.tokenizer.eos_token_id) == 1 and ids[-1] == processor.tokenizer.eos_token_id
    assert ids.count(processor.tokenizer.bos_token_id) == 1


def test_html_escapes_are_resolved_before_tokenising(processor):
    assert processor(text="red &amp;amp; blue")["input_ids"] == processor(text="red & blue")["input_ids"]


def test_a_caption_that_is_no_string_is_an_error(processor):
    with pytest.raises(ValueError, match="A caption must be a string, found float"):
        processor(text=["a man", float("nan")])


def test_it_round_trips_through_files_and_the_auto_classes(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    want = processor(text=CAPTIONS, images=[Image.new("RGB", (9, 9), "red")], return_tensors="pt")
    for loaded in (AMNSProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is AMNSProcessor
        got = loaded(text=CAPTIONS, images=[Image.new("RGB", (9, 9), "red")], return_tensors="pt")
        assert want.keys() == got.keys() and all(torch.equal(want[key], got[key]) for key in want)
    assert AMNSProcessor.from_pretrained(tmp_path, image_size=[96, 48]).image_size == (96, 48)
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == 77


def test_a_trained_tokenizer_merges_frequent_words_and_reads_them_back():
    tokenizer = train_tokenizer(["a man in a red coat"] * 10, vocab_size=600)
    ids = tokenizer("A MAN in a red coat")["input_ids"]
    assert len(ids) == 8
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a man in a red coat"
    assert tokenizer.decode(tokenizer("zebra ü")["input_ids"], skip_special_tokens=True) == "zebra ü"


def test_a_vocabulary_too_small_for_all_bytes_is_an_error():
    with pytest.raises(ValueError, match="vocab_size must be at least 514"):
        train_tokenizer(CAPTIONS, vocab_size=100)


def test_training_a_tokenizer_does_not_depend_on_the_order_of_captions():
    first, second = train_tokenizer(CAPTIONS * 5, 620), train_tokenizer(CAPTIONS[::-1] * 5, 620)
    assert first.get_vocab() == second.get_vocab()


def test_another_size_changes_size_and_crop_and_nothing_else(processor, tmp_path):
    stored = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "resample": Image.Resampling.BILINEAR}
    stored |= {"do_normalize": True, "rescale_factor": 1 / 127.5}
    CLIPProcessor(CLIPImageProcessorPil(**stored), processor.tokenizer).save_pretrained(tmp_path)
    before = AMNSProcessor.from_pretrained(tmp_path)
    assert before.image_processor.do_center_crop and before.image_processor.size.shortest_edge == 224
    with pytest.raises(ValueError, match="not of one height and width. Set image_size"):
        before.image_size  # noqa: B018
    after = AMNSProcessor.from_pretrained(tmp_path, image_size=IMAGE_SIZE)
    changed = {"size": dict(zip(("height", "width"), IMAGE_SIZE)), "do_center_crop": False}
    want = before.image_processor.to_dict() | changed | {"crop_size": changed["size"]}
    assert after.image_processor.to_dict() == want
    after.save_pretrained(tmp_path / "again")
    image = Image.fromarray(noise())
    for loaded in (after, AMNSProcessor.from_pretrained(tmp_path / "again")):
        want = by_hand(image, stored["image_mean"], stored["image_std"], 1 / 127.5, Image.Resampling.BILINEAR)
        assert np.abs(pixels_of(loaded, image)[0] - want).max() < 1e-5
    off = {"do_normalize": False, "do_rescale": False}
    CLIPProcessor(CLIPImageProcessorPil(**off), processor.tokenizer).save_pretrained(tmp_path)
    raw = AMNSProcessor.from_pretrained(tmp_path, image_size=IMAGE_SIZE)
    assert np.array_equal(pixels_of(raw, image)[0], by_hand(image, 0, 1, 1))


@pytest.mark.parametrize("size, want", [(64, (64, 64)), ([64], (64, 64)), ((96, 32), (96, 32))])
def test_one_number_is_a_square(processor, tmp_path, size, want):
    processor.save_pretrained(tmp_path)
    assert AMNSProcessor.from_pretrained(tmp_path, image_size=size).image_size == want
    assert AMNSProcessor.from_tokenizer(processor.tokenizer, size).image_size == want
    with pytest.raises(ValueError, match=r"must be a positive integer or \[height, width\], found \[1, 2, 3\]"):
        AMNSProcessor.from_tokenizer(processor.tokenizer, [1, 2, 3])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5, "image_mean": 1, "image_std": 1},
    ],
)
def test_the_two_halves_give_the_bits_of_the_call(processor, options):
    size = dict(zip(("height", "width"), IMAGE_SIZE))
    ours = AMNSProcessor(AMNSImageProcessor(size=size, **options), processor.tokenizer)
    image = Image.fromarray(noise())
    resized = torch.from_numpy(np.array(ours.resize_image(image))).permute(2, 0, 1)[None]
    kept = resized.clone()
    got = ours.normalize_images(resized)
    assert torch.equal(got, ours(images=image, return_tensors="pt").pixel_values.float())
    assert torch.equal(resized, kept) and ours.normalize_images(kept.float()).equal(got)
    mean, std = (options.get(name, value) for name, value in (("image_mean", MEAN), ("image_std", STD)))
    normal = (0, 1) if "do_normalize" in options else (mean, std)
    factor = 1 if "do_rescale" in options else options.get("rescale_factor", 1 / 255)
    assert np.abs(got[0].numpy() - by_hand(image, *normal, factor)).max() < 1e-4


def as_floats(array):
    return array.astype(np.float32) / 255


SAME_IMAGE = {
    "HWC bytes": lambda a: a,
    "CHW bytes": lambda a: a.transpose(2, 0, 1),
    "int32 in bytes": lambda a: a.astype(np.int32),
    "uint16": lambda a: a.astype(np.uint16) * 256 + 7,
    "int64 of 16 bits": lambda a: torch.from_numpy(a.astype(np.int64) * 256 + 9),
    "floats in [0, 1]": as_floats,
    "floats a little beyond": lambda a: as_floats(a) * 1.0004,
    "floats in [0, 255]": lambda a: a.astype(np.float64),
    "tensor": lambda a: torch.from_numpy(a),
    "float tensor CHW": lambda a: torch.from_numpy(as_floats(a)).permute(2, 0, 1).requires_grad_(),
    "transparency": lambda a: np.concatenate([a, np.full_like(a[..., :1], 3)], axis=2),
    "batch": lambda a: as_floats(a)[None],
    "batch of tensors in lists": lambda a: [[torch.from_numpy(a)[None]]],
    "nested": lambda a: [[Image.fromarray(a).convert("RGBA")]],
}


@pytest.mark.parametrize("kind", SAME_IMAGE)
def test_arrays_tensors_and_lists_show_the_same_image(processor, kind):
    array = noise()
    assert np.abs(pixels_of(processor, SAME_IMAGE[kind](array)) - by_hand(Image.fromarray(array))).max() < 1e-5


def test_floats_that_are_rescaled_already_are_not_scaled_again(processor):
    """The idiom of transformers: floats in [0, 1] with do_rescale=False."""
    array = noise()
    for floats in (as_floats(array), torch.from_numpy(as_floats(array))):
        got = pixels_of(processor, floats, do_rescale=False)
        assert np.abs(got - by_hand(Image.fromarray(array))).max() < 1e-2
    assert (
        np.abs(pixels_of(processor, array, do_rescale=False)[0] - by_hand(Image.fromarray(array), factor=1)).max()
        < 1e-3
    )


def test_an_image_has_the_same_pixels_alone_and_in_a_batch(processor):
    batch = np.stack([as_floats(noise(seed=seed)) for seed in range(3)])
    batch[1] *= 0.001
    alone = np.concatenate([pixels_of(processor, image) for image in batch])
    for together in (batch, list(batch), torch.from_numpy(batch), [batch[:2], batch[2]]):
        assert np.array_equal(pixels_of(processor, together), alone)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.random.default_rng(0).normal(size=(3, 40, 20)), r"values go from -.* normalised already\?"),
        (np.linspace(0, 1.3, 3 * 40 * 20).reshape(3, 40, 20), r"values go from 0 to 1.3"),
        (np.full((40, 20), np.nan), "values go from nan"),
        (np.full((40, 20), 300.0), "values go from 300 to 300"),
        (np.full((40, 20), -1), "values go from -1 to -1"),
        (np.zeros((5, 40, 20), np.uint8), r"1, 3 or 4 channels, found an array of shape \[5, 40, 20\]"),
        (np.zeros(7, np.uint8), "2 or 3 axes"),
        (np.array([["a"]]), "numbers or booleans"),
        ([], "There are no images"),
        ([1, 2], "An image is a PIL image, a path, .* found int: 1"),
    ],
)
def test_what_shows_no_image_is_refused_by_its_values(processor, image, message):
    with pytest.raises(ValueError, match=message):
        processor(images=image)


GREY = np.tile(np.arange(0, 255, 5, dtype=np.uint8), (90, 1))


@pytest.mark.parametrize(
    "values",
    [
        GREY.astype(np.int32),
        GREY.astype(np.int32) * 257,
        GREY.astype(np.uint16) * 256,
        GREY.astype(np.float32) / 255,
        GREY.astype(np.float32),
        GREY > 127,
    ],
    ids=["I of 8 bits", "I of 16 bits", "I;16", "F in [0, 1]", "F in [0, 255]", "1"],
)
def test_greys_of_every_depth_are_grey(processor, values):
    want = (GREY > 127) * np.uint8(255) if values.dtype == bool else GREY
    image = Image.fromarray(values)
    assert np.array_equal(np.asarray(to_rgb(image)), np.stack([want] * 3, axis=2))
    assert np.array_equal(pixels_of(processor, image), pixels_of(processor, values))


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("turn", TURNED)
def test_every_orientation_is_turned_upright_once(tmp_path, turn):
    exif, stored = Image.Exif(), noise(6, 9)
    exif[0x0112] = turn
    for name in ("a.png", "a.tiff", "a.webp"):
        Image.fromarray(stored).save(tmp_path / name, exif=exif, lossless=True)
        upright = to_rgb(Image.open(tmp_path / name))
        assert np.array_equal(np.asarray(upright), TURNED[turn](stored))
        assert to_rgb(upright).size == upright.size and np.array_equal(to_rgb(upright), upright)


def broken_exif() -> bytes:
    """Orientation 6 and an exposure time whose rational is (-1, 0), which Pillow reads and can't write."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x829A, 10, 1, 38)
    return (
        b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0) + struct.pack("<II", 2**32 - 1, 0)
    )


def test_a_broken_exif_block_turns_the_image_and_costs_nothing(processor, tmp_path):
    Image.fromarray(noise(16, 40)).save(tmp_path / "a.jpg", exif=broken_exif())
    with Image.open(tmp_path / "a.jpg") as opened:
        stored = np.asarray(opened)
        assert np.array_equal(np.asarray(to_rgb(opened)), np.rot90(stored, -1))
    where = {"path": str(tmp_path / "a.jpg"), "bytes": None}
    assert decode_image(where).size == (16, 40) and decode_image(where, size=(20, 8)).size == (8, 20)
    with Image.open(tmp_path / "a.jpg") as opened, pytest.raises(struct.error):
        ImageOps.exif_transpose(opened)
    Image.fromarray(stored).save(tmp_path / "b.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff")
    assert decode_image({"path": str(tmp_path / "b.jpg"), "bytes": None}).size == (40, 16)


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory):
    """Files that a plain `convert("RGB")` misreads, by name."""
    folder, exif, image = tmp_path_factory.mktemp("odd"), Image.Exif(), Image.fromarray(noise())
    exif[0x0112] = 6
    Image.fromarray(np.random.default_rng(1).integers(0, 65536, (90, 50), dtype=np.uint16)).save(folder / "grey16.png")
    image.convert("RGBA").save(folder / "rgba.png")
    image.save(folder / "turned.jpg", exif=exif)
    image.convert("P").save(folder / "palette.png", transparency=3)
    return folder


@pytest.mark.parametrize("name", ["grey16.png", "rgba.png", "turned.jpg", "palette.png"])
def test_paths_urls_and_base64_are_read_as_the_image_itself(processor, odd_files, name):
    file = odd_files / name
    with Image.open(file) as opened:
        want = pixels_of(processor, opened)
    assert np.ptp(want) > 1
    text = base64.b64encode(file.read_bytes()).decode()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=odd_files)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        for image in (str(file), file, [[str(file)]], f"data:image/png;base64,{text}", text, url + name):
            assert np.array_equal(pixels_of(processor, image), want)
        with pytest.raises(ValueError, match="Cannot read image http://127.0.0.1.*404"):
            processor(images=url + "nothing.png")
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_a_path_that_leads_nowhere_or_to_no_image_is_named(processor, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no image .*nothing.png"):
        processor(images=str(tmp_path / "nothing.png"))
    (tmp_path / "eps.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ValueError, match="Cannot read image .*eps.jpg: it is no image that is read; expected JPEG"):
        processor(images=tmp_path / "eps.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="no regular file"):
        processor(images=tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="Cannot read image .*no regular file"):
        decode_image({"path": str(tmp_path / "pipe.png"), "bytes": None})


def test_the_tokenizers_limit_decides_where_captions_are_cut(processor, tmp_path):
    short = copy.deepcopy(processor)
    short.tokenizer.model_max_length = 12
    short.save_pretrained(tmp_path)
    loaded = AMNSProcessor.from_pretrained(tmp_path)
    ids = loaded(text=["word " * 200, "a man"], return_tensors="pt").input_ids
    assert loaded.max_tokens == 12 and ids.shape == (2, 12) and ids[0, -1] == loaded.tokenizer.eos_token_id
    assert [len(row) for row in loaded.token_ids(["word " * 200, "a"])] == [12, 3] and loaded.token_ids([]) == []
    loaded.max_tokens = 100
    assert len(loaded(text="word " * 200)["input_ids"]) == 100
    unlimited = train_tokenizer(CAPTIONS, 620)
    unlimited.model_max_length = int(1e30)
    assert AMNSProcessor.from_tokenizer(unlimited, 32).max_tokens == 77


def test_threads_share_a_processor(processor):
    """A fast tokenizer keeps padding and truncation as a state, which threads would change under one another."""
    calls = [
        {"padding": True},
        {"padding": False},
        {"padding": "max_length", "max_length": 40},
        {"padding": "max_length", "max_length": 20, "truncation": True},
    ]
    texts = ["word " * 200, *CAPTIONS]
    want = [processor(text=texts, **call)["input_ids"] for call in calls]

    def ask(number):
        if number % 5 == 4:
            return processor.token_ids(texts) == want[1]
        return processor(text=texts, **calls[number % 4])["input_ids"] == want[number % 4]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(1200)))


def test_it_is_annotated_for_those_who_ask(processor):
    hints = AMNSProcessor.__call__.__annotations__
    assert {"images", "text", "return"} <= set(hints)
    assert hints["kwargs"].__args__[0] is AMNSProcessor.valid_processor_kwargs


def test_what_is_loaded_equals_what_was_saved(tmp_path, processor):
    processor.save_pretrained(tmp_path)
    assert AMNSProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()
    # The folder itself says where its code lies.
    assert "AMNSProcessor" in (tmp_path / "processor_config.json").read_text().split('"auto_map"')[1]
