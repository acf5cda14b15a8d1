"""A training step does not wait for its device: the one number that it reads says whether the loss is finite."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_run import make_trainer
from transformers import TrainerCallback

from modeling_amns import focal_losses, matching_losses, objective
from modeling_amns.data.collator import PairCollator
from modeling_amns.ema import ImageTeacher

# What copies a value of a tensor to the host, or has to know how many values a result has.
READS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "bincount")


class HostReads(TorchDispatchMode):
    """Counts them by step while it is on."""

    def __init__(self):
        super().__init__()
        self.step, self.counts = None, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.step is not None and func.overloadpacket.__name__ in READS:
            self.counts[self.step] += 1
        return func(*args, **(kwargs or {}))


class Steps(TrainerCallback):
    def __init__(self, reads):
        self.reads = reads

    def on_step_begin(self, args, state, control, **kwargs):
        self.reads.step = state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        self.reads.step = None


@pytest.mark.parametrize(
    "options",
    [
        {"augment_erasing": 1.0, "augment_color_jitter": 0.2},
        {"mask_score": "text", "gradient_cache_chunk_size": 4},
        {"mask_score": "random", "gradient_accumulation_steps": 2},
        {"keep_ratio": 1.0, "start": True, "pair_weighting": "mixture", "instances_per_identity": 2},
    ],
)
def test_a_step_reads_one_number(tmp_path, monkeypatch, options):
    # On the CPU, where nothing waits, losses look at once whether each row has a positive; elsewhere the device does.
    for module in (matching_losses, focal_losses, objective):
        monkeypatch.setattr(module, "checked", lambda logits, positives: matching_losses.as_float(logits))
    # The teacher's count of its updates lies on the host, see below.
    update, reads = ImageTeacher.update, HostReads()

    def unseen(teacher, model):
        step, reads.step = reads.step, None
        update(teacher, model)
        reads.step = step

    monkeypatch.setattr(ImageTeacher, "update", unseen)
    shown = {"max_steps": 4, "logging_steps": 100, "max_grad_norm": 1.0, "per_device_train_batch_size": 8}
    trainer = make_trainer(tmp_path, **shown, **options)
    trainer.add_callback(Steps(reads))
    with reads:
        trainer.train()
    # The first step settles buckets and states.
    assert [reads.counts[step] for step in (1, 2, 3)] == [1, 1, 1]


def test_the_count_of_a_teachers_updates_stays_on_the_host(model):
    teacher = ImageTeacher(model, decay=0.5)
    before = [name for name, _ in teacher.state_dict().items()]
    assert teacher.to("meta").n_averaged.device.type == "cpu"
    assert next(teacher.module.parameters()).device.type == "meta"
    assert teacher.double().n_averaged.dtype == torch.int64
    assert sorted(teacher.state_dict()) == sorted(before)


def test_a_collator_of_the_users_own_may_pad_where_it_likes(tmp_path):
    """Only then is the mask given to the text encoder; of our padding it changes nothing but rounding."""
    shown = {"double": True, "per_device_train_batch_size": 8, "keep_ratio": 1.0}
    ours, theirs = make_trainer(tmp_path, **shown), make_trainer(tmp_path, **shown)
    theirs.text_inputs = ("input_ids", "attention_mask")
    batch = next(iter(ours.get_train_dataloader()))
    assert (batch["attention_mask"] == 0).any(), "captions of one length would show nothing"
    grads = []
    for trainer in (ours, theirs):
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        grads.append([loss.detach(), *(p.grad for p in trainer.model.parameters() if p.grad is not None)])
    assert len(grads[0]) == len(grads[1]) > 20
    for one, other in zip(*grads):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    given = PairCollator(ours.processor.tokenizer.pad_token_id)
    arguments = {"train_dataset": None, "processing_class": ours.processor}
    assert type(ours)(ours.model, ours.args, data_collator=given, **arguments).text_inputs == theirs.text_inputs
