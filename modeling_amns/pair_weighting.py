"""A trainer that remembers its pairs' losses and lets doubtful pairs count less; on `pair_memory`, `pair_mixture`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.utils import logging

from .checkpoints import WholeCheckpoints
from .data.collator import TrainingPairs
from .disk import whole_file
from .modeling_amns import AMNSPersonRetrievalOutput
from .objective import LossRecord, pair_losses
from .pair_memory import PAIRS_FILE, PairMemory
from .pair_mixture import PairMixture, fit_pairs, guess_loss
from .splits import EvaluatesSplits

logger = logging.get_logger(__name__)

# In `output_dir`, for whoever looks for wrong pairs later.
SCORES_FILE = "pair_scores.parquet"
# Epochs that a model from scratch needs before its losses say anything of its pairs.
WARM_UP = 2


class WeighsPairs(EvaluatesSplits, WholeCheckpoints):
    """Remembers the loss of each pair of a training set that knows its rows, and weighs rows by it.

    All processes hold the same memory: at each optimizer step they exchange rows and losses, a few numbers a pair.
    """

    memory: PairMemory | None = None
    mixture: PairMixture | None = None
    record: LossRecord

    # Epochs in which all rows count alike.
    judged_from = WARM_UP

    def start_memory(self, num_pairs: int | None) -> None:
        """Forgets all pairs. `num_pairs` is `None` where rows have no numbers: nothing is remembered then.

        Raises:
            ValueError: `pair_weighting_start` is 0 from scratch, or not before the last epoch.
        """
        self.mixture = None
        self.judged_from = self._epochs_before()
        self.memory = None
        if num_pairs is not None:
            self.memory = PairMemory(num_pairs, self.args.pair_memory_decay, self.args.device)

    def _epochs_before(self) -> int:
        args = self.args
        if args.pair_weighting == "none":
            return WARM_UP
        own = WARM_UP if self.from_scratch else 0
        epochs = own if args.pair_weighting_start is None else args.pair_weighting_start
        if self.from_scratch and not epochs:
            raise ValueError(
                "pair_weighting_start 0 lets the start judge its pairs, and a model from scratch knows nothing of "
                f"them: name a start with model_name_or_path, or leave it out ({WARM_UP} from scratch)."
            )
        if args.max_steps < 0 and epochs >= args.num_train_epochs:
            raise ValueError(
                f"pair_weighting {args.pair_weighting} would begin after {epochs} epoch(s), the run has "
                f"{args.num_train_epochs:g}. Lower pair_weighting_start, or leave pair_weighting out."
            )
        return epochs

    @torch.no_grad()
    def judge_by_start(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Before the first step: what the start makes of each pair is the first that is remembered of it.

        A start that knows persons tells wrong captions from right ones before it has learnt any of them.

        Args:
            batches: of one pass over the training set; this process's.
        """
        memory, model = cast(PairMemory, self.memory), cast(nn.Module, self.model)
        logger.info(f"The start judges {len(memory)} pairs before the first step.")
        model.eval()
        for batch in batches:
            inputs = self._prepare_inputs(cast(Any, batch))
            losses = pair_losses(self.args, self._embed_whole(model, inputs), inputs["person_ids"])
            memory.update(*cast(Any, self.accelerator.gather((inputs["rows"], losses))))
        model.train()
        self.judge_pairs(0)

    def _embed_whole(self, model: nn.Module, inputs: dict[str, Any]) -> AMNSPersonRetrievalOutput:
        """Both embeddings of a batch, of images as the teacher sees them, in the chunks of the gradient cache."""
        pixels = self.processor.normalize_images(inputs["images"])
        given = {"pixel_values": pixels, **{name: inputs[name] for name in self.text_inputs}}
        size = self.args.gradient_cache_chunk_size or len(pixels)
        parts = []
        for start in range(0, len(pixels), size):
            with self.compute_loss_context_manager():
                parts.append(model(**{name: value[start : start + size] for name, value in given.items()}))
        return AMNSPersonRetrievalOutput(
            image_embeds=torch.cat([part.image_embeds for part in parts]),
            text_embeds=torch.cat([part.text_embeds for part in parts]),
        )

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
        if epoch >= self.judged_from:
            weights = found.plausible
            if args.pair_weighting == "selection":
                weights = (weights >= 0.5).astype(np.float32)
            memory.weights.copy_(torch.from_numpy(weights))
        figures = {"doubtful_share": found.doubtful_share, "pair_loss_low": found.low, "pair_loss_high": found.high}
        self.log({name: value for name, value in figures.items() if value is not None})

    def pair_scores(self) -> datasets.Dataset | None:
        """What is known of each training pair so far; `None` of a stream.

        Returns:
            a row for each of the training set, in its order: `row`; `loss`, the moving average of `pair_losses`, and
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
        """The first epoch is that of the place to go on at; inside of one, its pairs are judged already.

        Before the very first a start judges, if it is to.
        """
        self.epoch, self.judged = self.trainer._place.epoch, bool(self.trainer._place.batches)
        first = not self.epoch and not self.judged
        if first and self.trainer.memory is not None and self.trainer.judged_from == 0:
            self.trainer.judge_by_start(kwargs["train_dataloader"])

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
