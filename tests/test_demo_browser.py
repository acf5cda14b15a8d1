"""The demo page in a real browser without a window, and its server as a stranger asks it.

`pip install -e ".[browser]"`; Debian's chromium or the browser of `playwright install chromium`. Without them skipped.
"""

import contextlib
import http.client
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import tiny_retrieval_model
from outside import host_of
from PIL import Image

from modeling_amns import PersonGallery
from modeling_amns.demo import limits
from modeling_amns.demo.limits import Door
from modeling_amns.demo.searching import GallerySearch
from modeling_amns.demo.serving import application, listening, server

pytest.importorskip("gradio", reason='the page needs the extra "demo"')

NASTY = "{{7*7}}${7*7}<img src=x onerror=window.broken=1>"
HERE = ("127.0.0.1", "localhost", "::1")
outside: list[str] = []


def watch(event, arguments):
    """Notes every address beyond this machine that this process looks for."""
    host = host_of(event, arguments)
    if host is not None and (host.decode() if isinstance(host, bytes) else host) not in HERE:
        outside.append(str(host))


@pytest.fixture(scope="module")
def gallery(tmp_path_factory, processor) -> PersonGallery:
    folder = tmp_path_factory.mktemp("page")
    draw = np.random.default_rng(0)
    (folder / "photos" / "cam").mkdir(parents=True)
    for number in range(9):
        pixels = draw.integers(0, 255, (64, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / "cam" / f"{number}.png")
    shutil.copy(folder / "photos" / "cam" / "8.png", folder / "photos" / f"{NASTY}.png".replace("/", "_"))
    Image.fromarray(pixels[::-1].copy()).save(folder / "secret.png")
    (folder / "photos" / "link.png").symlink_to(folder / "secret.png")
    rows = [{"path": f"cam/{number}.png", "camera": f"c{number % 2}", "frame": number * 10.5} for number in range(9)]
    rows[0]["note"], rows[1]["note"] = NASTY, "plain"
    model = tiny_retrieval_model(processor).amns.eval()
    return PersonGallery.from_images(model, processor, folder / "photos", rows)


@contextlib.contextmanager
def serving(gallery):
    with listening("127.0.0.1", 0) as bound, application(GallerySearch(gallery)) as app:
        ready = threading.Event()
        page = server(app, ready.set)
        thread = threading.Thread(target=page.run, args=([bound],), daemon=True)
        thread.start()
        assert ready.wait(60)
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}", app
        finally:
            page.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def site(gallery):
    sys.addaudithook(watch)
    with pytest.MonkeyPatch.context() as patch:
        # What gradio would do if it were asked.
        patch.setenv("GRADIO_ROOT_PATH", "https://example.org/page")
        patch.setenv("GRADIO_ALLOWED_PATHS", "/")
        with serving(gallery) as served:
            yield served
    assert not outside, outside


@pytest.fixture
def page(site, browser):
    """An open page; whatever it asks of another host, and each error of its scripts, fails the test."""
    strange, errors = [], []

    def check(route):
        address = urlsplit(route.request.url)
        if address.scheme in ("data", "blob") or address.hostname == "127.0.0.1":
            return route.continue_()
        strange.append(route.request.url)
        route.abort()

    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.route("**/*", check)
    opened = context.new_page()
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    opened.set_default_timeout(30_000)
    opened.goto(site[0])
    opened.get_by_label("Who are you looking for?").wait_for()
    yield opened
    assert opened.evaluate("window.broken") is None
    context.close()
    assert not strange and not errors, (strange, errors)


def ask(page, sentence):
    page.get_by_label("Who are you looking for?").fill(sentence)
    page.get_by_role("button", name="Search", exact=True).click()


def wait_for(page, text):
    page.locator(".amns-line").get_by_text(text).wait_for()


def shown(page) -> list[tuple[str, str]]:
    """Paths and scores of the results."""
    return list(zip(page.locator(".hits .path").all_inner_texts(), page.locator(".hits .score").all_inner_texts()))


def as_shown(hits) -> list[tuple[str, str]]:
    return [(hit.path, f"{hit.score:.3f}") for hit in hits]


def choose(page, file):
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add an image").click()
    chooser.value.set_files(file)


def test_a_sentence_finds_what_the_gallery_finds_and_filters_narrow_it(page, gallery):
    ask(page, "a man in a red coat")
    wait_for(page, "11 images, best first.")
    found = gallery.search("a man in a red coat", k=12)
    assert shown(page) == as_shown(found)
    # Names, metadata and templates in them are text; what a link leads out to is not shown.
    assert page.get_by_text(NASTY).count() == 2 and page.locator(".hits .picture img").count() == 10
    assert page.get_by_text("a link that leaves the gallery's folder").count() == 1
    page.get_by_role("button", name="Filters and number of results").click()
    page.get_by_label("frame from").fill("20")
    page.get_by_role("combobox", name="camera").click()
    page.get_by_role("option", name="c1").click()
    page.get_by_role("button", name="Search", exact=True).click()
    wait_for(page, "3 images, best first.")
    where = "camera = 'c1' AND frame >= 20"
    assert shown(page) == as_shown(gallery.search("a man in a red coat", k=12, where=where))
    page.get_by_label("Filter as an expression").fill("colour = 'red'")
    page.get_by_label("Filter as an expression").press("Enter")
    wait_for(page, "the gallery has no column colour; it has path, camera, frame, note.")
    assert not shown(page)


def test_a_click_searches_for_more_of_the_same_and_shows_where_the_model_looks(page, gallery):
    ask(page, "a boy")
    wait_for(page, "11 images")
    first = shown(page)[0][0]
    before = page.locator(".hits img").first.get_attribute("src")
    page.get_by_role("button", name="Where it looks, result 1", exact=True).click()
    wait_for(page, "In result 1 the orange patches are those that the model attends to.")
    assert page.locator(".hits img").first.get_attribute("src") != before
    page.get_by_role("button", name="Show the image, result 1", exact=True).click()
    page.get_by_role("button", name="Where it looks, result 1", exact=True).wait_for()
    assert page.locator(".hits img").first.get_attribute("src") == before
    page.get_by_role("button", name="More like result 1", exact=True).click()
    page.locator(".query").wait_for()
    assert page.locator(".query").inner_text() == first and shown(page)[0] == (first, "1.000")
    # With a sentence beside it both count.
    ask(page, "a blue dress")
    wait_for(page, "11 images")
    page.wait_for_function("document.querySelector('.hits .score').innerText != '1.000'")
    assert shown(page) == as_shown(gallery.search("a blue dress", gallery.source / first, 12))
    page.get_by_role("button", name="Remove image").click()
    page.locator(".query").wait_for(state="detached")


def test_what_can_not_be_searched_is_one_line(page):
    ask(page, "   ")
    wait_for(page, 'Describe the person, such as "a woman in a red coat with a black backpack", or add an image.')
    ask(page, "a red coat " * 455)
    wait_for(page, "is longer than the model reads")
    assert len(shown(page)) == 11
    ask(page, "🙂")
    page.wait_for_function("document.querySelector('.amns-line .note')?.innerText == '11 images, best first.'")


def test_images_are_sent_and_what_is_none_is_refused(page, gallery, site, tmp_path):
    image, text, huge = tmp_path / "seen.png", tmp_path / "text.jpg", tmp_path / "huge.jpg"
    Image.radial_gradient("L").convert("RGB").save(image)
    text.write_text("no image")
    huge.write_bytes(os.urandom(2**20) * 40)
    choose(page, text)
    wait_for(page, "text.jpg can't be read as an image: it is no image that is read; expected JPEG")
    choose(page, huge)
    page.get_by_text("maximum allowed size of 20").wait_for()
    assert not page.locator(".query").count()
    choose(page, image)
    page.locator(".query").wait_for()
    assert page.locator(".query").inner_text() == "seen.png"
    ask(page, "")
    wait_for(page, "11 images")
    assert shown(page) == as_shown(gallery.search(image=image, k=12))
    kept = [file for file in site[1].uploads.rglob("*") if file.is_file() and file.stat().st_size]
    assert [file.read_bytes() for file in kept] == [image.read_bytes()]
    page.get_by_role("button", name="Remove image").click()
    page.locator(".query").wait_for(state="detached")
    assert not kept[0].exists()


@pytest.mark.parametrize("width, columns", [(390, 2), (1280, 6)])
def test_the_page_fits_its_window_and_everything_on_it_has_a_name(page, width, columns):
    page.set_viewport_size({"width": width, "height": 844})
    ask(page, "a woman with a small handbag and white shoes")
    wait_for(page, "11 images")
    page.get_by_role("button", name="Filters and number of results").click()
    page.get_by_label("frame from").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    style = "getComputedStyle(document.querySelector('.hits')).gridTemplateColumns.split(' ').length"
    assert page.evaluate(style) == columns
    nameless = """() => [...document.querySelectorAll("button, input, textarea, [role=listbox]")].filter((one) =>
        one.checkVisibility() && one.getBoundingClientRect().width > 2 && !(one.innerText || "").trim()
        && !one.ariaLabel && !one.title && !(one.labels && one.labels.length) && !one.closest("label")
        && !one.getAttribute("aria-labelledby")).map((one) => one.outerHTML)"""
    assert page.evaluate(nameless) == []
    small = """() => [...document.querySelectorAll(".hits button, .amns-ask button, .amns-image button")]
        .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 43).length"""
    assert page.evaluate(small) == 0 and page.locator("h1").count() == 1


def request(site, method, path, body=None, **headers):
    """As typed, without a client that tidies the path."""
    connection = http.client.HTTPConnection(urlsplit(site[0]).netloc, timeout=30)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


@pytest.mark.parametrize("root", ["/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/"])
def test_no_file_of_the_machine_is_served(site, gallery, root):
    folder = gallery.source
    for path in (folder / "cam" / "0.png", folder / "link.png", folder.parent / "secret.png", Path("/etc/passwd")):
        for written in (str(path), f"../../../../../..{path}", f"..%2f..%2f..{path}", f"/{path}", f"%2e%2e/{path}"):
            status, body, _ = request(site, "GET", root + written)
            assert status == 404 and b"PNG" not in body and b"root:" not in body, written


def test_a_question_can_not_name_a_file_of_the_machine(site, gallery, monkeypatch):
    """As the page asks, with a path in the place of an upload."""
    config = json.loads(request(site, "GET", "/config")[1])
    (upload,) = [one["id"] for one in config["dependencies"] if any(event == "upload" for _, event in one["targets"])]
    secret = gallery.source.parent / "secret.png"

    def asked(path):
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}, "orig_name": "x.png"}
        question = {"data": [None, file], "fn_index": upload, "session_hash": "stranger", "trigger_id": 1}
        kind = {"Content-Type": "application/json"}
        return request(site, "POST", "/gradio_api/queue/join", json.dumps(question), **kind)[:2]

    inside = f"{site[1].uploads}/../{gallery.source.parent.name}/secret.png"
    for path in (secret, gallery.source / "link.png", "/etc/passwd", inside, "http://192.0.2.1/x.png", "a\0b"):
        assert asked(path) == (403, b"A file is named that was not sent."), path
    # Without the door gradio's own check holds.
    monkeypatch.setattr(limits, "names_only", lambda body, folder: True)
    assert asked(secret)[0] == 200
    said = request(site, "GET", "/gradio_api/queue/data?session_hash=stranger")[1].decode()
    assert '"success":false' in said and "data:image" not in said
    assert not list(site[1].uploads.rglob("secret*"))


def test_the_server_refuses_what_is_too_much(site):
    assert request(site, "POST", "/gradio_api/upload", b"x", **{"Content-Length": str(40 * 2**20)})[0] == 413
    assert request(site, "GET", "/", Host="evil.example")[0] == 403
    status, _, headers = request(site, "GET", "/")
    assert status == 200 and "default-src 'self'" in headers["content-security-policy"] and isinstance(site[1], Door)
