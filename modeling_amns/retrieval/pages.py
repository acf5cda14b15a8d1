"""Search results for people: lines in a terminal, one self-contained page, a picture, JSON."""

import base64
import datetime
import html
import io
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from .fragments import Fragment, cut_from
from .hits import Hit
from .recordings import shown_second

if TYPE_CHECKING:
    from PIL import Image

# Heights in pixels: of a page's thumbnails, twice what is shown, and of a picture's tiles.
THUMBNAIL, TILE = 384, 192
_GAP, _CAPTION, _LINE, _COLUMNS, _COLUMNS_OF_FRAMES = 12, 12, 16, 5, 3
# Around the person in a frame, on a white rim that shows on any ground.
BOX = (220, 30, 30)
# No script, nothing from anywhere else, whatever a name or a metadata value holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.25rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
header p { margin: 0 0 1.25rem; opacity: .7; overflow-wrap: anywhere; }
ol { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(11rem, 45%), 1fr));
  list-style: none; margin: 0; padding: 0; }
li { border: 1px solid #8884; border-radius: .5rem; overflow: hidden; }
.picture { align-items: center; background: #8882; display: flex; height: 12rem; justify-content: center; }
img { height: 100%; max-width: 100%; object-fit: contain; }
.frame { display: block; height: auto; width: 100%; }
.text { padding: .5rem .6rem .6rem; }
.rank { font-weight: 600; }
.score { float: right; font-variant-numeric: tabular-nums; opacity: .7; }
.path { font-size: .8rem; overflow-wrap: anywhere; }
dl { display: grid; font-size: .8rem; gap: 0 .5rem; grid-template-columns: auto 1fr; margin: .35rem 0 0; }
dt { opacity: .7; } dd { margin: 0; overflow-wrap: anywhere; }
"""


def as_lines(hits: Sequence[Hit]) -> str:
    """A line for each hit: rank, score, path, metadata.

    >>> print(as_lines([Hit("cam1/7.png", 0.4123, {"camera": "c1", "frame": 3}), Hit("x.png", 0.1)]))
     1  0.412  cam1/7.png  camera c1  frame 3
     2  0.100  x.png
    """
    told = [_told(hit) for hit in hits]
    names = {name: None for metadata in told for name in metadata}
    rows = [
        [
            _printable(hit.path),
            *(f"{name} {_printable(shown(metadata[name]))}" if name in metadata else "" for name in names),
        ]
        for hit, metadata in zip(hits, told)
    ]
    # A column is as wide as its widest value, one very long value apart.
    widths = [min(60, max(map(len, column))) for column in zip(*rows)]
    lines = []
    for rank, (hit, row) in enumerate(zip(hits, rows), start=1):
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths))
        lines.append(f"{rank:2d}  {hit.score:.3f}  {cells}".rstrip())
    return "\n".join(lines)


def as_json(hits: Sequence[Hit], place: Callable[[str], str]) -> str:
    """A list of objects with path, score and metadata; times in ISO form.

    Args:
        hits: best first.
        place: where the image with this path lies.
    """
    rows = [{"path": place(hit.path), "score": round(hit.score, 6), "metadata": hit.metadata} for hit in hits]
    return json.dumps(rows, indent=2, ensure_ascii=False, default=shown)


def as_html(
    hits: Sequence[Hit],
    title: str,
    subtitle: str,
    read: Callable[[str], "Image.Image"],
    frame: Callable[[str], "Image.Image | None"] = lambda path: None,
) -> str:
    """One page with everything in it: no script, no file or address beside it, every text escaped.

    Args:
        hits: best first.
        title: the query.
        subtitle: filter, gallery, model.
        read: the image with this path, upright RGB; an error leaves its place empty.
        frame: the whole frame that it was cut out of, with its box; `None` where it was not.
    """
    items = []
    for rank, hit in enumerate(hits, start=1):
        pairs = "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(shown(value))}</dd>" for name, value in _told(hit).items()
        )
        items.append(
            f'<li><div class="picture">{_thumbnail(hit, read)}</div>{_thumbnail(hit, frame, "frame")}'
            f'<div class="text"><span class="rank">{rank}</span>'
            f'<span class="score">{hit.score:.3f}</span><div class="path">{html.escape(_called(hit))}</div>'
            f"{f'<dl>{pairs}</dl>' if pairs else ''}</div></li>"
        )
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body><header>"
        f"<h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}</p></header>\n<ol>\n"
        + "\n".join(items)
        + "\n</ol></body></html>\n"
    )
    # Names of files may hold halves of characters, which no file can.
    return page.encode("utf-8", "replace").decode()


def as_sheet(
    hits: Sequence[Hit],
    title: str,
    read: Callable[[str], "Image.Image"],
    frame: Callable[[str], "Image.Image | None"] = lambda path: None,
) -> "Image.Image":
    """A picture: the images in rows, best first, with rank, score and path under each; arguments as `as_html`."""
    from PIL import Image, ImageDraw

    from ..fonts import font_for

    def drawn(hit: Hit) -> Image.Image:
        try:
            images = [found for found in (read(hit.path), frame(hit.path)) if found is not None]
        # What was there when it was embedded may be gone.
        except (OSError, ValueError, ImportError):
            return Image.new("RGB", (TILE // 2, TILE), "lightgrey")
        resized = [image.resize((max(1, round(TILE * image.width / image.height)), TILE)) for image in images]
        resized = [image.crop((0, 0, min(image.width, 2 * TILE), TILE)) for image in resized]
        beside = Image.new("RGB", (sum(image.width + 4 for image in resized) - 4, TILE), "white")
        left = 0
        for image in resized:
            beside.paste(image, (left, 0))
            left += image.width + 4
        return beside

    most = _COLUMNS_OF_FRAMES if any(Fragment.of(hit.path) for hit in hits) else _COLUMNS
    columns = min(most, max(1, len(hits)))
    tiles = [drawn(hit) for hit in hits]
    wide = max([150, *(tile.width for tile in tiles)])
    rows = -(-len(tiles) // columns)
    top = _GAP + 24
    tall = TILE + 2 * _LINE + _GAP
    sheet = Image.new("RGB", (_GAP + columns * (wide + _GAP), top + _GAP + rows * tall), "white")
    pen = ImageDraw.Draw(sheet)

    def write(place: tuple[float, float], text: str, size: int, width: int) -> None:
        font, text = font_for(_printable(text) or " ", size)
        if font.getlength(text) > width:
            while len(text) > 1 and font.getlength(f"{text} ...") > width:
                text = text[: -max(1, len(text) // 20)]
            text += " ..."
        pen.text(place, text, "black", font)

    write((_GAP, _GAP), title, 15, sheet.width - 2 * _GAP)
    for number, (hit, tile) in enumerate(zip(hits, tiles)):
        left, upper = _GAP + number % columns * (wide + _GAP), top + _GAP + number // columns * tall
        sheet.paste(tile, (left, upper))
        write((left, upper + TILE + 2), f"{number + 1}   {hit.score:.3f}", _CAPTION, wide)
        # The end of a path tells images apart.
        path = _called(hit)
        path = path if len(path) < 28 else f"... {path[-24:]}"
        write((left, upper + TILE + 2 + _LINE), path, _CAPTION, wide)
    return sheet


def read_file(root: Path | None) -> Callable[[str], "Image.Image"]:
    """A function that reads images by their path in a gallery of a folder; paths that leave it are a ValueError.

    A path that is a media fragment gives the person that was cut out there.
    """
    whole = _reader(root)

    def read(path: str) -> "Image.Image":
        image, found = whole(path)
        if found is None:
            return image
        left, top, width, height = found.box
        return image.crop((left, top, left + width, top + height))

    return read


def read_frame(root: Path | None) -> Callable[[str], "Image.Image | None"]:
    """As `read_file`, the whole frame with the person's box; `None` for an image that was not cut out of one."""
    whole = _reader(root)

    def read(path: str) -> "Image.Image | None":
        if Fragment.of(path) is None:
            return None
        image, found = whole(path)
        return None if found is None else with_box(image, found.box)

    return read


def with_box(frame: "Image.Image", box: tuple[int, int, int, int]) -> "Image.Image":
    """A copy of a frame in which a box is drawn: left, top, width, height in pixels."""
    from PIL import ImageDraw

    shown = frame.copy()
    pen, line = ImageDraw.Draw(shown), max(2, round(frame.height / 120))
    left, top, width, height = box
    for colour, grown in (("white", 2 * line), (BOX, line)):
        corners = (left - grown, top - grown, left + width - 1 + grown, top + height - 1 + grown)
        pen.rectangle(corners, outline=colour, width=line)
    return shown


def _reader(root: Path | None) -> "Callable[[str], tuple[Image.Image, Fragment | None]]":
    """Reads a whole image or frame, and says which part of it is meant."""

    # The crop and its frame are asked for one after the other.
    @lru_cache(maxsize=1)
    def whole(source: str, second: float | None) -> "Image.Image":
        from ..data.images import decode_image
        from .recordings import open_recording

        if second is None:
            return decode_image({"path": source, "bytes": None})
        with open_recording(source) as recording:
            return recording.at(second)

    def read(path: str) -> "tuple[Image.Image, Fragment | None]":
        if root is not None and (Path(path).is_absolute() or ".." in Path(path).parts):
            raise ValueError(f"{path} leaves {root}, the folder of the gallery's images.")
        found = cut_from(root, path)
        source, second = (path, None) if found is None else (found.source, found.second)
        return whole(str((root or Path()) / source), second), found

    return read


def shown(value: object) -> str:
    """A metadata value as people read it."""
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _called(hit: Hit) -> str:
    """A path as people read it: the file, and when in it."""
    found = Fragment.of(hit.path)
    if found is None or "source" not in hit.metadata:
        return hit.path
    return found.source if found.second is None else f"{found.source} {shown_second(found.second)}"


def _told(hit: Hit) -> dict[str, object]:
    """The metadata that the path does not say already."""
    said = ("source", "second", "box") if Fragment.of(hit.path) else ()
    return {name: value for name, value in hit.metadata.items() if name not in said}


def _thumbnail(hit: Hit, read: "Callable[[str], Image.Image | None]", kind: str = "crop") -> str:
    try:
        image = read(hit.path)
    except (OSError, ValueError, ImportError):
        return "can't be read" if kind == "crop" else ""
    if image is None:
        return ""
    source = jpeg_address(image, (2 * THUMBNAIL, THUMBNAIL), quality=85)
    return f'<img class="{kind}" alt="{html.escape(hit.path)}" src="{source}">'


def jpeg_address(image: "Image.Image", size: tuple[int, int], quality: int) -> str:
    """An image as a `data:` address of a JPEG, without what its file said.

    Args:
        image: RGB.
        size: width and height in pixels that it is made no larger than.
        quality: of the JPEG, as Pillow counts it.
    """
    image = image.copy()
    image.thumbnail(size)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _printable(text: str) -> str:
    """A text without what steers a terminal."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in text
    )


__all__ = [
    "as_html",
    "as_json",
    "as_lines",
    "as_sheet",
    "jpeg_address",
    "read_file",
    "read_frame",
    "shown",
    "with_box",
]
