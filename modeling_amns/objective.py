"""What a training step minimises: the parts of the loss, their means for the log, and whether they are finite."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import Trainer, TrainerCallback

from .losses import IDENTITY, MATCHING_LOSSES, MatchingLoss, identity_loss, matching_loss
from .matching_losses import bsdm_halves, checked, log_mass
from .modeling_amns import AMNSPersonRetrievalOutput
from .training_args import HALF, WHOLE, AMNSTrainingArguments

# Temperature at which pairs are judged, in standard deviations of a row's similarities to other persons. From 0.25 to
# 1.4 a start judged shuffled captions alike.
SPREAD = 0.7


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; the message names step, loss parts, pairs and the checkpoint before it."""


def loss_parts(
    args: AMNSTrainingArguments,
    outputs: AMNSPersonRetrievalOutput,
    person_ids: Tensor,
    counts: Tensor | None = None,
    row_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Each loss of `loss_weights` on one batch, unweighted: name to scalar, float32.

    Args:
        args: losses, their options, temperature and whether pairs of other processes are compared with.
        outputs: of the model for this process's pairs.
        person_ids: int64 [B].
        counts: pairs of each training person, int64 [persons]; for an identity loss that balances them.
        row_weights: of `pair_weighting`, float [B]; they count where `args.weighted_part` says.
    """
    parts = {}
    for name in args.weights:
        options = args.options_of(name)
        part = args.weighted_part(name) if row_weights is not None else None
        whole = row_weights if part == WHOLE else None
        if name == IDENTITY:
            parts[name] = identity_loss(
                _needed(outputs.image_identity_logits),
                _needed(outputs.text_identity_logits),
                person_ids,
                counts=counts,
                image_weights=whole,
                text_weights=row_weights if part else None,
                **options,
            )
        else:
            fn = MATCHING_LOSSES[name]
            parts[name] = matching_loss(
                _half_weighted(row_weights) if row_weights is not None and part == HALF else fn,
                _needed(outputs.image_embeds),
                _needed(outputs.text_embeds),
                person_ids,
                temperature=args.temperature,
                gather=args.gather_embeddings,
                row_weights=whole,
                **options,
            )
    return parts


def _half_weighted(row_weights: Tensor) -> MatchingLoss:
    """`bsdm` whose inverse half, what learns from a row that the model contradicts, counts by its row's weight."""

    def fn(logits: Tensor, positives: Tensor, **options: Any) -> Tensor:
        robust, learner = bsdm_halves(logits, positives, **options)
        return robust + row_weights * learner

    return fn


@torch.no_grad()
def pair_losses(args: AMNSTrainingArguments, outputs: AMNSPersonRetrievalOutput, person_ids: Tensor) -> Tensor:
    """-log m of each pair in nats, mean of both directions, float32 [B]; m is the probability of its person.

    The same number whatever the losses that are trained, in the same unit, and growing with how much the model
    contradicts a pair: `sdm` falls again there, `tal` is 0 for all that it has learnt. And whatever the temperature:
    each row's similarities are divided by `SPREAD` standard deviations of those to other persons. A start that was
    trained elsewhere is as sure of what it gets wrong as of what it gets right at the temperature of a loss.
    """
    directions: list[Tensor] = []

    def keep(logits: Tensor, positives: Tensor) -> Tensor:
        logits = checked(logits, positives)
        directions.append(-log_mass(logits / (SPREAD * _spread(logits, positives)), positives))
        return directions[-1]

    images, texts = _needed(outputs.image_embeds), _needed(outputs.text_embeds)
    matching_loss(keep, images, texts, person_ids, temperature=args.temperature, gather=args.gather_embeddings)
    return (directions[0] + directions[1]).float() / 2


def _spread(logits: Tensor, positives: Tensor) -> Tensor:
    """Standard deviation of each row over its negatives, [B, 1]; at least what rounding alone could make."""
    count = (~positives).sum(dim=1, keepdim=True).clamp(min=1)
    mean = logits.masked_fill(positives, 0).sum(dim=1, keepdim=True) / count
    squares = (logits - mean).masked_fill(positives, 0).square().sum(dim=1, keepdim=True)
    return (squares / count).sqrt().clamp(min=1e-3)


def _needed(output: Tensor | None) -> Tensor:
    # Checked with the model's configuration when the trainer was made.
    assert output is not None
    return output


class LossRecord:
    """The parts of the losses that were computed: since the last log, and of each micro-batch of this step."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._micro_batches: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []
        self._pair_losses: list[tuple[Tensor, Tensor]] = []

    @property
    def micro_batches(self) -> int:
        """Batches of this optimizer step so far."""
        return len(self._micro_batches)

    def start_step(self) -> None:
        """Forgets the micro-batches of the step before."""
        self._micro_batches, self._pair_losses = [], []

    def add(self, parts: Mapping[str, Tensor], rows: Tensor, person_ids: Tensor, losses: Tensor | None = None) -> None:
        """Notes the parts of one batch, which pairs it held and, for a memory of pairs, the loss of each."""
        if losses is not None:
            self._pair_losses.append((rows, losses))
        kept = {name: value.detach() for name, value in parts.items()}
        for name, value in kept.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1
        self._micro_batches.append((kept, rows, person_ids))

    def pair_losses(self) -> list[tuple[Tensor, Tensor]]:
        """Rows and their losses of each micro-batch of this step, where they were noted."""
        return self._pair_losses

    def is_finite(self, accelerator: Accelerator) -> bool:
        """Whether all parts of this step are, on all processes."""
        values = torch.stack([value.float() for parts, _, _ in self._micro_batches for value in parts.values()])
        # One number crosses from the device per optimizer step; without it the state before would be gone.
        bad = (~values.isfinite()).any().float()
        return not accelerator.reduce(bad, reduction="sum").item()

    def describe(self) -> str:
        """Parts, rows and persons of each micro-batch of this process."""
        lines = []
        for parts, rows, person_ids in self._micro_batches:
            figures = ", ".join(f"{name}={value.item():.6g}" for name, value in parts.items())
            lines.append(f"{figures}; rows {rows.tolist()}; person ids {person_ids.tolist()}")
        return " | ".join(lines)

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """`loss_<name>`: mean of each part since this was asked last, over all processes; empty without batches."""
        if not self._count:
            return {}
        means = torch.stack(list(self._sums.values())) / self._count
        means = accelerator.reduce(means, reduction="mean")
        named = {f"loss_{name}": mean for name, mean in zip(self._sums, means.tolist())}
        self._sums, self._count = {}, 0
        return named


class StepKeeper(TrainerCallback):
    """What happens once an optimizer step, whatever the accumulation: the check of the loss, the teacher's move.

    Args:
        trainer: an `AMNSTrainer`.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = cast(Any, trainer)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """A new record; the buckets of gradients are to be settled."""
        self.trainer.record = LossRecord()
        self.trainer._settled = False

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """The batches of the step before are forgotten."""
        self.trainer.record.start_step()

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A loss that is not finite stops the run."""
        self.trainer.stop_if_not_finite()

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The teacher follows."""
        # A scaler that skipped the step on overflow left the student as it was.
        if self.trainer.teacher is not None and not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.teacher.update(self.trainer.student)


__all__ = ["SPREAD", "LossRecord", "NonFiniteLossError", "StepKeeper", "loss_parts", "pair_losses"]
