"""Benchmarks on disk: columns, layouts, splits, and what is said when files are missing or wrong."""

import json
import os
import re
import shutil
import warnings

import datasets
import pytest
from PIL import Image

from modeling_amns import inject_noise, load_benchmark, make_synthetic_benchmark
from modeling_amns.cards import dataset_card, template
from modeling_amns.data.benchmarks import BENCHMARKS, Benchmark, dropped_pairs
from modeling_amns.data.check import check_benchmark
from modeling_amns.data.records import Counts
from modeling_amns.data.sources import SourceArguments

SIZES = {"train_identities": 6, "val_identities": 3, "test_identities": 4, "images_per_identity": 2}
LAYOUTS = ["cuhk-pedes", "icfg-pedes", "rstpreid", "synthetic-pedes"]


@pytest.fixture(scope="module", autouse=True)
def private_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every layout as the generator writes it: the folder above it, by name."""
    roots = {}
    for layout in LAYOUTS:
        roots[layout] = tmp_path_factory.mktemp(layout)
        make_synthetic_benchmark(roots[layout], layout=layout, num_workers=1, **SIZES)
    return roots


def quietly(name, root, split, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_benchmark(name, root, split, **options)


def records_of(layout, root):
    benchmark = BENCHMARKS[layout]
    return json.loads((root / benchmark.folder / benchmark.annotations[0]).read_text())


@pytest.fixture
def small(tmp_path):
    """A benchmark of three images that a test may spoil: its folder and its records."""
    folder = tmp_path / "synthetic-pedes"
    (folder / "imgs" / "a").mkdir(parents=True)
    records = []
    for number in range(3):
        Image.new("RGB", (8, 16), (80 * number, 0, 0)).save(folder / "imgs" / "a" / f"{number}.png")
        captions = [f"person {number}", f"somebody like {number}"]
        records.append({"id": number + 5, "file_path": f"a/{number}.png", "captions": captions, "split": "train"})
    write(folder, records)
    write(folder, {}, "synthetic.json")
    return folder, records


def write(folder, records, name="reid_raw.json"):
    (folder / name).write_text(json.dumps(records))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_train_rows_are_the_pairs_in_annotation_order(made, layout):
    path_field = {"rstpreid": "img_path"}.get(layout, "file_path")
    train = quietly(layout, made[layout], "train")
    records = [record for record in records_of(layout, made[layout]) if record["split"] == "train"]
    want = [(caption, record[path_field]) for record in records for caption in record["captions"]]
    assert list(zip(train["caption"], train["image_path"])) == want
    assert train.column_names == ["image", "caption", "person_id", "image_id", "image_path"]
    first = min(record["id"] for record in records)
    assert first == (1 if layout in ("cuhk-pedes", "synthetic-pedes") else 0)
    assert train["person_id"][:] == [record["id"] - first for record in records for _ in record["captions"]]
    assert train["image_id"][:] == [number for number, record in enumerate(records) for _ in record["captions"]]
    with Image.open(made[layout] / BENCHMARKS[layout].folder / "imgs" / want[0][1]) as image:
        assert train[0]["image"].tobytes() == image.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_test_split_is_a_gallery_of_images_and_queries_of_captions(made, layout):
    test = quietly(layout, made[layout], "test")
    gallery, queries = test["gallery"], test["queries"]
    assert gallery.column_names == ["image", "person_id", "image_id", "image_path"]
    assert queries.column_names == ["caption", "person_id", "image_id"]
    records = [record for record in records_of(layout, made[layout]) if record["split"] == "test"]
    assert gallery["person_id"][:] == [record["id"] for record in records]
    assert queries["caption"][:] == [caption for record in records for caption in record["captions"]]
    owner = dict(zip(gallery["image_id"], gallery["person_id"]))
    assert [owner[image] for image in queries["image_id"]] == queries["person_id"][:]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_root_may_be_the_benchmarks_own_folder(made, layout):
    outer = quietly(layout, made[layout], "train")
    inner = quietly(layout, made[layout] / BENCHMARKS[layout].folder, "train")
    assert outer["caption"][:] == inner["caption"][:]


def test_the_other_name_of_icfg_pedes_is_read(made, tmp_path):
    source = made["icfg-pedes"] / "ICFG-PEDES"
    shutil.copytree(source / "imgs", tmp_path / "icfg_pedes" / "imgs")
    shutil.copy(source / "ICFG-PEDES.json", tmp_path / "icfg_pedes" / "ICFG_PEDES.json")
    assert len(quietly("icfg-pedes", tmp_path, "train")) == 12


def test_the_image_folder_itself_may_be_a_link(small, tmp_path):
    folder, _ = small
    (folder / "imgs").rename(tmp_path / "elsewhere")
    (folder / "imgs").symlink_to(tmp_path / "elsewhere")
    assert load_benchmark("synthetic-pedes", folder, "train")[2]["image"].size == (8, 16)


def test_a_missing_val_split_is_said(made):
    with pytest.raises(ValueError, match=r'icfg-pedes has no val split.* selected on test: pass split="test"'):
        quietly("icfg-pedes", made["icfg-pedes"], "val")


@pytest.mark.filterwarnings("ignore:rstpreid. (val|test) has")
def test_counts_that_differ_from_the_published_ones_are_a_warning_with_both(made):
    with pytest.warns(UserWarning, match=r"train has 6 persons \(published: 3,701\), 12 images \(published: 18,505\)"):
        load_benchmark("rstpreid", made["rstpreid"], "train")


def test_the_synthetic_benchmark_loads_without_warnings(made):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_benchmark("synthetic-pedes", made["synthetic-pedes"], "train")) > 0


def test_splits_in_other_spellings_are_understood_and_unknown_ones_are_val_with_a_warning(small):
    folder, records = small
    for record, split in zip(records, ("TRAIN", "validation", "query")):
        record["split"] = split
    write(folder, records)
    assert len(quietly("synthetic-pedes", folder, "train")) == 2
    with pytest.warns(UserWarning, match=r"neither train nor test, read as val: the string 'query' \(1 records\)"):
        val = load_benchmark("synthetic-pedes", folder, "val")
    assert val["gallery"]["image_path"][:] == ["a/1.png", "a/2.png"]


def test_person_ids_with_gaps_are_contiguous_in_train_and_kept_elsewhere(small):
    folder, records = small
    for record, (person, split) in zip(records, ((900, "train"), (20, "train"), (7, "test"))):
        record.update(id=person, split=split)
    write(folder, records)
    assert load_benchmark("synthetic-pedes", folder, "train")["person_id"][:] == [1, 1, 0, 0]
    assert load_benchmark("synthetic-pedes", folder, "test")["gallery"]["person_id"][:] == [7]


def test_the_second_start_takes_the_tables_from_the_cache_and_a_changed_file_makes_new_ones(small):
    folder, records = small
    first = load_benchmark("synthetic-pedes", folder, "train")
    stamp = os.stat(first.cache_files[0]["filename"]).st_mtime_ns
    second = load_benchmark("synthetic-pedes", folder, "train")
    assert second.cache_files == first.cache_files and second._fingerprint == first._fingerprint
    assert os.stat(second.cache_files[0]["filename"]).st_mtime_ns == stamp
    records[0]["captions"] = ["somebody else"]
    write(folder, records)
    changed = load_benchmark("synthetic-pedes", folder, "train")
    assert changed["caption"][0] == "somebody else" and changed._fingerprint != first._fingerprint


def test_two_folders_with_the_same_annotation_do_not_share_images(small, tmp_path):
    folder, _ = small
    shutil.copytree(folder, tmp_path / "other" / "synthetic-pedes")
    paths = []
    for root in (tmp_path, tmp_path / "other"):
        train = load_benchmark("synthetic-pedes", root, "train").cast_column("image", datasets.Image(decode=False))
        paths.append(train[0]["image"]["path"])
    assert paths[0] == str(folder / "imgs" / "a" / "0.png") and "other" in paths[1]


def test_missing_images_stop_with_their_sub_folders_and_counts(small):
    folder, records = small
    market = {"id": 9, "captions": ["x"], "split": "train"}
    records += [{**market, "file_path": f"Market/{i}.png"} for i in range(2)]
    records.append({**market, "id": 10, "file_path": "Market/2.png", "split": "test"})
    write(folder, records)
    (folder / "imgs" / "a" / "1.png").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        quietly("synthetic-pedes", folder, "train")
    message = str(caught.value)
    assert "3 of 5 images of train are not in" in message
    assert "Market: 3 of 3 (no such sub-folder); a: 1 of 3." in message
    assert 'on_missing="drop" to go on without their 4 captions' in message


def test_dropped_images_are_warned_of_and_counted_wherever_the_data_goes(small):
    folder, _ = small
    (folder / "imgs" / "a" / "0.png").unlink()
    with pytest.warns(UserWarning, match="1 of 3 images of train are not in .* results are of a partial set"):
        kept = load_benchmark("synthetic-pedes", folder, "train", on_missing="drop")
    assert kept["image_path"][:] == ["a/1.png"] * 2 + ["a/2.png"] * 2
    assert kept["person_id"][:] == [0, 0, 1, 1]
    again = quietly("synthetic-pedes", folder, "train", on_missing="drop")
    for dataset in (kept, again, inject_noise(kept, 0.5), kept.select([0]), kept.map(lambda row: row)):
        assert dropped_pairs(dataset) == 2
    Image.new("RGB", (8, 16)).save(folder / "imgs" / "a" / "0.png")
    (folder / "imgs" / "a" / "1.png").rename(folder / "1.png")
    other = quietly("synthetic-pedes", folder, "train", on_missing="drop")
    assert other["image_path"][::2] == ["a/0.png", "a/2.png"]
    (folder / "1.png").rename(folder / "imgs" / "a" / "1.png")
    whole = load_benchmark("synthetic-pedes", folder, "train", on_missing="drop")
    assert len(whole) == 6 and dropped_pairs(whole) == 0


def test_an_image_that_vanished_since_the_last_start_is_noticed(small):
    folder, records = small
    for record in records:
        record["split"] = "test"
    write(folder, records)
    load_benchmark("synthetic-pedes", folder, "test")
    (folder / "imgs" / "a" / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 3 images of test"):
        load_benchmark("synthetic-pedes", folder, "test")
    assert dropped_pairs(quietly("synthetic-pedes", folder, "test", on_missing="drop")) == 2


def test_no_image_at_all_is_an_error_even_if_missing_ones_may_be_dropped(small):
    folder, _ = small
    shutil.rmtree(folder / "imgs" / "a")
    with pytest.raises(FileNotFoundError, match="no image of train is in"):
        quietly("synthetic-pedes", folder, "train", on_missing="drop")


@pytest.mark.parametrize("found", ["1.PNG", "1.jpg"])
def test_files_that_differ_in_case_or_extension_are_named(small, found):
    folder, _ = small
    (folder / "imgs" / "a" / "1.png").rename(folder / "imgs" / "a" / found)
    with pytest.raises(FileNotFoundError, match=f"another spelling or extension, for example a/1.png as a/{found}"):
        load_benchmark("synthetic-pedes", folder, "train")


def test_a_sub_folder_in_other_case_is_named(small):
    folder, _ = small
    (folder / "imgs" / "a").rename(folder / "imgs" / "A")
    with pytest.raises(FileNotFoundError, match="3 of them are there .* for example a/0.png as A/0.png"):
        load_benchmark("synthetic-pedes", folder, "train")


@pytest.mark.parametrize("linked", ["a", "a/1.png"])
def test_a_link_out_of_the_image_folder_is_refused(small, linked):
    folder, _ = small
    inside, outside = folder / "imgs" / linked, folder / "imgs-outside"
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(ValueError, match=f"{linked} in .* is a link to .*imgs-outside, outside of the image folder"):
        load_benchmark("synthetic-pedes", folder, "train")


def test_a_link_that_stays_in_the_image_folder_is_followed_and_one_that_no_record_names_is_ignored(small, tmp_path):
    folder, _ = small
    (tmp_path / "outside.png").write_bytes(b"")
    (folder / "imgs" / "a" / "unnamed.png").symlink_to(tmp_path / "outside.png")
    (folder / "imgs" / "a" / "1.png").unlink()
    (folder / "imgs" / "a" / "1.png").symlink_to("0.png")
    assert load_benchmark("synthetic-pedes", folder, "train")[2]["image"].getpixel((0, 0)) == (0, 0, 0)


def test_missing_folders_and_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="cuhk-pedes: .*nowhere is not there. Pass the folder that"):
        load_benchmark("cuhk-pedes", tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match="no annotation file in .*; looked for ICFG-PEDES.json, ICFG_P"):
        load_benchmark("icfg-pedes", tmp_path, "train")
    write(tmp_path, [{"id": 1, "file_path": "x.png", "captions": ["x"], "split": "train"}])
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*imgs; beside reid_raw.json are no folders"):
        quietly("cuhk-pedes", tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="reid_raw.json is a file. Pass the folder that holds CUHK-PEDES/"):
        load_benchmark("cuhk-pedes", tmp_path / "reid_raw.json", "train")


@pytest.fixture
def counted(monkeypatch):
    """Takes the three images of `small` for the whole of a published benchmark whose split goes by id."""
    known = Benchmark(
        "synthetic-pedes",
        "synthetic-pedes",
        ("reid_raw.json", "caption_all.json"),
        "file_path",
        "ask",
        counts={"train": Counts(2, 2, 4), "val": Counts(0, 0, 0), "test": Counts(1, 1, 2)},
        split_ids={"train": (1, 6), "val": (50, 60), "test": (7, 7)},
    )
    monkeypatch.setitem(BENCHMARKS, "synthetic-pedes", known)


def without_split(folder, records):
    (folder / "reid_raw.json").unlink()
    for record in records:
        del record["split"]
    write(folder, records, "caption_all.json")


def test_an_annotation_without_split_is_split_by_id_if_every_count_is_the_published_one(small, counted):
    folder, records = small
    without_split(folder, records)
    with pytest.warns(UserWarning, match="caption_all.json carries no split; it was rebuilt from the person ids"):
        train = load_benchmark("synthetic-pedes", folder, "train")
    assert train["image_path"][::2] == ["a/0.png", "a/1.png"]
    assert quietly("synthetic-pedes", folder, "test")["gallery"]["image_path"][:] == ["a/2.png"]


@pytest.mark.parametrize("change", [{"id": 4711}, {"captions": ["only one"]}])
def test_an_annotation_without_split_whose_counts_differ_is_refused_with_what_was_found(small, counted, change):
    folder, records = small
    records[1].update(change)
    without_split(folder, records)
    with pytest.raises(ValueError, match=r"has no field split.*train . images and . captions \(published: 2 and 4\)"):
        load_benchmark("synthetic-pedes", folder, "train")


def test_an_annotation_without_split_that_has_more_persons_than_published_is_refused(small, counted):
    folder, records = small
    records.append({"id": 40, "file_path": "a/more.png", "captions": ["more"], "split": ""})
    without_split(folder, records)
    with pytest.raises(ValueError, match="so its ids are not the published ones"):
        load_benchmark("synthetic-pedes", folder, "train")


def test_the_real_split_by_id_is_the_published_one():
    cuhk = BENCHMARKS["cuhk-pedes"]
    assert [last - first + 1 for first, last in cuhk.split_ids.values()] == [n.persons for n in cuhk.counts.values()]
    assert (
        sum(n.images for n in cuhk.counts.values()) == 40206 and sum(n.captions for n in cuhk.counts.values()) == 80440
    )


@pytest.mark.parametrize("split", [{"train": ["a/1.png", "./a/2.png"], "test": [5]}, {"Train": [6, 7], "test": [5]}])
def test_a_split_file_names_images_or_persons(small, tmp_path, split):
    folder, records = small
    without_split(folder, records)
    (folder / "caption_all.json").rename(folder / "reid_raw.json")
    write(tmp_path, split, "split.json")
    train = load_benchmark("synthetic-pedes", folder, "train", split_file=tmp_path / "split.json")
    assert train["image_path"][::2] == ["a/1.png", "a/2.png"]


@pytest.mark.parametrize(
    "split, message",
    [
        ({"train": ["a/1.png"]}, "says nothing of record 0 of .*: image a/0.png, person 5"),
        ({"all": []}, "has the split the string 'all'; expected train, val, test"),
        ([1], "holds a list of 1; pass split_file=FILE.json, an object"),
        ({"train": [5, 6, 7], "test": [5]}, "puts the number 5 into train and test"),
        ({"train": [1.5]}, "train: entry is the number 1.5, expected a whole number"),
    ],
)
def test_a_split_file_that_does_not_fit_is_an_error(small, tmp_path, split, message):
    folder, _ = small
    write(tmp_path, split, "split.json")
    with pytest.raises(ValueError, match=message):
        load_benchmark("synthetic-pedes", folder, "train", split_file=tmp_path / "split.json")


def test_an_image_listed_twice_is_a_warning_and_stands_once_in_the_gallery(small):
    folder, records = small
    records.append({**records[0], "captions": ["once more"]})
    for record in records:
        record["split"] = "test"
    write(folder, records)
    with pytest.warns(UserWarning, match="names 1 image.* more than once, first a/0.png in records 0 and 3"):
        test = load_benchmark("synthetic-pedes", folder, "test")
    assert test["gallery"]["image_path"][:] == ["a/0.png", "a/1.png", "a/2.png"]
    assert test["queries"]["image_id"][:] == [0, 0, 1, 1, 2, 2, 0]


def test_an_image_of_two_persons_is_an_error(small):
    folder, records = small
    records.append({**records[0], "id": 8})
    write(folder, records)
    with pytest.raises(ValueError, match="record 3 .*: image a/0.png belongs to person 8, in record 0 to person 5"):
        load_benchmark("synthetic-pedes", folder, "train")


def test_persons_in_two_splits_are_a_warning(small):
    folder, records = small
    records[2].update(id=5, split="test")
    write(folder, records)
    with pytest.warns(UserWarning, match=r"1 person\(s\) in more than one split, first 5 in test and train"):
        load_benchmark("synthetic-pedes", folder, "train")


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="no benchmark 'market'; expected one of cuhk-pedes, icfg-pedes"):
        load_benchmark("market", tmp_path, "train")
    with pytest.raises(ValueError, match="no split 'all'; expected train, val, test"):
        load_benchmark("cuhk-pedes", tmp_path, "all")
    with pytest.raises(ValueError, match='on_missing is \'skip\'; expected "error" or "drop"'):
        load_benchmark("cuhk-pedes", tmp_path, "train", on_missing="skip")


def test_cuhk_pedes_is_not_taken_for_the_synthetic_benchmark(small):
    """Both have a reid_raw.json of one form; the real one must not train or be pushed under the other's name."""
    folder, _ = small
    (folder / "synthetic.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds reid_raw.json and no synthetic.json, so it may be another"):
        load_benchmark("synthetic-pedes", folder, "train")
    assert len(quietly("cuhk-pedes", folder, "train")) == 6


@pytest.fixture
def market(tmp_path, monkeypatch):
    """A benchmark of another form: tab-separated lines, images in a folder of another name."""
    reads = []

    def read_lines(benchmark, file, data):
        reads.append(file)
        rows = [line.split("\t") for line in data.decode().splitlines()]
        return [
            {"id": int(who), "picture": path, "captions": [text], "split": split} for who, path, text, split in rows
        ]

    entry = Benchmark(
        "market", "Market", ("list.tsv",), "picture", "ask", splits=("train", "test"), images="photos", read=read_lines
    )
    monkeypatch.setitem(BENCHMARKS, "market", entry)
    (tmp_path / "Market" / "photos").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (8, 16), (80 * number, 0, 0)).save(tmp_path / "Market" / "photos" / f"{number}.png")
    lines = ["9\t0.png\ta hat\ttrain", "4\t1.png\ta coat\ttrain", "7\t2.png\ta bag\ttest"]
    (tmp_path / "Market" / "list.tsv").write_text("\n".join(lines))
    return tmp_path, reads


def test_a_benchmark_of_another_form_is_one_entry_with_its_reader(market):
    root, _ = market
    train = load_benchmark("market", root, "train")
    assert train["caption"][:] == ["a hat", "a coat"] and train["person_id"][:] == [1, 0]
    assert [image.getpixel((0, 0))[0] for image in train["image"]] == [0, 80]
    test = load_benchmark("market", root, "test")
    assert test["gallery"]["person_id"][:] == [7] and test["queries"]["caption"][:] == ["a bag"]
    with pytest.raises(ValueError, match="market has no val split"):
        load_benchmark("market", root, "val")


def test_what_a_reader_returns_is_checked_like_any_annotation(market):
    root, _ = market
    (root / "Market" / "list.tsv").write_text("1\t../../outside.png\tx\ttrain")
    with pytest.raises(ValueError, match=r"list.tsv, record 0 .*: picture is '../../outside.png', which leaves"):
        load_benchmark("market", root, "train")


def test_the_splits_of_a_benchmark_read_its_annotation_once_and_a_changed_file_again(market):
    root, reads = market
    for split in ("train", "test", "train"):
        load_benchmark("market", root, split)
    assert len(reads) == 1
    (root / "Market" / "list.tsv").write_text("1\t0.png\tsomebody else\ttrain")
    assert load_benchmark("market", root, "train")["caption"][:] == ["somebody else"] and len(reads) == 2


def test_the_facts_of_a_benchmark_agree_with_each_other():
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name and set(benchmark.counts) in (set(), set(benchmark.splits))
        next_id = benchmark.first_id
        for split, (first, last) in benchmark.split_ids.items():
            assert first == next_id and last - first + 1 == benchmark.counts[split].persons
            next_id = last + 1
        if benchmark.max_captions == 1:
            assert all(counts.images == counts.captions for counts in benchmark.counts.values())


@pytest.fixture
def ufine(made, tmp_path):
    """A generated benchmark in the form of UFineBench's README, by name: its folder and its records."""
    source = made["rstpreid"] / "RSTPReid"
    folders = {}
    for name, folder in (("ufine6926", "UFine6926"), ("ufine3c", "UFine3C")):
        (tmp_path / folder).mkdir()
        shutil.copytree(source / "imgs", tmp_path / folder / "images")
        records = [record for record in records_of("rstpreid", made["rstpreid"]) if record["split"] != "val"]
        if name == "ufine3c":
            records = [record | {"source": "UFine6926"} for record in records if record["split"] == "test"]
            records[0]["captions"] = [f"{records[0]['captions'][0]} {style}" for style in range(6)]
        for record in records:
            record["file_path"] = f"images/{record.pop('img_path')}"
        write(tmp_path / folder, records, f"{folder}_Annotations.json")
        folders[name] = tmp_path / folder, records
    return folders


@pytest.mark.parametrize("name", ["ufine6926", "ufine3c"])
def test_ufinebench_is_read_as_its_authors_print_it(ufine, name):
    folder, records = ufine[name]
    test = quietly(name, folder.parent, "test")
    wanted = [record for record in records if record["split"] == "test"]
    assert test["gallery"]["image_path"][:] == [record["file_path"] for record in wanted]
    assert test["queries"]["caption"][:] == [caption for record in wanted for caption in record["captions"]]
    assert test["queries"]["person_id"][:] == [record["id"] for record in wanted for _ in record["captions"]]
    with Image.open(folder / wanted[0]["file_path"]) as image:
        assert test["gallery"][0]["image"].tobytes() == image.tobytes()
    report = check_benchmark(name, folder, progress=False, num_workers=1)
    assert not report.broken and set(report.counts) == set(BENCHMARKS[name].splits)
    if name == "ufine6926":
        assert len(quietly(name, folder, "train")) == sum(len(r["captions"]) for r in records if r["split"] == "train")
    (folder / "images" / wanted[0]["file_path"].removeprefix("images/")).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: 1 of 8 images of test are not in .*First: images/"):
        quietly(name, folder, "test")
    (folder / f"{folder.name}_Annotations.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds the images and the JSON file"):
        quietly(name, folder, "test")


def test_ufine3c_is_for_evaluation_and_need_not_name_its_split(ufine):
    folder, records = ufine["ufine3c"]
    with pytest.warns(UserWarning, match=r"test has 4 persons \(published: 2,250\), 8 images \(published: 7,446\)"):
        before = load_benchmark("ufine3c", folder, "test")
    for record in records:
        del record["split"]
    write(folder, records, "UFine3C_Annotations.json")
    assert quietly("ufine3c", folder, "test")["queries"]["caption"][:] == before["queries"]["caption"][:]
    with pytest.raises(ValueError, match="ufine3c has no train split: it is for evaluation"):
        quietly("ufine3c", folder, "train")
    assert SourceArguments(benchmark="ufine3c").selection_split == "test"


@pytest.mark.parametrize("layout", [*LAYOUTS, "ufine6926", "ufine3c"])
def test_cards_take_published_counts_from_the_one_place_where_they_stand(layout, monkeypatch):
    by_hand = template(f"{layout}.md").read_text()
    assert "{counts}" in by_hand and not re.search(r"\d,\d{3}|\| (train|val|test)", by_hand)
    other = Benchmark(layout, "x", ("x",), "x", "x", splits=("train",), counts={"train": Counts(7, 1234, 98765)})
    monkeypatch.setitem(BENCHMARKS, layout, other)
    assert "| train | 7 | 1,234 | 98,765 |" in dataset_card(layout).text


def test_what_the_annotation_says_of_its_captions_is_a_column_of_train_alone(tmp_path):
    made = make_synthetic_benchmark(tmp_path, num_workers=1, **SIZES, wrong_captions=0.5)
    records = json.loads((made / "reid_raw.json").read_text())
    said = [right for record in records for right in record.get("is_clean", [])]
    train = load_benchmark("synthetic-pedes", tmp_path, "train")
    assert train.column_names == ["image", "caption", "person_id", "image_id", "image_path", "is_clean"]
    assert train["is_clean"][:] == said and {True, False} == set(said) and len(said) == 24
    test = load_benchmark("synthetic-pedes", tmp_path, "test")
    assert not any("is_clean" in part.column_names for part in test.values())
    noisy = inject_noise(train, 0.5, seed=1)
    stayed = [old == new for old, new in zip(train["caption"], noisy["caption"], strict=True)]
    assert noisy["is_clean"][:] == [right and here for right, here in zip(said, stayed, strict=True)]


@pytest.mark.parametrize(
    "truth, message",
    [
        ([True], "record 1 .*is_clean is a list of 1, expected true or false, or a list of them, one for each of 2"),
        ([True, 1], "record 1 .*is_clean is a list of 2, expected true or false"),
        ("maybe", "record 1 .*is_clean is the string 'maybe', expected true or false"),
        (None, "record 1 .*no is_clean, which other training records have; write it into all of them or into none"),
    ],
)
def test_truth_that_is_none_or_of_some_records_only_is_an_error(small, truth, message):
    folder, records = small
    for record in records:
        record["is_clean"] = [True, False]
    records[1]["is_clean"] = truth
    write(folder, records)
    with pytest.raises(ValueError, match=message):
        load_benchmark("synthetic-pedes", folder, "train")
    found = check_benchmark("synthetic-pedes", folder, progress=False)
    assert len(found.invalid) == 1 and re.search(message, found.invalid[0])
