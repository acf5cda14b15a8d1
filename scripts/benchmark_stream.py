"""What `benchmark.py stream` compares: pairs of Parquet shards by rows of a cache, and as a stream; and its memory."""

import functools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader

from modeling_amns import AMNSProcessor, load_pairs, make_synthetic_benchmark
from modeling_amns.data.collator import PairCollator, PairPreparer, TrainingPairs
from modeling_amns.data.sampler import RandomPairSampler
from modeling_amns.data.streamed import StreamCollator, StreamedPairs
from modeling_amns.data.transforms import Augmentation
from modeling_amns.markdown import markdown_table
from modeling_amns.memory import PeakMemory

if __package__:
    from .benchmark_timing import side_by_side
else:
    from benchmark_timing import side_by_side

SHARDS, BLOCK, SIZE = 16, 2048, (384, 128)
# Of the pairs of a long stream, which are read and not prepared.
SMALL = (128, 48)
# Of the stream whose mixing is counted: pairs, and how many of a person stand together.
MIXED, TOGETHER = 32_000, 20


def stream_report(timed: int, long: int, batch_size: int, repeats: int) -> str:
    """Markdown: CPU time of the loaders in turns on one thread, from Parquet to uint8 batches; memory; mixing.

    Args:
        timed: pairs of a pass whose time is taken.
        long: pairs of the stream whose memory is taken; it is read by batches and not prepared.
        batch_size: pairs of a batch.
        repeats: rounds; the median counts.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        short = _write(root / "short", _photos(root / "large", SIZE), timed)
        rows = load_pairs(_open(short, root, streaming=False))
        processor = AMNSProcessor.from_captions(rows["caption"][:1000], SIZE)
        preparer = PairPreparer(processor, Augmentation())
        collate = PairCollator(processor.tokenizer.pad_token_id, processor.padded_length)
        streams = {
            "stream": load_pairs(f"{short}/*.parquet", streaming=True),
            "stream opened by datasets": load_pairs(_open(short, root, streaming=True), streaming=True),
        }
        loaders = {
            "rows of a cache": DataLoader(
                TrainingPairs(rows, preparer), batch_size, sampler=RandomPairSampler(timed), collate_fn=collate
            )
        }
        for name, stream in streams.items():
            pairs = StreamedPairs(stream, BLOCK)
            loaders[name] = DataLoader(pairs, batch_size, collate_fn=StreamCollator(collate, preparer))
        work = {name: functools.partial(iter, loader) for name, loader in loaders.items()}
        # The clock counts seconds of the processor, so a ratio below 1 is cheaper.
        table = [
            [name, f"{timed / one.seconds:.0f}", f"{one.ratio:.3f}", f"{one.low:.3f} to {one.high:.3f}"]
            for name, one in side_by_side(work, repeats, time.process_time).items()
        ]
        title = f"{timed} pairs at {SIZE[0]}x{SIZE[1]}"
        figures = markdown_table([title, "pairs per second", "CPU time, relative", "quartiles"], table)
        files = _write(root / "long", _photos(root / "small", SMALL), long)
        pairs = StreamedPairs(load_pairs(f"{files}/*.parquet", streaming=True), BLOCK)
        tenth, whole = _memory(DataLoader(pairs, batch_size, collate_fn=len), long // batch_size)
    memory = f"peak memory over {long:,} pairs: {tenth} MiB in their first tenth, {whole} MiB in the rest"
    return f"{figures}\n{memory}\n\n{_mixing(batch_size)}"


def _mixing(batch_size: int) -> str:
    """Markdown: persons in a batch of one epoch by block, where the pairs of a person stand together in a shard."""
    together = [number // TOGETHER for number in range(MIXED)]
    rows = datasets.Dataset.from_dict(
        {"caption": [str(person) for person in together], "person_id": together, "image": [None] * MIXED}
    )
    stream = rows.cast_column("image", datasets.Image()).to_iterable_dataset(SHARDS)
    orders = {
        f"block {block}": [pair.row["person_id"] for pair in StreamedPairs(stream, block)]
        for block in (1, 64, 1000, 10_000)
    }
    orders["rows drawn at random"] = [together[key.row] for key in RandomPairSampler(MIXED)]
    table = []
    for name, order in orders.items():
        batches = [order[start : start + batch_size] for start in range(0, MIXED - batch_size + 1, batch_size)]
        table.append([name, f"{sum(len(set(batch)) for batch in batches) / len(batches):.1f}"])
    return markdown_table([f"persons in a batch of {batch_size}", "mean"], table)


def _photos(root: Path, size: tuple[int, int]) -> list[tuple[bytes, str]]:
    """JPEG files and captions of a few persons, which the shards repeat."""
    make_synthetic_benchmark(root, train_identities=50, val_identities=1, test_identities=1, image_size=size)
    files = sorted((root / "synthetic-pedes" / "imgs").rglob("*.jpg"))
    return [(file.read_bytes(), f"a person of picture {number}") for number, file in enumerate(files)]


def _write(folder: Path, photos: list[tuple[bytes, str]], pairs: int) -> Path:
    folder.mkdir()
    for shard in range(SHARDS):
        numbers = range(shard * pairs // SHARDS, (shard + 1) * pairs // SHARDS)
        chosen = [photos[number % len(photos)] for number in numbers]
        rows = {
            "image": [{"bytes": photo, "path": None} for photo, _ in chosen],
            "caption": [caption for _, caption in chosen],
            "person_id": [number % len(photos) for number in numbers],
        }
        pq.write_table(pa.table(rows), folder / f"{shard:03}.parquet", row_group_size=1000)
    return folder


def _open(folder: Path, root: Path, streaming: bool) -> datasets.Dataset | datasets.IterableDataset:
    files, cache = {"train": f"{folder}/*.parquet"}, str(root / "cache")
    data = datasets.load_dataset("parquet", data_files=files, split="train", streaming=streaming, cache_dir=cache)
    return data.cast_column("image", datasets.Image(decode=False))


def _memory(batches: DataLoader, count: int) -> tuple[int, int]:
    """Largest memory of the process while the first tenth of the batches is read, and while the rest is, in MiB."""
    reading: Iterator[object] = iter(batches)
    marks = []
    for part in (count // 10, count - count // 10):
        memory = PeakMemory()
        for _ in range(part):
            next(reading)
        marks.append(memory.mib)
    return marks[0], marks[1]


__all__ = ["stream_report"]
