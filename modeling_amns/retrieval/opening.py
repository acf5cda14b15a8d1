"""Opens the store that a gallery's place names: memory, a folder or a server."""

from pathlib import Path
from typing import Any, NamedTuple

from .encoders import Encoder, check_same
from .lance_store import LanceStore
from .place import new_settings, read_settings, settings_for, write_settings
from .qdrant_store import QdrantStore, is_server
from .store import MemoryStore, VectorStore

# In memory, a folder, or a server's URL.
Place = str | Path | None


def place_of(text: str) -> Path | str:
    """A folder, or a server's URL as it is."""
    return text if is_server(text) else Path(text)


class Opened(NamedTuple):
    """A store, and what its gallery says of itself.

    Args:
        store: of the rows.
        settings: what `place.new_settings` makes.
        folder: of a gallery in a folder.
    """

    store: VectorStore
    settings: dict[str, Any]
    folder: Path | None


def open_store(place: str | Path) -> Opened:
    """The store of a gallery that is there.

    Raises:
        FileNotFoundError: there is no gallery.
        ValueError: it can't be read.
    """
    if is_server(place):
        server = QdrantStore(str(place))
        return Opened(server, server.settings, None)
    folder = Path(place)
    settings = read_settings(folder)
    return Opened(LanceStore(folder, settings["model"]["dimension"]), settings, folder)


def store_for(place: Place, encoder: Encoder, writer: bool) -> Opened:
    """The store of a model's gallery; the writer makes it if there is none.

    Raises:
        ValueError: the place holds another model's gallery, or something else.
    """
    if place is None:
        return Opened(MemoryStore(encoder.dimension), new_settings(encoder), None)
    if not is_server(place):
        return Opened(
            LanceStore(Path(place), encoder.dimension), settings_for(Path(place), encoder, writer), Path(place)
        )
    server = QdrantStore(str(place))
    if server.exists():
        settings = server.settings
        check_same(settings["model"], encoder, server.url, settings["name"])
        return Opened(server, settings, None)
    settings = new_settings(encoder)
    if writer:
        server.create(settings)
    return Opened(server, settings, None)


def keep_settings(store: VectorStore, settings: dict[str, Any], folder: Path | None) -> None:
    """Writes what a gallery says of itself to where it lies."""
    if folder is not None:
        write_settings(folder, settings)
    elif isinstance(store, QdrantStore):
        store.write_settings(settings)


__all__ = ["Opened", "Place", "keep_settings", "open_store", "place_of", "store_for"]
