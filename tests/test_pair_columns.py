"""Own pairs with several columns of captions, and without person ids: on every road, there and back."""

import csv

import datasets
import pytest
from test_audit import audit, people  # noqa: F401
from test_pairs import people as photos  # noqa: F401
from test_pairs import private_cache, with_bytes, with_images, write_table  # noqa: F401
from test_scripts import run_here

from modeling_amns import load_pairs

TWO = ("image", "short", "long", "split")
ROWS = [
    ("photos/1.png", "a man", "a man, in red", "train"),
    ("photos/2.png", "a hat", None, "train"),
    ("photos/1.png", None, "he runs", "train"),
    ("photos/3.png", "a woman", "a woman in blue", "test"),
    ("photos/4.png", " ", "a bag", "test"),
]
OPTIONS = {"caption_column": ["short", "long"], "person_id_column": None}
CAPTIONS = ["a man", "a man, in red", "a hat", "he runs"]
ROADS = ["csv", "jsonl", "parquet", "images", "bytes"]


def source(photos, kind, rows=ROWS):  # noqa: F811
    if kind in ("csv", "jsonl", "parquet"):
        return write_table(photos, kind, rows, TWO)
    data = datasets.Dataset.from_list([dict(zip(TWO, row)) for row in rows])
    paths = [str(photos / path) for path in data["image"]]
    data = data.remove_columns("image").add_column("image", paths).cast_column("image", datasets.Image())
    return with_bytes(data) if kind == "bytes" else data


@pytest.mark.parametrize("kind", ROADS)
def test_each_column_gives_a_caption_and_each_image_is_a_person(photos, kind):  # noqa: F811
    train = load_pairs(source(photos, kind), "train", image_root=photos, **OPTIONS)
    assert train["caption"][:] == CAPTIONS
    assert train["image_id"][:] == [0, 0, 1, 0] and len(set(train["person_id"][:])) == 2
    persons, images = train["person_id"][:], train["image_id"][:]
    assert {(person, image) for person, image in zip(persons, images)} == {(persons[0], 0), (persons[2], 1)}
    assert [image.getpixel((0, 0))[0] for image in train["image"]] == [50, 50, 100, 50]
    test = load_pairs(source(photos, kind), "test", image_root=photos, **OPTIONS)
    assert test["queries"]["caption"][:] == ["a woman", "a woman in blue", "a bag"]
    assert len(test["gallery"]) == 2 == len(set(test["gallery"]["person_id"][:]))
    right = dict(zip(test["gallery"]["image_id"][:], test["gallery"]["person_id"][:]))
    # One right image a query.
    assert [right[image] for image in test["queries"]["image_id"][:]] == test["queries"]["person_id"][:]


@pytest.mark.parametrize("kind", ROADS)
def test_a_stream_has_the_same_pairs_and_its_persons_are_its_images(photos, kind):  # noqa: F811
    found = list(load_pairs(source(photos, kind), "train", photos, streaming=True, **OPTIONS))
    assert [row["caption"] for row in found] == CAPTIONS
    persons = [row["person_id"] for row in found]
    assert persons[0] == persons[1] == persons[3] != persons[2] and min(persons) >= 0
    again = list(load_pairs(source(photos, kind), "train", photos, streaming=True, **OPTIONS))
    assert [row["person_id"] for row in again] == persons


def test_an_image_without_a_caption_in_any_column_is_named(photos):  # noqa: F811
    file = write_table(photos, "csv", [*ROWS, ("photos/1.png", "", " ", "train")], TWO)
    for streaming in (False, True):
        with pytest.raises(ValueError, match="(record|row) 5 .*short"):
            list(load_pairs(file, "train", streaming=streaming, **OPTIONS))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_clean_set_invents_no_persons(people, tmp_path, monkeypatch, capsys, kind):  # noqa: F811
    rows = list(csv.DictReader((people / "pairs.csv").open()))
    names = ("image", "caption", "split")
    table = [tuple(row[name] for name in names) for row in rows]
    given = write_table(people, "csv", table, names, name="nobody")
    if kind == "parquet":
        data = datasets.Dataset.from_list([dict(zip(names, row)) for row in table])
        images = [{"path": path, "bytes": (people / path).read_bytes()} for path in data["image"]]
        data = data.remove_columns("image").add_column("image", images).cast_column("image", datasets.Image())
        data.to_parquet(str(people / "nobody.parquet"))
        given = people / "nobody.parquet"
    (tmp_path / "d.csv").write_text("row,decision\n3,wrong\n")
    options = [people / "model", "--pairs", given, "--person_id_column", "none", "--device", "cpu"]
    options += ["--write_clean", tmp_path / "clean", "--decisions", tmp_path / "d.csv", "--threshold", "1"]
    code, said = run_here(monkeypatch, capsys, "audit_noise.py", *options, "--output", tmp_path / "a.csv")
    assert code == 0, said
    root = {"image_root": people} if kind == "csv" else {}
    before, after = (
        load_pairs(place, "train", person_id_column=None, **root) for place in (given, tmp_path / "clean")
    )
    removed = {int(line["row"]) for line in csv.DictReader((tmp_path / "clean" / "removed.csv").open())}
    assert 3 in removed
    kept = [row for row in range(len(before)) if row not in removed]
    assert after["caption"][:] == [before["caption"][row] for row in kept]
    pairs = [(before["person_id"][row], after["person_id"][place]) for place, row in enumerate(kept)]
    assert len(set(pairs)) == len({one for one, _ in pairs}) == len({other for _, other in pairs})
    written = load_columns(tmp_path / "clean")
    assert "person_id" not in written


def load_columns(folder):
    file = next(folder.glob("metadata.*"))
    if file.suffix == ".csv":
        return next(csv.reader(file.open()))
    return datasets.Dataset.from_parquet(str(file)).column_names
