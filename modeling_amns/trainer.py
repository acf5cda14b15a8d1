"""`AMNSTrainer`: transformers' `Trainer` with the AMNS losses, the mask and its teacher, and retrieval evaluation."""

import time
from collections.abc import Mapping
from pathlib import Path

import datasets
import torch
from accelerate.utils import parse_flag_from_env
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback

from .adapters import save_configuration
from .checkpoints import WholeCheckpoints
from .data.collator import PairCollator, PairPreparer, StreamedPairs, TrainingPairs
from .data.sampler import IdentitySampler, RandomPairSampler
from .data.transforms import augment_images
from .ema import ImageTeacher
from .evaluation import evaluate_retrieval
from .gradient_cache import cached_backward
from .losses import MATCHING_LOSSES, identity_loss, matching_loss
from .masking import patch_scores, select_patches
from .modeling_amns import AMNSForPersonRetrieval, AMNSPersonRetrievalOutput
from .pushes import PushesCheckpoints, refuse_unfit_pushes
from .training_args import AMNSTrainingArguments

TEACHER_FILE = "teacher.safetensors"


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; the message names step, loss parts, pairs and the checkpoint before it."""


class _StepKeeper(TrainerCallback):
    """What happens once an optimizer step, whatever the accumulation: the check of the loss, the teacher's move."""

    def __init__(self, trainer: "AMNSTrainer"):
        self.trainer = trainer

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.micro_batches = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.stop_if_not_finite()

    def on_optimizer_step(self, args, state, control, **kwargs):
        # A scaler that skipped the step on overflow left the student as it was.
        if self.trainer.teacher is not None and not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.teacher.update(self.trainer.student)


class AMNSTrainer(PushesCheckpoints, WholeCheckpoints, Trainer):
    """Trains an `AMNSForPersonRetrieval`.

    Args:
        model: the student.
        args: `AMNSTrainingArguments`.
        train_dataset: rows with `image`, `caption`, `person_id` (`load_benchmark(..., split="train")`), map-style or
            streamed.
        eval_dataset: `{"gallery": ..., "queries": ...}` (`load_benchmark(..., split="val")`).
        processing_class: the `AMNSProcessor`; saved with every checkpoint.
        kwargs: as `Trainer`.

    The teacher starts as a copy of the image encoder and is kept in `teacher.safetensors` of each checkpoint. Each
    part of the loss is logged as `loss_<name>`, unweighted. Under several processes each loss compares this process's
    pairs with the pairs of all (`gather_embeddings`), and the gradient equals that of one process with all.

    ```python
    trainer = AMNSTrainer(model, args, train_dataset=train, eval_dataset=val, processing_class=processor)
    trainer.train()
    trainer.evaluate(test)  # {"eval_rank1": ..., "eval_rank5": ..., "eval_rank10": ..., "eval_mAP": ...}
    ```
    """

    # The losses are means; Trainer divides them by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: AMNSForPersonRetrieval,
        args: AMNSTrainingArguments,
        train_dataset: datasets.Dataset | datasets.IterableDataset | None = None,
        eval_dataset: Mapping[str, datasets.Dataset] | None = None,
        processing_class=None,
        **kwargs,
    ):
        if processing_class is None:
            raise ValueError("AMNSTrainer needs processing_class=AMNSProcessor to prepare images and captions.")
        _check_columns("train_dataset", train_dataset, ("image", "caption", "person_id"))
        self.person_ids = train_dataset["person_id"][:] if isinstance(train_dataset, datasets.Dataset) else None
        self._check_identities(model, args)
        refuse_unfit_pushes(model, args)
        preparer = PairPreparer(processing_class, args.augmentation(), args.data_seed or args.seed)
        if isinstance(train_dataset, datasets.Dataset):
            train_dataset = TrainingPairs(train_dataset, preparer)
        elif train_dataset is not None:
            train_dataset = StreamedPairs(train_dataset, preparer)
        # A fixed temperature: the checkpoint's own scale is set to it, so that saved logits mean what was trained.
        model.amns.logit_scale.data.fill_(-torch.tensor(args.temperature).log().item())
        model.amns.logit_scale.requires_grad_(False)
        if model.classifier is not None and "identity" not in args.loss_weights:
            # Else it would be the one parameter without a gradient, which distributed training has to know of.
            model.classifier.requires_grad_(False)
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=PairCollator(processing_class.tokenizer.pad_token_id),
            **kwargs,
        )
        self._refuse_sharded_parameters()
        self.model_accepts_loss_kwargs = False
        self.teacher = None
        if args.keep_ratio < 1:
            self.teacher = ImageTeacher(self.student, args.ema_decay)
        self.add_callback(_StepKeeper(self))
        self.micro_batches: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []
        image_processor = processing_class.image_processor
        self._mean = torch.tensor(image_processor.image_mean, device=args.device)
        self._std = torch.tensor(image_processor.image_std, device=args.device)
        self._part_sums: dict[str, Tensor] = {}
        self._part_count = 0

    @property
    def student(self) -> nn.Module:
        """The dual encoder that is trained, not wrapped."""
        return self.accelerator.unwrap_model(self.model).amns

    def _refuse_sharded_parameters(self) -> None:
        parallelism = getattr(self.accelerator, "parallelism_config", None)
        # The environment too: on CPUs accelerate leaves a wish for FSDP aside without a word.
        sharding = {
            "FSDP": self.is_fsdp_enabled or parse_flag_from_env("ACCELERATE_USE_FSDP"),
            "DeepSpeed": self.is_deepspeed_enabled or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"),
            "tensor parallelism": parallelism is not None and parallelism.tp_enabled,
        }
        found = [name for name, enabled in sharding.items() if enabled]
        if found:
            raise ValueError(
                f"AMNSTrainer does not train under {' and '.join(found)}: teacher and evaluation read whole "
                "parameters, which sharding cuts up. Launch with plain data parallelism (accelerate's MULTI_GPU or "
                "MULTI_CPU); gradient_cache_chunk_size and gradient_checkpointing save memory instead."
            )

    def _check_identities(self, model, args) -> None:
        if "identity" not in args.loss_weights:
            return
        found = model.config.num_identities
        if model.classifier is None:
            raise ValueError("The identity loss needs num_identities in the model's configuration; it is 0.")
        if self.person_ids is not None:
            needed = max(self.person_ids) + 1
            if needed > found:
                raise ValueError(
                    f"The training set has person ids up to {needed - 1}, the model's classifier {found} identities; "
                    f"load it with num_identities={needed}."
                )

    def _get_train_sampler(self, train_dataset=None) -> Sampler | None:
        seed = self.args.data_seed or self.args.seed
        if self.args.instances_per_identity:
            return IdentitySampler(self.person_ids, self.args.instances_per_identity, seed)
        lengths = None
        if self.args.train_sampling_strategy == "group_by_length":
            lengths = [len(caption) for caption in self.train_dataset.dataset["caption"]]
        batch_size = self.args.train_batch_size * self.args.world_size
        return RandomPairSampler(len(self.train_dataset), seed, lengths, batch_size)

    def create_optimizer(self, model=None):
        """AdamW (or `--optim`) over groups by learning rate and weight decay: body or new parts, weights or biases."""
        if self.optimizer is None:
            model = self.model if model is None else model
            decayed = set(self.get_decay_parameter_names(model))
            groups: dict[tuple[float, float], list[nn.Parameter]] = {}
            for name, parameter in model.named_parameters():
                if not parameter.requires_grad:
                    continue
                # As IRRA: a bias gets its own factor, in new parts too.
                factor = 1.0
                if name.endswith(".bias"):
                    factor = self.args.bias_lr_multiplier
                elif "classifier." in name:
                    factor = self.args.new_parts_lr_multiplier
                decay = self.args.weight_decay if name in decayed else 0.0
                groups.setdefault((factor, decay), []).append(parameter)
            optimizer_cls, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            rate = options.pop("lr")
            self.optimizer = optimizer_cls(
                [
                    {"params": parameters, "lr": rate * factor, "weight_decay": decay}
                    for (factor, decay), parameters in groups.items()
                ],
                lr=rate,
                **options,
            )
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Weighted sum of the losses of one batch of `PairCollator`; keeps each part for the log."""
        outputs = model(**self._model_inputs(inputs))
        loss = self._loss(outputs, inputs)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        """As `Trainer`; `gradient_cache_chunk_size` gives the same gradient chunk by chunk."""
        size = self.args.gradient_cache_chunk_size
        if not size:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            prepared = self._model_inputs(inputs, size)

        def forward(chunk: dict[str, Tensor]) -> dict[str, Tensor]:
            with self.compute_loss_context_manager():
                return dict(model(**chunk).items())

        def loss_backward(outputs: dict[str, Tensor]) -> Tensor:
            with self.compute_loss_context_manager():
                loss = self._loss(AMNSPersonRetrievalOutput(**outputs), inputs)
            loss = loss / self.current_gradient_accumulation_steps
            self.accelerator.backward(loss)
            return loss.detach()

        starts = range(0, len(inputs["person_ids"]), size)
        chunks = [{name: value[start : start + size] for name, value in prepared.items()} for start in starts]
        return cached_backward(model, chunks, forward, loss_backward)

    def _model_inputs(self, inputs: Mapping[str, Tensor], chunk_size: int | None = None) -> dict[str, Tensor]:
        """Augmented pixels, tokens and, under AWM, the patches that the student sees (teacher in chunks)."""
        prepared = {
            "pixel_values": augment_images(
                inputs["images"], self._mean, self._std, inputs["erase"], inputs.get("jitter")
            ),
            "input_ids": inputs["input_ids"],
            "attention_mask": inputs["attention_mask"],
        }
        if self.teacher is not None:
            prepared["keep_indices"] = self.keep_indices(prepared, chunk_size or len(inputs["images"]))
        return prepared

    def _loss(self, outputs: AMNSPersonRetrievalOutput, inputs: Mapping[str, Tensor]) -> Tensor:
        parts = self._loss_parts(outputs, inputs["person_ids"])
        loss = sum(self.args.loss_weights[name] * value for name, value in parts.items())
        kept = {name: value.detach() for name, value in parts.items()}
        for name, value in kept.items():
            self._part_sums[name] = self._part_sums.get(name, 0.0) + value
        self._part_count += 1
        self.micro_batches.append((kept, inputs["rows"], inputs["person_ids"]))
        return loss

    def stop_if_not_finite(self) -> None:
        """Before an optimizer step: if a loss of any process is not finite, saves the state so far and stops.

        Raises:
            NonFiniteLossError: on every process, with the parts and pairs of its own batches.
        """
        values = torch.stack([value.float() for parts, _, _ in self.micro_batches for value in parts.values()])
        # One number crosses from the device per optimizer step; without it the state before would be gone.
        bad = (~values.isfinite()).any().float()
        if not self.accelerator.reduce(bad, reduction="sum").item():
            return
        self._save_checkpoint(self.model, trial=None)
        saved = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        lines = []
        for parts, rows, person_ids in self.micro_batches:
            figures = ", ".join(f"{name}={value.item():.6g}" for name, value in parts.items())
            lines.append(f"{figures}; rows {rows.tolist()}; person ids {person_ids.tolist()}")
        raise NonFiniteLossError(
            f"Step {self.state.global_step + 1}, process {self.args.process_index}: the loss is not finite. "
            f"{' | '.join(lines)}. The state before this step is saved in {saved}; resume from it with a smaller "
            "learning rate, or without mixed precision."
        )

    def _loss_parts(self, outputs, person_ids: Tensor) -> dict[str, Tensor]:
        parts = {}
        for name in self.args.loss_weights:
            options = self.args.loss_options.get(name, {})
            if name == "identity":
                parts[name] = identity_loss(
                    outputs.image_identity_logits, outputs.text_identity_logits, person_ids, **options
                )
            else:
                parts[name] = matching_loss(
                    MATCHING_LOSSES[name],
                    outputs.image_embeds,
                    outputs.text_embeds,
                    person_ids,
                    temperature=self.args.temperature,
                    gather=self.args.gather_embeddings,
                    **options,
                )
        return parts

    @torch.no_grad()
    def keep_indices(self, prepared: dict[str, Tensor], chunk_size: int) -> Tensor:
        """The patches that the teacher leaves, int64 [B, K], of `pixel_values` (and tokens, for mask_score text)."""
        pixel_values = prepared["pixel_values"]
        self.teacher.to(pixel_values.device)
        text_embeds = generator = None
        if self.args.mask_score == "text":
            tokens = {name: prepared[name] for name in ("input_ids", "attention_mask")}
            text_embeds = self.student.get_text_features(**tokens).pooler_output
        elif self.args.mask_score == "random":
            generator = torch.Generator(pixel_values.device)
            # From the step alone, so that a resumed run masks as an uninterrupted one.
            place = (self.args.seed, self.state.global_step, len(self.micro_batches), self.args.process_index)
            generator.manual_seed(hash(place))
        scores = [
            patch_scores(
                self.args.mask_score,
                self.teacher,
                pixel_values[start : start + chunk_size],
                None if text_embeds is None else text_embeds[start : start + chunk_size],
                self.args.mask_last_layers,
                generator,
            )
            for start in range(0, len(pixel_values), chunk_size)
        ]
        grid = self.student.config.vision_config.grid_size
        return select_patches(torch.cat(scores), self.args.keep_ratio, grid, self.args.mask_block)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each loss part since the last log, over all processes."""
        if "loss" in logs and self._part_count:
            names = list(self._part_sums)
            means = torch.stack([self._part_sums[name] for name in names]) / self._part_count
            means = self.accelerator.reduce(means, reduction="mean").tolist()
            logs = {**logs, **{f"loss_{name}": mean for name, mean in zip(names, means)}}
            self._part_sums, self._part_count = {}, 0
        super().log(logs, start_time)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Text-to-image retrieval of all captions of a split among all its images, shared out over the processes.

        Args:
            eval_dataset: `{"gallery", "queries"}`; default the trainer's own.
        Returns:
            `{prefix}_rank1`, `_rank5`, `_rank10`, `_mAP`, `_mINP` in percent and `{prefix}_runtime` in seconds.
        """
        start = time.time()
        with self.compute_loss_context_manager():
            figures = evaluate_retrieval(
                self.student.to(self.args.device),
                self.processing_class,
                self.eval_dataset if eval_dataset is None else eval_dataset,
                self.args.eval_batch_size,
                self.args.dataloader_num_workers,
            )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        metrics[f"{metric_key_prefix}_runtime"] = round(time.time() - start, 2)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            save_configuration(self.accelerator.unwrap_model(self.model), output_dir or self.args.output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.teacher is not None and self.args.should_save:
            save_file(
                {name: value.contiguous() for name, value in self.teacher.state_dict().items()},
                Path(output_dir) / TEACHER_FILE,
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self.teacher is None:
            return
        file = Path(checkpoint) / TEACHER_FILE
        if not file.is_file():
            raise FileNotFoundError(
                f"{checkpoint} has no {TEACHER_FILE}, so it was written with keep_ratio 1. Resume with the options "
                "that it was started with, or start from its weights with --model_name_or_path."
            )
        self.teacher.load_state_dict(load_file(file))


def _check_columns(name: str, dataset, needed: tuple[str, ...]) -> None:
    columns = getattr(dataset, "column_names", None)
    missing = [column for column in needed if columns is not None and column not in columns]
    if missing:
        raise ValueError(f"{name} lacks the column(s) {', '.join(missing)}; it has {', '.join(columns)}.")


__all__ = ["TEACHER_FILE", "AMNSTrainer", "NonFiniteLossError"]
