"""Exports a checkpoint to ONNX, checked against PyTorch, and measures what quantisation costs on a benchmark.

python scripts/export.py outputs/quickstart exported --int8 --benchmark synthetic-pedes --data_root data
python exported/amns_onnx.py FOLDER_OF_IMAGES "a woman in a red coat with a black backpack"
"""

import modeling_amns  # noqa: F401  before all that is slow: Ctrl-C ends it in one line from here on

# isort: split
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers.utils import logging

from modeling_amns.cli import parse, run_script
from modeling_amns.data.sources import SourceArguments
from modeling_amns.disk import whole_file, write_whole
from modeling_amns.export import compare, export_onnx, export_programs
from modeling_amns.loading import load_checkpoint
from modeling_amns.report import figures_table


@dataclass
class ExportArguments:
    """What to write, and whether to measure it."""

    image_size: list[int] | None = field(
        default=None, metadata={"help": "Height and width, default the checkpoint's; CLIP checkpoints need it."}
    )
    int8: bool = field(default=False, metadata={"help": "Also write encoders quantised to 8 bits."})
    torch_export: bool = field(default=False, metadata={"help": "Also write torch.export programs (*.pt2)."})
    split: str = field(default="test", metadata={"help": "Of the data: val or test."})
    batch_size: int = field(default=64, metadata={"help": "Images or captions at a time."})


@dataclass
class ComparedArguments(SourceArguments):
    """The data to compare on: a benchmark on disk, or own pairs."""

    benchmark: str | None = field(default=None, metadata=SourceArguments.__dataclass_fields__["benchmark"].metadata)


def main() -> int:
    """Writes the export, and what it loses on a benchmark."""
    logging.set_verbosity_warning()
    source, options, checkpoint, out = parse(
        (ComparedArguments, ExportArguments),
        __doc__,
        {"model": "checkpoint: folder or Hub id", "out": "folder to write to"},
    )
    folder = Path(out)
    if options.split not in ("val", "test"):
        raise ValueError(f"--split must be val or test, found {options.split!r}.")
    if Path(checkpoint).resolve() == folder.resolve():
        raise ValueError(f"{folder} is the checkpoint itself; its tokenizer would be overwritten.")
    split = source.load(options.split) if source.benchmark or source.pairs else None
    model, processor = load_checkpoint(checkpoint, options.image_size)
    deviations = export_onnx(model, processor, folder, options.int8)
    report: dict[str, object] = {"model": checkpoint, "largest_deviation": deviations}
    if options.torch_export:
        for name, program in export_programs(model).items():
            with whole_file(folder / f"{name}_encoder.pt2") as part:
                torch.export.save(program, part)
    rows = {}
    if split is not None:
        rows = compare(model, processor, folder, split, options.batch_size, progress=True)
        report |= {"benchmark": source.name, "split": options.split, "rows": rows}
    write_whole(folder / "export.json", json.dumps(report, indent=2) + "\n")
    shown = ", ".join(f"{name} {value:.1e}" for name, value in deviations.items())
    print(f"{folder}: ONNX and PyTorch differ by at most {shown} in an entry of an embedding")
    if rows:
        print(f"\n{source.name} {options.split}, text to image\n")
        print(figures_table({f"{label}, {row['megabytes']:.1f} MB": row for label, row in rows.items()}))
        if "ONNX int8" in rows:
            change = rows["ONNX int8"]["rank1"] - rows["PyTorch fp32"]["rank1"]
            print(f"\nint8 changes Rank-1 by {change:+.2f} points. Also in {folder / 'export.json'}.")
    return 0


if __name__ == "__main__":
    sys.exit(run_script("export.py", main, (RuntimeError,)))
