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
    """Every pair once an epoch, in random order.

    Args:
        num_pairs: rows of the training set.
        seed: with the epoch it fixes the order.
    """

    def __init__(self, num_pairs: int, seed: int = 0):
        super().__init__(seed)
        self.num_pairs = num_pairs

    def __len__(self) -> int:
        return self.num_pairs

    def __iter__(self) -> Iterator[PairKey]:
        epoch = self.epoch
        for row in self._generator().permutation(self.num_pairs).tolist():
            yield PairKey(row, epoch)


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
                rows = len(self.rows_of_person[person])
                for position in range(start, start + self.instances):
                    yield PairKey(int(drawn[person][position]), epoch, position // rows)


__all__ = ["IdentitySampler", "PairKey", "RandomPairSampler"]
