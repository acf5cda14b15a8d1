"""bfloat16, compilation and the refusal of sharded parameters, each against the plain float32 run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_run import make_trainer
from transformers import Trainer

OPTIONS = {"per_device_train_batch_size": 8, "max_steps": 4, "learning_rate": 1e-3, "keep_ratio": 0.5}


def run(folder, prepare=None, **options):
    """A short run: its trainer and the losses that it logged."""
    trainer = make_trainer(folder, **{**OPTIONS, **options})
    if prepare:
        prepare(trainer)
    trainer.train()
    return trainer, [entry for entry in trainer.state.log_history if "loss_bsdm" in entry]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Losses of the float32 run."""
    return run(tmp_path_factory.mktemp("plain"))[1]


def assert_close(found, wanted, tolerance):
    assert len(found) == len(wanted) == OPTIONS["max_steps"]
    for one, other in zip(found, wanted):
        for name in ("loss", "loss_bsdm", "loss_waf", "loss_identity"):
            assert one[name] == pytest.approx(other[name], rel=tolerance), name


@pytest.mark.parametrize("chunk", [0, 4])
def test_bf16_autocast_follows_float32_and_computes_its_losses_in_float32(tmp_path, plain, chunk):
    seen = []

    def watch(trainer):
        inner = trainer._loss_parts

        def spy(*given):
            parts = inner(*given)
            seen.append({value.dtype for value in parts.values()})
            return parts

        trainer._loss_parts = spy

    trainer, losses = run(tmp_path, watch, bf16=True, gradient_cache_chunk_size=chunk)
    assert_close(losses, plain, 0.03)
    assert losses[0]["loss"] != plain[0]["loss"]
    assert seen and all(parts == {torch.float32} for parts in seen)
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


def test_bf16_weights_train_with_a_float32_teacher_and_float32_losses(tmp_path, plain):
    trainer = make_trainer(tmp_path, **OPTIONS)
    model = trainer.model.bfloat16()
    trainer = type(trainer)(
        model,
        trainer.args,
        train_dataset=trainer.train_dataset.dataset.cast_column(
            "image", trainer.eval_dataset["gallery"].features["image"]
        ),
        eval_dataset=trainer.eval_dataset,
        processing_class=trainer.processing_class,
    )
    before = {name: value.clone() for name, value in trainer.teacher.state_dict().items()}
    trainer.train()
    losses = [entry for entry in trainer.state.log_history if "loss_bsdm" in entry]
    assert_close(losses, plain, 0.05)
    assert all(parameter.dtype == torch.bfloat16 for parameter in trainer.model.parameters())
    floats = {name: value for name, value in trainer.teacher.state_dict().items() if value.is_floating_point()}
    assert {value.dtype for value in floats.values()} == {torch.float32}
    name = "module.vision_model.encoder.layers.0.mlp.fc1.weight"
    moved = floats[name] - before[name]
    # In bfloat16 an average of such small steps would stand still in most places.
    assert (moved != 0).float().mean() > 0.9
    assert trainer.evaluate()["eval_mAP"] > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 with a gradient scaler needs a GPU")
@pytest.mark.parametrize("chunk", [0, 4])
def test_fp16_with_a_scaler_follows_float32(tmp_path, plain, chunk):
    losses = run(tmp_path, use_cpu=False, fp16=True, gradient_cache_chunk_size=chunk)[1]
    assert_close(losses, plain, 0.03)


@pytest.mark.parametrize("keep", [None, 16])
def test_the_encoders_compile_without_a_graph_break(tmp_path, keep):
    trainer = make_trainer(tmp_path, **OPTIONS)
    batch = next(iter(trainer.get_train_dataloader()))
    inputs = trainer._model_inputs(batch)
    inputs["keep_indices"] = None if keep is None else inputs["keep_indices"][:, :keep]
    torch._dynamo.reset()
    report = torch._dynamo.explain(trainer.model)(**inputs)
    assert report.graph_break_count == 0, report.break_reasons
    assert report.graph_count == 1


def test_torch_compile_trains_to_the_same_losses_and_saves_plain_names(tmp_path, plain):
    torch._dynamo.reset()
    trainer, losses = run(
        tmp_path, torch_compile=True, torch_compile_backend="aot_eager", save_strategy="steps", save_steps=4
    )
    assert_close(losses, plain, 1e-4)
    saved = type(trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)).from_pretrained(
        tmp_path / "output" / "checkpoint-4"
    )
    for name, value in saved.state_dict().items():
        assert torch.equal(
            value, trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False).state_dict()[name]
        )


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_sharded_parameters_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(Trainer, "__init__", pretend_environment(monkeypatch, f"ACCELERATE_USE_{name}"))
    with pytest.raises(ValueError, match=f"does not train under {name}".replace("DEEPSPEED", "DeepSpeed")):
        make_trainer(tmp_path)


def pretend_environment(monkeypatch, variable):
    """Sets the variable once Trainer has started: DeepSpeed's own start needs its package."""
    start = Trainer.__init__

    def started(self, *args, **kwargs):
        start(self, *args, **kwargs)
        monkeypatch.setenv(variable, "true")

    return started


def test_an_accelerate_configuration_with_fsdp_is_refused_in_one_line(tmp_path):
    program = Path(__file__).with_name("training_run.py")
    (tmp_path / "fsdp.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nmixed_precision: 'no'\nnum_machines: 1\n"
        "num_processes: 2\nuse_cpu: false\nfsdp_config:\n  fsdp_version: 2\n"
    )
    launch = ["accelerate.commands.launch", "--config_file", str(tmp_path / "fsdp.yaml")]
    done = subprocess.run(
        [sys.executable, "-m", *launch, str(program), str(tmp_path), "{}"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(program.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "AMNSTrainer does not train under FSDP" in done.stderr
