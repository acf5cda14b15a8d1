"""Exports a checkpoint to ONNX, checked against PyTorch, and measures what quantisation costs on a benchmark.

python scripts/export.py outputs/quickstart exported --int8 --benchmark synthetic-pedes --data_root data
python exported/amns_onnx.py FOLDER_OF_IMAGES "a woman in a red coat with a black backpack"
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers.utils import logging

from modeling_amns import load_benchmark
from modeling_amns.data.benchmarks import BENCHMARKS
from modeling_amns.export import compare, export_onnx, export_programs
from modeling_amns.loading import load_checkpoint
from modeling_amns.report import figures_table


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Exports both encoders of a checkpoint to ONNX.")
    parser.add_argument("model", help="checkpoint: folder or Hub id")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument(
        "--image_size", type=int, nargs=2, help="height and width, default the checkpoint's; CLIP checkpoints need it"
    )
    parser.add_argument("--int8", action="store_true", help="also write encoders quantised to 8 bits")
    parser.add_argument("--torch_export", action="store_true", help="also write torch.export programs (*.pt2)")
    parser.add_argument("--benchmark", choices=list(BENCHMARKS), help="compare the exports on this benchmark")
    parser.add_argument("--data_root", default="data", help="folder that holds the benchmark's folder, or that folder")
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument(
        "--on_missing", default="error", choices=["error", "drop"], help="what to do on missing images"
    )
    parser.add_argument("--batch_size", type=int, default=64)
    return parser.parse_args()


def main() -> int:
    """Exit code 0 on success, 1 with one line of explanation on bad input."""
    logging.set_verbosity_warning()
    options = parse_arguments()
    try:
        split = None
        if options.benchmark:
            split = load_benchmark(options.benchmark, options.data_root, options.split, on_missing=options.on_missing)
        if Path(options.model).resolve() == options.out.resolve():
            raise ValueError(f"{options.out} is the checkpoint itself; its tokenizer would be overwritten.")
        model, processor = load_checkpoint(options.model, options.image_size)
        report = {
            "model": options.model,
            "largest_deviation": export_onnx(model, processor, options.out, options.int8),
        }
        if options.torch_export:
            for name, program in export_programs(model).items():
                torch.export.save(program, options.out / f"{name}_encoder.pt2")
        if split is not None:
            rows = compare(model, processor, options.out, split, options.batch_size, progress=True)
            report |= {"benchmark": options.benchmark, "split": options.split, "rows": rows}
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"export.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    (options.out / "export.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    deviations = ", ".join(f"{name} {value:.1e}" for name, value in report["largest_deviation"].items())
    print(f"{options.out}: ONNX and PyTorch differ by at most {deviations} in an entry of an embedding")
    if split is not None:
        print(f"\n{options.benchmark} {options.split}, text to image\n")
        print(figures_table({f"{label}, {row['megabytes']:.1f} MB": row for label, row in rows.items()}))
        if "ONNX int8" in rows:
            change = rows["ONNX int8"]["rank1"] - rows["PyTorch fp32"]["rank1"]
            print(f"\nint8 changes Rank-1 by {change:+.2f} points. Also in {options.out / 'export.json'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
