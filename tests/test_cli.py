"""What all programs share: spelling of options, one line for an error, an end in order."""

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from modeling_amns.cli import OptionParser, error_line, option_groups, parse, run_script
from modeling_amns.recipe import DataArguments, ModelArguments, parse_arguments
from modeling_amns.training_args import AMNSTrainingArguments

ROOT = Path(__file__).parents[1]
# Says that it is ready, and waits as long as `wait` says.
PROGRAM = """
import sys, time
from modeling_amns.cli import run_script
def main():
    print("{text}", flush=True)
    {work}
    return 0
sys.exit(run_script("program.py", main))
"""
# Its first batch has come, so its workers are there.
WORKERS = """from torch.utils.data import DataLoader
    for _ in DataLoader(range(600), num_workers=2, collate_fn=lambda rows: time.sleep(0.1), timeout=60):
        print("ready", flush=True)"""


@dataclass
class Options:
    """What to do."""

    data_root: str = "data"
    int8: bool = False
    batch_size: int = 1


@pytest.mark.parametrize(
    "words, expected",
    [
        (["model", "--data_root", "d"], (Options("d"), "model")),
        (["model", "--data-root=d"], (Options("d"), "model")),
        (["--int8", "model"], (Options(int8=True), "model")),
        (["--int8", "false", "model"], (Options(), "model")),
        (["model", "--int8"], (Options(int8=True), "model")),
        (["--int8", "--batch-size", "3", "model"], (Options(int8=True, batch_size=3), "model")),
    ],
)
def test_options_are_spelt_either_way_and_a_switch_takes_no_other_word(words, expected):
    assert parse((Options,), "Tries.", {"model": "checkpoint"}, words) == expected


@pytest.mark.parametrize(
    "words, message",
    [
        (["m", "--bach_size", "3"], "There is no option '--bach_size'. Did you mean --batch_size?"),
        (["m", "another"], "There is no place for the word 'another'"),
    ],
)
def test_what_is_not_known_is_named(words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse((Options,), "Tries.", {"model": "checkpoint"}, words)


def test_a_value_of_the_wrong_kind_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        parse((Options,), "Tries.", arguments=["--batch_size", "three"])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--batch_size" in line and "three" in line


def test_every_option_stands_in_one_group_and_those_of_transformers_last():
    kinds = (DataArguments, ModelArguments, AMNSTrainingArguments)
    for kind in kinds:
        grouped = [field.name for fields in option_groups(kind).values() for field in fields]
        assert sorted(grouped) == sorted(field.name for field in dataclasses.fields(kind) if field.init)
    titles = list(option_groups(AMNSTrainingArguments))
    assert (
        titles[:3] == ["Losses", "Doubtful pairs", "Mask and teacher (AWM)"]
        and titles[-1] == "TrainingArguments of transformers"
    )
    text = OptionParser(kinds).format_help()
    assert text.index("--keep_ratio") < text.index("TrainingArguments of transformers") < text.index("--adam_beta1")


class Broken(torch.utils.data.Dataset):
    """A data set whose second row cannot be read."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> int:
        if row:
            try:
                raise OSError("image file is truncated")
            except OSError as error:
                raise ValueError("Cannot read image a b.jpg: image file is truncated.\nCopy it again.") from error
        return row


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_worker_process_reads_as_in_the_program_itself(workers, capsys):
    def main() -> int:
        list(DataLoader(Broken(), num_workers=workers))
        return 0

    assert run_script("try.py", main) == 1
    expected = "try.py: Cannot read image a b.jpg: image file is truncated. Copy it again.\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    "error, line",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "CUDA out of memory."),
        (RuntimeError("Found no NVIDIA driver on your system."), "no NVIDIA driver"),
        (AssertionError("Torch not compiled with CUDA enabled"), "Torch not compiled with CUDA enabled"),
        (RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0"), "inline_container"),
        (RuntimeError("WandbCallback requires wandb to be installed. Run `pip install wandb`."), "pip install wandb"),
        (FileNotFoundError(2, "No such file or directory", "a\x1b[31m.png"), "a\\x1b[31m.png"),
        (ValueError("x" * 5000), "xxx ..."),
        (MemoryError(), "out of memory"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_errors_of_user_and_machine_are_one_line(error, line, capsys):
    def main() -> int:
        raise error

    assert run_script("try.py", main) == 1
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith("try.py: ") and line in printed and len(printed) < 1100


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), KeyError("x"), AssertionError(), TypeError("f")])
def test_a_fault_of_the_program_keeps_its_traceback(error):
    def main() -> int:
        raise error

    with pytest.raises(type(error)):
        run_script("try.py", main)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_text_that_only_mentions_a_traceback_is_kept():
    assert error_line(ValueError("b.log holds Traceback (most recent call last):\n")) != ""


@contextlib.contextmanager
def started(text: str, work: str, **environment: str):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(text=text, work=work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("work", ["time.sleep(60)", WORKERS])
def test_a_stopped_program_ends_in_one_line(work, number, code):
    with started("ready", work) as process:
        for _ in range(1 + (work == WORKERS)):
            assert process.stdout.readline() == b"ready\n"
        # As a terminal does, to the workers too.
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == code and errors == b"program.py: stopped.\n"


def test_a_character_that_the_console_has_not_is_escaped():
    with started("写真.png", "raise ValueError('写真')", PYTHONIOENCODING="cp1252") as process:
        output, errors = process.communicate(timeout=60)
    assert output.strip() == rb"\u5199\u771f.png" and errors.strip() == rb"program.py: \u5199\u771f"
    assert process.returncode == 1


def test_train_without_options_says_what_it_would_do_and_stops(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py")], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 1 and not done.stdout and not list(tmp_path.iterdir())
    for part in ("384x128", "synthetic-pedes in data", "3 epochs", "a day", "--config quickstart", "--yes"):
        assert part in done.stderr
    data, _, args = parse_arguments(["--yes", "--output_dir", str(tmp_path)])
    assert data.benchmark == ["synthetic-pedes"] and args.num_train_epochs == 3


def test_a_script_beside_evaluate_py_imports_the_library_of_that_name(tmp_path):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    metric = ROOT / "modeling_amns" / "metrics" / "person_retrieval"
    values = "predictions=[[1.0, 0.0]], references=[3], gallery_embeddings=[[1.0, 0.0]], gallery_ids=[3]"
    program = f"import evaluate\nprint(evaluate.load({str(metric)!r}).compute({values}))\nimport evaluate.loading\n"
    (tmp_path / "scripts" / "mine.py").write_text(program)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "scripts" / "mine.py")], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0 and "'rank1': 100.0" in done.stdout, done.stderr[-1500:]
