"""A trainer that remembers its pairs' losses and lets doubtful pairs count less; on `pair_memory`, `pair_mixture`."""

from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.utils import logging

from .checkpoints import WholeCheckpoints
from .data.collator import TrainingPairs
from .disk import whole_file
from .objective import LossRecord
from .pair_memory import PAIRS_FILE, PairMemory
from .pair_mixture import PairMixture, fit_pairs, guess_loss

logger = logging.get_logger(__name__)

# In `output_dir`, for whoever looks for wrong pairs later.
SCORES_FILE = "pair_scores.parquet"


class WeighsPairs(WholeCheckpoints):
    """Remembers the loss of each pair of a training set that knows its rows, and weighs rows by it.

    All processes hold the same memory: at each optimizer step they exchange rows and losses, a few numbers a pair.
    """

    memory: PairMemory | None = None
    mixture: PairMixture | None = None
    record: LossRecord

    def start_memory(self, num_pairs: int | None) -> None:
        """Forgets all pairs. `num_pairs` is `None` where rows have no numbers: nothing is remembered then."""
        self.mixture = None
        self.memory = None
        if num_pairs is not None:
            self.memory = PairMemory(num_pairs, self.args.pair_memory_decay, self.args.device)

    def row_weights(self, rows: Tensor) -> Tensor | None:
        """What each row of a batch counts, float32 [B]; `None` where all count alike."""
        if self.memory is None or self.args.pair_weighting == "none":
            return None
        return self.memory.weights[rows]

    def remember(self) -> None:
        """After an optimizer step, whose losses are finite: takes in those of each of its micro-batches."""
        if self.memory is None:
            return
        for rows, losses in self.record.pair_losses():
            # In the order of the processes, which is that of one process with the whole batch.
            self.memory.update(*cast(Any, self.accelerator.gather((rows, losses))))

    def judge_pairs(self, epoch: int) -> None:
        """Between two epochs: finds the doubtful pairs, logs their share and sets what each row counts from now on.

        The main process judges for all: another machine's arithmetic could differ in a last bit, and with it a row.

        Args:
            epoch: of so many epochs the losses are known.
        """
        memory, args = self.memory, self.args
        if memory is None or args.pair_weighting == "none":
            return
        losses = memory.average.masked_fill(memory.seen == 0, torch.nan).cpu().numpy()
        columns = self._train_batch_size * (args.world_size if args.gather_embeddings else 1)
        guess = guess_loss(columns, args.instances_per_identity)
        found = self.mixture = self._agreed(lambda: fit_pairs(losses, guess, args.seed))
        if epoch >= args.pair_weighting_start:
            weights = found.plausible
            if args.pair_weighting == "selection":
                weights = (weights >= 0.5).astype(np.float32)
            memory.weights.copy_(torch.from_numpy(weights))
        figures = {"doubtful_share": found.doubtful_share, "pair_loss_low": found.low, "pair_loss_high": found.high}
        self.log({name: value for name, value in figures.items() if value is not None})

    def pair_scores(self) -> datasets.Dataset | None:
        """What is known of each training pair so far; `None` of a stream.

        Returns:
            a row for each of the training set, in its order: `row`; `loss`, the moving average of -log m in nats, and
            `seen`, of how many sightings it is (none: `loss` is null); `plausible`, the probability that the pair is
            right (null without `pair_weighting`); `is_clean`, where the set knows it, else null.
        """
        if self.memory is None:
            return None
        seen, plausible = self.memory.seen.cpu(), None if self.mixture is None else self.mixture.plausible.tolist()
        train = cast(TrainingPairs, self.train_dataset).dataset
        truth = train["is_clean"][:] if "is_clean" in train.column_names else [None] * len(seen)
        losses = [loss if count else None for loss, count in zip(self.memory.average.tolist(), seen.tolist())]
        columns = {"row": range(len(seen)), "loss": losses, "seen": seen.tolist()}
        columns |= {"plausible": plausible or [None] * len(seen), "is_clean": truth}
        kinds = {"row": "int64", "loss": "float32", "seen": "int32", "plausible": "float32", "is_clean": "bool"}
        features = datasets.Features({name: datasets.Value(kind) for name, kind in kinds.items()})
        return datasets.Dataset.from_dict({name: list(values) for name, values in columns.items()}, features)

    def save_pair_scores(self, folder: str | Path) -> None:
        """Writes `pair_scores` to `pair_scores.parquet`, whole or not at all."""
        scores = self.pair_scores()
        if scores is not None:
            with whole_file(Path(folder) / SCORES_FILE) as part:
                scores.to_parquet(str(part))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.memory is not None and self.args.should_save:
            self.memory.save(output_dir)

    def _check_state(self, checkpoint: Path) -> None:
        super()._check_state(checkpoint)
        if self.memory is None or (checkpoint / PAIRS_FILE).is_file():
            return
        missing = f"{checkpoint} has no {PAIRS_FILE}, as those of earlier versions of this package"
        if self.args.pair_weighting != "none":
            raise FileNotFoundError(
                f"{missing}: what pair_weighting {self.args.pair_weighting} goes by is not known. Start a new run "
                "from its weights with --model_name_or_path."
            )
        logger.warning(f"{missing}: the losses of pairs are remembered from here on.")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.memory is not None and (Path(checkpoint) / PAIRS_FILE).is_file():
            self.memory.load(checkpoint)


class PairKeeper(TrainerCallback):
    """Tells a trainer when a step's losses are to be remembered and when its pairs are to be judged."""

    def __init__(self, trainer: WeighsPairs):
        self.trainer = trainer
        self.epoch = 0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """The first epoch is that of the place to go on at; inside of one, its pairs are judged already."""
        self.epoch, self.judged = self.trainer._place.epoch, bool(self.trainer._place.batches)

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        """Before each epoch but the first the pairs are judged."""
        if self.epoch and not self.judged:
            self.trainer.judge_pairs(self.epoch)
        self.epoch, self.judged = self.epoch + 1, False

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step is remembered once it is made."""
        self.trainer.remember()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """The last word on the pairs."""
        self.trainer.judge_pairs(self.epoch)


__all__ = ["SCORES_FILE", "PairKeeper", "WeighsPairs"]
