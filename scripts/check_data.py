"""Reads a whole benchmark, or own pairs, once and reports what is wrong.

    python scripts/check_data.py --benchmark cuhk-pedes --data_root data
    python scripts/check_data.py --benchmark rstpreid --data_root data --processor outputs/rstpreid --json
    python scripts/check_data.py --pairs people/pairs.csv --person_id_column name

Exit code 0 if nothing is broken, 1 if something is: records that cannot be used, images that are missing or cannot be
decoded, persons in more than one split.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields

from modeling_amns.cli import parse, run_script
from modeling_amns.data.check import Report, check_benchmark, check_pairs
from modeling_amns.data.sources import SourceArguments


@dataclass
class CheckArguments:
    """How to check."""

    split_file: str | None = field(
        default=None,
        metadata={"help": "JSON of train, val and test, for a benchmark's annotation without a usable split."},
    )
    processor: str | None = field(
        default=None, metadata={"help": "Checkpoint whose tokenizer counts the captions that it would cut."}
    )
    num_workers: int | None = field(default=None, metadata={"help": "Threads that decode; default one a processor."})
    json: bool = field(default=False, metadata={"help": "Print the report as JSON."})


def main() -> int:
    """Prints the report; 1 if something is broken."""
    source, options = parse((SourceArguments, CheckArguments), __doc__)
    report = check(source, options)
    print(json.dumps(report.as_dict(), indent=2) if options.json else report.as_text())
    return int(report.broken)


def check(source: SourceArguments, options: CheckArguments) -> Report:
    """The report of a benchmark or of own pairs."""
    # A check reads all splits and names all images that are missing.
    idle = ["on_missing", "val_split"]
    idle += ["split_file"] if source.pairs else []
    for group in (source, options):
        for option in fields(group):
            if option.name in idle and getattr(group, option.name) != option.default:
                kind = "own pairs" if source.pairs else "a benchmark"
                raise ValueError(f"--{option.name} has no effect on the check of {kind}; leave it out.")
    tokens = token_counter(options.processor) if options.processor else {}
    if source.pairs:
        return check_pairs(source.pairs, source.image_root, source.columns, num_workers=options.num_workers, **tokens)
    return check_benchmark(
        source.benchmark, source.data_root, options.split_file, num_workers=options.num_workers, **tokens
    )


def token_counter(path: str) -> dict[str, Callable[[list[str]], list[int]] | int]:
    """What counts a caption's tokens, start and end included, with a checkpoint's tokenizer, and how many it keeps."""
    from modeling_amns import AMNSProcessor

    processor = AMNSProcessor.from_pretrained(path, trust_remote_code=False)

    def count_tokens(captions: list[str]) -> list[int]:
        return [len(ids) for ids in processor.token_ids(captions, cut=False)]

    return {"count_tokens": count_tokens, "max_tokens": processor.max_tokens}


if __name__ == "__main__":
    sys.exit(run_script("check_data.py", main))
