"""The page on which a person decides pair by pair, as text and in a real browser without a window."""

import base64
import csv
import hashlib
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from modeling_amns.audit import Suspect
from modeling_amns.audit.sheet import audit_sheet, reasons

NASTY = '</script><img src=x onerror="window.broken=1">, <!-- "quoted"\nand $title'
COLUMNS = ["row", "path", "caption", "decision"]


def read(path: str) -> Image.Image:
    """Noise, the worst that a JPEG can hold; of a few modes."""
    if path.startswith("gone"):
        raise OSError("no such file")
    if path.startswith("broken"):
        raise ValueError("no image")
    pixels = np.random.default_rng(len(path)).integers(0, 255, (400, 160, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert("RGBA" if path.endswith("png") else "RGB")


def pairs(count: int) -> list[Suspect]:
    listed = [
        Suspect(
            row=10 * number + 3,
            path=f"cam{number % 2}/{number}.jpg",
            caption=f"person {number} in red" if number % 2 else f"person {number} in blue",
            person_id=number,
            probability=1 - number / count,
            scores={"image_rank": 812.0 - number},
            better_path="cam0/0.jpg" if number % 2 else None,
            better_caption="a green coat" if number % 2 else None,
        )
        for number in range(count)
    ]
    listed[1] = Suspect(13, f"{NASTY}.png", NASTY, NASTY, 0.5, {NASTY: 1.5}, f"gone{NASTY}", NASTY)
    return listed


def data_of(page: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))


def test_texts_of_the_data_end_no_script_and_begin_no_element():
    page = audit_sheet(pairs(4), read, NASTY)
    # The page's own two scripts, and nothing that a caption or the title brought along.
    assert page.count("<script") == page.count("</script>") == 2 and "<img" not in page and page.count("<!--") == 0
    nasty = data_of(page)["pairs"][1]
    assert nasty["caption"] == nasty["person"] == nasty["better_caption"] == NASTY
    assert nasty["path"] == f"{NASTY}.png" and nasty["why"] == [f"{NASTY}: 1.50"]
    # Numbers as tables hold them.
    (kept,) = data_of(audit_sheet([Suspect(np.int64(7), "a", "b", np.int64(3), np.float32(0.25))], read, ""))["pairs"]
    assert (kept["row"], kept["person"], kept["probability"]) == (7, "3", 0.25)
    # Half of a character, as names of files may hold.
    audit_sheet([Suspect(0, "\udcff.jpg", "a", 0, 0.5)], read, "\udcff").encode()


def test_the_policy_names_the_pages_own_script_and_style_alone_and_no_address():
    page = audit_sheet([Suspect(0, "a.jpg", "a red coat", 0, 0.5)], read, "suspects")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for name, tag in (("script-src", "script"), ("style-src", "style")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"
    assert not re.search(r'https?:|\bsrc=|href="(?!data:)|@import|url\(', page)


def test_images_are_small_are_there_once_and_what_can_not_be_read_leaves_its_place_empty():
    few, many = (audit_sheet(pairs(count), read, "suspects") for count in (10, 30))
    # Noise of the largest size; a photograph is a third of it.
    assert (len(many) - len(few)) / 20 < 20_000
    shared = data_of(audit_sheet([Suspect(row, "a.jpg", "a", 0, 0.5, {}, "a.jpg") for row in range(9)], read, ""))
    assert len(shared["images"]) == 1 and all(
        pair["image"] == pair["better"]["image"] == 0 for pair in shared["pairs"]
    )
    image = Image.open(io.BytesIO(base64.b64decode(shared["images"][0].removeprefix("data:image/jpeg;base64,"))))
    assert image.format == "JPEG" and image.width <= 192 and image.height == 256
    data = data_of(audit_sheet([Suspect(0, "gone", "a", 0, float("nan"), {}, "broken"), *pairs(2)], read, ""))
    first, second, third = data["pairs"]
    assert first["image"] is None and first["better"] == {"path": "broken", "image": None}
    assert first["probability"] is None and (second["image"], third["image"]) == (0, 1)


def test_decisions_are_kept_for_these_pairs_only():
    def key(suspects):
        return data_of(audit_sheet(suspects, read, "suspects"))["key"]

    assert key(pairs(4)) == key(pairs(4)) and key(pairs(4)) != key(pairs(5))
    assert key([Suspect(0, "a", "b", 0, 0.5)]) == key([Suspect(0, "a", "b", 0, 0.7)])
    assert key([Suspect(0, "a", "b", 0, 0.5)]) != key([Suspect(0, "a", "c", 0, 0.5)])


def test_scores_are_told_in_words_and_unknown_ones_as_they_are():
    scores = {"image_rank": 1812.0, "text_rank": 2, "image_loss": 7.314, "text_loss": 0.5, "moving_loss": 3}
    assert reasons(scores) == [
        "its image is rank 1,812 for its caption",
        "its caption is rank 2 for its image",
        "the loss of finding its caption by its image is 7.31",
        "the loss of finding its image by its caption is 0.50",
        "its loss averaged over the training run is 3.00",
    ]
    assert reasons({"own_rank": float("nan"), "teacher": -0.25}) == ["own_rank: nan", "teacher: -0.25"]


@pytest.mark.parametrize(
    "count, share, told",
    [
        (0, None, "0 pairs, most suspicious first.</p>"),
        (1, float("nan"), "1 pair, most suspicious first.</p>"),
        (1, 0.2134, "About 21.3 % of all pairs of the set are estimated to be wrong.</p>"),
    ],
)
def test_the_page_says_how_many_pairs_are_listed_and_estimated_to_be_wrong(count, share, told):
    assert told in audit_sheet([Suspect(0, "a", "b", 0, 0.5)] * count, read, "suspects", share)


@pytest.fixture
def open_sheet(browser, tmp_path):
    """Opens a sheet in a window of its own; a request that leaves the file, and an error of its script, fails."""
    strange, errors, contexts = [], [], []

    def opened(suspects=None, width=1280, before="", **options):
        file = tmp_path / "sheet.html"
        file.write_text(audit_sheet(pairs(12) if suspects is None else suspects, read, "suspects"), encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 844}, **options)
        context.on("request", lambda asked: strange.append(asked.url) if asked.url != file.as_uri() else None)
        if before:
            context.add_init_script(before)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.set_default_timeout(15_000)
        page.goto(file.as_uri())
        contexts.append((context, page))
        return page

    yield opened
    for context, page in contexts:
        assert page.evaluate("window.broken") is None
        context.close()
    assert not errors and all(url.startswith(("data:", "blob:")) for url in strange), (strange, errors)


def press(page, keys):
    for key in keys:
        page.keyboard.press(key)


def current(page) -> str:
    return page.locator("li[aria-current] .row").inner_text()


def saved(page) -> list[list[str]]:
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    assert download.value.suggested_filename == "decisions.csv"
    with open(download.value.path(), encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def note(page) -> str:
    return page.locator("#note").inner_text()


def test_pairs_are_decided_by_keyboard_kept_saved_and_loaded_again(open_sheet, tmp_path):
    page = open_sheet()
    assert page.locator("#count").inner_text() == "0 of 12 decided" and current(page) == "Row 3"
    assert page.locator(".caption").nth(1).inner_text() == NASTY
    assert page.locator(".better .picture").nth(1).inner_text() == "can't be read"
    # Those near the window; the last are fetched when they come near.
    page.locator("#pairs img[src]").first.wait_for()
    assert page.evaluate("document.images[0].decode().then(() => document.images[0].naturalHeight)") == 256
    assert 0 < page.locator("#pairs img[src]").count() < page.locator("#pairs img").count()
    press(page, ["r", "w", "u", "ArrowDown", "j", "k", "w"])
    assert page.locator("#count").inner_text() == "4 of 12 decided: 1 right, 2 wrong, 1 unsure"
    press(page, "zz")
    assert current(page) == "Row 23" and note(page) == "Row 23: undecided again."
    press(page, "w")
    decided = [COLUMNS, ["3", "cam0/0.jpg", "person 0 in blue", "right"], ["13", f"{NASTY}.png", NASTY, "wrong"]]
    decided.append(["23", "cam0/2.jpg", "person 2 in blue", "wrong"])
    assert saved(page) == decided
    # A click on what is chosen takes it back; a letter that is typed into a field decides nothing.
    page.locator("li[aria-current]").get_by_role("button", name="Unsure").click()
    page.locator("li[aria-current]").get_by_role("button", name="Unsure").click()
    page.get_by_label("Caption, path or person").press_sequentially("RED")
    assert page.locator("#pairs > li:visible").count() == 5
    assert page.locator("#count").inner_text() == "3 of 12 decided: 1 right, 2 wrong, 0 unsure · 5 shown"
    page.get_by_label("Probability at least").fill("0.4")
    assert page.locator("#pairs > li:visible .row").all_inner_texts() == ["Row 33", "Row 53", "Row 73"]
    page.get_by_label("Caption, path or person").fill("nobody")
    assert page.locator("#none").inner_text() == "No pair is left by these filters."
    page.reload()
    assert page.locator("#count").inner_text() == "3 of 12 decided: 1 right, 2 wrong, 0 unsure"
    assert current(page) == "Row 33"
    page.get_by_label("Undecided only").check()
    assert page.locator("#pairs > li:visible").count() == 9
    press(page, "ru")
    assert page.locator("#pairs > li:visible").count() == 7 and current(page) == "Row 53"

    # A second window of the same browser follows.
    second = page.context.new_page()
    second.goto(page.url)
    second.keyboard.press("w")
    page.locator("#count").get_by_text("6 of 12 decided: 2 right, 3 wrong, 1 unsure").wait_for()

    # Another browser, where nothing is kept: the file brings the decisions back, as one step.
    other = open_sheet()
    file = tmp_path / "mine.csv"
    strange = [["23", "cam0/2.jpg", "another caption", "right"], ["999", "x", "y", "right"], ["33", "", "", "right"]]
    with open(file, "w", encoding="utf-8-sig", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows([*decided, *strange])
    other.locator("#file").set_input_files(file)
    other.locator("#note").get_by_text("3 decisions are taken from mine.csv. 3 lines are left out").wait_for()
    assert saved(other) == decided
    other.get_by_role("button", name="Undo").click()
    assert other.locator("#count").inner_text() == "0 of 12 decided"
    file.write_text("a,b\n1,2\n")
    other.locator("#file").set_input_files(file)
    expected = "mine.csv is no CSV of decisions; expected the columns row, path, caption, decision."
    other.locator("#note").get_by_text(expected).wait_for()


def test_a_browser_that_keeps_nothing_says_so_and_still_decides(open_sheet):
    forbid = (
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }})"
    )
    page = open_sheet(before=forbid)
    assert page.get_by_text("This browser keeps no decisions for this page").is_visible()
    press(page, "w")
    assert saved(page)[1:] == [["3", "cam0/0.jpg", "person 0 in blue", "wrong"]]
    page = open_sheet()
    assert not page.get_by_text("This browser keeps no decisions for this page").is_visible()


@pytest.mark.parametrize("width, scheme", [(390, "light"), (1280, "dark")])
def test_the_sheet_fits_its_window(open_sheet, width, scheme):
    long = Suspect(0, "x" * 300, "y" * 300, "z" * 300, 0.5, {"w" * 300: 1.0}, "v" * 300, "u" * 300)
    page = open_sheet([long, *pairs(3)], width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(24, 24, 27)" if scheme == "dark" else "rgb(255, 255, 255)")
    small = """() => [...document.querySelectorAll("button")].filter((one) => one.checkVisibility()
        && one.getBoundingClientRect().height < 43).length"""
    assert page.evaluate(small) == 0


def test_an_empty_sheet_says_so(open_sheet):
    page = open_sheet([])
    press(page, "rjz")
    assert page.locator("#none").inner_text() == "No pair is suspect."
