"""The page drawn by gradio. It reads no file and knows no model."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, Protocol

from ..extras import require
from .filters import ColumnFilter
from .limits import App
from .page import Page, Session
from .results import line_html
from .searching import EXAMPLE, MAX_RESULTS
from .style import CLICKS, CSS

# A photograph of a telephone has a quarter of it.
MAX_UPLOAD_BYTES = 20 * 2**20
# Questions that wait.
_WAITING = 20
EMPTY = "Describe the person you look for, or add an image, and press Search."


class _Event(Protocol):
    """What the page says of a click."""

    _data: object


def gradio() -> ModuleType:
    """gradio, told before it is imported to count nobody."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    return require("gradio", "demo", "The demo page")


def build(page: Page, title: str, about: str) -> object:
    """The page as gradio's blocks.

    Args:
        page: what happens.
        title, about: head of the page.
    """
    gr = gradio()
    private = {"api_visibility": "private", "show_progress": "minimal", "concurrency_limit": 1}
    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
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

        def clicked(event: _Event, session: Session, *rest: Any):
            data = event._data if isinstance(event._data, dict) else {}
            act, place = data.get("act"), data.get("place")
            shown = page.click(session, act, place)
            if shown is not None:
                session, text = shown
                return session, text, page.cards(session), gr.skip(), gr.skip(), gr.skip()
            assert isinstance(place, int)
            session, query = page.like(session, place)
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


def mounted(blocks: Any) -> App:  # noqa: ANN401  gradio's own kind, not known before it is imported
    """The blocks as an ASGI application, without what gradio puts around: no footer, no history, no sharing."""
    gr = gradio()
    system = [gr.themes.Font(name) for name in ("system-ui", "sans-serif")]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "monospace")]
    fastapi = require("fastapi", "demo", "The demo page")
    # Else gradio copies whatever file a question names; it looks at this only where it serves by itself.
    blocks.has_launched = True
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
            button_primary_background_fill_dark="*primary_700",
            button_primary_background_fill_hover="*primary_800",
            button_primary_background_fill_hover_dark="*primary_600",
            slider_color="*primary_700",
            input_placeholder_color="*neutral_500",
            input_placeholder_color_dark="*neutral_400",
        ),
        css=CSS,
    )


@contextlib.contextmanager
def without_environment() -> Iterator[None]:
    """What gradio would take from the environment without being asked."""
    kept = ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR")
    names = [name for name in os.environ if name.startswith("GRADIO_") and name not in kept]
    taken = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(taken)


__all__ = ["EMPTY", "MAX_UPLOAD_BYTES", "build", "gradio", "mounted", "without_environment"]
