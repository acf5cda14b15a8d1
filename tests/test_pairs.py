"""Own data: tables with image paths, saved data sets, streams; the same columns as the benchmarks."""

import contextlib
import csv
import json
import os
import warnings
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
from PIL import Image

from modeling_amns import inject_noise, load_benchmark, load_pairs
from modeling_amns.data.sources import SourceArguments
from modeling_amns.data.tables import contiguous, dropped_pairs, has_persons

ROWS = [
    ("photos/1.png", "a man, in red", "ben", "train"),
    ("photos/1.png", 'says "hello"', "ben", "train"),
    ("photos/2.png", "None", "ada", "train"),
    ("photos/3.png", "a woman\nin blue", "cy", "test"),
    ("photos/3.png", "NA", "cy", "test"),
    ("photos/4.png", "a hat", "ada 2", "test"),
]
NAMES = ("image", "caption", "person_id", "split")
TRAIN = ["image", "caption", "person_id", "image_id", "image_path", "person_name"]


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def people(tmp_path):
    """A folder of four images, each of a colour of its own."""
    (tmp_path / "photos").mkdir()
    for number in range(1, 5):
        Image.new("RGB", (4, 8), (50 * number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


def write_table(folder, kind, rows=ROWS, names=NAMES, name="pairs"):
    file = folder / f"{name}.{kind}"
    table = [dict(zip(names, row)) for row in rows]
    if kind in ("csv", "tsv"):
        with open(file, "w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, names, delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(table)
    elif kind == "parquet":
        datasets.Dataset.from_list(table).to_parquet(str(file))
    elif kind == "json":
        file.write_text(json.dumps(table))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in table))
    return file


def with_images(folder, rows=ROWS):
    """The same rows as a data set that holds its images."""
    table = [dict(zip(NAMES, (str(folder / path), *rest))) for path, *rest in rows]
    return datasets.Dataset.from_list(table).cast_column("image", datasets.Image())


def with_bytes(data):
    """The data set as the Hub stores it: bytes of the images and bare file names."""
    rows = []
    for row in data.cast_column("image", datasets.Image(decode=False)):
        path = Path(row["image"]["path"])
        rows.append({**row, "image": {"bytes": path.read_bytes(), "path": path.name}})
    return datasets.Dataset.from_list(rows, features=data.features)


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_table_gives_pairs_to_train_on_and_a_gallery_with_queries_to_test_on(people, kind):
    file = write_table(people, kind)
    train = load_pairs(file, split="train")
    assert train.column_names == TRAIN
    assert train["caption"][:] == ["a man, in red", 'says "hello"', "None"]
    assert train["person_id"][:] == [1, 1, 0] and train["person_name"][:] == ["ben", "ben", "ada"]
    assert train["image_id"][:] == [0, 0, 1] and train["image_path"][2] == "photos/2.png"
    assert train[2]["image"].getpixel((0, 0)) == (100, 0, 0)
    test = load_pairs(file, split="test")
    assert test["gallery"]["image_path"][:] == ["photos/3.png", "photos/4.png"]
    assert test["gallery"]["person_id"][:] == [1, 0] and test["queries"]["person_id"][:] == [1, 1, 0]
    assert test["queries"]["caption"][:] == ["a woman\nin blue", "NA", "a hat"]
    assert test["queries"]["image_id"][:] == [0, 0, 1]
    with pytest.raises(ValueError, match="has no rows of split val"):
        load_pairs(file, split="val")


@pytest.mark.parametrize("source", ["object", "saved", "parquet"])
def test_a_data_set_that_holds_its_images_gives_the_same_rows_as_a_table(people, source):
    data = with_images(people)
    if source == "saved":
        data.save_to_disk(people / "saved")
    elif source == "parquet":
        with_bytes(data).to_parquet(str(people / "embedded.parquet"))
    source = {"object": data, "saved": people / "saved", "parquet": people / "embedded.parquet"}[source]
    table = write_table(people, "csv")
    for split in ("train", "test"):
        want, found = load_pairs(table, split=split), load_pairs(source, split=split)
        parts = [(want, found)] if split == "train" else [(want[part], found[part]) for part in ("gallery", "queries")]
        for one, other in parts:
            assert one.column_names == other.column_names and one.features == other.features
            for name in set(one.column_names) - {"image", "image_path"}:
                assert one[name][:] == other[name][:], name
            if "image" in one.column_names:
                assert [i.tobytes() for i in one["image"]] == [i.tobytes() for i in other["image"]]


def test_images_of_the_same_name_inside_a_parquet_file_are_told_apart(people):
    (people / "more").mkdir()
    Image.new("RGB", (4, 8), (0, 9, 0)).save(people / "more" / "1.png")
    data = with_images(people, [ROWS[0], ("more/1.png", *ROWS[0][1:]), ROWS[1]])
    with_bytes(data).to_parquet(str(people / "embedded.parquet"))
    assert load_pairs(people / "embedded.parquet", split="train")["image_id"][:] == [0, 1, 0]


def test_a_table_saved_by_a_spreadsheet_is_read(people):
    file = write_table(people, "csv")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # a byte order mark before the first column's name
    assert len(load_pairs(file, split="train")) == 3


def test_splits_of_a_data_set_dictionary_are_its_own(people):
    rows = with_images(people).remove_columns("split")
    both = datasets.DatasetDict(train=rows.select(range(3)), validation=rows.select(range(3, 6)))
    both.save_to_disk(people / "saved")
    assert len(load_pairs(people / "saved", split="train")) == 3
    assert len(load_pairs(people / "saved", split="val")["gallery"]) == 2
    with pytest.raises(ValueError, match="has the splits train, val; pass split= one of them, not test"):
        load_pairs(people / "saved", split="test")


def test_each_split_may_have_a_file_of_its_own(people):
    sources = {
        "train": write_table(people, "csv", [row[:3] for row in ROWS[:3]], NAMES[:3], "first"),
        "test": write_table(people, "jsonl", [row[:3] for row in ROWS[3:]], NAMES[:3], "second"),
    }
    assert len(load_pairs(sources, split="train")) == 3
    assert len(load_pairs(sources, split="test")["queries"]) == 3


def test_a_table_without_splits_is_trained_on_whole_only_when_that_is_said(people):
    file = write_table(people, "csv", [row[:3] for row in ROWS], NAMES[:3])
    assert len(load_pairs(file)) == 6
    with pytest.raises(ValueError, match="has no column split, so nothing says which rows are of train"):
        load_pairs(file, split="train")
    with pytest.raises(ValueError, match="has a column split: pass split=, so that test rows are not trained on"):
        load_pairs(write_table(people, "csv", name="other"))


def test_columns_may_have_other_names(people):
    file = write_table(people, "csv", names=("file_name", "text", "who", "part"))
    names = {"image_column": "file_name", "caption_column": "text", "person_id_column": "who", "split_column": "part"}
    assert load_pairs(file, split="train", **names).column_names == TRAIN
    with pytest.raises(
        ValueError, match="no column image, caption, person_id; its columns are file_name, text, who, part"
    ):
        load_pairs(file, split="train")


def test_a_folder_with_a_metadata_file_is_that_file(people):
    write_table(people, "csv", name="metadata")
    assert len(load_pairs(people, split="train")) == 3


@pytest.mark.parametrize("kind", ["jsonl", "images"])
def test_a_list_of_captions_is_a_pair_each(people, kind):
    rows = [("photos/1.png", ["one", "two"], 5, "train"), ("photos/2.png", ["three"], 5, "train")]
    source = write_table(people, "jsonl", rows) if kind == "jsonl" else with_images(people, rows)
    train = load_pairs(source, split="train")
    assert train["caption"][:] == ["one", "two", "three"] and train["image_id"][:] == [0, 0, 1]
    assert [image.getpixel((0, 0))[0] for image in train["image"]] == [50, 50, 100]


TWO = ("image", "caption1", "caption2", "person_id", "split")
TWO_ROWS = [
    ("photos/1.png", "one", "two", "5", "train"),
    ("photos/2.png", "three", "", "6", "train"),
    ("photos/3.png", " ", "four", "7", "test"),
]


def with_two_columns(folder, kind, rows=TWO_ROWS):
    """Two columns of captions, as a table or as a data set that holds its images."""
    if kind == "csv":
        return write_table(folder, "csv", rows, TWO)
    table = [dict(zip(TWO, (str(folder / path), one or None, two or None, *rest))) for path, one, two, *rest in rows]
    data = datasets.Dataset.from_list(table).cast_column("image", datasets.Image())
    return data if kind == "images" else with_bytes(data).to_iterable_dataset()


@pytest.mark.parametrize("kind", ["csv", "images"])
def test_several_caption_columns_are_a_pair_each_and_empty_cells_none(people, kind):
    source = with_two_columns(people, kind)
    train = load_pairs(source, split="train", caption_column=["caption1", "caption2"])
    assert train["caption"][:] == ["one", "two", "three"] and train["image_id"][:] == [0, 0, 1]
    assert train["person_name"][:] == ["5", "5", "6"]
    test = load_pairs(source, split="test", caption_column=("caption1", "caption2"))
    assert test["queries"]["caption"][:] == ["four"] and len(test["gallery"]) == 1
    swapped = load_pairs(source, split="train", caption_column=["caption2", "caption1"])
    assert swapped["caption"][:] == ["two", "one", "three"]


@pytest.mark.parametrize("kind", ["csv", "stream"])
def test_a_stream_reads_several_caption_columns_as_well(people, kind):
    source = with_two_columns(people, kind)
    rows = list(load_pairs(source, "train", streaming=True, caption_column=["caption1", "caption2"]))
    assert [(row["caption"], row["person_id"]) for row in rows] == [("one", 5), ("two", 5), ("three", 6)]


@pytest.mark.parametrize("kind", ["csv", "images"])
def test_several_caption_columns_without_any_caption_are_the_error_of_one(people, kind):
    source = with_two_columns(people, kind, [*TWO_ROWS, ("photos/4.png", "", " ", "8", "train")])
    with pytest.raises(ValueError, match=r"record 3 \(counted from 0\): caption1 is (empty|nothing \(null\))"):
        load_pairs(source, split="train", caption_column=["caption1", "caption2"])
    with pytest.raises(ValueError, match="has no column caption3; its columns are image, caption1, caption2"):
        load_pairs(source, split="train", caption_column=["caption1", "caption3"])


@pytest.mark.parametrize("names", [[], ["caption1", "caption1"], ""])
def test_caption_columns_are_each_named_once(people, names):
    with pytest.raises(ValueError, match="caption_column must name one or more columns, each once; found"):
        load_pairs(write_table(people, "csv", TWO_ROWS, TWO), split="train", caption_column=names)
    with pytest.raises(ValueError, match="caption_column must name one or more columns, each once; found"):
        SourceArguments(pairs="pairs.csv", caption_column=names)


# An image in two rows, and one in two splits.
NAMELESS = [("photos/3.png", "one"), ("photos/1.png", "two"), ("photos/3.png", "three"), ("photos/2.png", "four")]


@pytest.mark.parametrize("kind", ["csv", "images"])
def test_without_person_ids_each_image_is_a_person_of_its_own(people, kind):
    rows = [(*row, 7, split) for split in ("train", "test") for row in NAMELESS]
    source = with_images(people, rows) if kind == "images" else write_table(people, kind, rows)
    source = source.remove_columns("person_id") if kind == "images" else source
    # Of a data set that holds its images only the rows of the split are looked at.
    with pytest.warns(UserWarning, match="in two splits") if kind == "csv" else contextlib.nullcontext():
        train = load_pairs(source, split="train", person_id_column=None)
        test = load_pairs(source, split="test", person_id_column=None)
    assert train.column_names == TRAIN[:-1] and not has_persons(train)
    assert train["person_id"][:] == train["image_id"][:] == [0, 1, 0, 2]
    assert test["queries"]["person_id"][:] == [0, 1, 0, 2] and test["gallery"]["person_id"][:] == [0, 1, 2]
    # What people do to a set keeps what is known of it.
    assert not has_persons(inject_noise(train, 0.5).select([0, 1]).map(lambda row: row))
    if kind == "images":
        with pytest.raises(ValueError, match="has no column person_id; .* pass person_id_column none"):
            load_pairs(source, split="train")
    else:
        assert has_persons(load_pairs(write_table(people, "csv", name="known"), split="train"))


@pytest.mark.parametrize("kind", ["csv", "images", "bytes"])
def test_a_stream_without_person_ids_tells_images_apart_whoever_reads_which_part(people, kind):
    rows = [(*row, 7, "train") for row in NAMELESS]
    data = with_images(people, rows).remove_columns("person_id")
    sources = {"csv": write_table(people, "csv", rows), "images": data, "bytes": with_bytes(data)}
    stream = load_pairs(sources[kind], "train", streaming=True, person_id_column=None)
    assert not has_persons(stream)
    ids = [row["person_id"] for row in stream]
    assert ids[0] == ids[2] and len(set(ids)) == 3 and all(0 <= one < 2**63 for one in ids)
    if kind == "bytes":
        parts = data.to_iterable_dataset(num_shards=4)
        parts = load_pairs(parts, "train", streaming=True, person_id_column=None)
        shards = [[row["person_id"] for row in parts.shard(4, part)] for part in range(4)]
        assert [one for shard in shards for one in shard] == [
            row["person_id"] for row in load_pairs(data, "train", streaming=True, person_id_column=None)
        ]


def test_that_there_are_no_person_ids_is_said_of_own_pairs_by_an_option():
    assert SourceArguments(pairs="a.csv", person_id_column="none").columns.person_id is None
    with pytest.raises(ValueError, match="person_id_column .none. is of own pairs"):
        SourceArguments(person_id_column="none")
    with pytest.raises(ValueError, match="person_id_column is None; name a column, or write none"):
        SourceArguments(pairs="a.csv", person_id_column=None)


@pytest.mark.parametrize(
    "persons, numbers",
    [
        (["10", "9", "-3"], [2, 1, 0]),  # whole numbers go by value
        (["10", "9", "b"], [0, 1, 2]),  # names go as text
        (["007", "7", "6"], [0, 2, 1]),  # leading zeros are names
    ],
)
def test_persons_are_numbered_in_the_order_of_their_sorted_ids(people, persons, numbers):
    file = write_table(
        people, "csv", [(f"photos/{i + 1}.png", "x", person) for i, person in enumerate(persons)], NAMES[:3]
    )
    train = load_pairs(file)
    assert train["person_id"][:] == numbers and train["person_name"][:] == persons


def test_images_lie_below_the_image_root(people):
    absolute = [(str(people / row[0]), *row[1:]) for row in ROWS]
    assert load_pairs(write_table(people, "csv", absolute), split="train")["image_path"][0] == "photos/1.png"
    bare = [(row[0].removeprefix("photos/"), *row[1:]) for row in ROWS]
    file = write_table(people, "csv", bare, name="bare")
    assert load_pairs(file, split="train", image_root=people / "photos")["image_path"][0] == "1.png"
    with pytest.raises(FileNotFoundError, match=r"2 of 2 images are not in .* Pass image_root= their folder"):
        load_pairs(file, split="train")
    (people / "tables").mkdir()
    file = write_table(people / "tables", "csv", absolute)
    with pytest.raises(ValueError, match="record 0 .*not in the image folder .*tables; pass image_root="):
        load_pairs(file, split="train")
    file = write_table(people / "tables", "csv", [("../photos/1.png", *ROWS[0][1:])], name="up")
    with pytest.raises(ValueError, match="leaves the image folder"):
        load_pairs(file, split="train")


def test_missing_images_can_be_left_out_and_are_counted(people):
    (people / "photos" / "1.png").unlink()
    file = write_table(people, "csv")
    with pytest.warns(UserWarning, match="1 of 2 images are not in .*photos: 1 of 2. First: photos/1.png"):
        train = load_pairs(file, split="train", on_missing="drop")
    assert train["caption"][:] == ["None"] and dropped_pairs(train) == 2
    with pytest.raises(ValueError, match="on_missing is 'skip'"):
        load_pairs(file, on_missing="skip")


def test_noise_goes_into_own_pairs_too(people):
    for source in (write_table(people, "csv"), with_images(people)):
        noisy = inject_noise(load_pairs(source, split="train"), 0.67, seed=1)
        assert set(noisy.column_names) == {*TRAIN, "is_clean"} and noisy["is_clean"][:].count(False) == 2
        assert noisy[0]["image"].getpixel((0, 0)) == (50, 0, 0)


@pytest.mark.parametrize(
    "row, message",
    [
        (("photos/1.png", " ", "x", "train"), "caption is empty"),
        (("photos/1.png", "x", "", "train"), "person_id is the string '', expected a whole number or a name"),
        (("", "x", "x", "train"), "image is '', expected the path of an image"),
        (("photos/1.png", "x", "x", "all"), "split is the string 'all', expected train, val or test"),
        (("photos/1.png", "x", "ada", "train"), "image photos/1.png belongs to person ada, in record 0 to person ben"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_row_that_is_not_right_is_named(people, kind, row, message):
    file = write_table(people, kind, [*ROWS, row])
    with pytest.raises(ValueError, match=message) as caught:
        load_pairs(file, split="train")
    assert f"{file}, record 6 (counted from 0): " in str(caught.value)


@pytest.mark.parametrize("value", [None, 1.5, True, [], {}])
def test_person_ids_of_other_kinds_are_refused(people, value):
    file = write_table(people, "jsonl", [("photos/1.png", "x", value)], NAMES[:3])
    with pytest.raises(ValueError, match="record 0 .*person_id is .*expected a whole number or a name"):
        load_pairs(file)


def test_numbers_and_strings_are_not_mixed(people):
    rows = [("photos/1.png", "x", 7), ("photos/2.png", "x", "7")]
    with pytest.raises(ValueError, match="person ids that are numbers and others that are strings"):
        load_pairs(write_table(people, "jsonl", rows, NAMES[:3]))


@pytest.mark.filterwarnings("ignore:.*person.s. in more than one split")
def test_an_image_in_two_splits_is_a_warning(people):
    rows = [*ROWS, ("photos/1.png", "x", "ben", "test")]
    with pytest.warns(UserWarning, match="more than once, 1 of them in two splits, first photos/1.png"):
        load_pairs(write_table(people, "csv", rows), split="train")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", b"image,caption,person_id\np.png,a man, in red,3\n", "line 2: 4 fields, the first line names 3"),
        ("a.csv", b"", "a.csv has no rows"),
        ("a.csv", "image,caption,person_id\np.png,h\xf6m,3\n".encode("latin-1"), "a.csv is not UTF-8 text"),
        ("a.jsonl", b'{"image": "p", "caption": "x", "person_id": 1}\n{"ima', "a.jsonl, line 2 is not valid JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl, line 1: expected an object, found a list of 1"),
        ("a.json", b'{"image": 1}', "a.json holds an object of 1 fields; expected a list of objects"),
        ("a.parquet", b"PAR1", "a.parquet is not a Parquet file that can be read"),
        ("a.xlsx", b"", "a.xlsx is no table that is understood; expected one of .csv, .tsv"),
    ],
)
def test_a_broken_table_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_pairs(tmp_path / name)


def test_a_source_that_is_not_there_is_named_without_asking_the_hub(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file .*pairs.csv"):
        load_pairs(tmp_path / "pairs.csv")
    with pytest.raises(FileNotFoundError, match="There is no file or folder .*nothing, and it is no Hub id"):
        load_pairs(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="neither a data set written by save_to_disk nor metadata.csv"):
        load_pairs(tmp_path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "object", "images"])
def test_a_stream_gives_the_same_pairs_row_by_row(people, kind):
    numbers = {"ben": 1, "ada": 0, "cy": 2, "ada 2": 3}
    rows = [(path, caption, numbers[person], split) for path, caption, person, split in ROWS]
    source = with_images(people, rows) if kind == "images" else None
    if kind == "object":
        table = [dict(zip(NAMES, row)) for row in rows]
        source = datasets.Dataset.from_list(table).to_iterable_dataset()
    stream = load_pairs(source or write_table(people, kind, rows), split="train", streaming=True, image_root=people)
    assert isinstance(stream, datasets.IterableDataset)
    found = list(stream)
    assert list(found[0]) == ["image", "caption", "person_id", "image_path"]
    assert [row["caption"] for row in found] == ["a man, in red", 'says "hello"', "None"]
    assert [row["person_id"] for row in found] == [1, 1, 0]
    assert [row["image"].getpixel((0, 0))[0] for row in found] == [50, 50, 100]
    undecoded = next(iter(stream.cast_column("image", datasets.Image(decode=False))))
    assert undecoded["image"]["path"] == str(people / "photos/1.png")


def test_a_stream_says_what_it_cannot_do(people):
    file = write_table(people, "csv")
    with pytest.raises(ValueError, match="streaming is for training; test is ranked as a whole"):
        load_pairs(file, split="test", streaming=True)
    stream = load_pairs(file, split="train", streaming=True)
    with pytest.raises(ValueError, match="row 0 .*person_id is the string 'ben', .*streaming=False can"):
        next(iter(stream))
    with pytest.raises(ValueError, match="pass split=, so that test rows are not trained on"):
        load_pairs(file, streaming=True)
    with pytest.raises(ValueError, match='on_missing="drop" does not go with streaming'):
        load_pairs(file, split="train", streaming=True, on_missing="drop")
    with pytest.raises(ValueError, match="the data set is a stream; pass streaming=True"):
        load_pairs(with_images(people).to_iterable_dataset(), split="train")


def test_the_second_start_takes_a_table_from_the_cache_and_changes_are_noticed(people):
    file = write_table(people, "csv")
    first, second = (load_pairs(file, split="train") for _ in range(2))
    assert first.cache_files == second.cache_files and first._fingerprint == second._fingerprint
    other = load_pairs(file, split="train", caption_column="person_id")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_table(people, "csv", ROWS[:1])
        changed = load_pairs(file, split="train")
    assert len({tuple(d.cache_files[0].items()) for d in (first, other, changed)}) == 3 and len(changed) == 1


def random_records(generator, split):
    """Records of a split: persons of any number, images of any number of captions."""
    persons = generator.choice(1000, size=4, replace=False).tolist()
    records = []
    for number in range(int(generator.integers(3, 8))):
        captions = [f"{split} {number} {i}" for i in range(int(generator.integers(1, 4)))]
        records.append({"id": int(generator.choice(persons)), "file_path": f"{split}/{number}.png"})
        records[-1] |= {"captions": captions, "split": split}
    return [records[place] for place in generator.permutation(len(records))]


@pytest.mark.filterwarnings("ignore:.*more than one split")
@pytest.mark.parametrize("seed", range(5))
def test_a_benchmark_and_the_same_rows_as_own_pairs_are_the_same_on_every_road(tmp_path, seed):
    generator = np.random.default_rng(seed)
    records = [record for split in ("train", "val", "test") for record in random_records(generator, split)]
    folder = tmp_path / "synthetic-pedes"
    for number, record in enumerate(records):
        (folder / "imgs" / record["split"]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 4), (number, seed, 0)).save(folder / "imgs" / record["file_path"])
    (folder / "synthetic.json").write_text("{}")
    (folder / "reid_raw.json").write_text(json.dumps(records))
    rows = [(record["file_path"], record["captions"], record["id"], record["split"]) for record in records]
    table = write_table(folder / "imgs", "jsonl", rows)
    held = with_images(folder / "imgs", rows)
    sources = {"paths": table, "column": held, "bytes": with_bytes(held)}
    for split in ("train", "val", "test"):
        want = load_benchmark("synthetic-pedes", folder, split)
        for source in sources.values():
            found = load_pairs(source, split=split)
            parts = [(want, found)] if split == "train" else [(want[part], found[part]) for part in want]
            for one, other in parts:
                assert other["person_id"][:] == contiguous(one["person_id"][:]).tolist()
                for name in {"caption", "image_id"} & set(one.column_names):
                    assert other[name][:] == one[name][:], name
                if "image" in one.column_names:
                    assert [i.getpixel((0, 0)) for i in other["image"]] == [i.getpixel((0, 0)) for i in one["image"]]
    train, numbered = load_pairs(table, split="train"), [record for record in records if record["split"] == "train"]
    assert train["image_path"][:] == load_benchmark("synthetic-pedes", folder, "train")["image_path"][:]
    assert train["person_name"][:] == [str(record["id"]) for record in numbered for _ in record["captions"]]
    for source in sources.values():
        stream = list(load_pairs(source, split="train", streaming=True, image_root=folder / "imgs"))
        assert [row["caption"] for row in stream] == train["caption"][:]
        assert [str(row["person_id"]) for row in stream] == train["person_name"][:]
        assert [row["image"].tobytes() for row in stream] == [image.tobytes() for image in train["image"]]


def numbered(rows=ROWS):
    return [(path, caption, len(person), split) for path, caption, person, split in rows]


def test_ids_with_leading_zeros_are_two_persons_or_refused_but_never_one(people):
    rows = [("photos/1.png", "x", "0001"), ("photos/2.png", "y", "1")]
    file = write_table(people, "csv", rows, NAMES[:3])
    assert load_pairs(file)["person_id"][:] == [0, 1]
    with pytest.raises(ValueError, match="row 0 .*person_id is the string '0001', a name .*streaming=False can"):
        list(load_pairs(file, streaming=True))


@pytest.mark.parametrize("source", ["paths", "images"])
@pytest.mark.parametrize("form", ["torch", "numpy", "arrow", "pandas"])
def test_the_format_of_a_data_set_does_not_matter(people, form, source):
    data = with_images(people, numbered())
    if source == "paths":
        data = datasets.Dataset.from_list([dict(zip(NAMES, row)) for row in numbered()])
    want, found = load_pairs(data, "train", people), load_pairs(data.with_format(form), "train", people)
    assert all(want[name][:] == found[name][:] for name in set(TRAIN) - {"image"})
    assert isinstance(found[0]["image"], Image.Image)
    if form in ("torch", "numpy"):
        stream = load_pairs(data.to_iterable_dataset().with_format(form), "train", people, streaming=True)
        assert [row["caption"] for row in stream] == want["caption"][:]


def test_an_image_column_with_a_null_names_the_row(people):
    data = with_images(people, numbered())
    data = data.map(lambda row, number: {"image": None if number == 4 else row["image"]}, with_indices=True)
    with pytest.raises(ValueError, match="the data set, record 4 .*: image is nothing .null., expected an image"):
        load_pairs(data, split="test")
    assert len(load_pairs(data, split="train")) == 3
    with pytest.raises(ValueError, match="the data set, row 4 .*: image is nothing .null., expected an image"):
        list(load_pairs(data.remove_columns("split"), streaming=True))


@pytest.mark.parametrize("kind", ["dictionary", "bytes"])
def test_images_that_pandas_wrote_into_parquet_are_read_on_both_roads(people, kind):
    frame = pandas.DataFrame([dict(zip(NAMES, row)) for row in numbered()])
    data = [(people / path).read_bytes() for path in frame["image"]]
    frame["image"] = data if kind == "bytes" else [{"bytes": one, "path": "x.png"} for one in data]
    frame.to_parquet(people / "pandas.parquet")
    train = load_pairs(people / "pandas.parquet", split="train")
    stream = list(load_pairs(people / "pandas.parquet", split="train", streaming=True))
    assert train["image_id"][:] == [0, 0, 1] and train["caption"][:] == [row["caption"] for row in stream]
    for images in (train["image"], [row["image"] for row in stream]):
        assert [image.getpixel((0, 0))[0] for image in images] == [50, 50, 100]


def test_a_data_frame_is_an_error_that_says_what_to_make_of_it(people):
    frame = pandas.DataFrame([dict(zip(NAMES, row)) for row in ROWS])
    with pytest.raises(ValueError, match="The source is a DataFrame, .*datasets.Dataset.from_pandas"):
        load_pairs(frame, split="train", image_root=people)
    assert len(load_pairs(datasets.Dataset.from_pandas(frame), split="train", image_root=people)) == 3


@pytest.mark.parametrize(
    "person, message",
    [
        ("nan", "is the string 'nan', which stands for no value"),
        ("<NA>", "is the string '<NA>', which stands for no value"),
        ("a\0", "is the string .a.*, expected a name without control characters"),
        ("a" * 201, "has 201 characters, expected a name of at most 200"),
        (float("nan"), "is the number nan, expected a whole number or a name"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_ids_that_are_no_names_are_refused_on_every_road(people, person, message, streaming):
    file = write_table(people, "jsonl", [("photos/1.png", "x", person)], NAMES[:3])
    with pytest.raises(ValueError, match=f"{file}, r(ecord|ow) 0 .*person_id {message}"):
        list(load_pairs(file, streaming=streaming))


def test_people_called_nan_or_null_keep_their_names(people):
    file = write_table(people, "csv", [("photos/1.png", "x", "Nan"), ("photos/2.png", "y", "Null")], NAMES[:3])
    assert load_pairs(file)["person_name"][:] == ["Nan", "Null"]


def test_ids_are_numbered_whatever_their_length_and_last_character():
    assert contiguous(["a\0", "a", "b" * 5000, "a"]).tolist() == [1, 0, 2, 0]


def test_ids_in_a_data_set_of_images_are_sorted_like_those_of_a_table(people):
    rows = [("photos/1.png", "x", "10", "train"), ("photos/2.png", "y", "9", "train")]
    found = [
        load_pairs(source, split="train") for source in (with_images(people, rows), write_table(people, "csv", rows))
    ]
    assert [pairs["person_id"][:] for pairs in found] == [[1, 0], [1, 0]]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_field_that_only_later_rows_have_does_no_harm_and_one_they_lack_is_named(people, streaming):
    rows = [dict(zip(NAMES, row)) for row in numbered()]
    rows[2]["camera"] = 4
    file = people / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert len(list(load_pairs(file, split="train", streaming=streaming))) == 3
    del rows[1]["caption"]
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=f"{file}, r(ecord|ow) 1 .*caption is nothing"):
        list(load_pairs(file, split="train", streaming=streaming))


def test_a_parquet_file_that_breaks_off_is_named_by_a_stream(people):
    file = write_table(people, "parquet", numbered() * 50)
    data = bytearray(file.read_bytes())
    data[8:60] = b"\xff" * 52
    file.write_bytes(data)
    with pytest.raises(ValueError, match=f"{file} cannot be read as Parquet"):
        list(load_pairs(file, split="train", streaming=True))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["absolute", "up", "object", "link", "folder link", "parquet"])
def test_images_outside_of_the_image_folder_are_refused_on_every_road(people, kind, streaming):
    inner = people / "inner"
    inner.mkdir()
    outside = people / "photos" / "1.png"
    (inner / "link.png").symlink_to(outside)
    (inner / "folder").symlink_to(people / "photos")
    image = {"absolute": str(outside), "up": "../photos/1.png", "object": {"path": str(outside)}}.get(kind)
    image = image or {"link": "link.png", "folder link": "folder/1.png"}.get(kind)
    file = inner / "pairs.jsonl"
    file.write_text(json.dumps({"image": image, "caption": "x", "person_id": 0}))
    if kind == "parquet":
        file = inner / "pairs.parquet"
        rows = [{"image": {"bytes": None, "path": str(outside)}, "caption": "x", "person_id": 0}]
        pandas.DataFrame(rows).to_parquet(file)
    with pytest.raises(
        ValueError, match="not in the image folder|leaves the image folder|outside of the image|an object"
    ):
        list(load_pairs(file, streaming=streaming))


@pytest.mark.parametrize("streaming", [False, True])
def test_the_data_set_of_others_names_images_in_its_own_folder_only(people, streaming, tmp_path, monkeypatch):
    form = datasets.Features(
        {"image": datasets.Image(), "caption": datasets.Value("string"), "person_id": datasets.Value("int64")}
    )
    inside, outside = people / "photos" / "1.png", tmp_path / "outside.png"
    outside.write_bytes(inside.read_bytes())

    def of(path):
        rows = {"image": [{"path": str(path), "bytes": None}], "caption": ["x"], "person_id": [0]}
        return datasets.Dataset.from_dict(rows, features=form)

    # As a folder of save_to_disk, which keeps images itself, would be made by hand.
    for path in (inside, outside):
        monkeypatch.setattr(datasets, "load_from_disk", lambda folder, path=path: of(path))
        if path == inside:
            assert len(list(load_pairs(people / "photos", streaming=streaming))) == 1
        else:
            with pytest.raises(ValueError, match="row 0|record 0") as caught:
                list(load_pairs(people / "photos", streaming=streaming))
            assert "expected an image inside the data set or in its folder" in str(caught.value)
    # Who hands the object over may name any file.
    made = of(outside)
    assert len(list(load_pairs(made.to_iterable_dataset() if streaming else made, streaming=streaming))) == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_an_object_with_a_path_is_an_image_and_a_kind_that_is_not_read_is_none(people, streaming):
    file = write_table(people, "jsonl", [({"path": "photos/1.png"}, "x", 0)], NAMES[:3])
    assert [row["image_path"] for row in load_pairs(file, streaming=streaming)] == ["photos/1.png"]
    (people / "photos" / "1.eps").write_bytes(b"%!PS")
    file = write_table(people, "jsonl", [("photos/1.eps", "x", 0)], NAMES[:3])
    with pytest.raises(ValueError, match="photos/1.eps is of a kind that is not read; expected one of JPEG, PNG"):
        list(load_pairs(file, streaming=streaming))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("caption", ["a\0b", "\x1b[31mred", "a\x7f"])
def test_captions_have_no_control_characters_but_white_space(people, caption, streaming):
    file = write_table(people, "jsonl", [("photos/1.png", caption, 0)], NAMES[:3])
    with pytest.raises(ValueError, match="caption is .*expected a sentence without control characters"):
        list(load_pairs(file, streaming=streaming))
    file = write_table(people, "jsonl", [("photos/1.png", "a\tb\r\nc", 0)], NAMES[:3])
    assert [row["caption"] for row in load_pairs(file, streaming=streaming)] == ["a\tb\r\nc"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_pipe_is_not_waited_for(people, streaming):
    os.mkfifo(people / "photos" / "pipe.png")
    file = write_table(people, "jsonl", [("photos/pipe.png", "x", 0)], NAMES[:3])
    with pytest.raises(ValueError, match="photos/pipe.png is no regular file"):
        list(load_pairs(file, streaming=streaming))
    os.mkfifo(people / "pipe.csv")
    with pytest.raises(FileNotFoundError, match="There is no file .*pipe.csv"):
        load_pairs(people / "pipe.csv", streaming=streaming)


@pytest.mark.parametrize(
    "pairs, name",
    [
        ("~/x/y.csv", "y.csv"),
        ("/home/somebody/y.csv", "y.csv"),
        ("org/name", "org/name"),
        ("people.csv", "people.csv"),
    ],
)
def test_reports_name_own_pairs_without_the_path_to_them(pairs, name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert SourceArguments(pairs=pairs).name == name
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "y.csv").write_text("")
    assert SourceArguments(pairs=pairs).name == name


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_column_of_truth_values_goes_along_into_train(people, kind):
    # Test rows are not asked: nothing is trained on them.
    said = [True, False, True, None, None, None]
    file = write_table(people, kind, [(*row, right) for row, right in zip(ROWS, said)], (*NAMES, "is_clean"))
    train = load_pairs(file, "train")
    assert train.column_names == [*TRAIN, "is_clean"] and train["is_clean"][:] == said[:3]
    assert not any("is_clean" in part.column_names for part in load_pairs(file, "test").values())
    stream = load_pairs(write_table(people, kind, [(*row[:2], 3, *row[3:], True) for row in ROWS],
                                    (*NAMES, "is_clean"), "numbers"), "train", streaming=True)  # fmt: skip
    assert set(next(iter(stream))) == {"image", "caption", "person_id", "image_path"}


def test_truth_of_images_inside_a_data_set_and_of_lists_of_captions(people):
    images = [str(people / "photos" / f"{number}.png") for number in (1, 2)]
    columns = {"image": images, "caption": [["a", "b"], ["c"]], "person_id": [0, 1]}
    table = datasets.Dataset.from_dict({**columns, "is_clean": [[True, False], [True]]})
    for source in (table, table.cast_column("image", datasets.Image())):
        assert load_pairs(source, image_root=people)["is_clean"][:] == [True, False, True]
    # One value is of all captions of the image.
    table = datasets.Dataset.from_dict({**columns, "is_clean": [False, True]})
    assert load_pairs(table, image_root=people)["is_clean"][:] == [False, False, True]


@pytest.mark.parametrize(
    "said, message",
    [
        (["true", "perhaps", "true"], "is_clean is the string 'perhaps', expected true or false.* rename it if"),
        (["true", "", "false"], "record 1 .*no is_clean, which other training records have"),
    ],
)
def test_truth_values_that_are_none_are_named(people, said, message):
    file = write_table(people, "csv", [(*row, right) for row, right in zip(ROWS[:3], said)], (*NAMES, "is_clean"))
    with pytest.raises(ValueError, match=message):
        load_pairs(file, "train")
