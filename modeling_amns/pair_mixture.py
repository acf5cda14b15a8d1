"""Which pairs a run finds doubtful: a mixture of two normal distributions over its pairs' losses."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging

from .extras import require

logger = logging.get_logger(__name__)

EXTRA = "audit"
FEWEST = 10
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PairMixture:
    """Two groups of pairs by their losses.

    Args:
        plausible: probability that a pair belongs to the group of low losses, float32 [pairs].
        low, high: mean loss of each group in nats; `None` where there are not two.
    """

    plausible: Floats
    low: float | None = None
    high: float | None = None

    @property
    def doubtful_share(self) -> float:
        """Estimated share of wrong pairs, in [0, 1]."""
        return float(1 - self.plausible.mean(dtype=np.float64)) if len(self.plausible) else 0.0


def fit_pairs(losses: NDArray[np.floating], seed: int = 0) -> PairMixture:
    """Fits the mixture; nothing is told of how many pairs are wrong.

    Args:
        losses: -log m of each pair in nats, NaN where it is not known, [pairs].
        seed: of the start of the fit.
    """
    known = np.isfinite(losses)
    values = np.asarray(losses, np.float64)[known]
    alone = PairMixture(np.ones(len(losses), np.float32))
    if len(values) < FEWEST or np.ptp(values) < 1e-6:
        logger.warning(f"{len(values)} losses of pairs make no two groups: every pair counts fully.")
        return alone
    x = _spread(values)[:, None]
    model = require("sklearn.mixture", EXTRA, "pair_weighting").GaussianMixture(2, random_state=seed, n_init=1)
    model.fit(x)
    low = int(model.means_[:, 0].argmin())
    probability = model.predict_proba(x)[:, low]
    probability = _falling(values, probability, float(values[np.abs(x[:, 0] - model.means_[low, 0]).argmin()]))
    plausible = np.full(len(losses), probability.mean(), np.float32)
    plausible[known] = probability
    means = [float((share * values).sum() / share.sum()) for share in (probability, 1 - probability)]
    return PairMixture(plausible, *means)


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values - values.mean()) / values.std()


def _falling(values: NDArray[np.float64], probability: NDArray[np.float64], peak: float) -> NDArray[np.float64]:
    """Makes a higher loss never more plausible: of two normal distributions the wider one wins on both far sides."""
    order = np.argsort(values, kind="stable")
    falling = probability[order].copy()
    left = values[order] <= peak
    falling[left] = falling[left].max(initial=0.0)
    result = np.empty_like(falling)
    result[order] = np.minimum.accumulate(falling)
    return result


__all__ = ["EXTRA", "PairMixture", "fit_pairs"]
