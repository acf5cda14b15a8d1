"""Times pieces of work in turns and prints how they relate, for `scripts/benchmark.py`."""

import statistics
import time
from collections.abc import Callable

import torch

from modeling_amns.markdown import markdown_table


def side_by_side(
    work: dict[str, Callable[[], None]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each piece of work, taken in turns so that a slow moment hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(repeats + 1):
        for name, function in work.items():
            start = clock()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:  # the first round warms up
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def print_ratios(seconds: dict[str, float], reference: str, what: str) -> None:
    """A Markdown table of seconds and of their ratio to one of them."""
    rows = [[name, f"{value:.3f}", f"{value / seconds[reference]:.2f}"] for name, value in seconds.items()]
    print(markdown_table([what, "seconds", f"relative to {reference}"], rows))
