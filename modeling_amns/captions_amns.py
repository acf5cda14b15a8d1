"""Captions before they are tokens, those that are too long, what each family asks of a tokenizer, and one that is
trained on captions."""

import html
import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

from tokenizers import normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

# Of a tokenizer that says nothing of its own: the positions of CLIP's text encoder.
CLIP_TOKENS = 77
# The same of each family's text encoder.
CAPTION_RULES = {"clip": CLIP_TOKENS, "siglip": 64}
# What becomes of a caption of more tokens than the text encoder reads.
LONG_CAPTIONS = ("cut", "refuse", "windows")
START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"


def clean_caption(caption: str) -> str:
    """A caption without HTML escapes and outer white space."""
    if not isinstance(caption, str):
        raise ValueError(f"A caption must be a string, found {type(caption).__name__}: {caption!r}.")
    # Twice, as in OpenAI's CLIP: captions were often escaped once too many ("&amp;amp;").
    return html.unescape(html.unescape(caption)).strip()


def check_long_captions(choice: object) -> str:
    """The choice as it is; a ValueError if it is none of `LONG_CAPTIONS`."""
    if choice not in LONG_CAPTIONS:
        raise ValueError(f"long_captions must be one of {', '.join(LONG_CAPTIONS)}, found {choice!r}.")
    return str(choice)


def token_windows(
    tokens: Sequence[int], max_tokens: int, bos_token_id: int | None, eos_token_id: int | None
) -> list[list[int]]:
    """A caption in windows that a text encoder reads: as few as hold it, without overlap, as equal as can be.

    Equal, because each counts alike in their mean: a last window of the two words that were left would weigh as much
    as the seventy before it.

    Args:
        tokens: of the whole caption, with its start and end token where it has them.
        max_tokens: of a window, at least one more than start and end.
        bos_token_id, eos_token_id: which each window gets where the caption has them.
    Returns:
        tokens of each window; they differ by one at most. One window where the caption fits.

    ```python
    >>> token_windows([0, 5, 6, 7, 8, 9, 1], 5, bos_token_id=0, eos_token_id=1)
    [[0, 5, 6, 7, 1], [0, 8, 9, 1]]

    ```
    """
    start = list(tokens[:1]) if tokens[:1] and tokens[0] == bos_token_id else []
    rest = list(tokens[len(start) :])
    end = rest[-1:] if rest and rest[-1] == eos_token_id else []
    words = rest[: len(rest) - len(end)]
    room = max_tokens - len(start) - len(end)
    if room < 1 and words:
        raise ValueError(f"A window of {max_tokens} tokens has no room for a word between its start and end tokens.")
    count = max(1, -(-len(words) // max(room, 1)))
    size, longer = divmod(len(words), count)
    edges = [number * size + min(number, longer) for number in range(count + 1)]
    return [[*start, *words[first:last], *end] for first, last in pairwise(edges)]


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
    "LONG_CAPTIONS",
    "START_TOKEN",
    "check_long_captions",
    "clean_caption",
    "prepare_tokenizer",
    "token_windows",
    "train_tokenizer",
]
