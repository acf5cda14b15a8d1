"""Captions of more tokens than the text encoder reads: found, counted, said or refused, and read in windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from accelerate import PartialState
from transformers.utils import logging

from ..captions_amns import LONG_CAPTIONS, check_long_captions, token_windows
from ..protocols import PairProcessor

logger = logging.get_logger(__name__)

CUT, REFUSE, WINDOWS = LONG_CAPTIONS
# Captions tokenised at a time where only their number is wanted.
_BATCH = 4096
# Rows that a refusal names.
_NAMED = 5


@dataclass(frozen=True)
class LongCaptions:
    """How many captions of a set are too long.

    Args:
        total: captions of the set.
        rows: places of those of more than `max_tokens` tokens.
        longest: tokens of the longest of these, start and end included; 0 if there is none.
        max_tokens: that the text encoder reads, start and end included.
    """

    total: int
    rows: tuple[int, ...]
    longest: int
    max_tokens: int

    def __str__(self) -> str:
        if self.total == 1:
            return f"a caption of {self.longest:,} tokens, more than the {self.max_tokens} that the text encoder reads"
        share = len(self.rows) / max(self.total, 1)
        return (
            f"{len(self.rows):,} of {self.total:,} captions ({share:.2%}) have more than the {self.max_tokens} tokens "
            f"that the text encoder reads, the longest {self.longest:,}"
        )

    def say(self, choice: str, what: str, name: str = "row") -> None:
        """Warns of captions that will be cut, the same words once in a process; refuses them where that is asked for.

        Args:
            choice: of `captions_amns.LONG_CAPTIONS`.
            what: the set, in words that begin a sentence.
            name: what a place is called.
        Raises:
            ValueError: the choice is `refuse`, and there are some.
        """
        check_long_captions(choice)
        if not self.rows or choice == WINDOWS:
            return
        if choice == REFUSE:
            shown = ", ".join(f"{row:,}" for row in self.rows[:_NAMED])
            more = f" and {len(self.rows) - _NAMED:,} more" if len(self.rows) > _NAMED else ""
            raise ValueError(
                f"{what}: {self}: {name} {shown}{more}. Shorten them; or read them whole (long_captions windows) or "
                "cut off (cut); or give the text encoder more positions (max_text_positions of train.py)."
            )
        if PartialState().is_main_process:
            logger.warning_once(
                f"{what}: {self}; what is beyond is cut off. long_captions windows reads it too, refuse stops here, "
                "max_text_positions of train.py gives the text encoder more positions."
            )


def read_captions(processor: PairProcessor, captions: Sequence[str]) -> tuple[list[list[int]], dict[int, list[int]]]:
    """Tokens of captions, and which are too long.

    Returns:
        tokens of each, cut at `max_tokens`; those of the too long ones whole, by their place. Only captions that fill
        all places are tokenised twice.
    """
    tokens = processor.token_ids(captions)
    full = [place for place, ids in enumerate(tokens) if len(ids) >= processor.max_tokens]
    whole = processor.token_ids([captions[place] for place in full], cut=False)
    return tokens, {place: ids for place, ids in zip(full, whole, strict=True) if len(ids) > processor.max_tokens}


def count_long(processor: PairProcessor, captions: Sequence[str]) -> LongCaptions:
    """Counts captions of more than `processor.max_tokens` tokens, holding the tokens of some thousands at a time."""
    rows: list[int] = []
    longest = 0
    for start in range(0, len(captions), _BATCH):
        _, whole = read_captions(processor, captions[start : start + _BATCH])
        rows += [start + place for place in whole]
        longest = max([longest, *map(len, whole.values())])
    return LongCaptions(len(captions), tuple(rows), longest, processor.max_tokens)


def refuse_long(processor: PairProcessor, captions: Sequence[str], what: str, name: str = "row") -> None:
    """A ValueError where there are long captions and the processor refuses them; else nothing is counted."""
    if check_long_captions(processor.long_captions) == REFUSE:
        count_long(processor, captions).say(REFUSE, what, name)


def windows_of(processor: PairProcessor, tokens: Sequence[int]) -> list[list[int]]:
    """A whole caption in windows of at most `processor.max_tokens`, see `token_windows`."""
    start, end = processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id
    return token_windows(tokens, processor.max_tokens, cast(int | None, start), cast(int | None, end))


__all__ = ["CUT", "REFUSE", "WINDOWS", "LongCaptions", "count_long", "read_captions", "refuse_long", "windows_of"]
