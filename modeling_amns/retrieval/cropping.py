"""Galleries of whole frames: persons are cut out of images and recordings, and each crop is a row.

A file is looked at once: what it was then stands beside the gallery. Crops go into it in pieces; a recording that was
left in the middle goes on at the last second that has crops.
"""

import datetime
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from ..brief import in_short
from ..extras import require
from .arguments import ImageLike
from .building import PIECE, Broken, Builder, Changes, plan
from .detection import PersonDetector
from .encoders import Encoder
from .fragments import Fragment, source_of
from .frame_metadata import FrameMetadata, Seen
from .recordings import SUFFIXES, open_recording, shown_second, time_in_name
from .sources import Metadata, Source, content_hash, read_image
from .store import VectorStore
from .table import FileState, Table

if TYPE_CHECKING:
    from PIL import Image

# Pixels that wait for the detector, and for the encoder: a quarter of a GB.
_PIXELS = 80_000_000
# Seconds between two times that it is written down which files have been looked at.
_KEEP = 30
# EXIF: when a picture was taken.
_EXIF, _TAKEN = 0x8769, 0x9003


class Looked(NamedTuple):
    """A file that the detector has seen to its end.

    Args:
        size, mtime_ns, sha256: what it was.
        start: when it began or was taken, as the file says, in ISO form.
    """

    size: int
    mtime_ns: int
    sha256: str
    start: str | None

    @property
    def began(self) -> datetime.datetime | None:
        """The start as a time."""
        return None if self.start is None else datetime.datetime.fromisoformat(self.start)


class FrameBuilder(Builder):
    """One update of a gallery of persons in frames.

    Args:
        encoder, store, broken, progress: as `Builder`.
        source: whole frames and recordings.
        metadata: of them, which their persons share.
        looked: files that the detector has seen; kept up to date.
        detector: gives the detector, once there is a frame for it.
        keep: writes `looked` and `broken` to disk.
    """

    def __init__(
        self,
        encoder: Encoder,
        store: VectorStore,
        source: Source,
        metadata: Metadata | None,
        broken: Broken,
        looked: dict[str, Looked],
        detector: Callable[[], PersonDetector],
        keep: Callable[[], None],
        progress: bool = False,
    ):
        before = store.read()
        self.columns = FrameMetadata(before, metadata)
        super().__init__(encoder, store, source, self.columns, broken, progress)
        self.files, self.looked, self.detector, self.keep = source, looked, detector, keep
        self._before = before
        self._row = self.columns.row
        self._same = {state.sha256: path for path, state in zip(before.paths, before.files)}
        self._rows_of: dict[str, list[str]] = defaultdict(list)
        for path in before.paths:
            self._rows_of[source_of(path)].append(path)
        # Crops that wait to be embedded, copies of rows, and files whose last person is among them.
        self._waiting: dict[str, Image.Image] = {}
        self._copies: dict[str, tuple[str, tuple[int, int]]] = {}
        self._ended: list[tuple[str, Looked | None, set[str]]] = []
        self._states: dict[str, tuple[int, int]] = {}
        self._kept_at = time.monotonic()

    def run(self, whole: bool) -> Changes:
        """Looks at what is new or changed; removes the persons of files that are gone."""
        began = time.monotonic()
        known = {name: (seen.size, seen.mtime_ns) for name, seen in self.looked.items()}
        todo = plan(self.files, known, self.broken, whole)
        if any(_is_recording(self.files.images[name]) for name in todo.fresh):
            require("av", "video", "Reading recordings")
        self.changes.unmatched, self.changes.metadata_rows = self.columns.unmatched, self.columns.rows
        fresh = set(todo.fresh)
        self._twins = {seen.sha256: name for name, seen in self.looked.items() if name not in fresh}
        try:
            for name in self._bar(todo.fresh):
                self._file(name)
            self._flush()
        finally:
            self.keep()
        self._stay([path for name in (*todo.unchanged, *todo.still_broken) for path in self._rows_of.get(name, ())])
        if whole:
            self._remove([p for name, rows in self._rows_of.items() if name not in self.files.images for p in rows])
            for name in {*self.looked, *self.broken} - set(self.files.images):
                self.looked.pop(name, None)
                self.broken.pop(name, None)
        self.changes.broken = {name: self.broken[name][2] for name in self.files.images if name in self.broken}
        self.keep()
        self.changes.seconds = time.monotonic() - began
        return self.changes

    def _bar(self, names: list[str]) -> Iterable[str]:
        from tqdm.auto import tqdm

        self._shown = tqdm(names, desc="looking for persons", unit="file", disable=not self.progress, leave=False)
        return self._shown

    def _file(self, name: str) -> None:
        """Everything about one file that is new, changed, touched, copied or renamed."""
        state = self.files.states.get(name, (0, 0))
        rows = self._rows_of.get(name, [])
        try:
            image = read_image(self.files.images[name])
            sha256 = content_hash(image)
        # A lazily opened PIL image raises whatever a broken file leads its plugin to.
        except Exception as error:
            self._fault(name, error)
            self._ended.append((name, None, set(rows)))
            return
        seen = self.looked.get(name)
        twin = self._twins.get(sha256)
        if seen is not None and seen.sha256 == sha256:
            self.looked[name] = Looked(*state, sha256, seen.start)
            self._stay(rows)
        elif twin is not None:
            self._copy(name, Looked(*state, sha256, self.looked[twin].start), self._rows_of.get(twin, []))
        else:
            self._look(name, image, Looked(*state, sha256, None))

    def _look(self, name: str, image: ImageLike, seen: Looked) -> None:
        """Cuts the persons out of one file."""
        detector = self.detector()
        old = self._rows_of.get(name, [])
        # What an update that was ended in the middle of this recording has left.
        left = {path: _second(path) for path in old if self._before.files[self._row[path]][:2] == seen[:2] != (0, 0)}
        after = max(left.values(), default=0.0)
        kept = {path for path, second in left.items() if second < after}
        self.changes.unchanged += len(kept)
        reading = self._read(name, image, detector, after)
        while True:
            try:
                some, start = next(reading)
            except StopIteration:
                break
            except Exception as error:  # of the file; what goes wrong in the detector is another matter
                self._fault(name, error)
                self._ended.append((name, None, set(old) - kept))
                return
            self.changes.frames += len(some)
            seen = seen._replace(start=None if start is None else start.isoformat())
            for (second, frame), persons in zip(some, detector.find([frame for _, frame in some])):
                for person in persons:
                    path = str(Fragment(name, person.box, second))
                    kept.add(path)
                    self.columns.add(path, Seen(name, second, person, start))
                    self._wait(path, frame, person.box, seen)
        self._ended.append((name, seen, set(old) - kept))

    def _read(
        self, name: str, image: ImageLike, detector: PersonDetector, after: float
    ) -> "Iterator[tuple[list[tuple[float | None, Image.Image]], datetime.datetime | None]]":
        """The frames of a file, some at a time, each with its second, and when the file began."""
        from ..data.images import decode_image

        if _is_recording(image):
            with open_recording(image) as recording:  # type: ignore[arg-type]
                start = time_in_name(name) or recording.start
                for some in _batches(recording.frames(detector.every, after), detector.batch_size):
                    self._shown.set_postfix_str(f"{name} {shown_second(some[-1][0] or 0.0)}")
                    yield some, start
        else:
            file = {"path": str(image), "bytes": None} if isinstance(image, (str, Path)) else image
            yield [(None, decode_image(file))], time_in_name(name) or _taken(file)

    def _wait(self, path: str, frame: "Image.Image", box: tuple[int, int, int, int], seen: Looked) -> None:
        left, top, width, height = box
        self._waiting[path] = frame.crop((left, top, left + width, top + height))
        self._states[path] = seen[:2]
        if len(self._waiting) >= PIECE or sum(crop.width * crop.height for crop in self._waiting.values()) > _PIXELS:
            self._flush()

    def _flush(self) -> None:
        """Embeds the crops that wait; then the files that gave the last of them are done with."""
        assert self.store is not None
        if self._waiting:
            names = list(self._waiting)
            self.source = Source(dict(self._waiting), states=self._states)
            self._piece(names, self._before, self._row, self._same)
        if self._copies:
            rows = [self._row[old] for old, _ in self._copies.values()]
            hashes = [self._before.files[row].sha256 for row in rows]
            states = [FileState(*state, sha256) for (_, state), sha256 in zip(self._copies.values(), hashes)]
            vectors = list(self.store.vectors([old for old, _ in self._copies.values()]))
            self.store.put(self._table(list(self._copies), states, vectors, self._before, self._row))
            self.changes.copied += len(self._copies)
        self._remove([path for _, _, stale in self._ended for path in stale])
        for name, seen, _ in self._ended:
            self.looked.pop(name, None)
            if seen is not None:
                self.looked[name] = seen
                self.broken.pop(name, None)
        for finished in (self._waiting, self._copies, self._states, self._ended):
            finished.clear()
        if time.monotonic() - self._kept_at > _KEEP:
            self.keep()
            self._kept_at = time.monotonic()

    def _copy(self, name: str, seen: Looked, rows: list[str]) -> None:
        """The persons of a file that is there, or was, under another name."""
        start = time_in_name(name) or seen.began
        made = set()
        for path in rows:
            found = Fragment.of(path)
            assert found is not None
            new = str(Fragment(name, found.box, found.second))
            self.columns.add(new, self.columns.seen(path)._replace(source=name, start=start))
            self._copies[new] = path, seen[:2]
            made.add(new)
        self._ended.append((name, seen, set(self._rows_of.get(name, ())) - made))
        if len(self._copies) >= 4 * PIECE:
            self._flush()

    def _stay(self, paths: list[str]) -> None:
        """Persons that stay; what is said of their files may be new."""
        self.changes.unchanged += len(paths)
        if self.columns.of_files is None:
            return
        for path in paths:
            seen = self.columns.seen(path)
            file = self.looked.get(seen.source)
            if file is not None:
                seen = seen._replace(start=time_in_name(seen.source) or file.began)
            self.columns.add(path, seen)
        self._describe(self._before, self._row, paths)

    def _remove(self, paths: list[str]) -> None:
        assert self.store is not None
        self.store.remove(paths)
        self.changes.removed += len(paths)

    def _fault(self, name: str, error: Exception) -> None:
        self.broken[name] = (*self.files.states.get(name, (0, 0)), in_short(error))

    def _table(
        self, names: list[str], states: list[FileState], vectors: list[np.ndarray], before: Table, row: dict[str, int]
    ) -> Table:
        kinds, values = self.columns.known(names)
        return Table(names, states, np.stack(vectors).astype(np.float32), kinds, values)


def _second(path: str) -> float:
    found = Fragment.of(path)
    return 0.0 if found is None or found.second is None else found.second


def _is_recording(image: object) -> bool:
    return isinstance(image, (str, Path)) and Path(image).suffix.lower() in SUFFIXES


def _batches(
    frames: "Iterator[tuple[float, Image.Image]]", size: int
) -> "Iterator[list[tuple[float | None, Image.Image]]]":
    """As many frames as the detector takes, fewer where they are large; those before an error come before it."""
    some: list[tuple[float | None, Image.Image]] = []
    try:
        for second, frame in frames:
            some.append((second, frame))
            if len(some) == size or (len(some) + 1) * frame.width * frame.height > _PIXELS:
                yield some
                some = []
    except ValueError:
        if some:
            yield some
        raise
    if some:
        yield some


def _taken(image: ImageLike) -> datetime.datetime | None:
    """When a camera says that a picture was taken, by its own clock."""
    from ..image_modes_amns import open_image

    try:
        if isinstance(image, Mapping):
            with open_image(image["path"] if image.get("bytes") is None else image["bytes"]) as opened:
                text = opened.getexif().get_ifd(_EXIF).get(_TAKEN)
        else:
            text = cast("Image.Image", image).getexif().get_ifd(_EXIF).get(_TAKEN)
        return datetime.datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    # Broken blocks make Pillow raise whatever they lead it to; the pixels are fine.
    except Exception:
        return None


__all__ = ["FrameBuilder", "Looked"]
