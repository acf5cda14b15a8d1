"""Several processes against one on the same global batch, and killed runs against uninterrupted ones."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from warm_python import WarmProcess

SCRIPT = Path(__file__).with_name("training_run.py")
# What a run imports, once for all of them.
MODULES = ("training_run", "peft", "datasets", "modeling_amns.trainer", "torch._dynamo", "accelerate.optimizer")


def launch(folder: Path, processes: int, torchrun: bool = False, **options) -> dict:
    """Runs `training_run.py` with that many gloo processes and reads what it wrote.

    By torch's launcher where that matters; what it sets, and that it ends all when one fails, is done here otherwise,
    with processes that need not import everything anew.
    """
    name = f"result_{processes}_{len(list(folder.glob('*.pt')))}.pt"
    if not torchrun:
        words = [SCRIPT, folder, json.dumps({**options, "result": name})]
        return outcome(start_all(words, processes), folder / name, processes, options)
    # accelerate's `--cpu --num_processes 2` starts one process; its launcher for several is torch's.
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*start, str(SCRIPT), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run(
        [*command, json.dumps({**options, "result": name})],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return outcome([done], folder / name, processes, options)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def launch_machines(folder: Path, machines: int, **options) -> dict:
    """`launch` with one process on each of several machines: as many launchers, which meet at a port of loopback."""
    name, port = f"machines_{machines}.pt", free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    started = []
    for rank in range(machines):
        place = ["--nnodes", str(machines), "--node_rank", str(rank), "--nproc_per_node", "1"]
        place += ["--master_addr", "127.0.0.1", "--master_port", str(port)]
        command = [sys.executable, "-m", "torch.distributed.run", *place, str(SCRIPT), str(folder)]
        command.append(json.dumps({**options, "result": name}))
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
    ends = []
    for process in started:
        out, err = process.communicate(timeout=300)
        ends.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return outcome(ends, folder / name, machines, options)


def start_all(words: list, processes: int) -> list[subprocess.CompletedProcess]:
    """The ends of all processes of a run; the first that fails ends the others."""
    port = free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    started = []
    for rank in range(processes):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        own = {name: str(value) for name, value in place.items()} if processes > 1 else {}
        started.append(WarmProcess(words, {**environment, **own}, modules=MODULES))

    def end(process: WarmProcess) -> subprocess.CompletedProcess:
        try:
            out, err = process.communicate()
        finally:
            if process.returncode != 0:
                for other in started:
                    other.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(end, started))


def outcome(ends: list[subprocess.CompletedProcess], file: Path, processes: int, options: dict) -> dict:
    errors = "\n".join(end.stderr for end in ends)
    if "kill_at" in options or "break_at" in options:
        assert any(end.returncode for end in ends)
        return {"stderr": errors}
    assert not any(end.returncode for end in ends), errors[-8000:]
    result = torch.load(file, weights_only=True)
    assert result["world_size"] == processes
    return result


def losses(result: dict) -> list[float]:
    return [entry["loss"] for entry in result["log"] if "loss" in entry]


# Rows are weighed by the rows of all processes, persons by the whole training set.
BALANCED = {
    "loss_weights": {"bsdm": 1.0, "waf": 1.0, "identity": 1.0},
    "loss_options": {
        "bsdm": {"smoothing": 0.1},
        "waf": {"gamma": 1.0, "weighting": "redistribute"},
        "identity": {"gamma": 2.0, "weighting": "balanced"},
    },
}
# The start judges the pairs, which count by weights that they are given, from 0 to 1.
WEIGHED = {"pair_weighting": "mixture", "start": True, "weighed": True}


@pytest.mark.parametrize(
    "options", [{"instances_per_identity": 0}, {"instances_per_identity": 2, **BALANCED, **WEIGHED}]
)
def test_two_processes_equal_one_with_the_whole_batch(tmp_path, options):
    """bsdm + waf + identity with AWM on, float64: loss, gradients, after three steps weights and memory of pairs."""
    options = {"double": True, "max_steps": 3, "keep_ratio": 0.5, **options}
    one = launch(tmp_path, 1, per_device_train_batch_size=8, **options)
    two = launch(tmp_path, 2, per_device_train_batch_size=4, **options)
    # Trainer adds its log up in float32.
    assert losses(two) == pytest.approx(losses(one), rel=1e-6)
    first_of_one, first_of_two = (next(entry for entry in run["log"] if "loss" in entry) for run in (one, two))
    for part in ("loss_bsdm", "loss_waf", "loss_identity"):
        assert first_of_two[part] == pytest.approx(first_of_one[part], rel=1e-6)
    assert one["gradients"].keys() == two["gradients"].keys()
    assert {name for name in one["weights"] if "position_ids" not in name} - one["gradients"].keys() == {
        "amns.logit_scale"
    }
    for name, gradient in one["gradients"].items():
        assert torch.allclose(two["gradients"][name], gradient, rtol=1e-8, atol=1e-12), name
    for name, value in one["weights"].items():
        assert torch.allclose(two["weights"][name], value, rtol=1e-7, atol=1e-10), name
    for name, value in one["teacher"].items():
        assert torch.allclose(two["teacher"][name].double(), value.double(), rtol=1e-7, atol=1e-10), name
    assert torch.equal(two["pairs"]["seen"], one["pairs"]["seen"])
    assert one["pairs"]["seen"].sum() >= (6 if options.get("start") else 3) * 6
    assert (one["pairs"]["weights"].unique().numel() > 2) == bool(options.get("weighed"))
    assert torch.allclose(two["pairs"]["average"], one["pairs"]["average"], rtol=1e-6)


def test_two_processes_equal_one_with_adapters(tmp_path):
    """LoRA, float64: loss, gradients of adapters and classifier, weights and the averaged teacher."""
    pytest.importorskip("peft")
    options = {"double": True, "lora": True, "max_steps": 3, "keep_ratio": 0.5, "learning_rate": 1e-2}
    one = launch(tmp_path, 1, per_device_train_batch_size=8, **options)
    two = launch(tmp_path, 2, per_device_train_batch_size=4, **options)
    assert losses(two) == pytest.approx(losses(one), rel=1e-6)
    assert one["gradients"].keys() == two["gradients"].keys()
    assert all("lora_" in name or "classifier" in name for name in one["gradients"])
    for name, gradient in one["gradients"].items():
        assert torch.allclose(two["gradients"][name], gradient, rtol=1e-8, atol=1e-12), name
    for part in ("weights", "teacher"):
        for name, value in one[part].items():
            assert torch.allclose(two[part][name].double(), value.double(), rtol=1e-7, atol=1e-10), name


def test_a_classifier_without_its_loss_is_left_alone_by_several_processes(tmp_path):
    """A parameter that is waited for and gets no gradient stops the second step."""
    options = {"max_steps": 2, "loss_weights": {"bsdm": 1.0}, "learning_rate": 1e-2}
    one = launch(tmp_path, 1, per_device_train_batch_size=8, **options)
    two = launch(tmp_path, 2, per_device_train_batch_size=4, **options)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    classifier = {name for name in one["weights"] if name.startswith("classifier.")}
    assert classifier and not classifier & one["gradients"].keys()


def test_two_processes_equal_one_with_a_frozen_encoder(tmp_path):
    """What is not trained is waited for by nobody; with the gradient cache, which has no way back into it."""
    options = {"max_steps": 2, "frozen": ["vision_model"], "gradient_cache_chunk_size": 2, "learning_rate": 1e-2}
    one = launch(tmp_path, 1, per_device_train_batch_size=8, **options)
    two = launch(tmp_path, 2, per_device_train_batch_size=4, **options)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert one["gradients"].keys() == two["gradients"].keys()
    assert not any("vision_model" in name for name in one["gradients"])
    assert any("visual_projection" in name for name in one["gradients"])


def test_without_gathering_the_processes_see_only_their_own_pairs(tmp_path):
    """The control of the test above: it must be able to fail."""
    options = {"double": True, "max_steps": 1}
    one = launch(tmp_path, 1, per_device_train_batch_size=8, **options)
    two = launch(tmp_path, 2, per_device_train_batch_size=4, gather_embeddings=False, **options)
    assert abs(losses(two)[0] - losses(one)[0]) > 1e-3


@pytest.mark.parametrize("accumulation, instances, chunk", [(1, 0, 0), (2, 2, 2)])
def test_one_two_and_four_processes_follow_the_same_loss_curve(tmp_path, accumulation, instances, chunk):
    """20 steps in float32, AWM on, both samplers, with and without accumulation and gradient cache."""
    options = {
        "max_steps": 20,
        "gradient_accumulation_steps": accumulation,
        "instances_per_identity": instances,
        "gradient_cache_chunk_size": chunk,
        "learning_rate": 1e-4,
    }
    runs = [
        launch(tmp_path, processes, per_device_train_batch_size=8 // processes, **options) for processes in (1, 2, 4)
    ]
    one = losses(runs[0])
    assert len(one) == 20 and min(one[-3:]) < one[0]
    for run in runs[1:]:
        assert losses(run) == pytest.approx(one, rel=1e-4)
        # The weights differ in their last digits, the ranks may not.
        assert run["metrics"] == pytest.approx(runs[0]["metrics"], abs=1e-2)


def test_a_share_of_the_gallery_that_does_not_divide_gives_the_same_figures(tmp_path):
    options = {"max_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 0.0, "eval_items": 47}
    runs = [launch(tmp_path, processes, **options) for processes in (1, 2, 4)]
    assert runs[0]["metrics"] == runs[1]["metrics"] == runs[2]["metrics"]
    assert runs[0]["metrics"]["eval_mAP"] > 0


def test_one_process_that_fails_ends_the_others_and_its_error_is_shown(tmp_path):
    """The other process waits in a gather for it; `launch` would run into its time limit."""
    done = launch(tmp_path, 2, torchrun=True, per_device_train_batch_size=4, max_steps=50, break_at=2)
    assert "RuntimeError: process 1 broke at step 2" in done["stderr"]
    assert not list(tmp_path.glob("*.pt"))


def test_only_the_main_process_writes(tmp_path):
    """Each process is given a folder of its own; the second leaves the state of its random numbers there, no more."""
    options = {"save_strategy": "epoch", "eval_strategy": "epoch", "num_train_epochs": 1}
    launch(tmp_path, 2, torchrun=True, per_device_train_batch_size=4, output_by_rank=True, **options)
    written = [
        {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        for folder in (tmp_path / "output_0", tmp_path / "output_1")
    ]
    assert written[1] == {"checkpoint-6/rng_state_1.pth"}
    assert {"checkpoint-6/model.safetensors", "checkpoint-6/teacher.safetensors"} <= written[0]


def test_two_machines_equal_one_with_two_processes_and_write_once(tmp_path):
    """A stream in blocks, AWM, and checkpoints on the one disk of both."""
    options = {
        "shards": 4, "in_order": True, "stream_shuffle_block": 7, "max_steps": 4, "save_strategy": "steps",
        "save_steps": 2, "per_device_train_batch_size": 4, "keep_ratio": 0.5,
    }  # fmt: skip
    one = launch(tmp_path, 2, output_dir=str(tmp_path / "one"), **options)
    two = launch_machines(tmp_path, 2, output_dir=str(tmp_path / "two"), **options)
    assert losses(two) == losses(one)
    for part in ("weights", "teacher"):
        assert same_bits(one[part], two[part])
    files = [
        {str(path.relative_to(folder)) for path in folder.rglob("*")}
        for folder in (tmp_path / "one", tmp_path / "two")
    ]
    assert files[0] == files[1] and "checkpoint-2/teacher.safetensors" in files[0]


def same_bits(one: dict, other: dict) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_that_is_resumed_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, processes):
    """SIGKILL after a step, and inside the writing of a checkpoint: weights, teacher, optimizer and metrics."""
    options = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "augment_text": 0.2,
    }
    whole = launch(tmp_path, processes, output_dir=str(tmp_path / "whole"), **options)
    steps = 2 * 48 // (4 * processes)
    kills = [(3, False), (steps // 2 + 2, True), (steps - 3, False)] if processes == 1 else [(6, True)]
    for number, (step, while_saving) in enumerate(kills):
        run = {**options, "output_dir": str(tmp_path / f"killed_{number}")}
        launch(tmp_path, processes, kill_at=step, while_saving=while_saving, **run)
        resumed = launch(tmp_path, processes, resume=True, **run)
        assert same_bits(whole["weights"], resumed["weights"])
        assert same_bits(whole["teacher"], resumed["teacher"])
        assert same_bits(whole["pairs"], resumed["pairs"])
        assert whole["optimizer"] == resumed["optimizer"]
        assert whole["metrics"] == resumed["metrics"]
