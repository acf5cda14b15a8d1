"""Filters as Qdrant's conditions, written from what was understood of them."""

import datetime
import re
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ..extras import require
from .where import Comparison, Condition, Joined, Kinds, Literal, Not, read_filter

if TYPE_CHECKING:
    from qdrant_client import models

# Qdrant compares the order of numbers as reals of 64 bits, which hold integers up to here.
_EXACT = 2**53
_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_TEXT = "=, <>, IN, IS NULL and LIKE 'a', 'a%' or '%a%'"


def to_filter(where: str, kinds: Kinds) -> "models.Filter":
    """A filter that keeps the rows that `where.to_sql` keeps.

    Args:
        where, kinds: see `where.read_filter`.
    Raises:
        ValueError: it is no filter, or a server can't answer it; the text says what it takes instead.
    """
    return _Writer().both(read_filter(where, kinds)).holds


def key_of(name: str) -> str:
    """How Qdrant calls a column; names that are no word would be read as a path into it."""
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else f'"{name}"'


class _Both(NamedTuple):
    """A condition, and where it fails: not all the other rows, since neither is true of a column without a value."""

    holds: "models.Filter"
    fails: "models.Filter"


class _Writer:
    def __init__(self) -> None:
        self.models: Any = require("qdrant_client", "qdrant", "A gallery on a server").models

    def both(self, said: Condition) -> _Both:
        if isinstance(said, Not):
            return _Both(*reversed(self.both(said.part)))
        if isinstance(said, Joined):
            parts = [self.both(part) for part in said.parts]
            holds, fails = [part.holds for part in parts], [part.fails for part in parts]
            if said.word == "AND":
                return _Both(self.models.Filter(must=holds), self.models.Filter(should=fails))
            return _Both(self.models.Filter(should=holds), self.models.Filter(must=fails))
        both = self.comparison(said)
        return _Both(*reversed(both)) if said.negated or said.operator == "<>" else both

    def comparison(self, said: Comparison) -> _Both:
        key = key_of(said.name)
        empty = self.models.IsEmptyCondition(is_empty=self.models.PayloadField(key=key))
        if said.operator == "NULL":
            return _Both(self.models.Filter(must=[empty]), self.models.Filter(must_not=[empty]))
        fits = self.fits(said, key)
        # A pattern of any text fits wherever there is one.
        found = self.models.Filter(must_not=[empty]) if fits is None else fits
        return _Both(self.models.Filter(must=[found]), self.models.Filter(must_not=[found, empty]))

    def fits(self, said: Comparison, key: str) -> "models.Condition | None":
        if said.operator == "TRUE":
            return self.equal(key, True)
        if said.operator in ("=", "<>"):
            return self.equal(key, said.values[0])
        if said.operator == "IN":
            return self.models.Filter(should=[self.equal(key, value) for value in said.values])
        if said.operator == "LIKE":
            return self.like(said, key)
        if said.kind in ("text", "boolean"):
            takes = _TEXT if said.kind == "text" else "=, <>, IN and IS NULL"
            self.refuse(said, f"compares {said.kind} values by {takes} only")
        if said.operator == "BETWEEN":
            return self.within(said, key, gte=said.values[0], lte=said.values[1])
        return self.within(said, key, **{_BOUNDS[said.operator]: said.values[0]})

    def equal(self, key: str, value: Literal) -> "models.FieldCondition":
        if isinstance(value, (float, datetime.datetime)):
            return self.models.FieldCondition(key=key, range=self.range_of(gte=value, lte=value))
        return self.models.FieldCondition(key=key, match=self.models.MatchValue(value=value))

    def within(self, said: Comparison, key: str, **bounds: Literal) -> "models.FieldCondition":
        if any(isinstance(bound, int) and abs(bound) >= _EXACT for bound in bounds.values()):
            self.refuse(said, f"orders integers below {_EXACT:,} only")
        return self.models.FieldCondition(key=key, range=self.range_of(**bounds))

    def range_of(self, **bounds: Literal) -> "models.Range | models.DatetimeRange":
        times = {name: bound for name, bound in bounds.items() if isinstance(bound, datetime.datetime)}
        if times:
            # Columns of times hold UTC, or no zone, which is UTC to the server.
            zoned = {name: bound.replace(tzinfo=datetime.timezone.utc) for name, bound in times.items()}
            return self.models.DatetimeRange(**zoned)
        return self.models.Range(**bounds)

    def like(self, said: Comparison, key: str) -> "models.FieldCondition | None":
        pattern = str(said.values[0])
        text = pattern.strip("%")
        if "%" in text or "_" in text or (pattern.startswith("%") and text and not pattern.endswith("%")):
            self.refuse(said, f"compares text by {_TEXT} only")
        if not text and pattern:
            return None
        if pattern == text:
            return self.equal(key, text)
        part = {"substring": text} if pattern.startswith("%") else {"prefix": text}
        match = self.models.MatchSubstring if "substring" in part else self.models.MatchPrefix
        return self.models.FieldCondition(key=key, match=match(**part))

    @staticmethod
    def refuse(said: Comparison, what: str) -> NoReturn:
        raise ValueError(
            f"Filter: a gallery on a server {what}, found {said.name} {said.operator}. "
            "Ask otherwise, or export the gallery and search it in a folder."
        )


__all__ = ["key_of", "to_filter"]
