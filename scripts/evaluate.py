"""Prints the retrieval figures of a checkpoint on a benchmark.

python scripts/evaluate.py outputs/quickstart --benchmark synthetic-pedes --data_root data
python scripts/evaluate.py ORG/NAME --benchmark cuhk-pedes --data_root DIR --json
python scripts/evaluate.py ORG/NAME --benchmark cuhk-pedes icfg-pedes rstpreid --data_root DIR
python scripts/evaluate.py ORG/NAME --pairs pairs.csv --caption_column text
"""

import json
import sys
from dataclasses import dataclass, field, fields

from modeling_amns.cli import parse, run_script, stand_aside

stand_aside(__name__, __file__)

from accelerate import PartialState

from modeling_amns.data.benchmarks import BENCHMARKS
from modeling_amns.data.sources import SourceArguments
from modeling_amns.evaluation import evaluate_retrieval
from modeling_amns.loading import load_checkpoint
from modeling_amns.report import METRICS, figures_table


@dataclass
class SourcesArguments(SourceArguments):
    """One or more benchmarks below one folder, or own pairs."""

    benchmark: list[str] = field(
        default_factory=lambda: ["synthetic-pedes"],
        metadata={"help": "One or more of " + ", ".join(BENCHMARKS) + ", below one data_root."},
    )

    def each(self) -> list[SourceArguments]:
        """One source for each benchmark."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        names = self.benchmark[:1] if self.pairs else self.benchmark
        return [SourceArguments(**{**values, "benchmark": name}) for name in names]


@dataclass
class EvaluationArguments:
    """Which split, and how."""

    split: str = field(default="test", metadata={"help": "val or test."})
    image_to_text: bool = field(default=False, metadata={"help": "Also rank the captions for each image."})
    image_size: list[int] | None = field(
        default=None, metadata={"help": "Height and width, default the checkpoint's; CLIP checkpoints need it."}
    )
    batch_size: int = field(default=128, metadata={"help": "Images or captions at a time."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    device: str | None = field(default=None, metadata={"help": "Default: the accelerator if there is one."})
    json: bool = field(default=False, metadata={"help": "Print the figures as JSON instead of a table."})


def main() -> int:
    """Prints the figures."""
    sources, options, name = parse(
        (SourcesArguments, EvaluationArguments), __doc__, {"model": "checkpoint: folder or Hub id"}
    )
    if options.split not in ("val", "test"):
        raise ValueError(f"--split must be val or test, found {options.split!r}.")
    # All of them first: a wrong path is an error of the first second, not of the last hour.
    splits = {source.name: source.load(options.split) for source in sources.each()}
    model, processor = load_checkpoint(name, options.image_size)
    model.to(options.device or PartialState().device)
    figures = {
        benchmark: evaluate_retrieval(
            model, processor, split, options.batch_size, options.num_workers, options.image_to_text, progress=True
        )
        for benchmark, split in splits.items()
    }
    if PartialState().is_main_process:
        print(as_json(figures) if options.json else as_table(figures, options.split))
    # Threads of a group that is left to the end of the interpreter can abort it.
    PartialState().destroy_process_group()
    return 0


def as_json(figures: dict[str, dict[str, float]]) -> str:
    """The figures of one benchmark, or those of each by its name."""
    rounded = {name: {key: round(value, 4) for key, value in found.items()} for name, found in figures.items()}
    return json.dumps(rounded if len(rounded) > 1 else next(iter(rounded.values())))


def as_table(figures: dict[str, dict[str, float]], split: str) -> str:
    """A row for each benchmark and direction."""
    rows = {}
    for benchmark, found in figures.items():
        rows[f"{benchmark} {split}, text to image"] = found
        if f"i2t_{next(iter(METRICS))}" in found:
            rows[f"{benchmark} {split}, image to text"] = {name: found[f"i2t_{name}"] for name in METRICS}
    return figures_table(rows)


if __name__ == "__main__":
    sys.exit(run_script("evaluate.py", main))
