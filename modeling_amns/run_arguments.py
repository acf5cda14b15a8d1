"""What `scripts/train.py` is told: data, start and training, from the command line and a recipe."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import datasets
from transformers.hf_argparser import string_to_bool

from .adapters import AdapterArguments
from .captions_amns import check_long_captions
from .cli import OptionParser
from .configuration_amns import check_limit
from .data.benchmarks import known_benchmark
from .data.folds import read_fold
from .data.joint import join_pairs
from .data.noise import inject_noise
from .data.sources import NO_COLUMN, SourceArguments, SourcesArguments
from .image_modes_amns import size_pair
from .run_options import read_encoder, read_recipe, refuse_from_scratch_options
from .training_args import AMNSTrainingArguments

# Options of ModelArguments that a start from a checkpoint does not read, and their defaults.
FROM_SCRATCH_OPTIONS: dict[str, Any] = {
    "vision_config": {},
    "text_config": {},
    "projection_dim": 512,
    "vocab_size": 4096,
}


@dataclass
class NoiseArguments(SourceArguments):
    """Which pairs to train and to test on, and how many captions to make wrong."""

    noise_rate: float = field(
        default=0.0, metadata={"help": "Share of the training pairs whose captions are shuffled."}
    )
    noise_seed: int = field(default=0, metadata={"help": "Seed of the shuffle."})
    noise_file: str | None = field(default=None, metadata={"help": "A published .npy index file (RDE) instead."})

    def load_train(self) -> datasets.Dataset:
        """The training pairs with the wrong captions that were asked for; errors as of `load` and `inject_noise`."""
        return self._noisy(cast(datasets.Dataset, self.load("train")))

    def _noisy(self, pairs: datasets.Dataset) -> datasets.Dataset:
        if self.noise_rate or self.noise_file:
            pairs = inject_noise(pairs, self.noise_rate, self.noise_seed, self.noise_file)
        return pairs


@dataclass
class DataArguments(SourcesArguments, NoiseArguments):
    """One or more sets to train and to test on, whether pairs are streamed, and the persons that training leaves out.

    `selection_split`, `load_sets` are of the sets that are evaluated, all else of those that are trained on.
    """

    _argument_groups = {
        "eval_benchmark": "Evaluation on other data, and pairs that no cache holds",
        "left_out_fold": "Persons that training leaves out",
    }

    eval_benchmark: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Benchmarks below data_root that are evaluated instead of the data that are trained on: their val "
            "selects the best epoch, their test is reported."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training pairs of --pairs when they are needed, without a cache. Goes with max_steps "
            "and eval_benchmark; stream_shuffle_block mixes them."
        },
    )

    left_out_fold: str | None = field(
        default=None,
        metadata={"help": "I/K: leave the persons of fold I of K out of the training pairs, once noise is in them."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.left_out_fold is not None:
            self.left_out_fold = str(read_fold(self.left_out_fold))
        if self.joint and self.noise_file:
            raise ValueError("noise_file is an index into one benchmark; name one, or use noise_rate.")
        if isinstance(self.eval_benchmark, str):
            # As a recipe may have it.
            self.eval_benchmark = [self.eval_benchmark]
        for name in self.eval_benchmark:
            known_benchmark(name)
        self._evaluated  # noqa: B018  refuses names that can't be
        if self.pairs and self.split_column == NO_COLUMN and not self.eval_benchmark:
            raise ValueError(
                f"split_column {NO_COLUMN} leaves no pairs of {self.name} to evaluate. Name other data: "
                "--eval_benchmark cuhk-pedes --data_root DIR."
            )
        if self.streaming:
            self._check_stream()

    def _check_stream(self) -> None:
        if not self.pairs:
            raise ValueError(f"streaming is of own pairs (--pairs); {self.name} is read by row number. Leave it out.")
        rows = {"noise_rate": self.noise_rate, "noise_file": self.noise_file, "left_out_fold": self.left_out_fold}
        for name, value in rows.items():
            if value:
                raise ValueError(
                    f"{name} {value} needs to know all rows, and a stream is read in its own order. Leave it or "
                    "streaming out."
                )
        if not self.eval_benchmark:
            raise ValueError(
                f"streaming reads the training pairs of {self.name} only. Name what is evaluated: --eval_benchmark "
                "cuhk-pedes --data_root DIR."
            )

    @property
    def _evaluated(self) -> SourcesArguments:
        if not self.eval_benchmark:
            return self
        return SourcesArguments(self.eval_benchmark, data_root=self.data_root, on_missing=self.on_missing)

    @property
    def evaluated_on(self) -> str | None:
        """Name of the benchmarks that are evaluated, `None` where it is the data that are trained on."""
        return self._evaluated.name if self.eval_benchmark else None

    @property
    def selection_split(self) -> str:
        """The split that selects the best epoch, see `SourcesArguments`."""
        return self._evaluated.selection_split if self.eval_benchmark else super().selection_split

    def load_parts(self) -> dict[str, datasets.Dataset | datasets.IterableDataset]:
        """The training pairs of each source by its name, each with its own wrong captions; errors as of `load`."""
        if self.streaming:
            return {self.name: cast(datasets.IterableDataset, self.load("train", streaming=True))}
        return {source.name: self._noisy(cast(datasets.Dataset, source.load("train"))) for source in self.each()}

    def load_train(self) -> datasets.Dataset | datasets.IterableDataset:
        """The training pairs of all sources as one set, see `join_pairs`."""
        parts = self.load_parts()
        return join_pairs(cast(Any, parts)) if len(parts) > 1 else next(iter(parts.values()))

    def load_sets(self, split: str | None = None) -> dict[str, datasets.DatasetDict]:
        """The split of each source to rank, by its name; None: the one that selects the best epoch."""
        sources = self._evaluated.each()
        each = {source.name: source.load(split or source.selection_split) for source in sources}
        return {name: cast(datasets.DatasetDict, found) for name, found in each.items()}


@dataclass
class ModelArguments(AdapterArguments):
    """Where the model starts: from a checkpoint, or from scratch with the given sizes."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "AMNS, CLIP or SigLIP checkpoint (folder or Hub id); none is from scratch."}
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
    max_text_positions: int | None = field(
        default=None,
        metadata={
            "help": "Stretch a start's text encoder to so many tokens, as Long-CLIP to 248; default: the start's own."
        },
    )
    long_captions: str | None = field(
        default=None,
        metadata={
            "help": "Captions of more tokens than that: cut (with a warning), refuse, or read in windows; default: as "
            "the start, else cut."
        },
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa, eager, flash_attention_2, ..."})

    def __post_init__(self):
        for name in ("vocab_size", "projection_dim"):
            check_limit(name, getattr(self, name))
        for name in ("vision_config", "text_config"):
            setattr(self, name, read_encoder(name, getattr(self, name)))
        if self.long_captions is not None:
            check_long_captions(self.long_captions)
        if self.max_text_positions is not None:
            check_limit("max_position_embeddings", self.max_text_positions)
            if not self.model_name_or_path:
                raise ValueError(
                    "max_text_positions stretches the positions of a start, and there is no model_name_or_path; from "
                    f"scratch set text_config '{{\"max_position_embeddings\": {self.max_text_positions}}}'."
                )
        if self.model_name_or_path:
            given = {name: getattr(self, name) for name in FROM_SCRATCH_OPTIONS}
            refuse_from_scratch_options(self.model_name_or_path, given, FROM_SCRATCH_OPTIONS)
        if self.image_size is not None:
            self.image_size = list(size_pair(self.image_size))


def parse_arguments(arguments: list[str] | None = None) -> tuple[DataArguments, ModelArguments, AMNSTrainingArguments]:
    """Reads `--config FILE.yaml` and the options that override its fields.

    A `--model_name_or_path` overrides the fields that describe a model from scratch.

    Raises:
        ValueError: the recipe is no mapping of fields, or has a field that does not exist.
        FileNotFoundError: there is no such recipe.
    """
    parser = _parser()
    known, _ = parser.parse_known_args(arguments)
    if known.config:
        recipe = recipe_options(known.config, parser)
        if known.model_name_or_path:
            # A start that the command line names takes the place of the new model that the recipe describes.
            recipe = {name: value for name, value in recipe.items() if name not in FROM_SCRATCH_OPTIONS}
        parser.set_defaults(**recipe)
    data, start, args, _ = parser.parse_all(arguments)
    return data, start, args


def recipe_options(path: str | Path, parser: OptionParser | None = None) -> dict[str, Any]:
    """The options in a recipe, as they are written; errors as of `parse_arguments`.

    Args:
        path: of the file, or the name of one of the package's own.
        parser: of `scripts/train.py`, where it is there.
    """
    parser = parser or _parser()
    switches = {action.dest for action in parser._actions if action.type is string_to_bool}
    return read_recipe(path, {action.dest for action in parser._actions}, switches)


def _parser() -> OptionParser:
    parser = OptionParser(
        (DataArguments, ModelArguments, AMNSTrainingArguments), description="Trains and evaluates an AMNS model."
    )
    parser.add_argument("--config", help="Recipe in YAML: any of the options below; the command line overrides it.")
    parser.add_argument("--yes", action="store_true", help="Start even without any other option.")
    return parser


__all__ = ["DataArguments", "ModelArguments", "NoiseArguments", "parse_arguments", "recipe_options"]
