"""Benchmarks as data sets on the Hub: by the real client from one on loopback, and what is said of bad ones."""

import hashlib
import io
import json
import re
import warnings

import datasets
import pytest
import torch
from hub_double import HubDouble, Repo
from hub_programs import ROOT, run
from PIL import Image
from safetensors.torch import load_file

from modeling_amns import load_benchmark, make_synthetic_benchmark
from modeling_amns.audit.cleaning import read_records, write_clean
from modeling_amns.audit.suspects import Suspect
from modeling_amns.data.check import check_benchmark
from modeling_amns.data.sources import SourceArguments, SourcesArguments
from modeling_amns.run_arguments import DataArguments

SIZES = {"train_identities": 5, "val_identities": 2, "test_identities": 3, "images_per_identity": 2}
PLACE = "hf://datasets/org/set"
COLUMNS = ("image", "caption", "person_id", "image_path")
COMPARE = """
import datasets, sys, torch
from modeling_amns import load_benchmark

def told(data):
    rows = data if isinstance(data, datasets.Dataset) else list(data)
    return [{k: v.convert("RGB").tobytes() if k == "image" else v for k, v in row.items()} for row in rows]

folder = sys.argv[1]
for place in ("hf://datasets/org/synthetic-pedes", "hf://datasets/org", "hf://datasets/org/synthetic-pedes@v1"):
    here, there = (load_benchmark("synthetic-pedes", root, "train") for root in (folder, place))
    assert there.features == here.features and told(there) == told(here)
    for split in ("val", "test"):
        here, there = (load_benchmark("synthetic-pedes", root, split) for root in (folder, place))
        for part in ("gallery", "queries"):
            assert there[part].features == here[part].features and told(there[part]) == told(here[part]), (split, part)
    stream = load_benchmark("synthetic-pedes", place, "train", streaming=True)
    names = ["image", "caption", "person_id", "image_path"]
    assert stream.column_names == names
    assert told(stream) == told(load_benchmark("synthetic-pedes", folder, "train").select_columns(names))
for root, wanted in ((sys.argv[2], "doesn't exist on the Hub"), ("hf://datasets/org/synthetic-pedes@v2", "v2")):
    try:
        load_benchmark("synthetic-pedes", root, "test")
    except FileNotFoundError as error:
        assert wanted in str(error), error
    else:
        sys.exit(root)
print("the same")
"""


@pytest.fixture(scope="module", autouse=True)
def private_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_synthetic_benchmark(tmp_path_factory.mktemp("data"), image_size=(64, 24), num_workers=1, **SIZES)


def rows_of(folder):
    """Rows for each split, made of the annotation alone: an image's bytes, and the columns beside it."""
    records = json.loads((folder / "reid_raw.json").read_text())
    rows = {"train": [], "val": [], "test": []}
    classes = sorted({record["id"] for record in records if record["split"] == "train"})
    images = {split: [] for split in rows}
    for record in records:
        split, path = record["split"], record["file_path"]
        images[split].append(path)
        person = classes.index(record["id"]) if split == "train" else record["id"]
        image = {"bytes": (folder / "imgs" / path).read_bytes(), "path": path.rpartition("/")[2]}
        for caption in record["captions"]:
            row = {"image": image, "caption": caption, "person_id": person, "image_path": path}
            rows[split].append(row | {"image_id": len(images[split]) - 1})
    return rows


def parquet(rows):
    data = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    file = io.BytesIO()
    data.to_parquet(file)
    return file.getvalue()


def put(hub, repo_id, tables, branches=("main",)):
    """A data set of Parquet files by split, as a push would leave it."""
    repo = hub.repos[("datasets", repo_id)] = Repo(private=False)
    tree = {}
    for split, rows in tables.items():
        content = parquet(rows)
        oid = hashlib.sha256(content).hexdigest()
        hub.objects[oid] = content
        tree[f"data/{split}-00000-of-00001.parquet"] = oid
    repo.commits.append((hashlib.sha1(repo_id.encode()).hexdigest(), tree))
    repo.branches = dict.fromkeys(branches, repo.commits[-1][0])


def test_a_benchmark_on_the_hub_is_that_of_the_folder_streamed_or_not(folder, tmp_path):
    with HubDouble() as hub:
        put(hub, "org/synthetic-pedes", rows_of(folder), ("main", "v1"))
        home = {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
        done = run(hub, tmp_path, COMPARE, folder, "hf://datasets/org/none", **home)
        assert done.returncode == 0 and done.stdout == "the same\n", done.stderr[-3000:]
        options = ["--benchmark", "synthetic-pedes", "--data_root", "hf://datasets/org/synthetic-pedes", "--json"]
        done = run(hub, tmp_path, ROOT / "scripts" / "check_data.py", *options, **home)
        assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report["counts"]["train"] == {"persons": 5, "images": 10, "captions": 20} and not report["broken"]
    assert set(report["counts"]) == {"train", "val", "test"}


TOWER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
RECIPE = {
    "image_size": [32, 16],
    "vision_config": {**TOWER, "patch_size": 8},
    "text_config": TOWER,
    "projection_dim": 16,
    "vocab_size": 600,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 10,
    "learning_rate": 1e-3,
    "noise_rate": 0.2,
    "use_cpu": True,
    "report_to": "none",
}


def test_a_run_on_a_set_of_the_hub_is_that_on_the_folder(folder, tmp_path):
    """The whole of train.py: weights to the bit, figures, the share of wrong captions, the epoch that val selects."""
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    with HubDouble() as hub:
        put(hub, "org/synthetic-pedes", rows_of(folder))
        for name, root in (("here", folder.parent), ("there", "hf://datasets/org/synthetic-pedes")):
            options = ["--config", tmp_path / "recipe.yaml", "--data_root", root, "--output_dir", tmp_path / name]
            cache = {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
            done = run(hub, tmp_path, ROOT / "scripts" / "train.py", *map(str, options), **cache)
            assert done.returncode == 0, done.stderr[-3000:]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("here", "there")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    here, there = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("here", "there"))
    own = ("seconds", "peak_memory_mb")
    differ = [name for name in here | there if name not in own and here.get(name) != there.get(name)]
    assert not differ and there["noise_rate"] == 0.2 and there["selected_on"].startswith("val")
    assert (tmp_path / "there" / "ranking.png").read_bytes() == (tmp_path / "here" / "ranking.png").read_bytes()


@pytest.fixture
def on_hub(monkeypatch):
    """Rows by split, which a test may spoil, in the place of what the Hub has."""

    def image(split, row):
        file = io.BytesIO()
        Image.new("RGB", (8, 16), (50 * row, 0, 200 * (split == "test"))).save(file, "png")
        return {"bytes": file.getvalue(), "path": None}

    rows = {
        split: [
            {
                "image": image(split, row),
                "caption": f"person {row}",
                "person_id": row // 2,
                "image_path": f"{split}/{row}.png",
            }
            for row in range(4)
        ]
        for split in ("train", "test")
    }

    def load_dataset(name, revision=None, streaming=False):
        made = {split: datasets.Dataset.from_list(part) for split, part in rows.items() if part}
        made = {
            split: one.cast_column("image", datasets.Image())
            if "image" in one.column_names and isinstance(one.features["image"], (dict, datasets.Image))
            else one
            for split, one in made.items()
        }
        return {split: one.to_iterable_dataset() if streaming else one for split, one in made.items()}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return rows


def everywhere(rows, **changes):
    for row in rows:
        for name, value in changes.items():
            if value is Ellipsis:
                del row[name]
            else:
                row[name] = value


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "first, changes, message",
    [
        (4, {"caption": ...}, "train has no column caption; its columns are .*read as own pairs: pairs=ORG/NAME"),
        (4, {"image_path": ..., "image": ...}, "train has no column image, image_path"),
        (4, {"image": "a.png"}, "(image is a column of Value|record 0 .*image is the string 'a.png')"),
        (1, {"image": None}, r"train, record 0 \(counted from 0\): image is nothing \(null\)"),
        (
            1,
            {"image": {"bytes": None, "path": "/etc/passwd"}},
            "record 0 .*image is the path '/etc/passwd'",
        ),
        (1, {"caption": "  "}, "record 0 .*caption is empty"),
        (4, {"person_id": "7"}, "record 0 .*person_id is the string '7', expected a whole number: write 7 without"),
        (1, {"person_id": -1}, "record 0 .*person_id is the number -1"),
        (1, {"image_path": "../secret.png"}, "record 0 .*image_path is .*secret"),
    ],
)
def test_a_data_set_that_is_none_of_pairs_is_refused(on_hub, first, changes, message, streaming):
    everywhere(on_hub["train"][:first], **changes)
    with pytest.raises(ValueError, match=message):
        list(load_benchmark("synthetic-pedes", PLACE, "train", streaming=streaming))


@pytest.mark.parametrize(
    "name, root, split, options, message",
    [
        ("rstpreid", PLACE, "train", {"on_missing": "drop"}, "on_missing and split_file are of folders"),
        ("rstpreid", PLACE, "train", {"split_file": "a.json"}, "on_missing and split_file are of folders"),
        ("rstpreid", PLACE, "test", {"streaming": True}, "streaming is for training; test is ranked as a whole"),
        ("rstpreid", PLACE, "val", {}, "hf://datasets/org/set has no split val. Its splits there are train, test"),
        ("icfg-pedes", PLACE, "val", {}, 'icfg-pedes has no val split.*pass split="test"'),
        ("rstpreid", "data", "train", {"streaming": True}, "streaming is of data sets on the Hub"),
        ("rstpreid", "hf://org/set", "train", {}, "hf://org/set is a model. Expected hf://datasets/ORG/NAME"),
        ("rstpreid", f"{PLACE}/data", "train", {}, "is data inside a data set. Expected"),
        ("rstpreid", "hf://datasets/a/b c", "train", {}, "is no data set on the Hub: .*Expected"),
    ],
)
def test_a_root_on_the_hub_takes_what_it_can_do(on_hub, name, root, split, options, message):
    with pytest.raises(ValueError, match=message):
        load_benchmark(name, root, split, **options)


def test_sizes_that_are_not_the_published_ones_and_splits_that_disagree_are_said(on_hub):
    everywhere(on_hub["test"][3:], image_path="test/2.png")
    told = r"rstpreid: test has 2 persons \(published: 200\), 3 images \(published: 1,000\), 4 captions"
    with pytest.warns(UserWarning, match=told):
        assert load_benchmark("rstpreid", PLACE, "test")["gallery"]["image_path"][:] == [
            f"test/{n}.png" for n in range(3)
        ]
    on_hub["test"][1]["image_path"] = "train/3.png"
    report = check_benchmark("rstpreid", PLACE, progress=False, num_workers=1)
    assert report.counts["train"].images == 4 and not report.broken
    found = [line for line in report.remarks if "1 image(s) of" in line]
    assert len(found) == 1 and re.search("set, train are in .*set, test too, first train/3.png", found[0])
    on_hub["test"][0]["image"] = {"bytes": b"no image", "path": None}
    on_hub["train"][2]["caption"] = ""
    report = check_benchmark("rstpreid", PLACE, progress=False, num_workers=1)
    assert report.broken and len(report.unreadable) == 1 and len(report.invalid) == 1
    assert report.unreadable[0].startswith("Cannot read image rstpreid: hf://datasets/org/set, test, row 0:")
    on_hub["test"] = []
    on_hub["extra"], on_hub["train"] = on_hub["train"], []
    with pytest.raises(ValueError, match="has the splits extra; expected train, val, test"):
        load_benchmark("rstpreid", PLACE, "test")


def test_an_image_of_two_persons_is_an_error_and_truth_is_a_column(on_hub):
    everywhere(on_hub["train"], is_clean=True)
    on_hub["train"][1]["is_clean"] = False
    train = load_benchmark("synthetic-pedes", PLACE, "train")
    assert train["is_clean"][:] == [True, False, True, True]
    on_hub["train"][3]["image_path"] = "train/0.png"
    with pytest.raises(ValueError, match="record 3 .*belongs to person 1, in record 0 to person 0"):
        load_benchmark("synthetic-pedes", PLACE, "train")


def test_options_take_a_root_on_the_hub(on_hub):
    source = SourceArguments(benchmark="synthetic-pedes", data_root=PLACE)
    assert source.name == "synthetic-pedes" and len(source.load("test")["gallery"]) == 4
    both = ["rstpreid", "icfg-pedes"]
    with pytest.raises(ValueError, match="org/set is one data set, asked for are rstpreid . icfg-pedes. Pass hf://"):
        SourcesArguments(benchmark=both, data_root=PLACE)
    assert SourcesArguments(benchmark=both, data_root="hf://datasets/org").joint
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train = DataArguments(benchmark=both, data_root="hf://datasets/org").load_train()
    assert train["person_id"][:] == [0, 0, 1, 1, 2, 2, 3, 3] and train["image_path"][4] == "icfg-pedes/train/0.png"
    assert train[7]["image"].size == (8, 16)
    records = read_records(source)
    assert [[record.split for record in part.records] for part in records] == [["train"] * 4, ["test"] * 4]
    assert all(part.images[0]["image"].size == (8, 16) for part in records)


def test_a_stream_goes_on_where_it_was_left_and_has_no_other_columns(on_hub):
    everywhere(on_hub["train"], camera="a", image_id=1)
    stream = load_benchmark("synthetic-pedes", PLACE, "train", streaming=True)
    assert list(next(iter(stream))) == [*COLUMNS]
    rows = iter(stream)
    seen = [next(rows)["caption"] for _ in range(3)]
    again = load_benchmark("synthetic-pedes", PLACE, "train", streaming=True)
    again.load_state_dict(stream.state_dict())
    assert seen + [row["caption"] for row in again] == [f"person {row}" for row in range(4)]


def test_what_an_audit_leaves_of_it_is_read_as_own_pairs(on_hub, tmp_path):
    source = SourceArguments(benchmark="synthetic-pedes", data_root=PLACE)
    train = source.load("train")
    suspects = [
        Suspect(row, *(train[row][name] for name in ("image_path", "caption", "person_id")), 0.5) for row in range(4)
    ]
    options = write_clean(tmp_path / "clean", read_records(source), train, suspects, {1: "model"})
    assert options == ["--pairs", str(tmp_path / "clean")]
    left, test = (SourceArguments(pairs=options[1]).load(split) for split in ("train", "test"))
    assert left["caption"][:] == ["person 0", "person 2", "person 3"] and left["person_id"][:] == [0, 1, 1]
    assert left[0]["image"].tobytes() == train[0]["image"].tobytes() and len(test["queries"]) == 4
