"""What an audit looks for and where it writes, as command-line options."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..captions_amns import check_long_captions
from ..data.sources import SourceArguments
from ..extras import require
from ..loading import load_checkpoint
from ..modeling_amns import AMNSModel
from ..pair_mixture import EXTRA
from ..processing_amns import AMNSProcessor
from .cleaning import TABLE, check_folder
from .table import check_output


@dataclass
class AuditArguments:
    """What to look for, and where to write."""

    output: str = field(default="audit.csv", metadata={"help": "Table of all pairs by suspicion, .csv or .parquet."})
    overwrite: bool = field(default=False, metadata={"help": "Replace what is there."})
    sheet: str | None = field(
        default=None, metadata={"help": "HTML page on which a person decides on the most suspicious pairs."}
    )
    sheet_pairs: int = field(default=1000, metadata={"help": "How many pairs the page shows."})
    duplicates: str | None = field(
        default=None, metadata={"help": "JSON file for the images, captions and persons that occur twice."}
    )
    near_threshold: float = field(
        default=0.98, metadata={"help": "Cosine from which on images of two persons are nearly the same."}
    )
    write_clean: str | None = field(
        default=None, metadata={"help": "Folder for the set without doubtful pairs, which --pairs reads."}
    )
    threshold: float | None = field(
        default=None, metadata={"help": "Probability from which on --write_clean leaves a pair out, default 0.5."}
    )
    repair: float | None = field(
        default=None,
        metadata={
            "help": "Let --write_clean swap captions of doubtful pairs where the model gives the new pair at least "
            "this share of all, both ways, 0.5 say."
        },
    )
    decisions: str | None = field(
        default=None,
        metadata={"help": "CSV of row and decision (right, wrong, unsure), which --write_clean puts first."},
    )
    image_size: list[int] | None = field(
        default=None, metadata={"help": "Height and width, default the checkpoint's; CLIP checkpoints need it."}
    )
    long_captions: str | None = field(
        default=None,
        metadata={"help": "Captions longer than the text encoder: cut, refuse or windows; default the checkpoint's."},
    )
    batch_size: int = field(default=128, metadata={"help": "Images or captions at a time."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    device: str | None = field(default=None, metadata={"help": "Default: the accelerator if there is one."})

    def check(self, source: SourceArguments) -> None:
        """All that can be said before the work starts.

        Args:
            source: of the pairs, which no output may replace.
        """
        require("sklearn", EXTRA, "The audit")
        for name in ("output", "sheet", "duplicates", "write_clean"):
            place = getattr(self, name)
            if source.pairs and place is not None and _is_of(Path(place), Path(source.pairs)):
                raise ValueError(f"--{name} {place} would replace the pairs that are audited; choose another name.")
        check_output(self.output, self.overwrite)
        for path, kind in ((self.duplicates, ".json"), (self.sheet, ".html")):
            if path is not None:
                check_output(path, self.overwrite, (kind,))
        if self.long_captions is not None:
            check_long_captions(self.long_captions)
        if self.sheet_pairs < 1:
            raise ValueError(f"--sheet_pairs must be at least 1, found {self.sheet_pairs}.")
        if self.write_clean is not None:
            check_folder(self.write_clean, self.overwrite)
        elif self.decisions is not None or self.threshold is not None or self.repair is not None:
            raise ValueError("--decisions, --threshold and --repair are of --write_clean; pass it as well.")
        for name in ("threshold", "near_threshold", "repair"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"--{name} must lie in (0, 1], found {value}.")

    def load(self, name: str | Path) -> tuple[AMNSModel, AMNSProcessor]:
        """A checkpoint on its device."""
        model, processor = load_checkpoint(name, self.image_size)
        processor.long_captions = self.long_captions or processor.long_captions
        # What wraps `to` in transformers is not understood by type checkers.
        moved: Any = model
        return moved.to(self.device or PartialState().device), processor


def _is_of(place: Path, pairs: Path) -> bool:
    """Whether a place is the table of pairs, or its folder."""
    place, pairs = place.expanduser().resolve(), pairs.expanduser().resolve()
    tables = (
        (place, place / pairs.name) if pairs.is_file() else (place, place.parent if place.stem == TABLE else place)
    )
    return pairs in tables


__all__ = ["AuditArguments"]
