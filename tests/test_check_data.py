"""The check of a whole benchmark: what it finds, what counts as broken, and the script around it."""

import csv
import json
import runpy
import sys
from pathlib import Path

import datasets
import pytest
from PIL import Image

from modeling_amns.data.check import MAX_TOKENS, check_benchmark, check_pairs
from modeling_amns.data.pair_files import Columns

SCRIPT = Path(__file__).parent.parent / "scripts" / "check_data.py"


@pytest.fixture
def benchmark(tmp_path):
    """A sound benchmark of four images that a test may spoil: its folder and its records."""
    folder = tmp_path / "synthetic-pedes"
    (folder / "imgs" / "a").mkdir(parents=True)
    records = []
    for number in range(4):
        Image.new("RGB", (8 + number, 16)).save(folder / "imgs" / "a" / f"{number}.png")
        split = "train" if number < 2 else "test"
        captions = [f"person {number}", f"{number} again"]
        records.append({"id": number, "file_path": f"a/{number}.png", "captions": captions, "split": split})
    write(folder, records)
    (folder / "synthetic.json").write_text("{}")
    return folder, records


def write(folder, records):
    (folder / "reid_raw.json").write_text(json.dumps(records))


def check(folder, **options):
    return check_benchmark("synthetic-pedes", folder, progress=False, **options)


def test_a_sound_benchmark_is_counted_and_not_broken(benchmark):
    report = check(benchmark[0])
    assert not report.broken and not report.remarks
    assert report.counts == {"train": (2, 2, 4), "test": (2, 2, 4)}
    assert report.image_sizes == ((8, 16), (11, 16))
    assert "| train | 2 | 2 | 4 |" in report.as_text() and "Nothing is broken." in report.as_text()


def test_everything_that_is_wrong_is_found_at_once(benchmark):
    folder, records = benchmark
    records[0]["captions"].append("")
    records += [
        {"id": 5, "file_path": "b/9.png", "captions": ["gone"], "split": "val"},
        {"id": 3, "file_path": "a/0.png", "captions": ["x"], "split": "train"},
        {"id": "6", "file_path": "a/0.png", "captions": ["x"], "split": "train"},
        "no record",
    ]
    write(folder, records)
    (folder / "imgs" / "a" / "1.png").write_bytes(b"no image")
    report = check(folder)
    assert report.broken
    assert [line.split("(counted from 0): ")[1][:22] for line in report.invalid] == [
        "captions[2] is empty, ",
        "id is the string '6', ",
        "expected an object wit",
    ]
    assert report.num_missing == 1 and "b: 1 of 1 (no such sub-folder)" in report.missing
    assert len(report.unreadable) == 1 and "Cannot read image a/1.png" in report.unreadable[0]
    assert report.shared_persons == 1
    assert all(line in report.as_text() for line in (*report.invalid, *report.unreadable))


@pytest.mark.parametrize("spoil", ["invalid", "missing", "unreadable", "shared", "link"])
def test_each_fault_alone_is_enough_to_be_broken(benchmark, tmp_path, spoil):
    folder, records = benchmark
    image = folder / "imgs" / "a" / "1.png"
    if spoil == "invalid":
        del records[1]["id"]
    elif spoil == "missing":
        image.unlink()
    elif spoil == "unreadable":
        image.write_bytes(image.read_bytes()[:40])
    elif spoil == "shared":
        records[3]["id"] = 0
    else:
        image.rename(tmp_path / "outside.png")
        image.symlink_to(tmp_path / "outside.png")
    write(folder, records)
    assert check(folder).broken


def test_captions_that_two_persons_share_are_counted_but_break_nothing(benchmark):
    folder, records = benchmark
    records[0]["captions"] = ["the same", "twice", "twice"]
    records[1]["captions"] = ["the same "]
    records[2]["captions"] = ["the same"]  # in another split
    write(folder, records)
    report = check(folder)
    assert report.repeated_captions == 2 and not report.broken


def test_long_captions_are_counted_by_the_tokenizer_that_is_given(benchmark):
    folder, records = benchmark
    records[0]["captions"] = ["w " * MAX_TOKENS, "w " * (MAX_TOKENS + 1)]
    write(folder, records)
    assert check(folder).long_captions is None
    assert "77 tokens: at least 2, by their words; give a processor" in check(folder).as_text()
    count = lambda captions: [len(caption.split()) for caption in captions]  # noqa: E731
    report = check(folder, count_tokens=count)
    assert report.long_captions == 1 and not report.broken
    report = check(folder, count_tokens=count, max_tokens=MAX_TOKENS - 1)
    assert report.long_captions == 2 and f"longer than {MAX_TOKENS - 1} tokens: 2" in report.as_text()


PERSONS = ["ann", "ann", "bob", "cy"]


@pytest.fixture
def own(tmp_path):
    """Own pairs of four images as rows (image, caption, who, split), which a test may spoil."""
    for number in range(4):
        Image.new("RGB", (8 + number, 16), (9, number, 0)).save(tmp_path / f"{number}.png")
    return [[f"{n}.png", f"person {n}", PERSONS[n], "train" if n < 3 else "test"] for n in range(4)]


def write_pairs(folder, rows, kind="csv"):
    names = ["image", "caption", "who", "split"]
    if kind == "csv":
        with open(folder / "pairs.csv", "w", newline="") as file:
            csv.writer(file).writerows([names, *rows])
        return folder / "pairs.csv"
    table = [dict(zip(names, row)) for row in rows]
    for row in table:
        row["image"] = {"bytes": (folder / row["image"]).read_bytes(), "path": row["image"]}
    data = datasets.Dataset.from_list(table).cast_column("image", datasets.Image())
    if kind == "images":
        return data
    parts = {part: data.filter(part.__eq__, input_columns=["split"]) for part in ("train", "test")}
    return datasets.DatasetDict({part: found.remove_columns("split") for part, found in parts.items()})


def check_own(source, **options):
    return check_pairs(source, columns=Columns(person_id="who"), progress=False, num_workers=2, **options)


@pytest.mark.parametrize("kind", ["csv", "images", "splits"])
def test_sound_pairs_are_counted_and_not_broken(tmp_path, own, kind):
    own.append(["0.png", "again", "ann", "train"])
    report = check_own(write_pairs(tmp_path, own, kind))
    assert not report.broken and not report.remarks
    assert report.counts == {"train": (2, 3, 4), "test": (1, 1, 1)}
    assert report.image_sizes == ((8, 16), (11, 16))


@pytest.mark.parametrize("kind", ["csv", "images", "splits"])
def test_all_that_is_wrong_with_own_pairs_is_found_at_once(tmp_path, own, kind):
    own += [["1.png", "", "ann", "train"], ["2.png", "x", "nan", "train"], ["3.png", "x", "dora", "test"]]
    own[0][2] = "cy"
    (tmp_path / "2.png").write_bytes(b"no image")
    report = check_own(write_pairs(tmp_path, own, kind))
    assert report.broken
    said = sorted(line.split("(counted from 0): ")[1] for line in report.invalid)
    assert [line[:13] for line in said] == ["caption is em", "image 3.png b", "who is the st"]
    assert report.shared_persons == 1
    assert len(report.unreadable) == 1 and "Cannot read image" in report.unreadable[0]


def test_pairs_without_person_ids_are_checked_and_it_is_said(tmp_path, own, monkeypatch, capsys):
    file = write_pairs(tmp_path, own)
    code, printed, _ = run_script(monkeypatch, capsys, "--pairs", file, "--person_id_column", "none")
    assert code == 0 and "| train | 3 | 3 | 3 |" in printed
    assert "Without person ids each image counts as a person of its own." in printed
    write_pairs(tmp_path, [*own, ["0.png", "again", "", "test"]])
    code, printed, _ = run_script(monkeypatch, capsys, "--pairs", file, "--person_id_column", "none")
    assert code == 1 and "persons in more than one split: 1" in printed


def test_several_caption_columns_are_checked_as_they_are_loaded(tmp_path, monkeypatch, capsys):
    Image.new("RGB", (8, 16)).save(tmp_path / "0.png")
    (tmp_path / "two.csv").write_text("image,one,two,person_id\n0.png,a hat,a red hat,7\n0.png,,a coat,7\n")
    options = "--pairs", tmp_path / "two.csv", "--caption_column", "one", "two", "--json"
    code, printed, _ = run_script(monkeypatch, capsys, *options)
    assert code == 0 and json.loads(printed)["counts"]["all"] == {"persons": 1, "images": 1, "captions": 3}


def test_pairs_whose_images_are_missing_or_that_have_no_split_are_broken_or_counted_whole(tmp_path, own):
    (tmp_path / "1.png").unlink()
    report = check_own(write_pairs(tmp_path, own))
    assert report.broken and report.num_missing == 1 and "First: 1.png" in report.missing
    bare = datasets.Dataset.from_list([{"image": "0.png", "caption": "x", "who": "ann"}])
    assert check_own(bare, image_root=tmp_path).counts == {"all": (1, 1, 1)}
    with pytest.raises(FileNotFoundError, match="There is no image folder .*nowhere"):
        check_own(bare, image_root=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no usable row: .*caption is empty"):
        check_own(write_pairs(tmp_path, [["0.png", "", "ann", "train"]]))


def test_the_script_checks_own_pairs_by_the_token_limit_of_a_checkpoint(tmp_path, own, processor, monkeypatch, capsys):
    own[0][1] = "red " * 20
    file = write_pairs(tmp_path, own)
    processor.save_pretrained(tmp_path / "checkpoint")
    settings = json.loads((tmp_path / "checkpoint" / "tokenizer_config.json").read_text())
    (tmp_path / "checkpoint" / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 12}))
    options = "--pairs", file, "--person-id-column", "who", "--processor", tmp_path / "checkpoint", "--json"
    code, printed, _ = run_script(monkeypatch, capsys, *options)
    report = json.loads(printed)
    assert code == 0 and (report["long_captions"], report["max_tokens"]) == (1, 12)
    assert report["counts"]["test"] == {"persons": 1, "images": 1, "captions": 1}
    write_pairs(tmp_path, [*own, ["0.png", "x", "dora", "train"]])
    code, printed, _ = run_script(monkeypatch, capsys, "--pairs", file, "--person_id_column", "who")
    assert code == 1 and "image 0.png belongs to person dora" in printed
    for wrong in (["--on_missing", "drop"], ["--split_file", "x.json"]):
        code, _, error = run_script(monkeypatch, capsys, "--pairs", file, *wrong)
        assert code == 1 and f"{wrong[0]} has no effect on the check of own pairs" in error
    for wrong in (["--image_root", tmp_path], ["--caption_column", "text"], ["--person_id_column", "none"]):
        code, _, error = run_script(monkeypatch, capsys, *wrong)
        assert code == 1 and f"{wrong[0][2:]} " in error and "is of own pairs (--pairs)" in error


def run_script(monkeypatch, capsys, *options):
    """Exit code, output and error output of the script in this process."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, options)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return ended.value.code, *capsys.readouterr()


def test_the_script_prints_the_report_and_fails_when_something_is_broken(
    benchmark, tmp_path, processor, monkeypatch, capsys
):
    folder, records = benchmark
    records[0]["captions"] = ["red " * 200]
    write(folder, records)
    processor.save_pretrained(tmp_path / "checkpoint")
    options = "--data-root", tmp_path, "--processor", tmp_path / "checkpoint", "--json", "true"
    code, printed, _ = run_script(monkeypatch, capsys, *options)
    report = json.loads(printed)
    assert code == 0 and report["broken"] is False
    assert report["long_captions"] == 1 and report["counts"]["train"] == {"persons": 2, "images": 2, "captions": 3}
    (folder / "imgs" / "a" / "0.png").unlink()
    code, printed, _ = run_script(monkeypatch, capsys, "--data_root", tmp_path)
    assert code == 1 and "missing images: 1 (a: 1 of 4" in printed
    code, printed, error = run_script(monkeypatch, capsys, "--data_root", tmp_path / "nowhere")
    assert (
        code == 1 and not printed and "check_data.py: synthetic-pedes: " in error and "nowhere is not there" in error
    )
