"""Suspects as a table, a CSV or Parquet file."""

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets

from ..disk import whole_file
from .suspects import Suspect

FORMATS = (".csv", ".parquet")


def check_output(path: str | Path, overwrite: bool, formats: Sequence[str] = FORMATS) -> Path:
    """A place to write to, before the work starts.

    Args:
        path: of a file.
        overwrite: it may be there.
        formats: what its name may end in.
    Raises:
        ValueError: its name ends otherwise, it is there, or is a folder.
        FileNotFoundError: its folder is not there.
    """
    path = Path(path)
    if path.suffix.lower() not in formats:
        raise ValueError(f"{path} ends in {path.suffix or 'nothing'}; expected one of {', '.join(formats)}.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; pass the name of a file.")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; choose another name, or replace it with --overwrite.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} to.")
    return path


def flattened(suspect: Suspect) -> dict[str, Any]:
    """The record with a column for each score.

    >>> list(flattened(Suspect(3, "a.png", "a hat", 7, 0.5, {"loss": 1.0})))
    ['row', 'path', 'caption', 'person_id', 'probability', 'loss', 'better_path', 'better_caption', 'is_clean']
    """
    columns: dict[str, Any] = {}
    for name, value in asdict(suspect).items():
        columns |= value if name == "scores" else {name: value}
    return columns


def write_table(suspects: Sequence[Suspect], path: str | Path) -> None:
    """Writes a row for each suspect in the order given, whole or not at all.

    Args:
        suspects: at least one, all with the same scores.
        path: CSV or Parquet by its ending; what is there is replaced.
    """
    rows = [flattened(suspect) for suspect in suspects]
    with whole_file(path) as part:
        if Path(path).suffix.lower() == ".parquet":
            _as_dataset(rows).to_parquet(str(part))
            return
        with open(part, "w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


def _as_dataset(rows: Sequence[dict[str, Any]]) -> datasets.Dataset:
    """Columns of known kinds: one that is empty throughout is of its kind all the same."""
    kinds = {"row": "int64", "probability": "float64", "is_clean": "bool"}
    kinds |= dict.fromkeys(("path", "caption", "better_path", "better_caption"), "string")
    kinds["person_id"] = "int64" if all(isinstance(row["person_id"], int) for row in rows) else "string"
    features = {name: datasets.Value(kinds.get(name, "float64")) for name in rows[0]}
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return datasets.Dataset.from_dict(columns, datasets.Features(features))


__all__ = ["FORMATS", "check_output", "flattened", "write_table"]
