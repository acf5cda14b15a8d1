"""Arguments of `AMNSTrainer`, grouped by what they control."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from .data.transforms import Augmentation
from .losses import MATCHING_LOSSES
from .masking import MASK_SCORES

LOSS_NAMES = (*MATCHING_LOSSES, "identity")


@dataclass
class AMNSTrainingArguments(TrainingArguments):
    """`TrainingArguments` plus losses, mask, teacher, sampling, augmentation, learning rates and card of AMNS.

    Defaults that differ from `TrainingArguments`: evaluation and saving once an epoch,
    `metric_for_best_model="rank1"`, `dataloader_drop_last=True` (a contrastive loss depends on its batch size),
    `remove_unused_columns=False`, `lr_scheduler_type="cosine"`, `logging_nan_inf_filter=False` (a loss that is not
    finite must be seen), `ddp_find_unused_parameters=False` (every parameter that is trained takes part in each loss).
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "loss_weights", "loss_options"]
    # In `--help` and docs/training.md: the first field of a group, and the group's title.
    _argument_groups = {
        "loss_weights": "Losses",
        "keep_ratio": "Mask and teacher (AWM)",
        "instances_per_identity": "Sampling and augmentation",
        "new_parts_lr_multiplier": "Learning rates",
        "hub_license": "Pushing",
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

    # AWM
    keep_ratio: float = field(
        default=0.5, metadata={"help": "Share of the patches that the student sees, in (0, 1]; 1 switches AWM off."}
    )
    mask_score: str = field(
        default="attention", metadata={"help": "How the teacher scores patches: " + ", ".join(MASK_SCORES) + "."}
    )
    mask_last_layers: int = field(default=1, metadata={"help": "Layers averaged by mask_score attention_last."})
    mask_block: int = field(default=1, metadata={"help": "Patches are kept in blocks of this side; A-CLIP uses 2."})
    ema_decay: float = field(default=0.999, metadata={"help": "Final decay of the teacher, in [0, 1)."})

    # Sampling and augmentation
    instances_per_identity: int = field(
        default=0, metadata={"help": "K of identity-balanced batches (P persons x K pairs); 0 samples at random."}
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

    # Pushing
    hub_license: str | None = field(
        default=None, metadata={"help": "Licence of the weights in the card, as the Hub names it, e.g. cc-by-nc-4.0."}
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
        super().__post_init__()
        self._check_losses()
        if not 0 < self.keep_ratio <= 1:
            raise ValueError(f"keep_ratio must lie in (0, 1], found {self.keep_ratio}; 1 keeps every patch.")
        if self.mask_score not in MASK_SCORES:
            raise ValueError(f"mask_score must be one of {', '.join(MASK_SCORES)}, found {self.mask_score!r}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), found {self.ema_decay}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, found {self.temperature}.")
        if self.train_sampling_strategy not in ("random", "group_by_length"):
            raise ValueError(
                f"train_sampling_strategy must be random or group_by_length, found {self.train_sampling_strategy!r}."
            )
        instances = self.instances_per_identity
        if instances and self.per_device_train_batch_size % instances:
            raise ValueError(
                f"per_device_train_batch_size {self.per_device_train_batch_size} is no multiple of "
                f"instances_per_identity {instances}."
            )
        self.augmentation()

    def _check_losses(self) -> None:
        if not self.loss_weights:
            raise ValueError("loss_weights is empty; name at least one of " + ", ".join(LOSS_NAMES) + ".")
        for name in [*self.loss_weights, *self.loss_options]:
            if name not in LOSS_NAMES:
                raise ValueError(f"There is no loss {name!r}; the losses are " + ", ".join(LOSS_NAMES) + ".")
        self.loss_weights = {name: float(weight) for name, weight in self.loss_weights.items()}

    def augmentation(self) -> Augmentation:
        """The `augment_*` options as an `Augmentation`."""
        return Augmentation(
            flip=self.augment_flip,
            crop_padding=self.augment_crop_padding,
            erasing=self.augment_erasing,
            color_jitter=self.augment_color_jitter,
            text=self.augment_text,
        )


__all__ = ["LOSS_NAMES", "AMNSTrainingArguments"]
