"""What `AMNSTrainer` is given, checked before any work: each refusal is one ValueError that says what to do."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import datasets
import torch
from accelerate import PartialState
from accelerate.utils import is_peft_model, parse_flag_from_env
from torch import Tensor, nn
from transformers import Trainer
from transformers.utils import logging

from .configuration_amns import AMNSConfig
from .data.long_captions import REFUSE, WINDOWS, count_long, refuse_long
from .data.streamed import can_resume
from .data.tables import has_persons
from .extras import require
from .losses import IDENTITY
from .pair_mixture import EXTRA
from .protocols import PairProcessor
from .pushes import refuse_unfit_pushes
from .report import METRICS
from .splits import is_split, named_sets
from .training_args import AMNSTrainingArguments

logger = logging.get_logger(__name__)

TRAIN_COLUMNS = ("image", "caption", "person_id")
SPLIT_COLUMNS = {"gallery": ("image", "person_id"), "queries": ("caption", "person_id")}
# Arguments of `Trainer.__init__` that AMNSTrainer cannot honour.
REFUSED_ARGUMENTS = {
    "compute_loss_func": "the losses compare all pairs of a batch; give yours a name with losses.register_loss",
    "preprocess_logits_for_metrics": "evaluation makes embeddings, no logits; compute_metrics gets these whole",
}


def refuse_trainer_arguments(given: Mapping[str, Any]) -> None:
    """A ValueError for an argument of `Trainer` that would not be used."""
    for name, reason in REFUSED_ARGUMENTS.items():
        if given.get(name) is not None:
            raise ValueError(f"AMNSTrainer takes no {name}: {reason}.")


def check_training_set(
    dataset: datasets.Dataset | datasets.IterableDataset | None, args: AMNSTrainingArguments
) -> None:
    """Type, columns and, of a stream, that nothing is asked that needs to know all rows.

    Wrong captions in identity-balanced batches are warned of.

    Raises:
        ValueError: it does not fit.
    """
    if dataset is None:
        return
    if not isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
        raise ValueError(
            f"train_dataset must be a datasets.Dataset or IterableDataset, found {type(dataset).__name__}; load_pairs "
            "and load_benchmark make one."
        )
    if args.pair_weighting != "none":
        require("sklearn.mixture", EXTRA, f"pair_weighting {args.pair_weighting}")
    _check_columns("train_dataset", dataset, TRAIN_COLUMNS)
    if not has_persons(dataset):
        refuse_person_options(args)
    if isinstance(dataset, datasets.IterableDataset):
        refuse_row_options(args)
        if args.stream_shuffle_block > 1 and not can_resume(dataset):
            raise ValueError(
                f"stream_shuffle_block {args.stream_shuffle_block} mixes the stream, which has a shuffle buffer of "
                "its own already. Leave .shuffle() out: what lies in its buffer is lost where a run is resumed."
            )
        return
    if args.stream_shuffle_block > 1:
        raise ValueError(
            f"stream_shuffle_block {args.stream_shuffle_block} is for streams; rows that are all known are drawn at "
            "random. Leave it out."
        )
    if args.instances_per_identity > 1 and "is_clean" in dataset.column_names:
        wrong = 1 - sum(dataset["is_clean"][:]) / max(1, len(dataset))
        if wrong:
            logger.warning(
                f"{wrong:.0%} of the captions are wrong, and instances_per_identity {args.instances_per_identity} "
                "makes each of them a positive of all images of its person in the batch. instances_per_identity 0 "
                "spoils one row by it, not as many."
            )


def refuse_person_options(args: AMNSTrainingArguments) -> None:
    """A ValueError for what needs person ids, where each image is a person of its own.

    Losses of pairs (`waf`, `sdm`, ...) do not: the captions of an image are its positives.
    """
    asked = {
        f"the {IDENTITY} loss": IDENTITY in args.weights,
        f"instances_per_identity {args.instances_per_identity}": args.instances_per_identity > 1,
    }
    for name, given in asked.items():
        if given:
            raise ValueError(
                f"{name} needs person ids, and the training pairs have none (person_id_column none): each image is a "
                f"person of its own. Name the column of the ids, or go without: loss_weights without {IDENTITY}, "
                "instances_per_identity 0."
            )


def refuse_row_options(args: AMNSTrainingArguments) -> None:
    """A ValueError for what needs to know all rows of a training set, where it is a stream."""
    asked = {
        "instances_per_identity": args.instances_per_identity,
        "train_sampling_strategy group_by_length": args.train_sampling_strategy == "group_by_length",
        f"pair_weighting {args.pair_weighting}": args.pair_weighting != "none",
        "weighting balanced of the identity loss": args.options_of(IDENTITY).get("weighting") == "balanced",
    }
    for name in asked:
        if asked[name]:
            raise ValueError(
                f"{name} needs to know all rows, and a stream is read in its own order. Load the training set whole "
                "(streaming=False, without --streaming), or leave the option out."
            )


def refuse_of_stream(args: AMNSTrainingArguments) -> None:
    """A ValueError for what a run on a stream can't do, before anything is read."""
    refuse_row_options(args)
    if args.max_steps <= 0:
        raise ValueError("streaming has no end that is known: pass max_steps, which takes the place of epochs.")
    if IDENTITY in args.weights:
        raise ValueError(
            f"The loss {IDENTITY} needs the number of persons, and a stream is not known before it is read. Leave it "
            "out of loss_weights, or train in Python on a model with num_identities."
        )


def check_captions(dataset: object, eval_dataset: object, processor: PairProcessor) -> bool:
    """Says how many training captions the text encoder does not read whole, or refuses them, and the evaluation's.

    Args:
        dataset, eval_dataset: as `AMNSTrainer` takes them, checked.
        processor: whose `long_captions` decides.
    Returns:
        whether the training captions were counted; those of a stream are not.
    Raises:
        ValueError: some are too long and to be refused.
    """
    counted = isinstance(dataset, datasets.Dataset)
    # Where they are cut, one process says it for all; where they are refused, each has to stop.
    says = processor.long_captions == REFUSE or PartialState().is_main_process
    if counted and processor.long_captions != WINDOWS and says:
        captions = cast(datasets.Dataset, dataset).with_format(None)["caption"][:]
        count_long(processor, captions).say(processor.long_captions, "Training set")
    for name, split in named_sets(eval_dataset).items() if eval_dataset is not None else ():
        refuse_long(processor, split["queries"]["caption"][:], f"Queries of eval_dataset {name}".strip(), "query")
    return counted


def check_eval_sets(eval_dataset: object, args: AMNSTrainingArguments, own_metrics: bool) -> None:
    """A split or several by name, and that the figure that selects the best model is one of theirs.

    Args:
        eval_dataset: as `AMNSTrainer` takes it.
        args: with `metric_for_best_model`.
        own_metrics: `compute_metrics` adds figures that nobody knows yet.
    Raises:
        ValueError: it does not fit.
    """
    if eval_dataset is None:
        return
    sets = named_sets(eval_dataset)
    for name, split in sets.items():
        title = f"eval_dataset {name}".strip()
        if not is_split(split):
            found = sorted(split) if isinstance(split, Mapping) else type(split).__name__
            raise ValueError(
                f'{title} must hold "gallery" and "queries", as load_benchmark(name, root, "val") returns, or be '
                f"several such splits by name; found {found}."
            )
        for part, columns in SPLIT_COLUMNS.items():
            _check_columns(f"{title} {part}", split[part], columns)
    metric = args.metric_for_best_model
    if metric is None or own_metrics or args.eval_strategy == "no":
        return
    # Of several sets also the means.
    known = [f"{name}_{figure}".lstrip("_") for name in dict.fromkeys((*sets, "")) for figure in METRICS]
    if metric.removeprefix("eval_") not in known:
        raise ValueError(
            f"metric_for_best_model {metric} is no figure of the evaluation; choose one of {', '.join(known)}."
        )


def prepare_model(model: nn.Module, args: AMNSTrainingArguments, person_ids: Sequence[int] | None) -> None:
    """Checks a model against arguments and data, sets its temperature and freezes what takes no part in the loss.

    Raises:
        ValueError: it is another kind of model, its classifier is too small, nothing of it is trained, or its pushes
            would upload what is nobody's business.
    """
    encoder: Any = getattr(model, "amns", None)
    if encoder is None:
        raise ValueError(
            f"AMNSTrainer trains an AMNSForPersonRetrieval, found {type(model).__name__}. Its from_pretrained takes "
            "checkpoints of AMNSModel, CLIP and SigLIP too."
        )
    refuse_unfit_pushes(model, args)
    classifier = getattr(model, "classifier", None)
    if IDENTITY in args.weights:
        _check_identities(model, person_ids)
    elif isinstance(classifier, nn.Module):
        # Else it would be the one part without a gradient, which distributed training has to know of.
        classifier.requires_grad_(False)
    if args.freeze_patch_embedding:
        if is_peft_model(model):
            raise ValueError(
                "freeze_patch_embedding can't be used with adapters: nothing else is trained. Leave it out."
            )
        encoder.vision_model.embeddings.patch_embedding.requires_grad_(False)
    if args.keep_ratio < 1 and args.mask_score == "attention_last":
        _check_attended_layers(encoder.attended_layers, args.mask_last_layers)
    # A fixed temperature: the checkpoint's own scale is set to it, so that saved logits mean what was trained.
    encoder.logit_scale.data.fill_(-torch.tensor(args.temperature).log().item())
    encoder.logit_scale.requires_grad_(False)
    if encoder.logit_bias is not None:
        # Of a sigmoid; it has no part in losses of a softmax.
        encoder.logit_bias.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "No parameter of the model is trained: all are frozen (a classifier without the identity loss, too). Set "
            "requires_grad_(True) on what is to learn."
        )


def refuse_sharded_parameters(trainer: Trainer) -> None:
    """A ValueError if a launcher asks for parameters that are cut up."""
    parallelism = getattr(trainer.accelerator, "parallelism_config", None)
    # The environment too: on CPUs accelerate leaves a wish for FSDP aside without a word.
    sharding = {
        "FSDP": trainer.is_fsdp_enabled or parse_flag_from_env("ACCELERATE_USE_FSDP"),
        "DeepSpeed": trainer.is_deepspeed_enabled or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"),
        "tensor parallelism": parallelism is not None and parallelism.tp_enabled,
        "context parallelism": parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled),
    }
    found = [name for name, enabled in sharding.items() if enabled]
    if found:
        raise ValueError(
            f"AMNSTrainer does not train under {' and '.join(found)}: teacher and evaluation read whole "
            "parameters, which sharding cuts up. Launch with plain data parallelism (accelerate's MULTI_GPU or "
            "MULTI_CPU); gradient_cache_chunk_size and gradient_checkpointing save memory instead."
        )


def _check_attended_layers(layers: int, asked: int) -> None:
    if layers == 1:
        raise ValueError(
            "mask_score attention_last: one attention of this encoder scores patches, in its pooling head or its only "
            "layer; mask_score attention uses it."
        )
    if asked > layers:
        raise ValueError(f"mask_last_layers must lie in [1, {layers}], the layers of the encoder, found {asked}.")


def _check_identities(model: nn.Module, person_ids: Sequence[int] | None) -> None:
    if model.classifier is None:
        raise ValueError("The identity loss needs num_identities in the model's configuration; it is 0.")
    if person_ids:
        _refuse_unknown(max(person_ids), cast(AMNSConfig, model.config).num_identities, "The training set")


def _refuse_unknown(largest: int, known: int, where: str) -> None:
    if largest >= known:
        raise ValueError(
            f"{where} has person ids up to {largest}, the model's classifier {known} identities; "
            f"load it with num_identities={largest + 1}."
        )


class KnownPersons:
    """A collator over another one that refuses persons whom the classifier does not know: a stream names them late."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]], known: int):
        self.collate, self.known = collate, known

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The batch of the collator inside."""
        _refuse_unknown(max(example["person_id"] for example in examples), self.known, "The training stream")
        return self.collate(examples)


def _check_columns(name: str, dataset: object, needed: tuple[str, ...]) -> None:
    # A stream may not know its columns before it is read.
    columns = getattr(dataset, "column_names", None) or needed
    missing = [column for column in needed if column not in columns]
    if missing:
        raise ValueError(f"{name} lacks the column(s) {', '.join(missing)}; it has {', '.join(columns)}.")


__all__ = [
    "KnownPersons",
    "check_captions",
    "check_eval_sets",
    "check_training_set",
    "prepare_model",
    "refuse_of_stream",
    "refuse_person_options",
    "refuse_row_options",
    "refuse_sharded_parameters",
    "refuse_trainer_arguments",
]
