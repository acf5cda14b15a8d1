"""A training run from its options: reads data and model, trains, evaluates the best and the last epoch, reports.

`scripts/train.py` is a thin shell around `run`.
"""

import json
import platform
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import accelerate
import datasets
import torch
import transformers
import yaml
from huggingface_hub.errors import HTTPError
from PIL import Image
from transformers import HfArgumentParser, TrainingArguments
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
from .configuration_amns import AMNSConfig, AMNSVisionConfig
from .data.benchmarks import dropped_pairs
from .data.noise import inject_noise
from .data.sources import SourceArguments
from .evaluation import EmbeddedSplit, embed_split
from .image_modes_amns import size_pair
from .loading import check_fit
from .memory import PeakMemory, peak_memory_mb
from .modeling_amns import AMNSForPersonRetrieval
from .processing_amns import AMNSProcessor
from .report import FROM_SCRATCH, METRICS, EpochFigures, RunReport, figures_table, weights_sha256
from .trainer import AMNSTrainer
from .training_args import AMNSTrainingArguments
from .visualization import as_seen, draw_masks, ranking_picture, spread

logger = logging.get_logger(__name__)

# Beside the package in its source, inside it once installed.
RECIPES = (Path(__file__).parents[1] / "scripts" / "recipes", Path(__file__).parent / "scripts" / "recipes")
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


@dataclass
class DataArguments(SourceArguments):
    """Which pairs to train and to test on, and how many captions to make wrong."""

    noise_rate: float = field(
        default=0.0, metadata={"help": "Share of the training pairs whose captions are shuffled."}
    )
    noise_seed: int = field(default=0, metadata={"help": "Seed of the shuffle."})
    noise_file: str | None = field(default=None, metadata={"help": "A published .npy index file (RDE) instead."})


@dataclass
class ModelArguments(AdapterArguments):
    """Where the model starts: from a checkpoint, or from scratch with the given sizes."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "AMNS or CLIP checkpoint (folder or Hub id); none starts from scratch."}
    )
    image_size: list[int] | None = field(
        default=None,
        metadata={
            "help": "Height and width of the images in pixels, one number for a square; default: the start's, from "
            "scratch 384 128."
        },
    )
    stride: int | None = field(
        default=None, metadata={"help": "Step between patches; default: the start's own, from scratch the patch size."}
    )
    vision_config: dict | str | None = field(
        default_factory=dict, metadata={"help": "From scratch: fields of AMNSVisionConfig as JSON."}
    )
    text_config: dict | str | None = field(
        default_factory=dict, metadata={"help": "From scratch: fields of AMNSTextConfig as JSON."}
    )
    projection_dim: int = field(default=512, metadata={"help": "From scratch: size of the embedding space."})
    vocab_size: int = field(default=4096, metadata={"help": "From scratch: tokens learnt from the captions, at most."})
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa, eager, flash_attention_2, ..."})

    def __post_init__(self):
        for name in ("vision_config", "text_config"):
            value = getattr(self, name)
            if isinstance(value, str):
                setattr(self, name, json.loads(value))
        if self.image_size is not None:
            self.image_size = list(size_pair(self.image_size))


def parse_arguments(arguments: list[str] | None = None) -> tuple[DataArguments, ModelArguments, AMNSTrainingArguments]:
    """Reads `--config FILE.yaml` and the options that override its fields.

    Raises:
        ValueError: the recipe is no mapping of fields, or has a field that does not exist.
        FileNotFoundError: there is no such recipe.
    """
    parser = HfArgumentParser(
        (DataArguments, ModelArguments, AMNSTrainingArguments), description="Trains and evaluates an AMNS model."
    )
    parser.add_argument("--config", help="Recipe in YAML: any of the options below; the command line overrides it.")
    known, _ = parser.parse_known_args(arguments)
    if known.config:
        parser.set_defaults(**read_recipe(known.config, {action.dest for action in parser._actions}))
    *parsed, _ = parser.parse_args_into_dataclasses(args=arguments)
    return tuple(parsed)


def read_recipe(path: str | Path, fields: set[str]) -> dict:
    """The fields of a YAML recipe, a file or the name of one of the package's own, all of them known."""
    own = {recipe.stem: recipe for folder in RECIPES for recipe in folder.glob("*.yaml")}
    path = own.get(str(path), Path(path))
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {path}; the package's own are {', '.join(sorted(own))}.")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must map option names to values, found {type(recipe).__name__}.")
    unknown = sorted(str(name) for name in recipe if name not in fields or name in ("config", "help"))
    if unknown:
        raise ValueError(f"{path} has unknown field(s): {', '.join(unknown)}. `train.py --help` lists all options.")
    return recipe


def build(
    arguments: ModelArguments, captions: list[str], num_identities: int
) -> tuple[AMNSForPersonRetrieval, AMNSProcessor]:
    """The model and its processor.

    Args:
        arguments: where to start.
        captions: of the training set; from scratch, the tokenizer is trained on them.
        num_identities: of the training set; 0 leaves the classifier out.
    Raises:
        ValueError: the start's tokenizer and weights do not fit each other.

    A start keeps its preprocessing: mean, deviation, resampling, tokenizer; and, where `arguments` name no other, its
    image size and stride. Images are never cropped, also those of a CLIP start.
    """
    asked = {"image_size": arguments.image_size, "stride": arguments.stride}
    grid: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    options: dict[str, Any] = {}
    if arguments.attn_implementation:
        options["attn_implementation"] = arguments.attn_implementation
    if arguments.model_name_or_path:
        start = arguments.model_name_or_path
        model = AMNSForPersonRetrieval.from_pretrained(
            start,
            num_identities=num_identities,
            **grid,
            **options,
        )
        # Whatever a folder says, no code of it runs here.
        size = model.config.vision_config.image_size
        processor = AMNSProcessor.from_pretrained(start, image_size=size, trust_remote_code=False)
        check_fit(model, processor, start)
        return model, processor
    vision = AMNSVisionConfig(**{**cast(dict, arguments.vision_config or {}), **grid})
    processor = AMNSProcessor.from_captions(captions, vision.image_size, arguments.vocab_size)
    config = AMNSConfig(
        vision_config=vision.to_dict(),
        text_config={**cast(dict, arguments.text_config or {}), **processor.text_config_fields},
        projection_dim=arguments.projection_dim,
        num_identities=num_identities,
        **options,
    )
    processor.max_tokens = config.text_config.max_position_embeddings
    return AMNSForPersonRetrieval(config), processor


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
    began, memory = time.time(), PeakMemory(args.device)
    _check_selection(args)
    check_adapter_options(start)
    # What it asks for is what a run leaves in any case. Done by the trainer, before the last epoch is evaluated, the
    # figures called "last" would be those of the best.
    args.load_best_model_at_end = False
    if "trackio" in args.report_to and not args.run_name:
        # It ends the run with the training; by this name the figures on test go on in it instead of in one of theirs.
        args.run_name = f"{Path(args.output_dir).name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    origin = _origin(start.model_name_or_path)
    splits = {split: data.load(split) for split in dict.fromkeys(("train", "test", data.selection_split))}
    train, test = splits["train"], splits["test"]
    if data.noise_rate or data.noise_file:
        train = inject_noise(train, data.noise_rate, data.noise_seed, data.noise_file)
    num_identities = max(train["person_id"][:]) + 1 if "identity" in args.loss_weights else 0
    # The same start in every process and run, whatever was drawn before.
    torch.manual_seed(args.seed)
    model, processor = build(start, train["caption"][:], num_identities)
    if start.use_peft:
        model = add_adapters(model, start)
    trainer = AMNSTrainer(
        model, args, train_dataset=train, eval_dataset=splits[data.selection_split], processing_class=processor
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    embedded, best, last = _evaluate_and_save(trainer, test)
    report = RunReport(
        benchmark=data.name,
        own_pairs=bool(data.pairs),
        noise_rate=_noise_share(train),
        noise_seed=None if data.noise_file else data.noise_seed,
        noise_file=Path(data.noise_file).name if data.noise_file else None,
        losses=args.loss_weights,
        best=best,
        last=last,
        selected_on=_selected_on(trainer, data.selection_split),
        dropped_pairs={split: dropped_pairs(rows) for split, rows in splits.items()},
        **origin,
        training=_configuration(start, args),
        environment=_environment(args.device),
        seconds=round(time.time() - began, 1),
        peak_memory_mb=memory.mib,
    )
    if trainer.is_world_process_zero():
        folder = Path(args.output_dir)
        # Those of an earlier run into this folder.
        for name in PICTURES:
            (folder / name).unlink(missing_ok=True)
        # Whose figures these are, so that a card never shows them beside other weights.
        report.weights_sha256 = weights_sha256(folder)
        report.save(folder)
        trainer.state.save_to_json(str(folder / "trainer_state.json"))
        _draw(trainer, embedded, test)
    return trainer, report


def _evaluate_and_save(
    trainer: AMNSTrainer, test: datasets.DatasetDict
) -> tuple[EmbeddedSplit, EpochFigures, EpochFigures]:
    """Leaves the weights of the best epoch in trainer and `output_dir`; test as they see it, best and last figures."""
    state, folder = trainer.state, trainer.args.output_dir
    best_step, last = state.best_global_step, None
    try:
        if best_step and best_step != state.global_step:
            _, last = _rank(trainer, test, state.epoch)
    finally:
        # Whatever happens to the figures, what hours were spent on is saved.
        if best_step and best_step != state.global_step:
            load_weights(trainer, Path(folder) / f"checkpoint-{best_step}")
        save_final(trainer, folder)
    embedded, best = _rank(trainer, test, _epoch_of(trainer, best_step) if last else state.epoch)
    return embedded, best, last or best


def _rank(trainer: AMNSTrainer, test: datasets.DatasetDict, epoch: float | None) -> tuple[EmbeddedSplit, EpochFigures]:
    args = trainer.args
    with trainer.compute_loss_context_manager():
        embedded = embed_split(
            trainer.student.to(args.device),
            trainer.processing_class,
            test,
            args.eval_batch_size,
            args.dataloader_num_workers,
        )
    figures = embedded.metrics()
    trainer.log({f"test_{name}": value for name, value in figures.items()})
    return embedded, EpochFigures.of(figures, epoch)


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


def _check_selection(args: AMNSTrainingArguments) -> None:
    evaluates, saves = str(args.eval_strategy.value), str(args.save_strategy.value)
    if "no" in (evaluates, saves) or saves == "best":
        return
    if evaluates != saves or (saves == "steps" and args.eval_steps % args.save_steps):
        raise ValueError(
            "The best epoch is read back from its checkpoint, so each evaluation needs one: eval_strategy is "
            f"{evaluates}, save_strategy {saves}. Make them and their steps equal, or pass --save_strategy best, or "
            "--save_strategy no to report the last epoch."
        )


def _origin(start: str | None) -> dict[str, str | None]:
    """Where the weights came from; a path of this machine is nobody else's business."""
    if start is None:
        return {"start": FROM_SCRATCH, "base_model": None}
    if Path(start).exists():
        return {"start": "a checkpoint on disk, its name not stated", "base_model": None}
    return {"start": start, "base_model": start}


def _configuration(start: ModelArguments, args: AMNSTrainingArguments) -> dict:
    """What was trained with; the losses stand in the report by themselves."""
    own = {option.name for option in fields(args)} - {option.name for option in fields(TrainingArguments)}
    names = [*REPORTED, *sorted(own - {"loss_weights", "hub_license"})]
    adapters = {option.name: getattr(start, option.name) for option in fields(AdapterArguments) if start.use_peft}
    return {name: getattr(args, name) for name in names} | adapters | {"world_size": args.world_size}


def _environment(device: torch.device) -> dict[str, str]:
    # Their own names for themselves: the package need not be installed, and torch's says the build too (+cpu, +cu130).
    packages = {package.__name__: package.__version__ for package in (torch, transformers, accelerate, datasets)}
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"python": platform.python_version(), "modeling_amns": __version__, **packages, "device": device_name}


def _noise_share(train) -> float:
    if "is_clean" not in train.column_names:
        return 0.0
    return round(1 - sum(train["is_clean"][:]) / len(train), 4)


def _draw(trainer: AMNSTrainer, embedded: EmbeddedSplit, test: datasets.DatasetDict) -> None:
    """Writes `ranking.png` and, of a run with AWM, `mask.png`; the run is whole without them."""
    folder = Path(trainer.args.output_dir)
    try:
        ranking_picture(embedded, trainer.processing_class, test).save(folder / "ranking.png")
        if trainer.teacher is not None:
            _mask_picture(trainer, test).save(folder / "mask.png")
    # Whatever it is: of a font, a disk, an image.
    except Exception as error:
        logger.warning(f"The run is whole in {folder}, but a picture of it could not be drawn: {error!r}")


def _mask_picture(trainer: AMNSTrainer, test: datasets.DatasetDict) -> Image.Image:
    processor = trainer.processing_class
    queries = test["queries"].select(spread(len(test["queries"]), 6))
    place = {image_id: row for row, image_id in enumerate(test["gallery"]["image_id"][:])}
    images = [as_seen(test["gallery"][place[image_id]], processor) for image_id in queries["image_id"][:]]
    pair = processor(images=images, text=queries["caption"][:], padding=True, return_tensors="pt")
    kept = trainer.keep_indices(dict(pair.to(trainer.args.device)), len(images))
    return draw_masks(images, kept, trainer.student.config.vision_config.grid_size)


def _epoch_of(trainer: AMNSTrainer, step: int) -> float:
    return next(entry["epoch"] for entry in trainer.state.log_history if entry["step"] == step)


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
