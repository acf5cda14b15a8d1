"""The grid of an ablation: which runs it asks for, read from a YAML file and checked before the first of them."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..brief import in_short
from ..data.synthetic import make_synthetic_benchmark
from ..run_arguments import parse_arguments

# Options of a run that the ablation sets itself.
OWN_OPTIONS = ("noise_rate", "noise_seed", "seed", "output_dir", "overwrite_output_dir", "resume_from_checkpoint")
_MAX_BYTES, _MAX_CELLS, _MAX_TOLD = 2**20, 10_000, 500


class CellKey(NamedTuple):
    """A run's place in the table; as text, what people call it."""

    row: str
    noise_rate: float
    seed: int

    def __str__(self) -> str:
        return f"{self.row}, noise {self.noise_rate:g}, seed {self.seed}"


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Args:
        row: name of its row.
        noise_rate: share of the training captions that are shuffled.
        seed: of the training, and of the shuffle.
        options: of `scripts/train.py`, all but the place.
        start: digest of what its start is made from, where the grid makes one.
    """

    row: str
    noise_rate: float
    seed: int
    options: Mapping[str, Any]
    start: str | None = None

    @property
    def key(self) -> CellKey:
        """Its place in the table."""
        return CellKey(self.row, self.noise_rate, self.seed)

    @property
    def told(self) -> dict[str, Any]:
        """The options that say how; where data and checkpoints lie on a disk is nobody else's business."""
        start = str(self.options.get("model_name_or_path") or "")
        places = {"data_root", *(("model_name_or_path",) if self.start or Path(start).exists() else ())}
        return {name: value for name, value in self.options.items() if name not in places}

    @property
    def digest(self) -> str:
        """Which options it is run with; another one, another run."""
        return digest([self.told, self.start])


@dataclass(frozen=True)
class Grid:
    """Rows of options x noise rates x seeds, on one benchmark and from one start.

    Args:
        rows: options of each row, over those of `base`; `noise_rates` and `seeds` in them replace the grid's own.
        base: options of every run.
        noise_rates, seeds: each row is run with each of them.
        baseline: the row that the others are compared with.
        synthetic: arguments of `make_synthetic_benchmark`, where the grid is on a generated benchmark.
        start: `{"synthetic": ..., "options": ...}`: the run that makes the checkpoint that all others start from.
        about: what it is for, in a sentence; stands above the table.
    """

    rows: Mapping[str, Mapping[str, Any]]
    base: Mapping[str, Any] = field(default_factory=dict)
    noise_rates: tuple[float, ...] = (0.0,)
    seeds: tuple[int, ...] = (0,)
    baseline: str | None = None
    synthetic: Mapping[str, Any] | None = None
    start: Mapping[str, Any] | None = None
    about: str = ""

    def cells(self, start_folder: Path | None = None) -> Iterator[Cell]:
        """Every run, seed by seed, so that a grid that is cut short still compares its rows.

        Args:
            start_folder: where the checkpoint lies that the grid's `start` makes.
        """
        made = digest(self.start) if self.start else None
        planned = []
        for row, options in self.rows.items():
            given = dict(options)
            rates, seeds = given.pop("noise_rates", self.noise_rates), given.pop("seeds", self.seeds)
            # 0 in a file and 0.0 of a command line are one run.
            for rate in map(float, rates):
                for place, seed in enumerate(seeds):
                    told = {**self.base, **given, "noise_rate": rate, "noise_seed": seed, "seed": seed}
                    if not rate:
                        del told["noise_seed"]
                    if start_folder is not None and made:
                        told["model_name_or_path"] = str(start_folder)
                    planned.append((place, Cell(row, rate, seed, told, made)))
        yield from (cell for _, cell in sorted(planned, key=lambda entry: entry[0]))


def read_grid(path: str | Path) -> Grid:
    """A grid from its YAML file; `like: OTHER.yaml` in it takes benchmark, start and base of another grid.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no grid; the text names what is wrong and what there is.
    """
    content = _read(Path(path))
    like = content.pop("like", None)
    if like is not None:
        setting = _read(Path(path).parent / str(like))
        content = {name: setting[name] for name in _SETTING if name in setting} | content
    return Grid(**content)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no grid {path}; the package's own lie in scripts/ablations.")
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, expected at most {_MAX_BYTES:,}.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {in_short(error, _MAX_TOLD)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must map {', '.join(_FIELDS)} to values, found {type(content).__name__}.")
    unknown = [str(name) for name in content if name not in (*_FIELDS, "like")]
    if unknown:
        raise ValueError(f"{path} has unknown field(s) {', '.join(unknown)}; a grid has {', '.join(_FIELDS)}, like.")
    for name in ("rows", "base", "synthetic", "start"):
        _check_mapping(path, name, content.get(name), needed=name == "rows")
    for name, options in content["rows"].items():
        if not isinstance(name, str):
            raise ValueError(f"{path}: names of rows must be text, found {name!r}; write it in quotes.")
        _check_mapping(path, f"row {name}", options or {})
        content["rows"][name] = options or {}
    for part in [content, *content["rows"].values()]:
        for name, check in (("noise_rates", _check_rate), ("seeds", _check_seed)):
            if name in part:
                part[name] = _list_of(path, name, part[name], check)
    start = content.get("start")
    if start is not None and set(start) - {"synthetic", "options"}:
        raise ValueError(f"{path}: start has synthetic and options, found {', '.join(map(str, start))}.")
    baseline = content.get("baseline")
    if baseline is not None and baseline not in content["rows"]:
        raise ValueError(f"{path}: baseline {baseline!r} is no row; the rows are {', '.join(content['rows'])}.")
    return content


def check_grid(grid: Grid, start_folder: Path) -> list[Cell]:
    """The runs of a grid, each of whose options was understood as `scripts/train.py` will understand it.

    Args:
        grid: to be checked.
        start_folder: where its start will lie.
    Raises:
        ValueError: an option that there is not, a value out of range, or a part that does not fit; names the row.
        FileNotFoundError: data or start are not there.
    """
    cells = list(grid.cells(start_folder if grid.start else None))
    if len(cells) > _MAX_CELLS:
        raise ValueError(f"The grid has {len(cells):,} runs, expected at most {_MAX_CELLS:,}.")
    for cell in cells:
        _check_rate(cell.noise_rate)
        _check_seed(cell.seed)
    for name, arguments in _generated(grid):
        known = {option for option in make_synthetic_benchmark.__annotations__ if option != "return"}
        unknown = sorted(set(arguments) - known)
        if unknown or "root" not in arguments:
            found = f"found {', '.join(unknown)}" if unknown else "root is missing"
            raise ValueError(f"{name} takes {', '.join(sorted(known))}; {found}.")
    for row, options in grid.rows.items():
        own = [option for option in OWN_OPTIONS if option in grid.base or option in options]
        if own:
            raise ValueError(
                f"row {row}: {', '.join(own)} can't be set, noise_rates, seeds and the place decide them."
            )
    checked = {"start": grid.start.get("options") or {}} if grid.start else {}
    # A row differs in noise and seed alone.
    checked |= {f"row {cell.row}": cell.options for cell in cells}
    source = None
    for name, options in checked.items():
        told = dict(options)
        if grid.start:
            told.pop("model_name_or_path", None)
        try:
            source, _, _ = parse_arguments(as_words(told | {"output_dir": "unused"}))
        except ValueError as error:
            raise ValueError(f"{name}: {in_short(error, _MAX_TOLD)}") from error
    if source is not None and grid.synthetic is None:
        # What is not there is said now, and not by every run.
        source.load("train")
    return cells


def as_words(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line.

    ```python
    >>> as_words({"loss_weights": {"itc": 1}, "image_size": [96, 32], "bf16": True})
    ['--loss_weights', '{"itc": 1}', '--image_size', '96', '32', '--bf16', 'true']

    ```
    """
    words = []
    for name, value in options.items():
        if value is None:
            continue
        words.append(f"--{name}")
        if isinstance(value, list | tuple):
            words += [str(part) for part in value]
        elif isinstance(value, Mapping):
            words.append(json.dumps(value))
        else:
            words.append(str(value).lower() if isinstance(value, bool) else str(value))
    return words


def digest(value: object) -> str:
    """Sixteen hexadecimal digits of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _generated(grid: Grid) -> Iterable[tuple[str, Mapping[str, Any]]]:
    if grid.synthetic is not None:
        yield "synthetic", grid.synthetic
    if grid.start is not None and grid.start.get("synthetic") is not None:
        yield "start: synthetic", grid.start["synthetic"]


def _check_mapping(path: Path, name: str, value: object, needed: bool = False) -> None:
    if value is None and not needed:
        return
    if not isinstance(value, dict) or (needed and not value):
        found = "nothing" if not value else type(value).__name__
        raise ValueError(f"{path}: {name} must map names to values, found {found}.")


def _list_of(path: Path, name: str, values: object, check: Callable[[Any], None]) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path}: {name} must be a list with at least one value, found {values!r}.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{path}: {name} must be numbers, found {value!r}.")
        check(value)
    return tuple(values)


def _check_rate(rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"noise_rates must lie in [0, 1), found {rate}.")


def _check_seed(seed: float) -> None:
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seeds must be whole numbers from 0, found {seed!r}.")


# What one grid can take from another.
_SETTING = ("base", "synthetic", "start", "noise_rates", "seeds")
_FIELDS = tuple(option.name for option in fields(Grid))

__all__ = ["OWN_OPTIONS", "Cell", "CellKey", "Grid", "as_words", "check_grid", "digest", "read_grid"]
