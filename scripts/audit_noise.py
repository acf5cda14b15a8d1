"""Finds the training pairs whose caption and image likely do not belong together.

python scripts/audit_noise.py outputs/quickstart --benchmark synthetic-pedes --data_root data
python scripts/audit_noise.py outputs/mine --pairs pairs.csv --output pairs.parquet --sheet pairs.html
python scripts/audit_noise.py outputs/mine --pairs pairs.csv --write_clean clean --decisions decisions.csv
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState

from modeling_amns import AMNSModel, AMNSProcessor
from modeling_amns.audit.auditing import audit_pairs, image_names, run_losses
from modeling_amns.audit.cleaning import (
    change,
    check_folder,
    doubtful_rows,
    read_decisions,
    read_records,
    write_clean,
)
from modeling_amns.audit.cross_fitting import cross_fit
from modeling_amns.audit.duplicates import find_duplicates
from modeling_amns.audit.fold_arguments import FoldArguments
from modeling_amns.audit.sheet import audit_sheet
from modeling_amns.audit.table import check_output, write_table
from modeling_amns.captions_amns import check_long_captions
from modeling_amns.cli import parse, run_script
from modeling_amns.data.collator import undecoded
from modeling_amns.data.images import decode_image
from modeling_amns.disk import write_whole
from modeling_amns.extras import require
from modeling_amns.loading import load_checkpoint
from modeling_amns.pair_mixture import EXTRA
from modeling_amns.run_arguments import NoiseArguments


@dataclass
class AuditArguments:
    """What to look for, and where to write."""

    output: str = field(default="audit.csv", metadata={"help": "Table of all pairs by suspicion, .csv or .parquet."})
    overwrite: bool = field(default=False, metadata={"help": "Replace what is there."})
    sheet: str | None = field(
        default=None, metadata={"help": "HTML page on which a person decides on the most suspicious pairs."}
    )
    sheet_pairs: int = field(default=1000, metadata={"help": "How many pairs the page shows."})
    duplicates: str | None = field(
        default=None, metadata={"help": "JSON file for the images, captions and persons that occur twice."}
    )
    near_threshold: float = field(
        default=0.98, metadata={"help": "Cosine from which on images of two persons are nearly the same."}
    )
    write_clean: str | None = field(
        default=None, metadata={"help": "Folder for the set without doubtful pairs, which --pairs reads."}
    )
    threshold: float | None = field(
        default=None, metadata={"help": "Probability from which on --write_clean leaves a pair out, default 0.5."}
    )
    decisions: str | None = field(
        default=None,
        metadata={"help": "CSV of row and decision (right, wrong, unsure), which --write_clean puts first."},
    )
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

    def check(self) -> None:
        """All that can be said before the work starts."""
        require("sklearn", EXTRA, "The audit")
        check_output(self.output, self.overwrite)
        for path, kind in ((self.duplicates, ".json"), (self.sheet, ".html")):
            if path is not None:
                check_output(path, self.overwrite, (kind,))
        if self.long_captions is not None:
            check_long_captions(self.long_captions)
        if self.sheet_pairs < 1:
            raise ValueError(f"--sheet_pairs must be at least 1, found {self.sheet_pairs}.")
        if self.write_clean is not None:
            check_folder(self.write_clean, self.overwrite)
        elif self.decisions is not None or self.threshold is not None:
            raise ValueError("--decisions and --threshold are of --write_clean; pass it as well.")
        for name in ("threshold", "near_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"--{name} must lie in (0, 1], found {value}.")

    def load(self, name: str | Path) -> tuple[AMNSModel, AMNSProcessor]:
        """A checkpoint on its device."""
        model, processor = load_checkpoint(name, self.image_size)
        processor.long_captions = self.long_captions or processor.long_captions
        return model.to(self.device or PartialState().device), processor


def main() -> int:
    """Prints what was found and writes the tables."""
    kinds = (NoiseArguments, AuditArguments, FoldArguments)
    source, options, folds, name = parse(kinds, __doc__, {"model": "checkpoint: folder or Hub id"})
    options.check()
    runs = folds.check(source)
    train = source.load_train()
    decisions = read_decisions(options.decisions, len(train)) if options.decisions else {}
    model, processor = options.load(name)
    losses, how = run_losses(name, train), (options.batch_size, options.num_workers, True)
    models = folds.models(runs, train)
    cross = cross_fit(models, options.load, train, *how) if models else None
    audit = audit_pairs(model, processor, train, losses, *how, cross)
    if PartialState().is_main_process:
        records = read_records(source)
        twice = find_duplicates(records, train, audit, options.near_threshold)
        write_table(audit.suspects, options.output)
        print(f"{audit.as_text()}\n{twice.as_text()}\n\nWrote {options.output}")
        if options.sheet is not None:
            rows, images = {path: row for row, path in enumerate(image_names(train))}, undecoded(train)
            shown = audit.suspects[: options.sheet_pairs]
            title = f"{Path(name).name} on {source.name}"
            page = audit_sheet(shown, lambda path: decode_image(images[rows[path]]["image"]), title, audit.share)
            write_whole(options.sheet, page)
            print(f"Wrote {options.sheet}")
        if options.duplicates is not None:
            write_whole(options.duplicates, json.dumps(twice.as_dict(), indent=1, ensure_ascii=False) + "\n")
            print(f"Wrote {options.duplicates}")
        if options.write_clean is not None:
            threshold = 0.5 if options.threshold is None else options.threshold
            doubtful = doubtful_rows(audit.suspects, threshold, decisions)
            said = write_clean(options.write_clean, records, train, audit.suspects, doubtful)
            print(change(doubtful, len(train), decisions, options.write_clean, said))
        sys.stdout.flush()
    # Threads of a group that is left to the end of the interpreter can abort it.
    PartialState().destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(run_script("audit_noise.py", main))
