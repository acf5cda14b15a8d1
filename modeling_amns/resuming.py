"""Where a resumed run goes on: at the pair after the last one that a step was made of, whatever was changed since."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import IntervalStrategy

from .data.sampler import IdentitySampler, RandomPairSampler
from .data.streamed import Reading, StreamedPairs


class Pace(NamedTuple):
    """How a run walks through its pairs.

    Args:
        pairs: of one batch of all processes together.
        batches: of an epoch; of a stream as many as all steps need.
        accumulation: batches of a step.
    """

    pairs: int
    batches: int
    accumulation: int


class Place(NamedTuple):
    """An epoch, 0-based (of a stream, a pass over it), and the batches of it that are done."""

    epoch: int
    batches: int


def place_after(epoch: float, before: Pace, now: Pace) -> Place:
    """Where a run stands by the epoch in its state.

    Args:
        epoch: epochs done, with the share of the one it is in.
        before: the pace at which it came there.
        now: the pace at which it goes on. Where a batch has another size, the pairs of at most one step are drawn
            again, so that steps begin where they would.
    Example:
        >>> place_after(1.5, Pace(8, 6, 1), Pace(8, 6, 1))
        Place(epoch=1, batches=3)
        >>> place_after(1.5, Pace(8, 6, 1), Pace(4, 12, 2))
        Place(epoch=1, batches=6)
        >>> place_after(1.5, Pace(8, 6, 1), Pace(16, 3, 1))
        Place(epoch=1, batches=1)
    """
    whole = int(epoch)
    done = round((epoch - whole) * before.batches)
    if before != now:
        done = done * before.pairs // now.pairs // now.accumulation * now.accumulation
    # Of pairs that a larger batch leaves out at the end of an epoch nothing is left to do.
    return Place(whole + 1, 0) if done >= now.batches else Place(whole, done)


class ResumesExactly(Trainer):
    """Goes on at the place that the epoch in the saved state names.

    `Trainer` counts it from the steps instead: of a stream that is in its second pass, or of a run whose batches have
    another size now, it finds another. And where several processes skip what is done, it does not reach the sampler,
    which would draw the first epoch once more: here the sampler is told its epoch by `EpochTeller`.
    """

    resumed_from: Path | None = None
    # Of the run that is resumed: its state, its pace there, and, once the data are counted, its place.
    _resumed: TrainerState | None = None
    _resumed_pace: Pace | None = None
    _place = Place(0, 0)
    pace: Pace | None = None
    sampler: IdentitySampler | RandomPairSampler | None = None
    # Of a stream: what this process has read of the pass that it is in.
    reading: Reading | None = None
    # The same before the batches of the step that is being made.
    _reading_before: Reading | None = None

    def read_state(self, checkpoint: str | None, pace: Pace | None) -> None:
        """Before training: where to go on.

        Args:
            checkpoint: what is resumed from; `None` starts anew.
            pace: that of the run which wrote it, where it is known.
        """
        self._place, self._resumed_pace = Place(0, 0), pace
        self.resumed_from = Path(checkpoint) if checkpoint else None
        file = self.resumed_from / TRAINER_STATE_NAME if self.resumed_from else None
        self._resumed = TrainerState.load_from_json(str(file)) if file else None

    def expect(self, reading: Reading | None) -> None:
        """Before training on a stream: what a resumed run has read of it, and has to find again."""
        self.reading = self._reading_before = None
        if isinstance(self.train_dataset, StreamedPairs):
            self.train_dataset.expected = reading

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """As `Trainer`: the batches of a step. Of a stream it is noted how far they reach."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if isinstance(self.train_dataset, StreamedPairs):
            epoch, workers = self.train_dataset.epoch, max(1, self.args.dataloader_num_workers)
            self._reading_before, before = self.reading, self.reading
            rows, places = {}, {}
            if before is not None and before.epoch == epoch:
                rows, places = dict(before.rows), dict(before.places)
            for batch in batches:
                place = batch.pop("place")
                # A collator of the user's own may leave rows out.
                for row, read in zip(batch["rows"].tolist(), batch["read"].tolist()) if "rows" in batch else ():
                    rows[row % workers] = max(rows.get(row % workers, (-1, 0)), (row, read))
                if place is not None:
                    places[place.row % workers] = max(places.get(place.row % workers, place), place)
            self.reading = Reading(epoch, rows, places)
        return batches, items

    def set_initial_training_values(
        self, args: TrainingArguments, dataloader: DataLoader
    ) -> tuple[int, int, int, int, int, int | None, int]:
        """As `Trainer`; a resumed run ends after the steps that its epochs still need."""
        epochs, per_epoch, examples, samples, step_pairs, batches, total = super().set_initial_training_values(
            args, dataloader
        )
        accumulation = args.gradient_accumulation_steps
        counted = per_epoch * accumulation if batches is None else batches
        self.pace = Pace(self._train_batch_size * args.world_size, counted, accumulation)
        self._expect_pace()
        if self._resumed is None:
            return epochs, per_epoch, examples, samples, step_pairs, batches, total
        made = self._resumed.global_step
        self._place = place_after(self._resumed.epoch or 0.0, self._resumed_pace or self.pace, self.pace)
        done = self._place.epoch * per_epoch + self._place.batches // accumulation
        if args.max_steps < 0:
            total = made + max(0, total - done)
        else:
            epochs = max(epochs, self._place.epoch + -(-(total - made + done) // per_epoch))
        if total <= made:
            epochs = self._place.epoch
        return epochs, per_epoch, examples, samples, step_pairs, batches, total

    def _expect_pace(self) -> None:
        """A stream is read on from where it was if its batches are as they were; else again from the start."""
        pairs, before, now = self.train_dataset, self._resumed_pace, cast(Pace, self.pace)
        if not isinstance(pairs, StreamedPairs):
            return
        pairs.head = now.pairs if self.args.world_size > 1 else 0
        same = before is not None and (before.pairs, before.accumulation) == (now.pairs, now.accumulation)
        if same and not self.args.ignore_data_skip:
            self.reading = pairs.expected
        elif pairs.expected is not None:
            pairs.expected = pairs.expected._replace(places={})

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: object,
    ) -> tuple[int, int]:
        counted = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, cast(Any, trial)
        )
        if self._resumed is None:
            return counted
        # The state brings those of the run before; what is asked for now counts.
        self.state.compute_steps(self.args, max_steps)
        self.state.train_batch_size = self._train_batch_size
        return self._place.epoch, 0 if self.args.ignore_data_skip else self._place.batches

    def settle_buckets(self, model: nn.Module, work: Callable[[], object]) -> None:
        """A forward and backward pass for nothing before the first step after a resume, where it decides bits.

        After its first one DDP sorts parameters into other buckets. A sum of more than two numbers depends on its
        place in them, so that an uninterrupted run, long past its first step, would differ in the last bits.

        Args:
            model: as it is wrapped.
            work: the pass over the first batch.
        """
        if self.resumed_from is None or self.args.world_size <= 2 or not hasattr(model, "require_backward_grad_sync"):
            return
        parallel = cast(Any, model)
        synchronizes, parallel.require_backward_grad_sync = parallel.require_backward_grad_sync, True
        device = self.args.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            work()
        parallel.require_backward_grad_sync = synchronizes
        model.zero_grad()

    def _evaluate_what_is_owed(self) -> None:
        """An epoch that ended with its checkpoint and without its evaluation is evaluated before the next begins."""
        if self._resumed is None or self._place.batches or not self.state.global_step or self.eval_dataset is None:
            return
        if self.args.eval_strategy != IntervalStrategy.EPOCH:
            return
        step = self.state.global_step
        known = [entry for entry in self.state.log_history if entry.get("step") == step]
        if any(name.startswith("eval_") for entry in known for name in entry):
            return
        self.control.should_save = False
        if self._determine_best_metric(self._evaluate(None, None), None) and self.control.should_save:
            self._save_checkpoint(self.model, None)  # type: ignore[arg-type]
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        self.control.should_save = False


class EpochTeller(TrainerCallback):
    """Tells the sampler each epoch before it is drawn."""

    def __init__(self, trainer: ResumesExactly):
        self.trainer = trainer
        self.epoch = 0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """The first epoch is that of the place to go on at."""
        self.epoch = self.trainer._place.epoch
        self.trainer._evaluate_what_is_owed()

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        """Each further one is the next."""
        if self.trainer.sampler is not None:
            self.trainer.sampler.set_epoch(self.epoch)
        self.epoch += 1


__all__ = ["EpochTeller", "Pace", "Place", "ResumesExactly", "place_after"]
