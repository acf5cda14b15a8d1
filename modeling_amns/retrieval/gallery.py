"""A gallery: person images embedded once, searched by sentence and image as often as one likes."""

import contextlib
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .arguments import Detector, Images, MetadataTable, Model, Processor, QueryImages, Sentences
from .building import Broken, Builder, Changes, is_main, plan
from .cropping import Looked
from .encoders import Encoder, check_same, open_encoder
from .frames import FRAMES, CutsPersons
from .hits import Hit
from .lance_store import LanceStore
from .opening import keep_settings, open_store, store_for
from .place import (
    holds_persons,
    metadata_changed,
    note_metadata,
    noted_metadata,
    read_broken,
    read_looked,
    read_parquet,
    whole_or_gone,
    writing,
)
from .qdrant_store import QdrantStore, is_server
from .queries import checked_vector, cut_sentences, query_vector
from .sources import Metadata, Source
from .store import VectorStore
from .table import Table

if TYPE_CHECKING:
    from torch import Tensor


class PersonGallery(CutsPersons):
    """Embedded person images with metadata, in memory or in a folder.

    Make one with `from_images`, `load` or `from_parquet`.

    Wherever a folder is asked for, `qdrant://HOST:6333/COLLECTION` names a collection on a server (extra `qdrant`).
    In a folder the rows lie in LanceDB (extra `search`). Any number of processes may read while one writes; whatever
    ends the writer, readers see the last whole commit, and the next writer goes on from there. A gallery belongs to
    one model: weights, preprocessing and dimension are compared when it is opened.

    Attributes:
        folder: of the gallery, `None` in memory and on a server.
        server: URL of the gallery on a server.
        source: the folder of images, `None` where they came otherwise.
        changes: what the last update has done.

    ```python
    >>> import torch
    >>> from PIL import Image
    >>> from modeling_amns import AMNSConfig, AMNSModel, AMNSProcessor
    >>> from modeling_amns.retrieval import PersonGallery
    >>> processor = AMNSProcessor.from_captions(["a man in a red coat", "a woman with a blue bag"], [32, 16])
    >>> sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> model = AMNSModel(AMNSConfig(
    ...     vision_config={**sizes, "image_size": [32, 16], "patch_size": 8},
    ...     text_config={**sizes, **processor.text_config_fields}, projection_dim=8))
    >>> images = [Image.new("RGB", (16, 32), colour) for colour in ("red", "green", "blue")]
    >>> rows = [{"path": f"image {number}", "camera": f"c{number % 2}"} for number in range(3)]
    >>> gallery = PersonGallery.from_images(model, processor, images, metadata=rows)
    >>> sorted(hit.path for hit in gallery.search("a man in a red coat", where="camera = 'c0'"))
    ['image 0', 'image 2']
    >>> gallery.search(image=images[1], k=1)[0].path
    'image 1'

    ```
    """

    def __init__(
        self,
        store: VectorStore | None,
        encoder: Encoder | None,
        settings: dict[str, Any],
        folder: Path | None = None,
    ):
        self.store, self.folder, self.settings = store, folder, settings
        self.server = store.url if isinstance(store, QdrantStore) else None
        self._encoder = encoder
        self.changes = Changes()
        self._broken: Broken = {} if folder is None else read_broken(folder)
        self._looked: dict[str, Looked] = {} if folder is None else read_looked(folder)
        self._loading = (128, 0)

    @classmethod
    def from_images(
        cls,
        model: Model,
        processor: Processor,
        source: Images,
        metadata: MetadataTable | None = None,
        folder: str | Path | None = None,
        batch_size: int = 128,
        num_workers: int = 0,
        progress: bool = False,
        detector: Detector | None = None,
    ) -> "PersonGallery":
        """Embeds images. Into a folder it can be killed at any moment: called again, it goes on where it was.

        Under `accelerate launch` every process calls it; they share the images and the main one writes.

        Args:
            model: an `AMNSModel` on its device; or a checkpoint's folder or id; or the folder of an export.
            processor: the model's processor; `None` beside a folder or an id.
            source: a folder, read with its sub-folders; a list of paths or of PIL images; a data set of `datasets`
                with a column `image`, whose other columns become metadata, `image_path` the name.
            metadata: a CSV, TSV, JSON, JSON Lines or Parquet file, rows or a data frame: a column `path` (as the
                images' names, relative to the folder) and any others (camera, time, person_id, ...).
            folder: where the gallery lies, or will lie: a folder or a server; `None` keeps it in memory.
            batch_size: images at a time and process.
            num_workers: processes that decode images, beside each.
            progress: show a bar.
            detector: the source holds whole frames and recordings (a folder, or one file): persons are cut out of them
                by this `PersonDetector`, or object detection checkpoint. Paths are media fragments, `Fragment`;
                columns are `source`, `second`, `box`, `detection` and, where it is known, `time`.
        Returns:
            the gallery; `gallery.changes` says what was done and which images could not be read.
        Raises:
            ValueError: there are no images; the folder holds another model's gallery; metadata can't be read.
        """
        if is_server(folder) and detector is not None:
            raise ValueError(FRAMES)
        images = Source.of(source, detector is not None or holds_persons(folder))
        described = None if metadata is None and not images.columns else Metadata(images, metadata)
        encoder = open_encoder(model, processor, batch_size, num_workers)
        gallery = cls._new(folder, encoder)
        gallery._detect_by(detector)
        gallery._note(images, metadata)
        gallery._update(images, described, whole=images.folder is not None, progress=progress)
        return gallery

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model: Model | None = None,
        processor: Processor = None,
        batch_size: int = 128,
        num_workers: int = 0,
    ) -> "PersonGallery":
        """Opens a gallery in a folder; its model is read when it is first needed.

        Args:
            folder: of the gallery.
            model: as in `from_images`; default the one that the gallery was made with, if it lies where it lay.
            processor, batch_size, num_workers: as in `from_images`.
        Raises:
            FileNotFoundError: there is no gallery.
            ValueError: it can't be read, or is of another model.
        """
        store, settings, place = open_store(folder)
        gallery = cls(store, None, settings, place)
        gallery._loading = (batch_size, num_workers)
        if not isinstance(model, (str, Path, type(None))):
            gallery._encoder = open_encoder(model, processor, batch_size, num_workers)
            gallery._check(gallery._encoder)
        elif model is not None:
            gallery.settings = {**settings, "open": str(model)}
        return gallery

    @classmethod
    def _new(cls, folder: str | Path | None, encoder: Encoder) -> "PersonGallery":
        """A gallery in memory, or the one in a folder or on a server, made if there is none."""
        store, settings, place = store_for(folder, encoder, is_main())
        return cls(store, encoder, settings, place)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        where = f"on {self.server}" if self.server else "in memory" if self.folder is None else f"in {self.folder}"
        return f"PersonGallery({len(self):,} images {where}, columns: {', '.join(self.columns) or 'none'})"

    @property
    def columns(self) -> dict[str, str]:
        """Kind of each metadata column: text, integer, real, boolean or time."""
        return self._rows.kinds

    @property
    def source(self) -> Path | None:
        """The folder that the images lie in."""
        return None if self.settings.get("source") is None else Path(self.settings["source"])

    @property
    def encoder(self) -> Encoder:
        """What makes vectors; read from disk at first use.

        Raises:
            ValueError: it is another model than the gallery's.
        """
        if self._encoder is None:
            name = self.settings.get("open") or self.settings["name"]
            try:
                encoder = open_encoder(name, None, *self._loading)
            except OSError as error:
                raise ValueError(f"The gallery's model {name} can't be read; pass it as model. {error}") from error
            self._check(encoder)
            self._encoder = encoder
        return self._encoder

    def search(
        self,
        text: Sentences | None = None,
        image: QueryImages | None = None,
        k: int = 10,
        where: str | None = None,
        group_by: str | None = None,
        exact: bool | None = None,
    ) -> list[Hit]:
        """The k images that fit a query best, best first.

        The query's vector is the sum of its parts, each of length 1 times its weight, brought to length 1 again:
        `search(text=["a woman in a red coat", ("a backpack", -0.5)], image=("seen.jpg", 0.7))`.

        Args:
            text: a sentence, or a list of sentences and pairs (sentence, weight); negative weights take away.
            image: a path or a PIL image, or a list of them and of pairs with weights.
            k: how many; a gallery that has fewer returns all.
            where: a filter on `path` and metadata, applied before ranking, so that k images come back if there are k:
                `"camera = 'c3' AND time >= '2026-11-25 08:00'"`. Comparisons, IN, BETWEEN, LIKE, IS NULL, joined by
                AND, OR, NOT and brackets.
            group_by: a column, such as `person_id`: only the best image of each value. Images without one are kept.
            exact: compare every vector (`True`), or ask the index (`False`); default: every vector up to 100,000.
        Raises:
            ValueError: an empty query, an image that can't be read, a filter that is no single expression or names an
                unknown column.
        """
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ValueError(f"k must be a whole number of 1 or more, found {k!r}.")
        query = query_vector(self.encoder, text, image)
        for note in cut_sentences(self.encoder, text):
            warnings.warn(note, stacklevel=2)
        return self.search_vector(query, k, where, group_by, exact)

    def search_vector(
        self,
        query: "np.ndarray | Tensor | Sequence[float]",
        k: int = 10,
        where: str | None = None,
        group_by: str | None = None,
        exact: bool | None = None,
    ) -> list[Hit]:
        """As `search`, for a vector [D] of the gallery's model."""
        vector = checked_vector(query, self.settings["model"]["dimension"])
        return self._rows.search(vector, k, where, group_by, exact)

    def add(self, source: Images, metadata: MetadataTable | None = None, progress: bool = False) -> Changes:
        """Embeds more images, as in `from_images`; those that are there and unchanged are left alone."""
        images = Source.of(source, self.detects)
        if images.folder is not None and self.source not in (None, images.folder):
            raise ValueError(f"The gallery is of {self.source}; give {images.folder} a gallery of its own.")
        described = None if metadata is None and not images.columns else Metadata(images, metadata)
        return self._update(images, described, whole=False, progress=progress)

    def remove(self, paths: str | Iterable[str]) -> int:
        """Removes images by their path in the gallery; returns how many were there."""
        gone = {paths} if isinstance(paths, str) else set(paths)
        with self._writing():
            before = len(self._rows)
            self._rows.remove(gone)
            self._rows.finish()
            return before - len(self._rows)

    def update(
        self,
        source: Images | None = None,
        metadata: MetadataTable | None = None,
        progress: bool = False,
        detector: Detector | None = None,
    ) -> Changes:
        """Brings the gallery up to date with its folder: new, changed and deleted files; only those are embedded.

        A file is unchanged if size and time of its last change are, or if its content is (SHA-256). Renamed and
        copied files keep their vector.

        Args:
            source: as in `from_images`; default the folder that the gallery was made of. Images of the gallery that
                are not in it are removed.
            metadata: as in `from_images`; default the file that was named last, if it is still there.
            progress: show a bar.
            detector: of a gallery of persons in frames; default the one that it was made with.
        """
        if source is None and self.source is None:
            raise ValueError("The gallery was not made of a folder; pass update() its images.")
        self._detect_by(detector)
        images = Source.of(self._place() if source is None else source, self.detects)
        if metadata is None:
            metadata = noted_metadata(self.settings)
        described = None if metadata is None and not images.columns else Metadata(images, metadata)
        self._note(images, metadata)
        return self._update(images, described, whole=True, progress=progress)

    def is_current(self) -> bool:
        """Whether the gallery holds what its folder holds, by size and time of each file; nothing is read."""
        if self.source is None:
            return True
        source = Source.of(self._place(), self.detects)
        known = {name: (seen.size, seen.mtime_ns) for name, seen in self._looked.items()}
        states = known if self.detects else self._rows.states()
        return not plan(source, states, self._broken, whole=True) and not metadata_changed(self.settings)

    def build_index(self) -> None:
        """Makes the index that approximates, which galleries beyond 100,000 images have of themselves."""
        if not isinstance(self.store, LanceStore):
            why = "A server makes its index itself" if self.server else "A gallery in memory is searched exactly"
            raise ValueError(f"{why}; save it to a folder for an index.")
        with self._writing():
            self.store.build_index()
            self.store.finish()

    def save(self, folder: str | Path) -> "PersonGallery":
        """Writes the gallery to an empty or new folder; returns the gallery there."""
        if self.folder is not None and Path(folder).resolve() == self.folder.resolve():
            return self
        made = self._new(folder, self.encoder)
        noted = ("source", "only", "metadata", "detector")
        made.settings |= {key: self.settings[key] for key in noted if key in self.settings}
        made._fill(self._rows.read(vectors=True))
        made._broken, made._looked, made._detector = dict(self._broken), dict(self._looked), self._detector
        keep_settings(made._rows, made.settings, made.folder)
        made._keep()
        return made

    def export_parquet(self, file: str | Path) -> None:
        """Writes paths, states of the files, vectors and metadata as one Parquet table, for any other database."""
        self._rows.read(vectors=True).to_parquet(file)

    @classmethod
    def from_parquet(
        cls, file: str | Path, model: Model, processor: Processor = None, folder: str | Path | None = None
    ) -> "PersonGallery":
        """A gallery of what `export_parquet` wrote, or of any table with a column `vector` of this model's vectors.

        Raises:
            ValueError: the file can't be read, or its vectors are of another dimension.
        """
        encoder = open_encoder(model, processor)
        table = read_parquet(Path(file), encoder.dimension)
        gallery = cls._new(folder, encoder)
        gallery._fill(table)
        return gallery

    @property
    def _rows(self) -> VectorStore:
        if self.store is None:
            raise ValueError("Only the main process holds the gallery.")
        return self.store

    def _check(self, encoder: Encoder) -> None:
        check_same(self.settings["model"], encoder, self._called, self.settings["name"])

    def _fill(self, table: Table) -> None:
        with whole_or_gone(self.folder), self._writing():
            for start in range(0, len(table), 50_000):
                self._rows.put(table.select(range(start, min(len(table), start + 50_000))))
            self._rows.finish()

    def _update(self, source: Source, metadata: Metadata | None, whole: bool, progress: bool) -> Changes:
        self._refuse_frames()
        if not is_main():
            Builder(self.encoder, None, source, metadata, self._broken).run(whole)
            return self.changes
        with self._writing():
            keep_settings(self._rows, self.settings, self.folder)
            builder = self._builder(source, metadata, progress)
            self.changes = builder.changes
            try:
                builder.run(whole)
            finally:
                self._keep()
            self._rows.finish()
        return self.changes

    def _note(self, source: Source, metadata: MetadataTable | None) -> None:
        """Keeps where images and metadata came from, for `update`."""
        if source.folder is not None:
            self.settings |= {"source": str(source.folder), "only": source.only}
        if isinstance(metadata, (str, Path)):
            note_metadata(self.settings, Path(metadata))

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        """Alone with the gallery's folder."""
        return contextlib.nullcontext() if self.folder is None else writing(self.folder)


__all__ = ["PersonGallery"]
