"""Focal losses: WAF in the readings that its abstract admits, and the cross-entropy over the training persons.

The paper names WAF and its purpose and gives no formula. Torch only.
"""

import math

import torch
from torch import Tensor

from .gather import mean_over_processes
from .matching_losses import MatchingLoss, as_float, checked, log_mass, plausibility, weighted_mean

WAF_WEIGHTINGS = ("plausible", "none", "redistribute", "balanced")
IDENTITY_WEIGHTINGS = ("none", "balanced")
MODALITIES = ("both", "image", "text")
IDENTITY = "identity"


def needs_gather(fn: MatchingLoss) -> MatchingLoss:
    """Marks a matching loss that `matching_loss` tells, by the keyword `gather`, whether the batch has other rows.

    Such a loss compares its rows with each other, and then those of all processes count.
    """
    fn.__dict__["needs_gather"] = True
    return fn


@needs_gather
def waf(
    logits: Tensor,
    positives: Tensor,
    gamma: float = 2.0,
    weighting: str = "plausible",
    alpha: float | None = None,
    gather: bool = False,
) -> Tensor:
    """Weight-adjusted focal loss: hard rows count more; how the weights are adjusted is an option.

    With p_ij the softmax of row i and m_i = sum of p_ij over its positives, by `weighting`:

    - "none": (1 - m_i)^gamma (-log m_i), the plain focal loss.
    - "plausible": the same times w_i = m_i / (m_i + m0), without gradient, where m0 is the share of positives among
      the columns, that is the m of a row guessed at random. A row that matches no better than chance counts half, a
      row that the model contradicts fades out, a learned row counts fully.
    - "redistribute": w_i (-log m_i) with w_i = (1 - m_i)^gamma / mean over the rows of (1 - m)^gamma, without
      gradient: a batch weighs the same at all times and its weight moves to the hard rows. It stands in the place of
      the inverse half of BSDM; gamma 1 makes it linear.
    - "balanced": each cell of the matrix of pairs is a binary example of probability p_ij, as Lin et al. weigh them:
      - sum_j a_j (1 - t_j)^gamma log t_j, where t is p and a is alpha at a positive, 1 - p and 1 - alpha elsewhere.

    Args:
        logits: similarities divided by the temperature, float [B, M].
        positives: True where row and column show the same person, bool [B, M]; at least one per row.
        gamma: focal exponent, 0 or at least 1; 0 switches the focal factor off.
        weighting: see above. The default is this package's own reading.
        alpha: of "balanced" only, in (0, 1). `None`: the share of negatives in the row, so that both kinds of cells
            weigh the same in all.
        gather: of "redistribute": the mean is that of the rows of all processes; `matching_loss` passes its own.
    Returns:
        nats, float32 [B].
    Raises:
        ValueError: shapes differ, a row has no positive, an option is not valid or has no effect.
    Source: AMNS (arXiv 2409.06385) for the idea; focal factor and alpha from Lin et al. (ICCV 2017, arXiv
    1708.02002), equations 4 and 5.
    """
    _check_gamma("waf", gamma)
    if weighting not in WAF_WEIGHTINGS:
        raise ValueError(f"waf: weighting must be one of {WAF_WEIGHTINGS}, found {weighting!r}.")
    if weighting == "redistribute" and gamma == 0:
        raise ValueError("waf: weighting redistribute weighs by (1 - m)^gamma, and gamma 0 makes all weights equal.")
    if alpha is not None and weighting != "balanced":
        raise ValueError(f"waf: alpha has no effect with weighting {weighting}; it belongs to balanced.")
    if alpha is not None and not 0 < alpha < 1:
        raise ValueError(f"waf: alpha must lie in (0, 1), found {alpha}.")
    logits = checked(logits, positives)
    if weighting == "balanced":
        return _binary_focal(logits, positives, gamma, alpha)
    log_m = log_mass(logits, positives)
    if weighting == "redistribute":
        hard = focal_factor(log_m.detach(), gamma)
        mean = mean_over_processes(hard.mean()) if gather else hard.mean()
        # Rows that are all learned to the last digit have nothing to redistribute.
        return hard / mean.clamp(min=torch.finfo(hard.dtype).tiny) * -log_m
    loss = focal_factor(log_m, gamma) * -log_m
    return loss * plausibility(log_m, positives) if weighting == "plausible" else loss


def _binary_focal(logits: Tensor, positives: Tensor, gamma: float, alpha: float | None) -> Tensor:
    """The focal loss of each cell as a binary example, summed over the columns of a row; float [B]."""
    share = 1 - positives.to(logits.dtype).mean(dim=1, keepdim=True)
    if alpha is not None:
        share = torch.full_like(share, alpha)
    log_p = logits.log_softmax(dim=1)
    top = logits.argmax(dim=1, keepdim=True)
    # 1 - p of the largest column is the sum of the others: from p itself it would round to 0. Of the rest p <= 1/2.
    others = logits.scatter(1, top, torch.finfo(logits.dtype).min).logsumexp(dim=1, keepdim=True)
    rest = torch.log1p(-log_p.clamp(max=-math.log(2)).exp())
    log_not = rest.scatter(1, top, others - logits.logsumexp(dim=1, keepdim=True))
    log_t = torch.where(positives, log_p, log_not)
    weight = torch.where(positives, share, 1 - share)
    # (1 - t)^gamma is exp(gamma log(1 - t)), and both logarithms are there.
    factor = torch.where(positives, log_not, log_p).mul(gamma).exp()
    return -(weight * factor * log_t).sum(dim=1)


def focal_factor(log_probability: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma from log p, stable where p is close to 1; gradient flows through it."""
    if gamma == 0:
        return torch.ones_like(log_probability)
    return (-torch.expm1(log_probability)).clamp(min=0).pow(gamma)


def _check_gamma(name: str, gamma: float) -> None:
    if gamma != 0 and not gamma >= 1:
        raise ValueError(f"{name}: gamma must be 0 or at least 1 (between, its gradient is unbounded), found {gamma}.")


def identity_loss(
    image_logits: Tensor,
    text_logits: Tensor,
    person_ids: Tensor,
    gamma: float = 0.0,
    modality: str = "both",
    weighting: str = "none",
    counts: Tensor | None = None,
    image_weights: Tensor | None = None,
    text_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over the training identities, averaged over image and text, or of one of them.

    A wrong pair keeps the person of its image: its caption teaches the classifier a wrong person, its image does not.

    Args:
        image_logits: classifier scores of the images, float [B, identities].
        text_logits: classifier scores of the captions, float [B, identities].
        person_ids: int64 [B], 0-based and below the number of identities.
        gamma: focal exponent, 0 or at least 1; above 0, each term is multiplied by (1 - p)^gamma, as in `waf`.
        modality: "both" is the mean of the two, "image" and "text" are one alone, with its full weight.
        weighting: "balanced" multiplies each row by alpha of its person, the mean of `counts` divided by the
            person's, so that persons weigh the same over an epoch; with gamma 2 it is WAF as a classifier's loss
            would be written. "none": 1.
        counts: pairs of each training person, int64 [identities or fewer]; for "balanced". `AMNSTrainer` counts them.
        image_weights, text_weights: what each row's term counts, float [B]; as `row_weights` of `matching_loss`.
    Returns:
        scalar, float32, nats.
    Raises:
        ValueError: an option is not valid, or "balanced" without `counts`.
    Source: dual-path identity loss (Zheng et al., arXiv 1711.05535), as used by IRRA; alpha and gamma from Lin et al.
    (ICCV 2017, arXiv 1708.02002), equation 5.
    """
    _check_gamma(IDENTITY, gamma)
    if modality not in MODALITIES:
        raise ValueError(f"identity: modality must be one of {MODALITIES}, found {modality!r}.")
    if weighting not in IDENTITY_WEIGHTINGS:
        raise ValueError(f"identity: weighting must be one of {IDENTITY_WEIGHTINGS}, found {weighting!r}.")
    if weighting == "balanced" and counts is None:
        raise ValueError("identity: weighting balanced needs counts, the pairs of each training person.")
    terms = []
    image, text = (image_logits, image_weights), (text_logits, text_weights)
    for logits, row_weights in {"both": (image, text), "image": (image,), "text": (text,)}[modality]:
        log_p = as_float(logits).log_softmax(dim=1).gather(1, person_ids[:, None])[:, 0]
        term = -focal_factor(log_p, gamma) * log_p
        if weighting == "balanced" and counts is not None:
            own = counts.to(log_p.dtype)
            term = term * own.sum() / (own > 0).sum() / own[person_ids]
        terms.append(weighted_mean(term, row_weights))
    return torch.stack(terms).mean()


__all__ = [
    "IDENTITY",
    "IDENTITY_WEIGHTINGS",
    "MODALITIES",
    "WAF_WEIGHTINGS",
    "focal_factor",
    "identity_loss",
    "needs_gather",
    "waf",
]
