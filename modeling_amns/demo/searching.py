"""From what a page asks to what it shows, apart from the page itself."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from PIL import Image

from ..brief import in_short
from ..retrieval import PersonGallery
from ..retrieval.exact import EXACT_ROWS
from ..retrieval.hits import Hit
from ..retrieval.queries import cut_sentences, query_vector
from .filters import column_filters, joined_filter
from .pictures import GalleryPictures, attention_picture, data_address, uploaded_image

MAX_RESULTS = 60
# Seconds after which a page is told that something takes too long.
PATIENCE = 60.0
EXAMPLE = "a woman in a red coat with a black backpack"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Question:
    """What a page asks.

    Args:
        sentence: what to search for, may be empty beside an image.
        upload: file that the user sent, and what they call it.
        like: path of an image of the gallery to search for more of.
        count: how many images at most, 1 to `MAX_RESULTS`.
        group_by: a column, of whose values each is shown once.
        expression: filter that the user wrote.
        chosen: what was chosen for each of `GallerySearch.filters`.
    """

    sentence: str = ""
    upload: tuple[str, str] | None = None
    like: str | None = None
    count: float = 12
    group_by: str | None = None
    expression: str = ""
    chosen: Sequence[object] = ()


@dataclass(frozen=True)
class Answer:
    """What a page shows: images best first, and one line; `failed` where the line is why there are none."""

    hits: list[Hit] = field(default_factory=list)
    line: str = ""
    failed: bool = False


class GallerySearch:
    """Searches a gallery for a page. Every fault of a question is a line of its answer.

    Args:
        gallery: the gallery.
        follow_links: show images behind links that leave the gallery's folder.
        patience: seconds that a question may take.

    Questions are answered one after the other: a model's time is shared best so, and who asks much holds up nobody
    for longer than `patience`.
    """

    def __init__(self, gallery: PersonGallery, follow_links: bool = False, patience: float = PATIENCE):
        self.gallery, self.patience = gallery, patience
        self.pictures = GalleryPictures(gallery.source, follow_links)
        # Of more rows the values are not read: it would take as long as everything else.
        table = gallery.store.read() if gallery.store is not None and len(gallery) <= EXACT_ROWS else None
        self.filters = column_filters(gallery.columns, table)
        self.groups = [name for name, kind in gallery.columns.items() if kind in ("text", "integer", "boolean")]
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="search")

    def ask(self, question: Question) -> Answer:
        """The images that fit a question best."""
        try:
            return self._in_time(lambda: self._search(question))
        except (ValueError, OSError) as error:
            text = str(error) or type(error).__name__
            if question.upload is not None:
                # Users know their file by its own name, not by the place where it was put.
                text = text.replace(*question.upload).replace(os.path.dirname(question.upload[0]), "")
            return Answer(line=in_short(text, 500), failed=True)

    def look(self, path: str) -> str:
        """Where the model looks in an image of the gallery, as a `data:` address.

        Raises:
            ValueError, OSError: the image or the model can't say.
        """
        return self._in_time(lambda: data_address(attention_picture(self.gallery.encoder, self.pictures.read(path))))

    def preview(self, file: str, name: str) -> str:
        """An uploaded image, small, as a `data:` address.

        Raises:
            ValueError: it can't be read as an image; the text says why in one line.
        """
        return self._in_time(lambda: data_address(uploaded_image(file, name)))

    def close(self) -> None:
        """Waits for nobody any more."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _in_time(self, work: Callable[[], Result]) -> Result:
        task = self._worker.submit(work)
        try:
            return task.result(self.patience)
        except TookTooLong:
            task.cancel()
            raise ValueError(f"This took more than {self.patience:g} seconds and was given up; try again.") from None

    def _search(self, question: Question) -> Answer:
        image: list[str | Path | Image.Image] = []
        if question.upload is not None:
            image.append(question.upload[0])
        if question.like is not None:
            image.append(self.pictures.query(question.like))
        sentence = question.sentence.strip()
        if not sentence and not image:
            raise ValueError(f'Describe the person, such as "{EXAMPLE}", or add an image.')
        if not 1 <= question.count <= MAX_RESULTS:
            raise ValueError(f"Between 1 and {MAX_RESULTS} images are shown, not {question.count}.")
        if not len(self.gallery):
            raise ValueError(f"The gallery is empty; index images with amns index {self.gallery.source or 'FOLDER'}.")
        where = joined_filter(question.expression, self.filters, question.chosen, self.gallery.columns)
        vector = query_vector(self.gallery.encoder, sentence or None, image or None)
        hits = self.gallery.search_vector(vector, int(question.count), where, question.group_by)
        if not hits:
            return Answer(line="No image fits these filters; loosen one of them.")
        notes = cut_sentences(self.gallery.encoder, sentence) if sentence else []
        counted = f"{len(hits)} {'image' if len(hits) == 1 else 'images'}, best first."
        return Answer(hits, " ".join([counted, *notes]))


__all__ = ["EXAMPLE", "MAX_RESULTS", "PATIENCE", "Answer", "GallerySearch", "Question"]
