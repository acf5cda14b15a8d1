"""Spoiled tables of own pairs, CSV, JSON lines and Parquet: rows or a documented error that names the file."""

import csv
import io
import json
import warnings

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from mutators import ODD_VALUES, pick, spoil_bytes, spoil_json
from PIL import Image

from modeling_amns import load_pairs

ROWS = [
    {"image": f"images/{n}.png", "caption": f'person "{n}", in red', "person_id": f"p{n // 2}", "split": split}
    for n, split in enumerate(["train", "train", "train", "train", "val", "val", "test", "test"])
]
KINDS = ["csv", "tsv", "jsonl", "json"]
# Parquet's writer takes one type a column, so these stand there one at a time.
COLUMNS = {
    "numbers": [*range(8)],
    "huge": [2**62 + n for n in range(8)],
    "floats": [n / 3 for n in range(8)],
    "gaps": [None, "a", *"bcdefg"],
    "nothing": [None] * 8,
    "bytes": [b"\x89PNG\r\n", b"\xff\xfe", *[b"x"] * 6],
    "lists": [[str(n)] for n in range(8)],
    "structs": [{"path": f"images/{n % 4}.png", "bytes": None} for n in range(8)],
    "dates": pa.array(range(8), pa.timestamp("ns")),
    "dictionary": pa.array([str(n // 2) for n in range(8)]).dictionary_encode(),
    "text with a zero": [f"p{n // 2}\0" for n in range(8)],
    "truth": [n % 2 == 0 for n in range(8)],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "images").mkdir()
    for number in range(8):
        Image.new("RGB", (4, 8)).save(folder / "images" / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        datasets.disable_progress_bars()
        yield folder
        datasets.enable_progress_bars()


def written(rows, kind):
    """The rows as a file's bytes; JSON values that the kind does not know become text."""
    if kind == "json":
        return json.dumps(rows).encode()
    if kind == "jsonl":
        return b"".join(json.dumps(row).encode() + b"\n" for row in (rows if isinstance(rows, list) else [rows]))
    opened = io.StringIO(newline="")
    writer = csv.writer(opened, dialect="excel" if kind == "csv" else "excel-tab")
    writer.writerow(ROWS[0])
    writer.writerows(row.values() if isinstance(row, dict) else [row] for row in rows)
    return opened.getvalue().encode("utf-8", "surrogatepass")


def outcome(file, split="train"):
    """`ok`, or the text of a documented error that names the file in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            rows = load_pairs(file, split=split)
            # Images are decoded when they are needed, by what is tried in test_fuzz_images.py.
            (rows if split == "train" else rows["queries"]).with_format("arrow")[:]
        except (ValueError, FileNotFoundError) as error:
            message = str(error)
            # A UnicodeError or JSONDecodeError would be a ValueError too, but not one of ours.
            assert type(error) in (ValueError, FileNotFoundError), repr(error)
            assert str(file) in message or "images" in message, message
            # Line ends in a column's name are a test of their own.
            assert len(message) < 1500, message
            return message
    return "ok"


def test_spoiled_tables_of_text_are_read_or_are_a_documented_error(folder, fuzz):
    outcomes = []

    def check(generator):
        kind = pick(generator, KINDS)
        rows = spoil_json(ROWS, generator) if generator.integers(2) else ROWS
        data = written(rows if isinstance(rows, list) else [rows], kind)
        if rows is ROWS or generator.integers(3) == 0:
            data = spoil_bytes(data, generator)
        file = folder / f"pairs.{kind}"
        file.write_bytes(data)
        outcomes.append(outcome(file, pick(generator, ("train", "test"))))

    fuzz(250, check)
    assert len(outcomes) < 250 or 0.05 < outcomes.count("ok") / len(outcomes) < 0.9


def test_spoiled_parquet_is_read_or_is_a_documented_error(folder, fuzz):
    opened = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), opened)
    sound = opened.getvalue().to_pybytes()

    def check(generator):
        file = folder / "spoiled.parquet"
        file.write_bytes(spoil_bytes(sound, generator))
        assert "\n" not in outcome(file)

    fuzz(60, check)


def test_line_ends_in_the_name_of_a_column_do_not_break_the_message(folder):
    file = folder / "names.csv"
    file.write_text('"a\nb",caption,person_id\nimages/0.png,x,1\n')
    assert "\n" not in outcome(file)


@pytest.mark.parametrize("column", ["image", "caption", "person_id", "split"])
@pytest.mark.parametrize("kind", COLUMNS)
def test_a_parquet_column_of_any_type_is_read_or_is_a_documented_error(folder, column, kind):
    table = {name: [row[name] for row in ROWS] for name in ROWS[0]} | {column: COLUMNS[kind]}
    file = folder / "typed.parquet"
    pyarrow.parquet.write_table(pa.table(table), file)
    outcome(file)


@pytest.mark.parametrize("column", ["image", "caption", "person_id", "split"])
@pytest.mark.parametrize("value", ODD_VALUES, ids=range(len(ODD_VALUES)))
def test_an_odd_value_in_any_column_is_read_or_is_a_documented_error(folder, column, value):
    rows = [dict(row) for row in ROWS]
    rows[1][column] = value
    file = folder / "odd.jsonl"
    file.write_bytes(written(rows, "jsonl"))
    outcome(file)
