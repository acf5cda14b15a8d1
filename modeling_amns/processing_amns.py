"""Processor of AMNS: person crops to normalised pixels, captions to CLIP tokens; no network, torchvision optional."""

import html
import json
from collections.abc import Iterable

from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin
from transformers.utils import is_torchvision_available

from .image_modes_amns import to_rgb

if is_torchvision_available():
    from transformers import CLIPImageProcessor
else:
    # Asking for CLIPImageProcessor would give this class too, with a warning.
    from transformers import CLIPImageProcessorPil as CLIPImageProcessor

MAX_TOKENS = 77
START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"


class AMNSProcessorKwargs(ProcessingKwargs, total=False):
    """Defaults of a call: pad to the longest caption, cut at 77 tokens with the end token kept."""

    _defaults = {"text_kwargs": {"padding": True, "truncation": True, "max_length": MAX_TOKENS}}


class AMNSProcessor(ProcessorMixin):
    """Prepares images and captions for AMNS models.

    Images of every PIL mode become RGB (a camera's EXIF rotation applied, 16-bit greys scaled, transparency dropped as
    in CLIP), are resized to height x width without crop and normalised with CLIP's mean and deviation. Captions are
    unescaped (`&amp;`) and cut into at most 77 tokens; a literal `<|endoftext|>` inside one is read as plain
    characters and cannot end it early.

    Args:
        image_processor: a CLIP image processor that resizes to a fixed height and width.
        tokenizer: a CLIP tokenizer: OpenAI's, loaded from a CLIP checkpoint, or one from `train_tokenizer`.

    `from_pretrained(path, image_size=[height, width])` sets another size, which a CLIP checkpoint needs: its own
    processor crops a square.

    ```python
    >>> from modeling_amns import AMNSProcessor
    >>> processor = AMNSProcessor.from_captions(["a man in a red coat", "a woman with a blue bag"], [128, 48])
    >>> processor(text="a man in a blue coat", return_tensors="pt").input_ids.shape
    torch.Size([1, 8])

    ```
    """

    valid_processor_kwargs = AMNSProcessorKwargs

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        super().__init__(image_processor, tokenizer)
        if tokenizer is not None:
            # User text must not be able to hold a real end token.
            tokenizer.split_special_tokens = True
            # Saved with the tokenizer, for those who load it without this class.
            tokenizer.init_kwargs["split_special_tokens"] = True

    @classmethod
    def from_tokenizer(
        cls, tokenizer: PreTrainedTokenizerBase, image_size: list[int] | tuple[int, int]
    ) -> "AMNSProcessor":
        """A processor with this tokenizer for images of `image_size` (height, width)."""
        height, width = image_size
        # CLIP's processor crops 224x224 from the centre unless told otherwise.
        size = {"height": height, "width": width}
        return cls(CLIPImageProcessor(size=size, do_center_crop=False, crop_size=size), tokenizer)

    @classmethod
    def from_captions(
        cls, captions: Iterable[str], image_size: list[int] | tuple[int, int], vocab_size: int = 4096
    ) -> "AMNSProcessor":
        """A processor for training from scratch, its tokenizer trained on the captions; see `train_tokenizer`."""
        return cls.from_tokenizer(train_tokenizer(captions, vocab_size), image_size)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, image_size=None, **kwargs):
        """As `ProcessorMixin.from_pretrained`; `image_size` (height, width) replaces the stored size and any crop."""
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if image_size is not None:
            processor = cls.from_tokenizer(processor.tokenizer, image_size)
        return processor

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the processed images in pixels."""
        size = self.image_processor.size
        return size["height"], size["width"]

    @property
    def text_config_fields(self) -> dict[str, int]:
        """The fields of `AMNSTextConfig` that have to fit the tokenizer."""
        tokenizer = self.tokenizer
        return {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }

    def __call__(self, images=None, text=None, **kwargs):
        """Processes images, captions or both; arguments and result as transformers' `CLIPProcessor`.

        Args:
            images: a PIL image, array or tensor, or a list of them.
            text: a caption or a list of captions.
        Returns:
            `BatchFeature` with `pixel_values` float [B, 3, height, width], `input_ids` and `attention_mask` [B, T].
        """
        if text is not None:
            text = clean_caption(text) if isinstance(text, str) else [clean_caption(caption) for caption in text]
        if images is not None:
            images = to_rgb(images) if not isinstance(images, (list, tuple)) else [to_rgb(image) for image in images]
        return super().__call__(images=images, text=text, **kwargs)


def clean_caption(caption: str) -> str:
    """A caption without HTML escapes and outer white space."""
    if not isinstance(caption, str):
        raise ValueError(f"A caption must be a string, found {type(caption).__name__}: {caption!r}.")
    # Twice, as in OpenAI's CLIP: captions were often escaped once too many ("&amp;amp;").
    return html.unescape(html.unescape(caption)).strip()


def train_tokenizer(captions: Iterable[str], vocab_size: int = 4096) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges are learnt from captions, for training from scratch without the Hub.

    Same normalisation, pre-tokenisation and special tokens as OpenAI's; the vocabulary is laid out like OpenAI's (256
    bytes, the same at a word's end, the merges, start, end), so that every text has tokens and none is unknown (the
    unknown token of CLIP is the end token, which would end a caption early).

    Args:
        captions: training captions; the order does not matter.
        vocab_size: at most this many tokens, at least 514.
    Returns:
        a tokenizer that is saved with the checkpoint.
    """
    if vocab_size < 514:
        raise ValueError(
            f"vocab_size must be at least 514 (512 byte symbols, start and end token), found {vocab_size}."
        )
    bytes_in_order = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = bytes_in_order + [byte + "</w>" for byte in bytes_in_order]
    backend = CLIPTokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=bytes_in_order,
        end_of_word_suffix="</w>",
        show_progress=False,
        # The trainer numbers the symbols at a word's end in the order of a hash map and breaks ties by number; naming
        # them here fixes the numbers, so that the same captions always give the same tokenizer.
        special_tokens=[START_TOKEN, END_TOKEN, *symbols[len(bytes_in_order) :]],
    )
    backend.train_from_iterator((clean_caption(caption) for caption in captions), trainer)
    merges = json.loads(backend.to_str())["model"]["merges"][: vocab_size - len(symbols) - 2]
    vocab = [*symbols, *("".join(pair) for pair in merges), START_TOKEN, END_TOKEN]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocab)},
        merges=[tuple(pair) for pair in merges],
        model_max_length=MAX_TOKENS,
    )


AMNSProcessor.register_for_auto_class("AutoProcessor")
