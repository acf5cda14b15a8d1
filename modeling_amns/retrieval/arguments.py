"""Types of what users pass: models, images, sentences, metadata. None of the packages is imported at run time."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union, runtime_checkable

if TYPE_CHECKING:
    import datasets
    from PIL import Image
    from torch import nn

    from ..processing_amns import AMNSProcessor
    from .detection import DetectionPipeline, PersonDetector
    from .encoders import Encoder
    from .sources import Source


@runtime_checkable
class Frame(Protocol):
    """A data frame, such as that of pandas."""

    def to_dict(self, orient: str, /) -> list[Any]:
        """With "records": a list of rows by column."""


# A metadata value; None where there is none.
Value: TypeAlias = str | int | float | bool | datetime.datetime | None
# A file, an image, or what an undecoded column of `datasets` holds: {"path", "bytes"}.
ImageLike: TypeAlias = Union[str, Path, "Image.Image", Mapping[str, Any]]
Model: TypeAlias = Union[str, Path, "nn.Module", "Encoder"]
Processor: TypeAlias = Union["AMNSProcessor", None]
Detector: TypeAlias = Union[str, Path, "PersonDetector", "DetectionPipeline"]
Images: TypeAlias = Union[str, Path, Iterable[Union[str, Path, "Image.Image"]], "datasets.Dataset", "Source"]
MetadataTable: TypeAlias = str | Path | Sequence[Mapping[str, object]] | Frame
Sentences: TypeAlias = str | tuple[str, float] | Sequence[str | tuple[str, float]]
QueryImages: TypeAlias = Union[
    str,
    Path,
    "Image.Image",
    tuple[Union[str, Path, "Image.Image"], float],
    Sequence[Union[str, Path, "Image.Image", tuple[Union[str, Path, "Image.Image"], float]]],
]

__all__ = [
    "Detector",
    "Frame",
    "ImageLike",
    "Images",
    "MetadataTable",
    "Model",
    "Processor",
    "QueryImages",
    "Sentences",
    "Value",
]
