"""Captions before they are tokens, what each family asks of a tokenizer, and one that is trained on captions."""

import html
import json
from collections.abc import Iterable
from typing import cast

from tokenizers import normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

# Of a tokenizer that says nothing of its own: the positions of CLIP's text encoder.
CLIP_TOKENS = 77
# The same of each family's text encoder.
CAPTION_RULES = {"clip": CLIP_TOKENS, "siglip": 64}
START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"


def clean_caption(caption: str) -> str:
    """A caption without HTML escapes and outer white space."""
    if not isinstance(caption, str):
        raise ValueError(f"A caption must be a string, found {type(caption).__name__}: {caption!r}.")
    # Twice, as in OpenAI's CLIP: captions were often escaped once too many ("&amp;amp;").
    return html.unescape(html.unescape(caption)).strip()


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, rules: str) -> None:
    """Sets a tokenizer up, in place, for captions of users and for a family of text encoders.

    Args:
        tokenizer: as it was loaded.
        rules: of `CAPTION_RULES`. "siglip": captions are lower-cased, which the tokenizer class of some SigLIP 2
            checkpoints leaves out, and padded on the right, as SigLIP was trained.
    Raises:
        ValueError: there are no such rules.
    """
    if rules not in CAPTION_RULES:
        raise ValueError(f"caption_rules must be one of {', '.join(CAPTION_RULES)}, found {rules!r}.")
    # User text must not be able to hold a real end token.
    tokenizer.split_special_tokens = True
    # Saved with the tokenizer, for those who load it without our classes.
    tokenizer.init_kwargs["split_special_tokens"] = True
    # transformers writes 10^30 for "no limit is known".
    if tokenizer.model_max_length > 10**9:
        tokenizer.model_max_length = CAPTION_RULES[rules]
    if rules == "siglip":
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None and (backend.normalizer is None or "A" in backend.normalizer.normalize_str("A")):
            steps = [normalizers.Lowercase(), *filter(None, [backend.normalizer])]
            backend.normalizer = normalizers.Sequence(steps)


def train_tokenizer(captions: Iterable[str], vocab_size: int = 4096) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges are learnt from captions, for training from scratch without the Hub.

    Same normalisation, pre-tokenisation and special tokens as OpenAI's; the vocabulary is laid out like OpenAI's (256
    bytes, the same at a word's end, the merges, start, end), so that every text has tokens and none is unknown (the
    unknown token of CLIP is the end token, which would end a caption early).

    Args:
        captions: training captions; the order does not matter.
        vocab_size: at most this many tokens, from 514 to 2,000,000.
    Returns:
        a tokenizer that is saved with the checkpoint.
    """
    # Room for all is taken before the first is learnt.
    if not 514 <= vocab_size <= 2_000_000:
        raise ValueError(
            f"vocab_size must be at least 514 (512 bytes, start, end), at most 2,000,000, found {vocab_size}."
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
        # Pairs, whatever transformers declares: a merge may hold any character.
        merges=cast(list[str], [tuple(pair) for pair in merges]),
        model_max_length=CLIP_TOKENS,
    )


__all__ = [
    "CAPTION_RULES",
    "CLIP_TOKENS",
    "END_TOKEN",
    "START_TOKEN",
    "clean_caption",
    "prepare_tokenizer",
    "train_tokenizer",
]
