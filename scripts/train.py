"""Trains an AMNS model on a benchmark and reports the best and the last epoch on its test split.

accelerate launch scripts/train.py --config scripts/recipes/quickstart.yaml
accelerate launch scripts/train.py --config scripts/recipes/cuhk_pedes.yaml --data_root DIR --noise_rate 0.5
"""

import os
import sys

# Read when torch loads OpenMP: threads that spin while they wait slow a CPU that is shared with other work tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from accelerate import PartialState
from huggingface_hub.errors import HTTPError
from transformers.utils import logging

from modeling_amns.recipe import parse_arguments, push, run
from modeling_amns.report import RunReport, figures_table


def main() -> int:
    """Runs the recipe; exit code 0 on success, 1 with one line of explanation on bad input."""
    logging.set_verbosity_warning()
    try:
        data, start, args = parse_arguments()
        trainer, report = run(data, start, args)
        if PartialState().is_main_process:
            print_report(report, args.output_dir)
        if args.push_to_hub:
            push(trainer)
    except (ValueError, OSError, ImportError, HTTPError) as error:
        print(f"train.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    # Threads of a group that is left to the end of the interpreter can abort it.
    PartialState().destroy_process_group()
    return 0


def print_report(report: RunReport, folder: str) -> None:
    """The figures of the best and the last epoch as a table."""
    noise = f", {report.noise_rate:.0%} of the captions shuffled" if report.noise_rate else ""
    selected = f"best epoch selected on {report.selected_on}" if report.selected_on else "no epoch selected"
    print(f"\n{report.benchmark}, test split{noise}; {selected}\n")
    print(figures_table(report.rows))
    print(f"\n{report.seconds:.0f} s, {report.peak_memory_mb} MiB. Model and results.json: {folder}")


if __name__ == "__main__":
    sys.exit(main())
