"""What an ablation found, for people: a Markdown page and a picture."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from ..curves import save_figure
from ..extras import require
from ..markdown import markdown_table, plain
from .grid import Grid
from .records import CellRecord
from .statistics import LEVEL, Difference, paired_difference, spread

_COLUMNS = [
    "row",
    "seeds",
    "Rank-1",
    "mAP",
    "Rank-1, best epoch",
    "lost since the best",
    "Rank-1 to {0}",
    "mAP to {0}",
]


def ablation_page(grid: Grid, records: Sequence[CellRecord], zero_shot: CellRecord | None = None) -> str:
    """The tables of an ablation in Markdown.

    Args:
        grid: that was run.
        records: of its runs, those that failed too.
        zero_shot: figures of the start before it was trained on.
    """
    lines = [plain(grid.about), ""] if grid.about else []
    if zero_shot is not None:
        figures = zero_shot.last
        lines += [f"The start, before any of these runs: Rank-1 {figures['rank1']:.2f}, mAP {figures['mAP']:.2f}.", ""]
    ended = [record for record in records if record.failed is None]
    for rate in sorted({record.noise_rate for record in ended}):
        rows = {name: {r.seed: r for r in ended if r.row == name and r.noise_rate == rate} for name in grid.rows}
        rows = {name: runs for name, runs in rows.items() if runs}
        lines += [f"## {rate:.0%} of the training captions shuffled", "", _table(grid, rows), ""]
    kept = _robustness(grid, ended)
    if kept:
        lines += ["## What noise costs, Rank-1 of the last epoch", "", kept, ""]
    if ended:
        lines += [_legend(grid, ended), ""]
    failed = [record for record in records if record.failed is not None]
    for record in failed:
        lines.append(f"- {plain(record.key)}: failed, {plain(record.failed)}")
    return "\n".join(lines).rstrip() + "\n"


def _table(grid: Grid, rows: dict[str, dict[int, CellRecord]]) -> str:
    baseline = rows.get(grid.baseline or "")
    cells = []
    for name, runs in rows.items():
        last = {figure: [record.last[figure] for record in runs.values()] for figure in ("rank1", "mAP")}
        best = statistics.fmean(record.best["rank1"] for record in runs.values())
        differences = []
        for figure in ("rank1", "mAP"):
            ours, theirs = (
                {seed: record.person_figures(figure) for seed, record in (row or {}).items()}
                for row in (runs, baseline)
            )
            differences.append("–" if runs is baseline else _shown(paired_difference(ours, theirs)))
        cells.append(
            [
                plain(name),
                len(runs),
                *(_with_spread(values) for values in last.values()),
                f"{best:.2f}",
                f"{best - statistics.fmean(last['rank1']):.2f}",
                *differences,
            ]
        )
    head = [column.format(plain(grid.baseline or "the baseline")) for column in _COLUMNS]
    if grid.baseline is None:
        return markdown_table(head[:-2], [row[:-2] for row in cells])
    return markdown_table(head, cells)


def _robustness(grid: Grid, records: Sequence[CellRecord]) -> str | None:
    """Rank-1 of rows that were run without noise too, and the share that each rate of noise takes."""
    rates = sorted({record.noise_rate for record in records})
    if len(rates) < 2 or rates[0] != 0:
        return None
    cells = []
    for name in grid.rows:
        means = {}
        for rate in rates:
            values = [record.last["rank1"] for record in records if (record.row, record.noise_rate) == (name, rate)]
            means[rate] = statistics.fmean(values) if values else None
        clean = means[0.0]
        if clean:
            lost = [f"{100 * (mean - clean) / clean:+.1f} %" if mean is not None else "" for mean in means.values()]
            cells.append([plain(name), f"{clean:.2f}", *lost[1:]])
    return markdown_table(["row", "no noise", *(f"{rate:.0%}" for rate in rates[1:])], cells)


def _legend(grid: Grid, records: Sequence[CellRecord]) -> str:
    seconds = statistics.fmean(record.seconds or 0 for record in records)
    memory = max(record.peak_memory_mb or 0 for record in records)
    text = (
        "Figures on test in percent, of the last epoch where nothing else is said, mean and standard deviation over "
        "seeds. "
    )
    if grid.baseline is not None:
        text += (
            f"Differences are paired by seed and person, with {LEVEL:.0%} intervals of a bootstrap over both; those "
            "that leave out 0 are in bold. "
        )
    return text + f"A run took {seconds:.0f} s on average and {memory} MiB at most."


def _with_spread(values: Sequence[float]) -> str:
    deviation = spread(values)
    return f"{statistics.fmean(values):.2f}" + (f" ± {deviation:.2f}" if deviation is not None else "")


def _shown(difference: Difference | None) -> str:
    if difference is None:
        return ""
    text = f"{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"
    return f"**{text}**" if difference.excludes_zero else text


def draw_curves(file: Path, grid: Grid, records: Sequence[CellRecord]) -> None:
    """A picture of Rank-1 against the epoch: a panel a noise rate, a line a row, a band over its seeds.

    Args:
        file: PNG to be written.
        grid: that was run.
        records: of its runs.
    Raises:
        ImportError: matplotlib is not installed.
    """
    require("matplotlib", "figures", "The picture of an ablation")
    from matplotlib.figure import Figure

    drawn = [record for record in records if record.curve]
    rates = sorted({record.noise_rate for record in drawn})
    if not rates:
        return
    figure = Figure(figsize=(5.2 * len(rates) + 2.6, 4.4), layout="constrained")
    panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
    for panel, rate in zip(panels, rates):
        for number, name in enumerate(grid.rows):
            runs = [record.curve for record in drawn if (record.row, record.noise_rate) == (name, rate)]
            if not runs:
                continue
            points = list(zip(*runs))
            epochs = [point[0][0] for point in points]
            values = [[run[1] for run in point] for point in points]
            colour, style = f"C{number % 10}", ("-", "--", ":", "-.")[number // 10 % 4]
            middle = [statistics.fmean(value) for value in values]
            panel.plot(epochs, middle, style, color=colour, label=name, linewidth=1.6)
            panel.fill_between(epochs, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.15, lw=0)
        panel.set_title(f"{rate:.0%} of the captions shuffled", fontsize=11)
        panel.set_xlabel("epoch")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("Rank-1 on the selection split, percent")
    handles = {label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9)
    save_figure(figure, file)


__all__ = ["ablation_page", "draw_curves"]
