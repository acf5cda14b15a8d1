"""Spoiled annotation files: each gives a documented error or a warning, never another traceback."""

import json
import warnings

import datasets
import pytest
from mutators import ODD_VALUES, json_bytes
from PIL import Image

from modeling_amns.data.benchmarks import load_benchmark

ODD_FILES = (
    b"",
    b"null",
    b"3",
    b'"reid_raw"',
    b"{}",
    b"[]",
    b"[3]",
    b"[[]]",
    b"[{}]",
    b"[" * 100_000,
    b'[{"id":' + b"9" * 5000 + b"}]",
    b"\xff\xfe\x00",
    b"\x00" * 64,
    b"\xef\xbb\xbf[]",
    b"<html>Sign in</html>",
    b"version https://git-lfs.github.com/spec/v1\n",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A benchmark folder of four images; tests write its annotation."""
    folder = tmp_path_factory.mktemp("root") / "synthetic-pedes"
    (folder / "imgs" / "a").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (4, 8)).save(folder / "imgs" / "a" / f"{number}.png")
    (folder / "synthetic.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        datasets.disable_progress_bars()
        yield folder
        datasets.enable_progress_bars()


def sound_records():
    return [
        {"id": n // 2 + 1, "file_path": f"a/{n}.png", "captions": [f"person {n}", f"{n} again"], "split": "train"}
        for n in range(4)
    ]


def outcome(load):
    """`ok`, or the text of a documented error; anything else escapes and fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            load()
        except (ValueError, FileNotFoundError) as error:
            # A UnicodeError or JSONDecodeError would be a ValueError too, but not one of ours.
            assert type(error) in (ValueError, FileNotFoundError), repr(error)
            return str(error)
    return "ok"


def read_train(folder, data):
    (folder / "reid_raw.json").write_bytes(data)
    return outcome(lambda: load_benchmark("synthetic-pedes", folder, "train"))


def assert_helpful(message, file):
    assert message == "ok" or (str(file) in message and len(message) < 1500 and "\n" not in message), message


@pytest.mark.parametrize("field", ["id", "file_path", "captions", "split"])
@pytest.mark.parametrize("value", ODD_VALUES, ids=range(len(ODD_VALUES)))
def test_an_odd_value_in_any_field_names_file_record_and_field(folder, field, value):
    records = sound_records()
    records[2][field] = value
    message = read_train(folder, json.dumps(records).encode())
    if field == "split" and isinstance(value, str):
        assert message == "ok"  # neither train nor test is val, with a warning
    elif field == "file_path" and value in ("7", "  "):
        assert "1 of 4 images of train are not in" in message
    else:
        assert f"{folder / 'reid_raw.json'}, record 2 (counted from 0): {field}" in message
        assert len(message) < 700


@pytest.mark.parametrize("field", ["id", "file_path", "captions", "split"])
def test_a_lacking_field_is_named_with_those_that_are_there(folder, field):
    records = sound_records()
    del records[2][field]
    message = read_train(folder, json.dumps(records).encode())
    assert f"record 2 (counted from 0): lacks {field}; its fields are" in message


@pytest.mark.parametrize("data", ODD_FILES, ids=range(len(ODD_FILES)))
def test_a_file_that_is_no_annotation_is_named(folder, data):
    message = read_train(folder, data)
    assert message != "ok"
    assert_helpful(message, folder / "reid_raw.json")


def test_a_file_cut_anywhere_is_an_error(folder):
    data = json.dumps(sound_records()).encode()
    for length in range(0, len(data), 7):
        message = read_train(folder, data[:length])
        assert "is not valid JSON" in message and "If it was cut short, get it again" in message


def spoil(records, generator):
    """Up to three changes: a field lost, an odd value, an odd record, a record twice, a field of another record."""
    for _ in range(int(generator.integers(1, 4))):
        record = records[int(generator.integers(len(records)))]
        value = ODD_VALUES[int(generator.integers(len(ODD_VALUES)))]
        kind = int(generator.integers(5))
        if kind == 0:
            records[int(generator.integers(len(records)))] = value
        elif kind == 1:
            records.insert(int(generator.integers(len(records))), record)
        elif isinstance(record, dict) and record:
            field = list(record)[int(generator.integers(len(record)))]
            if kind == 2:
                del record[field]
            elif kind == 3:
                record[field] = value
            else:
                other = records[int(generator.integers(len(records)))]
                record[field] = other.get(field, value) if isinstance(other, dict) else value
    return records


def test_spoiled_annotations_give_documented_errors_only(folder, fuzz):
    sound, tried = [], []

    def check(generator):
        data = json_bytes(spoil(sound_records(), generator), generator)
        message = read_train(folder, data)
        tried.append(message)
        sound.extend(["ok"] * (message == "ok"))
        assert message == "ok" or "reid_raw.json" in message or "images of train are not in" in message
        assert len(message) < 1500 and "\n" not in message

    fuzz(400, check)
    # Else the mutations test nothing, or one thing only.
    assert len(tried) < 400 or 0.05 < len(sound) / len(tried) < 0.5


def test_a_folder_with_the_name_of_the_annotation_is_not_taken_for_it(folder):
    (folder / "reid_raw.json").unlink(missing_ok=True)
    (folder / "reid_raw.json").mkdir()
    message = outcome(lambda: load_benchmark("synthetic-pedes", folder, "train"))
    (folder / "reid_raw.json").rmdir()
    assert "no annotation file in" in message
