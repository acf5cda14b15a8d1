"""Losses between images and captions of persons, robust to wrong pairs.

A matching loss takes one direction, `(logits [B, M], positives [B, M])`, and returns one value per row, float32 [B]
(float64 stays float64). `matching_loss` normalises embeddings, builds both directions, gathers the columns of all
processes and returns the training scalar. `register_loss` gives a loss of your own a name for `loss_weights`. Torch
only; nothing here knows a model.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .gather import gather_columns

WAF_WEIGHTINGS = ("plausible", "none")
IDENTITY = "identity"

MatchingLoss = Callable[..., Tensor]
_Loss = TypeVar("_Loss", bound=MatchingLoss)


def needs_temperature(fn: _Loss) -> _Loss:
    """Marks a matching loss that `matching_loss` tells its temperature, by the keyword `temperature`.

    Without the mark a parameter of that name is the loss's own affair and keeps its default.
    """
    fn.__dict__["needs_temperature"] = True
    return fn


def itc(logits: Tensor, positives: Tensor) -> Tensor:
    """InfoNCE of CLIP: the pair on the diagonal is the one positive, all other columns are negatives.

    Args:
        logits: similarities divided by the temperature, float [B, M], M >= B; column i belongs to row i.
        positives: True where row and column show the same person, bool [B, M]; only checked.
    Returns:
        -log p_ii in nats, float32 [B].
    Raises:
        ValueError: shapes differ, fewer columns than rows, or a row has no positive.
    Source: CLIP (arXiv 2103.00020), section 2.3.
    """
    logits = _checked(logits, positives)
    if logits.shape[1] < logits.shape[0]:
        raise ValueError(f"itc needs a column for each row, found logits {tuple(logits.shape)}.")
    return -logits.log_softmax(dim=1).diagonal()


def sdm(logits: Tensor, positives: Tensor, eps: float = 1e-8) -> Tensor:
    """Similarity distribution matching: KL from the predicted to the true matching distribution.

    Mode-seeking: it punishes probability on wrong columns by about -log(eps), which makes it sharp on clean pairs and
    prone to memorise wrong ones.

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
    logits = _checked(logits, positives)
    log_p = logits.log_softmax(dim=1)
    q = positives.to(log_p.dtype) / positives.sum(dim=1, keepdim=True)
    return (log_p.exp() * (log_p - (q + eps).log())).sum(dim=1)


def inverse_sdm(logits: Tensor, positives: Tensor) -> Tensor:
    """Inverse KL of similarity distribution matching: from the true to the predicted distribution.

    Pulls probability onto every positive of a row; its gradient on a logit is p - q, bounded by 1.

    Args:
        logits: similarities divided by the temperature, float [B, M].
        positives: True where row and column show the same person, bool [B, M]; at least one per row.
    Returns:
        sum_j q_j (log q_j - log p_j) in nats with 0 log 0 = 0, float32 [B].
    Raises:
        ValueError: shapes differ or a row has no positive.
    Source: AMNS (arXiv 2409.06385), the inverse half of BSDM.
    """
    logits = _checked(logits, positives)
    count = positives.sum(dim=1).to(logits.dtype)
    log_p = logits.log_softmax(dim=1)
    return -torch.where(positives, log_p, 0.0).sum(dim=1) / count - count.log()


def bsdm(logits: Tensor, positives: Tensor, inverse_weight: float = 1.0, eps: float = 1e-8) -> Tensor:
    """Bidirectional similarity distribution matching: `sdm + inverse_weight * inverse_sdm`.

    Args:
        logits: similarities divided by the temperature, float [B, M].
        positives: True where row and column show the same person, bool [B, M]; at least one per row.
        inverse_weight: weight of the inverse KL. The paper's weight is not published; 1 is this package's choice.
        eps: as in `sdm`.
    Returns:
        nats, float32 [B].
    Raises:
        ValueError: shapes differ or a row has no positive.
    Source: AMNS (arXiv 2409.06385), BSDM.

    ```python
    >>> import torch
    >>> bsdm(torch.tensor([[4.0, 0.0], [0.0, 4.0]]), torch.eye(2, dtype=torch.bool))
    tensor([0.2594, 0.2594])

    ```
    """
    return sdm(logits, positives, eps) + inverse_weight * inverse_sdm(logits, positives)


@needs_temperature
def tal(logits: Tensor, positives: Tensor, margin: float = 0.1, temperature: float = 0.02) -> Tensor:
    """Triplet alignment loss: a triplet loss whose hardest negative is softened to a log-sum-exp.

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
    logits = _checked(logits, positives)
    # Finite instead of -inf: a row without negatives then has a finite log-sum-exp and no NaN in its gradient.
    lowest = torch.finfo(logits.dtype).min
    alpha = logits.detach().masked_fill(~positives, lowest).softmax(dim=1)
    positive = torch.where(positives, alpha * logits, 0.0).sum(dim=1)
    negative = logits.masked_fill(positives, lowest).logsumexp(dim=1)
    return (margin + temperature * (negative - positive)).clamp(min=0)


def waf(logits: Tensor, positives: Tensor, gamma: float = 2.0, weighting: str = "plausible") -> Tensor:
    """Weight-adjusted focal loss: hard rows count more, implausible rows do not dominate.

    With m_i = sum of p_ij over the positives of row i: `w_i (1 - m_i)^gamma (-log m_i)`. The abstract of the paper
    names this loss and its purpose but gives no formula; this is the package's own reading, and both parts can be
    switched off.

    Args:
        logits: similarities divided by the temperature, float [B, M].
        positives: True where row and column show the same person, bool [B, M]; at least one per row.
        gamma: focal exponent, 0 or at least 1; 0 switches the focal factor off.
        weighting: "plausible": w_i = m_i / (m_i + m0), without gradient, where m0 is the share of positives among
            the columns, that is the m of a row guessed at random. A row that matches no better than chance counts
            half, a row that the model contradicts fades out, a learned row counts fully. "none": w_i = 1.
    Returns:
        nats, float32 [B].
    Raises:
        ValueError: shapes differ, a row has no positive, `gamma` or `weighting` is not valid.
    Source: AMNS (arXiv 2409.06385) for the idea; focal factor from Lin et al. (ICCV 2017, arXiv 1708.02002), equation
    4.
    """
    _check_gamma("waf", gamma)
    if weighting not in WAF_WEIGHTINGS:
        raise ValueError(f"waf: weighting must be one of {WAF_WEIGHTINGS}, found {weighting!r}.")
    logits = _checked(logits, positives)
    log_m = logits.masked_fill(~positives, -math.inf).logsumexp(dim=1) - logits.logsumexp(dim=1)
    loss = focal_factor(log_m, gamma) * -log_m
    if weighting == "plausible":
        chance = positives.to(logits.dtype).mean(dim=1)
        m = log_m.detach().exp()
        loss = loss * m / (m + chance)
    return loss


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
    *,
    image_weights: Tensor | None = None,
    text_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over the training identities, averaged over image and text.

    Args:
        image_logits: classifier scores of the images, float [B, identities].
        text_logits: classifier scores of the captions, float [B, identities].
        person_ids: int64 [B], 0-based and below the number of identities.
        gamma: focal exponent, 0 or at least 1; above 0, each term is multiplied by (1 - p)^gamma, as in `waf`.
        image_weights, text_weights: what each row's term counts, float [B]; as `row_weights` of `matching_loss`.
    Returns:
        scalar, float32, nats.
    Raises:
        ValueError: `gamma` is not valid.
    Source: dual-path identity loss (Zheng et al., arXiv 1711.05535), as used by IRRA.
    """
    _check_gamma(IDENTITY, gamma)
    terms = []
    for logits, weights in ((image_logits, image_weights), (text_logits, text_weights)):
        log_p = _float(logits).log_softmax(dim=1).gather(1, person_ids[:, None])[:, 0]
        terms.append(_mean(-focal_factor(log_p, gamma) * log_p, weights))
    return (terms[0] + terms[1]) / 2


MATCHING_LOSSES: dict[str, MatchingLoss] = {
    "itc": itc,
    "sdm": sdm,
    "inverse_sdm": inverse_sdm,
    "bsdm": bsdm,
    "tal": tal,
    "waf": waf,
}


def loss_names() -> tuple[str, ...]:
    """Names that `loss_weights` may use: the package's losses, those of `register_loss`, and `identity`."""
    return (*MATCHING_LOSSES, IDENTITY)


def register_loss(name: str, fn: MatchingLoss) -> None:
    """Gives a matching loss of your own a name for `loss_weights` and `loss_options`, in each process that calls it.

    Args:
        name: used in options, log entries (`loss_<name>`) and reports.
        fn: `(logits [B, M], positives [B, M], **options) -> [B]`; see `needs_temperature`.
    Raises:
        ValueError: the name is taken by another loss, or is no plain word; `fn` can't be called.

    ```python
    >>> import torch
    >>> def hinge(logits, positives, margin=1.0):
    ...     own = logits.masked_fill(~positives, float("inf")).amin(dim=1)
    ...     return (margin + logits.masked_fill(positives, float("-inf")).amax(dim=1) - own).clamp(min=0)
    >>> register_loss("hinge", hinge)
    >>> check_options("hinge", {"margin": 0.5})

    ```
    """
    if not callable(fn) or not name.isidentifier():
        raise ValueError(f"A loss is a function under a plain word as its name, found {fn!r} as {name!r}.")
    if name == IDENTITY or MATCHING_LOSSES.get(name, fn) is not fn:
        raise ValueError(f"There is a loss {name!r} already; the names taken are {', '.join(loss_names())}.")
    MATCHING_LOSSES[name] = fn


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Calls a loss once on three pairs with its options, so that a wrong one is known before training.

    Raises:
        ValueError: there is no such loss or option, a value is not valid, or the result is not.
    """
    if name not in loss_names():
        raise ValueError(f"There is no loss {name!r}; the losses are {', '.join(loss_names())}.")
    fn = identity_loss if name == IDENTITY else MATCHING_LOSSES[name]
    known = _option_names(fn, given=3 if name == IDENTITY else 2)
    there_are = f"Its options are {', '.join(known) or 'none'}." if known is not None else ""
    unknown = sorted(set(options) - set(known)) if known is not None else []
    if unknown:
        raise ValueError(f"The loss {name} has no option {', '.join(map(repr, unknown))}. {there_are}")
    logits = torch.tensor([[3.0, 0.5, -1.0], [0.0, 2.0, 0.5], [-2.0, 1.0, 2.5]], requires_grad=True)
    try:
        if name == IDENTITY:
            values = identity_loss(logits, logits.T, torch.arange(3), **options)[None]
        else:
            values = fn(logits, torch.eye(3, dtype=torch.bool), **_with_temperature(fn, options, 0.5))
    # Whatever a loss raises of its options, of the user's own losses too.
    except Exception as error:
        raise ValueError(f"The loss {name} can't be computed with {dict(options)}: {error} {there_are}") from error
    rows = 1 if name == IDENTITY else 3
    whole = isinstance(values, Tensor) and values.shape == (rows,) and bool(values.isfinite().all())
    if not whole or not values.requires_grad:
        raise ValueError(
            f"The loss {name} with {dict(options)} must give a finite number with a gradient for each of {rows} rows, "
            f"found {values!r}. {there_are}"
        )


def _option_names(fn: MatchingLoss, given: int) -> tuple[str, ...] | None:
    """Keywords that a loss takes besides its tensors; `None` where it takes any."""
    parameters = list(inspect.signature(fn).parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    # What follows the `*` of `identity_loss` comes with the rows, as the tensors do.
    kinds = (inspect.Parameter.VAR_POSITIONAL, *((inspect.Parameter.KEYWORD_ONLY,) if fn is identity_loss else ()))
    return tuple(parameter.name for parameter in parameters[given:] if parameter.kind not in kinds)


def _with_temperature(fn: MatchingLoss, options: Mapping[str, Any], temperature: float) -> dict[str, Any]:
    """The options of a loss with the temperature, if it is marked and was not told one."""
    told = dict(options)
    while isinstance(fn, functools.partial):
        told = {**fn.keywords, **told}
        fn = fn.func
    if getattr(fn, "needs_temperature", False):
        told.setdefault("temperature", temperature)
    return told


def matching_loss(
    fn: MatchingLoss,
    image_embeds: Tensor,
    text_embeds: Tensor,
    person_ids: Tensor,
    temperature: float = 0.02,
    gather: bool = False,
    row_weights: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """A matching loss of both directions: mean over the rows of this process, summed over image-text and text-image.

    With `gather`, the columns are the pairs of all processes (this process's first), gathered with gradient. The mean
    of the processes' losses, and under DDP the mean of their gradients, then equals one process with the whole batch.

    Args:
        fn: one of this module's matching losses, or one of your own; see `needs_temperature`.
        image_embeds: float [B, D], need not be normalised.
        text_embeds: float [B, D], row i captions image i.
        person_ids: int64 [B].
        temperature: similarities are divided by it, above 0.
        gather: take columns from all processes; without an initialised process group it changes nothing.
        row_weights: what pair i counts in both directions, float [B] without gradient: sum_i w_i loss_i / B. Not
            divided by their sum, so that a pair pulls as hard whatever its neighbours weigh, and processes need not
            know each other's. A pair of weight 0 is still a column of the others. Default all 1.
        options: further arguments of `fn`.
    Returns:
        scalar, float32 whatever the autocast.
    Raises:
        ValueError: shapes differ or the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, found {temperature}.")
    if image_embeds.shape != text_embeds.shape or person_ids.shape != image_embeds.shape[:1]:
        raise ValueError(
            f"Expected image_embeds and text_embeds of one shape [B, D] and person_ids [B], found "
            f"{tuple(image_embeds.shape)}, {tuple(text_embeds.shape)} and {tuple(person_ids.shape)}."
        )
    options = _with_temperature(fn, options, temperature)
    with torch.autocast(image_embeds.device.type, enabled=False):
        images = F.normalize(_float(image_embeds), dim=1)
        texts = F.normalize(_float(text_embeds), dim=1)
        all_images, all_texts, all_ids = images, texts, person_ids
        if gather:
            all_images, all_texts, all_ids = gather_columns(images), gather_columns(texts), gather_columns(person_ids)
        positives = person_ids[:, None] == all_ids[None, :]
        image_to_text = fn(images @ all_texts.T / temperature, positives, **options)
        text_to_image = fn(texts @ all_images.T / temperature, positives, **options)
        return _mean(image_to_text, row_weights) + _mean(text_to_image, row_weights)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean() if weights is None else (weights * values).mean()


def _float(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _checked(logits: Tensor, positives: Tensor) -> Tensor:
    """Logits in float32 after the checks that every matching loss shares."""
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
    return _float(logits)


__all__ = [
    "IDENTITY",
    "MATCHING_LOSSES",
    "WAF_WEIGHTINGS",
    "MatchingLoss",
    "bsdm",
    "check_options",
    "focal_factor",
    "gather_columns",
    "identity_loss",
    "inverse_sdm",
    "itc",
    "loss_names",
    "matching_loss",
    "needs_temperature",
    "register_loss",
    "sdm",
    "tal",
    "waf",
]
