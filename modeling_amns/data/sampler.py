"""Which pairs make a batch. Samplers yield `PairKey`s, so that augmentation can depend on the epoch in any worker.

Both are deterministic per seed and epoch and know nothing of processes: accelerate deals their consecutive batches out
to the processes, and skips what a resumed run has already seen. With `drop_last`, every process gets the same number
of batches and the random sampler gives no pair twice in an epoch.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class PairKey(NamedTuple):
    """A row of the training set and the epoch in which it is drawn.

    Args:
        row: index into the training set.
        epoch: 0-based.
        repeat: how often the row was drawn before in this epoch; 0 in random sampling.
    """

    row: int
    epoch: int
    repeat: int = 0


class _EpochSampler(Sampler[PairKey]):
    """State shared by both samplers: the seed and the epoch that is drawn next."""

    def __init__(self, seed: int):
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch by accelerate and transformers."""
        self.epoch = epoch

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch])


class RandomPairSampler(_EpochSampler):
    """Every pair once an epoch, in random order, on request with captions of like length in a batch.

    Args:
        num_pairs: rows of the training set.
        seed: with the epoch it fixes the order.
        lengths: length of each row's caption in any unit; batches then hold captions of like length, which saves the
            padding of the text encoder.
        batch_size: pairs of one step of all processes; needed with `lengths`.
    """

    # Shuffled pairs are sorted within this many batches: enough for like lengths, few enough for new batches in each
    # epoch (transformers' LengthGroupedSampler takes 50).
    GROUPED_BATCHES = 50

    def __init__(self, num_pairs: int, seed: int = 0, lengths: Sequence[int] | None = None, batch_size: int = 1):
        super().__init__(seed)
        self.num_pairs = num_pairs
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return self.num_pairs

    def __iter__(self) -> Iterator[PairKey]:
        generator, epoch = self._generator(), self.epoch
        rows = generator.permutation(self.num_pairs)
        if self.lengths is not None:
            rows = self._grouped(rows, self.lengths, generator)
        for row in rows.tolist():
            yield PairKey(row, epoch)

    def _grouped(self, rows: np.ndarray, lengths: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        # A last batch that is not full is left as it was drawn, so that the longest captions are not always dropped.
        full = len(rows) - len(rows) % self.batch_size
        reach = self.batch_size * self.GROUPED_BATCHES
        parts = [rows[start : min(start + reach, full)] for start in range(0, full, reach)]
        grouped = [part[np.argsort(lengths[part], kind="stable")] for part in parts]
        if not grouped:
            return rows
        batches = np.concatenate(grouped).reshape(-1, self.batch_size)
        return np.concatenate([batches[generator.permutation(len(batches))].ravel(), rows[full:]])


class IdentitySampler(_EpochSampler):
    """Batches of P persons times K pairs: consecutive runs of K pairs show one person.

    An epoch is made of rounds in which each person gives K pairs; there are as many rounds as keep the epoch's length
    closest to one pass over the data. A person's pairs are used up in random order before any is drawn again, and a
    person with fewer than K pairs repeats.

    Args:
        person_ids: person of each row of the training set.
        instances: K, pairs per person; the batch size of a process must be a multiple of it.
        seed: with the epoch it fixes the order.
    Source: identity-balanced sampling of person re-identification (Hermans et al., arXiv 1703.07737).
    """

    def __init__(self, person_ids: Sequence[int], instances: int, seed: int = 0):
        super().__init__(seed)
        if instances < 1:
            raise ValueError(f"instances_per_identity must be at least 1 for identity sampling, found {instances}.")
        ids = np.asarray(person_ids)
        order = np.argsort(ids, kind="stable")
        self.rows_of_person = np.split(order, np.flatnonzero(np.diff(ids[order])) + 1)
        self.instances = instances
        self.rounds = max(1, round(len(ids) / (len(self.rows_of_person) * instances)))

    def __len__(self) -> int:
        return self.rounds * len(self.rows_of_person) * self.instances

    def __iter__(self) -> Iterator[PairKey]:
        generator, epoch = self._generator(), self.epoch
        needed = self.rounds * self.instances
        drawn = []
        for rows in self.rows_of_person:
            passes = -(-needed // len(rows))
            drawn.append(np.concatenate([generator.permutation(rows) for _ in range(passes)])[:needed])
        for round_number in range(self.rounds):
            start = round_number * self.instances
            for person in generator.permutation(len(drawn)).tolist():
                count = len(self.rows_of_person[person])
                for position in range(start, start + self.instances):
                    yield PairKey(int(drawn[person][position]), epoch, position // count)


def refuse_no_batch(pairs: int, batch_size: int) -> None:
    """A ValueError where the last batch, which is dropped, would be the first.

    Args:
        pairs: of an epoch.
        batch_size: of all processes together.
    """
    if pairs < batch_size:
        raise ValueError(
            f"{pairs} pairs are fewer than a batch of {batch_size} (of all processes together), so no step would be "
            "made. Lower per_device_train_batch_size, or set dataloader_drop_last to false."
        )


__all__ = ["IdentitySampler", "PairKey", "RandomPairSampler", "refuse_no_batch"]
