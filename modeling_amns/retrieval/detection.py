"""Persons in whole frames, found by any object detection checkpoint of transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..brief import in_short

if TYPE_CHECKING:
    from PIL import Image

# Of one frame: those found with the highest scores. Beyond, it is a crowd whose members nobody could tell apart.
MAX_PERSONS = 100


class DetectionPipeline(Protocol):
    """What `transformers.pipeline("object-detection")` is; its `model.config.id2label` says which labels there are."""

    def __call__(self, images: "list[Image.Image]", **options: Any) -> list[list[dict[str, Any]]]:
        """For each image the objects: `{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}`.

        Args:
            images: RGB.
            options: `threshold`, the lowest score; `batch_size`, images at a time.
        """


@dataclass(frozen=True)
class Person:
    """A person in a frame.

    Args:
        box: left, top, width, height in pixels of the upright frame, inside it.
        score: of the detector, in [0, 1].
    """

    box: tuple[int, int, int, int]
    score: float


class PersonDetector:
    """Finds persons in frames; a gallery remembers which detector and which options made its crops.

    Args:
        model: an object detection checkpoint, a folder or an id on the Hub; or what
            `transformers.pipeline("object-detection")` returns.
        label: what the checkpoint calls a person.
        threshold: lowest score of a detection, in (0, 1).
        min_height: lowest height of a person in pixels of the frame; smaller ones show too little.
        every: seconds between two frames of a recording that are looked at.
        batch_size: frames at a time.

    A checkpoint is read when the first frame is there. No code that comes with it is run.

    ```python
    >>> from PIL import Image
    >>> def pipeline(images, threshold, batch_size):
    ...     box = {"xmin": -4, "ymin": 10, "xmax": 30, "ymax": 90}
    ...     return [[{"score": 0.9, "label": "person", "box": box}, {"score": 0.9, "label": "dog", "box": box}]]
    >>> PersonDetector(pipeline).find([Image.new("RGB", (160, 120))])
    [[Person(box=(0, 10, 30, 80), score=0.9)]]

    ```
    """

    def __init__(
        self,
        model: "str | Path | DetectionPipeline",
        label: str = "person",
        threshold: float = 0.5,
        min_height: int = 64,
        every: float = 1.0,
        batch_size: int = 8,
    ):
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1, found {threshold}.")
        if min_height < 1:
            raise ValueError(f"min_height must be 1 pixel or more, found {min_height}.")
        if not 1e-3 <= every < float("inf"):
            raise ValueError(f"every must be 0.001 seconds or more, found {every}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, found {batch_size}.")
        self.label, self.threshold, self.min_height, self.every = label, threshold, min_height, every
        self.batch_size, self._pipeline, self.name = batch_size, None, ""
        if isinstance(model, (str, Path)):
            self.name = str(Path(model).resolve()) if Path(model).exists() else str(model)
        else:
            self._pipeline = model
            self._check_label(model)
            found = getattr(getattr(model, "model", None), "name_or_path", "")
            self.name = str(found or getattr(model, "__name__", type(model).__name__))

    @classmethod
    def of(cls, detector: "PersonDetector | DetectionPipeline | str | Path") -> "PersonDetector":
        """The detector that a user's argument stands for."""
        return detector if isinstance(detector, cls) else cls(detector)  # type: ignore[arg-type]

    @property
    def options(self) -> dict[str, Any]:
        """What decides its crops besides its weights."""
        names = ("label", "threshold", "min_height", "every")
        return {name: getattr(self, name) for name in names}

    @property
    def identity(self) -> dict[str, Any]:
        """What tells detectors apart: name, weights, options; JSON."""
        from ..fingerprint import weights_fingerprint

        model = getattr(self.pipeline, "model", None)
        weights = self.name if model is None else weights_fingerprint(model)
        return {"name": self.name, "weights": weights, "options": self.options}

    @property
    def pipeline(self) -> DetectionPipeline:
        """The detector itself, read from disk at first use.

        Raises:
            ValueError, OSError: it can't be read, or knows no such label.
        """
        if self._pipeline is None:
            pipeline = _load(self.name)
            self._check_label(pipeline)
            self._pipeline = pipeline
        return self._pipeline

    def find(self, images: "Sequence[Image.Image]") -> list[list[Person]]:
        """The persons in each frame, the surest first.

        Args:
            images: RGB, upright.
        """
        same = len({image.size for image in images}) == 1
        # Frames of different sizes are padded to one, which not every detector of them bears.
        size = self.batch_size if same else 1
        answers = self.pipeline(list(images), threshold=self.threshold, batch_size=size)
        return [self._persons(answer, image.size) for answer, image in zip(answers, images)]

    def _persons(self, answer: "list[dict[str, Any]]", size: tuple[int, int]) -> list[Person]:
        persons = []
        for found in answer:
            box = found["box"]
            left, top = (max(0, int(box[side])) for side in ("xmin", "ymin"))
            right, bottom = min(size[0], int(box["xmax"])), min(size[1], int(box["ymax"]))
            tall_enough = bottom - top >= self.min_height and right > left
            if found["label"] == self.label and found["score"] >= self.threshold and tall_enough:
                persons.append(Person((left, top, right - left, bottom - top), float(found["score"])))
        return sorted(persons, key=lambda person: (-person.score, person.box))[:MAX_PERSONS]

    def _check_label(self, pipeline: DetectionPipeline) -> None:
        labels = getattr(getattr(getattr(pipeline, "model", None), "config", None), "id2label", None)
        if labels and self.label not in labels.values():
            known = list(dict.fromkeys(map(str, labels.values())))
            more = f" and {len(known) - 30} more" if len(known) > 30 else ""
            raise ValueError(
                f"The detector {self.name or type(pipeline).__name__} has no label {self.label!r}; it has "
                f"{', '.join(known[:30])}{more}. Say which of them means a person (label)."
            )


def _load(name: str) -> DetectionPipeline:
    from accelerate import PartialState
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id
    from transformers import AutoImageProcessor, AutoModelForObjectDetection, pipeline

    if not Path(name).exists():
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise FileNotFoundError(
                f"There is no folder {name}, and no id of the Hub is written so; pass an object detection "
                "checkpoint's folder or ORG/NAME."
            ) from error
    try:
        model, found = AutoModelForObjectDetection.from_pretrained(
            name, trust_remote_code=False, output_loading_info=True
        )
        # The backend without torchvision, whose pixels are the same on every machine.
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False, backend="pil")
    except OSError as error:
        raise OSError(f"The detector {name} can't be read: {in_short(error)}") from error
    # Whatever the libraries below raise of a folder that holds something else, or only half of it.
    except Exception as error:
        raise ValueError(
            f"{name} is no object detection checkpoint that can be read: {type(error).__name__}: {in_short(error)}"
        ) from error
    if found["missing_keys"]:
        raise ValueError(
            f"{name}: {len(found['missing_keys'])} weights of the detector are missing, "
            f"{sorted(found['missing_keys'])[0]} first; they would be random. Is it a checkpoint for detection?"
        )
    made: Any = pipeline(
        "object-detection", model=model.eval(), image_processor=processor, device=PartialState().device
    )
    return made


def check_same_detector(stored: dict[str, Any], detector: PersonDetector, gallery: str) -> None:
    """A ValueError if a gallery's crops were not made by this detector; the text says what differs."""
    advice = "Leave the detector out to go on with the gallery's own, or index the frames anew in another gallery."
    differing = [
        f"{name} {detector.options[name]}, not {value}"
        for name, value in stored["options"].items()
        if detector.options.get(name) != value
    ]
    if differing:
        raise ValueError(f"{gallery} was made with other options of the detector: {'; '.join(differing)}. {advice}")
    if detector.identity["weights"] != stored["weights"]:
        raise ValueError(
            f"{gallery} was made with another detector ({stored['name']}); {detector.name} has other weights. {advice}"
        )


__all__ = ["DetectionPipeline", "Person", "PersonDetector", "check_same_detector"]
