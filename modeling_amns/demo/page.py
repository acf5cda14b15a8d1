"""What happens on the page, event by event, without what draws it."""

import contextlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..retrieval.hits import Hit
from .filters import ColumnFilter
from .results import line_html, query_html, results_html
from .searching import GallerySearch, Question


@dataclass
class Session:
    """What one open page shows: its results, where the model looks in some of them, and the image of its query.

    Args:
        hits: best first.
        looks: pictures that stand in place of images, by their place.
        upload: file and its own name; `like`: path in the gallery. At most one of both.
    """

    hits: list[Hit] = field(default_factory=list)
    looks: dict[int, str] = field(default_factory=dict)
    upload: tuple[str, str] | None = None
    like: str | None = None


class Page:
    """What happens on a page, event by event; each returns what the parts of the page become.

    Args:
        search: answers its questions.
        can_look: whether the model can say where it looks.
    """

    def __init__(self, search: GallerySearch, can_look: bool = True):
        self.search, self.can_look = search, can_look

    def find(
        self,
        session: Session,
        sentence: str | None,
        count: float | None,
        group_by: str | None,
        expression: str | None,
        *chosen: object,
    ) -> tuple[Session, str, str]:
        """Searches; returns session, line and results."""
        question = Question(
            sentence or "", session.upload, session.like, count or 0, group_by or None, expression or ""
        )
        answer = self.search.ask(replace(question, chosen=paired(self.search.filters, chosen)))
        session = replace(session, hits=answer.hits, looks={})
        return session, line_html(answer.line, answer.failed), self.cards(session)

    def click(self, session: Session, act: object, place: object) -> tuple[Session, str] | None:
        """A button of a card: what is shown then and a line about it; `None` where a search follows.

        The page names a place among what it was shown, never a path.
        """
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(session.hits):
            return session, line_html("The results are no longer there; search again.", failed=True)
        path = session.hits[place].path
        if act != "like" and place in session.looks:
            looks = {other: address for other, address in session.looks.items() if other != place}
            return replace(session, looks=looks), ""
        try:
            if act == "like":
                # Whether it can still be read is known now.
                self.search.pictures.thumbnail(path)
                return None
            address = self.search.look(path)
        except (ValueError, OSError) as error:
            return session, line_html(f"Result {place + 1}: {error}", failed=True)
        line = f"In result {place + 1} the orange patches are those that the model attends to."
        return replace(session, looks={**session.looks, place: address}), line_html(line)

    def like(self, session: Session, place: int) -> tuple[Session, str]:
        """Makes a result the image of the query; returns session and the query's picture."""
        self.forget(session)
        path = session.hits[place].path
        return replace(session, upload=None, like=path), query_html(self.search.pictures.thumbnail(path), path)

    def upload(self, session: Session, file: str | None) -> tuple[Session, str, str]:
        """A file that was sent becomes the image of the query; returns session, the query's picture and a line."""
        self.forget(session)
        session = replace(session, upload=None, like=None)
        if not file:
            return session, "", ""
        # Whoever sends the same picture has it in the same place; who removes theirs must not remove another's.
        name, kept = Path(file).name, str(Path(file).with_name(secrets.token_hex(16)))
        try:
            os.replace(file, kept)
            picture = query_html(self.search.preview(kept, name), name)
        except (ValueError, OSError) as error:
            _remove(kept)
            return session, "", line_html(str(error).replace(kept, name), failed=True)
        return replace(session, upload=(kept, name)), picture, ""

    def forget(self, session: Session) -> Session:
        """Removes the image of the query, its file too."""
        if session.upload is not None:
            _remove(session.upload[0])
        return replace(session, upload=None, like=None)

    def cards(self, session: Session) -> str:
        """The results as they stand."""
        return results_html(session.hits, self.search.pictures.thumbnail, session.looks, self.can_look)


def paired(filters: Sequence[ColumnFilter], values: Sequence[object]) -> list[object]:
    """The values of the page's parts, a filter each: a range has two parts."""
    rest = iter(values)
    return [[next(rest, None), next(rest, None)] if one.way == "range" else next(rest, None) for one in filters]


def _remove(file: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(file)


__all__ = ["Page", "Session", "paired"]
