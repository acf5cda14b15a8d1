"""Markdown: the one maker of tables, and text of others that must not become markup."""

import re
from collections.abc import Iterable, Sequence

# What makes markup inside a line; an underscore does it at the edge of a word only.
_INLINE = re.compile(r"[\\`*\[\]|!~$]|(?<![^\W_])_|_(?![^\W_])")
# What makes a heading, a list or a rule at the start of one.
_START = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=[#+=-]))")
# A bar before which the backslashes pair up, so that none of them escapes it.
_BAR = re.compile(r"(?<!\\)((?:\\\\)*)\|")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], texts: int = 1) -> str:
    """A table, its first columns to the left and the others, numbers, to the right.

    Args:
        header: names of the columns.
        rows: cells as they shall appear; bars and line ends in them are escaped.
        texts: how many columns hold text.

    ```python
    >>> print(markdown_table(["split", "images"], [["train", "12"]]))
    | split | images |
    | --- | ---: |
    | train | 12 |

    ```
    """
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    lines = [[_cell(cell) for cell in header], rule, *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def plain(text: object) -> str:
    """Text of others as it reads: no tag, link, picture, code, heading, list or new line comes of it.

    Control characters, and those that turn the direction of writing, are left out.

    ```python
    >>> print(plain("<b>a|b</b>"))
    &lt;b&gt;a\\|b&lt;/b&gt;

    ```
    """
    escaped = _line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _START.sub(r"\1\\", _INLINE.sub(r"\\\g<0>", escaped))


def code(text: object) -> str:
    """Text as a code span."""
    return f"`{_line(text).replace('`', chr(39))}`"


def _cell(text: object) -> str:
    # Text that was made plain has its bars escaped: once more would undo it.
    return _BAR.sub(r"\1\\|", _line(text))


def _line(text: object) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())


__all__ = ["code", "markdown_table", "plain"]
