"""`amns demo`: a page that searches a gallery."""

import argparse
import signal
import sys

from ..retrieval.options import place

PORT = 7860


def add_demo(parser: argparse.ArgumentParser) -> None:
    """The options of `amns demo`."""
    parser.add_argument("folder", type=place, help="folder of images that is indexed; or a gallery")
    parser.add_argument(
        "--gallery", type=place, metavar="DIR", help="where the gallery lies, default .amns in the folder"
    )
    parser.add_argument("--model", help="checkpoint's folder, id on the Hub, or an exported model's folder")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve at; any but 127.0.0.1 shows the images to others"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0 takes any that is free")
    parser.add_argument(
        "--follow_links", action="store_true", help="show images behind links that leave the gallery's folder"
    )


def demo(options: argparse.Namespace) -> int:
    """Serves the page until it is stopped."""
    from ..stops import Stops

    stops = Stops()
    try:
        with stops:
            return _serve(options)
    except KeyboardInterrupt:
        print(f"{options.program}: stopped.", file=sys.stderr)
        return 128 + (stops.received or signal.SIGINT)


def _serve(options: argparse.Namespace) -> int:
    from ..retrieval.commands import open_gallery

    gallery = open_gallery(options.folder, options.gallery, options.model)
    from .blocks import gradio
    from .limits import is_loopback
    from .searching import GallerySearch
    from .serving import application, listening, server

    gradio()
    loopback = is_loopback(options.host)
    with listening(options.host, options.port) as bound:
        # Read now: the first question need not wait, and a wrong model is said at once.
        encoder = gallery.encoder
        encoder.embed_texts(["a person"])
        host, port = bound.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"

        def ready() -> None:
            print(f"{options.program}: {len(gallery):,} images at {address}; Ctrl-C ends it.", file=sys.stderr)
            if not loopback:
                print(f"{options.program}: whoever reaches {host} sees them; there is no password.", file=sys.stderr)

        with application(GallerySearch(gallery, options.follow_links), loopback) as app:
            server(app, ready).run(sockets=[bound])
    return 0


__all__ = ["PORT", "add_demo", "demo"]
