"""Checkpoints that are not whole are skipped, a full disk leaves the previous one, a loss that is not finite stops."""

import errno
import json

import pytest
import torch
from training_run import make_trainer
from transformers import TrainerCallback
from transformers import trainer as trainer_module

from modeling_amns import AMNSTrainer
from modeling_amns.checkpoints import last_whole_checkpoint, missing_parts, write_manifest
from modeling_amns.trainer import NonFiniteLossError

SAVE = {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 2}


def checkpoint(folder, step, whole=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"0123456789")
    if whole:
        write_manifest(path)
    return path


def test_the_newest_whole_checkpoint_is_found_and_the_others_are_explained(tmp_path):
    checkpoint(tmp_path, 2)
    good = checkpoint(tmp_path, 10)
    unfinished = checkpoint(tmp_path, 12, whole=False)
    cut = checkpoint(tmp_path, 14)
    (cut / "model.safetensors").write_bytes(b"01234")
    lost = checkpoint(tmp_path, 16)
    (lost / "model.safetensors").unlink()
    found, skipped = last_whole_checkpoint(tmp_path)
    assert found == good
    assert skipped == {
        lost: ["model.safetensors has no bytes, 10 were written"],
        cut: ["model.safetensors has 5 bytes, 10 were written"],
        unfinished: ["manifest.json is missing, so the process ended while it was written"],
    }


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert last_whole_checkpoint(tmp_path / "nowhere") == (None, {})
    assert missing_parts(tmp_path / "nowhere") == [f"{tmp_path / 'nowhere'} is no folder"]


@pytest.mark.parametrize("resume", [True, "true"])
def test_training_skips_a_half_written_checkpoint_and_resumes_from_the_one_before(tmp_path, resume):
    trainer = make_trainer(tmp_path, max_steps=4, **SAVE)
    trainer.train()
    want = trainer.model.state_dict()
    half = tmp_path / "output" / "checkpoint-4"
    (half / "manifest.json").unlink()
    (half / "optimizer.pt").write_bytes(b"half")
    resumed = make_trainer(tmp_path, max_steps=4, **SAVE)
    resumed.train(resume_from_checkpoint=resume)
    assert all(torch.equal(want[name], value) for name, value in resumed.model.state_dict().items())
    assert not missing_parts(half)


def test_a_half_written_checkpoint_that_is_named_is_an_error(tmp_path):
    half = checkpoint(tmp_path, 4, whole=False)
    with pytest.raises(ValueError, match="can't be resumed from: manifest.json is missing"):
        make_trainer(tmp_path, max_steps=4, **SAVE).train(resume_from_checkpoint=str(half))
    with pytest.raises(ValueError, match="no whole checkpoint"):
        make_trainer(tmp_path, max_steps=4, output_dir=str(tmp_path), **SAVE).train(resume_from_checkpoint=True)


def test_a_full_disk_is_one_clear_line_and_leaves_the_previous_checkpoint_whole(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, max_steps=4, save_total_limit=1, **SAVE)
    original = torch.save

    def full_at_step_4(value, file, *args, **kwargs):
        if "checkpoint-4" in str(file):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(value, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full_at_step_4)
    with pytest.raises(
        OSError, match="No space left on the disk while writing .*checkpoint-4.* checkpoint is .*checkpoint-2"
    ):
        trainer.train()
    found, skipped = last_whole_checkpoint(tmp_path / "output")
    assert found.name == "checkpoint-2" and not skipped


def test_a_checkpoint_is_whole_before_older_ones_go_and_the_arguments_stay_as_they_are(tmp_path, monkeypatch):
    whole, limits, rotate = [], [], trainer_module.rotate_checkpoints

    def spy(output_dir, save_total_limit, **kwargs):
        whole.append(
            missing_parts(max((tmp_path / "output").glob("checkpoint-*"), key=lambda path: int(path.name[11:])))
        )
        rotate(output_dir, save_total_limit, **kwargs)

    class Watch(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            limits.append(args.save_total_limit)

    save = AMNSTrainer._save_rng_state

    def inside(self, folder):
        limits.append(self.args.save_total_limit)
        save(self, folder)

    monkeypatch.setattr(trainer_module, "rotate_checkpoints", spy)
    monkeypatch.setattr(AMNSTrainer, "_save_rng_state", inside)
    trainer = make_trainer(tmp_path, max_steps=4, save_total_limit=1, **SAVE)
    trainer.add_callback(Watch())
    trainer.train()
    assert whole == [[], []] and limits == [1] * 4
    saved = torch.load(tmp_path / "output" / "checkpoint-4" / "training_args.bin", weights_only=False)
    assert saved.save_total_limit == 1
    assert [path.name for path in (tmp_path / "output").glob("checkpoint-*")] == ["checkpoint-4"]


@pytest.mark.parametrize("state", [None, '{"epoch": 1.0, "glo'])
def test_a_checkpoint_without_the_state_that_is_written_last_is_not_whole(tmp_path, state):
    folder = checkpoint(tmp_path, 2, whole=False)
    write_manifest(folder, to_come=("trainer_state.json",))
    if state:
        (folder / "trainer_state.json").write_text(state)
    assert missing_parts(folder) == ["trainer_state.json is missing or cut short"]
    (folder / "trainer_state.json").write_text("{}")
    assert missing_parts(folder) == []


@pytest.mark.parametrize("best", [3, 6])
def test_a_new_best_is_saved_at_whichever_step_it_is_found(tmp_path, monkeypatch, best):
    """Evaluations at 3 and 6, checkpoints at 2, 4 and 6, as shares of the training that are rounded one by one."""
    options = {**SAVE, "save_steps": 0.21, "eval_strategy": "steps", "eval_steps": 0.41, "max_steps": 7}
    trainer = make_trainer(tmp_path, **options)
    rank = AMNSTrainer._rank

    def graded(self, *args):
        embedded, metrics = rank(self, *args)
        return embedded, {**metrics, "eval_rank1": float(self.state.global_step == best)}

    monkeypatch.setattr(AMNSTrainer, "_rank", graded)
    trainer.train()
    assert (trainer.state.eval_steps, trainer.state.save_steps, trainer.state.best_global_step) == (3, 2, best)
    assert not missing_parts(tmp_path / "output" / f"checkpoint-{best}")
    assert trainer.state.best_model_checkpoint == str(tmp_path / "output" / f"checkpoint-{best}")


@pytest.mark.parametrize("resume", ["false", "no", False, None])
def test_a_wish_not_to_resume_in_words_is_one(tmp_path, resume):
    trainer = make_trainer(tmp_path, max_steps=1, **{**SAVE, "save_strategy": "no"})
    assert trainer.train(resume_from_checkpoint=resume).global_step == 1


def test_older_checkpoints_are_removed_after_the_new_one_is_whole(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=6, save_total_limit=1, **SAVE)
    trainer.train()
    assert [path.name for path in (tmp_path / "output").glob("checkpoint-*")] == ["checkpoint-6"]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_finite_stops_with_its_parts_and_pairs_and_saves_the_state_before(tmp_path, accumulation):
    options = {**SAVE, "save_strategy": "no", "max_steps": 4, "gradient_accumulation_steps": accumulation}
    options["lr_scheduler_type"] = "constant"
    reference = make_trainer(tmp_path, output_dir=str(tmp_path / "reference"), **{**options, "max_steps": 2})
    reference.train()
    trainer = make_trainer(tmp_path, **options)
    calls = []
    original = trainer._loss_parts

    def poisoned(*given):
        parts = original(*given)
        calls.append(len(calls))
        if len(calls) == 2 * accumulation + 1:
            parts["waf"] = parts["waf"] * float("nan")
        return parts

    trainer._loss_parts = poisoned
    with pytest.raises(
        NonFiniteLossError, match=r"Step 3, process 0: .*bsdm=[\d.]+, waf=nan, .*rows \[.*person ids \["
    ):
        trainer.train()
    saved = tmp_path / "output" / "checkpoint-2"
    assert not missing_parts(saved)
    assert json.loads((saved / "trainer_state.json").read_text())["global_step"] == 2
    assert all(
        torch.equal(value, reference.model.state_dict()[name]) for name, value in trainer.model.state_dict().items()
    )
