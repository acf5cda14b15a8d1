"""Benchmarks on disk: the columns, the layouts, and what is said when files are missing or wrong."""

import json
import os
import warnings

import numpy as np
import pytest
from PIL import Image

from modeling_amns import inject_noise, load_benchmark, make_synthetic_benchmark
from modeling_amns.data.benchmarks import BENCHMARKS, dropped_pairs
from modeling_amns.data.images import decode_image

SIZES = {"train_identities": 6, "val_identities": 3, "test_identities": 4, "images_per_identity": 2}
FOLDERS = {"cuhk-pedes": "CUHK-PEDES", "icfg-pedes": "ICFG-PEDES", "rstpreid": "RSTPReid"}
LAYOUTS = [*FOLDERS, "synthetic-pedes"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    roots = {}
    for layout in LAYOUTS:
        roots[layout] = tmp_path_factory.mktemp(layout)
        make_synthetic_benchmark(roots[layout], layout=layout, num_workers=1, **SIZES)
    return roots


def quietly(name, root, split, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_benchmark(name, root, split, **options)


@pytest.fixture
def small(tmp_path):
    """A benchmark of three images that a test may spoil: its folder and its records."""
    folder = tmp_path / "synthetic-pedes"
    (folder / "imgs" / "a").mkdir(parents=True)
    records = []
    for number in range(3):
        Image.new("RGB", (8, 16), (80 * number, 0, 0)).save(folder / "imgs" / "a" / f"{number}.png")
        records.append({"id": number + 5, "file_path": f"a/{number}.png", "captions": [f"person {number}"], "split": "train"})
    (folder / "reid_raw.json").write_text(json.dumps(records))
    return folder, records


def rewrite(folder, records):
    (folder / "reid_raw.json").write_text(json.dumps(records))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_train_rows_are_the_pairs_in_annotation_order(made, layout):
    benchmark = BENCHMARKS[layout]
    folder = made[layout] / benchmark.folder
    train = quietly(layout, made[layout], "train")
    records = [r for r in json.loads((folder / benchmark.annotations[0]).read_text()) if r["split"] == "train"]
    want = [(caption, r[benchmark.path_field]) for r in records for caption in r["captions"]]
    assert list(zip(train["caption"], train["image_path"])) == want
    assert train.column_names == ["image", "caption", "person_id", "image_id", "image_path"]
    assert sorted(set(train["person_id"])) == list(range(6))
    first = min(r["id"] for r in records)
    assert train["person_id"][:] == [r["id"] - first for r in records for _ in r["captions"]]
    assert train["image_id"][:] == [number for number, r in enumerate(records) for _ in r["captions"]]
    assert train[0]["image"].size == (48, 128)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_test_split_is_a_gallery_of_images_and_queries_of_captions(made, layout):
    test = quietly(layout, made[layout], "test")
    gallery, queries = test["gallery"], test["queries"]
    assert gallery.column_names == ["image", "person_id", "image_id", "image_path"]
    assert queries.column_names == ["caption", "person_id", "image_id"]
    assert len(gallery) == 8 and len(queries) == (8 if layout == "icfg-pedes" else 16)
    owner = dict(zip(gallery["image_id"], gallery["person_id"]))
    assert all(owner[image] == person for image, person in zip(queries["image_id"], queries["person_id"]))


def test_the_root_may_be_the_benchmarks_own_folder(made):
    for layout in LAYOUTS:
        outer = quietly(layout, made[layout], "train")
        inner = quietly(layout, made[layout] / BENCHMARKS[layout].folder, "train")
        assert outer["image_path"][:] == inner["image_path"][:]


def test_the_other_name_of_icfg_pedes_is_read(made, tmp_path):
    source = made["icfg-pedes"] / "ICFG-PEDES"
    (tmp_path / "imgs").symlink_to(source / "imgs")
    (tmp_path / "ICFG_PEDES.json").write_text((source / "ICFG-PEDES.json").read_text())
    assert len(quietly("icfg-pedes", tmp_path, "train")) == 12


def test_a_missing_val_split_is_said(made):
    with pytest.raises(ValueError, match="icfg-pedes has no val split; published results select on test"):
        load_benchmark("icfg-pedes", made["icfg-pedes"], "val")


def test_counts_that_differ_from_the_published_ones_are_a_warning_with_both(made):
    with pytest.warns(UserWarning, match="rstpreid train: 24 pairs, 37010 are published"):
        load_benchmark("rstpreid", made["rstpreid"], "train")


def test_the_same_files_give_the_same_fingerprint_and_changed_ones_another(small):
    folder, records = small
    first, second = (load_benchmark("synthetic-pedes", folder, "train") for _ in range(2))
    assert first._fingerprint == second._fingerprint
    records[0]["captions"] = ["somebody else"]
    rewrite(folder, records)
    assert load_benchmark("synthetic-pedes", folder, "train")._fingerprint != first._fingerprint


def test_missing_images_stop_with_their_folders_and_counts_or_are_dropped_and_counted(small):
    folder, records = small
    records[2]["file_path"] = "Market/9.png"
    records[2]["captions"] = ["one", "two"]
    rewrite(folder, records)
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images are missing .* Market/ \(1\); the first is Market/9.png"):
        load_benchmark("synthetic-pedes", folder, "train")
    kept = load_benchmark("synthetic-pedes", folder, "train", on_missing="drop")
    assert len(kept) == 2 and dropped_pairs(kept) == 2
    assert dropped_pairs(inject_noise(kept, 0.0)) == 2
    assert sorted(kept["person_id"]) == [0, 1]


def test_missing_folders_and_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="cuhk-pedes: there is no folder .*nowhere"):
        load_benchmark("cuhk-pedes", tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match="no annotation file in .*; looked for ICFG-PEDES.json, ICFG_PEDES.json"):
        load_benchmark("icfg-pedes", tmp_path, "train")
    (tmp_path / "reid_raw.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match="has reid_raw.json but no folder imgs/"):
        load_benchmark("cuhk-pedes", tmp_path, "train")
    (tmp_path / "reid_raw.json").rename(tmp_path / "caption_all.json")
    with pytest.raises(FileNotFoundError, match="caption_all.json, which carries no split"):
        load_benchmark("cuhk-pedes", tmp_path, "train")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"id": "7"}, r"record 1: id must be a whole number of at least 0, found '7'"),
        ({"id": float("nan")}, "id must be a whole number"),
        ({"id": True}, "id must be a whole number"),
        ({"id": -1}, "id must be a whole number"),
        ({"file_path": "../secret.png"}, "record 1: file_path '../secret.png' leaves the image folder"),
        ({"file_path": "/etc/passwd"}, "leaves the image folder"),
        ({"file_path": "a/../../x.png"}, "leaves the image folder"),
        ({"file_path": 3}, "file_path must be the path of an image, found 3"),
        ({"captions": []}, "captions must be a list with at least one sentence"),
        ({"captions": "a man"}, "captions must be a list"),
        ({"captions": ["a man", "  "]}, r"record 1 \('a/1.png'\): caption '  ' is empty"),
        ({"captions": [None]}, "caption None is empty or no text"),
        ({"split": None}, "split must be a text"),
    ],
)
def test_a_record_that_is_not_right_is_named_with_its_file(small, change, message):
    folder, records = small
    records[1].update(change)
    rewrite(folder, records)
    with pytest.raises(ValueError, match=message) as caught:
        load_benchmark("synthetic-pedes", folder, "train")
    assert str(folder / "reid_raw.json") in str(caught.value)


@pytest.mark.parametrize("field", ["id", "file_path", "captions", "split"])
def test_a_lacking_field_is_named(small, field):
    folder, records = small
    del records[2][field]
    rewrite(folder, records)
    with pytest.raises(ValueError, match=rf"record 2: the field\(s\) {field} are missing; it has"):
        load_benchmark("synthetic-pedes", folder, "train")


@pytest.mark.parametrize(
    "text, message",
    [("", "is not valid JSON"), ("[{", "is not valid JSON"), ("{}", "found a JSON dict"), ("[]", "an empty list"), ("[3]", "expected an object")],
)
def test_an_annotation_file_that_is_no_list_of_records_is_an_error(small, text, message):
    folder, _ = small
    (folder / "reid_raw.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_benchmark("synthetic-pedes", folder, "train")


def mutations(records, generator):
    """Endless spoiled annotation files as bytes."""
    odd = [None, True, -1, 0, 1.5, float("nan"), 10**30, "", "x" * 100_000, "../x", [], [[]], {}, {"id": 1}, "\0"]
    fields = ["id", "file_path", "captions", "split"]
    while True:
        spoiled = json.loads(json.dumps(records))
        for _ in range(int(generator.integers(1, 4))):
            record = spoiled[int(generator.integers(len(spoiled)))]
            kind, field = int(generator.integers(5)), fields[int(generator.integers(4))]
            value = odd[int(generator.integers(len(odd)))]
            if not isinstance(record, dict):
                continue
            if kind == 0:
                record.pop(field, None)
            elif kind == 1:
                record[field] = value
            elif kind == 2:
                record["captions"] = [value]
            elif kind == 3:
                spoiled[int(generator.integers(len(spoiled)))] = value
            else:
                spoiled.append(record)
        text = json.dumps(spoiled).encode()
        if generator.random() < 0.2:
            text = text[: int(generator.integers(len(text)))]
        if generator.random() < 0.1:
            text = text.replace(b'"', b"\xff", 1)
        yield text


def test_three_hundred_spoiled_annotation_files_give_documented_errors_only(small):
    folder, records = small
    source = mutations(records, np.random.default_rng(0))
    errors = 0
    for _ in range(300):
        (folder / "reid_raw.json").write_bytes(next(source))
        try:
            quietly("synthetic-pedes", folder, "train")
        except (ValueError, FileNotFoundError) as error:
            errors += 1
            assert type(error) in (ValueError, FileNotFoundError)
            assert "reid_raw.json" in str(error) or "images" in str(error)
            assert len(str(error)) < 700
    assert errors > 200


def test_a_link_out_of_the_image_folder_is_not_followed(small, tmp_path):
    folder, _ = small
    (tmp_path / "outside.png").write_bytes((folder / "imgs" / "a" / "1.png").read_bytes())
    (folder / "imgs" / "a" / "1.png").unlink()
    os.symlink(tmp_path / "outside.png", folder / "imgs" / "a" / "1.png")
    with pytest.raises(FileNotFoundError, match="1 of 3 images are missing"):
        load_benchmark("synthetic-pedes", folder, "train")


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="no benchmark 'market'; the benchmarks are cuhk-pedes, icfg-pedes"):
        load_benchmark("market", tmp_path, "train")
    with pytest.raises(ValueError, match="split must be one of train, val, test"):
        load_benchmark("cuhk-pedes", tmp_path, "all")
    with pytest.raises(ValueError, match="on_missing must be error or drop"):
        load_benchmark("cuhk-pedes", tmp_path, "train", on_missing="skip")


def test_a_truncated_or_missing_image_is_named(small):
    folder, _ = small
    file = folder / "imgs" / "a" / "1.png"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"a/1.png can't be read"):
        decode_image({"path": str(file), "bytes": None}, where="a/1.png")
    with pytest.raises(ValueError, match="The image .*nothing.png does not exist"):
        decode_image({"path": "nothing.png", "bytes": None})


def test_a_large_jpeg_is_decoded_smaller_but_never_below_twice_the_size(tmp_path):
    Image.new("RGB", (400, 1200), "red").save(tmp_path / "big.jpg")
    image = decode_image({"path": str(tmp_path / "big.jpg"), "bytes": None}, size=(128, 48))
    assert 96 <= image.width < 400 and 256 <= image.height < 1200
