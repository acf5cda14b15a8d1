"""Exact gradients of a batch that is too large for memory, one chunk of activations at a time."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Outputs = dict[str, Tensor]
# Of each generator its device and its state.
RandomState = list[tuple[torch.device, Tensor]]


def cached_backward(
    model: nn.Module,
    chunks: Sequence[dict[str, Tensor]],
    forward: Callable[[dict[str, Tensor]], Outputs],
    loss_backward: Callable[[Outputs], Tensor],
) -> Tensor:
    """Backward pass of a loss over all pairs of a batch with the activations of one chunk in memory.

    First every chunk is embedded without gradient; the loss of the whole batch gives the gradient of each embedding.
    Then every chunk is embedded again, with gradient and the same random numbers, and its embeddings' gradients are
    carried on into the parameters. Equal to the plain backward pass up to rounding, at the price of a second forward.

    Args:
        model: the module that is trained, possibly wrapped for distribution; its gradients are synchronised once, with
            the last chunk.
        chunks: the batch, cut into consecutive parts.
        forward: a chunk's outputs by name, each float [chunk, ...].
        loss_backward: takes the outputs of the whole batch, calls `backward` on their loss and returns it.
    Returns:
        what `loss_backward` returned.
    Source: GradCache (Gao et al., arXiv 2101.06983), sections 3.1 and 3.2.
    """
    states, cached = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_random_state({value.device for value in chunk.values()}))
            cached.append(forward(chunk))
    leaves = {name: torch.cat([outputs[name] for outputs in cached]).detach().requires_grad_() for name in cached[0]}
    del cached
    loss = loss_backward(leaves)
    start = 0
    for number, (chunk, state) in enumerate(zip(chunks, states)):
        last = number == len(chunks) - 1
        # Wrapped for distribution, a model averages its gradients at each backward pass outside of this.
        no_sync: Any = getattr(model, "no_sync", contextlib.nullcontext)
        quiet = contextlib.nullcontext() if last else no_sync()
        with quiet, _replayed(state):
            outputs = forward(chunk)
            stop = start + len(next(iter(outputs.values())))
            # Of a frozen encoder there is no way back into parameters.
            gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
            reached = [name for name in gradients if outputs[name].requires_grad]
            torch.autograd.backward(
                [outputs[name] for name in reached], [gradients[name][start:stop] for name in reached]
            )
        start = stop
    return loss


def _random_state(devices: Iterable[torch.device]) -> RandomState:
    """The states of the CPU's generator and of those of the devices, which each module of torch gives by device."""
    state = [(torch.device("cpu"), torch.get_rng_state())]
    for device in devices:
        if device.type not in ("cpu", "meta"):
            state.append((device, torch.get_device_module(device).get_rng_state(device)))
    return state


def _set_random_state(state: RandomState) -> None:
    for device, value in state:
        if device.type == "cpu":
            torch.set_rng_state(value)
        else:
            torch.get_device_module(device).set_rng_state(value, device)


@contextlib.contextmanager
def _replayed(state: RandomState) -> Iterator[None]:
    """Draws the random numbers of the first pass again (dropout) and leaves the generators as they were."""
    before = _random_state(device for device, _ in state)
    _set_random_state(state)
    try:
        yield
    finally:
        _set_random_state(before)


__all__ = ["cached_backward"]
