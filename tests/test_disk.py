"""A full disk at any byte: one line, what was there before is whole, nothing half-written stays or passes as whole.

On small file systems where the machine lets one be mounted, and everywhere under a limit on the size of files, which
writers meet in the middle of one as they meet a quota.
"""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_retrieval_model
from gallery_double import Counting
from PIL import Image
from test_conversion import OPENAI_MARKS, openai_weights
from test_conversion import run_script as convert
from training_run import make_trainer

from modeling_amns import AMNSForPersonRetrieval, RunReport, make_synthetic_benchmark
from modeling_amns.checkpoints import last_whole_checkpoint, missing_parts
from modeling_amns.disk import ASIDE, DiskFullError, disk_full_message, whole_file, whole_folder, whole_model
from modeling_amns.export import export_onnx
from modeling_amns.hub import stage_checkpoint
from modeling_amns.retrieval import PersonGallery
from modeling_amns.retrieval.lance_store import LanceStore

resource = pytest.importorskip("resource", reason="limits on the size of files are POSIX")
MOUNTED = [("tmpfs", kib) for kib in (500, 1500, 2600, 3000)]
PEOPLE = {"train_identities": 12, "val_identities": 2, "test_identities": 2, "num_workers": 1}


@contextlib.contextmanager
def full(kind: str, folder: Path, kib: int):
    """While it lasts `folder` is a file system of that size, or no file may become larger."""
    folder.mkdir(exist_ok=True)
    if kind == "limit":
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this machine lets no file system be mounted")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def is_one_line(error: BaseException, place: Path) -> bool:
    text = str(error)
    return "\n" not in text and f" while writing {place}" in text and "GiB free" in text


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name == ASIDE or ".part" in path.suffixes]


@pytest.mark.parametrize("kind, kib", [*MOUNTED, *(("limit", kib) for kib in (1, 12, 130, 300, 600))])
def test_a_checkpoint_that_does_not_fit_is_one_line_and_those_before_are_whole(tmp_path, kind, kib):
    options = {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    output = tmp_path / "disk" / "output"
    trainer = make_trainer(tmp_path, output_dir=str(output), **options)
    with full(kind, tmp_path / "disk", kib):
        with pytest.raises(OSError, match="--resume_from_checkpoint true") as caught:
            trainer.train()
        found, skipped = last_whole_checkpoint(output)
        assert is_one_line(caught.value, output / "checkpoint-") and not skipped and not left_over(output)
        # A checkpoint has 1.3 MB.
        steps = {500: 0, 1500: 1, 2600: 1, 3000: 2}.get(kib, 0) if kind == "tmpfs" else 0
        assert sorted(path.name for path in output.glob("checkpoint-*")) == [
            f"checkpoint-{step + 1}" for step in range(steps)
        ]
        assert (found is None) == (steps == 0) and not (found and missing_parts(found))
        assert ("There is no earlier checkpoint" in str(caught.value)) == (steps == 0)


@pytest.mark.parametrize("kind, kib", [("tmpfs", 600), ("tmpfs", 800), ("limit", 1), ("limit", 15), ("limit", 300)])
def test_an_earlier_model_is_whole_until_the_final_one_is(tmp_path, kind, kib):
    """A model has 0.53 MB: the disks hold one and a part of another."""
    output = tmp_path / "disk" / "output"
    trainer = make_trainer(tmp_path, output_dir=str(output), max_steps=1)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with full(kind if kind == "tmpfs" else "limit", tmp_path / "disk", kib if kind == "tmpfs" else 10000):
        trainer.save_model()
        kept = {path.name: path.read_bytes() for path in output.iterdir()}
        trainer.model.amns.logit_scale.data += 1
        with full("limit", tmp_path / "disk", kib) if kind == "limit" else contextlib.nullcontext():
            with pytest.raises(DiskFullError) as caught:
                trainer.save_model()
            assert is_one_line(caught.value, output)
        assert {path.name: path.read_bytes() for path in output.iterdir()} == kept
        model = AMNSForPersonRetrieval.from_pretrained(output)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind, kib", [("tmpfs", 100), ("tmpfs", 500), ("limit", 1), ("limit", 9), ("limit", 200)])
def test_a_conversion_that_does_not_fit_leaves_nothing(tmp_path, monkeypatch, capsys, processor, kind, kib):
    weights = openai_weights(vocab=len(processor.tokenizer))
    torch.save({**weights, **OPENAI_MARKS}, tmp_path / "ViT.pt")
    processor.save_pretrained(tmp_path / "clip")
    with full(kind, tmp_path / "disk", kib):
        out = tmp_path / "disk" / "new" / "out"
        assert convert(monkeypatch, tmp_path / "ViT.pt", out, "--processor", tmp_path / "clip") == 1
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and f"while writing {out} (" in line
        assert not list((tmp_path / "disk").iterdir())


def test_an_export_that_does_not_fit_leaves_the_earlier_one(tmp_path, processor):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = tiny_retrieval_model(processor).amns
    folder = tmp_path / "exported"
    with full("limit", folder, 40):
        (folder / "image_encoder.onnx").write_bytes(b"earlier")
        (folder / "preprocessing.json").write_text("{}")
        with pytest.raises(DiskFullError) as caught:
            export_onnx(model, processor, folder)
        assert is_one_line(caught.value, folder)
        assert {path.name for path in folder.iterdir()} == {"image_encoder.onnx", "preprocessing.json"}
        assert (folder / "image_encoder.onnx").read_bytes() == b"earlier"


@pytest.mark.parametrize("kind, kib", [("tmpfs", 4), ("tmpfs", 30), ("tmpfs", 100), ("tmpfs", 190), ("limit", 1)])
def test_a_benchmark_that_does_not_fit_is_known_as_unfinished_and_the_same_call_completes_it(tmp_path, kind, kib):
    root = tmp_path / "disk"
    with full(kind, root, kib):
        with pytest.raises(DiskFullError, match="run the same command again") as caught:
            make_synthetic_benchmark(root, **PEOPLE)
        assert is_one_line(caught.value, root / "synthetic-pedes") and not left_over(root)
        assert not (root / "synthetic-pedes" / "reid_raw.json").exists()
        if kind == "tmpfs":
            subprocess.run(["mount", "-o", "remount,size=4m", str(root)], check=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
        other = make_synthetic_benchmark(tmp_path / "other", **PEOPLE)
        folder = make_synthetic_benchmark(root, **PEOPLE)
        files = [path.relative_to(other) for path in other.rglob("*") if path.is_file()]
        assert all((folder / file).read_bytes() == (other / file).read_bytes() for file in files)


@pytest.mark.parametrize("kind, kib", [("tmpfs", 200), ("limit", 1), ("limit", 100)])
def test_what_would_be_pushed_and_does_not_fit_is_one_line(tmp_path, processor, kind, kib):
    for part in (tiny_retrieval_model(processor), processor):
        part.save_pretrained(tmp_path / "run")
    with full(kind, tmp_path / "disk", kib), pytest.raises(DiskFullError) as caught:
        stage_checkpoint(tmp_path / "run", "org/name", tmp_path / "disk")
    assert is_one_line(caught.value, tmp_path / "disk")


def paint(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        if not (folder / f"{number}.png").exists():
            Image.new("RGB", (8, 16), (7 * number, 255 - 5 * number, 90)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """Ten images in a gallery, and twenty more beside them."""
    pytest.importorskip("lancedb")
    folder = tmp_path_factory.mktemp("gallery")
    PersonGallery.from_images(Counting(), None, paint(folder / "images", 10), folder=folder / "gallery")
    paint(folder / "images", 30)
    return folder


def rows_of(folder: Path) -> dict[str, list[float]]:
    table = LanceStore(folder, 3).read(vectors=True)
    return dict(zip(table.paths, table.vectors.tolist()))


# With 6 KiB the rows fit, and the copy for quick starts does not.
@pytest.mark.parametrize("kind, kib", [("limit", 1), ("limit", 6), ("tmpfs", 56), ("tmpfs", 72)])
def test_a_gallery_whose_update_does_not_fit_is_whole_and_the_same_call_completes_it(tmp_path, gallery, kind, kib):
    root, place = tmp_path / "disk", tmp_path / "disk" / "gallery"
    before = rows_of(gallery / "gallery")
    with full(kind if kind == "tmpfs" else "limit", root, kib if kind == "tmpfs" else 10000):
        shutil.copytree(gallery / "gallery", place)
        limit = full("limit", root, kib) if kind == "limit" else contextlib.nullcontext()
        with limit, pytest.raises(DiskFullError, match="do the same again") as caught:
            PersonGallery.from_images(Counting(), None, gallery / "images", folder=place)
        assert is_one_line(caught.value, place)
        found = rows_of(place)
        assert {path: found[path] for path in before} == before and len(found) in (10, 30)
        assert (len(found) == 30) == (kib in (6, 72)) and len(list(place.glob("quick-*"))) == 1
        files = {file.name for file in place.rglob("data/*")}
        assert len(found) == 30 or files == {file.name for file in (gallery / "gallery").rglob("data/*")}
        if kind == "tmpfs":
            subprocess.run(["mount", "-o", "remount,size=4m", str(root)], check=True)
        again = PersonGallery.from_images(Counting(), None, gallery / "images", folder=place)
        assert len(again) == 30 and again.changes.embedded == 30 - len(found)
        assert len(rows_of(place)) == 30 and [hit.path for hit in again.search("red", k=1)]


@pytest.mark.parametrize("kind", ["*.lance", "*.manifest"])
def test_what_lancedb_commits_and_wrote_in_part_only_is_taken_back(tmp_path, gallery, monkeypatch, kind):
    """As it does on a full disk with files just larger than what fits."""
    before, place = rows_of(gallery / "gallery"), shutil.copytree(gallery / "gallery", tmp_path / "gallery")
    put = LanceStore._put

    def cut(self, table):
        there = set(place.rglob(kind))
        put(self, table)
        (fresh,) = set(place.rglob(kind)) - there
        fresh.write_bytes(fresh.read_bytes()[:-1])

    monkeypatch.setattr(LanceStore, "_put", cut)
    with pytest.raises(OSError, match="was written in part only; the gallery in .* is as it was before"):
        PersonGallery.from_images(Counting(), None, gallery / "images", folder=place)
    assert rows_of(place) == before
    monkeypatch.undo()
    assert len(PersonGallery.from_images(Counting(), None, gallery / "images", folder=place)) == 30


@pytest.mark.parametrize("kind, kib", [("limit", 1), ("limit", 6), ("tmpfs", 20)])
def test_a_saved_gallery_that_does_not_fit_leaves_nothing_that_passes_for_one(tmp_path, gallery, kind, kib):
    made, place = PersonGallery.load(gallery / "gallery", Counting()), tmp_path / "disk" / "copy"
    with full(kind, tmp_path / "disk", kib):
        with pytest.raises(DiskFullError) as caught:
            made.save(place)
        assert is_one_line(caught.value, place) and not place.exists()
    assert rows_of(made.save(tmp_path / "copy").folder) == rows_of(gallery / "gallery")


def test_a_report_that_does_not_fit_leaves_the_earlier_one(tmp_path):
    RunReport("first").save(tmp_path)
    with full("limit", tmp_path, 1), pytest.raises(DiskFullError):
        RunReport("second", training={"x": "y" * 5000}).save(tmp_path)
    assert RunReport.load(tmp_path).benchmark == "first" and not left_over(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from modeling_amns import disk
replace, left = os.replace, [1]
def die(*places):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*places)
os.replace = die
with disk.whole_model(sys.argv[1]) as folder:
    (folder / "config.json").write_text("new")
    (folder / "model.safetensors").write_text("new")
"""


def test_a_folder_whose_writer_was_killed_is_never_half_old_and_half_new(tmp_path):
    (tmp_path / "config.json").write_text("old")
    (tmp_path / "model-00001-of-00002.safetensors").write_text("old")
    died = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=60)
    assert died.returncode == -signal.SIGKILL and not (tmp_path / "config.json").exists()
    with whole_model(tmp_path) as folder:
        assert not list(folder.iterdir())
        (folder / "config.json").write_text("third")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_files_take_their_places_waits_until_they_have(tmp_path, monkeypatch, number):
    replace, before = os.replace, signal.getsignal(number)

    def interrupted(*places):
        signal.raise_signal(number)
        replace(*places)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    signal.signal(number, stop)
    try:
        with pytest.raises(KeyboardInterrupt), whole_model(tmp_path) as folder:
            (folder / "config.json").write_text("new")
            (folder / "model.safetensors").write_text("new")
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_an_error_leaves_the_folder_as_it_was_and_is_not_changed(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "a" / "b", "last") as folder:
        (folder / "last").write_text("new")
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "c.json") as part:
        part.write_text("new")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [ValueError("unexpected pos"), PermissionError(13, "no"), RuntimeError("shape")])
def test_another_error_on_a_disk_with_room_is_none_of_a_full_one(tmp_path, error):
    assert disk_full_message(error, tmp_path) is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("IOError: [Errno 122] Disk quota exceeded. Detail: ..."),
    ],
)
def test_quota_and_size_limit_are_named_wherever_they_stand_in_a_chain(tmp_path, error):
    outer = RuntimeError("An error occurred while generating the dataset")
    outer.__cause__ = error
    assert disk_full_message(outer, tmp_path / "not" / "there").partition(" while ")[0] == {
        errno.EDQUOT: "The disk quota is used up",
        errno.EFBIG: "A file has reached the largest size that is allowed here (ulimit -f, or the file system's)",
    }.get(
        getattr(error, "errno", None),
        "The disk quota is used up" if "122" in str(error) else "No space left on the disk",
    )
    assert os.listdir(tmp_path) == []
