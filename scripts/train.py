"""Trains an AMNS model on a benchmark and reports the best and the last epoch on its test split.

accelerate launch scripts/train.py --config scripts/recipes/quickstart.yaml
accelerate launch scripts/train.py --config scripts/recipes/cuhk_pedes.yaml --data_root DIR --noise_rate 0.5
"""

import os
import sys

# Read when torch loads OpenMP: threads that spin while they wait slow a CPU that is shared with other work tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import modeling_amns  # noqa: F401  before all that is slow: Ctrl-C ends it in one line from here on

# isort: split
from accelerate import PartialState
from transformers.utils import logging

from modeling_amns import AMNSTrainingArguments
from modeling_amns.cli import run_script
from modeling_amns.recipe import DataArguments, ModelArguments, parse_arguments, push, run
from modeling_amns.report import RunReport, figures_table
from modeling_amns.trainer import NonFiniteLossError


def main() -> int:
    """Runs the recipe; without any option only says what it would do."""
    logging.set_verbosity_warning()
    data, start, args = parse_arguments()
    if len(sys.argv) == 1:
        if PartialState().is_main_process:
            print(plan(data, start, args), file=sys.stderr)
        return 1
    trainer, report = run(data, start, args)
    if PartialState().is_main_process:
        print_report(report, args.output_dir)
    if args.push_to_hub:
        push(trainer)
    # Threads of a group that is left to the end of the interpreter can abort it.
    PartialState().destroy_process_group()
    return 0


def plan(data: DataArguments, start: ModelArguments, args: AMNSTrainingArguments) -> str:
    """What a run with these options trains, on what, for how long, and how to start it or a shorter one."""
    height, width = start.image_size or (384, 128)
    model = start.model_name_or_path or "a model of ViT-B/16's size from random weights"
    return (
        f"train.py: no option given. This would train {model} at {height}x{width} on {data.name} in {data.data_root}, "
        f"{args.num_train_epochs:g} epochs in batches of {args.per_device_train_batch_size}, into {args.output_dir}: "
        "about a day on two CPU cores, much less on a GPU. Nothing was started.\n"
        "  train for minutes:     --config quickstart\n"
        "  start it all the same: --yes\n"
        "  see all options:       --help"
    )


def print_report(report: RunReport, folder: str) -> None:
    """The figures of the best and the last epoch as a table."""
    noise = f", {report.noise_rate:.0%} of the captions shuffled" if report.noise_rate else ""
    selected = f"best epoch selected on {report.selected_on}" if report.selected_on else "no epoch selected"
    print(f"\n{report.measured_on}, test split{noise}; {selected}\n")
    print(figures_table(report.rows))
    print(f"\n{report.seconds:.0f} s, {report.peak_memory_mb} MiB. Model and results.json: {folder}")


if __name__ == "__main__":
    sys.exit(run_script("train.py", main, (NonFiniteLossError,)))
