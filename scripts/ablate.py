"""Trains every run of a grid, rows of options x noise rates x seeds, and compares the rows.

python scripts/ablate.py scripts/ablations/losses.yaml --output_dir outputs/ablation --jobs 2
python scripts/ablate.py GRID.yaml --benchmark cuhk-pedes --data_root DIR --model_name_or_path ORG/NAME
"""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path

import modeling_amns  # noqa: F401  before all that is slow: Ctrl-C ends it in one line from here on

# isort: split
from transformers.utils import logging

from modeling_amns.ablation import (
    CellRecord,
    CellRunner,
    Grid,
    ablation_page,
    check_grid,
    draw_curves,
    read_grid,
    read_records,
    sort_records,
    start_cell,
)
from modeling_amns.cli import parse, run_script
from modeling_amns.disk import write_whole
from modeling_amns.run_folder import locked

logger = logging.get_logger(__name__)


@dataclass
class AblationArguments:
    """Where, how many at a time, and what of the grid."""

    output_dir: str = field(
        default="outputs/ablation", metadata={"help": "Folder of the runs, the table and picture."}
    )
    results: str | None = field(
        default=None, metadata={"help": "File of JSON lines, one a run; default results.jsonl in output_dir."}
    )
    jobs: int = field(default=1, metadata={"help": "Runs at a time; they share the processors."})
    rows: list[str] | None = field(default=None, metadata={"help": "Only these rows of the grid."})
    noise_rates: list[float] | None = field(default=None, metadata={"help": "Instead of the grid's."})
    seeds: list[int] | None = field(default=None, metadata={"help": "Instead of the grid's."})
    table_only: bool = field(
        default=False, metadata={"help": "Start no run; write table and picture of what there is."}
    )


@dataclass
class PlaceArguments:
    """Another benchmark and start than the grid's own, which are then not made."""

    benchmark: str | None = field(default=None, metadata={"help": "Name of a benchmark on disk."})
    data_root: str | None = field(default=None, metadata={"help": "Folder that holds it."})
    model_name_or_path: str | None = field(default=None, metadata={"help": "AMNS or CLIP checkpoint to start from."})


def chosen(grid: Grid, options: AblationArguments, place: PlaceArguments) -> Grid:
    """The part of a grid, and the place, that the command line asks for."""
    elsewhere = {name: value for name, value in vars(place).items() if value is not None}
    if elsewhere:
        grid = dataclasses.replace(grid, base={**grid.base, **elsewhere}, synthetic=None, start=None)
    rows = {name: dict(row) for name, row in grid.rows.items()}
    unknown = [name for name in options.rows or () if name not in rows]
    if unknown:
        raise ValueError(f"There is no row {', '.join(unknown)}; the rows are {', '.join(rows)}.")
    if options.rows:
        rows = {name: row for name, row in rows.items() if name in options.rows or name == grid.baseline}
    for name in ("noise_rates", "seeds"):
        values = getattr(options, name)
        if values:
            grid = dataclasses.replace(grid, **{name: tuple(values)})
            for row in rows.values():
                row.pop(name, None)
    return dataclasses.replace(grid, rows=rows)


def main() -> int:
    """Runs what is missing; writes the table and the picture after each run."""
    logging.set_verbosity_warning()
    options, place, path = parse((AblationArguments, PlaceArguments), __doc__, {"grid": "YAML file of the grid"})
    if options.jobs < 1:
        raise ValueError(f"jobs must be at least 1, found {options.jobs}.")
    grid = chosen(read_grid(path), options, place)
    folder = Path(options.output_dir)
    results = Path(options.results) if options.results else folder / "results.jsonl"
    cells = check_grid(grid, folder / "start")
    before = start_cell(grid)
    records, others = sort_records(read_records(results), [*cells, *([before] if before else [])])
    zero_shot = next((record for record in records if before and record.key == before.key), None)
    records = [record for record in records if record is not zero_shot]
    stale = sorted({record.row for record in others} & set(grid.rows))
    if stale:
        names = [str(record.key) for record in others if record.row in stale]
        print(
            f"{len(names)} line(s) of {results} are of runs that this grid does not ask for (other options, rates or "
            f"seeds) and stay out of the table: {'; '.join(names[:8])}{'; ...' if len(names) > 8 else ''}."
        )
    runner = CellRunner(folder, results, options.jobs)
    if options.table_only:
        write(grid, records, folder, zero_shot)
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        done = {record.key for record in records if record.failed is None}
        missing = [cell for cell in cells if cell.key not in done]
        print(f"{len(cells)} runs, {len(cells) - len(missing)} of them done; results: {results}")
        if missing:
            start = runner.make_start(grid)
            zero_shot = zero_shot or runner.rank_start(grid, start)

        def tell(count: int, record: CellRecord) -> None:
            records[:] = [known for known in records if known.key != record.key] + [record]
            figures = record.failed or (
                f"Rank-1 {record.last['rank1']:.2f}, mAP {record.last['mAP']:.2f} (best {record.best['rank1']:.2f}), "
                f"{record.seconds:.0f} s, {record.peak_memory_mb} MiB"
            )
            print(f"[{count}/{len(missing)}] {record.key}: {figures}", flush=True)
            write(grid, records, folder, zero_shot)

        runner.run(missing, tell)
    write(grid, records, folder, zero_shot)
    print((folder / "table.md").read_text(encoding="utf-8"))
    return 0


def write(grid: Grid, records: list[CellRecord], folder: Path, zero_shot: CellRecord | None) -> None:
    """Table and picture of what there is."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "table.md", ablation_page(grid, records, zero_shot))
    try:
        draw_curves(folder / "curves.png", grid, records)
    except ImportError as error:
        logger.warning_once(str(error))


if __name__ == "__main__":
    sys.exit(run_script("ablate.py", main))
