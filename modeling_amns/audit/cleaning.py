"""The data set without its doubtful pairs, as a table of own pairs; a person's decisions go before the model's."""

import csv
import itertools
import os
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from ..data.annotations import find_annotation, read_annotation
from ..data.benchmarks import image_folder, known_benchmark
from ..data.files import ImageFolder
from ..data.hub_benchmarks import is_on_hub, open_hub, read_split
from ..data.pair_files import read_rows
from ..data.pair_records import read_pairs
from ..data.pair_sources import open_splits
from ..data.records import PersonId, Record, describe
from ..data.sources import NO_COLUMN, SourceArguments
from ..disk import whole_folder
from .repairing import Repair
from .suspects import Suspect

DECISIONS = ("right", "wrong", "unsure")
TABLE = "metadata"
REMOVED, REPAIRED = "removed.csv", "repaired.csv"


@dataclass(frozen=True)
class SourceRecords:
    """All splits of a source, as they are written and not yet as a data set.

    Args:
        records: in their order, `split` filled in.
        images: the folder of their files, or a data set whose column `image` holds them by the record's number.
        persons: whether it has person ids; else each image is a person of its own.
        drops_missing: go on without pairs whose images are not there.
    """

    records: list[Record]
    images: ImageFolder | datasets.Dataset
    persons: bool = True
    drops_missing: bool = False


def read_records(source: SourceArguments) -> list[SourceRecords]:
    """The records behind what `source.load` returns, of all splits.

    Returns:
        one for a benchmark in a folder or a table, one for each split of a data set in splits.
    """
    if not source.pairs:
        benchmark = known_benchmark(source.benchmark)
        if is_on_hub(source.data_root):
            title, parts = open_hub(benchmark, source.data_root)
            read = [read_split(title, split, data) for split, data in parts.items()]
            return [SourceRecords(split.records, split.images) for split in read]
        annotation = read_annotation(benchmark, find_annotation(benchmark, source.data_root))
        images = image_folder(benchmark, annotation.file)
        return [SourceRecords(annotation.records, images, drops_missing=source.on_missing == "drop")]
    found = []
    for split, opened in open_splits(source.pairs, source.image_root):
        # A bad row was an error when the set was loaded.
        pairs, _ = read_pairs(opened, source.columns, None, [])
        records = [record._replace(split=split or record.split) for record in pairs.records]
        found.append(SourceRecords(records, pairs.images, source.names_persons, source.on_missing == "drop"))
    return found


def read_decisions(file: str | Path, num_pairs: int) -> dict[int, str]:
    """What a person decided: a table with the columns `row` and `decision`.

    Args:
        file: CSV or TSV; other columns are left aside, a row without a decision as well.
        num_pairs: of the training set.
    Returns:
        right, wrong or unsure by row.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, a row is not in the set, a word is none of the three, or two decisions on one
            row differ.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file} of decisions.")
    found: dict[int, str] = {}
    for line, fields in enumerate(read_rows(file), start=2):
        where = f"{file}, line {line}"
        if lacking := [name for name in ("row", "decision") if name not in fields]:
            raise ValueError(f"{file} has no column {' and '.join(lacking)}; it has {', '.join(fields)}.")
        row, decision = str(fields["row"]).strip(), str(fields["decision"] or "").strip().lower()
        if not decision:
            continue
        if decision not in DECISIONS:
            raise ValueError(
                f"{where}: decision is {describe(fields['decision'])}, expected one of {', '.join(DECISIONS)}."
            )
        if not (row.isascii() and row.isdigit() and int(row) < num_pairs):
            raise ValueError(
                f"{where}: row is {describe(row)}, expected 0 to {num_pairs - 1:,}; are these decisions on this set?"
            )
        if found.setdefault(int(row), decision) != decision:
            raise ValueError(f"{where}: row {row} was {found[int(row)]} before and is {decision} here; keep one line.")
    return found


def doubtful_rows(suspects: Iterable[Suspect], threshold: float, decisions: Mapping[int, str]) -> dict[int, str]:
    """Rows to leave out, and who says so.

    Args:
        suspects: of the set.
        threshold: probability from which on a pair is doubtful.
        decisions: by row; right and wrong go before the model's word, unsure leaves it to the model.
    Returns:
        `model` or `decision` by row, in the order of the rows.

    Example:
        >>> pairs = [Suspect(row, "a.png", "a hat", 7, probability) for row, probability in enumerate((0.9, 0.1, 0.8))]
        >>> doubtful_rows(pairs, 0.5, {0: "right", 1: "wrong", 2: "unsure"})
        {1: 'decision', 2: 'model'}
    """
    found = {}
    for suspect in suspects:
        decision = decisions.get(suspect.row, "unsure")
        if decision == "wrong" or (decision == "unsure" and suspect.probability >= threshold):
            found[suspect.row] = "decision" if decision == "wrong" else "model"
    return dict(sorted(found.items()))


def check_folder(folder: str | Path, overwrite: bool) -> None:
    """A ValueError for a place that holds something, before the work starts.

    Args:
        folder: to write to.
        overwrite: replace what an audit left in it; what others left stays in any case.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise ValueError(
            f"{folder} holds files; choose another folder, or replace what an audit left in it with --overwrite."
        )
    if not (folder / REMOVED).is_file():
        raise ValueError(
            f"{folder} holds files and no {REMOVED}, so no audit has written them; choose another folder."
        )


def write_clean(
    folder: str | Path,
    source: Sequence[SourceRecords],
    train: datasets.Dataset,
    suspects: Sequence[Suspect],
    doubtful: Mapping[int, str],
    repairs: Mapping[int, Repair] | None = None,
) -> list[str]:
    """Writes all splits as own pairs, without the doubtful ones of train; the others in their order, as they are.

    Images that are files stay where they are: `metadata.csv` names them relative to their folder. Images inside a data
    set go along, in `metadata.parquet`. `removed.csv` lists what was left out, and why; `repaired.csv` the pairs that
    have another caption now. Without person ids none are written: each image stays a person of its own.

    Args:
        folder: for both files.
        source: all records, see `read_records`.
        train: the set that was audited, with its captions (they may have been moved).
        suspects: of its pairs.
        doubtful: rows to leave out, see `doubtful_rows`.
        repairs: of them by row, see `find_repairs`: these stay, with another caption.
    Returns:
        the options with which scripts read it.
    Raises:
        ValueError: nothing would be left, or the records are not those of the set.
    """
    repairs = repairs or {}
    removed = {row: why for row, why in doubtful.items() if row not in repairs}
    if len(removed) == len(train):
        raise ValueError(f"All {len(train):,} pairs are doubtful; nothing would be left. Raise --threshold.")
    captions = train["caption"][:]
    said_of = {row: captions[repair.caption_row] for row, repair in repairs.items()}
    rows = list(_rows(source, train, removed, said_of))
    first = source[0].images
    name = f"{TABLE}.csv" if isinstance(first, ImageFolder) else f"{TABLE}.parquet"
    absent = () if source[0].persons else ("person_id",)
    with whole_folder(folder, name, (f"{TABLE}.*", REPAIRED)) as part:
        if isinstance(first, ImageFolder):
            _write_csv(part / name, ("image", "caption", "person_id", "split"), [row[2:] for row in rows], absent)
        else:
            _with_images(source, rows).remove_columns([*absent]).to_parquet(str(part / name))
        pairs = {suspect.row: suspect for suspect in suspects if suspect.row in doubtful}
        lines = [(*_told(pairs[row]), pairs[row].probability, why) for row, why in removed.items()]
        _write_csv(part / REMOVED, (*_TOLD, "probability", "said_by"), lines, absent)
        if repairs:
            _write_csv(
                part / REPAIRED,
                (*_TOLD, "caption_now", "of_row", "probability", "share"),
                [
                    (*_told(pairs[row]), said_of[row], repair.caption_row, pairs[row].probability, repair.share)
                    for row, repair in repairs.items()
                ],
                absent,
            )
    options = ["--pairs", str(folder)] + ["--person_id_column", NO_COLUMN] * bool(absent)
    return [*options, "--image_root", first.root] if isinstance(first, ImageFolder) else options


_TOLD = ("row", "path", "caption", "person_id")


def _told(suspect: Suspect) -> tuple[int, str, str, PersonId]:
    return suspect.row, suspect.path, suspect.caption, suspect.person_id


def _rows(
    source: Sequence[SourceRecords], train: datasets.Dataset, removed: Collection[int], said_of: Mapping[int, str]
) -> Iterable[tuple[int, int, str, str, PersonId, str]]:
    """Part, number of the record, path, caption, person and split of each pair that stays."""
    captions, present, row = train["caption"][:], set(train["image_path"][:]), 0
    for place, part in enumerate(source):
        lost: Collection[str] = ()
        if part.drops_missing and isinstance(part.images, ImageFolder):
            lost = set(part.images.missing(dict.fromkeys(record.path for record in part.records)))
        for record in part.records:
            # Left out with --on_missing drop.
            if record.path in lost or (record.split in ("train", "") and record.image_path not in present):
                continue
            for caption in record.captions:
                if record.split in ("train", ""):
                    row += 1
                    if row - 1 in removed or row > len(captions):
                        continue
                    caption = said_of.get(row - 1, captions[row - 1])
                yield place, record.number, record.image_path, caption, record.person_id, record.split or "train"
    if row != len(captions):
        raise ValueError(f"The source has {row:,} training pairs now, the audit saw {len(captions):,}; run it again.")


def _write_csv(
    file: Path, names: Sequence[str], rows: Iterable[Sequence[object]], absent: Collection[str] = ()
) -> None:
    """Rows under their names, without the columns that are absent."""
    kept = [name not in absent for name in names]
    with open(file, "w", encoding="utf-8", newline="") as opened:
        csv.writer(opened, lineterminator="\n").writerows(itertools.compress(row, kept) for row in (names, *rows))


def _with_images(
    source: Sequence[SourceRecords], rows: Sequence[tuple[int, int, str, str, PersonId, str]]
) -> datasets.Dataset:
    """The rows with their images, which data sets hold."""
    parts = []
    for place, part in enumerate(source):
        own = [row for row in rows if row[0] == place]
        assert isinstance(part.images, datasets.Dataset)
        images = part.images.select([row[1] for row in own]).cast_column("image", datasets.Image(decode=False))
        texts: dict[str, Any] = {"caption": [row[3] for row in own], "person_id": [row[4] for row in own]}
        table = datasets.Dataset.from_dict({**texts, "split": [row[5] for row in own]})
        parts.append(datasets.concatenate_datasets([images, table], axis=1))
    whole = datasets.concatenate_datasets(parts).cast_column("image", datasets.Image(decode=False))
    return whole.map(_embedded, features=whole.features, desc="Taking images along")


def _embedded(row: dict[str, Any]) -> dict[str, Any]:
    """An image that is a file, with its bytes."""
    image = row["image"]
    data = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    return {"image": {"bytes": data, "path": os.path.basename(image["path"] or "") or None}}


def change(
    doubtful: dict[int, str],
    repairs: Mapping[int, Repair] | None,
    pairs: int,
    decisions: dict[int, str],
    folder: str,
    options: list[str],
) -> str:
    """What the clean set lacks, and how to read it; `repairs` is `None` where none were asked for."""
    repaired = len(repairs or ())
    by_hand = sum(why == "decision" for why in doubtful.values())
    kept = sum(decision == "right" for decision in decisions.values())
    said = (
        f"Found {len(doubtful):,} of {pairs:,} training pairs doubtful ({len(doubtful) - by_hand:,} by the model, "
        f"{by_hand:,} by decisions, which keep {kept:,}). Wrote {folder} without {len(doubtful) - repaired:,} of "
        f"them, which {Path(folder) / REMOVED} lists"
    )
    if repaired:
        said += f", and with {repaired:,} that have another's caption now, which {Path(folder) / REPAIRED} lists"
    elif repairs is not None:
        said += ". No other caption reaches the share of --repair"
    return f"{said}. Train with\n  {shlex.join(options)}"


__all__ = [
    "DECISIONS",
    "SourceRecords",
    "change",
    "check_folder",
    "doubtful_rows",
    "read_decisions",
    "read_records",
    "write_clean",
]
