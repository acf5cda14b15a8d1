"""`AMNSTrainer`: transformers' `Trainer` with the AMNS losses, the mask and its teacher, and retrieval evaluation."""

import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import datasets
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers.trainer_utils import BestRun, HPSearchBackend

from .adapters import save_configuration
from .contract import (
    KnownPersons,
    check_captions,
    check_eval_sets,
    check_training_set,
    prepare_model,
    refuse_sharded_parameters,
    refuse_trainer_arguments,
)
from .data.collator import PairCollator, PairPreparer, TrainingPairs
from .data.sampler import IdentitySampler, RandomPairSampler, refuse_no_batch
from .data.streamed import StreamCollator, StreamedPairs
from .disk import RESUME, whole_model
from .gradient_cache import cached_backward
from .losses import IDENTITY
from .masked_training import TEACHER_FILE, MasksPatches
from .modeling_amns import AMNSPersonRetrievalOutput
from .objective import LossRecord, NonFiniteLossError, StepKeeper, loss_parts, pair_losses
from .pair_weighting import PairKeeper, WeighsPairs
from .protocols import PairProcessor
from .pushes import PushesCheckpoints
from .resuming import EpochTeller
from .splits import Split
from .training_args import AMNSTrainingArguments


class AMNSTrainer(MasksPatches, PushesCheckpoints, WeighsPairs):
    """Trains an `AMNSForPersonRetrieval`.

    Args:
        model: the student.
        args: `AMNSTrainingArguments`.
        data_collator: makes a batch of the examples of `PairPreparer`; default `PairCollator`, whose keys it must
            give too.
        train_dataset: rows with `image`, `caption`, `person_id` (`load_benchmark(..., split="train")`), map-style or
            streamed.
        eval_dataset: `{"gallery": ..., "queries": ...}` (`load_benchmark(..., split="val")`), or several such splits
            by name: `{"cuhk": {...}, "icfg": {...}}` gives `eval_cuhk_rank1` ... and
            `metric_for_best_model="cuhk_rank1"` selects by one of them.
        processing_class: the `AMNSProcessor`; saved with every checkpoint.
        model_init: instead of `model`, makes a new one for each `train`, so for each trial of a
            `hyperparameter_search`.
        compute_metrics: takes an `EvalPrediction`, `predictions` and `label_ids` as `predict` returns them, and
            returns further figures by name.
        kwargs: as `Trainer`; what has no effect here is refused.

    Raises:
        ValueError: what is given does not fit together; before any work.

    The teacher starts as a copy of the image encoder and is kept in `teacher.safetensors` of each checkpoint. Each
    part of the loss is logged as `loss_<name>`, unweighted. Under several processes each loss compares this process's
    pairs with the pairs of all (`gather_embeddings`), and the gradient equals that of one process with all. Parts of
    the model that are frozen (`requires_grad_(False)`) stay as they are.

    ```python
    trainer = AMNSTrainer(model, args, train_dataset=train, eval_dataset=val, processing_class=processor)
    trainer.train()
    trainer.evaluate(test)  # {"eval_rank1": ..., "eval_rank5": ..., "eval_rank10": ..., "eval_mAP": ...}
    ```
    """

    args: AMNSTrainingArguments
    # The losses are means; Trainer divides them by the accumulation steps.
    loss_is_scaled_for_ga = False
    _settled = False

    def __init__(
        self,
        model: nn.Module | None = None,
        args: AMNSTrainingArguments | None = None,
        data_collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]] | None = None,
        train_dataset: datasets.Dataset | datasets.IterableDataset | None = None,
        eval_dataset: Split | Mapping[str, Split] | None = None,
        processing_class: PairProcessor | None = None,
        model_init: Callable[..., nn.Module] | None = None,
        **kwargs: Any,
    ):
        args = AMNSTrainingArguments("tmp_trainer") if args is None else args
        if not isinstance(args, AMNSTrainingArguments):
            raise ValueError(f"AMNSTrainer needs AMNSTrainingArguments, found {type(args).__name__}.")
        if processing_class is None:
            raise ValueError("AMNSTrainer needs processing_class=AMNSProcessor to prepare images and captions.")
        if (model is None) == (model_init is None):
            raise ValueError("AMNSTrainer needs a model or a function model_init that makes one, not both.")
        refuse_trainer_arguments(kwargs)
        check_training_set(train_dataset, args)
        check_eval_sets(eval_dataset, args, own_metrics=kwargs.get("compute_metrics") is not None)
        counted = check_captions(train_dataset, eval_dataset, processing_class)
        self.person_ids: list[int] | None = None
        preparer = PairPreparer(processing_class, args.augmentation(), args.sampling_seed, counted)
        prepared: TrainingPairs | StreamedPairs | None = None
        if isinstance(train_dataset, datasets.Dataset):
            train_dataset = train_dataset.with_format(None)
            self.person_ids = train_dataset["person_id"][:]
            prepared = TrainingPairs(train_dataset, preparer)
        elif train_dataset is not None:
            prepared = StreamedPairs(train_dataset, args.stream_shuffle_block, args.sampling_seed)
        if model is not None:
            prepare_model(model, args, self.person_ids)
        super().__init__(
            cast(Any, model),
            args,
            data_collator
            or PairCollator(cast(int, processing_class.tokenizer.pad_token_id), processing_class.padded_length),
            train_dataset=prepared,
            eval_dataset=cast(Any, eval_dataset),
            processing_class=cast(Any, processing_class),
            model_init=cast(Any, model_init),
            **kwargs,
        )
        if data_collator is not None:
            self.text_inputs = ("input_ids", "attention_mask")
        refuse_sharded_parameters(self)
        if isinstance(prepared, StreamedPairs):
            if self.accelerator.dataloader_config.dispatch_batches:
                raise ValueError("dispatch_batches does not go with a stream: each process reads it. Leave it out.")
            # Each process reads the stream and keeps its own pairs. One that reads for all would have to glue batches
            # together whose captions are padded to different lengths.
            self.accelerator.dataloader_config.dispatch_batches = False
            if IDENTITY in args.weights:
                self.data_collator = KnownPersons(self.data_collator, cast(Any, self.model).config.num_identities)
            self.data_collator = StreamCollator(self.data_collator, preparer)
        self.model_accepts_loss_kwargs = False
        self.pairs_of_person: Tensor | None = None
        if self.person_ids and args.options_of(IDENTITY).get("weighting") == "balanced":
            self.pairs_of_person = torch.bincount(torch.tensor(self.person_ids)).to(args.device)
        self.record = LossRecord()
        self._start_averages()
        self.add_callback(StepKeeper(self))
        self.add_callback(PairKeeper(self))
        self.add_callback(EpochTeller(self))

    def _start_averages(self) -> None:
        self.start_memory(None if self.person_ids is None else len(self.person_ids))
        self.start_teacher()

    def call_model_init(self, trial: object = None) -> nn.Module:
        """As `Trainer`: the model that `model_init` makes, made ready for training."""
        model = super().call_model_init(cast(Any, trial))
        prepare_model(model, self.args, self.person_ids)
        return model

    def _hp_search_setup(self, trial: object) -> None:
        """Called by `train` after a new model and the values of a trial are there."""
        super()._hp_search_setup(trial)
        if self.model_init is not None:
            self.args.check()
            prepare_model(cast(nn.Module, self.model), self.args, self.person_ids)
            self._start_averages()

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str | list[str] | None = None,
        backend: str | HPSearchBackend | None = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> BestRun | list[BestRun]:
        """As `Trainer`; without `compute_objective` the best `metric_for_best_model` is searched for."""
        figure, best = self.args.metric_for_best_model, "minimize"
        if compute_objective is None and figure is not None:
            compute_objective = operator.itemgetter(f"eval_{figure.removeprefix('eval_')}")
            best = "maximize" if self.args.greater_is_better else "minimize"
        space, name = cast(Any, hp_space), cast(Any, hp_name)
        return super().hyperparameter_search(
            space, compute_objective, n_trials, direction or best, backend, name, **kwargs
        )

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        args, pairs = self.args, cast(TrainingPairs, train_dataset or self.train_dataset)
        batch_size = self._train_batch_size * args.world_size
        sampler: IdentitySampler | RandomPairSampler
        if args.instances_per_identity:
            ids = cast(list[int], self.person_ids)
            sampler = IdentitySampler(ids, args.instances_per_identity, args.sampling_seed)
        else:
            lengths = None
            if args.train_sampling_strategy == "group_by_length":
                lengths = [len(caption) for caption in pairs.dataset["caption"]]
            sampler = RandomPairSampler(len(pairs), args.sampling_seed, lengths, batch_size)
        if args.dataloader_drop_last:
            refuse_no_batch(len(sampler), batch_size)
        self.sampler = sampler
        return sampler

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW (or `--optim`) over groups by learning rate and weight decay: body or new parts, weights or biases.

        Raises:
            ValueError: the optimizer makes its own groups.
        """
        if self.optimizer is None:
            args = self.args
            model = cast(nn.Module, self.model) if model is None else model
            decayed = set(self.get_decay_parameter_names(model))
            groups: dict[tuple[float, float], list[nn.Parameter]] = {}
            for name, parameter in model.named_parameters():
                if not parameter.requires_grad:
                    continue
                # A bias gets its own factor, in new parts too; in IRRA's code that of new parts wins there.
                factor = 1.0
                if name.endswith(".bias"):
                    factor = args.bias_lr_multiplier
                elif "classifier." in name:
                    factor = args.new_parts_lr_multiplier
                groups.setdefault((factor, args.weight_decay if name in decayed else 0.0), []).append(parameter)
            kind, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(args, cast(Any, model))
            options = dict(options)
            if not isinstance(kind, type) or {"params", "model", "optimizer_dict"} & set(options):
                raise ValueError(
                    f"optim {args.optim} makes its own groups of parameters, AMNSTrainer's go by learning rate; "
                    "choose another, or pass a ready one as optimizers=(optimizer, None)."
                )
            rate = options.pop("lr", args.learning_rate)
            self.optimizer = kind(
                [
                    {"params": parameters, "lr": rate * factor, "weight_decay": decay}
                    for (factor, decay), parameters in groups.items()
                ],
                lr=rate,
                **options,
            )
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, AMNSPersonRetrievalOutput]:
        """Weighted sum of the losses of one batch of `PairCollator`; keeps each part for the log."""
        outputs = model(**self._model_inputs(inputs))
        loss = self._loss(outputs, inputs)
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """As `Trainer`; `gradient_cache_chunk_size` gives the same gradient chunk by chunk."""
        if not self._settled:
            self._settled, record = True, self.record
            self.record = LossRecord()
            self.settle_buckets(model, lambda: self._forward_backward(model, inputs))
            self.record = record
        return self._forward_backward(model, inputs, num_items_in_batch)

    def _forward_backward(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        size = self.args.gradient_cache_chunk_size
        if not size:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        to_train = getattr(self.optimizer, "train", None)
        if callable(to_train):
            to_train()
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            prepared = self._model_inputs(inputs, size)

        def forward(chunk: dict[str, Tensor]) -> dict[str, Tensor]:
            with self.compute_loss_context_manager():
                return dict(model(**chunk).items())

        def loss_backward(outputs: dict[str, Tensor]) -> Tensor:
            with self.compute_loss_context_manager():
                loss = self._loss(AMNSPersonRetrievalOutput(**cast(Any, outputs)), inputs)
            loss = loss / self.current_gradient_accumulation_steps
            self.accelerator.backward(loss)
            return loss.detach()

        starts = range(0, len(inputs["person_ids"]), size)
        chunks = [{name: value[start : start + size] for name, value in prepared.items()} for start in starts]
        return cached_backward(model, chunks, forward, loss_backward)

    def _loss(self, outputs: AMNSPersonRetrievalOutput, inputs: Mapping[str, Tensor]) -> Tensor:
        rows, person_ids = inputs["rows"], inputs["person_ids"]
        parts = self._loss_parts(outputs, person_ids, rows)
        losses = None if self.memory is None else pair_losses(self.args, outputs, person_ids)
        self.record.add(parts, rows, person_ids, losses)
        return torch.stack([self.args.weights[name] * value for name, value in parts.items()]).sum()

    def _loss_parts(self, outputs: AMNSPersonRetrievalOutput, person_ids: Tensor, rows: Tensor) -> dict[str, Tensor]:
        return loss_parts(self.args, outputs, person_ids, self.pairs_of_person, self.row_weights(rows))

    def stop_if_not_finite(self) -> None:
        """Before an optimizer step: if a loss of any process is not finite, saves the state so far and stops.

        Raises:
            NonFiniteLossError: on every process, with the parts and pairs of its own batches.
        """
        if self.record.is_finite(self.accelerator):
            return
        trial = getattr(self, "_trial", None)
        # The batches of this step are to come again.
        self.reading = self._reading_before
        if self._saved_step != self.state.global_step:
            self._save_checkpoint(cast(nn.Module, self.model), trial=trial)
        saved = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        raise NonFiniteLossError(
            f"Step {self.state.global_step + 1}, process {self.args.process_index}: the loss is not finite. "
            f"{self.record.describe()}. The state before this step is saved in {saved}. Resume from it without mixed "
            "precision, or start from its weights with a smaller learning rate: --model_name_or_path."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each loss part since the last log, over all processes."""
        if "loss" in logs:
            logs = {**logs, **self.record.means(self.accelerator)}
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:
            return super()._save(output_dir, state_dict)
        with whole_model(output_dir or str(self.args.output_dir), RESUME) as folder:
            super()._save(str(folder), state_dict)
            save_configuration(self.accelerator.unwrap_model(self.model), folder)


__all__ = ["TEACHER_FILE", "AMNSTrainer", "NonFiniteLossError"]
