"""Runs as processes, each in its folder: started, stopped together, and gone on with where they were stopped."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from .brief import in_short
from .report import RESULTS
from .stops import WATCHED

_PACKAGE = Path(__file__).parent
_DIGEST_FILE, LOG = "cell.txt", "log.txt"


class RunProcesses:
    """Starts runs and waits for them.

    Args:
        name: of what starts them, in capitals; with its end they end.
        jobs: runs at a time; the processors are shared out among them.
        program: words that start the command `amns`.
    """

    def __init__(self, name: str, jobs: int = 1, program: Sequence[str] | None = None):
        self.name, self.jobs = name, jobs
        self.program = list(program or (sys.executable, "-m", "modeling_amns.commands"))
        self.stopped = False
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()

    def is_of(self, folder: Path, digest: str) -> bool:
        """Whether the run in a folder was started with these options."""
        file = folder / _DIGEST_FILE
        return file.is_file() and file.read_text(encoding="utf-8").strip() == digest

    def is_done(self, folder: Path, digest: str) -> bool:
        """Whether it has ended, too."""
        return self.is_of(folder, digest) and (folder / RESULTS).is_file()

    def train(self, folder: Path, options: Mapping[str, Any], digest: str) -> str | None:
        """Trains in a folder, from the last checkpoint if the run has one; one that is done is left as it is.

        Args:
            folder: of this run; what a run of another digest has left in it is deleted.
            options: of `scripts/train.py`, all but the place.
            digest: of what tells runs apart.
        Returns:
            why it failed, or `None`.
        """
        if self.is_done(folder, digest):
            return None
        ours = self.is_of(folder, digest)
        folder.mkdir(parents=True, exist_ok=True)
        again = "resume_from_checkpoint" if ours and any(folder.glob("checkpoint-*")) else "overwrite_output_dir"
        recipe = folder / "cell.yaml"
        recipe.write_text(yaml.safe_dump({**options, "output_dir": str(folder)}), encoding="utf-8")
        (folder / _DIGEST_FILE).write_text(digest + "\n", encoding="utf-8")
        with (folder / LOG).open("a", encoding="utf-8") as log:
            code = self.wait(["train", "--config", str(recipe), f"--{again}", "true"], log, log)
        return f"exit code {code}: {last_line(folder / LOG)}" if code else None

    def wait(self, words: Sequence[str], output: IO, log: IO) -> int:
        """Runs a command of `amns` to its end.

        Args:
            words: the command and its options.
            output, log: files for what it prints, and for its errors.
        Returns:
            its exit code.
        """
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        paths = os.pathsep.join(filter(None, (str(_PACKAGE.parent), os.environ.get("PYTHONPATH"))))
        environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": paths, f"{WATCHED}{self.name}": "1"}
        with self._lock:
            if self.stopped:
                return -signal.SIGTERM
            # A group of its own: Ctrl-C is for the program that starts it, which stops its runs by itself.
            process = subprocess.Popen(
                [*self.program, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
            self._running.add(process)
        try:
            return process.wait()
        except BaseException:  # in the main thread, which is told of Ctrl-C
            process.terminate()
            process.wait()
            raise
        finally:
            with self._lock:
                self._running.discard(process)

    @contextmanager
    def stop_together(self) -> Iterator[None]:
        """An error or Ctrl-C inside stops all runs, and none is started any more."""
        try:
            yield
        except BaseException:
            with self._lock:
                self.stopped = True
                for process in self._running:
                    process.terminate()
            raise


def last_line(file: Path) -> str:
    """The last line of a log, cut short."""
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - 4000))
        lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return in_short(lines[-1], 300) if lines else "no output"


__all__ = ["LOG", "RunProcesses", "last_line"]
