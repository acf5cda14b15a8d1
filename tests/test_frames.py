"""Galleries of persons in whole frames and recordings: what is found where and when, and what is not read twice."""

import base64
import datetime
import html
import io
import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import CAPTIONS, IMAGE_SIZE, tiny_retrieval_model
from frames_double import Painted, frame, record
from gallery_double import Counting
from PIL import Image
from transformers import YolosConfig, YolosForObjectDetection, pipeline
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

from modeling_amns import AMNSProcessor, PersonGallery, commands
from modeling_amns.demo.searching import GallerySearch, Question
from modeling_amns.retrieval import cropping, detection
from modeling_amns.retrieval.detection import PersonDetector
from modeling_amns.retrieval.fragments import Fragment
from modeling_amns.retrieval.hits import Hit
from modeling_amns.retrieval.pages import BOX, as_html, as_sheet, read_file, read_frame
from modeling_amns.retrieval.recordings import _Bounded, open_recording, time_in_name

av = pytest.importorskip("av")
RED, GREEN = (200, 0, 0), (0, 200, 0)
START = datetime.datetime(2026, 11, 25, 8, 0)


def walk(count, start=0):
    """A red person who walks to the right, two pixels a frame, in changing light, and a green dog who stays."""
    return [
        frame([((200, 0, 3 * n + start), start + 2 * n, 10, 20, 40), (GREEN, 80, 20, 10, 30)]) for n in range(count)
    ]


@pytest.fixture
def place(tmp_path):
    """A folder with a recording of 3 s, a picture and what is neither."""
    folder = tmp_path / "frames"
    (folder / "cam1").mkdir(parents=True)
    record(folder / "cam1" / "walk.mkv", walk(12), creation_time="2026-11-25T08:00:00Z")
    frame([(RED, 5, 4, 30, 50)]).save(folder / "2026-11-25_09-30-00.png")
    frame([]).save(folder / "nobody.png")
    (folder / "notes.txt").write_text("hello")
    return folder


def index(place, folder, detector=None, **options):
    detector = PersonDetector(detector or Painted(), min_height=20, **options)
    return PersonGallery.from_images(Counting(), None, place, folder=folder, detector=detector)


def rows(gallery):
    return {hit.path: hit.metadata for hit in gallery.search("red", k=1000)}


WALK = {f"cam1/walk.mkv#t={t:g}&xywh={int(8 * t)},10,20,40" for t in (0, 1, 2)}
PICTURE = "2026-11-25_09-30-00.png#xywh=5,4,30,50"


def test_persons_are_cut_out_of_pictures_and_recordings_with_place_and_time(place, tmp_path):
    gallery = index(place, tmp_path / "g")
    assert (gallery.changes.frames, gallery.changes.added, gallery.changes.broken) == (5, 4, {})
    found = rows(gallery)
    assert set(found) == {*WALK, PICTURE}
    assert found["cam1/walk.mkv#t=2&xywh=16,10,20,40"] == {
        "source": "cam1/walk.mkv",
        "second": 2.0,
        "box": "16,10,20,40",
        "detection": 0.9,
        "time": START + datetime.timedelta(seconds=2),
    }
    assert found[PICTURE]["time"] == datetime.datetime(2026, 11, 25, 9, 30) and "second" not in found[PICTURE]
    # What was embedded is the person alone, to the pixel.
    red = np.float32(RED) + 1
    vectors = gallery.store.vectors(sorted(found))
    assert np.abs(vectors - red / np.linalg.norm(red)).max() < 0.15
    hits = gallery.search("red", where="time between '2026-11-25 08:00:01' and '2026-11-25 08:00:02.5'")
    assert {hit.path for hit in hits} == {path for path in WALK if "t=0" not in path}
    assert {hit.path for hit in gallery.search("red", where="time >= '2026-11-25 09:00'")} == {PICTURE}


@pytest.mark.parametrize("every, seconds", [(0.5, [0, 0.5, 1, 1.5, 2, 2.5]), (1.2, [0, 1.25, 2.5]), (60, [0])])
def test_a_recording_is_looked_at_every_few_seconds(place, every, seconds):
    with open_recording(place / "cam1" / "walk.mkv") as recording:
        found = list(recording.frames(every))
        assert [second for second, _ in found] == seconds and recording.start == START
    for second, image in found:
        with open_recording(place / "cam1" / "walk.mkv") as recording:
            assert (np.asarray(recording.at(second)) == np.asarray(image)).all()
    with (
        open_recording(place / "cam1" / "walk.mkv") as recording,
        pytest.raises(ValueError, match="no frame at 0:00:0"),
    ):
        recording.at(1.1)


def test_an_update_reads_only_what_is_new(place, tmp_path, monkeypatch):
    before = rows(index(place, tmp_path / "g"))
    gallery, detector = PersonGallery.load(tmp_path / "g", Counting()), Painted()
    assert gallery.is_current()
    with monkeypatch.context() as patch:
        patch.setattr(cropping, "open_recording", None)  # decoding would fail
        detector.seen = None
        options = PersonDetector(detector, min_height=20)
        # Touched, renamed and copied files are known by their content.
        os.utime(place / "cam1" / "walk.mkv", ns=(1, 1))
        assert not gallery.is_current()
        assert gallery.update(detector=options).unchanged == 4 and rows(gallery) == before
        os.rename(place / "cam1" / "walk.mkv", place / "moved.mkv")
        shutil.copy(place / "moved.mkv", place / "copy 2027-01-01 00.00.00.mkv")
        changes = gallery.update(detector=options)
        assert (changes.copied, changes.removed, changes.frames, changes.broken) == (6, 3, 0, {})
        found = rows(gallery)
        assert {path.replace("moved", "cam1/walk") for path in found if "moved" in path} == WALK
        moved = found["moved.mkv#t=1&xywh=8,10,20,40"]
        assert moved == {**before["cam1/walk.mkv#t=1&xywh=8,10,20,40"], "source": "moved.mkv"}
        assert found["copy 2027-01-01 00.00.00.mkv#t=1&xywh=8,10,20,40"]["time"].year == 2027
    # Changed and deleted ones.
    record(place / "moved.mkv", walk(5, start=30))
    (place / "copy 2027-01-01 00.00.00.mkv").unlink()
    (place / "nobody.png").unlink()
    detector.seen = 0
    changes = gallery.update()
    assert detector.seen == changes.frames == 2 and (changes.added, changes.removed) == (2, 6)
    assert set(rows(gallery)) == {PICTURE, "moved.mkv#t=0&xywh=30,10,20,40", "moved.mkv#t=1&xywh=38,10,20,40"}
    assert gallery.is_current() and "time" not in rows(gallery)["moved.mkv#t=0&xywh=30,10,20,40"]
    assert set(json.loads((tmp_path / "g" / "frames.json").read_text())) == {"2026-11-25_09-30-00.png", "moved.mkv"}


def test_an_update_that_was_ended_in_a_recording_goes_on_there(place, tmp_path, monkeypatch):
    monkeypatch.setattr(cropping, "PIECE", 2)
    whole = rows(index(place, tmp_path / "whole", every=0.25))
    with pytest.raises(KeyboardInterrupt):
        index(place, tmp_path / "g", Painted(stop_after=8), every=0.25, batch_size=2)
    assert 0 < len(PersonGallery.load(tmp_path / "g", Counting())) < len(whole) == 13
    again = Painted()
    gallery = index(place, tmp_path / "g", again, every=0.25)
    assert rows(gallery) == whole and again.seen < 13 and gallery.changes.unchanged
    assert index(place, tmp_path / "g", again, every=0.25).changes.frames == 0


def write_bad(folder):
    """Files that can't be read, or not to their end, by what is said of them."""
    good = record(folder / "long.mkv", walk(40), codec="mpeg4").read_bytes()
    (folder / "cut.mkv").write_bytes(good[: len(good) * 2 // 3])
    (folder / "long.mkv").unlink()
    record(folder / "jump.mkv", walk(3), seconds=[0, 1, 3e5])
    # A recording of a format that is not on the list, which FFmpeg alone would read.
    record(folder / "other.y4m", walk(2), codec="wrapped_avframe").rename(folder / "other.mp4")
    (folder / "text.mp4").write_text("nothing" * 100)
    (folder / "empty.avi").write_bytes(b"")
    (folder / "list.mp4").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{folder}/jump.mkv\n#EXT-X-ENDLIST\n"
    )
    (folder / "list.avi").write_text("ffconcat version 1.0\nfile jump.mkv\n")
    (folder / "broken.jpg").write_text("no image")
    with av.open(str(folder / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    return {
        "cut.mkv": "was it copied in full?",
        "jump.mkv": "read up to 0:00:01.0 alone: a time stamp lies beyond 48 hours",
        "other.mp4": "it is no recording that is read",
        "text.mp4": "it is no recording that is read",
        "empty.avi": "it is no recording that is read",
        "list.mp4": "it is no recording that is read",
        "list.avi": "it is no recording that is read",
        "sound.mkv": "it has no pictures",
        "broken.jpg": "it is no image that is read",
    }


def test_bad_files_are_a_line_each_and_the_rest_goes_on(tmp_path):
    (tmp_path / "f").mkdir()
    wanted = write_bad(tmp_path / "f")
    frame([(RED, 5, 4, 30, 50)]).save(tmp_path / "f" / "good.png")
    gallery = index(tmp_path / "f", tmp_path / "g")
    broken = gallery.changes.broken
    assert set(broken) == set(wanted)
    for name, text in wanted.items():
        assert text in broken[name] and "\n" not in broken[name] and len(broken[name]) < 320, broken[name]
    # What was read before the end counts.
    sources = [row["source"] for row in rows(gallery).values()]
    assert sources.count("jump.mkv") == 2 and sources.count("cut.mkv") > 1 and sources.count("good.png") == 1
    before = rows(gallery)
    again = Painted()
    gallery = index(tmp_path / "f", tmp_path / "g", again)
    assert again.seen == 0 and rows(gallery) == before and set(gallery.changes.broken) == set(wanted)
    # One that broke later has no persons any more.
    (tmp_path / "f" / "good.png").write_text("no image")
    assert "good.png" in gallery.update().broken and "good.png#xywh=5,4,30,50" not in rows(gallery)


def test_a_file_that_grows_ends_where_it_ended_when_it_was_opened(tmp_path):
    (tmp_path / "f").write_bytes(b"0123456789")
    with open(tmp_path / "f", "rb") as opened:
        bounded = _Bounded(opened)
        with open(tmp_path / "f", "ab") as file:
            file.write(b"more")
        assert bounded.read(4) == b"0123" and bounded.read() == b"456789" and bounded.read(5) == b""
        assert bounded.seek(-2, os.SEEK_END) == 8 and bounded.read(9) == b"89"


def test_a_turned_recording_is_set_upright(tmp_path):
    """A player turns it by a quarter against the clock: what lies at the right comes to the top."""
    if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV writes no turned recordings")
    file = record(tmp_path / "t.mov", [frame([(RED, 80, 0, 16, 64)])] * 2, codec="mpeg4", rotation=90)
    with open_recording(file) as recording:
        ((_, image),) = recording.frames(9)
    assert image.size == (64, 96)
    assert image.getpixel((32, 5))[0] > 120 and image.getpixel((32, 60))[0] < 120


@pytest.mark.parametrize(
    "name, time",
    [
        ("cam_20261125083001.mp4", (2026, 11, 25, 8, 30, 1)),
        ("20261125T083001Z.mp4", (2026, 11, 25, 8, 30, 1)),
        ("a/2026-11-25 08.30.01 c2.jpg", (2026, 11, 25, 8, 30, 1)),
        ("2026-13-25_08-30-01.mp4", None),
        ("1202611250830012.mp4", None),
        ("2026-11-25_08-30-01/clip.mp4", None),
    ],
)
def test_a_time_in_a_name_is_read(name, time):
    assert time_in_name(name) == (time and datetime.datetime(*time))


def test_a_table_says_of_files_what_holds_for_their_persons(place, tmp_path):
    table = tmp_path / "cameras.csv"
    table.write_text("path,camera,time\ncam1/walk.mkv,c1,2030-01-01 12:00\nnone.png,c9,\n")
    detector = PersonDetector(Painted(), min_height=20)
    gallery = PersonGallery.from_images(
        Counting(), None, place, metadata=table, folder=tmp_path / "g", detector=detector
    )
    found = rows(gallery)["cam1/walk.mkv#t=2&xywh=16,10,20,40"]
    assert found["camera"] == "c1" and found["time"] == datetime.datetime(2030, 1, 1, 12, 0, 2)
    assert gallery.changes.unmatched == 1
    # Other words about the same files: nothing is looked at again.
    table.write_text("path,camera\ncam1/walk.mkv,c2\n")
    changes = gallery.update()
    assert (changes.described, changes.frames) == (3, 0)
    found = rows(gallery)["cam1/walk.mkv#t=2&xywh=16,10,20,40"]
    assert found["camera"] == "c2" and found["time"] == START + datetime.timedelta(seconds=2)
    assert gallery.update().described == 0
    for column, message in (("box,x", "can't be called box"), ("time,soon", "holds text values, expected times")):
        name, value = column.split(",")
        table.write_text(f"path,{name}\ncam1/walk.mkv,{value}\n")
        with pytest.raises(ValueError, match=message):
            gallery.update()


def test_frames_may_be_images_in_memory(tmp_path):
    images = [frame([(RED, 5, 4, 30, 50)]), frame([]), frame([(RED, 1, 2, 30, 60)])]
    gallery = PersonGallery.from_images(Counting(), None, images, detector=PersonDetector(Painted(), min_height=20))
    assert set(rows(gallery)) == {"image 0#xywh=5,4,30,50", "image 2#xywh=1,2,30,60"}
    changes = gallery.update(images)
    assert (changes.unchanged, changes.frames) == (2, 0)
    kept = gallery.save(tmp_path / "g")
    assert kept.detects and set(rows(kept)) == set(rows(gallery))


def test_detections_are_bounded_and_filtered():
    box = {"xmin": -5, "ymin": 10, "xmax": 25, "ymax": 500}
    small, flat = {**box, "ymax": 40}, {**box, "xmin": 25}
    answer = [{"score": 0.6 + n / 1000, "label": "person", "box": box} for n in range(150)]
    answer += [{"score": 0.9, "label": "person", "box": wrong} for wrong in (small, flat)]
    answer += [{"score": 0.2, "label": "person", "box": box}, {"score": 0.9, "label": "cat", "box": box}]
    (found,) = PersonDetector(lambda images, **_: [answer]).find([frame([], (96, 100))])
    assert len(found) == detection.MAX_PERSONS and {person.box for person in found} == {(0, 10, 25, 90)}
    assert [round(person.score, 3) for person in found[:2]] == [0.749, 0.748]


@pytest.mark.parametrize("options", [{"threshold": 0}, {"threshold": 1.0}, {"min_height": 0}, {"every": 0.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PersonDetector(Painted(), **options)


def test_results_show_the_person_and_the_frame_with_the_box(place, tmp_path):
    path = "cam1/walk.mkv#t=2&xywh=16,10,20,40"
    crop, whole = read_file(place)(path), read_frame(place)(path)
    assert crop.size == (20, 40) and np.abs(np.asarray(crop).astype(int) - (200, 0, 24)).max() < 12
    pixels = np.asarray(whole).astype(int)
    drawn = (pixels == BOX).all(-1)
    inside = np.zeros_like(drawn)
    inside[10:50, 16:36] = True
    # Around the person, and nothing of it.
    assert drawn.any() and not drawn[inside].any() and drawn[8:10, 16:36].all() and drawn[10:50, 36:38].all()
    assert read_frame(place)("nobody.png") is None and read_file(place)("nobody.png").size == (96, 64)
    page = as_html([Hit(path, 0.5)], "q", "", read_file(place), read_frame(place))
    assert page.count("<img") == 2 and f'<img class="frame" alt="{html.escape(path)}"' in page
    sheet = as_sheet([Hit(path, 0.5), Hit(PICTURE, 0.4)], "q", read_file(place), read_frame(place))
    assert (np.asarray(sheet).astype(int) - BOX == 0).all(-1).sum() > 100
    # A file whose name looks like a fragment is a file; one that leaves the folder is none.
    frame([]).save(place / "a#xywh=1,2,3,4.png")
    assert read_file(place)("a#xywh=1,2,3,4.png").size == (96, 64)
    with pytest.raises(ValueError, match="leaves"):
        read_file(place)("../frames/nobody.png#xywh=1,2,3,4")
    gone = as_html([Hit("gone.mkv#t=1&xywh=1,2,3,4", 0.5)], "q", "", read_file(place), read_frame(place))
    assert "can't be read" in gone and "<img" not in gone


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model, a detector of random weights, one without its weights, and a folder that wants its code to be run."""
    folder = tmp_path_factory.mktemp("models")
    processor = AMNSProcessor.from_captions(CAPTIONS * 20, IMAGE_SIZE, vocab_size=620)
    tiny_retrieval_model(processor).amns.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    labels = {"id2label": {0: "pedestrian", 1: "car"}, "label2id": {"pedestrian": 0, "car": 1}}
    made = YolosForObjectDetection(
        YolosConfig(**sizes, **labels, image_size=[32, 48], patch_size=16, num_detection_tokens=6)
    )
    # Queries that differ, boxes that are no points.
    torch.nn.init.normal_(made.vit.embeddings.detection_tokens, std=2)
    for name in ("detector", "headless"):
        made.save_pretrained(folder / name)
        YolosImageProcessorPil(size={"height": 32, "width": 48}).save_pretrained(folder / name)
    made.vit.save_pretrained(folder / "headless")
    (folder / "code").mkdir()
    auto = {"AutoConfig": "evil.C", "AutoModelForObjectDetection": "evil.M"}
    (folder / "code" / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    (folder / "code" / "evil.py").write_text("import sys\nsys.evil = True\n")
    return folder


@pytest.fixture
def amns(capsys):
    def run(*words):
        capsys.readouterr()
        code = commands.main([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), [line for line in printed.err.splitlines() if line.startswith("amns")]

    return run


def test_the_command_indexes_with_a_checkpoint_of_transformers(amns, models, place, tmp_path):
    """Against transformers' own pipeline, called here."""
    found = pipeline("object-detection", model=str(models / "detector"))
    wanted = set()
    images = {file.name: Image.open(file).convert("RGB") for file in place.glob("*.png")}
    for name, image in images.items():
        for answer in found(image, threshold=0.2):
            x, y, right, bottom = (answer["box"][side] for side in ("xmin", "ymin", "xmax", "ymax"))
            if answer["label"] == "pedestrian" and bottom - y >= 8 and right > x:
                wanted.add(str(Fragment(name, (x, y, right - x, bottom - y))))
    assert wanted
    how = ("--detect", models / "detector", "--label", "pedestrian", "--threshold", 0.2, "--min-height", 8)
    code, _, err = amns("index", place, "--model", models / "model", *how)
    assert code == 0 and "5 frames looked at" in err[-1]
    gallery = PersonGallery.load(place / ".amns")
    assert {path for path in gallery.store.read().paths if ".png#" in path} == wanted
    # The gallery knows its detector: a new picture is found by a search.
    shutil.copy(place / "nobody.png", place / "new.png")
    frame([(RED, 5, 4, 30, 50)], (120, 90)).save(place / "other.png")
    files = tmp_path / "p.html", tmp_path / "s.png"
    code, out, err = amns("search", place, "a man", "--json", "--html", files[0], "--sheet", files[1], "-k", 2)
    assert code == 0 and "1 frames looked at" in err[0] and all(file.is_file() for file in files)
    first = json.loads("\n".join(out))[0]
    assert first["path"].startswith(str(place)) and first["metadata"]["source"] in first["path"]
    # A recording alone has a gallery beside it.
    clip = place / "cam1" / "walk.mkv"
    assert amns("index", clip, "--model", models / "model", *how, "--every", 0.5)[0] == 0
    code, out, err = amns("search", clip, "a man", "--paths", "--where", "second between 0.5 and 1")
    assert code == 0 and not err and out and all(line.startswith(f"{clip}#t=") for line in out)
    assert (place / "cam1" / ".walk.mkv.amns").is_dir()


def test_bad_calls_are_one_line(amns, models, place, tmp_path, monkeypatch):
    (tmp_path / "only").mkdir()
    shutil.copy(place / "cam1" / "walk.mkv", tmp_path / "only" / "walk.mkv")
    (tmp_path / "plain").mkdir()
    shutil.copy(place / "nobody.png", tmp_path / "plain" / "x.png")
    model = ("--model", models / "model")
    detect = (*model, "--detect", models / "detector", "--label", "pedestrian")
    assert amns("index", tmp_path / "plain", *model)[0] == 0
    assert amns("index", place, *detect, "--threshold", 0.99)[2][-1].startswith(
        "amns index: no person was found in any"
    )
    for words, message in (
        ((tmp_path / "only", *model), "There are 1 recordings, in which a detector finds persons"),
        ((tmp_path / "only" / "walk.mkv", *model), "is a file; with --detect MODEL"),
        ((place / "notes.txt", *detect), "neither an image nor a recording"),
        ((tmp_path / "only", *model, "--every", 2), "--every is about persons in frames; it needs --detect"),
        ((tmp_path / "only", *model, "--detect", models / "detector"), "no label 'person'; it has pedestrian, car."),
        ((tmp_path / "only", *model, "--detect", models / "none"), "no id of the Hub is written so"),
        ((tmp_path / "only", *model, "--detect", models / "model"), "is no object detection checkpoint"),
        ((tmp_path / "only", *model, "--detect", models / "headless"), "weights of the detector are missing"),
        ((tmp_path / "only", *model, "--detect", models / "code"), "is no object detection checkpoint"),
        ((tmp_path / "plain", *detect), "holds whole images; index persons in frames in another"),
        ((place, *detect, "--threshold", 0.3), "other options of the detector: threshold 0.3, not 0.99"),
    ):
        code, _, err = amns("index", *words)
        assert code == 1 and len(err) == 1 and message in err[0], (message, err)
    assert not hasattr(sys, "evil")
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, err = amns("index", tmp_path / "only", *detect)
    assert code == 1 and "Reading recordings needs the package av, which is not installed: pip install" in err[-1]
    assert "[video]" in err[-1]


def test_another_detector_is_refused(models, place, tmp_path):
    first = PersonDetector(models / "detector", "pedestrian", 0.2, 8)
    gallery = PersonGallery.from_images(Counting(), None, place, folder=tmp_path / "g", detector=first)
    other = PersonDetector(models / "detector", "pedestrian", 0.2, 8)
    with torch.no_grad():
        # The head alone: what tells persons from cars.
        other.pipeline.model.class_labels_classifier.layers[0].weight += 1
    with pytest.raises(ValueError, match="made with another detector .* has other weights"):
        gallery.update(detector=other)
    gallery = PersonGallery.load(tmp_path / "g", Counting())
    shutil.rmtree(place / "cam1")
    frame([], (50, 40)).save(place / "new.png")
    assert gallery.update().frames == 1


def test_one_process_finds_persons(place, tmp_path, monkeypatch):
    gallery = index(place, None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="leave out accelerate"):
        gallery.update()


def test_the_demo_page_shows_persons_cut_from_frames_and_searches_for_more_like_them(place, tmp_path):
    gallery = index(place, tmp_path / "g")
    search = GallerySearch(gallery)
    try:
        (still,) = [path for path in rows(gallery) if ".png" in path]
        moving = next(path for path in rows(gallery) if "#t=" in path)
        for path in (still, moving):
            data = base64.b64decode(search.pictures.thumbnail(path).partition(",")[2])
            with Image.open(io.BytesIO(data)) as shown:
                assert shown.size == read_file(place)(path).size
                red, green, _ = np.asarray(shown, int).reshape(-1, 3).mean(0)
            assert red > 120 > green
            found = search.ask(Question(like=path, count=60)).hits
            (own,) = [hit for hit in found if hit.path == path]
            assert own.score == found[0].score == pytest.approx(1, abs=1e-3) and found[-1].score < own.score
        outside = tmp_path / "outside.png"
        frame([(RED, 5, 4, 30, 50)]).save(outside)
        (place / "link.png").symlink_to(outside)
        with pytest.raises(ValueError, match="leaves the gallery's folder"):
            search.pictures.thumbnail("link.png#xywh=5,4,30,50")
        frame([]).save(place / "odd.png#xywh=1,1,2,2", "PNG")
        assert search.pictures.file("odd.png#xywh=1,1,2,2").name == "odd.png#xywh=1,1,2,2"
    finally:
        search.close()
