"""A stream whose pairs are mixed in blocks: none is lost, none comes twice, and how far one moves is bounded."""

import io
import json
import tarfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from training_run import make_trainer

from modeling_amns import load_pairs
from modeling_amns.data.pair_stream import STREAM_COLUMNS
from modeling_amns.data.streamed import StreamedPairs
from modeling_amns.data.tables import columns


def numbered(numbers):
    for number in numbers:
        yield {"image": {"bytes": b"", "path": None}, "caption": f"{number}", "person_id": number, "image_path": ""}


def numbers_of(pairs: int, epoch: int = 0, block: int = 1, seed: int = 0) -> list[int]:
    stream = datasets.IterableDataset.from_generator(
        numbered, features=columns(STREAM_COLUMNS), gen_kwargs={"numbers": tuple(range(pairs))}
    )
    streamed = StreamedPairs(stream, block, seed)
    streamed.set_epoch(epoch)
    read = list(streamed)
    assert [pair.key.row for pair in read] == list(range(pairs))
    return [pair.row["person_id"] for pair in read]


@pytest.mark.parametrize("pairs", [60, 67, 9])
def test_each_pair_comes_once_and_stays_in_its_block(pairs):
    mixed = numbers_of(pairs, block=20)
    assert sorted(mixed) == list(range(pairs)) != mixed
    assert [number // 20 for number in mixed] == [row // 20 for row in range(pairs)]


def test_the_order_hangs_on_seed_epoch_and_block_alone():
    """Over many blocks each place of a block goes to each of its pairs."""
    assert numbers_of(60, block=20) == numbers_of(60, block=20) != numbers_of(60, epoch=1, block=20)
    assert numbers_of(60, block=20) != numbers_of(60, block=20, seed=1)
    mixed = numbers_of(40, block=20)
    assert [number - 20 for number in mixed[20:]] != mixed[:20]
    first = [numbers_of(6, epoch=epoch, block=3)[0] for epoch in range(60)]
    assert min(first.count(number) for number in range(3)) >= 10 and len(first) == 60
    assert numbers_of(60) == list(range(60))


def test_a_block_is_for_streams(tmp_path):
    with pytest.raises(ValueError, match="stream_shuffle_block 8 is for streams"):
        make_trainer(tmp_path, stream_shuffle_block=8)
    with pytest.raises(ValueError, match="stream_shuffle_block must be at least 1, found 0"):
        make_trainer(tmp_path, shards=2, max_steps=1, stream_shuffle_block=0)


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 16), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def parquet_shards(folder: Path) -> datasets.IterableDataset:
    """24 pairs in 4 files of 2 row groups each, images inside."""
    for shard in range(4):
        numbers = list(range(6 * shard, 6 * shard + 6))
        rows = {
            "photo": [{"bytes": png(number), "path": f"{number}.png"} for number in numbers],
            "text": [f"person {number}" for number in numbers],
            "person": numbers,
        }
        pyarrow.parquet.write_table(pa.table(rows), folder / f"{shard}.parquet", row_group_size=3)
    files = {"train": f"{folder}/*.parquet"}
    stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=folder / "c")
    return load_pairs(
        stream.reshard(), streaming=True, image_column="photo", caption_column="text", person_id_column="person"
    )


def tar_shards(folder: Path) -> datasets.IterableDataset:
    """The same as WebDataset has them: members of one name are one pair, its person in JSON."""
    for shard in range(8):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for number in range(3 * shard, 3 * shard + 3):
                person = json.dumps({"person": number}).encode()
                for end, data in (("png", png(number)), ("txt", f"person {number}".encode()), ("json", person)):
                    member = tarfile.TarInfo(f"{number:04}.{end}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    files = {"train": f"{folder}/*.tar"}
    stream = datasets.load_dataset(
        "webdataset", data_files=files, split="train", streaming=True, cache_dir=folder / "c"
    )
    stream = stream.cast_column("png", datasets.Image(decode=False)).map(
        lambda row: {"person_id": row["json"]["person"]}, remove_columns=["json", "__key__", "__url__"]
    )
    return load_pairs(stream, streaming=True, image_column="png", caption_column="txt")


@pytest.mark.parametrize("shards", [parquet_shards, tar_shards])
@pytest.mark.parametrize("workers", [0, 3])
def test_shards_are_dealt_to_workers_whole_and_none_is_lost(tmp_path, shards, workers):
    """8 shards among 3 workers: they do not divide."""
    stream = shards(tmp_path)
    assert stream.num_shards == 8
    loader = torch.utils.data.DataLoader(StreamedPairs(stream, 4), None, num_workers=workers)
    read = list(loader)
    assert sorted(pair.row["person_id"] for pair in read) == list(range(24))
    assert all(pair.row["caption"] == f"person {pair.row['person_id']}" for pair in read)
    pixels = [Image.open(io.BytesIO(pair.row["image"]["bytes"])).getpixel((0, 0))[0] for pair in read]
    assert pixels == [pair.row["person_id"] for pair in read]
    assert len({pair.key.row for pair in read}) == 24


def test_an_image_that_a_map_has_decoded_is_refused_with_the_way_out():
    rows = datasets.Dataset.from_list([{"png": Image.new("RGB", (8, 16)), "txt": "a man", "person_id": 0}])
    stream = rows.to_iterable_dataset().map(lambda row: {"person_id": 1})
    with pytest.raises(ValueError, match=r"png is decoded; cast_column\('png', datasets.Image\(decode=False\)\)"):
        next(iter(load_pairs(stream, streaming=True, image_column="png", caption_column="txt")))
