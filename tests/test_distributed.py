"""Two processes against one: the same loss and the same gradients of the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("training_run.py")


def launch(folder: Path, processes: int, **options) -> dict:
    """Runs `training_run.py` with that many gloo processes and reads what it wrote."""
    name = f"result_{processes}_{len(list(folder.glob('*.pt')))}.pt"
    # accelerate's `--cpu --num_processes 2` starts one process; its launcher for several is torch's.
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = (start if processes > 1 else [sys.executable]) + [str(SCRIPT), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run(
        [*command, json.dumps({**options, "result": name})], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = torch.load(folder / name, weights_only=True)
    assert result["world_size"] == processes
    return result


def losses(result: dict) -> list[float]:
    return [entry["loss"] for entry in result["log"] if "loss" in entry]


@pytest.mark.parametrize("instances", [0, 2])
def test_two_processes_equal_one_with_the_whole_batch(tmp_path, instances):
    """bsdm + waf + identity with AWM on, float64: loss, every gradient, and the weights after three steps."""
    options = {"double": True, "max_steps": 3, "instances_per_identity": instances, "keep_ratio": 0.5}
    one = launch(tmp_path, 1, per_device_train_batch_size=8, **options)
    two = launch(tmp_path, 2, per_device_train_batch_size=4, **options)
    # Trainer adds its log up in float32.
    assert losses(two) == pytest.approx(losses(one), rel=1e-6)
    for part in ("loss_bsdm", "loss_waf", "loss_identity"):
        assert two["log"][0][part] == pytest.approx(one["log"][0][part], rel=1e-6)
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


def test_without_gathering_the_processes_see_only_their_own_pairs(tmp_path):
    """The control of the test above: it must be able to fail."""
    options = {"double": True, "max_steps": 1}
    one = launch(tmp_path, 1, per_device_train_batch_size=8, **options)
    two = launch(tmp_path, 2, per_device_train_batch_size=4, gather_embeddings=False, **options)
    assert abs(losses(two)[0] - losses(one)[0]) > 1e-3
