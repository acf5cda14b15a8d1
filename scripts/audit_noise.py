"""Finds the training pairs whose caption and image likely do not belong together.

python scripts/audit_noise.py outputs/quickstart --benchmark synthetic-pedes --data_root data
python scripts/audit_noise.py outputs/mine --pairs pairs.csv --output pairs.parquet --sheet pairs.html
python scripts/audit_noise.py outputs/mine --pairs pairs.csv --write_clean clean --decisions decisions.csv
"""

import json
import sys
from pathlib import Path

from accelerate import PartialState

from modeling_amns.audit.audit_arguments import AuditArguments
from modeling_amns.audit.auditing import audit_pairs, image_names, run_losses
from modeling_amns.audit.cleaning import (
    change,
    doubtful_rows,
    read_decisions,
    read_records,
    write_clean,
)
from modeling_amns.audit.cross_fitting import cross_fit
from modeling_amns.audit.duplicates import find_duplicates
from modeling_amns.audit.fold_arguments import FoldArguments
from modeling_amns.audit.repairing import find_repairs
from modeling_amns.audit.sheet import audit_sheet
from modeling_amns.audit.table import write_table
from modeling_amns.audit.teachers import teacher_of
from modeling_amns.cli import parse, run_script
from modeling_amns.data.collator import undecoded
from modeling_amns.data.images import decode_image
from modeling_amns.disk import write_whole
from modeling_amns.run_arguments import NoiseArguments


def main() -> int:
    """Prints what was found and writes the tables."""
    kinds = (NoiseArguments, AuditArguments, FoldArguments)
    source, options, folds, name = parse(kinds, __doc__, {"model": "checkpoint: folder or Hub id"})
    options.check(source)
    runs = folds.check(source)
    train = source.load_train()
    decisions = read_decisions(options.decisions, len(train)) if options.decisions else {}
    model, processor = options.load(name)
    teacher = teacher_of(model, name)
    losses, how = run_losses(name, train), (options.batch_size, options.num_workers, True)
    models = folds.models(runs, train)
    cross = cross_fit(models, options.load, train, *how) if models else None
    audit = audit_pairs(model, processor, train, losses, *how, cross, teacher)
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
            repairs = None if options.repair is None else find_repairs(audit, doubtful, options.repair)
            said = write_clean(options.write_clean, records, train, audit.suspects, doubtful, repairs)
            print(change(doubtful, repairs, len(train), decisions, options.write_clean, said))
        sys.stdout.flush()
    # Threads of a group that is left to the end of the interpreter can abort it.
    PartialState().destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(run_script("audit_noise.py", main))
