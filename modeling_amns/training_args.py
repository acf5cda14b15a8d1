"""Arguments of `AMNSTrainer`, grouped by what they control."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, cast

from transformers import TrainingArguments
from transformers.utils import is_in_notebook

from .data.transforms import Augmentation
from .losses import IDENTITY, check_options, loss_names
from .masking import MASK_IMAGES, MASK_SCORES

LOSS_NAMES = loss_names()
PAIR_WEIGHTINGS = ("none", "mixture", "selection")
# What `pair_weighting` weighs of a loss.
WHOLE, HALF = "whole", "half"
# Options of `TrainingArguments` that would change nothing here, or break what the trainer does, with the reason.
REFUSED = {
    "fsdp": "AMNSTrainer does not train under FSDP, which cuts up the parameters that the teacher averages",
    "fsdp_config": "AMNSTrainer does not train under FSDP",
    "deepspeed": "AMNSTrainer does not train under DeepSpeed, which cuts up the parameters that the teacher averages",
    "label_smoothing_factor": "there are no labels to smooth; loss_options shape the losses",
    "label_names": "pairs have person ids, no labels",
    "neftune_noise_alpha": "the encoders take no noise on their embeddings; augment_text disturbs captions",
    "average_tokens_across_devices": "the losses are means over pairs, not over tokens",
    "use_liger_kernel": "there is no Liger kernel for these encoders; torch_compile is the way to faster kernels",
    "liger_kernel_config": "there is no Liger kernel for these encoders",
    "use_cache": "nothing is generated, so there is nothing to cache",
    "optim_target_modules": "the optimizer's groups go by learning rate, see new_parts_lr_multiplier",
    "length_column_name": "group_by_length groups by the length of the captions",
    "remove_unused_columns": "the collator needs the columns that the model does not know",
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "prediction_loss_only": "evaluation ranks embeddings and computes no loss",
    "bf16_full_eval": "evaluation computes as training does; bf16 sets both",
    "fp16_full_eval": "evaluation computes as training does; fp16 sets both",
    "eval_accumulation_steps": "embeddings are moved to the CPU once they are whole",
    "eval_do_concat_batches": "compute_metrics always gets whole arrays",
    "eval_use_gather_object": "embeddings are tensors",
    "include_for_metrics": "compute_metrics gets embeddings and person ids, no inputs and no losses",
    "batch_eval_metrics": "a ranking needs the whole gallery, compute_metrics is called once",
}


@dataclass
class AMNSTrainingArguments(TrainingArguments):
    """`TrainingArguments` plus losses, mask, teacher, sampling, augmentation, learning rates and card of AMNS.

    Defaults that differ from `TrainingArguments`: evaluation and saving once an epoch,
    `metric_for_best_model="rank1"`, `dataloader_drop_last=True` (a contrastive loss depends on its batch size),
    `remove_unused_columns=False`, `lr_scheduler_type="cosine"`, `logging_nan_inf_filter=False` (a loss that is not
    finite must be seen), `ddp_find_unused_parameters=False` (every parameter that is trained takes part in each loss).
    `disable_tqdm` is on by default where no terminal shows the bar, `dataloader_pin_memory` off without an
    accelerator.

    Raises:
        ValueError: a value is out of its range, a loss does not take its options, or an option of
            `TrainingArguments` is set that has no effect here (`REFUSED`).
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "loss_weights", "loss_options"]
    # In `--help` and docs/training.md: the first field of a group, and the group's title.
    _argument_groups = {
        "loss_weights": "Losses",
        "pair_weighting": "Doubtful pairs",
        "keep_ratio": "Mask and teacher (AWM)",
        "instances_per_identity": "Sampling and augmentation",
        "new_parts_lr_multiplier": "Learning rates",
        "hub_license": "Pushing",
        "overwrite_output_dir": "Output folder",
        "eval_strategy": "Options of transformers with another default",
    }

    # Losses
    loss_weights: dict | str | None = field(
        default_factory=lambda: {"bsdm": 1.0, "waf": 1.0, "identity": 1.0},
        metadata={"help": "Weight of each loss as JSON, names: " + ", ".join(LOSS_NAMES) + "."},
    )
    loss_options: dict | str | None = field(
        default_factory=dict, metadata={"help": 'Options of each loss as JSON, e.g. {"waf": {"gamma": 2.0}}.'}
    )
    temperature: float = field(default=0.02, metadata={"help": "Cosine similarities are divided by it; fixed."})
    gather_embeddings: bool = field(
        default=True, metadata={"help": "Compare with the pairs of all processes, not only this one's."}
    )

    gradient_cache_chunk_size: int = field(
        default=0,
        metadata={
            "help": "Pairs whose activations are held at a time; the gradient stays that of the batch; 0 = off."
        },
    )

    # Doubtful pairs
    pair_weighting: str = field(
        default="none",
        metadata={
            "help": "mixture: rows count by how plausible their past losses make them; selection: doubtful rows count "
            "0; none: all count alike."
        },
    )
    pair_weighting_start: int | None = field(
        default=None,
        metadata={
            "help": "Epochs in which all rows count alike before; at 0 the start judges all pairs before the first "
            "step; default: 0 from a start, 2 from scratch."
        },
    )
    pair_weighting_losses: list[str] | None = field(
        default=None,
        metadata={
            "help": "Losses of which whole rows are weighed; default: the halves that learn from a wrong caption."
        },
    )
    pair_memory_decay: float = field(
        default=0.9, metadata={"help": "Decay of each pair's moving-average loss, by sighting, in [0, 1)."}
    )

    # AWM
    keep_ratio: float = field(
        default=0.5, metadata={"help": "Share of the patches that the student sees, in (0, 1]; 1 switches AWM off."}
    )
    mask_score: str = field(
        default="attention", metadata={"help": "How the teacher scores patches: " + ", ".join(MASK_SCORES) + "."}
    )
    mask_image: str = field(
        default="raw",
        metadata={"help": "What the teacher scores: raw, the image before jitter and erasing, or augmented."},
    )
    mask_image_scale: float = field(
        default=1.0,
        metadata={"help": "Side of the image that the teacher scores, as a share, in (0, 1]; A-CLIP's fast one: 0.5."},
    )
    mask_last_layers: int = field(default=1, metadata={"help": "Layers averaged by mask_score attention_last."})
    mask_block: int = field(default=1, metadata={"help": "Patches are kept in blocks of this side; A-CLIP uses 2."})
    unmasked_share: float = field(
        default=0.0, metadata={"help": "Last share of the steps that show whole images, in [0, 1); 0.1 is a tenth."}
    )
    ema_decay: float = field(default=0.999, metadata={"help": "Final decay of the teacher, in [0, 1)."})
    ema_ramp: bool | None = field(
        default=None, metadata={"help": "Raise the decay from 2/11 at first; default: only from scratch."}
    )

    # Sampling and augmentation
    instances_per_identity: int = field(
        default=0, metadata={"help": "K of identity-balanced batches (P persons x K pairs); 0 samples at random."}
    )
    stream_shuffle_block: int = field(
        default=1, metadata={"help": "Pairs of a stream that a worker mixes among themselves; 1 keeps their order."}
    )
    augment_flip: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip."})
    augment_crop_padding: int = field(default=10, metadata={"help": "Pixels of padding before the random crop."})
    augment_erasing: float = field(default=0.5, metadata={"help": "Probability of random erasing."})
    augment_color_jitter: float = field(default=0.0, metadata={"help": "Colour jitter; captions speak of colours."})
    augment_text: float = field(
        default=0.0, metadata={"help": "Share of a caption's tokens that is changed; RDE: 0.2."}
    )

    # Learning rates
    new_parts_lr_multiplier: float = field(
        default=5.0, metadata={"help": "Learning rate of newly initialised parts (the identity classifier), times."}
    )
    bias_lr_multiplier: float = field(
        default=2.0, metadata={"help": "Learning rate of biases, times; biases and norms have no weight decay."}
    )
    freeze_patch_embedding: bool = field(
        default=False,
        metadata={"help": "Leave the first layer of the image encoder as it is, as TBPS-CLIP and A-CLIP."},
    )

    # Pushing
    hub_license: str | None = field(
        default=None, metadata={"help": "Licence of the weights in the card, as the Hub names it, e.g. cc-by-nc-4.0."}
    )

    # Output folder
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete the checkpoints, weights and results of another run in output_dir."}
    )

    # Changed defaults
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate retrieval."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint."})
    metric_for_best_model: str | None = field(default="rank1", metadata={"help": "Retrieval figure that selects."})
    greater_is_better: bool | None = field(default=True, metadata={"help": "Whether a larger figure is better."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Drop the last incomplete batch."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator needs all columns."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Search each step for parameters that took no part in the loss."}
    )

    def __post_init__(self):
        self._refuse_without_effect()
        for name in ("loss_weights", "loss_options"):
            value = getattr(self, name)
            if isinstance(value, str):
                try:
                    json.loads(value)
                except ValueError as error:
                    raise ValueError(f"{name} is no valid JSON: {error}; found {value!r}.") from error
        if self.disable_tqdm is None and not sys.stderr.isatty() and not is_in_notebook():
            # A log file would get a line for each step of the bar.
            self.disable_tqdm = True
        super().__post_init__()
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False
        self.check()

    def check(self) -> None:
        """Refuses values that cannot work; asked again where a hyperparameter search has set some.

        Raises:
            ValueError: as the class.
        """
        self._check_losses()
        self._check_pair_weighting()
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio must lie in (0, 1], found {self.keep_ratio}; 1 keeps every patch.")
        if self.mask_score not in MASK_SCORES:
            raise ValueError(f"mask_score must be one of {', '.join(MASK_SCORES)}, found {self.mask_score!r}.")
        if self.mask_image not in MASK_IMAGES:
            raise ValueError(f"mask_image must be one of {', '.join(MASK_IMAGES)}, found {self.mask_image!r}.")
        if not 0 <= self.unmasked_share < 1:
            raise ValueError(
                f"unmasked_share must lie in [0, 1), found {self.unmasked_share}; keep_ratio 1 shows whole images in "
                "all steps."
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), found {self.ema_decay}.")
        if not 0 < self.mask_image_scale <= 1:
            raise ValueError(f"mask_image_scale must lie in (0, 1], found {self.mask_image_scale}.")
        if self.stream_shuffle_block < 1:
            raise ValueError(f"stream_shuffle_block must be at least 1, found {self.stream_shuffle_block}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, found {self.temperature}.")
        if self.train_sampling_strategy not in ("random", "group_by_length"):
            raise ValueError(
                f"train_sampling_strategy must be random or group_by_length, found {self.train_sampling_strategy!r}."
            )
        instances = self.instances_per_identity
        if instances and self.train_sampling_strategy != "random":
            raise ValueError(
                f"instances_per_identity {instances} decides the batches, so train_sampling_strategy "
                f"{self.train_sampling_strategy} would have no effect; leave one of them out."
            )
        if instances and self.per_device_train_batch_size % instances:
            raise ValueError(
                f"per_device_train_batch_size {self.per_device_train_batch_size} is no multiple of "
                f"instances_per_identity {instances}."
            )
        if instances and self.auto_find_batch_size:
            raise ValueError(
                f"auto_find_batch_size tries batches that are no multiple of instances_per_identity {instances}."
            )
        self._refuse_without_mask()
        if self.gradient_cache_chunk_size and self.torch_empty_cache_steps:
            raise ValueError("torch_empty_cache_steps has no effect with gradient_cache_chunk_size; leave one out.")
        if (self.metric_for_best_model or "").endswith("loss"):
            raise ValueError(
                f"metric_for_best_model {self.metric_for_best_model}: evaluation ranks and computes no loss; choose a "
                "retrieval figure such as rank1 or mAP."
            )
        self.augmentation()

    def _refuse_without_effect(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            default = option.default_factory() if option.default_factory is not MISSING else option.default
            # Nothing is nothing, in whichever of its forms.
            if option.name in REFUSED and value != default and (value or default):
                raise ValueError(f"{option.name}={value!r} can't be used: {REFUSED[option.name]}. Leave it out.")

    def _refuse_without_mask(self) -> None:
        of_teacher = ("mask_image", "mask_image_scale", "ema_decay", "ema_ramp")
        without = {
            "keep_ratio 1 hides no patch": (
                ("mask_score", "mask_last_layers", "mask_block", "unmasked_share", *of_teacher),
                self.keep_ratio == 1,
            ),
            "mask_score random asks no teacher": (of_teacher, self.mask_score == "random"),
            "mask_score text compares single patches": (("mask_image_scale",), self.mask_score == "text"),
            "only mask_score attention_last averages some layers": (
                ("mask_last_layers",),
                self.mask_score != "attention_last",
            ),
            "without augment_erasing and augment_color_jitter both images are one": (
                ("mask_image",),
                not self.augment_erasing and not self.augment_color_jitter,
            ),
        }
        defaults = {option.name: option.default for option in fields(self)}
        for off, (names, applies) in without.items():
            idle = [name for name in names if applies and getattr(self, name) != defaults[name]]
            if idle:
                raise ValueError(f"{', '.join(idle)} can't be used: {off}. Leave out what has no effect.")

    def _check_losses(self) -> None:
        for name in ("loss_weights", "loss_options"):
            value = getattr(self, name)
            if not isinstance(value or {}, Mapping):
                raise ValueError(f'{name} must map names of losses to values, as {{"waf": ...}}; found {value!r}.')
        # JSON text was read by then.
        self.loss_options = cast(dict, self.loss_options or {})
        weights = cast(dict, self.loss_weights or {})
        if not weights:
            raise ValueError("loss_weights is empty; name at least one of " + ", ".join(loss_names()) + ".")
        for name in [*weights, *self.loss_options]:
            if name not in loss_names():
                raise ValueError(f"There is no loss {name!r}; the losses are " + ", ".join(loss_names()) + ".")
        for name, options in self.loss_options.items():
            if name not in weights:
                raise ValueError(f"loss_options for {name}, which loss_weights does not name: it is not computed.")
            if not isinstance(options, Mapping):
                raise ValueError(f"loss_options of {name} must map its options to values, found {options!r}.")
        for name in weights:
            check_options(name, self.loss_options.get(name, {}))
        modality = self.options_of(IDENTITY).get("modality", "both")
        if set(weights) == {IDENTITY} and modality != "both":
            raise ValueError(
                f"identity with modality {modality} as the only loss trains one encoder of two; add a loss that "
                "compares images with captions."
            )
        numbers = all(isinstance(weight, int | float) and math.isfinite(weight) for weight in weights.values())
        if not numbers or not any(weights.values()):
            raise ValueError(f"loss_weights must be finite numbers and not all 0, found {weights}.")
        self.loss_weights = {name: float(weight) for name, weight in weights.items()}

    def _check_pair_weighting(self) -> None:
        kind, losses = self.pair_weighting, self.pair_weighting_losses
        if kind not in PAIR_WEIGHTINGS:
            raise ValueError(f"pair_weighting must be one of {', '.join(PAIR_WEIGHTINGS)}, found {kind!r}.")
        if not 0 <= self.pair_memory_decay < 1:
            raise ValueError(f"pair_memory_decay must lie in [0, 1), found {self.pair_memory_decay}.")
        if self.pair_weighting_start is not None and self.pair_weighting_start < 0:
            raise ValueError(f"pair_weighting_start must be at least 0, found {self.pair_weighting_start}.")
        if kind == "none":
            started = {"pair_weighting_start"} if self.pair_weighting_start is not None else set()
            idle = sorted(started | ({"pair_weighting_losses"} if losses is not None else set()))
            if idle:
                raise ValueError(f"{', '.join(idle)} can't be used: pair_weighting none weighs nothing. Leave it out.")
            return
        unknown = [name for name in losses or () if name not in self.weights]
        if unknown:
            raise ValueError(f"pair_weighting_losses {', '.join(unknown)}: not among the losses of loss_weights.")
        if not any(self.weighted_part(name) for name in self.weights):
            raise ValueError(
                f"pair_weighting {kind} would weigh nothing of {', '.join(self.weights)}: name in "
                "pair_weighting_losses what it is to weigh, or leave it out."
            )

    def weighted_part(self, name: str) -> str | None:
        """What `pair_weighting` weighs of a loss: `WHOLE` rows, the `HALF` that learns from a wrong caption, or none.

        Without `pair_weighting_losses`: of `identity` the captions' half, since a wrong caption says nothing against
        its image; under `mixture` the inverse half of `bsdm` and nothing of `sdm`, whose pull on rows that the model
        contradicts vanishes by itself; else whole rows.
        """
        if self.pair_weighting == "none":
            return None
        if self.pair_weighting_losses is not None:
            return WHOLE if name in self.pair_weighting_losses else None
        if name == IDENTITY:
            return None if self.options_of(name).get("modality") == "image" else HALF
        spared = {"bsdm": HALF, "sdm": None} if self.pair_weighting == "mixture" else {}
        return spared.get(name, WHOLE)

    @property
    def weights(self) -> dict[str, float]:
        """`loss_weights` as read."""
        return cast(dict, self.loss_weights)

    def options_of(self, name: str) -> dict[str, Any]:
        """`loss_options` of one loss."""
        return cast(dict, self.loss_options).get(name, {})

    @property
    def sampling_seed(self) -> int:
        """Seed of the order of pairs and of their augmentation: `data_seed`, or `seed` where none is set."""
        return self.seed if self.data_seed is None else self.data_seed

    def augmentation(self) -> Augmentation:
        """The `augment_*` options as an `Augmentation`."""
        return Augmentation(
            flip=self.augment_flip,
            crop_padding=self.augment_crop_padding,
            erasing=self.augment_erasing,
            color_jitter=self.augment_color_jitter,
            text=self.augment_text,
        )


__all__ = ["HALF", "LOSS_NAMES", "PAIR_WEIGHTINGS", "REFUSED", "WHOLE", "AMNSTrainingArguments"]
