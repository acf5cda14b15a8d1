"""What tells two models apart: a sum over the weights that embed."""

import hashlib
from typing import Any

import torch
from torch import nn


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 of the weights that embed, rounded to bfloat16: a copy in that precision is the same model.

    Args:
        model: an `AMNSModel`, or one for training around it, whose other weights have no part in it.
    Example:

        >>> layer = nn.Linear(3, 2)
        >>> model_fingerprint(layer) == model_fingerprint(nn.Linear(3, 2).to(torch.bfloat16))
        False
        >>> model_fingerprint(layer) == model_fingerprint(layer.to(torch.bfloat16))
        True
    """
    part: Any = getattr(model, "base_model", model)
    return weights_fingerprint(part)


def weights_fingerprint(module: nn.Module) -> str:
    """The same of all weights of a module, its heads included."""
    digest = hashlib.sha256()
    # Sorted, because converted checkpoints may list them in another order.
    for name, weights in sorted(module.named_parameters()):
        if name not in ("logit_scale", "logit_bias"):
            digest.update(f"{name} {tuple(weights.shape)}".encode())
            rounded = weights.detach().to("cpu", torch.bfloat16).contiguous()
            digest.update(rounded.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


__all__ = ["model_fingerprint", "weights_fingerprint"]
