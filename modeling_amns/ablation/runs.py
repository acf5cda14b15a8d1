"""Runs the cells of a grid, each as a process of its own, several side by side, and goes on where it was stopped."""

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import fields
from pathlib import Path

from ..brief import in_short
from ..data.joint import mean_figures
from ..data.sources import SourceArguments
from ..data.synthetic import make_synthetic_benchmark
from ..report import METRICS
from ..run_processes import LOG, RunProcesses, last_line
from .grid import Cell, Grid, as_words, digest
from .records import CellRecord, append_record, failed_record, record_of

# Row of the line that says what the start reached before it was trained on.
START_ROW = "the start"
_SOURCE = {option.name for option in fields(SourceArguments)}


def start_cell(grid: Grid) -> Cell | None:
    """In the place of a run: the start as it is before any; `None` where the grid makes none."""
    if grid.start is None:
        return None
    return Cell(START_ROW, 0.0, 0, {}, digest([grid.start, grid.synthetic, grid.base.get("benchmark")]))


class CellRunner:
    """Starts runs and reads what they left.

    Args:
        folder: that holds one folder a run.
        results: file of JSON lines that each run is added to.
        jobs: runs at a time; the processors are shared out among them.
        program: words that start the command `amns`.
    """

    def __init__(self, folder: Path, results: Path, jobs: int = 1, program: Sequence[str] | None = None):
        self.folder, self.results, self.jobs = folder, results, jobs
        self._processes = RunProcesses("ABLATION", jobs, program)

    def place(self, cell: Cell) -> Path:
        """Where a run lies: rows may be called anything, folders not."""
        row = re.sub(r"[^A-Za-z0-9.]+", "-", cell.row).strip("-.")[:60] or "row"
        return self.folder / f"{row}-{digest(cell.row)[:6]}" / f"noise{cell.noise_rate:g}-seed{cell.seed}"

    def make_start(self, grid: Grid) -> Path:
        """Data and start of a grid; what is there is left as it is.

        Returns:
            the folder of the checkpoint that the runs start from.
        Raises:
            ChildProcessError: the start's run failed.
            ValueError, OSError: as of `make_synthetic_benchmark`.
        """
        if grid.synthetic is not None:
            make_synthetic_benchmark(**grid.synthetic)
        folder = self.folder / "start"
        if grid.start is None:
            return folder
        if grid.start.get("synthetic") is not None:
            make_synthetic_benchmark(**grid.start["synthetic"])
        cell = Cell("start", 0.0, 0, grid.start.get("options") or {}, digest(grid.start))
        if not (self._processes.is_done(folder, cell.digest)):
            reason = self._processes.train(folder, cell.options, cell.digest)
            if reason:
                raise ChildProcessError(f"The start could not be trained: {reason}. Its output: {folder / LOG}")
        return folder

    def rank_start(self, grid: Grid, folder: Path) -> CellRecord | None:
        """Figures of the start on the grid's benchmark before it was trained on, `None` where there is no start."""
        cell = start_cell(grid)
        if cell is None:
            return None
        source = {name: value for name, value in grid.base.items() if name in _SOURCE}
        words = ["evaluate", str(folder), "--json", *as_words(source)]
        with tempfile.TemporaryFile() as output, (self.folder / LOG).open("ab") as log:
            code = self._processes.wait(words, output, log)
            output.seek(0)
            text = output.read()
        if code:
            raise ChildProcessError(f"The start could not be evaluated: {last_line(self.folder / LOG)}")
        figures = json.loads(text)
        if figures and METRICS.keys().isdisjoint(figures):
            # Of several benchmarks, by name: a run on them reports their means.
            figures = mean_figures([*figures.values()])
        record = CellRecord(*cell.key, digest=cell.digest, last={name: round(figures[name], 2) for name in METRICS})
        append_record(self.results, record)
        return record

    def run(self, cells: Sequence[Cell], tell: Callable[[int, CellRecord], None]) -> list[CellRecord]:
        """Runs cells and adds a line for each; a run that fails is a line too.

        Args:
            cells: that have no line yet.
            tell: called after each with how many are done, and its record.
        """
        records: list[CellRecord] = []
        with ThreadPoolExecutor(self.jobs) as pool, self._processes.stop_together():
            waiting = [pool.submit(self._run_one, cell) for cell in cells]
            try:
                for done in as_completed(waiting):
                    record = done.result()
                    if record is None:
                        continue
                    append_record(self.results, record)
                    records.append(record)
                    tell(len(records), record)
            except BaseException:
                for future in waiting:
                    future.cancel()
                raise
        return records

    def _run_one(self, cell: Cell) -> CellRecord | None:
        folder = self.place(cell)
        reason = self._processes.train(folder, cell.options, cell.digest)
        if self._processes.stopped:
            return None
        if reason is None:
            try:
                return record_of(cell, folder)
            except (OSError, ValueError, KeyError) as error:
                reason = f"its results can't be read: {in_short(error, 200)}"
        return failed_record(cell, reason)


__all__ = ["CellRunner", "start_cell"]
