"""OpenAI's CLIP tokenizer without network, from the vocabulary file inside OpenCLIP's wheel."""

import gzip
import importlib.util
from pathlib import Path
from typing import cast

from transformers import CLIPTokenizer

# The vocabulary file has more merges than CLIP uses.
CLIP_MERGES = 48894


def clip_tokenizer(vocabulary: str | Path | None = None) -> CLIPTokenizer:
    """OpenAI's tokenizer, which OpenAI CLIP, OpenCLIP, IRRA and RDE use, built without network.

    Args:
        vocabulary: `bpe_simple_vocab_16e6.txt.gz` from OpenAI's or OpenCLIP's code; `None` means the copy inside an
            installed open-clip-torch (which is not imported).
    Raises:
        FileNotFoundError: there is no such file.
    """
    if vocabulary is None:
        found = importlib.util.find_spec("open_clip")
        vocabulary = Path(found.origin).with_name("bpe_simple_vocab_16e6.txt.gz") if found and found.origin else ""
    if not Path(vocabulary).is_file():
        raise FileNotFoundError(
            f"no vocabulary of CLIP at {str(vocabulary)!r}. Install open-clip-torch, which carries it (--no-deps is "
            "enough), or pass a CLIP tokenizer's folder or Hub id instead."
        )
    with gzip.open(vocabulary, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : CLIP_MERGES + 1]]
    # The byte symbols in the order of CLIP's ids: printable characters first, as in GPT-2.
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = [chr(code) for code in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    vocab = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(pair) for pair in merges)]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: index for index, token in enumerate(vocab)}
    return CLIPTokenizer(vocab=ids, merges=cast(list[str], merges), model_max_length=77)


__all__ = ["clip_tokenizer"]
