"""A tiny training run as a program, started by tests with one or more processes; writes what it saw to a file.

python tests/training_run.py FOLDER '{"num_train_epochs": 1, ...}'
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from unittest import mock

import datasets
import numpy as np
import torch
from conftest import CAPTIONS, IMAGE_SIZE, tiny_retrieval_model
from PIL import Image
from transformers import TrainerCallback

from modeling_amns import AMNSProcessor, AMNSTrainer, AMNSTrainingArguments
from modeling_amns.adapters import AdapterArguments, add_adapters
from modeling_amns.pair_mixture import PairMixture

PERSONS = 8
PAIRS = 48


def tiny_pairs(folder: Path) -> datasets.Dataset:
    """48 pairs of 8 persons: a person's images share a colour, captions name person and image."""
    rows = []
    for index in range(PAIRS):
        person = index % PERSONS
        noise = np.random.default_rng(index).integers(0, 120, (40, 20, 3))
        noise[..., person % 3] += 15 * person
        path = folder / f"{index}.png"
        if not path.exists():
            Image.fromarray(noise.astype(np.uint8)).save(path)
        caption = f"{CAPTIONS[person % 3]} person {person} image {index}"
        rows.append({"image": str(path), "caption": caption, "person_id": person, "image_id": index})
    data = datasets.Dataset.from_list(rows).add_column("image_path", [row["image"] for row in rows])
    return data.cast_column("image", datasets.Image())


def as_split(pairs: datasets.Dataset) -> dict[str, datasets.Dataset]:
    """The pairs as gallery and queries."""
    return {"gallery": pairs.remove_columns("caption"), "queries": pairs.remove_columns("image")}


def make_trainer(
    folder: Path,
    double: bool = False,
    lora: bool = False,
    start: bool = False,
    num_pairs: int = PAIRS,
    frozen: tuple[str, ...] = (),
    dropout: float = 0.0,
    shards: int = 0,
    in_order: bool = False,
    grades: dict[str, float] | None = None,
    **options,
) -> AMNSTrainer:
    """A trainer over the tiny pairs.

    On request in float64, with adapters, as a model that came from somewhere, with parts that are not trained, with
    dropout, streamed in shards (through a shuffle buffer of `datasets`, or `in_order`), or with a figure `grade` that
    is given for each step at which it evaluates.
    """
    processor = AMNSProcessor.from_captions(CAPTIONS * 20, IMAGE_SIZE, vocab_size=620)
    model = tiny_retrieval_model(processor, num_identities=PERSONS)
    for module in model.modules():
        if dropout and hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = dropout
    if lora or start:
        model.name_or_path = "start"
    if lora:
        torch.manual_seed(0)
        model = add_adapters(model, AdapterArguments(lora_r=4, lora_dropout=0.0))
    for part in frozen:
        getattr(model.amns, part).requires_grad_(False)
    if double:
        model.double()
    defaults = {
        "output_dir": str(folder / "output"),
        "report_to": "none",
        "use_cpu": True,
        "logging_steps": 1,
        "max_grad_norm": 0.0,
        "augment_crop_padding": 2,
        "disable_tqdm": True,
        "save_strategy": "no",
        "eval_strategy": "no",
    }
    args = AMNSTrainingArguments(**{**defaults, **options})
    pairs = tiny_pairs(folder)
    train = pairs.select(range(num_pairs))
    own = {"compute_metrics": lambda _: {"grade": grades[str(trainer.state.global_step)]}} if grades else {}
    if shards:
        train = train.to_iterable_dataset(shards)
        train = train if in_order else train.shuffle(seed=3, buffer_size=8)
    trainer = AMNSTrainer(
        model,
        args,
        train_dataset=train,
        eval_dataset=as_split(pairs),
        processing_class=processor,
        **own,
    )
    return trainer


class KillItself(TrainerCallback):
    """Ends the process as SIGKILL does: after a step, or inside the writing of that step's checkpoint."""

    def __init__(self, step: int, while_saving: bool):
        self.step, self.while_saving = step, while_saving

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            if not self.while_saving:
                os.kill(os.getpid(), signal.SIGKILL)
            torch.save = self.half_written

    @staticmethod
    def half_written(value, file, *args, **kwargs):
        """Writes a few bytes of a file and dies."""
        Path(file).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


class Break(TrainerCallback):
    """Raises an error on the last process after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step and args.process_index == args.world_size - 1:
            raise RuntimeError(f"process {args.process_index} broke at step {self.step}")


class KeepGradients(TrainerCallback):
    """Copies the gradients of the first optimizer step, after they were averaged over the processes."""

    def __init__(self):
        self.gradients = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.gradients is None:
            named = (model.module if hasattr(model, "module") else model).named_parameters()
            self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}


def digest(state: dict) -> str:
    """A hash of an optimizer's state, bit by bit."""
    parts = hashlib.sha256()
    for index, values in sorted(state["state"].items()):
        for name, value in sorted(values.items()):
            parts.update(f"{index} {name}".encode())
            parts.update(torch.as_tensor(value).numpy().tobytes())
    return parts.hexdigest()


def of_tensors(values) -> str:
    """A hash of tensors by name, bit by bit."""
    parts = hashlib.sha256()
    for name, value in sorted(values.items()):
        parts.update(name.encode())
        parts.update(value.detach().contiguous().cpu().numpy().tobytes())
    return parts.hexdigest()


OF_THIS_RUN = ("runtime", "per_second", "train_loss", "total_flos")


class Diary(TrainerCallback):
    """What each step saw and left: batches, weights, teacher, optimizer, schedule, random numbers, place, figures."""

    def __init__(self, trainer: AMNSTrainer):
        self.trainer, self.steps, self.batches, self.weighed = trainer, {}, [], False
        original = trainer.training_step

        def noted(model, inputs, *args, **kwargs):
            self.batches.append((inputs["rows"].tolist(), of_tensors(inputs)))
            return original(model, inputs, *args, **kwargs)

        trainer.training_step = noted

    def on_step_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        self.steps[state.global_step] = {
            "batches": self.batches,
            "weights": of_tensors(trainer.accelerator.unwrap_model(trainer.model).state_dict()),
            "teacher": of_tensors(trainer.teacher.state_dict()) if trainer.teacher else None,
            "pairs": of_tensors(trainer.memory.state()) if trainer.memory else None,
            "optimizer": digest(trainer.optimizer.state_dict()),
            "rate": trainer.lr_scheduler.get_last_lr(),
            "random": of_tensors({"torch": torch.get_rng_state()}),
            "epoch": state.epoch,
        }
        self.batches = []
        self.weighed |= trainer.memory is not None and bool((trainer.memory.weights != 1).any())

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if state.global_step:
            page = self.steps.setdefault(state.global_step, {})
            page["figures"] = {name: value for name, value in metrics.items() if not name.endswith(OF_THIS_RUN)}

    def on_train_end(self, args, state, control, **kwargs):
        log = [
            {name: part for name, part in entry.items() if not name.endswith(OF_THIS_RUN)}
            for entry in state.log_history
        ]
        self.steps[state.global_step] |= {"log": log, "best": (state.best_metric, state.best_global_step)}


def by_median(losses, guess, seed):
    """In the place of `fit_pairs`: of few pairs, after an epoch, two groups may or may not be found."""
    low = np.nan_to_num(losses, nan=np.inf) <= np.nanmedian(losses)
    return PairMixture(np.where(low, 0.9, 0.1).astype(np.float32), 0.5, 3.0)


def by_row(losses, guess, seed):
    """In the place of `fit_pairs`: weights from 0 to 1."""
    return PairMixture(np.linspace(0, 1, len(losses), dtype=np.float32), 0.5, 3.0)


@mock.patch("modeling_amns.data.streamed.BLOCK", 5)
@mock.patch("modeling_amns.pair_weighting.fit_pairs", by_median)
def walk(folder: Path, only: list[int] | None = None, **options) -> dict:
    """A run with a checkpoint at each step, or where `save_strategy` wants one, and one that goes on from each.

    Returns:
        `resumes` and `steps` that were compared, `wrong` [(checkpoint, step, what)], the rows `seen` at each step, and
        whether rows were `weighed`.
    """
    defaults = {"num_train_epochs": 3, "num_pairs": 24, "per_device_train_batch_size": 8, "augment_text": 0.2}
    options = {**defaults, "eval_strategy": "no", "save_strategy": "steps", "save_steps": 1, **options}
    whole = make_trainer(folder, output_dir=str(folder / "whole"), **options)
    diary = Diary(whole)
    whole.add_callback(diary)
    whole.train()
    wrong, compared = [], 0
    there = [step for step in diary.steps if (folder / "whole" / f"checkpoint-{step}").exists()]
    steps = [step for step in there if step < max(diary.steps) and (only is None or step in only)]
    saves = options["save_strategy"] if options["save_strategy"] == "best" else "no"
    for step in steps:
        place = {"output_dir": str(folder / f"from_{step}"), "save_strategy": saves}
        resumed = make_trainer(folder, **{**options, **place})
        pages = Diary(resumed)
        resumed.add_callback(pages)
        torch.manual_seed(1000 + step)
        resumed.train(resume_from_checkpoint=str(folder / "whole" / f"checkpoint-{step}"))
        if saves == "best":
            saved = sorted(path.name for path in (folder / f"from_{step}").glob("checkpoint-*"))
            if saved != sorted(f"checkpoint-{number}" for number in there if number > step):
                wrong.append((step, saved, "checkpoints"))
        want = {number: page for number, page in diary.steps.items() if number > step}
        if pages.steps.keys() != want.keys():
            wrong.append((step, sorted(pages.steps), "steps"))
        for number in pages.steps.keys() & want.keys():
            compared += 1
            wrong += [
                (step, number, part) for part, value in want[number].items() if pages.steps[number].get(part) != value
            ]
    seen = {step: [rows for rows, _ in page["batches"]] for step, page in diary.steps.items()}
    return {"resumes": steps, "steps": compared, "wrong": wrong, "seen": seen, "weighed": diary.weighed}


def walk_together(folder: Path, result: str, walks: dict[str, dict]) -> None:
    """`walk` by every process, one way after the other; the first writes what all of them found."""
    found: dict = {}
    for number, (way, options) in enumerate(walks.items()):
        place = folder / str(number)
        place.mkdir(exist_ok=True)
        found[way] = walk(place, **options)
        everyone: list = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(everyone, found[way]["wrong"])
        found[way]["wrong"] = [(rank, *entry) for rank, entries in enumerate(everyone) for entry in entries]
    if torch.distributed.get_rank() == 0:
        torch.save({**found, "world_size": torch.distributed.get_world_size()}, folder / result)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main(folder: Path, options: dict) -> None:
    """Trains and writes `result.pt`: gradients of the first step, the log, the weights and the evaluation."""
    torch.set_num_threads(1)
    name = options.pop("result", "result.pt")
    if "walks" in options:
        walk_together(folder, name, options["walks"])
        return
    resume = options.pop("resume", None)
    kill_at, while_saving = options.pop("kill_at", None), options.pop("while_saving", False)
    break_at = options.pop("break_at", None)
    if options.pop("output_by_rank", False):
        options["output_dir"] = str(folder / f"output_{os.environ.get('RANK', 0)}")
    eval_items = options.pop("eval_items", PAIRS)
    weighed = options.pop("weighed", False)
    trainer = make_trainer(folder, **options)
    if weighed:
        mock.patch("modeling_amns.pair_weighting.fit_pairs", by_row).start()
    if kill_at is not None:
        trainer.add_callback(KillItself(kill_at, while_saving))
    if break_at is not None:
        trainer.add_callback(Break(break_at))
    keeper = KeepGradients()
    trainer.add_callback(keeper)
    trainer.train(resume_from_checkpoint=resume)
    metrics = trainer.evaluate(as_split(tiny_pairs(folder).select(range(eval_items))))
    if trainer.is_world_process_zero():
        result = {
            "gradients": keeper.gradients,
            "log": trainer.state.log_history,
            "weights": trainer.accelerator.unwrap_model(trainer.model).state_dict(),
            "teacher": trainer.teacher.state_dict() if trainer.teacher else None,
            "pairs": trainer.memory.state() if trainer.memory else {},
            "metrics": {
                key: value for key, value in metrics.items() if key.startswith("eval_") and "runtime" not in key
            },
            "optimizer": digest(trainer.optimizer.state_dict()),
            "world_size": trainer.args.world_size,
        }
        torch.save(result, folder / name)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
    # The result is written. Threads of gloo at times abort an interpreter that takes itself apart under load.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
