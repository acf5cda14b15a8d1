"""Reads a whole benchmark once and reports what is wrong with it.

    python scripts/check_data.py --benchmark cuhk-pedes --data_root data
    python scripts/check_data.py --benchmark rstpreid --data_root data --processor outputs/rstpreid --json

Exit code 0 if nothing is broken, 1 if something is: records that cannot be used, images that are missing or cannot be
decoded, persons in more than one split.
"""

import json
import sys
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from modeling_amns.data.benchmarks import BENCHMARKS
from modeling_amns.data.check import check_benchmark


@dataclass
class Options:
    """What to check."""

    benchmark: str = field(default="synthetic-pedes", metadata={"help": "Its name.", "choices": list(BENCHMARKS)})
    data_root: str = field(
        default="data", metadata={"help": "Folder that holds the benchmark's folder, or that folder itself."}
    )
    split_file: str | None = field(
        default=None, metadata={"help": "JSON of train, val and test, for an annotation without a usable split."}
    )
    processor: str | None = field(
        default=None, metadata={"help": "Checkpoint whose tokenizer counts the captions of more than 77 tokens."}
    )
    num_workers: int | None = field(default=None, metadata={"help": "Threads that decode; default one a processor."})
    json: bool = field(default=False, metadata={"help": "Print the report as JSON."})


def main() -> int:
    """Prints the report; 1 if something is broken or there is nothing to check."""
    (options,) = HfArgumentParser(Options, description=__doc__.splitlines()[0]).parse_args_into_dataclasses()
    try:
        report = check_benchmark(
            options.benchmark,
            options.data_root,
            options.split_file,
            token_counter(options.processor) if options.processor else None,
            options.num_workers,
        )
    except (ValueError, OSError) as error:
        print(f"check_data.py: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report.as_dict(), indent=2) if options.json else report.as_text())
    return int(report.broken)


def token_counter(path: str):
    """A function that counts the tokens of captions, start and end included, with a checkpoint's tokenizer."""
    from modeling_amns import AMNSProcessor

    processor = AMNSProcessor.from_pretrained(path)

    def count_tokens(captions: list[str]) -> list[int]:
        return [len(ids) for ids in processor(text=captions, truncation=False, padding=False)["input_ids"]]

    return count_tokens


if __name__ == "__main__":
    sys.exit(main())
