"""A training run from its options: reads data and model, trains, evaluates the best and the last epoch, reports.

`scripts/train.py` is a thin shell around `run`.
"""

import contextlib
import importlib.util
import platform
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import accelerate
import datasets
import torch
import transformers
from huggingface_hub.errors import HTTPError
from PIL import Image
from transformers import TrainingArguments
from transformers.utils import logging

from . import __version__
from .adapters import (
    AdapterArguments,
    add_adapters,
    check_adapter_options,
    load_weights,
    save_final,
)
from .cards import PICTURES
from .checkpoints import asked_for, missing_parts
from .contract import refuse_of_stream, refuse_person_options
from .curves import draw_training
from .data.benchmarks import dropped_pairs
from .data.folds import leave_out, pairs_digest, read_fold
from .data.joint import join_pairs, mean_figures, persons_of
from .data.long_captions import refuse_long
from .data.noise import moved_captions
from .disk import whole_file
from .evaluation import EmbeddedSplit
from .figures import shown_pairs
from .loading import load_start
from .losses import IDENTITY
from .memory import PeakMemory, peak_memory_mb
from .modeling_amns import AMNSModel
from .processing_amns import AMNSProcessor
from .query_figures import query_figures, write_query_figures
from .report import FROM_SCRATCH, METRICS, EpochFigures, RunReport, figures_table, weights_sha256
from .run_arguments import DataArguments, ModelArguments, parse_arguments
from .run_folder import check_wishes, locked, refuse_used
from .run_options import check_selection, read_recipe
from .run_record import read_record
from .starts import build, captions_of, check_positions
from .trainer import AMNSTrainer
from .training_args import AMNSTrainingArguments
from .visualization import draw_masks, draw_pair_losses, ranking_picture

logger = logging.get_logger(__name__)

# Options of transformers' that decide a training, which a report names besides those of AMNSTrainingArguments; others
# hold paths, hosts and tokens.
REPORTED = (
    "seed",
    "data_seed",
    "train_sampling_strategy",
    "dataloader_drop_last",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "optim",
    "bf16",
    "fp16",
    "torch_compile",
    "gradient_checkpointing",
)
FIGURES = tuple(METRICS)


def run(data: DataArguments, start: ModelArguments, args: AMNSTrainingArguments) -> tuple[AMNSTrainer, RunReport]:
    """Trains, evaluates the best and the last epoch on the test split and writes everything to `args.output_dir`.

    The best epoch is selected on val; a benchmark without val (ICFG-PEDES) selects on test, as all peers do, and the
    report says so. Without evaluations or checkpoints while training the last epoch counts.

    The model is saved first, then the report, then pictures, of which a failure is a warning.

    Returns:
        the trainer, for `push`, and what `results.json` holds.
    Raises:
        ValueError: the best epoch could not be read back, because checkpoints are rarer than evaluations.
    """
    folder = Path(str(args.output_dir))
    check_selection(args)
    check_adapter_options(start)
    if not data.names_persons:
        refuse_person_options(args)
    if data.streaming:
        refuse_of_stream(args)
    resumes = bool(asked_for(args.resume_from_checkpoint))
    check_wishes(resumes, args.overwrite_output_dir, folder, start.model_name_or_path)
    if not resumes and not args.overwrite_output_dir:
        refuse_used(folder, whole_run=True)
    # Until model and report stand, no other run may write here.
    with locked(folder) if args.should_save else contextlib.nullcontext():
        return _run(data, start, args, folder)


def _run(
    data: DataArguments, start: ModelArguments, args: AMNSTrainingArguments, folder: Path
) -> tuple[AMNSTrainer, RunReport]:
    began, memory = time.time(), PeakMemory(args.device)
    # What it asks for is what a run leaves in any case. Done by the trainer, before the last epoch is evaluated, the
    # figures called "last" would be those of the best.
    args.load_best_model_at_end = False
    if "trackio" in (args.report_to or ()) and not args.run_name:
        # It ends the run with the training; by this name the figures on test go on in it instead of in one of theirs.
        args.run_name = f"{folder.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    if start.model_name_or_path:
        # Before the data, which may take minutes to read; how many persons they show is known only then.
        check_positions(start, load_start(start.model_name_or_path, AMNSModel))
    parts = data.load_parts()
    train: Any = join_pairs(cast(Any, parts)) if data.joint else next(iter(parts.values()))
    noise_rate = _noise_share(train)
    tests, selecting = data.load_sets("test"), data.load_sets()
    first, several = next(iter(tests)), len(tests) > 1
    # Whose classes are whose.
    persons = {"persons": persons_of(cast(Any, parts))} if data.joint else {}
    # Also with persons left out: their classes stay empty, and all folds have the same model.
    num_identities = max(train["person_id"][:]) + 1 if IDENTITY in args.weights else 0
    left_out: dict[str, Any] = {"left_out_fold": None}
    if data.left_out_fold:
        left_out = {"left_out_fold": data.left_out_fold, "left_out_of": pairs_digest(train)}
        train = leave_out(train, read_fold(data.left_out_fold))
    # The same start in every process and run, whatever was drawn before.
    torch.manual_seed(args.seed)
    model, processor = build(start, [] if start.model_name_or_path else captions_of(train), num_identities)
    # Read last, and never in vain.
    for name, test in tests.items():
        title = f"Queries of the test split of {name}" if several else "Queries of the test split"
        refuse_long(processor, test["queries"]["caption"][:], title, "query")
    trainer = AMNSTrainer(
        add_adapters(model, start) if start.use_peft else model,
        args,
        train_dataset=train,
        eval_dataset=selecting if several else selecting[first],
        processing_class=processor,
    )
    trainer.run_options = _deciding(data, start) | left_out | persons | {"long_captions": processor.long_captions}
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    best, last, selected = _evaluate_and_save(trainer, tests)
    origin, base_model = _origin(start.model_name_or_path)
    report = RunReport(
        benchmark=data.name,
        own_pairs=bool(data.pairs),
        evaluated_on=data.evaluated_on,
        noise_rate=noise_rate,
        noise_seed=None if data.noise_file else data.noise_seed,
        noise_file=Path(data.noise_file).name if data.noise_file else None,
        losses=args.weights,
        best=best.mean,
        last=last.mean,
        by_benchmark={name: {"best": best.each[name], "last": last.each[name]} for name in tests if several},
        selected_on=_selected_on(trainer, data.selection_split) if selected else None,
        dropped_pairs={
            "train": dropped_pairs(train),
            data.selection_split: sum(map(dropped_pairs, selecting.values())),
            "test": sum(map(dropped_pairs, tests.values())),
        },
        start=origin,
        base_model=base_model,
        training=_configuration(start, args, processor)
        | persons
        | (left_out if data.left_out_fold else {})
        | _changes(trainer),
        environment=_environment(args.device),
        doubtful_share=round(trainer.mixture.doubtful_share, 4) if trainer.mixture else None,
        seconds=round(time.time() - began, 1),
        peak_memory_mb=memory.mib,
    )
    if trainer.is_world_process_zero():
        # Those of an earlier run into this folder.
        for name in PICTURES:
            (folder / name).unlink(missing_ok=True)
        # Whose figures these are, so that a card never shows them beside other weights.
        report.weights_sha256 = weights_sha256(folder)
        report.save(folder)
        with whole_file(folder / "trainer_state.json") as part:
            trainer.state.save_to_json(str(part))
        write_query_figures(folder, {"best": query_figures(best.embedded), "last": query_figures(last.embedded)})
        trainer.save_pair_scores(folder)
        _draw(trainer, processor, best.embedded, tests[first])
    return trainer, report


@dataclass(frozen=True)
class _Ranked:
    """The test split of each benchmark as one epoch ranks it; `embedded` is that of the first."""

    embedded: EmbeddedSplit
    mean: EpochFigures
    each: dict[str, EpochFigures]


def _evaluate_and_save(trainer: AMNSTrainer, tests: dict[str, datasets.DatasetDict]) -> tuple[_Ranked, _Ranked, bool]:
    """Leaves the weights of the best epoch in trainer and `output_dir`.

    Returns:
        the tests as they rank them and as those of the last epoch do, and whether the best are of the epoch that was
        selected: where its checkpoint is gone they are those of the last.
    """
    state, folder, ranked = trainer.state, Path(str(trainer.args.output_dir)), None
    earlier = state.best_global_step if state.best_global_step != state.global_step else None
    checkpoint = _best_checkpoint(trainer, earlier) if earlier else None
    selected = checkpoint is not None or not earlier
    if not selected:
        logger.warning(
            f"The best epoch, of step {earlier}, has no whole checkpoint any more: the last one is saved and reported."
        )
    try:
        if checkpoint is not None:
            ranked = _rank(trainer, tests, state.epoch)
    finally:
        # Whatever happens to the figures, what hours were spent on is saved.
        if checkpoint is not None:
            load_weights(trainer, checkpoint)
        save_final(trainer, folder)
    epoch = _epoch_of(trainer, earlier) if checkpoint is not None and earlier else state.epoch
    best = _rank(trainer, tests, epoch)
    return best, ranked or best, selected


def _best_checkpoint(trainer: AMNSTrainer, step: int) -> Path | None:
    """The checkpoint of the best epoch, here or where the run was resumed from; `None` if it is gone."""
    name = f"checkpoint-{step}"
    places = [Path(str(trainer.args.output_dir)) / name]
    known, resumed = trainer.state.best_model_checkpoint, trainer.resumed_from
    if known and Path(known).name == name:
        places.append(Path(known))
    if resumed is not None:
        places.append(resumed.parent / name)
    run = (trainer.run_record or {}).get("run")
    for place in places:
        # One without a record is of an earlier version of this package.
        if not missing_parts(place) and (read_record(place) or {"run": run})["run"] == run:
            return place
    return None


def _rank(trainer: AMNSTrainer, tests: dict[str, datasets.DatasetDict], epoch: float | None) -> _Ranked:
    embedded: list[EmbeddedSplit] = []
    each: dict[str, dict[str, float]] = {}
    for name, test in tests.items():
        prefix = f"test_{name}" if len(tests) > 1 else "test"
        found = trainer.predict(test, metric_key_prefix=prefix)
        figures = found.metrics or {}
        trainer.log(figures)
        queries, gallery, query_ids, gallery_ids = map(
            torch.from_numpy, (*found.predictions, *(found.label_ids or ()))
        )
        split = EmbeddedSplit(gallery=gallery, gallery_ids=gallery_ids, queries=queries, query_ids=query_ids)
        # What is pictured and written query by query is the first.
        embedded += [] if embedded else [split]
        each[name] = {figure: figures[f"{prefix}_{figure}"] for figure in METRICS}
    rows = {name: EpochFigures.of(figures, epoch) for name, figures in each.items()}
    return _Ranked(embedded[0], EpochFigures.of(mean_figures([*each.values()]), epoch), rows)


def _selected_on(trainer: AMNSTrainer, split: str) -> str | None:
    figure = trainer.args.metric_for_best_model
    return f"{split} {figure.removeprefix('eval_')}" if trainer.state.best_global_step and figure else None


def push(trainer: AMNSTrainer) -> None:
    """Pushes what `run` left.

    Raises:
        OSError: it was not pushed; the text says why, and how to push it later.
    """
    try:
        trainer.push_to_hub()
    # The client's own errors: of the file system or the Hub, of a lost connection, of an upload that failed.
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        folder, name = trainer.args.output_dir, trainer.hub_model_id
        raise OSError(
            f"The run is whole in {folder}, but was not pushed: {error} {error.__cause__ or ''} "
            f"Push it with: python scripts/push_to_hub.py {folder} {name}"
        ) from error


def _origin(start: str | None) -> tuple[str, str | None]:
    """Where the weights came from, and its id on the Hub; a path of this machine is nobody else's business."""
    if start is None:
        return FROM_SCRATCH, None
    if Path(start).exists():
        return "a checkpoint on disk, its name not stated", None
    return start, start


def _configuration(start: ModelArguments, args: AMNSTrainingArguments, processor: AMNSProcessor) -> dict:
    """What was trained with; the losses stand in the report by themselves."""
    own = {option.name for option in fields(args)} - {option.name for option in fields(TrainingArguments)}
    names = [*REPORTED, *sorted(own - {"loss_weights", "hub_license", "overwrite_output_dir"})]
    adapters = {option.name: getattr(start, option.name) for option in fields(AdapterArguments) if start.use_peft}
    captions = {"max_tokens": processor.max_tokens, "long_captions": processor.long_captions}
    return {name: getattr(args, name) for name in names} | adapters | captions | {"world_size": args.world_size}


def _deciding(data: DataArguments, start: ModelArguments) -> dict[str, Any]:
    """What decides a run besides the trainer's arguments; where data and start lie does not."""
    options = {name: getattr(data, name) for name in ("noise_rate", "noise_seed", "on_missing", "selection_split")}
    options |= {"eval_benchmark": data.evaluated_on, "streaming": data.streaming}
    options |= {"benchmark": data.name, "noise_file": Path(data.noise_file).name if data.noise_file else None}
    return options | {option.name: getattr(start, option.name) for option in fields(AdapterArguments)}


def _changes(trainer: AMNSTrainer) -> dict[str, Any]:
    """What was changed where the run was resumed: the options above name the last values only."""
    changes = (trainer.run_record or {}).get("changes")
    return {"changed_on_resume": changes} if changes else {}


def _environment(device: torch.device) -> dict[str, str]:
    # Their own names for themselves: the package need not be installed, and torch's says the build too (+cpu, +cu130).
    packages = {package.__name__: package.__version__ for package in (torch, transformers, accelerate, datasets)}
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"python": platform.python_version(), "modeling_amns": __version__, **packages, "device": device_name}


def _noise_share(train: datasets.Dataset | datasets.IterableDataset) -> float:
    """Of captions that were moved, in a stream none; one that is partly wrong stands where its annotation has it."""
    return round((moved_captions(train) or 0) / len(train), 4) if isinstance(train, datasets.Dataset) else 0.0


def _draw(trainer: AMNSTrainer, processor: AMNSProcessor, embedded: EmbeddedSplit, test: datasets.DatasetDict) -> None:
    """Writes `ranking.png`, of a run with AWM `mask.png`, of one that weighs pairs `pairs.png`, with matplotlib
    `curves.png`.

    The run is whole without them.
    """
    folder = Path(str(trainer.args.output_dir))
    try:
        ranking_picture(embedded, processor, test).save(folder / "ranking.png")
        if trainer.teacher is not None:
            _mask_picture(trainer, processor, test).save(folder / "mask.png")
        scores = trainer.pair_scores()
        if scores is not None and trainer.mixture is not None:
            truth = scores["is_clean"][:]
            known = None if None in truth else truth
            draw_pair_losses(scores["loss"][:], scores["plausible"][:], known).save(folder / "pairs.png")
        if importlib.util.find_spec("matplotlib") is not None:
            draw_training(trainer.state.log_history, folder / "curves.png")
    # Whatever it is: of a font, a disk, an image.
    except Exception as error:
        logger.warning(f"The run is whole in {folder}, but a picture of it could not be drawn: {error!r}")


def _mask_picture(trainer: AMNSTrainer, processor: AMNSProcessor, test: datasets.DatasetDict) -> Image.Image:
    captions, images = shown_pairs(test, processor)
    batch = processor(images=images, text=captions, padding=True, return_tensors="pt")
    kept = trainer.keep_indices(dict(batch.to(trainer.args.device)), len(images))
    return draw_masks(images, kept, trainer.student.grid_size)


def _epoch_of(trainer: AMNSTrainer, step: int) -> float | None:
    return next((entry["epoch"] for entry in trainer.state.log_history if entry["step"] == step), None)


__all__ = [
    "FIGURES",
    "DataArguments",
    "ModelArguments",
    "build",
    "figures_table",
    "parse_arguments",
    "peak_memory_mb",
    "push",
    "read_recipe",
    "run",
]
