"""Every script ends the same way: one line for what is wrong, `--debug` for where, nothing but codes for a stop."""

import contextlib
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import tiny_retrieval_model
from PIL import Image

SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = (
    "train",
    "evaluate",
    "export",
    "check_data",
    "convert_checkpoint",
    "push_to_hub",
    "make_synthetic",
    "benchmark",
)


@pytest.fixture
def end(monkeypatch, capfd, tmp_path):
    """Runs a script in this process; returns exit code and what it printed to stderr but for logged lines."""
    monkeypatch.chdir(tmp_path)
    pairs(tmp_path)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(name: str, *arguments: object) -> tuple[int, str]:
        file = str(SCRIPTS / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [file, *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(file, run_name="__main__")
        assert {number: signal.getsignal(number) for number in before} == before
        lines = capfd.readouterr().err.splitlines(keepends=True)
        return ended.value.code, "".join(line for line in lines if not line.startswith("[transformers]"))

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory, processor) -> Path:
    folder = tmp_path_factory.mktemp("model")
    for part in (tiny_retrieval_model(processor), processor):
        part.save_pretrained(folder)
    return folder


def pairs(folder: Path) -> Path:
    """Own pairs of four persons, in one file beside their images; `evaluate.py` reads them before a model."""
    rows = ["image,caption,person_id,split"]
    for number in range(8):
        Image.new("RGB", (32, 64), (30 * number, 90, 20)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,a person in coat {number},{number // 2},{'train' if number < 4 else 'test'}")
    (folder / "pairs.csv").write_text("\n".join(rows))
    return folder / "pairs.csv"


def commands(name: str, place: object) -> tuple[object, ...]:
    """A command line of a script that reads a place."""
    return {
        "train": ("--data_root", place, "--output_dir", "out", "--report_to", "none"),
        "evaluate": (place, "--pairs", "pairs.csv"),
        "export": (place, "out"),
        "check_data": ("--data_root", place),
        "convert_checkpoint": (place, "out"),
        "push_to_hub": (place, "org/name", "--dry_run"),
        "make_synthetic": (
            "--root",
            place,
            *(word for split in ("train", "val", "test") for word in (f"--{split}_identities", 1)),
        ),
        "benchmark": (place,),
    }[name]


def assert_one_line(name: str, code: int, errors: str, *parts: str) -> None:
    assert code == 1 and errors.count("\n") == 1, errors
    assert errors.startswith(f"{name}.py: ") and all(part in errors for part in parts), errors


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_path_is_one_line(end, tmp_path, name):
    # What writes is told of a file where its folder should be.
    place = tmp_path / "nowhere"
    if name == "make_synthetic":
        place.write_text("a file")
    assert_one_line(name, *end(name, *commands(name, place)), "nowhere")


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_option_is_one_line(end, name):
    assert_one_line(name, *end(name, *commands(name, "x"), "--no_such_option", 3), "There is no option '--no_such")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("make_synthetic", "benchmark")])
def test_an_empty_folder_is_one_line(end, tmp_path, name):
    (tmp_path / "empty").mkdir()
    assert_one_line(name, *end(name, *commands(name, tmp_path / "empty")), "empty")


def test_a_folder_that_holds_something_else_is_one_line(end, tmp_path):
    (tmp_path / "root" / "synthetic-pedes").mkdir(parents=True)
    (tmp_path / "root" / "synthetic-pedes" / "thesis.txt").write_text("mine")
    assert_one_line("make_synthetic", *end("make_synthetic", *commands("make_synthetic", tmp_path / "root")), "thesis")


@pytest.mark.parametrize("content", [b"", b"\x00\xff\x80{", b"[1, 2", b"{}", b"PK\x03\x04broken"])
@pytest.mark.parametrize("name", ["train", "evaluate", "export", "check_data", "convert_checkpoint", "push_to_hub"])
def test_a_file_that_cannot_be_read_is_one_line(end, tmp_path, model, name, content):
    place = tmp_path / "broken"
    place.mkdir()
    if name in ("train", "check_data"):
        (place / "synthetic-pedes" / "imgs").mkdir(parents=True)
        (place / "synthetic-pedes" / "reid_raw.json").write_bytes(content)
    elif name == "convert_checkpoint":
        place = place / "best.pth"
        place.write_bytes(content)
    else:
        for file in model.iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        (place / "model.safetensors").write_bytes(content)
    assert_one_line(name, *end(name, *commands(name, place)))


@contextlib.contextmanager
def as_nobody():
    """As a user who is not root, whom no right stops."""
    if os.name != "posix":
        pytest.skip("rights are those of POSIX")
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "benchmark"])
def test_a_place_without_rights_is_one_line(end, monkeypatch, name):
    with tempfile.TemporaryDirectory() as home:
        place = Path(home) / "locked"
        (place / "synthetic-pedes").mkdir(parents=True)
        pairs(Path(home))
        os.chmod(home, 0o777)
        os.chmod(place, 0)
        monkeypatch.chdir(home)
        if not os.geteuid():
            end(name, *commands(name, place))  # nobody may not read the libraries of root, which are loaded by this
            shutil.rmtree("out", ignore_errors=True)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", Path(home) / "cache")
        with as_nobody():
            assert_one_line(name, *end(name, *commands(name, place)), "ermission denied", "locked")


@pytest.mark.parametrize("name", NAMES)
def test_debug_shows_where_the_same_error_came_from(end, name):
    code, plain = end(name, *commands(name, "x"), "--no_such_option", 3)
    again, errors = end(name, "--debug", *commands(name, "x"), "--no_such_option", 3)
    assert code == again == 1 and errors.startswith("Traceback (most recent call last)")
    assert errors.endswith(plain) and "line" in errors


def test_debug_of_transformers_is_an_option_of_theirs(end):
    code, errors = end("train", "--debug", "underflow_overflow", "--data_root", "nowhere", "--output_dir", "out")
    assert_one_line("train", code, errors, "nowhere")


@pytest.mark.parametrize("device, part", [("cuda", "CUDA|NVIDIA"), ("gpu", "device"), ("cuda:x", "[Dd]evice")])
def test_a_device_that_is_not_there_is_one_line(end, model, device, part):
    code, errors = end("evaluate", model, "--pairs", "pairs.csv", "--device", device)
    assert_one_line("evaluate", code, errors)
    assert re.search(part, errors), errors


def test_a_tracker_that_is_not_installed_is_one_line(end):
    options = ["--pairs", "pairs.csv", "--val_split", "test", "--output_dir", "out", "--use_cpu", "true"]
    sizes = '{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}'
    options += ["--vision_config", sizes, "--text_config", sizes, "--report_to", "wandb"]
    assert_one_line("train", *end("train", *options), "wandb", "pip install")


def alive(pid: int) -> bool:
    try:
        # One that ended and that nobody has asked after is a zombie.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def until(condition, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@contextlib.contextmanager
def started(*command: object):
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
        # A shell that runs the tests in its background has Ctrl-C ignored by all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        if process.returncode is None:  # else its number may be another's by now
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.mark.parametrize("seconds, number, code", [(0.4, signal.SIGINT, 130), (1.2, signal.SIGTERM, 143)])
def test_a_stop_while_torch_is_imported_is_one_line(seconds, number, code):
    with started(SCRIPTS / "train.py", "--data_root", "nowhere") as process:
        time.sleep(seconds)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, b"train.py: stopped.\n")


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="looks for processes in /proc")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_generator_leaves_no_worker(tmp_path, number, code):
    with started(SCRIPTS / "make_synthetic.py", "--root", tmp_path, "--num_workers", 2) as process:
        assert until(lambda: len(children(process.pid)) >= 2)
        workers = children(process.pid)
        until(lambda: any(tmp_path.rglob("*.jpg")))
        # Ctrl-C reaches all processes of a terminal, SIGTERM the one that was named.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=60)
        assert until(lambda: not any(map(alive, workers)))
    assert (process.returncode, errors) == (code, b"make_synthetic.py: stopped.\n")
    assert not (tmp_path / "synthetic-pedes" / "reid_raw.json").exists()


# A script under a launcher: says who it is, and works until it is told to end.
LAUNCHED = """
import os, sys, time
from pathlib import Path
from torch.utils.data import DataLoader
from modeling_amns.cli import run_script
def main():
    for row in DataLoader(range(6000), num_workers=1, collate_fn=lambda rows: time.sleep(0.05)):
        (Path(sys.argv[1]) / str(os.getpid())).touch()
    return 0
sys.exit(run_script("script.py", main))
"""
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "accelerate": ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    + ["--mixed_precision", "no", "--dynamo_backend", "no"],
    "none": [],
}


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    "launcher, number, code",
    [
        ("torchrun", signal.SIGINT, 1),
        ("torchrun", signal.SIGTERM, 1),
        ("torchrun", signal.SIGKILL, -signal.SIGKILL),
        ("accelerate", signal.SIGINT, -signal.SIGINT),
        ("accelerate", signal.SIGTERM, -signal.SIGTERM),
        ("accelerate", signal.SIGKILL, -signal.SIGKILL),
        ("none", signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_nothing_outlives_what_started_it(tmp_path, launcher, number, code):
    """With the exit codes that docs/training.md states."""
    (tmp_path / "script.py").write_text(LAUNCHED)
    (tmp_path / "pids").mkdir()
    processes = 2 if launcher == "torchrun" else 1
    with started(*LAUNCHERS[launcher], tmp_path / "script.py", tmp_path / "pids") as process:
        assert until(lambda: len(list((tmp_path / "pids").iterdir())) == processes)
        ours = [int(file.name) for file in (tmp_path / "pids").iterdir()]
        ours += [worker for pid in ours for worker in children(pid)]
        os.kill(process.pid, number)
        assert until(lambda: not any(map(alive, ours)), 30), [pid for pid in ours if alive(pid)]
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    # What else is printed is the launcher's own.
    said = errors.decode().count("script.py: stopped.")
    assert said == (launcher != "none") and "line 8, in main" not in errors.decode()
