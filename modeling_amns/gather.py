"""What a loss needs of other processes: their rows as columns, with gradient, and means. Torch only."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx


def gather_columns(rows: Tensor) -> Tensor:
    """The rows of all processes, this process's first, with gradient; [B, ...] becomes [processes * B, ...].

    Every process must bring the same number of rows. Without an initialised process group it returns its input.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    gathered = _GatherWithGradient.apply(rows)
    return gathered.roll(-dist.get_rank() * len(rows), dims=0)


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a value of each process, without gradient; without a process group it returns its input."""
    value = value.detach()
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


class _GatherWithGradient(torch.autograd.Function):
    """All-gather along dimension 0; backward sums each process's gradient of the rows that came from here."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        gathered = rows.new_empty(dist.get_world_size() * len(rows), *rows.shape[1:])
        dist.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        own = gradient.new_empty(len(gradient) // dist.get_world_size(), *gradient.shape[1:])
        dist.reduce_scatter_tensor(own, gradient.contiguous())
        return own


__all__ = ["gather_columns", "mean_over_processes"]
