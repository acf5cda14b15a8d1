"""Which pairs a run finds doubtful: a mixture of two normal distributions over its pairs' losses."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging

from .extras import require

logger = logging.get_logger(__name__)

EXTRA = "audit"
FEWEST = 10
# Share of a guess's loss. Pairs whose captions are other persons' lose about as much as a guess, somewhat less from a
# model that begins to memorise; those that are learnt lose less than that on average.
CONTRADICTED = 0.9


@dataclass(frozen=True)
class PairMixture:
    """Two groups of pairs by their losses.

    Args:
        plausible: probability that a pair belongs to the group of low losses, float32 [pairs].
        low, high: mean loss of each group in nats; `None` where there are not two.
    """

    plausible: NDArray[np.float32]
    low: float | None = None
    high: float | None = None

    @property
    def doubtful_share(self) -> float:
        """Estimated share of wrong pairs, in [0, 1]."""
        return float(1 - self.plausible.mean(dtype=np.float64)) if len(self.plausible) else 0.0


def guess_loss(columns: int, positives: int = 1) -> float:
    """-log m in nats of a row that is guessed among so many columns, of which so many show its person."""
    return math.log(max(1.0, columns / max(1, positives)))


def fit_pairs(losses: NDArray[np.floating], guess: float, seed: int = 0) -> PairMixture:
    """Finds the group of low losses and that of high ones; how many pairs are wrong is not told, but estimated.

    Fitted to the fourth roots, of which both groups are closest to normal: losses of pairs that are learnt crowd at 0
    and have a long tail, and with square roots the hard ones are called wrong (docs/data.md has the figures). A higher
    loss is never the more plausible one, although of two normal distributions the wider wins far out on both sides.

    All pairs are plausible, and a line says so, where two groups make no sense: fewer than 10 losses, all alike, no
    better explained by two than by one (Bayesian information criterion), a low group that loses about what a guess
    does (nothing is learnt, or everything is wrong), or a high group that loses less (hard pairs of clean data; what
    is memorised).

    Args:
        losses: means or moving averages of -log m, NaN where a pair was not seen, [pairs].
        guess: what a guess loses, in the same units; see `guess_loss`.
        seed: of the fit's start.
    Returns:
        for a pair without a loss, the mean of the others.
    Raises:
        ImportError: scikit-learn is not installed.

    ```python
    >>> losses = np.concatenate([np.full(30, 0.1), np.full(10, 5.0)]) + np.linspace(0, 0.1, 40)
    >>> found = fit_pairs(losses, guess_loss(64))
    >>> round(found.doubtful_share, 3), round(found.low, 2), round(found.high, 2)
    (0.25, 0.14, 5.09)

    ```
    """
    known = np.isfinite(losses) & (losses >= 0)
    values = np.asarray(losses, np.float64)[known]
    if len(values) < FEWEST or np.ptp(values) < 1e-6:
        return _one_group(
            len(losses), f"{len(values)} known losses" + (", all alike" if len(values) >= FEWEST else "")
        )
    roots = values**0.25
    # Of unit spread, so that the fit's own tolerances mean the same for any losses.
    scaled = (roots / roots.std())[:, None]
    mixture = require("sklearn.mixture", EXTRA, "pair_weighting").GaussianMixture
    # Its default tolerance stops a point or two of the share too early.
    model = mixture(2, tol=1e-5, max_iter=1000, random_state=seed)
    group = int(model.fit(scaled).means_.argmin())
    if model.bic(scaled) >= mixture(1).fit(scaled).bic(scaled):
        return _one_group(len(losses), "one normal distribution explains them as well as two")
    probability = model.predict_proba(scaled)[:, group]
    probability = _falling(roots, probability, model.means_.min() * roots.std())
    low, high = (float(np.average(values, weights=part + 1e-12)) for part in (probability, 1 - probability))
    if not low < CONTRADICTED * guess <= high:
        return _one_group(len(losses), f"groups at {low:.3g} and {high:.3g}, where a guess loses {guess:.3g}")
    plausible = np.full(len(losses), probability.mean(), np.float32)
    plausible[known] = probability
    return PairMixture(plausible, low, high)


def _one_group(pairs: int, reason: str) -> PairMixture:
    logger.warning(f"The losses of {pairs} pairs tell no plausible ones from doubtful ones: {reason}.")
    return PairMixture(np.ones(pairs, np.float32))


def _falling(values: NDArray[np.float64], probability: NDArray[np.float64], center: float) -> NDArray[np.float64]:
    """The probabilities, made to fall with the value; below the center of the low group all are its highest."""
    order = np.argsort(values, kind="stable")
    falling = probability[order]
    below = values[order] <= center
    falling[below] = falling[below].max(initial=0.0)
    result = np.empty_like(falling)
    result[order] = np.minimum.accumulate(falling)
    return result


__all__ = ["EXTRA", "PairMixture", "fit_pairs", "guess_loss"]
