"""Divergences between the matching that a batch predicts and the true one, and their robust relatives. Torch only.

Each takes one direction, `(logits [B, M], positives [B, M])`, and returns one value per row, float32 [B] (float64
stays float64). `losses` names them all and takes both directions.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

MatchingLoss = Callable[..., Tensor]
_Loss = TypeVar("_Loss", bound=MatchingLoss)
# Weights of the inverse half; of `waf` there are more.
INVERSE_WEIGHTINGS = ("none", "plausible")


def needs_temperature(fn: _Loss) -> _Loss:
    """Marks a matching loss that `matching_loss` tells its temperature, by the keyword `temperature`.

    Without the mark a parameter of that name is the loss's own affair and keeps its default.
    """
    fn.__dict__["needs_temperature"] = True
    return fn


def itc(logits: Tensor, positives: Tensor) -> Tensor:
    """InfoNCE of CLIP: the pair on the diagonal is the one positive, all other columns are negatives.

    `matching_loss` sums both directions, where CLIP halves them: this weighs twice as much as there.

    Args:
        logits: similarities divided by the temperature, float [B, M], M >= B; column i belongs to row i.
        positives: True where row and column show the same person, bool [B, M]; only checked.
    Returns:
        -log p_ii in nats, float32 [B].
    Raises:
        ValueError: shapes differ, fewer columns than rows, or a row has no positive.
    Source: CLIP (arXiv 2103.00020), section 2.3.
    """
    logits = checked(logits, positives)
    if logits.shape[1] < logits.shape[0]:
        raise ValueError(f"itc needs a column for each row, found logits {tuple(logits.shape)}.")
    return -logits.log_softmax(dim=1).diagonal()


def sdm(logits: Tensor, positives: Tensor, eps: float = 1e-8) -> Tensor:
    """Similarity distribution matching: KL from the predicted to the true matching distribution.

    With one positive of probability m it is -log(eps) (1 - m) minus the entropy of p, up to the last digits: a mean
    absolute error, 18.4 times. Its pull on a row fades with m, so a pair that the model contradicts is let go: the
    robust half of BSDM. From random weights, where every m is small, it hardly starts.

    Args:
        logits: similarities divided by the temperature, float [B, M].
        positives: True where row and column show the same person, bool [B, M]; at least one per row.
        eps: added to the true distribution inside the logarithm.
    Returns:
        sum_j p_j (log p_j - log(q_j + eps)) in nats, float32 [B].
    Raises:
        ValueError: shapes differ or a row has no positive.
    Source: IRRA (CVPR 2023, arXiv 2303.12501), equation 6; as its published code.
    """
    logits = checked(logits, positives)
    log_p = logits.log_softmax(dim=1)
    q = positives.to(log_p.dtype) / positives.sum(dim=1, keepdim=True)
    return (log_p.exp() * (log_p - (q + eps).log())).sum(dim=1)


def inverse_sdm(logits: Tensor, positives: Tensor, smoothing: float = 0.0, weighting: str = "none") -> Tensor:
    """Inverse KL of similarity distribution matching: from the true to the predicted distribution.

    A cross-entropy: it pulls probability onto every positive of a row, most where the model contradicts the pair, so
    it learns and it memorises. Its gradient on a logit is p - q, bounded by 1.

    Args:
        logits: similarities divided by the temperature, float [B, M].
        positives: True where row and column show the same person, bool [B, M]; at least one per row.
        smoothing: l in [0, 1). The truth is q' = (1 - l) q + l / M, as label smoothing: the pull turns round once a
            row gives its positives more than 1 - l (1 - k / M), k of them, so that no row becomes overconfident.
        weighting: "plausible" multiplies each row by w = m / (m + chance), as in `waf`; "none" by 1.
    Returns:
        sum_j q'_j (log q'_j - log p_j) in nats with 0 log 0 = 0, float32 [B].
    Raises:
        ValueError: shapes differ, a row has no positive, `smoothing` or `weighting` is not valid.
    Source: AMNS (arXiv 2409.06385), the inverse half of BSDM; smoothing from Szegedy et al. (CVPR 2016, arXiv
    1512.00567), section 7. Smoothing and weighting are this package's readings.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must lie in [0, 1), found {smoothing}.")
    if weighting not in INVERSE_WEIGHTINGS:
        raise ValueError(f"weighting of the inverse KL must be one of {INVERSE_WEIGHTINGS}, found {weighting!r}.")
    logits = checked(logits, positives)
    count = positives.sum(dim=1).to(logits.dtype)
    log_p = logits.log_softmax(dim=1)
    if smoothing:
        columns = logits.shape[1]
        q = (1 - smoothing) * positives.to(log_p.dtype) / count[:, None] + smoothing / columns
        loss = (q * (q.log() - log_p)).sum(dim=1)
    else:
        loss = -torch.where(positives, log_p, 0.0).sum(dim=1) / count - count.log()
    return loss * plausibility(log_mass(logits, positives), positives) if weighting == "plausible" else loss


def bsdm(
    logits: Tensor,
    positives: Tensor,
    inverse_weight: float = 1.0,
    eps: float = 1e-8,
    smoothing: float = 0.0,
    inverse_weighting: str = "none",
) -> Tensor:
    """Bidirectional similarity distribution matching: `sdm + inverse_weight * inverse_sdm`.

    Symmetric cross-entropy with another name: `sdm` lets go what the model contradicts, `inverse_sdm` learns it.
    `inverse_weight` is the dial between the two.

    Args:
        logits: similarities divided by the temperature, float [B, M].
        positives: True where row and column show the same person, bool [B, M]; at least one per row.
        inverse_weight: weight of the inverse KL. The paper's weight is not published; 1 is this package's choice.
        eps: as in `sdm`.
        smoothing: as in `inverse_sdm`; the `sdm` half keeps the plain truth.
        inverse_weighting: `weighting` of `inverse_sdm`.
    Returns:
        nats, float32 [B].
    Raises:
        ValueError: shapes differ, a row has no positive, or an option of `inverse_sdm` is not valid.
    Source: AMNS (arXiv 2409.06385), BSDM; its kin: Wang et al. (ICCV 2019, arXiv 1908.06112).

    ```python
    >>> import torch
    >>> bsdm(torch.tensor([[4.0, 0.0], [0.0, 4.0]]), torch.eye(2, dtype=torch.bool))
    tensor([0.2594, 0.2594])

    ```
    """
    robust, learner = bsdm_halves(logits, positives, inverse_weight, eps, smoothing, inverse_weighting)
    return robust + learner


def bsdm_halves(
    logits: Tensor,
    positives: Tensor,
    inverse_weight: float = 1.0,
    eps: float = 1e-8,
    smoothing: float = 0.0,
    inverse_weighting: str = "none",
) -> tuple[Tensor, Tensor]:
    """The two parts of `bsdm`, float32 [B] each: `sdm`, and the inverse half with its weight; arguments as there."""
    if inverse_weight == 0 and (smoothing or inverse_weighting != "none"):
        raise ValueError("smoothing and inverse_weighting shape the inverse half, which inverse_weight 0 leaves out.")
    inverse = inverse_sdm(logits, positives, smoothing, inverse_weighting)
    return sdm(logits, positives, eps), inverse_weight * inverse


def gce(logits: Tensor, positives: Tensor, q: float = 0.7) -> Tensor:
    """Generalised cross-entropy: the textbook loss under wrong labels, between cross-entropy and absolute error.

    Args:
        logits: similarities divided by the temperature, float [B, M].
        positives: True where row and column show the same person, bool [B, M]; at least one per row.
        q: in (0, 1]; near 0 it is -log m, at 1 it is 1 - m.
    Returns:
        (1 - m^q) / q with m the sum of p over the positives, float32 [B].
    Raises:
        ValueError: shapes differ, a row has no positive, or `q` is not valid.
    Source: Zhang and Sabuncu (NeurIPS 2018, arXiv 1805.07836), the loss L_q; 0.7 is theirs.
    """
    if not 0 < q <= 1:
        raise ValueError(f"gce: q must lie in (0, 1], found {q}.")
    return -torch.expm1(q * log_mass(checked(logits, positives), positives)) / q


@needs_temperature
def tal(logits: Tensor, positives: Tensor, margin: float = 0.1, temperature: float = 0.02) -> Tensor:
    """Triplet alignment loss: a triplet loss whose hardest negative is softened to a log-sum-exp.

    Its unit is the similarity, so its gradient on a logit is `temperature` times that of the other losses here: give
    it the weight 1 / temperature beside or instead of them. RDE sums over its batch of 64 rows, `matching_loss` means.

    Args:
        logits: similarities divided by the temperature, float [B, M].
        positives: True where row and column show the same person, bool [B, M]; at least one per row.
        margin: in units of cosine similarity.
        temperature: the one that `logits` were divided by; `matching_loss` passes its own.
    Returns:
        max(0, margin - sum_pos a_j s_j + temperature * log sum_neg exp(s_j / temperature)) with s = logits *
        temperature and a = softmax of the logits over the positives (no gradient), in units of similarity,
        float32 [B]; 0 for a row without negatives.
    Raises:
        ValueError: shapes differ or a row has no positive.
    Source: RDE (CVPR 2024, arXiv 2308.09911), equation 6.
    """
    logits = checked(logits, positives)
    # Finite instead of -inf: a row without negatives then has a finite log-sum-exp and no NaN in its gradient.
    lowest = torch.finfo(logits.dtype).min
    alpha = logits.detach().masked_fill(~positives, lowest).softmax(dim=1)
    positive = torch.where(positives, alpha * logits, 0.0).sum(dim=1)
    negative = logits.masked_fill(positives, lowest).logsumexp(dim=1)
    return (margin + temperature * (negative - positive)).clamp(min=0)


def log_mass(logits: Tensor, positives: Tensor) -> Tensor:
    """log m: of each row, the logarithm of the probability that it gives to its positives; float [B]."""
    return logits.masked_fill(~positives, -float("inf")).logsumexp(dim=1) - logits.logsumexp(dim=1)


def plausibility(log_m: Tensor, positives: Tensor) -> Tensor:
    """m / (m + chance) of each row, without gradient; chance is the m of a row guessed at random.

    Args:
        log_m: of `log_mass`, float [B].
        positives: bool [B, M]; chance is the share of them in a row.
    """
    m = log_m.detach().exp()
    return m / (m + positives.to(m.dtype).mean(dim=1))


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """sum_i w_i x_i / B; without weights the plain mean."""
    return values.mean() if weights is None else (weights * values).mean()


def as_float(values: Tensor) -> Tensor:
    """At least float32; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()


def checked(logits: Tensor, positives: Tensor) -> Tensor:
    """Logits in float32 after the checks that every matching loss shares.

    Raises:
        ValueError: shapes differ or a row has no positive.
    """
    if logits.ndim != 2 or logits.shape != positives.shape or positives.dtype != torch.bool:
        raise ValueError(
            f"Expected logits [B, M] and boolean positives of the same shape, found {tuple(logits.shape)} and "
            f"{positives.dtype} {tuple(positives.shape)}."
        )
    has_positive = positives.any(dim=1)
    if logits.device.type == "cpu":
        if not has_positive.all():
            rows = (~has_positive).nonzero()[:5, 0].tolist()
            raise ValueError(
                f"{int((~has_positive).sum())} of {len(positives)} rows have no positive (first: {rows}). Every row "
                "needs a column of the same person; a pair's own caption is one."
            )
    else:
        # Checked on the device, so that a training step never waits for it.
        torch._assert_async(has_positive.all(), "a row of `positives` has no positive")
    return as_float(logits)


__all__ = [
    "INVERSE_WEIGHTINGS",
    "MatchingLoss",
    "as_float",
    "bsdm",
    "bsdm_halves",
    "checked",
    "gce",
    "inverse_sdm",
    "itc",
    "log_mass",
    "needs_temperature",
    "plausibility",
    "sdm",
    "tal",
    "weighted_mean",
]
