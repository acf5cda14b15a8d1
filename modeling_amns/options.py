"""The table of a run's options in `docs/training.md`, made from the dataclasses that read them.

python -m modeling_amns.options --write docs/training.md
"""

import dataclasses
import json
import sys
from pathlib import Path

from .cli import option_groups, parse, run_script
from .markdown import markdown_table
from .recipe import DataArguments, ModelArguments
from .training_args import AMNSTrainingArguments

BEGIN, END = "<!-- options: python -m modeling_amns.options --write docs/training.md -->", "<!-- end of options -->"


@dataclasses.dataclass
class Options:
    """What to do with the tables."""

    write: Path | None = dataclasses.field(
        default=None, metadata={"help": "Page to put them into, between its two marks; else they are printed."}
    )


def option_tables() -> str:
    """Markdown: a table of name, default and meaning for each group of the package's own options."""
    parts = []
    for kind in (DataArguments, ModelArguments, AMNSTrainingArguments):
        for title, fields in option_groups(kind).items():
            if title.endswith("of transformers"):
                continue
            rows = [(f"`{field.name}`", _default(field), field.metadata["help"]) for field in fields]
            parts.append(f"**{title}**\n\n{markdown_table(['option', 'default', 'meaning'], rows, texts=3)}")
    return "\n\n".join(parts)


def with_tables(page: str) -> str:
    """A page with the tables between its two marks brought up to date.

    Raises:
        ValueError: the marks are missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page must hold the lines {BEGIN} and {END}, between which the tables stand.")
    return f"{before}{BEGIN}\n\n{option_tables()}\n\n{END}{after}"


def _default(field: dataclasses.Field) -> str:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is None:
        return "none"
    if isinstance(value, list):
        return f"`{' '.join(map(str, value))}`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def main() -> int:
    """Prints the tables or puts them into a page."""
    (options,) = parse((Options,), __doc__)
    if options.write is None:
        print(option_tables())
    else:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(with_tables(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_script("options.py", main))

__all__ = ["option_tables", "with_tables"]
