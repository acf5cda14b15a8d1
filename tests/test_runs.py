"""A checkpoint is of one run: others are refused by name, `output_dir` holds one run at a time."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from training_run import make_trainer, tiny_pairs
from transformers import TrainerCallback
from transformers.trainer_utils import HPSearchBackend

from modeling_amns import AMNSTrainer
from modeling_amns.cards import PICTURES
from modeling_amns.checkpoints import MANIFEST, missing_parts
from modeling_amns.data.collator import undecoded
from modeling_amns.run_folder import LOCK, locked
from modeling_amns.run_record import RECORD, differences, make_record, read_record, reading_of

SAVE = {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}


@pytest.fixture
def run(tmp_path):
    make_trainer(tmp_path, **SAVE).train()
    return tmp_path / "output"


def resume(folder, **options):
    trainer = make_trainer(folder, **{**SAVE, "max_steps": 6, **options})
    trainer.train(resume_from_checkpoint=True)
    return trainer


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 7},
        {"temperature": 0.05},
        {"keep_ratio": 0.25},
        {"loss_weights": {"bsdm": 1.0, "identity": 1.0}},
        {"loss_options": {"waf": {"gamma": 2.0}}},
        {"learning_rate": 1e-3},
        {"instances_per_identity": 2},
    ],
)
def test_a_run_with_other_options_is_refused_by_their_names(tmp_path, run, options):
    (name,) = options
    with pytest.raises(ValueError, match=rf"checkpoint-4 is of another run: {name} was .*, now .*start a new run"):
        resume(tmp_path, **options)
    assert not missing_parts(run / "checkpoint-4")


def test_what_may_differ_goes_on_under_the_same_run_and_is_noted(tmp_path, run):
    before = read_record(run / "checkpoint-4")
    half = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer = resume(tmp_path, max_steps=8, logging_steps=3, save_steps=1, dataloader_num_workers=1, **half)
    after = read_record(run / "checkpoint-8")
    assert (trainer.state.global_step, trainer.state.epoch) == (8, pytest.approx(8 / 6))
    assert after["run"] == before["run"] and before["changes"] == []
    assert after["changes"] == [
        {
            "step": 4,
            "per_device_train_batch_size": [8, 4],
            "gradient_accumulation_steps": [1, 2],
            "max_steps": [4, 8],
        }
    ]


@pytest.mark.parametrize("size, steps", [(16, 4 + 7), (4, 4 + 28)])
def test_with_another_batch_a_run_trains_the_epochs_that_are_left(tmp_path, size, steps):
    """48 pairs: 4 of the 6 steps of 8 of the first epoch leave 16 pairs of it, and two epochs."""
    options = {**SAVE, "max_steps": -1, "num_train_epochs": 3}
    trainer = make_trainer(tmp_path, **options)
    trainer.add_callback(StopAt(4))
    trainer.train()
    resumed = make_trainer(tmp_path, **{**options, "per_device_train_batch_size": size})
    rows = []
    original = resumed.training_step
    resumed.training_step = lambda model, inputs, *rest: (
        rows.extend(inputs["rows"].tolist()) or original(model, inputs, *rest)
    )
    resumed.train(resume_from_checkpoint=True)
    first = [key.row for key in make_trainer(tmp_path, **options)._get_train_sampler()]
    assert rows[:16] == first[32:] and len(rows) == 16 + 2 * 48
    assert (resumed.state.global_step, resumed.state.epoch) == (steps, 3.0)


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def changed(pairs: datasets.Dataset, how: str) -> datasets.Dataset:
    if how == "caption":
        return pairs.map(lambda row, index: {"caption": "new"} if index == 5 else {}, with_indices=True)
    if how == "person":
        return pairs.map(lambda row, index: {"person_id": 3} if index == 0 else {}, with_indices=True)
    if how == "order":
        return pairs.select(list(range(len(pairs)))[::-1])
    return pairs.select(range(len(pairs) - 1))


@pytest.mark.parametrize(
    "how, said",
    [
        ("caption", "other captions"),
        ("person", "other persons"),
        ("order", "other images"),
        ("fewer", "48 pairs then, 47"),
    ],
)
def test_changed_data_are_refused_with_what_changed(tmp_path, run, how, said):
    trainer = make_trainer(tmp_path, **SAVE)
    trainer.train_dataset.dataset = changed(trainer.train_dataset.dataset, how)
    with pytest.raises(ValueError, match=f"the training data changed .*{said}"):
        trainer.train(resume_from_checkpoint=True)


def test_names_of_persons_model_and_tokenizer_are_compared(tmp_path):
    trainer = make_trainer(tmp_path, **SAVE)
    record = make_record(trainer)
    assert record["run"] != make_record(trainer)["run"] and not differences(record, make_record(trainer))
    model = record | {"model": record["model"] | {"num_identities": 9}}
    assert differences(record, model) == ["the model's num_identities was 8, now 9"]
    assert differences(record, record | {"tokenizer": "0"}) == ["the tokenizer is another one"]
    names = record | {"data": record["data"] | {"person_names": "a"}}
    assert "other persons" in differences(names, record | {"data": record["data"] | {"person_names": "b"}})[0]


def test_a_stream_that_is_shuffled_anew_each_time_is_refused(tmp_path):
    def trainer():
        made = make_trainer(tmp_path, shards=2, **SAVE)
        made.train_dataset.dataset = tiny_pairs(tmp_path).to_iterable_dataset(2).shuffle(buffer_size=20)
        return made

    trainer().train()
    with pytest.raises(ValueError, match="the stream gives other pairs .*needs a seed"):
        trainer().train(resume_from_checkpoint=True)


def stream_of(folder, workers=0, number=None, max_steps=9, **values):
    """A trainer on a stream, of which one pair may be another."""
    options = {**SAVE, "max_steps": max_steps, "save_steps": 1, "dataloader_num_workers": workers}
    made = make_trainer(folder, shards=2, **options)
    rows = tiny_pairs(folder).to_list()
    if number is not None:
        rows[number] |= values
    pairs = datasets.Dataset.from_list(rows, features=tiny_pairs(folder).features)
    made.train_dataset.dataset = undecoded(pairs.to_iterable_dataset(2))
    return made


# Of two workers the second begins with pair 24.
@pytest.mark.parametrize("workers, inside, outside", [(0, [0, 15], [16, 46]), (2, [7, 31], [8, 32])])
def test_a_stream_is_compared_as_far_as_it_is_read_again(tmp_path, workers, inside, outside):
    """Step 8 is the second one of the second pass, of which 16 pairs were read."""
    stream_of(tmp_path, workers).train()
    reading = reading_of(read_record(tmp_path / "output" / "checkpoint-8"))
    assert reading.epoch == 1 and sorted(row for row, _ in reading.rows.values()) == ([14, 15] if workers else [15])
    for number in (*inside, *outside):
        for epoch, values in ((1, {"caption": "new"}), (1, {"person_id": 9}), (0, {"person_id": 9}))[
            : 1 if workers else 3
        ]:
            pairs = stream_of(tmp_path, workers, number, **values).train_dataset
            pairs.expected = reading
            pairs.set_epoch(epoch)
            other = epoch == 1 and number in inside
            with pytest.raises(ValueError, match="other pairs than") if other else contextlib.nullcontext():
                list(DataLoader(pairs, batch_size=None, num_workers=workers, collate_fn=len))


def test_a_resume_on_a_stream_with_other_pairs_ends_before_a_step(tmp_path):
    stream_of(tmp_path).train()
    last = tmp_path / "output" / "checkpoint-9"
    before = last.stat().st_mtime_ns
    image = Image.open(tmp_path / "20.png")
    image.putpixel((0, 0), (1, 2, 3))
    image.save(tmp_path / "20.png", compress_level=0)
    # Behind the first 16, which are compared at once.
    with pytest.raises(ValueError, match="other pairs .*first 24 of this pass: .*an image's name or its size"):
        stream_of(tmp_path, max_steps=10).train(resume_from_checkpoint=str(last))
    assert last.stat().st_mtime_ns == before


def test_image_files_of_another_size_are_other_data(tmp_path, run):
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes() + b"0")
    with pytest.raises(ValueError, match="the training data changed .image files of other sizes"):
        resume(tmp_path)


def test_workers_of_a_stream_give_each_pair_a_row_of_its_own(tmp_path):
    options = {"dataloader_num_workers": 2, "max_steps": 4, "per_device_train_batch_size": 8}
    trainer = make_trainer(tmp_path, shards=2, **options)
    rows = [row for batch in trainer.get_train_dataloader() for row in batch["rows"].tolist()]
    assert len(rows) == len(set(rows)) == 48


def test_weights_alone_are_not_resumed_from(tmp_path):
    make_trainer(tmp_path, save_only_model=True, **SAVE).train()
    for asked in (True, str(tmp_path / "output" / "checkpoint-4")):
        with pytest.raises(ValueError, match="checkpoint-4 can't be resumed from: it holds no optimizer state"):
            make_trainer(tmp_path, **SAVE).train(resume_from_checkpoint=asked)


def test_a_used_folder_is_refused_and_overwritten_by_wish_with_its_own_kinds_of_files_only(tmp_path, run, caplog):
    (run / "notes.txt").write_text("mine")
    for picture in PICTURES:
        (run / picture).write_bytes(b"")
    with pytest.raises(ValueError, match="output is in use: it holds checkpoint-2, checkpoint-4 of another run"):
        make_trainer(tmp_path, seed=7, **SAVE).train()
    with pytest.raises(ValueError, match="overwrite_output_dir would delete what resume_from_checkpoint"):
        make_trainer(tmp_path, overwrite_output_dir=True, **SAVE).train(resume_from_checkpoint=True)
    assert not missing_parts(run / "checkpoint-4")
    make_trainer(tmp_path, seed=7, overwrite_output_dir=True, **{**SAVE, "max_steps": 2}).train()
    assert "deletes from" in caplog.text and "checkpoint-2, checkpoint-4, attention.png" in caplog.text
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-2", "notes.txt"]


def test_a_run_does_not_go_on_among_the_checkpoints_of_another(tmp_path, run):
    other = make_trainer(tmp_path, output_dir=str(tmp_path / "other"), **SAVE)
    other.train()
    with pytest.raises(ValueError, match="output holds checkpoint-2, checkpoint-4 of another run"):
        make_trainer(tmp_path, **SAVE).train(resume_from_checkpoint=str(tmp_path / "other" / "checkpoint-2"))


def test_rotation_leaves_the_checkpoint_that_is_written_and_stops_before_another_runs(tmp_path, run):
    """From step 2, where step 4 is there: as new as all others it would count as the newest."""
    trainer = make_trainer(
        tmp_path, save_total_limit=1, save_steps=1, **{k: SAVE[k] for k in SAVE if k != "save_steps"}
    )
    seen = []

    class Watch(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            seen.append(not missing_parts(run / f"checkpoint-{state.global_step}"))

    trainer.add_callback(Watch())
    trainer.train(resume_from_checkpoint=str(run / "checkpoint-2"))
    assert seen == [True, True]
    record = read_record(run / "checkpoint-4")
    (run / "checkpoint-1").mkdir()
    (run / "checkpoint-1" / RECORD).write_text(json.dumps(record | {"run": "another"}))
    with pytest.raises(ValueError, match="checkpoint-1 of another run"):
        trainer._save_checkpoint(trainer.model, None)
    assert (run / "checkpoint-1" / RECORD).is_file()


@pytest.mark.parametrize("part", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_that_is_written_over_and_ends_at_any_file_is_not_whole(tmp_path, run, monkeypatch, part):
    """The folder holds a whole one of another run: whatever was written is never joined by what was there."""
    record = read_record(run / "checkpoint-4")
    (run / "checkpoint-4" / RECORD).write_text(json.dumps(record | {"run": "another"}))
    trainer = make_trainer(tmp_path, max_steps=4, per_device_train_batch_size=8, save_strategy="no", seed=3)
    trainer.args.output_dir = str(tmp_path / "elsewhere")
    trainer.train()
    trainer.args.output_dir = str(run)
    end = {"model.safetensors": "save_model", "rng_state.pth": "_save_rng_state"}.get(
        part, "_save_optimizer_and_scheduler"
    )
    original = getattr(AMNSTrainer, end)

    def killed(self, folder, *args, **kwargs):
        original(self, folder, *args, **kwargs)
        for name in ("trainer_state.json", part):
            (Path(folder) / name).unlink(missing_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(AMNSTrainer, end, killed)
    with pytest.raises(KeyboardInterrupt):
        trainer._save_checkpoint(trainer.model, None)
    assert missing_parts(run / "checkpoint-4")
    names = {path.name for path in (run / "checkpoint-4").iterdir()}
    assert "trainer_state.json" not in names and part not in names
    assert read_record(run / "checkpoint-4")["run"] == trainer.run_record["run"]


def test_a_stale_teacher_is_not_listed(tmp_path, run):
    trainer = make_trainer(tmp_path, keep_ratio=1.0, **{**SAVE, "max_steps": 4, "save_strategy": "no"})
    trainer.args.output_dir = str(tmp_path / "elsewhere")
    trainer.train()
    trainer.args.output_dir = str(run)
    trainer._save_checkpoint(trainer.model, None)
    assert "teacher.safetensors" not in json.loads((run / "checkpoint-4" / MANIFEST).read_text())
    with pytest.raises(FileNotFoundError, match="has no teacher.safetensors"):
        resume(tmp_path)


def test_a_checkpoint_without_a_record_is_resumed_with_a_warning(tmp_path, run, caplog):
    for step in (2, 4):
        manifest = run / f"checkpoint-{step}" / MANIFEST
        (run / f"checkpoint-{step}" / RECORD).unlink()
        sizes = json.loads(manifest.read_text())
        del sizes[RECORD]
        manifest.write_text(json.dumps(sizes))
    assert resume(tmp_path).state.global_step == 6
    assert "does not say which run wrote it" in caplog.text


def test_a_finished_run_makes_no_step_more(tmp_path, run):
    trainer = make_trainer(tmp_path, **SAVE)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4


def test_an_epoch_whose_evaluation_was_lost_is_evaluated_before_the_next(tmp_path):
    options = {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 3, "eval_strategy": "epoch"}
    whole = make_trainer(tmp_path, num_train_epochs=2, **options)
    whole.train()
    resumed = make_trainer(tmp_path, num_train_epochs=2, output_dir=str(tmp_path / "resumed"), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "output" / "checkpoint-6"))
    evaluated = [
        {entry["step"]: entry["eval_mAP"] for entry in trainer.state.log_history if "eval_mAP" in entry}
        for trainer in (whole, resumed)
    ]
    assert evaluated[0] == evaluated[1] and list(evaluated[0]) == [6, 12]
    assert whole.state.best_metric == resumed.state.best_metric
    assert all(
        torch.equal(value, whole.model.state_dict()[name]) for name, value in resumed.model.state_dict().items()
    )


def trial_of_a_search(folder, number=0, resume=None, **options):
    """What a search does with a trial, without the packages that make them."""
    made = make_trainer(folder, **{**SAVE, **options})
    model = made.model
    made.model_init = lambda: model
    made.hp_search_backend, made.hp_space = (
        HPSearchBackend.OPTUNA,
        lambda trial: {"learning_rate": 2e-4, "max_steps": 2},
    )
    made.hp_name = lambda trial: f"run-{trial.number}-{made.args.learning_rate}"
    made.train(resume_from_checkpoint=resume, trial=SimpleNamespace(number=number, params={}))
    return made


def test_a_trial_of_a_search_has_a_folder_of_its_own_that_no_other_may_use(tmp_path, run, monkeypatch):
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: {})
    first, second = run / "run-0-0.0002", run / "run-1-0.0002"
    # What a run left beside the trials is another matter.
    trial_of_a_search(tmp_path)
    trial_of_a_search(tmp_path, 1)
    assert [path.name for path in sorted(first.iterdir())] == ["checkpoint-2"]
    records = [read_record(folder / "checkpoint-2") for folder in (first, second)]
    assert records[0]["run"] != records[1]["run"] and records[0]["options"]["learning_rate"] == 2e-4
    with pytest.raises(ValueError, match="run-0-0.0002 is in use: it holds checkpoint-2 of a trial of another search"):
        trial_of_a_search(tmp_path)
    with held_by_another(second), pytest.raises(ValueError, match="run-1-0.0002 is in use by another run"):
        trial_of_a_search(tmp_path, 1, overwrite_output_dir=True)
    again = trial_of_a_search(tmp_path, overwrite_output_dir=True, save_total_limit=1)
    assert read_record(first / "checkpoint-2")["run"] == again.run_record["run"] != records[0]["run"]
    assert [path.name for path in sorted(run.iterdir())] == ["checkpoint-2", "checkpoint-4", first.name, second.name]


def test_a_trial_resumes_from_the_checkpoint_that_its_search_names(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: {})
    trial_of_a_search(tmp_path, save_steps=1)
    last = tmp_path / "output" / "run-0-0.0002" / "checkpoint-2"
    before = read_record(last)["run"]
    (last / "model.safetensors").unlink()
    for resume, message in ((str(last), "model.safetensors has no bytes"), (True, "one that is|that is named")):
        with pytest.raises(ValueError, match=message):
            trial_of_a_search(tmp_path, resume=resume)
    again = trial_of_a_search(tmp_path, resume=str(last.parent / "checkpoint-1"), save_total_limit=2)
    assert again.state.global_step == 2 and not missing_parts(last) and read_record(last)["run"] == before


@contextlib.contextmanager
def held_by_another(folder):
    """While it lasts another process, of which it gives the number, holds the lock of a folder; then it is killed."""
    ready, tell = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with locked(folder):
                os.write(tell, b"held")
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert os.read(ready, 4) == b"held"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)


def test_two_runs_keep_apart_and_a_killed_one_blocks_nobody(tmp_path):
    with (
        held_by_another(tmp_path) as pid,
        pytest.raises(ValueError, match=rf"in use by another run \(process {pid}\)"),
    ):
        locked(tmp_path).__enter__()
    assert (tmp_path / LOCK).is_file()
    began = time.time()
    with locked(tmp_path), locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == f"process {os.getpid()}"
    assert time.time() - began < 5 and not (tmp_path / LOCK).exists()


def test_a_run_that_is_refused_leaves_no_folder_and_none_that_was_there_is_removed(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        with pytest.raises(ValueError, match="refused"), locked(tmp_path / name):
            raise ValueError("refused")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    with locked(tmp_path / "new"):
        (tmp_path / "new" / "model.safetensors").touch()
    assert (tmp_path / "new" / "model.safetensors").exists()
