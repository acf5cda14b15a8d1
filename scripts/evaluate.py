"""Prints the retrieval figures of a checkpoint on a benchmark.

python scripts/evaluate.py outputs/quickstart --benchmark synthetic-pedes --data_root data
python scripts/evaluate.py ORG/NAME --benchmark cuhk-pedes --data_root DIR --json
python scripts/evaluate.py ORG/NAME --pairs pairs.csv --caption_column text
"""

import json
import sys
from dataclasses import dataclass, field

from accelerate import PartialState
from transformers import HfArgumentParser

from modeling_amns.data.sources import SourceArguments
from modeling_amns.evaluation import evaluate_retrieval
from modeling_amns.loading import load_checkpoint
from modeling_amns.recipe import figures_table


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


def parse_arguments() -> tuple[str, SourceArguments, EvaluationArguments]:
    """The command line."""
    parser = HfArgumentParser(
        (SourceArguments, EvaluationArguments),
        description="Retrieval figures of a checkpoint: Rank-1/5/10, mAP and mINP in percent.",
    )
    parser.add_argument("model", help="Checkpoint: folder or Hub id.")
    source, options, rest = parser.parse_args_into_dataclasses()
    return rest.model, source, options


def main() -> int:
    """Exit code 0 on success, 1 with one line of explanation on bad input."""
    try:
        name, source, options = parse_arguments()
        model, processor = load_checkpoint(name, options.image_size)
        model.to(options.device or PartialState().device)
        if options.split not in ("val", "test"):
            raise ValueError(f"--split must be val or test, found {options.split!r}.")
        split = source.load(options.split)
        figures = evaluate_retrieval(
            model, processor, split, options.batch_size, options.num_workers, options.image_to_text, progress=True
        )
    except (ValueError, OSError) as error:
        print(f"evaluate.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    if PartialState().is_main_process:
        if options.json:
            print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
        else:
            rows = {f"{source.name} {options.split}, text to image": figures}
            if options.image_to_text:
                reverse = {name[4:]: value for name, value in figures.items() if name.startswith("i2t_")}
                rows["image to text"] = reverse
            print(figures_table(rows))
    # Threads of a group that is left to the end of the interpreter can abort it.
    PartialState().destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
