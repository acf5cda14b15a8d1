"""Search results for people: lines in a terminal, one self-contained page, a picture, JSON."""

import base64
import datetime
import html
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .hits import Hit

if TYPE_CHECKING:
    from PIL import Image

# Heights in pixels: of a page's thumbnails, twice what is shown, and of a picture's tiles.
THUMBNAIL, TILE = 384, 192
_GAP, _CAPTION, _LINE, _COLUMNS = 12, 12, 16, 5
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
    names = {name: None for hit in hits for name in hit.metadata}
    rows = [
        [
            _printable(hit.path),
            *(f"{name} {_printable(shown(hit.metadata[name]))}" if name in hit.metadata else "" for name in names),
        ]
        for hit in hits
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


def as_html(hits: Sequence[Hit], title: str, subtitle: str, read: Callable[[str], "Image.Image"]) -> str:
    """One page with everything in it: no script, no file or address beside it, every text escaped.

    Args:
        hits: best first.
        title: the query.
        subtitle: filter, gallery, model.
        read: the image with this path, upright RGB; an error leaves its place empty.
    """
    items = []
    for rank, hit in enumerate(hits, start=1):
        pairs = "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(shown(value))}</dd>" for name, value in hit.metadata.items()
        )
        items.append(
            f'<li><div class="picture">{_thumbnail(hit, read)}</div><div class="text"><span class="rank">{rank}</span>'
            f'<span class="score">{hit.score:.3f}</span><div class="path">{html.escape(hit.path)}</div>'
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


def as_sheet(hits: Sequence[Hit], title: str, read: Callable[[str], "Image.Image"]) -> "Image.Image":
    """A picture: the images in rows, best first, with rank, score and path under each."""
    from PIL import Image, ImageDraw

    from ..fonts import font_for

    columns = min(_COLUMNS, max(1, len(hits)))
    tiles = []
    for hit in hits:
        try:
            image = read(hit.path)
            image = image.resize((max(1, round(TILE * image.width / image.height)), TILE))
        # What was there when it was embedded may be gone.
        except (OSError, ValueError):
            image = Image.new("RGB", (TILE // 2, TILE), "lightgrey")
        tiles.append(image.crop((0, 0, min(image.width, 2 * TILE), TILE)))
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
        path = hit.path if len(hit.path) < 28 else f"... {hit.path[-24:]}"
        write((left, upper + TILE + 2 + _LINE), path, _CAPTION, wide)
    return sheet


def read_file(root: Path | None) -> Callable[[str], "Image.Image"]:
    """A function that reads images by their path in a gallery of a folder; paths that leave it are a ValueError."""

    def read(path: str) -> "Image.Image":
        from ..data.images import decode_image

        if root is not None and (Path(path).is_absolute() or ".." in Path(path).parts):
            raise ValueError(f"{path} leaves {root}, the folder of the gallery's images.")
        return decode_image({"path": str((root or Path()) / path), "bytes": None})

    return read


def shown(value: object) -> str:
    """A metadata value as people read it."""
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _thumbnail(hit: Hit, read: Callable[[str], "Image.Image"]) -> str:
    try:
        image = read(hit.path)
    except (OSError, ValueError):
        return "can't be read"
    image.thumbnail((2 * THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    source = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{html.escape(hit.path)}" src="data:image/jpeg;base64,{source}">'


def _printable(text: str) -> str:
    """A text without what steers a terminal."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in text
    )


__all__ = ["as_html", "as_json", "as_lines", "as_sheet", "read_file", "shown"]
