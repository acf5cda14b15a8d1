"""Exact gradients of a batch that is too large for memory, one chunk of activations at a time."""

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

Outputs = dict[str, Tensor]


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
            states.append(_random_state(chunk))
            cached.append(forward(chunk))
    leaves = {name: torch.cat([outputs[name] for outputs in cached]).detach().requires_grad_() for name in cached[0]}
    del cached
    loss = loss_backward(leaves)
    start = 0
    for number, (chunk, state) in enumerate(zip(chunks, states)):
        last = number == len(chunks) - 1
        # Wrapped for distribution, a model averages its gradients at each backward pass outside of this.
        no_sync = getattr(model, "no_sync", contextlib.nullcontext)
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


def _random_state(chunk: dict[str, Tensor]) -> tuple[Tensor, Sequence[int], Sequence[Tensor]]:
    return torch.get_rng_state(), *get_device_states(*chunk.values())


@contextlib.contextmanager
def _replayed(state: tuple[Tensor, Sequence[int], Sequence[Tensor]]):
    """Draws the random numbers of the first pass again (dropout) and leaves the generators as they were."""
    cpu, devices, device_states = state
    with torch.random.fork_rng(devices=devices):
        torch.set_rng_state(cpu)
        set_device_states(devices, device_states)
        yield


__all__ = ["cached_backward"]
