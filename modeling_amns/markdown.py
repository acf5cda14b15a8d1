"""Markdown: the one maker of tables, and text of others that must not become markup."""

from collections.abc import Iterable, Sequence


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
    """Text of others as it reads: no tag, link, picture, code or new line comes of it.

    ```python
    >>> print(plain("<b>a|b</b>"))
    &lt;b&gt;a\\|b&lt;/b&gt;

    ```
    """
    escaped = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\`*[]|!" else character for character in escaped)


def code(text: object) -> str:
    """Text as a code span."""
    return f"`{' '.join(str(text).split()).replace('`', chr(39))}`"


def _cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


__all__ = ["code", "markdown_table", "plain"]
