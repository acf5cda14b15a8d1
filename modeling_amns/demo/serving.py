"""The page on an address of this machine, until it is told to stop."""

import contextlib
import errno
import html
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from ..extras import require
from ..retrieval.encoders import TorchEncoder
from .blocks import MAX_UPLOAD_BYTES, build, mounted, without_environment
from .limits import Door, remove_old
from .page import Page
from .searching import GallerySearch

# Of open connections; a page holds one or two.
_CONNECTIONS = 200
# Seconds that an upload is kept, and between two looks for older ones.
_KEPT, _TIDIED = 3300.0, 300.0
TITLE = "Find a person"


def listening(host: str, port: int) -> socket.socket:
    """A socket of an address.

    Raises:
        OSError: it is in use, not this machine's, or may not be taken; the text says what to do.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"A port is a number from 0 (any that is free) to 65535, found {port}.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(found[4][:2], family=found[0])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"Port {port} of {host} is in use; take another with --port, or 0 for any.") from error
        what = error.strerror or str(error)
        raise OSError(f"The page can't be served at {host}, port {port} ({what}); change --host or --port.") from error


@contextlib.contextmanager
def application(search: GallerySearch, loopback: bool = True) -> Iterator[Door]:
    """The page over a gallery as an ASGI application; its uploads lie in a folder that goes with it.

    Args:
        search: over the gallery.
        loopback: see `Door`.
    """
    gallery = search.gallery
    with tempfile.TemporaryDirectory(prefix="amns-demo-", ignore_cleanup_errors=True) as folder:
        before, over = os.environ.get("GRADIO_TEMP_DIR"), threading.Event()

        def tidy() -> None:
            while not over.wait(_TIDIED):
                remove_old(Path(folder), _KEPT)

        threading.Thread(target=tidy, daemon=True).start()
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            about = f"{len(gallery):,} images" + (f" of {gallery.source.name}" if gallery.source else "")
            page = Page(search, can_look=isinstance(gallery.encoder, TorchEncoder))
            with without_environment():
                app = mounted(build(page, html.escape(TITLE), about))
            yield Door(app, Path(folder), loopback, MAX_UPLOAD_BYTES)
        finally:
            over.set()
            search.close()
            os.environ.pop("GRADIO_TEMP_DIR")
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before


class Server(Protocol):
    """A server that has not begun: `run` serves until `should_exit` is set or a signal comes."""

    should_exit: bool

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves."""


def server(app: Door, ready: Callable[[], None] = lambda: None) -> Server:
    """The server of an application.

    Args:
        app: the application.
        ready: called once it answers.
    """
    uvicorn = require("uvicorn", "demo", "The demo page")

    class Announced(uvicorn.Server):  # type: ignore[name-defined]
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    return Announced(
        uvicorn.Config(
            app,
            log_level="critical",
            access_log=False,
            ws="none",
            limit_concurrency=_CONNECTIONS,
            # Open pages listen for news without end.
            timeout_graceful_shutdown=1,
        )
    )


__all__ = ["TITLE", "Server", "application", "listening", "server"]
