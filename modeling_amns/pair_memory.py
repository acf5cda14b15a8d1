"""What a training run remembers of each of its pairs: the moving average of the pair's loss, and the pair's weight."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

# In each checkpoint, and only whole with it.
PAIRS_FILE = "pairs.safetensors"


class PairMemory:
    """The moving average of the loss of each training pair, how often it was seen, and what its rows weigh.

    With x_1, x_2, ... the losses of a pair in the order in which it is drawn, its average after n of them is
    `sum_t decay^(n - t) x_t / sum_t decay^(n - t)`: the mean of the first ones, in which later ones count more and
    more. The bias of a start at 0 is taken out as Adam does it.

    Args:
        num_pairs: rows of the training set.
        decay: in [0, 1); 0 keeps the last loss alone.
        device: where the losses are; an update never waits for it.

    ```python
    >>> memory = PairMemory(3, decay=0.5)
    >>> memory.update(torch.tensor([0, 2]), torch.tensor([1.0, 5.0]))
    >>> memory.update(torch.tensor([0]), torch.tensor([4.0]))
    >>> memory.average, memory.seen
    (tensor([3., 0., 5.]), tensor([2, 0, 1], dtype=torch.int32))

    ```
    """

    def __init__(self, num_pairs: int, decay: float = 0.9, device: torch.device | str = "cpu"):
        self.decay = decay
        self.average = torch.zeros(num_pairs, device=device)
        self.seen = torch.zeros(num_pairs, dtype=torch.int32, device=device)
        self.weights = torch.ones(num_pairs, device=device)

    def __len__(self) -> int:
        return len(self.average)

    @torch.no_grad()
    def update(self, rows: Tensor, losses: Tensor) -> None:
        """Takes in the losses of one batch.

        Args:
            rows: of the training set, int64 [B]. One that occurs several times (a person with fewer pairs than
                `instances_per_identity`) counts once, with its first loss.
            losses: float [B].
        """
        # Where each row occurs first: duplicates then write one value, whoever comes last. No sort and no set, which
        # would have to know their size.
        places = torch.arange(len(rows), device=rows.device)
        first = torch.full((len(self),), len(rows), device=rows.device)
        first = first.scatter_reduce_(0, rows, places, "amin")[rows]
        seen = self.seen[rows] + 1
        step = (1 - self.decay) / (1 - self.decay ** seen.to(self.average.dtype))
        before = self.average[rows]
        self.average[rows] = before + step * (losses[first].to(self.average.dtype) - before)
        self.seen[rows] = seen

    def state(self) -> dict[str, Tensor]:
        """`average` float32, `seen` int32 and `weights` float32, [pairs] each."""
        return {"average": self.average, "seen": self.seen, "weights": self.weights}

    def save(self, folder: str | Path) -> None:
        """Writes `pairs.safetensors`."""
        save_file(self.state(), Path(folder) / PAIRS_FILE)

    def load(self, folder: str | Path) -> None:
        """Takes over what `save` wrote, bit by bit.

        Raises:
            ValueError: it is of another number of pairs.
        """
        self.load_state(load_file(Path(folder) / PAIRS_FILE))

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """As `load`, of what `state` gave."""
        own = self.state()
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        if shapes != {name: (len(self),) for name in own}:
            raise ValueError(f"{PAIRS_FILE} must hold {', '.join(own)} of {len(self)} pairs, found {shapes}.")
        for name, value in own.items():
            value.copy_(state[name])


__all__ = ["PAIRS_FILE", "PairMemory"]
