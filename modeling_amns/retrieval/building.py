"""Brings a gallery up to date with its images: what is new or changed is embedded, in pieces that are kept."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .arguments import ImageLike
from .encoders import Encoder, process_count, process_index
from .metadata import as_kind
from .sources import Source, file_state, read_image
from .store import VectorStore
from .table import FileState, Table, joined_kinds

# Images between two commits, for each process: what a killed program has to embed once more at most.
PIECE = 256


class Described(Protocol):
    """Metadata of images by their name: `Metadata`, or that of persons in frames."""

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each column."""

    @property
    def unmatched(self) -> int:
        """Rows of the table about no image of the source."""

    @property
    def rows(self) -> int:
        """Rows of the table."""

    def of(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """The values of some images, by column."""


@dataclass
class Changes:
    """What an update has done.

    Args:
        added, changed: images that were embedded: new ones, and those whose content is another.
        copied: images that were not embedded, because one of the same content was there: renamed, copied or touched.
        removed: images that are gone.
        described: images whose metadata alone changed.
        unchanged: images that were left as they are.
        broken: images that can't be read, with the reason, those of earlier updates included.
        unmatched: rows of metadata about no image of the source, of `metadata_rows`.
        frames: that a detector looked at for persons.
        seconds: it took.
    """

    added: int = 0
    changed: int = 0
    copied: int = 0
    removed: int = 0
    described: int = 0
    unchanged: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    unmatched: int = 0
    metadata_rows: int = 0
    frames: int = 0
    seconds: float = 0.0

    @property
    def embedded(self) -> int:
        """Images that went through the model."""
        return self.added + self.changed

    def __str__(self) -> str:
        counts = {
            "added": self.added,
            "changed": self.changed,
            "renamed or copied": self.copied,
            "removed": self.removed,
            "with other metadata": self.described,
            "unchanged": self.unchanged,
            "left out, because they can't be read": len(self.broken),
        }
        text = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "no images"
        if self.frames:
            text = f"{self.frames:,} frames looked at: {text if any(counts.values()) else 'no persons found'}"
        if self.unmatched:
            text += f"; {self.unmatched:,} of {self.metadata_rows:,} rows of metadata are about none of the images"
        return f"{text} ({self.seconds:.1f} s)"


@dataclass
class Plan:
    """What there is to do for a source's images, by name."""

    fresh: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    still_broken: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.fresh or self.gone)


# Of an image that could not be read: bytes, time of the last change, the reason.
Broken = dict[str, tuple[int, int, str]]


def plan(source: Source, known: dict[str, tuple[int, int]], broken: Broken, whole: bool) -> Plan:
    """Compares a source with a gallery by size and time of each file; what is no file has to be read.

    Args:
        source: the images.
        known: bytes and time of each image in the gallery.
        broken: of those that could not be read before.
        whole: images of the gallery that are not in the source are gone.
    """
    made = Plan()
    for name in source.images:
        state = source.states.get(name)
        if state is not None and known.get(name) == state:
            made.unchanged.append(name)
        elif state is not None and name in broken and tuple(broken[name][:2]) == tuple(state):
            made.still_broken.append(name)
        else:
            made.fresh.append(name)
    if whole:
        made.gone = [name for name in known if name not in source.images]
    return made


class Builder:
    """One update of a gallery. With several processes each calls it; the main one alone reads and writes the store.

    Args:
        encoder: the gallery's model.
        store: its keeper.
        source: the images.
        metadata: of them; `None` leaves what the gallery has.
        broken: images that could not be read before; kept up to date.
        progress: show a bar.
    """

    def __init__(
        self,
        encoder: Encoder,
        store: VectorStore | None,
        source: Source,
        metadata: Described | None,
        broken: Broken,
        progress: bool = False,
    ):
        self.encoder, self.store, self.source = encoder, store, source
        self.metadata, self.broken, self.progress = metadata, broken, progress
        self.changes = Changes()
        self._together = False

    def run(self, whole: bool) -> Changes:
        """Does what `plan` says."""
        start = time.monotonic()
        if process_index() != 0:
            self._serve()
            return self.changes
        assert self.store is not None
        before = self.store.read()
        row = {path: number for number, path in enumerate(before.paths)}
        known = {path: state[:2] for path, state in zip(before.paths, before.files)}
        todo = plan(self.source, known, self.broken, whole)
        self.changes.unchanged = len(todo.unchanged)
        if self.metadata is not None:
            self.changes.unmatched, self.changes.metadata_rows = self.metadata.unmatched, self.metadata.rows
            self._describe(before, row, todo.unchanged)
        same = {state.sha256: path for path, state in zip(before.paths, before.files)}
        try:
            self._embed_all(todo.fresh, before, row, same)
        finally:
            # Whatever ended the work, the others must not wait for more; in the midst of it they don't listen.
            if not self._together:
                _broadcast(None)
        self.store.remove([*todo.gone, *(name for name in todo.fresh if name in self.broken and name in row)])
        self.changes.removed = len(todo.gone)
        for name in [name for name in self.broken if whole and name not in self.source.images]:
            del self.broken[name]
        self.changes.broken = {name: self.broken[name][2] for name in self.source.images if name in self.broken}
        self.changes.seconds = time.monotonic() - start
        return self.changes

    def _embed_all(self, names: Sequence[str], before: Table, row: dict[str, int], same: dict[str, str]) -> None:
        from tqdm.auto import tqdm

        size = PIECE * process_count()
        with tqdm(total=len(names), desc="embedding images", disable=not self.progress, leave=False) as bar:
            for start in range(0, len(names), size):
                piece = names[start : start + size]
                self._piece(piece, before, row, same)
                bar.update(len(piece))

    def _piece(self, names: Sequence[str], before: Table, row: dict[str, int], same: dict[str, str]) -> None:
        assert self.store is not None
        states: dict[str, FileState] = {}
        images: dict[str, ImageLike] = {}
        copies: dict[str, str] = {}
        twins: dict[str, str] = {}
        first: dict[str, str] = {}
        for name in names:
            try:
                image = read_image(self.source.images[name])
                states[name] = file_state(self.source, name, image)
            # A lazily opened PIL image raises whatever a broken file leads its plugin to.
            except Exception as error:
                self._break(name, f"{type(error).__name__}: {error}")
                continue
            sha256 = states[name].sha256
            if sha256 in same:
                copies[name] = same[sha256]
            elif sha256 in first:
                twins[name] = first[sha256]
            else:
                first[sha256] = name
                images[name] = image
        vectors = dict(zip(copies, self.store.vectors(list(copies.values())))) if copies else {}
        if images:
            _broadcast(list(images.values()))
            self._together = True
            made, faults = self.encoder.embed_images(list(images.values()))
            self._together = False
            good = [name for place, name in enumerate(images) if place not in faults]
            vectors.update(zip(good, made))
            for place, text in faults.items():
                self._break(list(images)[place], text)
        for name, other in twins.items():
            if other in vectors:
                vectors[name] = vectors[other]
            else:
                self._break(name, self.broken[other][2])
        done = [name for name in names if name in vectors]
        if not done:
            return
        self.store.put(
            self._table(done, [states[name] for name in done], [vectors[name] for name in done], before, row)
        )
        for name in done:
            self.broken.pop(name, None)
            old = before.files[row[name]].sha256 if name in row else None
            if old is not None and same.get(old) == name:
                del same[old]  # its row holds another image now
            same[states[name].sha256] = name
            if name in images:
                self.changes.added += name not in row
                self.changes.changed += name in row
            elif not (name in row and before.files[row[name]] == states[name]):
                self.changes.copied += 1
            else:
                self.changes.unchanged += 1  # what is no file is read to find that out

    def _table(
        self,
        names: list[str],
        states: list[FileState],
        vectors: list[np.ndarray],
        before: Table,
        row: dict[str, int],
    ) -> Table:
        if self.metadata is not None:
            kinds, values = self.metadata.kinds, self.metadata.of(names)
        else:
            kinds = before.kinds
            values = {
                column: [old[row[name]] if name in row else None for name in names]
                for column, old in before.values.items()
            }
        return Table(names, states, np.stack(vectors).astype(np.float32), dict(kinds), values)

    def _describe(self, before: Table, row: dict[str, int], names: Sequence[str]) -> None:
        """Writes the metadata of images that are themselves unchanged, where it is another."""
        assert self.store is not None and self.metadata is not None
        # In the kinds that the gallery keeps them in.
        kinds = joined_kinds(before.kinds, self.metadata.kinds)
        values = {
            column: [as_kind(value, kinds[column]) for value in some]
            for column, some in self.metadata.of(names).items()
        }
        differing = [
            name
            for place, name in enumerate(names)
            if {column: some[place] for column, some in values.items() if some[place] is not None}
            != before.metadata(row[name])
        ]
        for start in range(0, len(differing), 4096):
            some = differing[start : start + 4096]
            states = [before.files[row[name]] for name in some]
            self.store.put(self._table(some, states, list(self.store.vectors(some)), before, row))
        self.changes.described += len(differing)
        self.changes.unchanged -= len(differing)

    def _break(self, name: str, text: str) -> None:
        self.broken[name] = (*self.source.states.get(name, (0, 0)), " ".join(text.split()))

    def _serve(self) -> None:
        """Embeds this process's share of what the main process has to do, until it has done all."""
        while True:
            images = _broadcast(None)
            if images is None:
                return
            self.encoder.embed_images(images)


def _broadcast(value: list[ImageLike] | None) -> list[ImageLike] | None:
    """The main process's value, on each process."""
    if process_count() == 1:
        return value
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState()
    return broadcast_object_list([value])[0]


def is_main() -> bool:
    """Whether this process reads and writes the gallery."""
    return process_index() == 0


__all__ = ["Broken", "Builder", "Changes", "Plan", "is_main", "plan"]
