"""Pairs in several files of one kind: read as one table, shared out to workers of a stream without loss."""

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from accelerate.data_loader import IterableDatasetShard
from PIL import Image
from test_pairs import private_cache, write_table  # noqa: F401
from torch.utils.data import DataLoader

from modeling_amns import load_pairs
from modeling_amns.data.sources import SourceArguments
from modeling_amns.data.streamed import StreamedPairs

NAMES = ("image", "caption", "person_id", "split")
COUNT = 23


@pytest.fixture
def folder(tmp_path):
    """23 rows over five files of a kind: 5, 5, 5, 5 and 3, each third row of test."""
    for number in range(COUNT):
        Image.new("RGB", (4, 8), (10 * number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def rows(start: int = 0, end: int = COUNT) -> list[tuple]:
    return [(f"{n}.png", f"person {n}", n, "test" if n % 3 == 2 else "train") for n in range(start, end)]


def write_shards(folder, kind: str):
    (folder / kind).mkdir()
    for start in range(0, COUNT, 5):
        file = write_table(folder / kind, kind, rows(start, min(start + 5, COUNT)), NAMES, f"{start:02}")
        if kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.parquet.read_table(file), file, row_group_size=2)
    return f"{folder / kind}/*.{kind}"


def told(pair):
    return pair.row["caption"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_shards_are_the_table_that_they_are_parts_of(folder, kind):
    whole, shards = write_table(folder, kind, rows(), NAMES), write_shards(folder, kind)
    want, found = (load_pairs(source, "train", folder) for source in (whole, shards))
    assert found.features == want.features and len(found) == 16
    for name in ("caption", "person_id", "image_id", "image_path"):
        assert found[name][:] == want[name][:]
    assert found[15]["image"].getpixel((0, 0)) == want[15]["image"].getpixel((0, 0))
    assert len(load_pairs(shards, "test", folder)["queries"]) == 7
    streams = [list(load_pairs(source, "train", folder, streaming=True)) for source in (whole, shards)]
    assert streams[0] == streams[1] and [row["caption"] for row in streams[0]] == want["caption"][:]


@pytest.mark.parametrize("kind, shards", [("jsonl", 5), ("parquet", 14)])
@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("block", [1, 4])
def test_shards_are_dealt_to_workers_and_processes_without_loss(folder, kind, shards, workers, block):
    """Of Parquet each of 3 + 3 + 3 + 3 + 2 row groups is one; neither number divides by 2 or 3."""
    stream = load_pairs(write_shards(folder, kind), "train", folder, streaming=True)
    assert stream.num_shards == shards
    want = [f"person {n}" for n in range(COUNT) if n % 3 != 2]
    loader = DataLoader(StreamedPairs(stream, block), None, num_workers=workers, collate_fn=told)
    assert sorted(loader) == sorted(want)
    parts = []
    for rank in range(2):
        shared = IterableDatasetShard(
            StreamedPairs(stream, block), batch_size=4, drop_last=True, num_processes=2, process_index=rank
        )
        parts += [told(pair) for pair in shared]
    assert sorted(parts) == sorted(want)


def test_a_large_parquet_file_is_a_shard_for_each_row_group(folder):
    file = write_table(folder, "parquet", rows(), NAMES)
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(file), file, row_group_size=4)
    stream = load_pairs(file, "train", folder, streaming=True)
    assert stream.num_shards == 6
    assert [row["person_id"] for row in stream.shard(3, 2)] == [n for n in range(16, COUNT) if n % 3 != 2]


def test_a_folder_of_parquet_shards_is_their_table_and_shards_are_called_by_it(folder):
    pattern = write_shards(folder, "parquet")
    found = load_pairs(folder / "parquet", "train", folder)
    assert found["caption"][:] == load_pairs(pattern, "train", folder)["caption"][:]
    assert SourceArguments(pairs=pattern).name == SourceArguments(pairs=str(folder / "parquet")).name == "parquet"


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_bad_row_of_a_stream_is_named_by_its_file_and_its_place_there(folder, kind):
    pattern = write_shards(folder, kind)
    bad = [*rows(10, 13), ("13.png", " ", 13, "train"), rows(14, 15)[0]]
    file = write_table(folder / kind, kind, bad, NAMES, "10")
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(file), file, row_group_size=2)
    with pytest.raises(ValueError, match=rf"10.{kind}, row 3 \(counted from 0\): caption is"):
        list(load_pairs(pattern, "train", folder, streaming=True))
    with pytest.raises(ValueError, match=r"record 13 \(counted from 0\): caption is"):
        load_pairs(pattern, "train", folder)


@pytest.mark.parametrize("streaming", [False, True])
def test_files_that_are_no_shards_of_one_table_are_refused(folder, streaming):
    pattern = write_shards(folder, "parquet")

    def refused(error, match, source=pattern):
        with pytest.raises(error, match=match):
            list(load_pairs(source, "train", folder, streaming=streaming))

    refused(
        FileNotFoundError, r"There is no file .*nothing\*\.csv; write the pattern in quotes", f"{folder}/nothing*.csv"
    )
    write_table(folder / "parquet", "csv", rows(), NAMES)
    refused(ValueError, r"are files of '.csv' and '.parquet'; expected one of .csv", f"{folder}/parquet/*")
    (folder / "0.tar").write_bytes(b"")
    refused(ValueError, r"are archives; open them with datasets.load_dataset\('webdataset'", f"{folder}/*.tar")
    (folder / "parquet" / "20.parquet").write_bytes(b"PAR1 not")
    refused(ValueError, r"20.parquet (is not a Parquet file|cannot be read as Parquet)")


def test_shards_with_other_columns_are_named(folder):
    pattern = write_shards(folder, "parquet")
    table = pa.table({"image": ["0.png"], "caption": ["a"], "person_id": ["ada"], "split": ["train"]})
    pyarrow.parquet.write_table(table, folder / "parquet" / "20.parquet")
    with pytest.raises(ValueError, match=r"20.parquet has other columns than .*00.parquet: .*person_id \(string\)"):
        load_pairs(pattern, "train", folder)
    with pytest.raises(ValueError, match=r"20.parquet, row 0 .*person_id is the string 'ada'"):
        list(load_pairs(pattern, "train", folder, streaming=True))


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder):
    file = write_table(folder, "csv", rows(), NAMES, "pairs[1]")
    assert len(load_pairs(file, "train", folder)) == 16
    assert isinstance(load_pairs(file, "train", folder, streaming=True), datasets.IterableDataset)
