"""Trains an AMNS model on a benchmark and reports the best and the last epoch on its test split.

accelerate launch scripts/train.py --config scripts/recipes/quickstart.yaml
accelerate launch scripts/train.py --config scripts/recipes/cuhk_pedes.yaml --data_root DIR --noise_rate 0.5
"""

import os
import sys

# Read when torch loads OpenMP: threads that spin while they wait slow a CPU that is shared with other work tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from accelerate import PartialState
from transformers.utils import logging

from modeling_amns.recipe import figures_table, parse_arguments, run


def main() -> int:
    """Runs the recipe; exit code 0 on success, 1 with one line of explanation on bad input."""
    logging.set_verbosity_warning()
    try:
        data, start, args = parse_arguments()
        results = run(data, start, args)
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    if PartialState().is_main_process:
        noise = f", {results['noise_rate']:.0%} of the captions shuffled" if results["noise_rate"] else ""
        print(f"\n{results['benchmark']}, test split{noise}; best epoch selected on {results['selected_on']}\n")
        rows = {f"{name}, epoch {results[name]['epoch']:g}": results[name] for name in ("best", "last")}
        print(figures_table(rows))
        print(
            f"\n{results['seconds']:.0f} s, {results['peak_memory_mb']} MiB. Model and results.json: {args.output_dir}"
        )
    # Threads of a group that is left to the end of the interpreter can abort it.
    PartialState().destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
