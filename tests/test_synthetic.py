"""The synthetic benchmark: its bytes, its layouts, what its captions may say, and how hard it is."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from math import comb

import numpy as np
import pytest
from PIL import Image

from modeling_amns.data.synthetic import LAYOUTS, make_synthetic_benchmark, plan_benchmark
from modeling_amns.data.synthetic.camera import CAMERAS
from modeling_amns.data.synthetic.captions import COLOUR_WORDS, MISTAKES, WRONG_RATE
from modeling_amns.data.synthetic.people import ATTRIBUTES, NONE, visible_attributes

SMALL = {"train_identities": 6, "val_identities": 3, "test_identities": 4, "images_per_identity": 2}


@pytest.fixture(scope="module")
def planned_test_split():
    """The default test split, without pixels."""
    return [plan for plan in plan_benchmark(train_identities=600, images_per_identity=4) if plan.split == "test"]


def read_records(folder, layout):
    return json.loads((folder / LAYOUTS[layout].annotation).read_text(encoding="utf-8"))


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_gives_same_bytes_whatever_the_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_amns.data.synthetic.benchmark.MIN_PARALLEL_IMAGES", 1)
    one = make_synthetic_benchmark(tmp_path / "one", **SMALL, num_workers=1)
    two = make_synthetic_benchmark(tmp_path / "two", **SMALL, num_workers=2)
    other = make_synthetic_benchmark(tmp_path / "other", **SMALL, seed=1, num_workers=1)
    assert digest(one) == digest(two)
    assert digest(one) != digest(other)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_has_the_fields_folders_and_first_id_of_the_real_one(tmp_path, layout):
    folder = make_synthetic_benchmark(tmp_path, layout, **SMALL)
    records = read_records(folder, layout)
    path_field = "img_path" if layout == "rstpreid" else "file_path"
    fields = {"id", path_field, "captions", "split"} | ({"processed_tokens"} if layout != "rstpreid" else set())
    splits = {"train": 6, "test": 4} | ({} if layout == "icfg-pedes" else {"val": 3})
    assert all(set(record) == fields for record in records)
    assert {s: len({r["id"] for r in records if r["split"] == s}) for s in {r["split"] for r in records}} == splits
    assert min(record["id"] for record in records) == (1 if layout in ("synthetic-pedes", "cuhk-pedes") else 0)
    assert {len(record["captions"]) for record in records} == {1 if layout == "icfg-pedes" else 2}
    tops = {record[path_field].split("/")[0] for record in records}
    if layout == "rstpreid":
        assert all("/" not in record[path_field] for record in records)
    elif layout == "icfg-pedes":
        assert tops == {"train", "test"}
    else:
        assert tops <= {"cam_a", "cam_b", "CUHK03", "Market", "test_query", "train_query"}
    for record in records:
        with Image.open(folder / "imgs" / record[path_field]) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 128))


def test_layouts_show_the_same_people_in_the_same_images(tmp_path):
    cuhk = make_synthetic_benchmark(tmp_path, "cuhk-pedes", **SMALL)
    rstp = make_synthetic_benchmark(tmp_path, "rstpreid", **SMALL)
    for one, two in zip(read_records(cuhk, "cuhk-pedes"), read_records(rstp, "rstpreid"), strict=True):
        assert one["captions"] == two["captions"]
        assert (cuhk / "imgs" / one["file_path"]).read_bytes() == (rstp / "imgs" / two["img_path"]).read_bytes()


@pytest.mark.parametrize("size", [(64, 24), (64, 48), (80, 64)])
def test_the_smallest_images_can_be_drawn(tmp_path, size):
    """Sixty people: among them are glasses, whose corners met in small images."""
    people = {"train_identities": 60, "val_identities": 1, "test_identities": 1}
    folder = make_synthetic_benchmark(tmp_path, **people, images_per_identity=2, image_size=size, num_workers=1)
    assert len(list((folder / "imgs").rglob("*.*"))) == 2 * 62


def test_image_size_is_height_and_width(tmp_path):
    folder = make_synthetic_benchmark(tmp_path, **SMALL, image_size=(192, 64))
    with Image.open(folder / "imgs" / read_records(folder, "synthetic-pedes")[0]["file_path"]) as image:
        assert image.size == (64, 192)


def test_a_finished_benchmark_is_left_alone(tmp_path):
    folder = make_synthetic_benchmark(tmp_path, **SMALL)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert make_synthetic_benchmark(tmp_path, **SMALL) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_failure_leaves_no_annotation_and_the_next_call_completes(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("modeling_amns.data.synthetic.benchmark.render_image", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make_synthetic_benchmark(tmp_path / "a", **SMALL)
    assert not (tmp_path / "a/synthetic-pedes/reid_raw.json").exists()
    folder = make_synthetic_benchmark(tmp_path / "a", **SMALL)
    assert digest(folder) == digest(make_synthetic_benchmark(tmp_path / "b", **SMALL))


def test_another_seed_is_not_written_over_a_benchmark(tmp_path):
    make_synthetic_benchmark(tmp_path, **SMALL)
    with pytest.raises(FileExistsError, match=r"made with seed 0 \(asked: 5\).*another root"):
        make_synthetic_benchmark(tmp_path, **SMALL, seed=5)


def test_a_folder_with_something_else_is_refused_untouched(tmp_path):
    (tmp_path / "CUHK-PEDES").mkdir()
    (tmp_path / "CUHK-PEDES/caption_all.json").write_text("[]")
    with pytest.raises(FileExistsError, match="holds caption_all.json and no synthetic.json"):
        make_synthetic_benchmark(tmp_path, "cuhk-pedes", **SMALL)
    assert [path.name for path in (tmp_path / "CUHK-PEDES").iterdir()] == ["caption_all.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "market"}, "'market'; expected one of synthetic-pedes, cuhk-pedes, icfg-pedes, rstpreid"),
        ({"val_identities": 0}, "val_identities is 0; expected 1 or more"),
        ({"captions_per_image": -1}, "captions_per_image is -1; expected 1 or more"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"image_size": (48, 128)}, r"image_size is \(48, 128\).*at least \(64, 24\)"),
        ({"num_workers": 0}, "num_workers is 0; expected 1 or more"),
        ({"wrong_captions": 1.2}, r"wrong_captions is 1.2; expected a share in \[0, 1\]"),
        ({"wrong_captions": float("nan")}, "wrong_captions is nan"),
        ({"wrong_captions": 0.1, "wrong_attributes": 0}, "wrong_attributes is 0; expected 1 or more"),
        ({"wrong_attributes": 3}, "wrong_attributes is 3, but no captions are; pass wrong_captions as well"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_synthetic_benchmark(tmp_path, **arguments)
    assert not any(tmp_path.iterdir())


def test_no_two_people_share_all_attributes_and_half_have_look_alikes():
    people = list(dict.fromkeys(plan.person for plan in plan_benchmark(images_per_identity=1)))
    assert len({person.key for person in people}) == len(people) == 2900
    # Look-alikes stand next to each other; the colour changes with the thing, so three slots are up to seven names.
    table = np.array([person.key for person in people])
    close = (table[1:] != table[:-1]).sum(axis=1) <= 7
    share = (np.append(close, False) | np.insert(close, 0, False)).mean()
    assert 0.4 < share < 0.65


def test_every_person_is_seen_by_several_cameras_and_every_camera_by_many(planned_test_split):
    cameras = {}
    for plan in planned_test_split:
        cameras.setdefault(plan.identity, set()).add(plan.shot.camera)
    assert all(len(seen) == 4 for seen in cameras.values())
    counts = np.bincount([plan.shot.camera for plan in planned_test_split], minlength=len(CAMERAS))
    assert counts.min() > 0.1 * counts.sum()


def test_captions_name_only_what_the_view_shows_and_rarely_err(planned_test_split):
    captions = 0
    wrong = 0
    for plan in planned_test_split:
        shown = visible_attributes(plan.person, plan.shot.view, plan.shot.feet_hidden)
        for caption in plan.captions:
            captions += 1
            wrong += len(caption.wrong)
            names = {name for name, value in caption.attributes if value != getattr(plan.person, name)}
            assert names == set(caption.wrong) and len(names) <= 1
            assert {name for name, _ in caption.attributes} <= shown
            assert 15 <= len(caption.text.split()) <= 40
            assert caption.text[0].isupper() and caption.text.endswith(".")
    assert 0.5 * WRONG_RATE < wrong / captions < 1.6 * WRONG_RATE


# Of 6, 3 and 4 people, before captions could be made wrong.
PLAIN_ANNOTATION = "8808b4ae5a4da08e64c88c9fbcae57e71ec8b1c219df387330430d4b6314c9f9"


def test_without_wrong_captions_the_annotation_is_what_it_was(tmp_path):
    folder = make_synthetic_benchmark(tmp_path, **SMALL, num_workers=1)
    assert hashlib.sha256((folder / "reid_raw.json").read_bytes()).hexdigest() == PLAIN_ANNOTATION
    assert not {"look", "wrong_captions", "wrong_attributes"} & set(
        json.loads((folder / "synthetic.json").read_text())
    )


@pytest.mark.parametrize("layout", ["synthetic-pedes", "icfg-pedes"])
def test_only_train_captions_are_made_wrong_and_the_annotation_says_which(tmp_path, monkeypatch, layout):
    monkeypatch.setattr("modeling_amns.data.synthetic.benchmark.MIN_PARALLEL_IMAGES", 1)
    sizes = {**SMALL, "train_identities": 20}
    plain = make_synthetic_benchmark(tmp_path / "plain", layout, **sizes, num_workers=1)
    one, two = (
        make_synthetic_benchmark(tmp_path / f"{workers}", layout, **sizes, num_workers=workers, wrong_captions=0.4)
        for workers in (1, 2)
    )
    assert digest(one) == digest(two)
    assert digest(one / "imgs") == digest(plain / "imgs")
    changed = 0
    for before, after in zip(read_records(plain, layout), read_records(one, layout), strict=True):
        clean = after.pop("is_clean", None)
        if before["split"] != "train":
            assert clean is None and before == after
            continue
        assert [type(right) for right in clean] == [bool] * len(before["captions"])
        moved = [old != new for old, new in zip(before["captions"], after["captions"], strict=True)]
        assert not any(right and other for right, other in zip(clean, moved, strict=True))
        changed += sum(moved)
        assert before | {key: after[key] for key in ("captions", "processed_tokens")} == after
    assert changed
    assert json.loads((one / "synthetic.json").read_text())["wrong_captions"] == 0.4
    with pytest.raises(FileExistsError, match=r"wrong_captions 0.4 \(asked: None\)"):
        make_synthetic_benchmark(tmp_path / "1", layout, **sizes)


PEOPLE = {"seed": 4, "train_identities": 150, "val_identities": 10, "test_identities": 10}


@pytest.mark.parametrize("count", [1, 2, 20])
def test_a_wrong_caption_contradicts_so_many_attributes_and_says_the_rest_as_before(count):
    plain = plan_benchmark(**PEOPLE)
    wrong = plan_benchmark(**PEOPLE, wrong_captions=0.3, wrong_attributes=count)
    chosen = captions = 0
    for before, after in zip(plain, wrong, strict=True):
        assert (before.shot, before.person) == (after.shot, after.person)
        for old, new in zip(before.captions, after.captions, strict=True):
            captions += after.split == "train"
            if old == new:
                continue
            assert after.split == "train"
            chosen += 1
            said = dict(new.attributes)
            assert list(said) == [name for name, _ in old.attributes]
            false = tuple(name for name in said if said[name] != getattr(after.person, name))
            assert new.wrong == false
            assert len(false) == min(count, len(set(said) & set(MISTAKES)))
            assert set(old.wrong) <= set(false)
            true = set(new.attributes) & set(old.attributes)
            assert {name for name, _ in true} >= set(said) - set(false)
            assert new.text != old.text and 15 <= len(new.text.split()) <= 40
            for name in set(false) & {"top_colour", "lower_colour"}:
                assert any(word in new.text for word in COLOUR_WORDS[said[name]])
    # Those that err in one attribute anyhow and are to err in one stay as they are.
    assert chosen / captions == pytest.approx(0.3 * (1 - WRONG_RATE if count == 1 else 1), abs=0.05)


def test_a_larger_share_adds_wrong_captions_and_changes_none():
    few, many = (
        [caption for plan in plan_benchmark(**PEOPLE, wrong_captions=share) for caption in plan.captions]
        for share in (0.1, 0.5)
    )
    assert all(one == two for one, two in zip(few, many, strict=True) if len(one.wrong) == 2)
    assert sum(len(caption.wrong) == 2 for caption in few) < sum(len(caption.wrong) == 2 for caption in many) / 3


def test_a_caption_that_names_nothing_to_mistake_stays_as_it_is_and_right(monkeypatch):
    monkeypatch.setattr("modeling_amns.data.synthetic.captions.MISTAKES", {"gender": {"man": 1, "woman": 1}})
    plain, after = plan_benchmark(**PEOPLE), plan_benchmark(**PEOPLE, wrong_captions=1.0)
    train = [(one, two) for one, two in zip(plain, after, strict=True) if one.split == "train"]
    captions = [pair for one, two in train for pair in zip(one.captions, two.captions, strict=True)]
    silent = [(old, new) for old, new in captions if "gender" not in dict(old.attributes)]
    assert silent and all(old == new and not new.wrong for old, new in silent)
    assert all(new.wrong == ("gender",) for old, new in captions if "gender" in dict(old.attributes))


def test_the_captions_of_an_image_name_different_attributes(planned_test_split):
    pairs = [[{name for name, _ in caption.attributes} for caption in plan.captions] for plan in planned_test_split]
    assert np.mean([one != two for one, two in pairs]) > 0.9
    assert np.mean([bool(one & two) for one, two in pairs]) > 0.95


def test_named_attributes_lead_to_the_person_often_but_not_always(planned_test_split):
    """An oracle that sees attributes: images ranked by how many of the named ones their person has, ties at random."""
    people = {plan.identity: plan.person for plan in planned_test_split}
    identities = list(people)
    table = np.array([people[identity].key for identity in identities])
    images = 4
    hits = {1: [], 10: []}
    for plan in planned_test_split:
        own = identities.index(plan.identity)
        for caption in plan.captions:
            columns = [ATTRIBUTES.index(name) for name, _ in caption.attributes]
            agreeing = (table[:, columns] == [value for _, value in caption.attributes]).sum(axis=1)
            above = images * int((agreeing > agreeing[own]).sum())
            tied = images * int((agreeing == agreeing[own]).sum())
            for rank, hit in hits.items():
                drawn = max(rank - above, 0)
                hit.append(1 - comb(tied - images, drawn) / comb(tied, drawn) if drawn <= tied else 1.0)
    assert 0.85 < np.mean(hits[1]) < 0.975
    assert np.mean(hits[10]) > 0.98


def test_what_a_view_hides_is_not_visible(planned_test_split):
    walkers = [
        plan.person for plan in planned_test_split if plan.person.bag == "backpack" and plan.person.pattern == "logo"
    ]
    assert walkers
    for person in walkers:
        assert "pattern" in visible_attributes(person, "front")
        assert "pattern" not in visible_attributes(person, "back")
        assert "bag_colour" not in visible_attributes(person, "front")
        assert "bag_colour" in visible_attributes(person, "back")
        assert "shoes" not in visible_attributes(person, "front", feet_hidden=True)
        assert all(getattr(person, name) != NONE for name in visible_attributes(person, "front"))


DRAW = """
import os, sys, time
from modeling_amns.data.synthetic import benchmark
benchmark.MIN_PARALLEL_IMAGES = 1
def draw(task):
    print(os.getpid(), flush=True)
    time.sleep(0.2)
    return []
benchmark._draw_person = draw
benchmark.make_synthetic_benchmark(sys.argv[1], num_workers=2)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    program = subprocess.Popen([sys.executable, "-c", DRAW, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    workers = set()
    while len(workers) < 2:
        workers.add(int(program.stdout.readline()))
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    program.stdout.close()

    def alive(pid):
        try:
            # A worker that ended and that nobody has asked after is a zombie.
            return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    end = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in workers if alive(pid)]
