"""Curves of a training run: retrieval figures and the parts of the loss against the epoch (extra `figures`)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .disk import whole_file
from .extras import require
from .report import METRICS, is_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A line by its name: epochs and values.
Lines = dict[str, list[tuple[float, float]]]
# Rank-5 and Rank-10 follow Rank-1 and would only crowd it.
SHOWN = ("rank1", "mAP", "mINP")
# Parts of a loss that differ by more are drawn on a logarithmic scale.
_LOGARITHMIC = 20.0


def figure_lines(history: Sequence[Mapping[str, Any]]) -> Lines:
    """Rank-1, mAP and mINP of the evaluations while training, in percent; of several splits each by its name.

    Args:
        history: what the run has logged, as `report.read_history` reads it.

    ```python
    >>> figure_lines([{"epoch": 1.0, "eval_rank1": 40.0}, {"epoch": 2.0, "eval_rank1": 50.0, "eval_cuhk_mAP": 9.0}])
    {'Rank-1': [(1.0, 40.0), (2.0, 50.0)], 'mAP (cuhk)': [(2.0, 9.0)]}

    ```
    """
    named: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for entry in history:
        for key, value in entry.items():
            found = re.fullmatch(rf"eval_(?:(.+)_)?({'|'.join(SHOWN)})", key)
            if found and is_number(value) and is_number(entry.get("epoch")):
                split, metric = found.groups()
                name = METRICS[metric] if split is None else f"{METRICS[metric]} ({split})"
                named.setdefault((SHOWN.index(metric), name), []).append((entry["epoch"], value))
    return {name: sorted(points) for (_, name), points in sorted(named.items())}


def loss_lines(history: Sequence[Mapping[str, Any]]) -> Lines:
    """The parts of the loss, unweighted, by name.

    >>> loss_lines([{"epoch": 0.5, "loss": 3.0, "loss_sdm": 2.5}, {"epoch": 1.0, "loss_sdm": float("nan")}])
    {'sdm': [(0.5, 2.5)]}
    """
    lines: Lines = {}
    for entry in history:
        for key, value in entry.items():
            if key.startswith("loss_") and is_number(value) and is_number(entry.get("epoch")):
                lines.setdefault(key.removeprefix("loss_"), []).append((entry["epoch"], value))
    return {name: sorted(lines[name]) for name in sorted(lines)}


def training_figure(history: Sequence[Mapping[str, Any]]) -> "Figure | None":
    """A panel of figures and a panel of losses; `None` where the run has logged neither.

    Raises:
        ImportError: matplotlib is not installed.
    """
    panels = {"retrieval, percent": figure_lines(history), "parts of the loss": loss_lines(history)}
    panels = {name: lines for name, lines in panels.items() if lines}
    if not panels:
        return None
    require("matplotlib", "figures", "A picture of training curves")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure = Figure(figsize=(5.4 * len(panels), 3.8), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        longest = max(map(len, lines.values()))
        for name, points in lines.items():
            # Few points are shown as such; one alone would be no line.
            axes.plot(*zip(*points), label=name, linewidth=1.6, marker="o" if longest <= 40 else "", markersize=3.5)
        values = [value for points in lines.values() for _, value in points]
        if title == "parts of the loss" and min(values) > 0 and max(values) > _LOGARITHMIC * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        else:
            axes.set_ylim(bottom=min(0.0, *values))
        axes.xaxis.set_major_locator(MaxNLocator(integer=max(x for p in lines.values() for x, _ in p) > 2))
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9)
    return figure


def draw_training(history: Sequence[Mapping[str, Any]], file: str | Path) -> bool:
    """Writes `training_figure` as PNG; whether there was anything to draw.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = training_figure(history)
    if figure is None:
        return False
    save_figure(figure, file)
    return True


def save_figure(figure: "Figure", file: str | Path) -> None:
    """Writes a figure as PNG, whole or not at all; no window system is asked for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with whole_file(Path(file)) as part:
        figure.savefig(part, dpi=130, format="png")


__all__ = ["draw_training", "figure_lines", "loss_lines", "save_figure", "training_figure"]
