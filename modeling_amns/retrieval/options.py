"""The options of `amns index` and `amns search`, which import nothing that `--help` would wait for."""

import argparse
from pathlib import Path

# In the folder of images; hidden, so that it is not taken for one of theirs.
HIDDEN = ".amns"
# As of `captions_amns`, which a query of an exported model need not wait for.
_LONG_CAPTIONS = ("cut", "refuse", "windows")


def place(text: str) -> Path | str:
    """As `opening.place_of`."""
    from .opening import place_of

    return place_of(text)


def add_index(parser: argparse.ArgumentParser) -> None:
    """The options of `amns index`."""
    _add_place(parser)
    _add_building(parser)


def add_search(parser: argparse.ArgumentParser) -> None:
    """The options of `amns search`."""
    _add_place(parser)
    parser.add_argument("sentence", nargs="?", help="what to search for")
    query = parser.add_argument_group("Query: its parts are added up, each as a vector of length 1")
    query.add_argument("--image", action="append", default=[], metavar="FILE", help="an image to add")
    query.add_argument("--add", action="append", default=[], metavar="SENTENCE", help="another sentence to add")
    query.add_argument("--subtract", action="append", default=[], metavar="SENTENCE", help="a sentence to take away")
    query.add_argument("--subtract_image", action="append", default=[], metavar="FILE", help="an image to take away")
    query.add_argument(
        "--long_captions", choices=_LONG_CAPTIONS, help="sentences longer than the model reads; default the model's"
    )
    query.add_argument("-k", type=int, default=10, help="how many images, default 10")
    query.add_argument(
        "--where", metavar="FILTER", help="only images whose metadata fit, e.g. \"camera = 'c3' AND person_id < 9\""
    )
    query.add_argument("--group_by", metavar="COLUMN", help="the best image of each value, e.g. of each person_id")
    way = query.add_mutually_exclusive_group()
    way.add_argument("--exact", action="store_true", help="compare every vector, however many there are")
    way.add_argument("--approximate", action="store_true", help="ask the index, however few there are")
    query.add_argument(
        "--int8",
        action="store_true",
        help="read the query with an exported model's quantised encoder: a quicker start",
    )
    output = parser.add_argument_group("Output")
    kind = output.add_mutually_exclusive_group()
    kind.add_argument("--json", action="store_true", help="print path, score and metadata as JSON")
    kind.add_argument("--paths", action="store_true", help="print paths alone, a line each")
    output.add_argument("--html", metavar="FILE", help="also write one page with everything in it")
    output.add_argument("--sheet", metavar="FILE", help="also write a picture of the images found")
    building = _add_building(parser)
    building.add_argument("--no_index", action="store_true", help="search what is indexed, look for no new images")


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=place, help="folder of images, read with its sub-folders; a gallery; a recording"
    )
    parser.add_argument(
        "--gallery",
        type=place,
        metavar="DIR",
        help=f"where the gallery lies, default {HIDDEN} in the folder; or qdrant://HOST:6333/COLLECTION on a server",
    )
    parser.add_argument("--model", help="checkpoint's folder, id on the Hub, or an exported model's folder")


def _add_building(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    building = parser.add_argument_group("Index")
    building.add_argument(
        "--metadata", metavar="FILE", help="CSV, TSV, JSON, JSONL or Parquet with a column path and any others"
    )
    building.add_argument("--batch_size", type=int, default=64, help="images at a time")
    building.add_argument("--num_workers", type=int, default=0, help="processes that decode images")
    frames = parser.add_argument_group("Whole frames and recordings: each person is cut out; a gallery remembers how")
    frames.add_argument("--detect", metavar="MODEL", help="object detection checkpoint: folder or id on the Hub")
    frames.add_argument("--label", help="what it calls a person, default person")
    frames.add_argument("--threshold", type=float, help="lowest score of a detection, default 0.5")
    frames.add_argument("--min_height", type=int, metavar="PIXELS", help="lowest height of a person, default 64")
    frames.add_argument("--every", type=float, metavar="SECONDS", help="between two frames of a recording, default 1")
    return building


__all__ = ["HIDDEN", "add_index", "add_search", "place"]
