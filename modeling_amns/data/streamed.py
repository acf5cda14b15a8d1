"""The training set as a stream: pairs numbered, compared, and read on in the middle of a pass."""

import contextlib
import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .collator import PairPreparer, undecoded
from .pair_stream import gives_plain_rows
from .sampler import PairKey

# So many pairs lie between two places at which a stream can be read on, where it is not mixed in longer blocks.
BLOCK = 64


class StreamPlace(NamedTuple):
    """Where a worker can read on in a pass.

    Args:
        row: of the next pair.
        read: digest of all pairs before it.
        state: of the stream, as JSON; that of `datasets.IterableDataset.state_dict`.
    """

    row: int
    read: int
    state: str


class Reading(NamedTuple):
    """How far a pass over a stream was read.

    Args:
        epoch: of the pass.
        rows: by worker its last row and the digest of all pairs up to it.
        places: by worker the last place, at or before that row, from which the stream can be read on.
    """

    epoch: int
    rows: dict[int, tuple[int, int]]
    places: dict[int, StreamPlace]


class StreamedPair(NamedTuple):
    """A pair that is not prepared yet: of several processes each prepares its own only.

    Args:
        row: of the stream; its image is not decoded.
        key: its number and pass.
        read: digest of all pairs that its worker has read in this pass up to it.
        place: the last one at or before it; `None` in a stream that can only be read from its start.
    """

    row: dict[str, Any]
    key: PairKey
    read: int
    place: StreamPlace | None


class StreamedPairs(IterableDataset):
    """Iterable view of a streamed training set; rows count from 0 in each epoch, in the stream's own order.

    Of several workers, worker w of n counts w, w + n, w + 2n, ...: each pair has a row, and so a draw, of its own.
    Gives a `StreamedPair` for each; `None` for one that the run which is resumed has seen and that is not read again.

    With `block` above 1 shards are dealt in another order in each epoch, and each worker mixes the pairs that it reads
    in blocks of so many. The order in a block hangs on seed, epoch, worker and number of the block alone, and a stream
    is read on at the start of a block: unlike the buffer of `datasets`, which forgets what lies in it, none is lost
    and none comes twice.

    Args:
        dataset: the stream.
        block: pairs that are mixed among themselves, undecoded in memory; 1 keeps the stream's order.
        seed: of their order and that of the shards.
    """

    def __init__(self, dataset: datasets.IterableDataset, block: int = 1, seed: int = 0):
        self.dataset, self.plain = undecoded(dataset), gives_plain_rows(dataset)
        self.block, self.seed = block, seed
        self.expected: Reading | None = None
        # So many pairs are read at the start of every pass: accelerate completes the last batch with them.
        self.head = 0
        # Shared, as that of `datasets`: workers that are kept from epoch to epoch see it too.
        self._epoch = torch.tensor(0).share_memory_()

    @property
    def epoch(self) -> int:
        """That is drawn, 0-based."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Shuffled streams reorder themselves; augmentation draws anew."""
        self._epoch.fill_(epoch)
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[StreamedPair | None]:
        worker, epoch = get_worker_info(), self.epoch
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        expected = self.expected if self.expected and self.expected.epoch == epoch else Reading(epoch, {}, {})
        last, digest = expected.rows.get(first, (-1, 0))
        place = expected.places.get(first)
        if place is not None and place.row // step <= self.head:
            place = None
        if place is not None:
            yield from itertools.islice(self._read(None, first, step), self.head)
            yield from itertools.repeat(None, place.row // step - self.head)
        for pair in self._read(place, first, step):
            if pair.key.row == last and pair.read != digest:
                raise ValueError(
                    f"The stream gives other pairs than the run that is resumed has read, somewhere in the first "
                    f"{last // step + 1} of this pass: a caption, a person, an image's name or its size is another. "
                    "Give it the same data in the same order (a stream that is shuffled needs a seed), or start anew."
                )
            yield None if place is not None and pair.key.row <= last else pair

    def _read(self, place: StreamPlace | None, first: int, step: int) -> Iterator[StreamedPair]:
        """The pairs of a worker from a place on, or from the start."""
        row, read = (first, 0) if place is None else place[:2]
        epoch, resumes = self.epoch, can_resume(self.dataset)
        stream = self._opened(epoch)
        # A state is used for as long as it is that of the epoch.
        stream.load_state_dict({"epoch": -1} if place is None else json.loads(place.state))
        source, size = iter(stream), self.block if self.block > 1 else BLOCK
        # Told while an image is still in the processor's cache, which a block is not.
        while pairs := [(pair, _told(pair)) for pair in itertools.islice(source, size)]:
            # Of the pairs before the block, and before it is given: so a place is where a block begins.
            after = json.dumps(stream.state_dict()) if resumes and len(pairs) == size else None
            # Taken out one by one: what was given is not held while the next block is read.
            given = [pairs[number] for number in self._order(len(pairs), [epoch, first, row // step // size])][::-1]
            pairs.clear()
            while given:
                pair, told = given.pop()
                read = _digest(read, told)
                yield StreamedPair(pair, PairKey(row, epoch), read, place)
                row += step
            if after is not None:
                place = StreamPlace(row, read, after)

    def _opened(self, epoch: int) -> datasets.IterableDataset:
        """The stream of an epoch; under `block` shards have an order that `datasets` gives with a buffer only."""
        if self.block == 1 and not self.plain:
            return self.dataset
        # A stream of its own with an epoch of its own: some versions of `datasets` reorder shards by it as well.
        stream = self.dataset.with_format(None)
        stream._formatting, stream._ex_iterable = self.dataset._formatting, self.dataset._ex_iterable
        if self.plain:
            # Else each row is written and read once more to be what it is.
            stream._info.features = stream._formatting = None
        if self.block == 1:
            stream.set_epoch(epoch)
            return stream
        # What `skip` and `take` cut off depends on the order: they refuse another one, or keep it.
        refused: Any = getattr(datasets.iterable_dataset, "DataSourcesShufflingDisallowed", ())
        with contextlib.suppress(refused):
            generator = np.random.default_rng([self.seed, epoch])
            stream._ex_iterable = self.dataset._ex_iterable.shuffle_data_sources(generator)
        return stream

    def _order(self, pairs: int, block: list[int]) -> list[int]:
        """In which a block is given; `block` says which it is: epoch, worker and number."""
        if self.block == 1:
            return list(range(pairs))
        return np.random.default_rng([self.seed, *block]).permutation(pairs).tolist()


class StreamCollator:
    """Prepares the pairs of a batch and hands them to a collator for the examples of `PairPreparer`.

    Adds `read`, int64 [B], and `place`, a `StreamPlace` or `None`. A batch that a resumed run skips is empty.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]], preparer: PairPreparer):
        self.collate, self.preparer = collate, preparer

    def __call__(self, pairs: list[StreamedPair | None]) -> dict[str, Any]:
        """The batch of the collator inside."""
        there = [pair for pair in pairs if pair is not None]
        if len(there) < len(pairs):
            return {}
        batch: dict[str, Any] = self.collate(
            self.preparer.batch([pair.row for pair in there], [pair.key for pair in there])
        )
        places = [pair.place for pair in there if pair.place is not None]
        return batch | {
            "read": torch.tensor([pair.read for pair in there]),
            "place": max(places, default=None),
        }


def can_resume(dataset: datasets.IterableDataset) -> bool:
    """Whether the state of a stream finds its next row again: it forgets what lies in a shuffle buffer."""
    waiting: list[object] = [getattr(dataset, "_ex_iterable", None)]
    while waiting:
        part = waiting.pop()
        if part is None or type(part).__name__ == "BufferShuffledExamplesIterable":
            return False
        inside = vars(part).get("ex_iterables") or [vars(part).get("ex_iterable")]
        waiting += [one for one in inside if one is not None]
    return True


def _told(row: Mapping[str, Any]) -> tuple[object, ...]:
    """What tells a pair from others.

    An image that lies in the stream is compared whole, of one in a file the name and the size: it is read later.
    """
    image = row["image"]
    content, path = (image.get("bytes"), image.get("path")) if isinstance(image, Mapping) else (None, None)
    size = None
    if content is None and path:
        with contextlib.suppress(OSError, ValueError):
            size = os.stat(path).st_size
    name = row.get("image_path") or path or ""
    # Against data that were changed, not against who wants them taken for others: a checksum is read in a third of the
    # time of a digest.
    checksum = None if content is None else (len(content), zlib.crc32(content))
    return row["caption"], row["person_id"], name and os.path.basename(name), size, checksum


def _digest(read: int, told: tuple[object, ...]) -> int:
    """The digest of all pairs up to one, from that of those before it."""
    # Of text and whole numbers alone, which `repr` writes as they are.
    digest = hashlib.blake2b(repr((read, *told)).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


__all__ = ["Reading", "StreamCollator", "StreamPlace", "StreamedPair", "StreamedPairs", "can_resume"]
