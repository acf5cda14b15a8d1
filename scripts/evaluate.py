"""Prints the retrieval figures of a checkpoint on a benchmark.

python scripts/evaluate.py outputs/quickstart --benchmark synthetic-pedes --data_root data
python scripts/evaluate.py ORG/NAME --benchmark cuhk-pedes --data_root DIR --json
python scripts/evaluate.py ORG/NAME --benchmark cuhk-pedes icfg-pedes rstpreid --data_root DIR
python scripts/evaluate.py ORG/NAME --benchmark rstpreid --data_root hf://datasets/ORG/NAME
python scripts/evaluate.py ORG/NAME --pairs pairs.csv --caption_column text
python scripts/evaluate.py outputs/quickstart --benchmark synthetic-pedes --data_root data --figures pictures
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from modeling_amns.cli import parse, run_script, stand_aside

stand_aside(__name__, __file__)

from accelerate import PartialState

from modeling_amns.captions_amns import check_long_captions
from modeling_amns.data.sources import SourcesArguments
from modeling_amns.evaluation import embed_split
from modeling_amns.figures import write_figures
from modeling_amns.loading import load_checkpoint
from modeling_amns.report import METRICS, figures_table


@dataclass
class EvaluationArguments:
    """Which split, and how."""

    split: str = field(default="test", metadata={"help": "val or test."})
    image_to_text: bool = field(default=False, metadata={"help": "Also rank the captions for each image."})
    image_size: list[int] | None = field(
        default=None, metadata={"help": "Height and width, default the checkpoint's; CLIP checkpoints need it."}
    )
    long_captions: str | None = field(
        default=None,
        metadata={"help": "Captions longer than the text encoder: cut, refuse or windows; default the checkpoint's."},
    )
    batch_size: int = field(default=128, metadata={"help": "Images or captions at a time."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    device: str | None = field(default=None, metadata={"help": "Default: the accelerator if there is one."})
    json: bool = field(default=False, metadata={"help": "Print the figures as JSON instead of a table."})
    figures: str | None = field(
        default=None, metadata={"help": "Folder for pictures: rankings, attention, masks, and curves of the run."}
    )
    keep_ratio: float | None = field(
        default=None, metadata={"help": "Share of the patches that pictured masks keep, default 0.5."}
    )


def main() -> int:
    """Prints the figures."""
    sources, options, name = parse(
        (SourcesArguments, EvaluationArguments), __doc__, {"model": "checkpoint: folder or Hub id"}
    )
    if options.split not in ("val", "test"):
        raise ValueError(f"--split must be val or test, found {options.split!r}.")
    if options.long_captions is not None:
        check_long_captions(options.long_captions)
    if options.keep_ratio is not None and (options.figures is None or not 0 < options.keep_ratio <= 1):
        raise ValueError(f"--keep_ratio is of the pictures of --figures, in (0, 1]; found {options.keep_ratio}.")
    if options.figures is not None:
        Path(options.figures).mkdir(parents=True, exist_ok=True)
    # All of them first: a wrong path is an error of the first second, not of the last hour.
    splits = {source.name: source.load(options.split) for source in sources.each()}
    model, processor = load_checkpoint(name, options.image_size)
    processor.long_captions = options.long_captions or processor.long_captions
    model.to(options.device or PartialState().device)
    embedded = {
        benchmark: embed_split(model, processor, split, options.batch_size, options.num_workers, progress=True)
        for benchmark, split in splits.items()
    }
    failed = 0
    if PartialState().is_main_process:
        figures = {benchmark: found.metrics(options.image_to_text) for benchmark, found in embedded.items()}
        print(as_json(figures) if options.json else as_table(figures, options.split), flush=True)
        for benchmark in splits if options.figures is not None else ():
            folder = Path(options.figures) / (benchmark if len(splits) > 1 else "")
            pictured = (model, processor, splits[benchmark], embedded[benchmark])
            said = write_figures(folder, *pictured, options.keep_ratio or 0.5, name if Path(name).is_dir() else None)
            for picture, reason in said.items():
                failed += reason is not None
                done = "wrote" if reason is None else "could not draw"
                print(f"evaluate.py: {done} {folder / picture}{f': {reason}' if reason else ''}", file=sys.stderr)
    # Threads of a group that is left to the end of the interpreter can abort it.
    PartialState().destroy_process_group()
    return 1 if failed else 0


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
