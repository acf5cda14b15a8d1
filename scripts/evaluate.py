"""Prints the retrieval figures of a checkpoint on a benchmark.

python scripts/evaluate.py outputs/quickstart --benchmark synthetic-pedes --data_root data
python scripts/evaluate.py ORG/NAME --benchmark cuhk-pedes --data_root DIR --json
"""

import argparse
import json
import sys

from accelerate import PartialState

from modeling_amns import AMNSModel, AMNSProcessor, load_benchmark
from modeling_amns.data.benchmarks import BENCHMARKS
from modeling_amns.evaluation import evaluate_retrieval
from modeling_amns.recipe import figures_table


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Retrieval figures of a checkpoint: Rank-1/5/10, mAP and mINP in percent."
    )
    parser.add_argument("model", help="checkpoint: folder or Hub id")
    parser.add_argument("--benchmark", default="synthetic-pedes", choices=list(BENCHMARKS))
    parser.add_argument("--data_root", default="data", help="folder that holds the benchmark's folder, or that folder")
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument(
        "--on_missing", default="error", choices=["error", "drop"], help="what to do on missing images"
    )
    parser.add_argument("--image_to_text", action="store_true", help="also rank the captions for each image")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--num_workers", type=int, default=0, help="processes that decode images")
    parser.add_argument("--device", help="default: the accelerator if there is one")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    return parser.parse_args()


def main() -> int:
    """Exit code 0 on success, 1 with one line of explanation on bad input."""
    options = parse_arguments()
    try:
        model = AMNSModel.from_pretrained(options.model).to(options.device or PartialState().device)
        processor = AMNSProcessor.from_pretrained(options.model)
        split = load_benchmark(options.benchmark, options.data_root, options.split, on_missing=options.on_missing)
        figures = evaluate_retrieval(
            model, processor, split, options.batch_size, options.num_workers, options.image_to_text, progress=True
        )
    except (ValueError, OSError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 1
    if PartialState().is_main_process:
        if options.json:
            print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
        else:
            rows = {f"{options.benchmark} {options.split}, text to image": figures}
            if options.image_to_text:
                reverse = {name[4:]: value for name, value in figures.items() if name.startswith("i2t_")}
                rows["image to text"] = reverse
            print(figures_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
