"""Streams in blocks: read on by workers from any place, shards in another order each epoch, dealt to processes."""

import datasets
import numpy as np
import pytest
from accelerate.data_loader import IterableDatasetShard
from torch.utils.data import DataLoader
from training_run import make_trainer

from modeling_amns import load_pairs
from modeling_amns.data.streamed import Reading, StreamedPairs

FEATURES = datasets.Features(
    {"image": datasets.Image(), "caption": datasets.Value("string"), "person_id": datasets.Value("int64")}
)
PAIRS = 100


def numbered(shard: list[tuple[int, int]], log: str | None = None):
    """Pairs [first, end) of each shard; each one that is read leaves a line in a file."""
    for first, end in shard:
        for number in range(first, end):
            if log:
                with open(log, "a") as file:
                    file.write(f"{number}\n")
            yield {"image": {"bytes": b"image", "path": None}, "caption": str(number), "person_id": number // 4}


def a_stream(shards: int, log: str | None = None, pairs: int = PAIRS) -> datasets.IterableDataset:
    """Pairs in shards of as many pairs, or of one pair more or less."""
    ends = [pairs * shard // shards for shard in range(shards + 1)]
    shard = list(zip(ends, ends[1:]))
    return datasets.IterableDataset.from_generator(
        numbered, features=FEATURES, gen_kwargs={"shard": shard, "log": log}
    )


def told(pair):
    """What a run may see of a pair: its caption, its number and pass, and the digest of what was read up to it."""
    return pair and (int(pair.row["caption"]), tuple(pair.key), pair.read, pair.place)


def passed(pairs: StreamedPairs, epoch: int = 0, workers: int = 0) -> list:
    pairs.set_epoch(epoch)
    return list(DataLoader(pairs, batch_size=None, num_workers=workers, collate_fn=told))


def captions(pairs: StreamedPairs, epoch: int = 0, workers: int = 0) -> list[int]:
    return [caption for caption, *_ in passed(pairs, epoch, workers)]


def test_blocks_of_a_stream_are_permuted_each_by_its_own_number():
    for epoch in (0, 3):
        want = []
        for number, start in enumerate(range(0, PAIRS, 30)):
            block = list(range(start, min(start + 30, PAIRS)))
            order = np.random.default_rng([7, epoch, 0, number]).permutation(len(block))
            want += [block[index] for index in order]
        assert captions(StreamedPairs(a_stream(1), 30, seed=7), epoch) == want


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_a_shuffled_stream_gives_each_pair_once_and_in_another_order_in_each_epoch(workers):
    pairs = StreamedPairs(a_stream(7), 20, seed=1)
    epochs = [passed(pairs, epoch, workers) for epoch in range(3)]
    for epoch, found in enumerate(epochs):
        assert sorted(caption for caption, *_ in found) == list(range(PAIRS))
        keys = [key for _, key, *_ in found]
        assert len(set(keys)) == PAIRS and {key[1] for key in keys} == {epoch}
    orders = [[caption for caption, *_ in found] for found in epochs]
    assert len({tuple(order) for order in orders}) == 3
    # Shards too: without a permutation of them the first 20 pairs would be the same in every epoch.
    assert len({frozenset(order[:20]) for order in orders}) == 3
    # And by the seed, from the first epoch on.
    other = captions(StreamedPairs(a_stream(7), 20, seed=2), 0, workers)
    assert frozenset(other[:20]) not in {frozenset(orders[0][:20]), frozenset(range(20))}
    assert captions(StreamedPairs(a_stream(7), 20, seed=1), 2, workers) == orders[2]
    assert captions(StreamedPairs(a_stream(7), 20, seed=2), 2, workers) != orders[2]


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_shuffled_stream_is_read_on_from_the_start_of_the_block_it_was_left_in(tmp_path, workers, epoch):
    log = tmp_path / "read"
    whole = passed(StreamedPairs(a_stream(7, str(log)), 12, seed=1), epoch, workers)
    assert len(log.read_text().split()) == PAIRS
    step = max(1, workers)
    for done in (5, 12 * step, 31, 70, 99):
        rows, places = {}, {}
        for _, (row, *_), read, place in whole[:done]:
            rows[row % step] = max(rows.get(row % step, (-1, 0)), (row, read))
            if place is not None:
                places[row % step] = place
        pairs = StreamedPairs(a_stream(7, str(log)), 12, seed=1)
        pairs.expected = Reading(epoch, rows, places)
        log.unlink()
        found = passed(pairs, epoch, workers)
        assert found[done:] == whole[done:]
        # What comes again of the first block is skipped by whoever skips batches.
        assert all(pair in (None, before) for pair, before in zip(found[:done], whole[:done], strict=True))
        # Of each worker the block that it was in, what stands in the way to it in a shard of 15, and one that follows.
        left = PAIRS - done
        assert left <= len(log.read_text().split()) <= left + (12 + 15) * step


def test_processes_share_a_shuffled_stream_out_without_loss():
    parts = []
    for rank in range(2):
        pairs = StreamedPairs(a_stream(7), 20, seed=1)
        shared = IterableDatasetShard(pairs, batch_size=5, drop_last=True, num_processes=2, process_index=rank)
        parts.append([int(pair.row["caption"]) for pair in shared])
    assert len(parts[0]) == len(parts[1]) and sorted(parts[0] + parts[1]) == list(range(PAIRS))
    one = captions(StreamedPairs(a_stream(7), 20, seed=1))
    assert parts[0][:5] + parts[1][:5] == one[:10]


def test_what_is_cut_off_a_stream_stays_cut_off():
    assert sorted(captions(StreamedPairs(a_stream(7).take(40), 8), epoch=1)) == list(range(40))


def test_a_stream_that_has_a_shuffle_buffer_is_not_mixed_in_blocks_as_well(tmp_path):
    with pytest.raises(ValueError, match="has a shuffle buffer of its own already. Leave .shuffle.. out"):
        make_trainer(tmp_path, shards=2, max_steps=1, stream_shuffle_block=8)


@pytest.mark.parametrize("pairs, shards, workers", [(0, 1, 0), (0, 1, 2), (1, 1, 2), (5, 2, 3)])
def test_streams_of_few_pairs_and_fewer_shards_than_workers_are_given_whole(pairs, shards, workers):
    stream = a_stream(7).take(pairs) if shards == 1 else a_stream(shards, pairs=pairs)
    assert sorted(captions(StreamedPairs(stream, 50), 1, workers)) == list(range(pairs))


@pytest.mark.parametrize("block", [1, 6])
def test_rows_of_load_pairs_are_given_as_they_are_and_equal_those_that_datasets_casts(tmp_path, block):
    rows = [row | {"image": {"bytes": b"image", "path": None}} for row in numbered([(0, 30)])]
    source = datasets.Dataset.from_list(rows, features=FEATURES).to_iterable_dataset(4)
    plain = load_pairs(source, streaming=True)
    # Once something was done to a stream, here nothing that matters, its rows are left to `datasets`.
    cast = plain.cast_column("image", datasets.Image(decode=False))
    one, other = StreamedPairs(plain, block, seed=1), StreamedPairs(cast, block, seed=1)
    assert one.plain and not other.plain
    for epoch in (0, 2):
        one.set_epoch(epoch)
        other.set_epoch(epoch)
        assert [(p.row, p.key, p.read) for p in one] == [(p.row, p.key, p.read) for p in other]
