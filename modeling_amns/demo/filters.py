"""Filters that a page offers for metadata columns, and the one expression that they make together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..brief import in_short
from ..retrieval.pages import shown
from ..retrieval.table import Table
from ..retrieval.where import Kinds, quoted_name, quoted_text, to_sql

# More different values than these are no list that one reads through; more columns no page.
MAX_CHOICES, MAX_COLUMNS = 40, 8
_HELD = {
    "text": "text without \\",
    "integer": "whole numbers",
    "real": "numbers",
    "boolean": "true and false",
    "time": "times such as 2026-11-25 08:00",
}


@dataclass(frozen=True)
class ColumnFilter:
    """How a page asks about one column.

    Args:
        name: of the column.
        kind: text, integer, real, boolean or time.
        way: `choices` (any of some values), `range` (from and to, each may be left empty) or `part` (a piece of text).
        choices: of `choices`, as they are shown.
    """

    name: str
    kind: str
    way: str
    choices: tuple[str, ...] = ()

    def expression(self, chosen: object) -> str:
        """The filter in the language of `retrieval.where`; "" where nothing is chosen.

        Args:
            chosen: what the page says: a list of choices, a pair (from, to), or a text.
        """
        name = quoted_name(self.name)
        if self.way == "choices":
            values = [self._literal(value) for value in _listed(chosen)]
            return f"{name} IN ({', '.join(values)})" if values else ""
        if self.way == "range":
            low, high = [*_listed(chosen), None, None][:2]
            parts = [f"{name} {sign} {self._literal(end)}" for sign, end in ((">=", low), ("<=", high)) if _said(end)]
            return " AND ".join(parts)
        return f"{name} LIKE {quoted_text(f'%{chosen}%')}" if _said(chosen) else ""

    def _literal(self, value: object) -> str:
        text = shown(value).strip()
        return text.upper() if self.kind == "boolean" else quoted_text(text)


def column_filters(kinds: Kinds, table: Table | None) -> list[ColumnFilter]:
    """The filters of a gallery, a column each.

    Args:
        kinds: of its columns.
        table: its rows, to list the values of columns that have few; `None` lists none.

    >>> table = Table(["a", "b"], [], None, {"camera": "text"}, {"camera": ["c2", "c1"]})
    >>> column_filters({"camera": "text"}, table)
    [ColumnFilter(name='camera', kind='text', way='choices', choices=('c1', 'c2'))]
    """
    filters = []
    for name, kind in kinds.items():
        values = set() if table is None else {value for value in table.values.get(name, []) if value is not None}
        if table is not None and len(values) < 2:
            # Nothing to choose from; the expression still reaches it.
            continue
        if kind == "boolean":
            filters.append(ColumnFilter(name, kind, "choices", ("true", "false")))
        elif kind in ("text", "integer") and 2 <= len(values) <= MAX_CHOICES:
            filters.append(ColumnFilter(name, kind, "choices", tuple(shown(value) for value in sorted(values))))
        else:
            filters.append(ColumnFilter(name, kind, "part" if kind == "text" else "range"))
    return filters[:MAX_COLUMNS]


def joined_filter(
    expression: str | None, filters: Sequence[ColumnFilter], chosen: Sequence[object], kinds: Mapping[str, str]
) -> str | None:
    """What a user wrote and chose as one expression that all must meet; `None` for no filter.

    Raises:
        ValueError: a part is none; what was written is read by itself, so that no bracket of it reaches beyond, and
            places in messages are those that the user counts.
    """
    known = {"path": "text", **kinds}
    parts = []
    if expression and expression.strip():
        to_sql(expression, known)
        parts.append(expression)
    for filter, value in zip(filters, chosen):
        if part := filter.expression(value):
            try:
                to_sql(part, known)
            except ValueError:
                raise ValueError(f"{filter.name} holds {_HELD[filter.kind]}; {_said_of(value)} is none.") from None
            parts.append(part)
    return " AND ".join(f"({part})" for part in parts) or None


def _listed(chosen: object) -> list[object]:
    return list(chosen) if isinstance(chosen, (list, tuple)) else []


def _said_of(chosen: object) -> str:
    values = chosen if isinstance(chosen, (list, tuple)) else [chosen]
    return " or ".join(in_short(repr(value), 60) for value in values if _said(value))


def _said(value: object) -> bool:
    return value is not None and bool(str(value).strip())


__all__ = ["MAX_CHOICES", "MAX_COLUMNS", "ColumnFilter", "column_filters", "joined_filter"]
