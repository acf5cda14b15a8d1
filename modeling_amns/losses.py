"""Losses between images and captions of persons, robust to wrong pairs.

A matching loss takes one direction, `(logits [B, M], positives [B, M])`, and returns one value per row, float32 [B]
(float64 stays float64). `matching_loss` normalises embeddings, builds both directions, gathers the columns of all
processes and returns the training scalar. `register_loss` gives a loss of your own a name for `loss_weights`. Torch
only; nothing here knows a model.
"""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .focal_losses import IDENTITY, WAF_WEIGHTINGS, focal_factor, identity_loss, needs_gather, waf
from .gather import gather_columns
from .matching_losses import (
    MatchingLoss,
    as_float,
    bsdm,
    gce,
    inverse_sdm,
    itc,
    needs_temperature,
    sdm,
    tal,
    weighted_mean,
)

MATCHING_LOSSES: dict[str, MatchingLoss] = {
    "itc": itc,
    "sdm": sdm,
    "inverse_sdm": inverse_sdm,
    "bsdm": bsdm,
    "tal": tal,
    "waf": waf,
    "gce": gce,
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
    if known is not None:
        # These come from the run.
        told = (
            {"counts", "image_weights", "text_weights"}
            if name == IDENTITY
            else {"gather"}
            if _is_marked(fn, "needs_gather")
            else set()
        )
        known = tuple(option for option in known if option not in told)
    there_are = f"Its options are {', '.join(known) or 'none'}." if known is not None else ""
    unknown = sorted(set(options) - set(known)) if known is not None else []
    if unknown:
        raise ValueError(f"The loss {name} has no option {', '.join(map(repr, unknown))}. {there_are}")
    logits = torch.tensor([[3.0, 0.5, -1.0], [0.0, 2.0, 0.5], [-2.0, 1.0, 2.5]], requires_grad=True)
    try:
        if name == IDENTITY:
            values = identity_loss(logits, logits.T, torch.arange(3), counts=torch.ones(3), **options)[None]
        else:
            values = fn(logits, torch.eye(3, dtype=torch.bool), **_with_the_run(fn, options, 0.5, gather=False))
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
    return tuple(parameter.name for parameter in parameters[given:] if parameter.kind is not parameter.VAR_POSITIONAL)


def _with_the_run(fn: MatchingLoss, options: Mapping[str, Any], temperature: float, gather: bool) -> dict[str, Any]:
    """The options of a loss with the temperature and `gather`, if it is marked and was not told one."""
    told = {**_bound(fn)[1], **options}
    if _is_marked(fn, "needs_temperature"):
        told.setdefault("temperature", temperature)
    if _is_marked(fn, "needs_gather"):
        told.setdefault("gather", gather)
    return told


def _is_marked(fn: MatchingLoss, mark: str) -> bool:
    return getattr(_bound(fn)[0], mark, False)


def _bound(fn: MatchingLoss) -> tuple[MatchingLoss, dict[str, Any]]:
    """The function inside of partial ones, and the keywords that they bind."""
    bound: dict[str, Any] = {}
    while isinstance(fn, functools.partial):
        bound = {**fn.keywords, **bound}
        fn = fn.func
    return fn, bound


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
        fn: one of this module's matching losses, or one of your own; see `needs_temperature` and `needs_gather`.
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
    options = _with_the_run(fn, options, temperature, gather)
    with torch.autocast(image_embeds.device.type, enabled=False):
        images = F.normalize(as_float(image_embeds), dim=1)
        texts = F.normalize(as_float(text_embeds), dim=1)
        all_images, all_texts, all_ids = images, texts, person_ids
        if gather:
            all_images, all_texts, all_ids = gather_columns(images), gather_columns(texts), gather_columns(person_ids)
        positives = person_ids[:, None] == all_ids[None, :]
        image_to_text = fn(images @ all_texts.T / temperature, positives, **options)
        text_to_image = fn(texts @ all_images.T / temperature, positives, **options)
        return weighted_mean(image_to_text, row_weights) + weighted_mean(text_to_image, row_weights)


__all__ = [
    "IDENTITY",
    "MATCHING_LOSSES",
    "WAF_WEIGHTINGS",
    "MatchingLoss",
    "bsdm",
    "check_options",
    "focal_factor",
    "gather_columns",
    "gce",
    "identity_loss",
    "inverse_sdm",
    "itc",
    "loss_names",
    "matching_loss",
    "needs_gather",
    "needs_temperature",
    "register_loss",
    "sdm",
    "tal",
    "waf",
]
