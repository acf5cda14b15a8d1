"""What the runs of an ablation left: a file of JSON lines, one a run."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..brief import in_short
from ..query_figures import read_query_figures
from ..report import RunReport, read_object
from .grid import Cell, CellKey
from .statistics import PersonFigures

# Figures that are kept person by person: those that intervals are made of.
PERSON_FIGURES = ("rank1", "mAP")


@dataclass
class CellRecord:
    """One line: a run that has ended.

    Args:
        row, noise_rate, seed, digest: of its `Cell`.
        options: that it was run with, without places on disk.
        failed: why it left no figures, or `None`.
        best, last: figures on test by name, in percent, with `epoch`; see `RunReport`.
        curve: `[epoch, rank1, mAP]` of each evaluation while training, on the split that selects.
        seconds, peak_memory_mb: of the run alone.
        environment: versions and device.
        persons: `queries`, `rank1` and `mAP` of each person of the test split under the last weights.
    """

    row: str
    noise_rate: float
    seed: int
    digest: str
    options: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    curve: list[list[float]] = field(default_factory=list)
    seconds: float | None = None
    peak_memory_mb: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    persons: dict[str, list[float]] = field(default_factory=dict)

    @property
    def key(self) -> CellKey:
        """Its place in the table."""
        return CellKey(self.row, self.noise_rate, self.seed)

    def person_figures(self, name: str) -> PersonFigures:
        """One of `PERSON_FIGURES` for each person."""
        return PersonFigures(np.asarray(self.persons["queries"]), np.asarray(self.persons[name], dtype=float))


def record_of(cell: Cell, folder: Path) -> CellRecord:
    """The line of a run that has ended well.

    Args:
        cell: which run.
        folder: its output folder.
    Raises:
        FileNotFoundError, ValueError: the folder lacks what a run leaves.
    """
    report = RunReport.load(folder)
    history = read_object(folder / "trainer_state.json").get("log_history", [])
    curve = [[entry["epoch"], entry["eval_rank1"], entry["eval_mAP"]] for entry in history if "eval_rank1" in entry]
    return CellRecord(
        *cell.key,
        digest=cell.digest,
        options=cell.told,
        best=dict(report.best),
        last=dict(report.last),
        curve=[[round(value, 3) for value in point] for point in curve],
        seconds=report.seconds,
        peak_memory_mb=report.peak_memory_mb,
        environment=report.environment,
        persons=_persons(read_query_figures(folder)),
    )


def failed_record(cell: Cell, reason: str) -> CellRecord:
    """The line of a run that has ended badly."""
    return CellRecord(*cell.key, digest=cell.digest, options=cell.told, failed=reason)


def append_record(file: Path, record: CellRecord) -> None:
    """Adds a line in one write."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(record)) + "\n")


def read_records(file: Path) -> list[CellRecord]:
    """All lines of a file, none where there is no file; one that was cut off by a crash, the last, is left out.

    Raises:
        ValueError: a line before the last is no record.
    """
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(_record(json.loads(line)))
        except (ValueError, TypeError, RecursionError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{file}, line {number}, is no record of a run: {in_short(error, 200)}") from error
    return records


def sort_records(records: Iterable[CellRecord], cells: Iterable[Cell]) -> tuple[list[CellRecord], list[CellRecord]]:
    """The records that belong to a grid, the last of each run, and those of runs that it has no more.

    Args:
        records: in the order in which they were written.
        cells: of the grid.
    """
    asked = {(cell.key, cell.digest) for cell in cells}
    latest = {(record.key, record.digest): record for record in records}
    ours = [record for key, record in latest.items() if key in asked]
    return ours, [record for key, record in latest.items() if key not in asked]


def _record(content: object) -> CellRecord:
    if not isinstance(content, dict):
        raise ValueError(f"found {type(content).__name__}, expected an object")
    return CellRecord(**{name: value for name, value in content.items() if name in _FIELDS})


def _persons(figures: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    _, place, queries = np.unique(figures["person_id"], return_inverse=True, return_counts=True)
    values = {"rank1": figures["first_hit"] == 1, "mAP": figures["average_precision"]}
    means = {name: 100 * np.bincount(place, value) / queries for name, value in values.items()}
    return {"queries": queries.tolist()} | {name: np.round(mean, 2).tolist() for name, mean in means.items()}


_FIELDS = {option.name for option in fields(CellRecord)}

__all__ = [
    "PERSON_FIGURES",
    "CellRecord",
    "append_record",
    "failed_record",
    "read_records",
    "record_of",
    "sort_records",
]
