"""How `AMNSTrainer` evaluates: it ranks one split, or several by name, as `Trainer` does with losses."""

import time
from collections.abc import Mapping
from typing import Any, cast

import datasets
import torch
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import EvalPrediction, PredictionOutput, denumpify_detensorize

from .data.joint import mean_figures
from .evaluation import EmbeddedSplit, embed_split
from .protocols import MaskedEncoder, PairProcessor
from .report import METRICS

Split = Mapping[str, datasets.Dataset]


def is_split(value: object) -> bool:
    """Whether it is a gallery with its queries."""
    return isinstance(value, Mapping) and {"gallery", "queries"} <= set(value) and not _holds_mappings(value)


def named_sets(value: object) -> Mapping[str, Any]:
    """Several splits by name, or one under the empty name."""
    return value if isinstance(value, Mapping) and _holds_mappings(value) else {"": value}


def _holds_mappings(value: Mapping) -> bool:
    return bool(value) and all(isinstance(part, Mapping) for part in value.values())


class EvaluatesSplits(Trainer):
    """A `Trainer` whose evaluations are retrieval: all captions of a split rank all its images."""

    # What the text encoder is given of a batch. Our collator pads on the right, where the mask changes nothing: CLIP's
    # tokens see none behind them, SigLIP's see padding. It would cost attention its fast road, and an accelerator
    # waits when transformers looks whether it hides anything.
    text_inputs: tuple[str, ...] = ("input_ids",)

    @property
    def from_scratch(self) -> bool:
        """Whether the model comes from nowhere: one that was loaded knows from where."""
        return not getattr(self.accelerator.unwrap_model(self.model), "name_or_path", "")

    @property
    def student(self) -> MaskedEncoder:
        """The dual encoder that is trained, not wrapped."""
        return cast(MaskedEncoder, self.accelerator.unwrap_model(self.model).amns)

    @property
    def processor(self) -> PairProcessor:
        """What prepares images and captions, `processing_class`."""
        return cast(PairProcessor, self.processing_class)

    def evaluate(  # type: ignore[override]
        self,
        eval_dataset: Split | Mapping[str, Split] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Text-to-image retrieval of all captions of a split among all its images, shared out over the processes.

        Args:
            eval_dataset: `{"gallery", "queries"}`; several of them by name, whose figures are then
                `{prefix}_{name}_rank1` ..., and `{prefix}_rank1` ... their means; or the name of one of the trainer's
                own; default all the trainer's own.
            ignore_keys: must stay out, nothing but embeddings is collected.
            metric_key_prefix: start of the figures' names.
        Returns:
            `{prefix}_rank1`, `_rank5`, `_rank10`, `_mAP`, `_mINP` in percent, what `compute_metrics` adds, and
            `{prefix}_runtime` in seconds.
        Raises:
            ValueError: there is no such split, or an argument has no effect.
        """
        chosen: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(chosen, str):
            own = named_sets(self.eval_dataset)
            if chosen not in own:
                raise ValueError(f"There is no evaluation set {chosen!r}; there are {', '.join(own) or 'none'}.")
            chosen = own[chosen]
        if chosen is None:
            raise ValueError("There is nothing to evaluate on: pass eval_dataset here or to the trainer.")
        sets = named_sets(chosen)
        if "" not in sets:
            metrics: dict[str, float] = {}
            for name, split in sets.items():
                metrics |= self.evaluate(split, ignore_keys, f"{metric_key_prefix}_{name}")
            each = [{figure: metrics[f"{metric_key_prefix}_{name}_{figure}"] for figure in METRICS} for name in sets]
            mean = {f"{metric_key_prefix}_{figure}": value for figure, value in mean_figures(each).items()}
            self.log(mean)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, mean)
            return metrics | mean
        _, metrics = self._rank(chosen, ignore_keys, metric_key_prefix)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def predict(  # type: ignore[override]
        self, test_dataset: Split, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Embeddings of a split and their figures.

        Args:
            test_dataset: `{"gallery", "queries"}`.
            ignore_keys: must stay out, nothing but embeddings is collected.
            metric_key_prefix: start of the figures' names.
        Returns:
            `predictions`: L2-normalised embeddings of the captions [Q, D] and of the images [G, D], float32;
            `label_ids`: their person ids, int64 [Q] and [G]; `metrics`: as `evaluate`.
        Raises:
            ValueError: it is no split, or an argument has no effect.
        """
        embedded, metrics = self._rank(test_dataset, ignore_keys, metric_key_prefix)
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return PredictionOutput(*_arrays(embedded), metrics=metrics)

    def embed(self, split: Split) -> EmbeddedSplit:
        """Embeddings of a split as the student makes them now, the same on every process.

        Args:
            split: `{"gallery", "queries"}`.
        Raises:
            ValueError: it is no split.
        """
        # Optimizers that average weights (schedule-free) show them in this mode; `training_step` leaves it.
        to_eval = getattr(self.optimizer, "eval", None)
        if callable(to_eval):
            to_eval()
        cast(nn.Module, self.student).to(self.args.device)
        # A loader draws a seed for its workers: how often a run is evaluated must not move what it draws next.
        with torch.random.fork_rng(devices=[]), self.compute_loss_context_manager():
            return embed_split(
                self.student, self.processor, split, self.args.eval_batch_size, self.args.dataloader_num_workers
            )

    def _rank(
        self, split: Split, ignore_keys: list[str] | None, prefix: str
    ) -> tuple[EmbeddedSplit, dict[str, float]]:
        if ignore_keys:
            raise ValueError(f"ignore_keys {ignore_keys} can't be used: nothing but embeddings is collected.")
        self._memory_tracker.start()
        start = time.time()
        embedded = self.embed(split)
        figures = embedded.metrics()
        figures |= self._own_metrics(embedded, figures, prefix)
        metrics = {f"{prefix}_{name}": value for name, value in figures.items()}
        metrics[f"{prefix}_runtime"] = round(time.time() - start, 2)
        return embedded, metrics

    def _own_metrics(self, embedded: EmbeddedSplit, known: dict[str, float], prefix: str) -> dict[str, float]:
        if self.compute_metrics is None:
            return {}
        predictions, label_ids = _arrays(embedded)
        added = self.compute_metrics(
            EvalPrediction(predictions=cast(Any, predictions), label_ids=cast(Any, label_ids))
        )
        if not isinstance(added, Mapping):
            raise ValueError(f"compute_metrics must return figures by name, found {type(added).__name__}.")
        # As `Trainer`: names may come with the prefix or without.
        figures = {str(name).removeprefix(f"{prefix}_"): value for name, value in added.items()}
        taken = sorted(set(figures) & {*known, "runtime"})
        if taken:
            raise ValueError(
                f"compute_metrics returns {', '.join(taken)}, which evaluation computes itself; rename it."
            )
        return denumpify_detensorize(figures)


def _arrays(embedded: EmbeddedSplit) -> tuple[Any, Any]:
    """Embeddings and person ids of queries and gallery as numpy arrays, in the order of `Trainer`'s own."""
    predictions = (embedded.queries.numpy(), embedded.gallery.numpy())
    return predictions, (embedded.query_ids.numpy(), embedded.gallery_ids.numpy())


__all__ = ["EvaluatesSplits", "Split", "is_split", "named_sets"]
