"""The command amns: what it prints and writes, what it says of bad input, and that a query starts without torch."""

import html.parser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CAPTIONS, IMAGE_SIZE, tiny_retrieval_model
from PIL import Image

from modeling_amns import AMNSProcessor, PersonGallery, commands
from modeling_amns.export import export_onnx
from modeling_amns.retrieval import place
from modeling_amns.retrieval.hits import Hit
from modeling_amns.retrieval.pages import as_html, as_lines, as_sheet, read_file

ROOT = Path(__file__).parents[1]
TEXT = "a man in a red coat"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A checkpoint, its export, and a checkpoint of other weights."""
    folder = tmp_path_factory.mktemp("models")
    processor = AMNSProcessor.from_captions(CAPTIONS * 20, IMAGE_SIZE, vocab_size=620)
    model = tiny_retrieval_model(processor).amns.eval()
    for name in ("checkpoint", "other"):
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
        if name == "checkpoint":
            export_onnx(model, processor, folder / "exported", int8=True)
        model = type(model)(model.config)
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    draw = np.random.default_rng(0)
    for number in range(8):
        file = tmp_path / "photos" / f"cam{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (32, 16, 3), dtype=np.uint8)).save(file)
    rows = [f"cam{number % 2}/{number}.png,c{number % 2},{number // 4}" for number in range(8)]
    (tmp_path / "cameras.csv").write_text("\n".join(["path,camera,person_id", *rows]))
    return tmp_path / "photos"


@pytest.fixture
def amns(capsys):
    """Runs the command; gives exit code, lines of stdout and of stderr."""

    def run(*words) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        code = commands.main([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines()

    return run


def test_a_folder_is_indexed_and_searched(amns, photos, models, tmp_path):
    code, out, err = amns("index", photos, "--model", models / "checkpoint", "--metadata", tmp_path / "cameras.csv")
    assert code == 0 and not out and "amns index: 8 added" in err[-1]
    wanted = PersonGallery.load(photos / ".amns").search(TEXT, k=3, where="camera = 'c1'")
    code, out, err = amns("search", photos, TEXT, "--where", "camera = 'c1'", "-k", 3)
    assert code == 0 and not err
    assert out == as_lines(wanted).splitlines() and len(out) == 3 and all("camera c1" in line for line in out)
    code, out, _ = amns("search", photos, TEXT, "--where", "camera = 'c1'", "-k", 3, "--json")
    assert json.loads("\n".join(out)) == [
        {"path": str(photos / hit.path), "score": round(hit.score, 6), "metadata": hit.metadata} for hit in wanted
    ]
    code, out, _ = amns("search", photos, TEXT, "--where", "camera = 'c1'", "--paths", "--group-by", "person_id")
    assert len(out) == 2 and out[0] == str(photos / wanted[0].path) and all(Path(line).is_file() for line in out)
    # The gallery itself is a place to search too.
    code, out, _ = amns("search", photos / ".amns", TEXT, "-k", 1, "--paths")
    assert Path(out[0]).is_file()


def test_a_query_adds_and_subtracts(amns, photos, models):
    options = ("--model", models / "checkpoint", "--json", "-k", 99)
    _, out, _ = amns("search", photos, TEXT, "--add", "a bag", "--subtract", "a hat", *options)
    found = json.loads("\n".join(out))
    gallery = PersonGallery.load(photos / ".amns")
    wanted = gallery.search([TEXT, "a bag", ("a hat", -1)], k=99)
    assert [row["score"] for row in found] == pytest.approx([hit.score for hit in wanted], abs=1e-5)
    first, second = photos / "cam0" / "0.png", photos / "cam1" / "1.png"
    _, out, _ = amns("search", photos, "--image", first, "--subtract_image", second, *options)
    wanted = gallery.search(image=[first, (second, -1)], k=99)
    assert json.loads("\n".join(out))[0]["path"] == str(photos / wanted[0].path)


def test_a_search_indexes_what_is_new_unless_told_not_to(amns, photos, models):
    assert amns("search", photos, TEXT, "--model", models / "checkpoint")[0] == 0
    shutil.copy(photos / "cam0" / "0.png", photos / "new.png")
    Image.new("RGB", (16, 32), "red").save(photos / "red.png")
    (photos / "bad.jpg").write_text("no image")
    assert len(amns("search", photos, TEXT, "-k", 99, "--no-index", "--paths")[1]) == 8
    code, out, err = amns("search", photos, TEXT, "-k", 99, "--paths")
    assert code == 0 and len(out) == 10 and "1 added, 1 renamed or copied, 8 unchanged, 1 left out" in err[0]
    assert err[1].startswith("amns search: left out bad.jpg:") and len(err) == 2
    (photos / "new.png").unlink()
    assert len(amns("search", photos, TEXT, "-k", 99, "--paths")[1]) == 9
    assert amns("search", photos, TEXT)[2] == []


def test_a_moved_folder_keeps_its_gallery_and_another_is_not_mistaken_for_it(amns, photos, models, tmp_path):
    amns("index", photos, "--model", models / "checkpoint")
    photos.rename(tmp_path / "moved")
    code, out, err = amns("search", tmp_path / "moved", TEXT, "--paths", "-k", 1)
    assert code == 0 and not err and Path(out[0]).is_file()
    shutil.copytree(tmp_path / "moved" / "cam0", tmp_path / "second")
    amns("index", tmp_path / "second", "--model", models / "checkpoint", "--gallery", tmp_path / "g")
    code, _, err = amns("search", tmp_path / "moved", TEXT, "--gallery", tmp_path / "g")
    assert code == 1 and "is of" in err[0] and "give each its own" in err[0]


def test_a_checkpoint_and_its_export_share_a_gallery(amns, photos, models):
    amns("index", photos, "--model", models / "exported")
    by_export = amns("search", photos, TEXT, "--paths")[1]
    code, by_checkpoint, err = amns("search", photos, TEXT, "--paths", "--model", models / "checkpoint")
    assert code == 0 and not err and by_checkpoint == by_export and len(by_export) == 8


def test_a_long_sentence_is_cut_with_a_note_refused_or_read_whole(amns, photos, models):
    sentence, place = " ".join([TEXT] * 30), ["search", photos]
    code, _, err = amns(*place, sentence, "--model", models / "checkpoint")
    assert code == 0 and "longer than the model reads" in " ".join(err)
    code, _, err = amns(*place, sentence, "--long_captions", "windows")
    assert code == 0 and "longer than the model reads" not in " ".join(err)
    code, _, err = amns(*place, sentence, "--long_captions", "refuse")
    assert code == 1 and "the text encoder reads: caption 0. Shorten" in " ".join(err)


def test_a_query_can_be_read_by_the_quantised_encoder(amns, photos, models):
    amns("index", photos, "--model", models / "exported")
    whole = json.loads("".join(amns("search", photos, TEXT, "--json")[1]))
    code, out, err = amns("search", photos, TEXT, "--json", "--int8")
    rounded = json.loads("".join(out))
    assert code == 0 and not err
    scores = [{row["path"]: row["score"] for row in rows} for rows in (whole, rounded)]
    assert scores[0] == pytest.approx(scores[1], abs=0.05) and scores[0] != scores[1]
    code, _, err = amns("search", photos, TEXT, "--int8", "--model", models / "checkpoint")
    assert code == 1 and "--int8 needs a model that was exported with --int8" in err[-1]


# The rooms of search alone: the package's __init__ has imports of its own.
QUICK = """
import sys, types
package = types.ModuleType("modeling_amns")
package.__path__ = [sys.argv[1]]
sys.modules["modeling_amns"] = package
from modeling_amns.commands import main

code = main(["search", *sys.argv[2:]])
slow = {"torch", "transformers", "datasets", "lancedb", "pyarrow", "pandas", "tqdm"} & set(sys.modules)
assert not slow, slow
sys.exit(code)
"""


def test_a_query_on_an_exported_model_imports_neither_torch_nor_transformers_nor_the_store(amns, photos, models):
    amns("index", photos, "--model", models / "exported")
    wanted = amns("search", photos, TEXT, "--where", "path like 'cam1/%'")[1]
    command = [sys.executable, "-c", QUICK, str(ROOT / "modeling_amns"), str(photos), TEXT]
    done = subprocess.run([*command, "--where", "path like 'cam1/%'"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == wanted and len(wanted) == 4 and not done.stderr


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data


def test_the_page_holds_everything_and_escapes_everything(amns, photos, models, tmp_path):
    evil = '<img src=x onerror="alert(1)">.png'
    shutil.copy(photos / "cam0" / "0.png", photos / evil)
    (tmp_path / "m.csv").write_text('path,note\n"' + evil.replace('"', '""') + '",</dd><script>alert(2)</script>\n')
    file = tmp_path / "found.html"
    query = f"<script>alert(3)</script> {TEXT}"
    code, _, err = amns(
        "search", photos, query, "--model", models / "checkpoint", "--metadata", tmp_path / "m.csv", "--html", file
    )
    assert code == 0 and err[-1] == f"amns search: wrote {file}"
    page = Page()
    page.feed(file.read_text(encoding="utf-8"))
    assert page.tags.count("li") == page.tags.count("img") == 9
    assert "script" not in page.tags and "link" not in page.tags and "a" not in page.tags
    for name, value in page.attributes:
        assert not name.startswith("on") and (name != "src" or value.startswith("data:image/jpeg;base64,"))
    assert all(text in page.text for text in (evil, "</dd><script>alert(2)</script>", query))
    # An image that has gone since is an empty place, not an error.
    left = as_html([Hit("gone.png", 0.5)], "q", "", read_file(tmp_path))
    assert "can't be read" in left


def test_the_sheet_shows_the_images_found(amns, photos, models, tmp_path):
    file = tmp_path / "found.png"
    code, _, _ = amns("search", photos, TEXT, "--model", models / "checkpoint", "--sheet", file, "-k", 7)
    assert code == 0
    with Image.open(file) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    assert (pixels.std(-1) > 20).mean() > 0.02  # something in colour
    empty = as_sheet([], "nothing", read_file(tmp_path))
    assert empty.width > 100
    gone = as_sheet([Hit("a" * 300 + ".png", 0.1)], "\u7ea2 " * 200, read_file(tmp_path))
    assert gone.width < 2000


BAD = {
    "no folder": (["search", "{tmp}/nowhere", TEXT], "There is no folder"),
    "no gallery": (["search", "{photos}", TEXT], "Say which model to index it with: amns index"),
    "no gallery and not to be made": (["search", "{photos}", TEXT, "--no_index"], "no gallery for"),
    "no images": (["index", "{tmp}/empty", "--model", "{models}/checkpoint"], "There are no images in"),
    "no model": (["index", "{photos}", "--model", "{tmp}/none"], "There is no folder"),
    "model without processor": (["index", "{photos}", "--model", "{tmp}/bare"], "bare"),
    "no export": (["index", "{photos}", "--model", "{tmp}/cut"], "can't be read"),
    "no query": (["search", "{indexed}"], "Say what to search for"),
    "empty query": (["search", "{indexed}", " "], "The sentence is empty"),
    "broken image": (["search", "{indexed}", "--image", "{tmp}/broken.jpg"], "The query's image can't be read"),
    "image that is not there": (
        ["search", "{indexed}", "--image", "{tmp}/none.jpg"],
        "The query's image can't be read",
    ),
    "unknown column": (["search", "{indexed}", TEXT, "--where", "kamera = 'c1'"], "no column kamera; it has path"),
    "two expressions": (["search", "{indexed}", TEXT, "--where", "path = 'x'; DROP TABLE images"], "not understood"),
    "unknown group": (["search", "{indexed}", TEXT, "--group_by", "who"], "no such column"),
    "no hits asked for": (["search", "{indexed}", TEXT, "-k", "0"], "-k must be 1 or more"),
    "another model": (["search", "{indexed}", TEXT, "--model", "{models}/other"], "embedded by another model"),
    "no metadata": (["index", "{indexed}", "--metadata", "{tmp}/none.csv"], "There is no metadata file"),
    "no index": (["search", "{indexed}", TEXT, "--approximate"], "no index that approximates"),
}


@pytest.fixture
def places(amns, photos, models, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_text("no image")
    shutil.copytree(models / "checkpoint", tmp_path / "bare")
    for file in (tmp_path / "bare").glob("*process*"):
        file.unlink()
    for file in (tmp_path / "bare").glob("token*"):
        file.unlink()
    shutil.copytree(models / "exported", tmp_path / "cut")
    (tmp_path / "cut" / "image_encoder.onnx").write_bytes(b"cut")
    shutil.copytree(photos, tmp_path / "indexed")
    amns("index", tmp_path / "indexed", "--model", models / "exported")
    return {"tmp": tmp_path, "photos": photos, "models": models, "indexed": tmp_path / "indexed"}


def test_bad_input_is_one_line_and_exit_code_1_and_loses_nothing(amns, places):
    for name, (words, message) in BAD.items():
        code, out, err = amns(*(word.format(**places) for word in words))
        lines = [line for line in err if line.startswith("amns ")]
        assert code == 1 and not out and len(lines) == 1 and message in lines[0], (name, err)
    assert len(amns("search", places["indexed"], TEXT, "--paths")[1]) == 8


def test_odd_queries_are_searched(amns, places):
    for text in ("\U0001f9e5", "x", "red\x1b[31m\ncoat", "-"):
        code, out, _ = amns("search", places["indexed"], text, "--paths", "-k", 99)
        assert code == 0 and len(out) == 8
    code, out, err = amns("search", places["indexed"], "a red coat " * 454 + "a red ", "--paths")
    assert code == 0 and len(out) == 8 and len(err) == 1 and "the first 75 tokens count" in err[0]
    code, out, err = amns("search", places["indexed"], TEXT, "--where", "path = 'x'", "--json")
    assert code == 0 and json.loads("".join(out)) == [] and err == ["amns search: no image fits the filter."]


def test_a_folder_that_cannot_be_written_is_said_and_still_searched(amns, places, monkeypatch):
    def refuse(file, content):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(place, "write_json", refuse)
    code, _, err = amns("index", places["photos"], "--model", places["models"] / "exported")
    assert code == 1 and len(err) == 1 and "can't be written (Permission denied); pass --gallery DIR" in err[0]
    Image.new("RGB", (16, 32), "red").save(places["indexed"] / "red.png")
    code, out, err = amns("search", places["indexed"], TEXT, "--paths", "-k", 99)
    assert code == 0 and len(out) == 8 and len(err) == 1 and "new images are not searched" in err[0]


def test_a_search_goes_on_while_another_process_indexes(amns, places):
    Image.new("RGB", (16, 32), "red").save(places["indexed"] / "red.png")
    with PersonGallery.load(places["indexed"] / ".amns")._writing():
        code, out, err = amns("search", places["indexed"], TEXT, "--paths", "-k", 99)
    assert code == 0 and len(out) == 8 and "Another process is writing" in err[0]
    assert len(amns("search", places["indexed"], TEXT, "--paths", "-k", 99)[1]) == 9


def test_every_program_is_a_subcommand(capsys):
    programs = {file.stem for file in (ROOT / "scripts").glob("*.py") if not file.stem.startswith("benchmark_")}
    with pytest.raises(SystemExit) as ended:
        commands.main([])
    listed = capsys.readouterr().out
    assert ended.value.code == 0 and all(re.search(rf"\n    {name}\s", listed) for name in programs)
    with pytest.raises(SystemExit) as ended:
        commands.main(["make-synthetic", "--help"])
    assert ended.value.code == 0 and "usage: make_synthetic.py" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        commands.main(["serch", "."])
    assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        commands.main(["search", ".", TEXT, "--kamera", "3"])
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 3


def test_the_script_is_the_command_and_its_reader_may_stop(places):
    words = [sys.executable, ROOT / "scripts" / "search.py", places["indexed"], TEXT, "--paths", "-k", 3]
    line = shlex.join(map(str, words))
    done = subprocess.run(f"{line} | head -1", shell=True, capture_output=True, text=True, timeout=60)
    assert len(done.stdout.splitlines()) == 1 and not done.stderr
