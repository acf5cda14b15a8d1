"""The page itself, in gradio: asks, shows, remembers what it shows. It reads no file and knows no model."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ..extras import require
from ..retrieval.hits import Hit
from .filters import ColumnFilter
from .results import line_html, query_html, results_html
from .searching import EXAMPLE, MAX_RESULTS, GallerySearch, Question
from .style import CLICKS, CSS

# A photograph of a telephone has a quarter of it.
MAX_UPLOAD_BYTES = 20 * 2**20
# Questions that wait; seconds that uploads are kept.
_WAITING, _KEPT = 20, 3600
EMPTY = "Describe the person you look for, or add an image, and press Search."


@dataclass
class Session:
    """What one open page shows: its results, where the model looks in some of them, and the image of its query.

    Args:
        hits: best first.
        looks: pictures that stand in place of images, by their place.
        upload: file and its own name; `like`: path in the gallery. At most one of both.
    """

    hits: list[Hit] = field(default_factory=list)
    looks: dict[int, str] = field(default_factory=dict)
    upload: tuple[str, str] | None = None
    like: str | None = None


class Page:
    """What happens on a page, event by event; each returns what the parts of the page become.

    Args:
        search: answers its questions.
        can_look: whether the model can say where it looks.
    """

    def __init__(self, search: GallerySearch, can_look: bool = True):
        self.search, self.can_look = search, can_look

    def find(self, session: Session, sentence: str, count: float, group_by: str | None, expression: str, *chosen: Any):
        """Searches; returns session, line and results."""
        question = Question(
            sentence or "", session.upload, session.like, int(count or 0), group_by or None, expression or ""
        )
        answer = self.search.ask(replace(question, chosen=paired(self.search.filters, chosen)))
        session = replace(session, hits=answer.hits, looks={})
        return session, line_html(answer.line, answer.failed), self._cards(session)

    def click(self, session: Session, act: object, place: object) -> tuple[Session, str] | None:
        """A button of a card: what is shown then and a line about it; `None` where a search follows.

        The page names a place among what it was shown, never a path.
        """
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(session.hits):
            return session, line_html("The results are no longer there; search again.", failed=True)
        if act == "like":
            return None
        if place in session.looks:
            looks = {other: address for other, address in session.looks.items() if other != place}
            return replace(session, looks=looks), ""
        try:
            address = self.search.look(session.hits[place].path)
        except (ValueError, OSError) as error:
            return session, line_html(str(error), failed=True)
        line = f"In result {place + 1} the orange patches are those that the model attends to."
        return replace(session, looks={**session.looks, place: address}), line_html(line)

    def like(self, session: Session, place: int) -> tuple[Session, str]:
        """Makes a result the image of the query; returns session and the query's picture."""
        self.forget(session)
        path = session.hits[place].path
        return replace(session, upload=None, like=path), query_html(self.search.pictures.thumbnail(path), path)

    def upload(self, session: Session, file: str | None) -> tuple[Session, str, str]:
        """A file that was sent becomes the image of the query; returns session, the query's picture and a line."""
        self.forget(session)
        session = replace(session, upload=None, like=None)
        if not file:
            return session, "", ""
        name = Path(file).name
        try:
            picture = query_html(self.search.preview(file, name), name)
        except (ValueError, OSError) as error:
            _remove(file)
            return session, "", line_html(str(error), failed=True)
        return replace(session, upload=(str(file), name)), picture, ""

    def forget(self, session: Session) -> Session:
        """Removes the image of the query, its file too."""
        if session.upload is not None:
            _remove(session.upload[0])
        return replace(session, upload=None, like=None)

    def _cards(self, session: Session) -> str:
        return results_html(session.hits, self.search.pictures.thumbnail, session.looks, self.can_look)

    def cards(self, session: Session) -> str:
        """The results as they stand."""
        return self._cards(session)


def paired(filters: Sequence[ColumnFilter], values: Sequence[Any]) -> list[Any]:
    """The values of the page's parts, a filter each: a range has two parts."""
    rest = iter(values)
    return [[next(rest, None), next(rest, None)] if one.way == "range" else next(rest, None) for one in filters]


def _remove(file: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(file)


def gradio() -> ModuleType:
    """gradio, told before it is imported to count nobody."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    return require("gradio", "demo", "The demo page")


def build(page: Page, title: str, about: str) -> Any:
    """The page as gradio's blocks.

    Args:
        page: what happens.
        title, about: head of the page.
    """
    gr = gradio()
    private = {"api_visibility": "private", "show_progress": "minimal", "concurrency_limit": 1}
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(_KEPT // 4, _KEPT)) as blocks:
        session = gr.State(Session())
        gr.HTML(
            f"<h1>{title}</h1>{line_html(about)}", elem_classes="amns-head", apply_default_css=False, js_on_load=None
        )
        with gr.Row(elem_classes="amns-ask"):
            sentence = gr.Textbox(label="Who are you looking for?", placeholder=EXAMPLE, scale=6, min_width=240)
            button = gr.Button("Search", variant="primary", scale=1, min_width=110)
        with gr.Row(elem_classes="amns-image"):
            upload = gr.UploadButton("Add an image", file_types=["image"], elem_id="upload")
            picture = gr.HTML(visible=False, apply_default_css=False, js_on_load=None)
            remove = gr.Button("Remove image", visible=False)
        with gr.Accordion("Filters and number of results", open=False):
            with gr.Row():
                count = gr.Slider(1, MAX_RESULTS, value=12, step=1, label="Results at most", min_width=240)
                groups = [("all images", ""), *((f"the best of each {name}", name) for name in page.search.groups)]
                group_by = gr.Dropdown(groups, value="", label="Show", min_width=240)
            chosen = _filter_parts(gr, page.search.filters)
            columns = ", ".join(["path", *page.search.gallery.columns])
            expression = gr.Textbox(label="Filter as an expression", placeholder=_example(page), info=f"On {columns}.")
        line = gr.HTML(
            html_template='<div role="status" aria-live="polite">${value}</div>',
            value=line_html(EMPTY),
            elem_classes="amns-line",
            apply_default_css=False,
            js_on_load=None,
        )
        results = gr.HTML("", elem_id="results", apply_default_css=False, js_on_load=CLICKS)

        asked = [session, sentence, count, group_by, expression, *chosen]
        found = [session, line, results]
        gr.on([sentence.submit, button.click, expression.submit], page.find, asked, found, **private)

        def clicked(event: Any, session: Session, *rest: Any):
            data = event._data if isinstance(event._data, dict) else {}
            act, place = data.get("act"), data.get("place")
            shown = page.click(session, act, place)
            if shown is not None:
                session, text = shown
                return session, text, page.cards(session), gr.skip(), gr.skip(), gr.skip()
            session, query = page.like(session, int(place))
            # Of the same, whatever was written before; who writes again asks for both.
            session, text, cards = page.find(session, "", *rest[1:])
            return session, text, cards, "", gr.HTML(query, visible=True), gr.Button(visible=True)

        # gradio finds by it which argument is the event; its name is not known before it is imported.
        clicked.__annotations__["event"] = gr.EventData
        results.click(clicked, asked, [*found, sentence, picture, remove], **private)

        def uploaded(session: Session, file: str | None):
            session, query, text = page.upload(session, file)
            visible = bool(query)
            return session, text or line_html(EMPTY), gr.HTML(query, visible=visible), gr.Button(visible=visible)

        upload.upload(uploaded, [session, upload], [session, line, picture, remove], **private)

        def removed(session: Session):
            return page.forget(session), gr.HTML("", visible=False), gr.Button(visible=False)

        remove.click(removed, [session], [session, picture, remove], **private)
    blocks.queue(max_size=_WAITING, default_concurrency_limit=1, api_open=False)
    return blocks


def _filter_parts(gr: ModuleType, filters: Sequence[ColumnFilter]) -> list[Any]:
    parts = []
    for start in range(0, len(filters), 4):
        with gr.Row():
            for one in filters[start : start + 4]:
                if one.way == "choices":
                    parts.append(gr.Dropdown(list(one.choices), multiselect=True, label=one.name, min_width=200))
                elif one.way == "part":
                    parts.append(gr.Textbox(label=f"{one.name} contains", min_width=200))
                else:
                    for end in ("from", "to"):
                        hint = "2026-11-25 08:00" if one.kind == "time" else ""
                        parts.append(gr.Textbox(label=f"{one.name} {end}", placeholder=hint, min_width=140))
    return parts


def _example(page: Page) -> str:
    for one in page.search.filters:
        if one.way == "choices":
            return f"{one.name} = '{one.choices[0]}'"
    return "path LIKE 'cam1/%'"


def mounted(blocks: Any) -> Callable[..., Any]:
    """The blocks as an ASGI application with nothing of gradio's own around them: no footer, no history, no sharing."""
    gr = gradio()
    system = [gr.themes.Font(name) for name in ("system-ui", "sans-serif")]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "monospace")]
    fastapi = require("fastapi", "demo", "The demo page")
    with _without_environment():
        return gr.mount_gradio_app(
            fastapi.FastAPI(openapi_url=None),
            blocks,
            path="",
            footer_links=[],
            run_history=False,
            allowed_paths=[],
            show_error=False,
            max_file_size=MAX_UPLOAD_BYTES,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            theme=gr.themes.Base(primary_hue="orange", neutral_hue="stone", font=system, font_mono=mono).set(
                # White on the hue's own 500 is hard to read.
                button_primary_background_fill="*primary_700",
                button_primary_background_fill_hover="*primary_800",
                slider_color="*primary_700",
            ),
            css=CSS,
        )


@contextlib.contextmanager
def _without_environment() -> Iterator[None]:
    """What gradio would take from the environment without being asked."""
    kept = ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR")
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("GRADIO_") and name not in kept}
    try:
        yield
    finally:
        os.environ.update(taken)


__all__ = ["EMPTY", "MAX_UPLOAD_BYTES", "Page", "Session", "build", "gradio", "mounted", "paired"]
