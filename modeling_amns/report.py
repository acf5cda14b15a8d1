"""What a run leaves in `results.json`: its figures, what they were made with, and whose they are."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub.utils.sha import sha_fileobj
from transformers.utils import logging

from .disk import write_whole
from .markdown import markdown_table

logger = logging.get_logger(__name__)

RESULTS = "results.json"
# The retrieval figures, in percent, in the order in which they are shown.
METRICS = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}
NOT_MEASURED, NOT_STATED = "not measured", "not stated"
FROM_SCRATCH = "from scratch"
SYNTHETIC = "synthetic-pedes"
_LIMIT = 1e15
# A run of a million logged steps leaves half as much.
MAX_JSON_BYTES = 256 * 2**20


@dataclass(frozen=True)
class EpochFigures(Mapping[str, float]):
    """Retrieval figures on test of the weights of one epoch, in percent; as a mapping it holds those that are known.

    Args:
        epoch: when in the run, in passes over the training pairs.
        rank1, rank5, rank10, mAP, mINP: `None` where it was not measured.
    """

    epoch: float | None = None
    rank1: float | None = None
    rank5: float | None = None
    rank10: float | None = None
    mAP: float | None = None
    mINP: float | None = None

    def __getitem__(self, name: str) -> float:
        value = getattr(self, name, None) if name in _FIGURES else None
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name in _FIGURES if getattr(self, name) is not None)

    def __len__(self) -> int:
        return len(list(iter(self)))

    @classmethod
    def of(cls, figures: Mapping[str, float], epoch: float | None) -> "EpochFigures":
        """Rounded to two digits, from what `evaluate_retrieval` returns."""
        rounded = {name: round(figures[name], 2) for name in METRICS}
        return cls(None if epoch is None else round(epoch, 2), **rounded)


_FIGURES = ("epoch", *METRICS)


@dataclass
class RunReport:
    """The report of a training run.

    Args:
        benchmark: name of the data: a benchmark, or own pairs by the name of their file or their id on the Hub.
        own_pairs: whether they are the user's own, whatever they are called.
        evaluated_on: benchmarks whose figures these are, joined by a plus; `None` where they are of the same data.
        noise_rate: share of the training captions that were moved on purpose, in [0, 1).
        noise_seed, noise_file: by which chance, or by which published index file.
        losses: weight of each loss.
        best: figures of the weights beside the report, which are those of the selected epoch, or of the last where
            none was selected.
        last: figures of the last epoch.
        by_benchmark: where several benchmarks are evaluated `best` and `last` of each by its name; above are their
            means.
        selected_on: split and figure that selected the best epoch, `"val rank1"`; `None` where none was selected.
        dropped_pairs: pairs without an image that were left out, by split.
        start: what the weights started from.
        base_model: id of that start on the Hub, where it has one.
        training: options that decided the training.
        environment: versions and device.
        doubtful_share: share of the training pairs that the run found wrong by itself, in [0, 1]; `None` where it did
            not look (`pair_weighting`).
        seconds: of the whole run.
        peak_memory_mb: see `memory.PeakMemory`, MiB.
        weights_sha256: whose figures these are, as `weights_sha256` returns it.
        more: fields of a later version of this package, kept as they are.

    ```python
    >>> import tempfile
    >>> from modeling_amns import RunReport
    >>> from modeling_amns.report import EpochFigures
    >>> figures = EpochFigures(3.0, rank1=41.37, rank5=70.11, rank10=80.22, mAP=40.43, mINP=27.54)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     RunReport("synthetic-pedes", noise_rate=0.2, best=figures, last=figures).save(folder)
    ...     report = RunReport.load(folder)
    >>> report.best.rank1, report.figures["mAP"], report.synthetic
    (41.37, 40.43, True)

    ```
    """

    benchmark: str | None = None
    own_pairs: bool = False
    evaluated_on: str | None = None
    noise_rate: float | None = None
    noise_seed: int | None = None
    noise_file: str | None = None
    losses: dict[str, float] = field(default_factory=dict)
    best: EpochFigures = EpochFigures()
    last: EpochFigures = EpochFigures()
    by_benchmark: dict[str, dict[str, EpochFigures]] = field(default_factory=dict)
    selected_on: str | None = None
    dropped_pairs: dict[str, int] = field(default_factory=dict)
    start: str | None = None
    base_model: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    doubtful_share: float | None = None
    seconds: float | None = None
    peak_memory_mb: int | None = None
    weights_sha256: str | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, float]:
        """The figures of the weights beside the report, by name, in percent; those that were measured."""
        return {name: self.best[name] for name in METRICS if name in self.best}

    @property
    def measured_on(self) -> str | None:
        """Name of the data whose figures these are."""
        return self.evaluated_on or self.benchmark

    @property
    def synthetic(self) -> bool:
        """Whether the run was on the benchmark of this package, whose images show nobody."""
        return self.benchmark == SYNTHETIC and not self.own_pairs

    @property
    def rows(self) -> dict[str, EpochFigures]:
        """Best and last, by what a table calls them."""
        mean = "mean, " if self.by_benchmark else ""
        named = {f"{mean}best": self.best, f"{mean}last": self.last}
        for benchmark, figures in self.by_benchmark.items():
            named |= {f"{benchmark}, {name}": row for name, row in figures.items()}
        return {f"{name}, epoch {format_number(row.epoch, 'g')}": row for name, row in named.items()}

    def save(self, folder: str | Path) -> None:
        """Writes `results.json`, whole or not at all."""
        content = asdict(self)
        content |= content.pop("more") | {"best": dict(self.best), "last": dict(self.last)}
        each = self.by_benchmark.items()
        content["by_benchmark"] = {name: {key: dict(row) for key, row in rows.items()} for name, rows in each}
        write_whole(Path(folder) / RESULTS, json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "RunReport":
        """The report in a run's output folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is no JSON object, or a field is not what it should be.
        """
        file = Path(folder) / RESULTS
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} holds no {RESULTS}; pass the output_dir of a training run that has ended."
            )
        content = read_object(file)
        known: dict[str, Any] = {}
        for name, (kinds, missing) in _KINDS.items():
            value = content.pop(name, None)
            if value is None:
                continue
            wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
            if wrong or (isinstance(value, int | float) and not isinstance(value, bool) and not is_number(value)):
                raise ValueError(f"{file}: {name} must be a JSON {missing}, found {_shown(value)}; train anew.")
            known[name] = value
        known |= {name: _read_figures(known.get(name, {})) for name in ("best", "last")}
        for name, rows in known.get("by_benchmark", {}).items():
            if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
                raise ValueError(f"{file}: by_benchmark must hold best and last of each, found {_shown(rows)}.")
            known["by_benchmark"][name] = {key: _read_figures(row) for key, row in rows.items()}
        for name, count in known.get("dropped_pairs", {}).items():
            if not isinstance(count, int) or not is_number(count):
                found = f"found {_shown(count)} for {_shown(name)}; train anew."
                raise ValueError(f"{file}: dropped_pairs must be numbers of pairs by split, {found}")
        return cls(**known, more=content)

    def belongs_to(self, weights: str | Path) -> bool:
        """Whether these may be the figures of the weights in a folder: `False` where it names others.

        A report that names no weights, or a folder that has none, gives `True`: nothing is known against it.
        """
        # Weights are read through only if there is something to compare with: they may be large.
        return self.weights_sha256 is None or weights_sha256(weights) in (None, self.weights_sha256)


def _read_figures(row: Mapping[str, Any]) -> EpochFigures:
    return EpochFigures(**{key: value for key, value in row.items() if key in _FIGURES and is_number(value)})


_OBJECT, _TEXT, _NUMBER, _WHOLE = ((dict,), "dict"), ((str,), "str"), ((int, float), "number"), ((int,), "int")
_KINDS = {
    **dict.fromkeys(("losses", "best", "last", "by_benchmark", "dropped_pairs", "training", "environment"), _OBJECT),
    **dict.fromkeys(
        ("benchmark", "evaluated_on", "noise_file", "selected_on", "start", "base_model", "weights_sha256"), _TEXT
    ),
    **dict.fromkeys(("noise_rate", "doubtful_share", "seconds"), _NUMBER),
    **dict.fromkeys(("noise_seed", "peak_memory_mb"), _WHOLE),
    "own_pairs": ((bool,), "bool"),
}
assert set(_KINDS) == {option.name for option in fields(RunReport)} - {"more"}


def find_report(folder: str | Path) -> RunReport | None:
    """The report in a folder, if there is one and it is of the weights beside it.

    Raises:
        ValueError: as `RunReport.load`.
    """
    if not (Path(folder) / RESULTS).is_file():
        return None
    report = RunReport.load(folder)
    if not report.belongs_to(folder):
        # A run into the same folder has replaced the weights.
        logger.warning_once(f"{Path(folder) / RESULTS} describes other weights than those beside it; it is left out.")
        return None
    return None if report == RunReport() else report


def weights_sha256(folder: str | Path) -> str | None:
    """Which weights a folder holds: the SHA-256 of its `model.safetensors`; of shards that of their sums, in order.

    `None` where it holds none.
    """
    sums = []
    for path in sorted(Path(folder).glob("model*.safetensors")):
        with path.open("rb") as file:
            sums.append(sha_fileobj(file))
    if len(sums) > 1:
        return hashlib.sha256(b"".join(sums)).hexdigest()
    return sums[0].hex() if sums else None


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file, empty where there is no file.

    Raises:
        ValueError: it holds something else.
    """
    if not file.is_file():
        return {}
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{file} has {file.stat().st_size:,} bytes, expected at most {MAX_JSON_BYTES:,}; train anew.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    # A RecursionError where brackets are nested without end.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON ({error}); remove it or write it anew by training.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a JSON object, found {type(content).__name__}; remove it or train anew.")
    return content


def read_history(folder: str | Path) -> list[dict[str, Any]]:
    """What a run has logged while training, from `trainer_state.json`; nothing without one.

    Raises:
        ValueError: it is no list of JSON objects.
    """
    file = Path(folder) / "trainer_state.json"
    history = read_object(file).get("log_history") or []
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise ValueError(f"{file}: log_history must be a list of JSON objects; remove the file or train anew.")
    return history


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number of up to 15 digits before its point, and no truth value."""
    # JSON knows whole numbers that no float holds, and nothing that a run measures is as large.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LIMIT


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def format_number(value: object, pattern: str) -> str:
    """A number by a format, or "not measured"."""
    return format(value, pattern) if is_number(value) else NOT_MEASURED


def figures_table(rows: Mapping[str, Mapping[str, float]], head: str = "") -> str:
    """A Markdown table of retrieval figures in percent.

    Args:
        rows: figures by the name of their row; one that is missing reads "not measured".
        head: what stands above the names.
    """
    cells = (
        [name, *(format_number(figures.get(metric), ".2f") for metric in METRICS)] for name, figures in rows.items()
    )
    return markdown_table([head, *METRICS.values()], cells)


__all__ = [
    "FROM_SCRATCH",
    "METRICS",
    "NOT_MEASURED",
    "NOT_STATED",
    "RESULTS",
    "EpochFigures",
    "RunReport",
    "figures_table",
    "find_report",
    "format_number",
    "is_number",
    "read_history",
    "read_object",
    "weights_sha256",
]
