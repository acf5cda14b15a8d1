"""Whether one way to train is better than another: paired differences with a bootstrap over persons and seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS, LEVEL = 4000, 0.95


@dataclass(frozen=True)
class PersonFigures:
    """What one run reached on each person of the test split.

    Args:
        queries: captions of each person, int64 [P]; persons stand in the order of their ids.
        values: mean of the figure over the captions of each, in percent, float64 [P].
    """

    queries: np.ndarray
    values: np.ndarray

    @property
    def mean(self) -> float:
        """Over all queries, in percent."""
        return float(np.average(self.values, weights=self.queries))


@dataclass(frozen=True)
class Difference:
    """A difference between two rows, in points.

    Args:
        mean: over seeds and queries.
        low, high: ends of the interval.
        seeds: how many both rows have.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side."""
        return self.low > 0 or self.high < 0


def paired_difference(
    ours: Mapping[int, PersonFigures], theirs: Mapping[int, PersonFigures], draws: int = DRAWS, level: float = LEVEL
) -> Difference | None:
    """Ours minus theirs, over the seeds that both have, with a bootstrap interval.

    Each draw takes seeds with replacement and, for all of them together, persons with replacement: every seed is
    tested on the same persons, so a hard person is hard under each, and drawing the persons of each seed apart would
    make the interval too short (the pigeonhole bootstrap of Owen, arXiv 0711.2432). With one seed only persons are
    drawn: the interval then says nothing of other seeds.

    Args:
        ours, theirs: figures by seed, of the same persons.
        draws: of the bootstrap.
        level: share of the draws that the interval holds.
    Returns:
        `None` where no seed is common to both.
    Raises:
        ValueError: the persons or their queries differ.
    """
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return None
    queries = ours[seeds[0]].queries
    for figures in [row[seed] for row in (ours, theirs) for seed in seeds]:
        if not np.array_equal(figures.queries, queries):
            raise ValueError("The runs were tested on different persons or captions; they can't be compared.")
    differences = np.stack([ours[seed].values - theirs[seed].values for seed in seeds]) * queries
    drawn = _bootstrap(differences, queries, draws)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    mean = differences.sum() / (len(seeds) * queries.sum())
    return Difference(float(mean), float(low), float(high), len(seeds))


def _bootstrap(sums: np.ndarray, queries: np.ndarray, draws: int) -> np.ndarray:
    """Means of `draws` samples of seeds and persons; `sums` [S, P] over the queries of each."""
    # A seed of its own: the same figures, the same interval.
    rng = np.random.default_rng(0)
    seeds, persons = sums.shape
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws)
    means = np.empty(draws)
    for start in range(0, draws, 500):
        part = slice(start, start + 500)
        person_weights = rng.multinomial(persons, np.full(persons, 1 / persons), len(means[part]))
        total = np.einsum("ds,sp,dp->d", seed_weights[part], sums, person_weights, optimize=True)
        means[part] = total / (seeds * (person_weights @ queries))
    return means


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds, `None` of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


__all__ = ["DRAWS", "LEVEL", "Difference", "PersonFigures", "paired_difference", "spread"]
