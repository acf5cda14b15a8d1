"""Times pieces of work in turns and prints how they relate, for `scripts/benchmark.py`."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch

from modeling_amns.markdown import markdown_table


class Timed(NamedTuple):
    """A piece of work beside the first of its table.

    Args:
        seconds: median of the rounds.
        ratio: to the first one; median of the ratios of each round, so that a slow minute weighs on both.
        low, high: quartiles of these ratios.
    """

    seconds: float
    ratio: float
    low: float
    high: float

    @property
    def spread(self) -> str:
        """The quartiles as a cell of a table."""
        return f"{self.low:.2f} to {self.high:.2f}"


def side_by_side(
    work: dict[str, Callable[[], Iterable[object] | None]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timed]:
    """Times each piece of work once a round, in turns with the others; they relate to the first one.

    What gives an iterable (a loader its batches) takes turns item by item. Every other round runs backwards: none
    always follows the same one.
    """
    times: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(repeats + 1):
        taken = _round(dict(list(work.items())[:: 1 if repeat % 2 else -1]), clock)
        if repeat:  # the first round warms up
            for name, seconds in taken.items():
                times[name].append(seconds)
    first = next(iter(times.values()))
    return {name: _compared(taken, first) for name, taken in times.items()}


def _round(work: dict[str, Callable[[], Iterable[object] | None]], clock: Callable[[], float]) -> dict[str, float]:
    seconds = dict.fromkeys(work, 0.0)
    going = {name: _steps(function) for name, function in work.items()}
    while going:
        for name, steps in list(going.items()):
            start = clock()
            if next(steps, None) is None:
                del going[name]
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name] += clock() - start
    return seconds


def _steps(function: Callable[[], Iterable[object] | None]) -> Iterator[bool]:
    items = function()
    for _ in () if items is None else items:
        yield True


def _compared(taken: list[float], first: list[float]) -> Timed:
    ratios = [one / other for one, other in zip(taken, first, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Timed(statistics.median(taken), middle, low, high)


def ratios_table(timed: dict[str, Timed], what: str) -> str:
    """A Markdown table of seconds and of their ratio to the first of them, with its quartiles over the rounds."""
    rows = [[name, f"{one.seconds:.3f}", f"{one.ratio:.2f}", one.spread] for name, one in timed.items()]
    return markdown_table([what, "seconds", f"relative to {next(iter(timed))}", "quartiles"], rows)
