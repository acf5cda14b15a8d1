"""Runs the cells of a grid, each as a process of its own, several side by side, and goes on where it was stopped."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import IO

import yaml

from ..brief import in_short
from ..data.sources import SourceArguments
from ..data.synthetic import make_synthetic_benchmark
from ..report import METRICS, RESULTS
from ..stops import WATCHED
from .grid import Cell, Grid, as_words, digest
from .records import CellRecord, append_record, failed_record, record_of

_PACKAGE = Path(__file__).parents[1]
# Row of the line that says what the start reached before it was trained on.
START_ROW = "the start"
_SOURCE = {option.name for option in fields(SourceArguments)}
_DIGEST_FILE, _LOG = "cell.txt", "log.txt"


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
        self.program = list(program or (sys.executable, "-m", "modeling_amns.commands"))
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def place(self, cell: Cell) -> Path:
        """Where a run lies: rows may be called anything, folders not."""
        row = re.sub(r"[^A-Za-z0-9.]+", "-", cell.row).strip("-.")[:60] or "row"
        return self.folder / f"{row}-{digest(cell.row)[:6]}" / f"noise{cell.noise_rate:g}-seed{cell.seed}"

    def make_start(self, grid: Grid) -> Path:
        """Data and start of a grid; what is there is left as it is.

        Returns:
            the folder of the checkpoint that the runs start from.
        Raises:
            RuntimeError: the start's run failed.
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
        if not (self._is_of(cell, folder) and (folder / RESULTS).is_file()):
            reason = self._train(cell, folder)
            if reason:
                raise RuntimeError(f"The start could not be trained: {reason}. Its output: {folder / _LOG}")
        return folder

    def rank_start(self, grid: Grid, folder: Path) -> CellRecord | None:
        """Figures of the start on the grid's benchmark before it was trained on, `None` where there is no start."""
        cell = start_cell(grid)
        if cell is None:
            return None
        source = {name: value for name, value in grid.base.items() if name in _SOURCE}
        words = [*self.program, "evaluate", str(folder), "--json", *as_words(source)]
        with tempfile.TemporaryFile() as output, (self.folder / _LOG).open("ab") as log:
            code = self._wait(words, output, log)
            output.seek(0)
            text = output.read()
        if code:
            raise RuntimeError(f"The start could not be evaluated: {_last_line(self.folder / _LOG)}")
        figures = json.loads(text)
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
        with ThreadPoolExecutor(self.jobs) as pool, self._stop_together():
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
        reason = self._train(cell, folder)
        if self._stopped:
            return None
        if reason is None:
            try:
                return record_of(cell, folder)
            except (OSError, ValueError, KeyError) as error:
                reason = f"its results can't be read: {in_short(error, 200)}"
        return failed_record(cell, reason)

    def _is_of(self, cell: Cell, folder: Path) -> bool:
        file = folder / _DIGEST_FILE
        return file.is_file() and file.read_text(encoding="utf-8").strip() == cell.digest

    def _train(self, cell: Cell, folder: Path) -> str | None:
        """Runs one cell in its folder, from its last checkpoint if it has one; why it failed, or `None`."""
        ours = self._is_of(cell, folder)
        if ours and (folder / RESULTS).is_file():
            return None
        folder.mkdir(parents=True, exist_ok=True)
        again = "resume_from_checkpoint" if ours and any(folder.glob("checkpoint-*")) else "overwrite_output_dir"
        recipe = folder / "cell.yaml"
        recipe.write_text(yaml.safe_dump({**cell.options, "output_dir": str(folder)}), encoding="utf-8")
        (folder / _DIGEST_FILE).write_text(cell.digest + "\n", encoding="utf-8")
        with (folder / _LOG).open("a", encoding="utf-8") as log:
            code = self._wait([*self.program, "train", "--config", str(recipe), f"--{again}", "true"], log, log)
        if code == 0:
            return None
        return f"exit code {code}: {_last_line(folder / _LOG)}"

    def _wait(self, words: list[str], output: IO, log: IO) -> int:
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        paths = os.pathsep.join(filter(None, (str(_PACKAGE.parent), os.environ.get("PYTHONPATH"))))
        environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": paths, f"{WATCHED}ABLATION": "1"}
        with self._lock:
            if self._stopped:
                return -signal.SIGTERM
            # A group of its own: Ctrl-C is for the ablation, which stops its runs by itself.
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=log, env=environment, start_new_session=True
            )
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._running.discard(process)

    @contextmanager
    def _stop_together(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with self._lock:
                self._stopped = True
                for process in self._running:
                    process.terminate()
            raise


def _last_line(file: Path) -> str:
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - 4000))
        lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return in_short(lines[-1], 300) if lines else "no output"


__all__ = ["CellRunner", "start_cell"]
