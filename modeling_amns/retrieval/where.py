"""Filters on metadata as people write them, `camera = 'c3' AND time >= '2026-11-25 08:00'`, read into checked SQL.

What reaches a store's SQL engine is written anew from what was understood: columns that exist, literals of their
kind, one expression. Nothing of the user's text is passed on.

```python
>>> from modeling_amns.retrieval.where import to_sql
>>> to_sql("camera = 'c3' and not frame between 10 and 20", {"camera": "text", "frame": "integer"})
'("camera" = \\'c3\\' AND NOT "frame" BETWEEN 10 AND 20)'

```
"""

import datetime
import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

# Kinds of a column: text, integer (64 bits), real, boolean, time (no zone, or UTC).
Kinds = Mapping[str, str]
# What a column is compared with.
Literal = str | int | float | bool | datetime.datetime

MAX_CHARACTERS = 10_000
# Brackets and NOTs inside each other; beyond, a reader that calls itself would end the program.
MAX_DEPTH = 50
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")+"|`[^`]+`)
    | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    | (?P<word>[^\W\d]\w*)
    | (?P<sign><=|>=|<>|!=|==|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
_OPERATORS = {"=": "=", "==": "=", "!=": "<>", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_KEYWORDS = {"AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "IS", "NULL", "TRUE", "FALSE"}
_GRAMMAR = (
    "A filter is one expression: column = 'text' (or <>, <, <=, >, >= a value), IN (...), BETWEEN a AND b, LIKE 'a%', "
    "IS NULL, joined by AND, OR, NOT and brackets"
)


@dataclass(frozen=True)
class Comparison:
    """A test of one column.

    Args:
        name, kind: of the column.
        operator: `=`, `<>`, `<`, `<=`, `>`, `>=`, `IN`, `BETWEEN`, `LIKE`, `NULL`; `TRUE` for a boolean column alone.
        values: what it is compared with, of the column's kind; a real number beside integers stays one.
        negated: it was written with a NOT of its own, as in `NOT IN`.
    """

    name: str
    kind: str
    operator: str
    values: tuple[Literal, ...] = ()
    negated: bool = False


@dataclass(frozen=True)
class Not:
    """What does not hold; of a column without a value neither this nor its part does, as in SQL."""

    part: "Condition"


@dataclass(frozen=True)
class Joined:
    """Parts joined by `AND` or `OR`."""

    word: str
    parts: "tuple[Condition, ...]"


Condition = Comparison | Not | Joined


def read_filter(where: str, kinds: Kinds) -> Condition:
    """What a filter says.

    Args:
        where: the filter. Text stands in single quotes (`''` is a quote), times are text in ISO form.
        kinds: kind of each column that may be named: text, integer, real, boolean or time.
    Raises:
        ValueError: an unknown column, a value that does not fit its column, or no single expression. The text says
            which, and where.
    """
    if not where.strip():
        raise ValueError(f"The filter is empty. {_GRAMMAR}.")
    if len(where) > MAX_CHARACTERS:
        raise ValueError(f"The filter has {len(where):,} characters, at most {MAX_CHARACTERS:,} are read.")
    return _Reader(where, kinds).read()


def to_sql(where: str, kinds: Kinds, time: Callable[[str], str] = "'{}'".format) -> str:
    """A filter as SQL that holds nothing but known columns and literals of their kind.

    Args:
        where, kinds: see `read_filter`.
        time: how the engine writes a time, from its ISO form without zone.
    Returns:
        an expression; names in double quotes.
    Raises:
        ValueError: as `read_filter`.
    """
    return _sql(read_filter(where, kinds), time)


def _sql(said: Condition, time: Callable[[str], str]) -> str:
    if isinstance(said, Joined):
        return "(" + f" {said.word} ".join(_sql(part, time) for part in said.parts) + ")"
    if isinstance(said, Not):
        return f"NOT {_sql(said.part, time)}"
    column, negated = quoted_name(said.name), "NOT " if said.negated else ""
    if said.operator == "NULL":
        return f"{column} IS {negated}NULL"
    if said.operator == "TRUE":
        return column
    # LanceDB takes no fraction beside a column of integers.
    if said.kind == "integer" and any(isinstance(value, float) for value in said.values):
        column = f"CAST({column} AS DOUBLE)"
    values = [_sql_literal(value, time) for value in said.values]
    if said.operator == "IN":
        return f"{column} {negated}IN ({', '.join(values)})"
    return f"{column} {negated}{said.operator} {' AND '.join(values)}"


def _sql_literal(value: Literal, time: Callable[[str], str]) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime.datetime):
        return time(value.isoformat())
    return quoted_text(value) if isinstance(value, str) else repr(value)


class _Reader:
    def __init__(self, where: str, kinds: Kinds):
        self.where, self.kinds = where, kinds
        self.tokens: list[tuple[str, str, int]] = []
        self.place = self.depth = 0
        start, end = 0, len(where.rstrip())
        while start < end:
            found = _TOKEN.match(where, start, end)
            if found is None or found.lastgroup is None:
                start += len(where[start:]) - len(where[start:].lstrip())
                hint = "; a text that is not closed?" if where[start] in "'\"`" else ""
                self.fail(f"{where[start : start + 20]!r} is not understood{hint}", start)
            self.tokens.append((found.lastgroup, found[found.lastgroup], found.start(found.lastgroup)))
            start = found.end()

    def fail(self, what: str, at: int | None = None) -> NoReturn:
        if at is None:
            at = self.tokens[self.place][2] if self.place < len(self.tokens) else len(self.where)
        raise ValueError(f"Filter, character {at + 1}: {what}. {_GRAMMAR}.")

    def read(self) -> Condition:
        said = self.any_of()
        if self.place < len(self.tokens):
            self.fail(f"{self.tokens[self.place][1]!r} follows a whole expression; only one is read")
        return said

    def peek(self) -> str:
        """The next word in capitals or sign, "" for anything else."""
        if self.place == len(self.tokens):
            return ""
        kind, text, _ = self.tokens[self.place]
        return text.upper() if kind in ("word", "sign") else ""

    def take(self, *wanted: str) -> bool:
        if self.peek() not in wanted:
            return False
        self.place += 1
        return True

    def expect(self, wanted: str) -> None:
        if not self.take(wanted):
            found = self.tokens[self.place][1] if self.place < len(self.tokens) else "the end"
            self.fail(f"expected {wanted}, found {found}")

    def any_of(self) -> Condition:
        parts = [self.all_of()]
        while self.take("OR"):
            parts.append(self.all_of())
        return parts[0] if len(parts) == 1 else Joined("OR", tuple(parts))

    def all_of(self) -> Condition:
        parts = [self.negated()]
        while self.take("AND"):
            parts.append(self.negated())
        return parts[0] if len(parts) == 1 else Joined("AND", tuple(parts))

    def negated(self) -> Condition:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"more than {MAX_DEPTH} brackets inside each other")
        said: Condition
        if self.take("NOT"):
            said = Not(self.negated())
        elif self.take("("):
            said = self.any_of()
            self.expect(")")
        else:
            said = self.comparison()
        self.depth -= 1
        return said

    def comparison(self) -> Comparison:
        name = self.column()
        kind = self.kinds[name]
        if self.take("IS"):
            negated = self.take("NOT")
            self.expect("NULL")
            return Comparison(name, kind, "NULL", (), negated)
        operator = self.peek()
        if operator in _OPERATORS:
            self.place += 1
            return Comparison(name, kind, _OPERATORS[operator], (self.literal(name),))
        negated = self.take("NOT")
        if self.take("IN"):
            self.expect("(")
            values = [self.literal(name)]
            while self.take(","):
                values.append(self.literal(name))
            self.expect(")")
            return Comparison(name, kind, "IN", tuple(values), negated)
        if self.take("BETWEEN"):
            low = self.literal(name)
            self.expect("AND")
            return Comparison(name, kind, "BETWEEN", (low, self.literal(name)), negated)
        if self.take("LIKE"):
            if kind != "text":
                self.fail(f"LIKE compares text, {name} holds {kind} values")
            pattern = self.literal(name)
            if "\\" in str(pattern):
                self.fail("LIKE has no escape character; % stands for any text, _ for one character")
            return Comparison(name, kind, "LIKE", (pattern,), negated)
        if negated or kind != "boolean":
            found = self.tokens[self.place][1] if self.place < len(self.tokens) else "the end"
            self.fail(f"expected a comparison after {name}, found {found}")
        return Comparison(name, kind, "TRUE")

    def column(self) -> str:
        if self.place == len(self.tokens):
            self.fail("a column is missing")
        kind, text, at = self.tokens[self.place]
        if kind not in ("word", "quoted") or (kind == "word" and text.upper() in _KEYWORDS):
            self.fail(f"expected a column, found {text}")
        name = text if kind == "word" else text[1:-1].replace('""', '"') if text[0] == '"' else text[1:-1]
        if name not in self.kinds:
            near = difflib.get_close_matches(name, self.kinds, 1)
            guess = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"Filter, character {at + 1}: the gallery has no column {name}; it has {', '.join(self.kinds)}."
                f"{guess} Text stands in single quotes."
            )
        self.place += 1
        return name

    def literal(self, name: str) -> Literal:
        kind = self.kinds[name]
        if self.place == len(self.tokens):
            self.fail(f"a value for {name} is missing")
        token, text, _ = self.tokens[self.place]
        if token == "word" and text.upper() in ("TRUE", "FALSE"):
            value = text.upper()
        elif token == "text":
            value = text[1:-1].replace("''", "'")
        elif token == "number":
            value = text
        else:
            self.fail(f"expected a value for {name}, found {text}; text stands in single quotes")
        meant = _LITERALS[kind](value)
        if meant is None or "\0" in value:
            self.fail(f"{name} holds {kind} values, found {text}")
        self.place += 1
        return meant


def quoted_name(name: str) -> str:
    """A column's name as SQL and filters hold it."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(value: str) -> str:
    """A text as SQL and filters hold it."""
    return "'" + value.replace("'", "''") + "'"


def _integer(value: str) -> int | float | None:
    if re.fullmatch(r"[-+]?\d{1,19}", value):
        return int(value) if -(2**63) <= int(value) < 2**63 else None
    return _real(value)


def _real(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in value else None


def _boolean(value: str) -> bool | None:
    return {"TRUE": True, "FALSE": False, "1": True, "0": False}.get(value.upper())


def parse_time(text: str) -> datetime.datetime | None:
    """A date or a time in ISO form, without zone; one with a zone in UTC; `None` for any other text.

    >>> parse_time("2026-11-25 08:00+01:00")
    datetime.datetime(2026, 11, 25, 7, 0)
    """
    if not re.match(r"\d{4}-\d{2}-\d{2}([T ]\d|$)", text):
        return None
    try:
        # Python 3.10 reads no Z.
        time = datetime.datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
        return time.astimezone(datetime.timezone.utc).replace(tzinfo=None) if time.tzinfo else time
    except (ValueError, OverflowError):
        return None


_LITERALS: dict[str, Callable[[str], Literal | None]] = {
    "text": str,
    "integer": _integer,
    "real": _real,
    "boolean": _boolean,
    "time": parse_time,
}


__all__ = [
    "Comparison",
    "Condition",
    "Joined",
    "Kinds",
    "Literal",
    "Not",
    "parse_time",
    "quoted_name",
    "quoted_text",
    "read_filter",
    "to_sql",
]
