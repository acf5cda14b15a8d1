"""One page on which a person decides pair by pair what an audit suspects, in a browser and without a server."""

import base64
import hashlib
import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from ..image_modes_amns import to_rgb
from ..retrieval.pages import jpeg_address
from .suspects import Suspect

if TYPE_CHECKING:
    from PIL import Image

# Width and height in pixels that a thumbnail is made no larger than; the page shows it at 208 or less.
THUMBNAIL, QUALITY = (192, 256), 70
_WORDS = {
    "image_rank": "its image is rank {} for its caption",
    "text_rank": "its caption is rank {} for its image",
    # A loss is named by what is asked with, a rank by what is found.
    "text_loss": "the loss of finding its image by its caption is {}",
    "image_loss": "the loss of finding its caption by its image is {}",
    "score": "in all, its loss is {} of a guess's",
    "moving_loss": "its loss averaged over the training run is {}",
    "teacher_score": "for the teacher of the run, its loss is {} of a guess's",
}
# Start of the names of scores of models that have not seen the pair.
_CROSS = "cross_"


def audit_sheet(
    suspects: Sequence[Suspect],
    read: "Callable[[str], Image.Image]",
    title: str,
    estimated_share: float | None = None,
) -> str:
    """One HTML page with everything in it, to be worked through with the keyboard: right, wrong or unsure.

    Nothing is asked of another place, and no script but the page's own runs. Decisions are kept by the browser, for
    these pairs only, and saved as a CSV file with the columns row, path, caption, decision.

    Args:
        suspects: most suspicious first; one for each row.
        read: the image with this path, as `Suspect.path` calls it; an error leaves its place empty.
        title: of the page: model and data.
        estimated_share: of all pairs, how many are likely wrong, between 0 and 1.

    >>> from PIL import Image
    >>> suspect = Suspect(7, "a.jpg", "a woman in red", 3, 0.9, {"image_rank": 812})
    >>> page = audit_sheet([suspect], lambda path: Image.new("RGB", (64, 128)), "market", estimated_share=0.21)
    >>> page[:15], "About 21.0 % of all pairs" in page
    ('<!doctype html>', True)
    """
    images: dict[str, str] = {}
    places: dict[str, int | None] = {}

    def place(path: str) -> int | None:
        """Which of the page's images it is; one that many pairs share is there once."""
        if path not in places:
            address = _thumbnail(path, read)
            places[path] = None if address is None else len(images)
            if address is not None:
                images[path] = address
        return places[path]

    pairs = [
        {
            "row": int(suspect.row),
            "path": suspect.path,
            "caption": suspect.caption,
            "person": str(suspect.person_id),
            "probability": round(float(suspect.probability), 4) if math.isfinite(suspect.probability) else None,
            "why": reasons(suspect.scores),
            "image": place(suspect.path),
            "better": None
            if suspect.better_path is None
            else {"path": suspect.better_path, "image": place(suspect.better_path)},
            "better_caption": suspect.better_caption,
        }
        for suspect in suspects
    ]
    known = json.dumps([[int(suspect.row), suspect.path, suspect.caption] for suspect in suspects])
    key = f"modeling_amns audit {hashlib.sha256(known.encode()).hexdigest()}"
    data = json.dumps({"key": key, "pairs": pairs, "images": list(images.values())}, ensure_ascii=False)
    style, script = _part("sheet.css"), _part("sheet.js")
    page = Template(_part("sheet.html")).substitute(
        policy=(
            f"default-src 'none'; img-src data:; style-src {_hashed(style)}; script-src {_hashed(script)}; "
            "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
        ),
        title=html.escape(title),
        summary=_summary(len(pairs), estimated_share),
        style=style,
        # Within a script only `<` could end it or open a comment.
        data=data.replace("<", "\\u003c"),
        script=script,
    )
    # Names of files may hold halves of characters, which no file can.
    return page.encode("utf-8", "replace").decode()


def reasons(scores: Mapping[str, float]) -> list[str]:
    """Why a pair is suspect, a line for each score; names that are not known are shown as they are.

    >>> reasons({"image_rank": 812.0, "text_loss": 7.314, "teacher": 0.25})
    ['its image is rank 812 for its caption', 'the loss of finding its image by its caption is 7.31', 'teacher: 0.25']
    >>> reasons({"cross_image_rank": 31.0})
    ['for a model that has not seen it, among its fold: its image is rank 31 for its caption']
    """
    lines = []
    for name, score in scores.items():
        value = f"{score:,.0f}" if name.endswith("_rank") and math.isfinite(score) else f"{score:.2f}"
        told = name.removeprefix(_CROSS)
        line = _WORDS[told].format(value) if told in _WORDS else f"{told}: {value}"
        lines.append(line if told == name else f"for a model that has not seen it, among its fold: {line}")
    return lines


def _summary(count: int, estimated_share: float | None) -> str:
    listed = f"{count:,} {'pair' if count == 1 else 'pairs'}, most suspicious first."
    if estimated_share is None or not math.isfinite(estimated_share):
        return listed
    return f"{listed} About {100 * estimated_share:.1f} % of all pairs of the set are estimated to be wrong."


def _thumbnail(path: str, read: "Callable[[str], Image.Image]") -> str | None:
    try:
        return jpeg_address(to_rgb(read(path)), THUMBNAIL, QUALITY)
    # What was there at the audit may be gone.
    except (OSError, ValueError, ImportError):
        return None


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    """A text as a policy names it: no other runs, or is taken for a style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


__all__ = ["audit_sheet", "reasons"]
