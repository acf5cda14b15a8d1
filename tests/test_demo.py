"""What the demo page asks, shows and refuses, without a browser; the page itself is in test_demo_browser.py."""

import asyncio
import contextlib
import datetime
import html
import os
import runpy
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import tiny_retrieval_model
from gallery_double import Counting
from hub_double import TOKEN, HubDouble
from huggingface_hub import HfApi, constants
from PIL import Image

from modeling_amns import PersonGallery, commands, hub, spaces
from modeling_amns.demo.filters import ColumnFilter, column_filters, joined_filter
from modeling_amns.demo.limits import Door, make_room, names_only, remove_old
from modeling_amns.demo.page import Page, Session
from modeling_amns.demo.pictures import GalleryPictures, draw_attention
from modeling_amns.demo.results import results_html
from modeling_amns.demo.searching import GallerySearch, Question
from modeling_amns.retrieval.hits import Hit
from modeling_amns.retrieval.table import Table

ROOT = Path(__file__).parents[1]
COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "rose": (250, 0, 60)}


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "cam").mkdir(parents=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (16, 32), colour).save(folder / "cam" / f"{name}.png")
    return folder


@pytest.fixture
def search(photos):
    rows = [{"path": f"cam/{name}.png", "size": len(name), "person_id": name[0]} for name in COLOURS]
    made = GallerySearch(PersonGallery.from_images(Counting(), None, photos, metadata=rows))
    yield made
    made.close()


def paths(answer) -> list[str]:
    return [hit.path for hit in answer.hits]


def test_a_question_is_answered_as_the_gallery_answers_it(search, photos):
    wanted = search.gallery.search("red", k=3)
    answer = search.ask(Question("red", count=3))
    assert answer.hits == wanted and answer.line == "3 images, best first." and not answer.failed
    grouped = search.ask(Question("red", count=60, group_by="person_id"))
    assert set(paths(grouped)) == {"cam/red.png", "cam/green.png", "cam/blue.png"} and len(grouped.hits) == 3
    both = search.ask(Question("green", upload=(str(photos / "cam/red.png"), "mine.png"), count=60))
    assert both.hits == search.gallery.search("green", photos / "cam/red.png", 60)
    assert paths(search.ask(Question(like="cam/blue.png", count=1))) == ["cam/blue.png"]
    filtered = paths(search.ask(Question("red", expression="size > 3", count=1)))
    assert filtered == ["cam/rose.png"]
    assert search.ask(Question("red", expression="size > 9")).line.startswith("No image fits these filters")


@pytest.mark.parametrize(
    "question, line",
    [
        (Question(), "Describe the person"),
        (Question("  \n"), "Describe the person"),
        (
            Question("red", expression="colour = 'x'"),
            "the gallery has no column colour; it has path, size, person_id.",
        ),
        (Question("red", expression="size = 3) OR (size > 0"), "follows a whole expression"),
        (Question("red", count=10**9), "Between 1 and 60"),
        (Question("red", count=float("nan")), "Between 1 and 60"),
        (Question("red", group_by="nothing"), "nothing"),
        (Question(like="../secret.png"), "outside of the gallery's folder"),
        (Question("red", chosen=[["3"], "\\"]), "person_id holds text without \\"),
    ],
)
def test_a_fault_of_a_question_is_one_line(search, question, line):
    search.filters = [ColumnFilter("size", "integer", "choices", ("3",)), ColumnFilter("person_id", "text", "part")]
    answer = search.ask(question)
    assert answer.failed and not answer.hits and line in answer.line and len(answer.line.splitlines()) == 1


def test_a_broken_upload_is_called_by_its_own_name(search, tmp_path):
    file = tmp_path / "kept" / "x.jpg"
    file.parent.mkdir()
    file.write_text("no image")
    answer = search.ask(Question(upload=(str(file), "mine.jpg")))
    assert answer.failed and "mine.jpg" in answer.line and str(tmp_path) not in answer.line
    with pytest.raises(ValueError, match="^mine.jpg can't be read as an image: it is no image that is read"):
        search.preview(str(file), "mine.jpg")


def test_a_question_that_takes_too_long_is_given_up(search, monkeypatch):
    search.patience = 0.05
    monkeypatch.setattr(search, "_search", lambda question: time.sleep(0.3))
    assert "more than 0.05 seconds" in search.ask(Question("red")).line


@pytest.mark.parametrize(
    "filter, chosen, wanted",
    [
        (ColumnFilter("camera", "text", "choices"), ["c'1", "c2"], "\"camera\" IN ('c''1', 'c2')"),
        (ColumnFilter("camera", "text", "choices"), [], ""),
        (ColumnFilter("frame", "integer", "range"), ["3", ""], "\"frame\" >= '3'"),
        (ColumnFilter("frame", "integer", "range"), [None, " 9 "], "\"frame\" <= '9'"),
        (ColumnFilter("kept", "boolean", "choices"), ["true"], '"kept" IN (TRUE)'),
        (ColumnFilter('a"b', "text", "part"), "x' OR '", "\"a\"\"b\" LIKE '%x'' OR ''%'"),
        (ColumnFilter("note", "text", "part"), "  ", ""),
    ],
)
def test_a_choice_becomes_an_expression(filter, chosen, wanted):
    assert filter.expression(chosen) == wanted


def test_columns_are_asked_about_in_their_own_way():
    times = [datetime.datetime(2026, 11, day) for day in (1, 2, 3)]
    values = {"camera": ["b", "a", None], "same": ["x"] * 3, "time": times, "size": [1.5, 2.0, 2.5]}
    kinds = {"camera": "text", "same": "text", "time": "time", "size": "real"}
    made = column_filters(kinds, Table(["1", "2", "3"], [], None, kinds, values))
    assert [(one.name, one.way, one.choices) for one in made] == [
        ("camera", "choices", ("a", "b")),
        ("time", "range", ()),
        ("size", "range", ()),
    ]
    assert [one.way for one in column_filters(kinds, None)] == ["part", "part", "range", "range"]
    assert joined_filter("size > 1", made, [["a"], ["", "2026-11-02"], None], kinds) == (
        "(size > 1) AND (\"camera\" IN ('a')) AND (\"time\" <= '2026-11-02')"
    )
    with pytest.raises(ValueError, match="time holds times such as .*; 'tomorrow' is none"):
        joined_filter(None, made, [None, ["tomorrow", ""], None], kinds)


def test_only_images_in_the_folder_are_read(photos, tmp_path):
    secret = Image.new("RGB", (16, 32), "white")
    secret.save(tmp_path / "secret.png")
    (photos / "link.png").symlink_to(tmp_path / "secret.png")
    (photos / "inner.png").symlink_to(photos / "cam" / "red.png")
    pictures = GalleryPictures(photos)
    assert pictures.thumbnail("inner.png") == pictures.thumbnail("cam/red.png")
    for path in ("link.png", "../secret.png", str(tmp_path / "secret.png"), "cam/../../secret.png"):
        with pytest.raises(ValueError, match="gallery's folder"):
            pictures.thumbnail(path)
        with pytest.raises(ValueError, match="gallery's folder"):
            pictures.read(path)
    assert GalleryPictures(photos, follow_links=True).thumbnail("link.png").startswith("data:image/jpeg;base64,")
    (photos / "cam" / "red.png").unlink()
    with pytest.raises(FileNotFoundError, match="no longer there"):
        pictures.thumbnail("cam/red.png")


def test_every_text_of_the_results_is_escaped():
    nasty = "<img src=x onerror=alert(1)>\"'{{7*7}}${7*7}\x1b"
    found = results_html([Hit(nasty, 0.5, {nasty: nasty})], lambda path: "data:,", {})
    assert "<img src=x" not in found and "\x1b" not in found
    assert found.count(html.escape("<img src=x onerror=alert(1)>").replace("/", "/<wbr>")) == 4
    assert found.count("<img") == 1 and "More like this" in found and "Where it looks" in found
    assert "Where it looks" not in results_html([Hit("x", 0.5)], lambda path: "data:,", {}, can_look=False)


def test_a_click_names_a_place_among_what_was_shown(search):
    page = Page(search)
    session, _, _ = page.find(Session(), "red", 2, "", "")
    for place in (-1, 2, True, "0", None, 0.0, "../../etc/passwd"):
        same, line = page.click(session, "look", place)
        assert same is session and "no longer there" in line
    assert page.click(session, "like", 1) is None
    assert page.like(session, 1)[0].like == session.hits[1].path
    # This encoder can't say; that is a line too.
    assert "does not say where it looks" in page.click(session, "look", 0)[1]


def test_an_upload_that_is_no_image_or_is_not_wanted_any_more_is_removed(search, photos, tmp_path):
    page, bad, good = Page(search), tmp_path / "bad.jpg", tmp_path / "good.png"
    bad.write_text("no image")
    shutil.copy(photos / "cam" / "red.png", good)
    session, picture, line = page.upload(Session(), str(bad))
    assert session.upload is None and not picture and "bad.jpg can&#x27;t be read" in line and not bad.exists()
    session, picture, line = page.upload(session, str(good))
    kept, name = session.upload
    assert name == "good.png" and "data:image/jpeg" in picture and not line and Path(kept).is_file()
    # Who sends the same picture has a place of their own.
    shutil.copy(photos / "cam" / "red.png", good)
    other, _, _ = page.upload(Session(), str(good))
    assert page.forget(session).upload is None and not Path(kept).exists()
    assert page.find(other, "", 1, "", "")[0].hits


def test_attention_colours_patches_by_their_share():
    drawn = draw_attention(Image.new("RGB", (4, 8), "white"), [0, 0.1, 0.05, 0.2], (2, 2))
    blue = [drawn.getpixel(place)[2] for place in ((0, 0), (3, 0), (0, 7), (3, 7))]
    assert blue[0] == 255 and blue[3] < blue[1] < blue[2] < 255
    assert blue[1] == pytest.approx(255 * (1 - 0.8 / 2), abs=1)


HERE = {"host": "127.0.0.1:7860"}


@pytest.mark.parametrize(
    "method, path, headers, status",
    [
        ("GET", "/", {}, None),
        ("GET", "/assets/index-DphvyggB.js", {}, None),
        ("POST", "/gradio_api/queue/join", {"content-length": "99", "origin": "http://127.0.0.1:7860"}, None),
        ("POST", "/gradio_api/upload", {"content-length": "1000"}, None),
        ("POST", "/gradio_api/upload", {"content-length": "100000"}, 413),
        ("POST", "/gradio_api/upload", {}, 411),
        ("POST", "/gradio_api/upload", {"content-length": "²"}, 411),
        ("POST", "/gradio_api/queue/join", {"content-length": str(2**30)}, 413),
        ("POST", "/gradio_api/queue/join", {"content-length": "99", "origin": "http://evil.example"}, 403),
        ("GET", "/", {"host": "evil.example:7860"}, 403),
        ("GET", "/", {"host": ""}, 403),
        ("GET", "/", {"host": "127.0.0.1.evil.example"}, 403),
        ("GET", "/", {"host": "[::1"}, 403),
        ("GET", "/", {"host": "[::1]:7860"}, None),
        ("GET", "/gradio_api/file=/etc/passwd", {}, 404),
        ("GET", "/gradio_api/file=http://169.254.169.254/", {}, 404),
        ("GET", "/gradio_api/proxy=http://127.0.0.1:1/", {}, 404),
        ("GET", "/file=/etc/passwd", {}, 404),
        ("GET", "/static/../../x", {}, 404),
        ("GET", "/assets/../x", {}, 404),
        ("GET", "/gradio_api/info", {}, 404),
        ("POST", "/gradio_api/run/find", {"content-length": "9"}, 404),
        ("POST", "/gradio_api/vibe-edit", {"content-length": "9"}, 404),
        ("DELETE", "/", {}, 404),
    ],
)
def test_the_door_opens_for_the_page_alone(tmp_path, method, path, headers, status):
    door = Door(None, tmp_path, loopback=True, max_upload=1000)
    refused = door.refusal(method, path, {**HERE, **headers})
    assert (refused and refused[0]) == status
    if status == 403:
        assert Door(None, tmp_path, loopback=False, max_upload=1000).refusal(method, path, {**HERE, **headers}) is None


def test_an_upload_that_drips_is_ended(tmp_path):
    async def never(scope, receive, send):
        await asyncio.sleep(10)

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload"}
    scope["headers"] = [(b"host", b"localhost"), (b"content-length", b"5")]
    begun = time.monotonic()
    asyncio.run(Door(never, tmp_path, True, 1000, patience=0.05)(scope, None, send))
    assert sent[0]["status"] == 408 and time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "body, kept",
    [
        (b"", True),
        (b'{"data": ["a red coat", 12], "event_data": {"act": "like", "place": 1}}', True),
        (b'{"data": [{"path": "FOLDER/ab/x.png"}]}', True),
        (b'{"data": [{"path": "FOLDER/../x.png"}]}', False),
        (b'{"data": [{"path": "FOLDER"}]}', False),
        (b'{"data": {"x": [[{"value": {"path": "https://example.org/x.png"}}]]}}', False),
        (b'{"data": [{"path": "a\\u0000b"}]}', False),
        (b"[" * 200_000, False),
        (b"{", False),
        (b"\xff", False),
    ],
)
def test_a_question_names_files_among_the_uploads_only(tmp_path, body, kept):
    assert names_only(body.replace(b"FOLDER", str(tmp_path).encode()), tmp_path) is kept


def test_old_uploads_make_room_for_new_ones(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "x.png").write_bytes(b"x" * 10)
        os.utime(tmp_path / f"{number}" / "x.png", (number, number))
    make_room(tmp_path, 10, max_bytes=40, max_files=9)
    assert [(tmp_path / f"{number}" / "x.png").exists() for number in range(4)] == [False, True, True, True]
    make_room(tmp_path, 1, max_bytes=1000, max_files=2)
    assert [(tmp_path / f"{number}" / "x.png").exists() for number in range(4)] == [False, False, False, True]
    (tmp_path / "new.png").write_bytes(b"x")
    remove_old(tmp_path, 60)
    assert [file.name for file in tmp_path.rglob("*.png")] == ["new.png"]


@pytest.fixture(scope="module")
def indexed(tmp_path_factory, processor) -> Path:
    """A folder with a gallery, images and checkpoint of its own."""
    folder = tmp_path_factory.mktemp("indexed")
    model = tiny_retrieval_model(processor).amns.eval()
    model.save_pretrained(folder / "checkpoint")
    processor.save_pretrained(folder / "checkpoint")
    for name, colour in COLOURS.items():
        (folder / "photos" / "cam").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 32), colour).save(folder / "photos" / "cam" / f"{name}.png")
    (folder / "cameras.csv").write_text("path,camera\ncam/red.png,c1\ncam/blue.png,c2\n")
    (folder / "photos" / "bad.jpg").write_text("no image")
    words = ["index", folder / "photos", "--model", folder / "checkpoint", "--metadata", folder / "cameras.csv"]
    assert commands.main(list(map(str, words))) == 0
    return folder


def in_use() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize(
    "words, line",
    [
        (["{folder}/photos", "--port", "{used}"], "Port {used} of 127.0.0.1 is in use; take another with --port"),
        (["{folder}/photos", "--port", "99999"], "A port is a number from 0"),
        (["{folder}/photos", "--host", "192.0.2.1", "--port", "0"], "can't be served at 192.0.2.1"),
        (["{folder}/photos/cam"], "There is no gallery for {folder}/photos/cam yet. Make it with: amns index"),
        (["{folder}/nowhere"], "There is no folder {folder}/nowhere"),
        (["{folder}/photos", "--model", "{folder}/nowhere", "--port", "0"], "can't be read; pass it as model"),
    ],
)
def test_a_page_that_cannot_start_says_why_in_one_line(indexed, words, line, capsys):
    with in_use() as used:
        names = {"folder": indexed, "used": used.getsockname()[1]}
        assert commands.main(["demo", *(word.format(**names) for word in words)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("amns demo: ") and line.format(**names) in said[0]


def test_without_gradio_the_extra_is_named(indexed, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert commands.main(["demo", str(indexed / "photos")]) == 1
    assert 'pip install "modeling_amns[demo]"' in capsys.readouterr().err


@pytest.fixture(scope="module")
def space(indexed, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("space")
    spaces.stage_space(indexed / "photos", folder)
    return folder


def test_a_space_holds_the_gallery_and_nothing_of_this_machine(space, indexed):
    assert {file.name for file in space.iterdir()} == {"app.py", "README.md", "requirements.txt", *spaces.PARTS}
    assert {file.name for file in (space / "photos" / "cam").iterdir()} == {f"{name}.png" for name in COLOURS}
    for file in filter(Path.is_file, space.rglob("*")):
        assert str(indexed.parent).encode() not in file.read_bytes(), file
    assert "4 images are ranked" in (space / "README.md").read_text() and not (space / "photos" / "bad.jpg").exists()
    again = PersonGallery.load(space / "gallery", space / "model")
    wanted = PersonGallery.load(indexed / "photos" / ".amns").search("a red coat", where="camera = 'c1'")
    assert again.search("a red coat", where="camera = 'c1'") == wanted and len(wanted) == 1


def test_a_space_answers_and_ends_in_one_line(space, monkeypatch, capsys):
    """In this process, with its package; Ctrl-C, as of `amns demo`."""
    with in_use() as free:
        port = str(free.getsockname()[1])
    monkeypatch.setenv("GRADIO_SERVER_NAME", "127.0.0.1")
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    seen = []

    def visit():
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
                seen.append((page.read(), page.headers["content-security-policy"]))
                break
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    visitor = threading.Thread(target=visit)
    visitor.start()
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(space / "app.py"), run_name="__main__")
    visitor.join()
    assert ended.value.code == 128 + signal.SIGINT
    assert capsys.readouterr().err.splitlines() == [
        f"app.py: 4 images at http://127.0.0.1:{port}; Ctrl-C ends it.",
        "app.py: stopped.",
    ]
    assert b"Find a person" in seen[0][0] and "connect-src 'self'" in seen[0][1]
    assert not os.environ.get("GRADIO_TEMP_DIR")


def test_a_space_has_the_whole_package(space):
    """What is for those who train and push apart."""
    own = ROOT / "modeling_amns"
    files = {file.relative_to(own) for file in own.rglob("*.*") if "__pycache__" not in file.parts}
    assert files == {file.relative_to(space / "modeling_amns") for file in (space / "modeling_amns").rglob("*.*")}


def test_the_space_asks_for_what_the_package_asks_for(space):
    setup = (ROOT / "setup.py").read_text()
    lines = [line for line in (space / "requirements.txt").read_text().splitlines() if line[0] not in "#-"]
    always = setup.split("install_requires=[")[1].split("]")[0]
    assert all(f'"{line}"' in always or f'"{line}"' in setup.split('"search": [')[1].split("]")[0] for line in lines)
    assert len(lines) == always.count('"') // 2 + 2
    assert "sdk_version: 6.31.0\n" in (space / "README.md").read_text()
    assert "gradio==6.31.0\n" in (ROOT / "constraints.txt").read_text()


def test_a_space_is_pushed_whole_and_private(indexed, space, monkeypatch, capsys, tmp_path):
    """By the client in this process, by LFS, whose settings are read when it is imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    images = shutil.copytree(indexed / "photos", tmp_path / "photos")
    with HubDouble() as double:
        monkeypatch.setattr(hub, "client", lambda token: HfApi(double.url, TOKEN))
        assert push_here(monkeypatch, images, "org/find", "--space", "--gallery", images / ".amns") == 0
        assert "org/find" in capsys.readouterr().out
        assert double.repos["spaces", "org/find"].private
        files = double.files("org/find", "spaces")
        staged = {file.relative_to(space).as_posix() for file in space.rglob("*") if file.is_file()}
        # The gallery's files are named at random.
        assert {name for name in staged if not name.startswith("gallery/")} == {
            name for name in files if not name.startswith("gallery/") and name != ".gitattributes"
        }
        assert files["photos/cam/red.png"] == (images / "cam" / "red.png").read_bytes()
        # Who is no longer in the gallery is no longer in the Space.
        PersonGallery.load(images / ".amns").remove("cam/red.png")
        hub.push_space(images, "org/find")
        again = double.files("org/find", "spaces")
        assert "photos/cam/red.png" not in again and "photos/cam/blue.png" in again
        rows = {name for name in files if name.startswith("gallery/images.lance/data/")}
        assert rows and not rows & set(again)
        double.repos["spaces", "org/find"].private = False
        with pytest.raises(ValueError, match="org/find is there and public"):
            hub.push_space(images, "org/find")


def push_here(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["push_to_hub.py", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "push_to_hub.py"), run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize(
    "words, line",
    [
        (["{folder}/photos", "org/x", "--space", "--license", "mit"], "--license is for checkpoints"),
        (["{folder}/photos", "org/x", "--space", "--revision", "dev"], "--revision is not for --space"),
        (["{folder}/photos", "org/x", "--space", "--private", "--public"], "exclude each other"),
        (["{folder}/photos", "org/x", "--space", "--dataset_card"], "leave out --space or --dataset_card"),
        (["{folder}/checkpoint", "org/x", "--model", "x"], "--model is for --space"),
        (["{folder}/photos/cam", "org/x", "--space", "--dry_run"], "There is no gallery for {folder}/photos/cam"),
    ],
)
def test_a_space_that_cannot_be_pushed_is_one_line(indexed, monkeypatch, capsys, words, line):
    assert push_here(monkeypatch, *(word.format(folder=indexed) for word in words)) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and line.format(folder=indexed) in said[0]


def test_a_space_is_shown_before_it_is_pushed(indexed, monkeypatch, capsys):
    assert push_here(monkeypatch, indexed / "photos", "org/x", "--space", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "photos/  4 files" in shown and "app.py\n" in shown and "sdk: gradio" in shown


def test_a_space_needs_every_image_of_its_gallery(indexed, tmp_path):
    images = shutil.copytree(indexed / "photos", tmp_path / "photos")
    (images / "cam" / "red.png").unlink()
    with pytest.raises(ValueError, match="1 images are no longer in .*, cam/red.png first; run amns index"):
        spaces.stage_space(images, tmp_path / "staged")
