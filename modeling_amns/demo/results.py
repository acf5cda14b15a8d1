"""The page's own HTML: results, the image of a query, and lines. Every text in it is escaped."""

import html
from collections.abc import Callable, Mapping, Sequence

from ..retrieval.hits import Hit
from ..retrieval.pages import shown

# A value as long as a book would push all others off the page.
_LONGEST = 300


def results_html(
    hits: Sequence[Hit], thumbnail: Callable[[str], str], looks: Mapping[int, str], can_look: bool = True
) -> str:
    """A card for each hit, best first, with its image, score, path, metadata and buttons.

    Args:
        hits: best first.
        thumbnail: address of the picture of the image with this path; an error says why there is none.
        looks: address of the picture that stands in place of an image, by its place from 0.
        can_look: whether there is a button for that.
    """
    cards = []
    for place, hit in enumerate(hits):
        rank = place + 1
        looked = place in looks
        try:
            address = looks[place] if looked else thumbnail(hit.path)
            what = "what the model looks at in" if looked else "result"
            picture = f'<img alt="{_text(f"{what} {rank}: {hit.path}")}" src="{html.escape(address)}">'
            buttons = _button("like", place, "More like this", f"More like result {rank}")
        except (ValueError, OSError) as error:
            picture, buttons = f'<span class="gone">{_text(str(error))}</span>', ""
        if can_look and buttons:
            name = "Show the image" if looked else "Where it looks"
            buttons += _button("look", place, name, f"{name}, result {rank}")
        rows = "".join(
            f"<div><dt>{_text(name)}</dt><dd>{_text(shown(value))}</dd></div>" for name, value in hit.metadata.items()
        )
        cards.append(
            f'<li><div class="picture">{picture}</div><div class="text"><p><b>{rank}</b>'
            f'<span class="score" title="cosine of the angle between query and image">{hit.score:.3f}</span></p>'
            f'<p class="path">{_breaking(_text(hit.path))}</p>{f"<dl>{rows}</dl>" if rows else ""}</div>'
            f'<div class="buttons">{buttons}</div></li>'
        )
    return f'<ol class="hits">{"".join(cards)}</ol>' if cards else ""


def query_html(address: str, name: str) -> str:
    """The image of a query beside the sentence."""
    return f'<div class="query"><img alt="" src="{html.escape(address)}"><span>{_text(name)}</span></div>'


def line_html(text: str, failed: bool = False) -> str:
    """One line of text; an error stands out."""
    return f'<p class="{"failed" if failed else "note"}">{_text(" ".join(text.split()), 1000)}</p>' if text else ""


def _button(act: str, place: int, text: str, label: str) -> str:
    return f'<button type="button" data-act="{act}" data-place="{place}" aria-label="{_text(label)}">{text}</button>'


def _breaking(text: str) -> str:
    """A path that is broken at its joints rather than in the middle of a name."""
    return text.replace("/", "/<wbr>").replace("_", "_<wbr>")


def _text(value: str, longest: int = _LONGEST) -> str:
    value = value if len(value) <= longest else f"{value[: longest - 3]}..."
    # Names of files may hold halves of characters, which no page can.
    return html.escape("".join(letter if letter.isprintable() else " " for letter in value))


__all__ = ["line_html", "query_html", "results_html"]
