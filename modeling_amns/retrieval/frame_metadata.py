"""Metadata of persons in frames: where each was seen, when, and what a table says of its file."""

import datetime
from collections.abc import Sequence
from typing import Any, NamedTuple

from .detection import Person
from .fragments import Fragment, source_of
from .sources import Metadata
from .table import Table

# source: name of the file; second: since its first frame; box: left, top, width, height in pixels of the upright
# frame; detection: the detector's score; time: when the person was seen.
OWN = {"source": "text", "second": "real", "box": "text", "detection": "real"}
TIME = "time"


class Seen(NamedTuple):
    """One person in one frame.

    Args:
        source: name of the file.
        second: of the recording, `None` in an image.
        person: box and score.
        start: when the recording began, or the image was taken, where the file says so.
    """

    source: str
    second: float | None
    person: Person
    start: datetime.datetime | None


class FrameMetadata:
    """Metadata of crops by their path.

    Args:
        before: rows of the gallery.
        of_files: what a table says of the files; `None` leaves what the gallery has. Its column `time` says when a
            recording began or an image was taken, and goes before what the file says.
    Raises:
        ValueError: a column of the table is one that crops have themselves, or its times are none.
    """

    def __init__(self, before: Table, of_files: Metadata | None):
        self.before, self.of_files = before, of_files
        self.row = {path: number for number, path in enumerate(before.paths)}
        self._seen: dict[str, Seen] = {}
        if of_files is None:
            kinds = before.kinds
            # Of a file that has changed, what any of its crops had.
            self._row_of = {source_of(path): number for path, number in self.row.items()}
        else:
            kinds = of_files.kinds
            for name in kinds:
                if name in OWN:
                    raise ValueError(f"A metadata column can't be called {name}: persons in frames have one of it.")
            if kinds.get(TIME, TIME) != TIME:
                raise ValueError(
                    f"The metadata column {TIME} says when a recording began or an image was taken; it holds "
                    f"{kinds[TIME]} values, expected times such as 2026-11-25 08:30:00."
                )
        self._more = {name: kind for name, kind in kinds.items() if name not in (*OWN, TIME)}

    def add(self, path: str, seen: Seen) -> None:
        """Makes a crop known."""
        self._seen[path] = seen

    def seen(self, path: str) -> Seen:
        """What the gallery knows of a crop that it has."""
        found = self._seen.get(path)
        if found is not None:
            return found
        fragment = Fragment.of(path)
        assert fragment is not None
        known = self.before.metadata(self.row[path])
        moment, second = known.get(TIME), known.get("second")
        start = None
        if isinstance(moment, datetime.datetime):
            start = moment - datetime.timedelta(seconds=second or 0.0)
        return Seen(fragment.source, second, Person(fragment.box, float(known.get("detection", 0.0))), start)

    @property
    def kinds(self) -> dict[str, str]:
        """Kinds of all columns that crops may have."""
        return {**self._more, **OWN, TIME: "time"}

    @property
    def unmatched(self) -> int:
        """Rows of the table about no file of the source."""
        return 0 if self.of_files is None else self.of_files.unmatched

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return 0 if self.of_files is None else self.of_files.rows

    def of(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """The values of some crops, by column."""
        rows = [self._values(self._seen[path]) for path in names]
        return {name: [row.get(name) for row in rows] for name in self.kinds}

    def known(self, names: Sequence[str]) -> tuple[dict[str, str], dict[str, list[Any]]]:
        """Kinds and values of some crops without the columns in which none has a value, such as an unknown time."""
        values = {name: column for name, column in self.of(names).items() if any(v is not None for v in column)}
        return {name: self.kinds[name] for name in values}, values

    def _values(self, seen: Seen) -> dict[str, Any]:
        about = self._about(seen.source)
        start = about.get(TIME) or seen.start
        moment = None if start is None else start + datetime.timedelta(seconds=seen.second or 0.0)
        box = Fragment(seen.source, seen.person.box).shown_box
        own = {"source": seen.source, "second": seen.second, "box": box, "detection": round(seen.person.score, 4)}
        return {**about, **own, TIME: moment}

    def _about(self, source: str) -> dict[str, Any]:
        if self.of_files is not None:
            if source not in self.of_files.place:
                return {}
            return {name: column[0] for name, column in self.of_files.of([source]).items()}
        number = self._row_of.get(source)
        if number is None:
            return {}
        return {name: value for name, value in self.before.metadata(number).items() if name in self._more}


__all__ = ["OWN", "TIME", "FrameMetadata", "Seen"]
