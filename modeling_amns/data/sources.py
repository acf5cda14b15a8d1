"""Where a run's pairs come from, as command-line options: one of the benchmarks, or the user's own pairs."""

from dataclasses import dataclass, field, fields
from pathlib import Path

import datasets

from .benchmarks import BENCHMARKS, load_benchmark
from .hub_benchmarks import is_on_hub, names_owner
from .pair_files import Columns
from .pair_sources import is_hub_id, is_pattern
from .pairs import load_pairs

# In the place of a column's name: there is none.
NO_COLUMN = "none"
_OF_OWN_PAIRS = ("image_root", "image_column", "caption_column", "person_id_column", "split_column", "val_split")
_BENCHMARK = "A benchmark, on disk or on the Hub"


@dataclass
class SourceArguments:
    """A benchmark on disk or on the Hub, or own pairs of image, caption and person id."""

    # Titles in --help, by the first field of each group.
    _argument_groups = {
        "benchmark": _BENCHMARK,
        "data_root": _BENCHMARK,
        "pairs": "Own pairs of image, caption and person id instead",
    }

    benchmark: str = field(default="synthetic-pedes", metadata={"help": "One of " + ", ".join(BENCHMARKS) + "."})
    data_root: str = field(
        default="data",
        metadata={
            "help": "Folder that holds the benchmark's folder, or that folder itself; or hf://datasets/ORG/NAME, a "
            "data set on the Hub."
        },
    )
    on_missing: str = field(
        default="error", metadata={"help": "error: stop at missing images; drop: go on without and report it."}
    )
    pairs: str | None = field(
        default=None,
        metadata={
            "help": "Own pairs instead of a benchmark: CSV, JSONL, Parquet, a pattern of such files in quotes, "
            "folder, or Hub data set."
        },
    )
    image_root: str | None = field(default=None, metadata={"help": "Folder of own images; default that of the file."})
    image_column: str = field(default="image", metadata={"help": "Column of own pairs that holds image or path."})
    caption_column: list[str] = field(
        default_factory=lambda: ["caption"],
        metadata={"help": "Column of own pairs that holds the caption; several hold one of the same image each."},
    )
    person_id_column: str = field(
        default="person_id",
        metadata={"help": "Column of own pairs that names the person; none: each image is a person of its own."},
    )
    split_column: str = field(
        default="split",
        metadata={
            "help": "Column of own pairs that says train, val or test for each pair; none: all are to train on."
        },
    )
    val_split: str = field(
        default="val", metadata={"help": "Split of own pairs that selects the best epoch; test if there is no val."}
    )

    def __post_init__(self):
        if self.val_split not in ("val", "test"):
            raise ValueError(f"val_split must be val or test, found {self.val_split!r}.")
        if isinstance(self.caption_column, str):
            # As a recipe may have it.
            self.caption_column = [self.caption_column]
        if not self.person_id_column:
            raise ValueError(f"person_id_column is {self.person_id_column!r}; name a column, or write {NO_COLUMN}.")
        if not self.pairs:
            self._refuse_of_own_pairs()
        self.columns  # noqa: B018  refuses names that can't be

    def _refuse_of_own_pairs(self) -> None:
        defaults = SourceArguments(pairs="own")
        for name in _OF_OWN_PAIRS:
            if (value := getattr(self, name)) != getattr(defaults, name):
                raise ValueError(
                    f"{name} {value!r} is of own pairs (--pairs); a benchmark's files say it themselves. Leave it out."
                )

    @property
    def name(self) -> str:
        """What reports call the data: the benchmark, or own pairs by their id on the Hub or the name of their file."""
        if not self.pairs:
            return self.benchmark
        path = Path(self.pairs).expanduser()
        while is_pattern(path):
            # Shards are called by their folder.
            path = path.parent
        # Only an id of the Hub is said in full: a path, of this machine or of another, is nobody else's business.
        return self.pairs if is_hub_id(self.pairs) and not path.exists() else path.name

    @property
    def selection_split(self) -> str:
        """The split that selects the best epoch."""
        if self.pairs:
            return self.val_split
        known = BENCHMARKS.get(self.benchmark)
        return "val" if known is None or "val" in known.splits else "test"

    @property
    def names_persons(self) -> bool:
        """Whether the data have person ids; else each image is a person of its own."""
        return not self.pairs or self.person_id_column != NO_COLUMN

    @property
    def columns(self) -> Columns:
        """Names of the columns of own pairs."""
        person_id = self.person_id_column if self.names_persons else None
        return Columns(self.image_column, self.caption_column, person_id, self.split_column)

    def load(
        self, split: str, streaming: bool = False
    ) -> datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset:
        """A split as `load_benchmark` returns it, own pairs also as a stream; errors as there and in `load_pairs`."""
        if not self.pairs:
            return load_benchmark(self.benchmark, self.data_root, split, on_missing=self.on_missing)
        whole = self.split_column == NO_COLUMN
        if whole and split != "train":
            raise ValueError(
                f"split_column {NO_COLUMN} takes all pairs of {self.name} to train on: there are none of {split}. "
                "train.py evaluates others with eval_benchmark."
            )
        return load_pairs(
            self.pairs,
            None if whole else split,
            self.image_root,
            self.image_column,
            self.caption_column,
            self.columns.person_id,
            self.split_column,
            streaming,
            on_missing=self.on_missing,
        )


@dataclass
class SourcesArguments(SourceArguments):
    """One or more benchmarks below one folder, or own pairs."""

    _argument_groups = {"benchmark": _BENCHMARK}

    benchmark: list[str] = field(  # type: ignore[assignment]
        default_factory=lambda: ["synthetic-pedes"],
        metadata={"help": "One or more of " + ", ".join(BENCHMARKS) + ", below one data_root."},
    )

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.benchmark, str):
            # As a recipe may have it.
            self.benchmark = [self.benchmark]
        if len(set(self.benchmark)) < len(self.benchmark) or not self.benchmark:
            raise ValueError(f"benchmark must name one or more sets, each once; found {' '.join(self.benchmark)!r}.")
        if self.joint and is_on_hub(self.data_root) and not names_owner(self.data_root):
            raise ValueError(
                f"{self.data_root} is one data set, asked for are {self.name}. Pass hf://datasets/ORG, whose data "
                "sets have the names of the benchmarks."
            )

    def each(self) -> list[SourceArguments]:
        """One source for each benchmark, or the one of own pairs."""
        values = {option.name: getattr(self, option.name) for option in fields(SourceArguments)}
        names = self.benchmark[:1] if self.pairs else self.benchmark
        return [SourceArguments(**{**values, "benchmark": name}) for name in names]

    @property
    def joint(self) -> bool:
        """Whether there are several."""
        return len(self.each()) > 1

    @property
    def name(self) -> str:
        """What reports call the data; several benchmarks are joined by a plus."""
        return " + ".join(source.name for source in self.each())

    @property
    def selection_split(self) -> str:
        """The split that selects the best epoch; of several benchmarks those without val differ: `val/test`."""
        return "/".join(dict.fromkeys(source.selection_split for source in self.each()))

    def load(
        self, split: str, streaming: bool = False
    ) -> datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset:
        """A split of the one source; a ValueError where there are several."""
        if self.joint:
            raise ValueError(f"{self.name} are several benchmarks: load each of them.")
        return self.each()[0].load(split, streaming)


__all__ = ["NO_COLUMN", "SourceArguments", "SourcesArguments"]
