"""The processor: every PIL mode, fixed size, tokens that keep their end, round trips without the network."""

import numpy as np
import pytest
import torch
from conftest import CAPTIONS, IMAGE_SIZE
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer

from modeling_amns import AMNSProcessor
from modeling_amns.processing_amns import to_rgb, train_tokenizer

MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]


@pytest.mark.parametrize("mode", MODES)
def test_every_pil_mode_becomes_normalised_rgb_of_the_fixed_size(processor, mode):
    image = Image.new(mode, (50, 20))
    pixels = processor(images=image, return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, *IMAGE_SIZE)
    assert pixels.isfinite().all()


def test_pixels_are_a_plain_resize_without_crop(processor):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    resized = np.asarray(image.resize((IMAGE_SIZE[1], IMAGE_SIZE[0]), Image.Resampling.BICUBIC)) / 255
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    want = ((resized - mean) / std).transpose(2, 0, 1)
    got = processor(images=[image], return_tensors="pt").pixel_values[0]
    assert np.abs(got.numpy() - want).max() < 1e-5


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
