"""What a gallery of persons in whole frames and recordings has besides others: its detector, and what it saw."""

from pathlib import Path
from typing import Any

from .arguments import Detector
from .building import Broken, Builder
from .cropping import FrameBuilder, Looked
from .detection import PersonDetector, check_same_detector
from .encoders import Encoder, process_count
from .place import write_broken, write_looked
from .sources import Metadata, Source
from .store import VectorStore

# What was looked at lies in a folder.
FRAMES = "Persons are cut out of frames into a gallery in a folder; bring that to the server with save()."


class CutsPersons:
    """The part of `PersonGallery` that cuts persons out of frames, where it was made so."""

    folder: Path | None
    server: str | None
    settings: dict[str, Any]
    _broken: Broken
    _looked: dict[str, Looked]
    _detector: PersonDetector | None = None

    @property
    def detects(self) -> bool:
        """Whether the images are persons that a detector has cut out of frames."""
        return self.settings.get("detector") is not None

    @property
    def detector(self) -> PersonDetector:
        """What cuts persons out of frames; read from disk at first use.

        Raises:
            ValueError: it can't be read, or is another one than the gallery's.
        """
        if self._detector is None:
            noted = self.settings["detector"]
            found = PersonDetector(noted["name"], **noted["options"])
            try:
                check_same_detector(noted, found, self._called)
            except OSError as error:
                raise ValueError(f"The gallery's detector can't be read; pass it as detector. {error}") from error
            self._detector = found
        return self._detector

    @property
    def encoder(self) -> Encoder:
        """The gallery's model."""
        raise NotImplementedError

    @property
    def source(self) -> Path | None:
        """The folder that the images lie in."""
        raise NotImplementedError

    @property
    def _rows(self) -> VectorStore:
        raise NotImplementedError

    @property
    def _called(self) -> str:
        return str(self.folder or self.server or "The gallery")

    def _detect_by(self, detector: Detector | None) -> None:
        """Takes a detector for a gallery that is new, or was made with it."""
        if detector is None:
            return
        found = PersonDetector.of(detector)
        if self.detects:
            check_same_detector(self.settings["detector"], found, self._called)
        elif len(self._rows):
            raise ValueError(f"{self._called} holds whole images; index persons in frames in another gallery.")
        self.settings["detector"], self._detector = found.identity, found

    def _builder(self, source: Source, metadata: Metadata | None, progress: bool) -> Builder:
        """What brings the gallery up to date."""
        if not self.detects:
            return Builder(self.encoder, self._rows, source, metadata, self._broken, progress)
        known, detector = (self._broken, self._looked), lambda: self.detector
        return FrameBuilder(self.encoder, self._rows, source, metadata, *known, detector, self._keep, progress)

    def _place(self) -> Path:
        """The folder, or the file alone, that the gallery was made of."""
        assert self.source is not None
        return self.source / (self.settings.get("only") or "")

    def _keep(self) -> None:
        """Writes what is known of files beside the rows."""
        if self.folder is not None:
            write_broken(self.folder, self._broken)
            if self.detects:
                write_looked(self.folder, self._looked)

    def _refuse_frames(self) -> None:
        if self.detects and self.server:
            raise ValueError(FRAMES)
        if self.detects and process_count() > 1:
            raise ValueError("Persons are found in frames by one process; leave out accelerate.")


__all__ = ["FRAMES", "CutsPersons"]
