"""How a program ends that is told to: by Ctrl-C, by SIGTERM, by the end of the launcher that started it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

# After this many seconds a process that waits for others, which have ended, waits no longer.
PATIENCE = 30.0
# Start of the names of variables in which a program tells those that it starts that they end with it.
WATCHED = "AMNS_WATCHED_"
_LAUNCHERS = ("TORCHELASTIC_", "ACCELERATE_", WATCHED)


class Stops:
    """While it lasts SIGTERM ends the program as Ctrl-C does; which of them came is in `received`.

    Under a launcher (torchrun, accelerate) the end of the launcher is a SIGTERM too: nobody would be left to stop the
    run.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._process = os.getpid()
        self._before: dict[int, Any] = {}
        self._over = threading.Event()

    def __enter__(self) -> "Stops":
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._stop)
        except ValueError:
            self._before.clear()  # not the main thread: signals are somebody else's
        else:
            if any(name.startswith(_LAUNCHERS) for name in os.environ):
                watch_parent(lambda: os.kill(os.getpid(), signal.SIGTERM), self._over)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for number, handler in self._before.items():
            # A second one, while things are put away, ends at once.
            signal.signal(number, signal.SIG_DFL if self.received else handler)

    def _stop(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked worker: as if nobody had asked
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.received = number
        if hasattr(signal, "SIGCHLD"):  # workers that end with us are no error, as torch would have it
            signal.signal(signal.SIGCHLD, lambda *_: None)
        raise KeyboardInterrupt


def watch_parent(stop: Callable[[], None], over: threading.Event, patience: float = PATIENCE) -> None:
    """Calls `stop` in a thread once the parent process has ended, unless `over` is set before.

    Args:
        stop: asks the program to end.
        over: the program has ended by itself.
        patience: seconds after which the process is ended all the same; SIGTERM waits while a collective does.
    """
    parent = os.getppid()

    def watch() -> None:
        while not over.wait(1.0):
            if os.getppid() != parent:
                stop()
                if not over.wait(patience):
                    os._exit(128 + signal.SIGTERM)
                return

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def hold_stops() -> Iterator[None]:
    """What may not be left half done: Ctrl-C and SIGTERM take effect once it is done."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted
        return
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: held.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if held:
            signal.raise_signal(held[0])


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Processes that are started inside are not told of Ctrl-C: who started them ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Its start lets signals through again, so it comes first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_first_process() -> bool:
    """Whether this is the process of a run that speaks for all; the environment of a launcher says so."""
    return os.environ.get("RANK", "0") == "0"


__all__ = ["PATIENCE", "WATCHED", "Stops", "hold_stops", "is_first_process", "watch_parent", "without_interrupts"]
