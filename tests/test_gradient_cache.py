"""The cached gradient equals the plain one, also with dropout, AWM and a chunk that does not divide the batch."""

import pytest
import torch
from training_run import make_trainer


def gradients_of_one_step(folder, **options) -> tuple[float, dict[str, torch.Tensor]]:
    trainer = make_trainer(folder, double=True, per_device_train_batch_size=8, **options)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 2
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.training_step(trainer.model, batch)
    named = trainer.model.named_parameters()
    return loss.item(), {name: p.grad for name, p in named if p.grad is not None}


@pytest.mark.parametrize("chunk", [1, 3, 8, 50])
@pytest.mark.parametrize("mask_score", ["attention", "text", "random"])
def test_the_gradient_equals_that_of_the_whole_batch(tmp_path, chunk, mask_score):
    plain_loss, plain = gradients_of_one_step(tmp_path, mask_score=mask_score)
    loss, cached = gradients_of_one_step(tmp_path, mask_score=mask_score, gradient_cache_chunk_size=chunk)
    assert loss == pytest.approx(plain_loss, rel=1e-10)
    assert cached.keys() == plain.keys()
    for name, gradient in plain.items():
        assert torch.allclose(cached[name], gradient, rtol=1e-8, atol=1e-13), name


def test_the_second_pass_drops_out_what_the_first_dropped_out(tmp_path):
    """A model with dropout: the cached gradient must be that of the embeddings whose loss was computed."""
    trainer = make_trainer(tmp_path, double=True, per_device_train_batch_size=8, gradient_cache_chunk_size=4)
    for encoder in (trainer.model.amns.vision_model, trainer.model.amns.text_model):
        for layer in encoder.encoder.layers:
            layer.self_attn.dropout = 0.3
    seen = []
    trainer.model.register_forward_hook(lambda module, args, output: seen.append(output.image_embeds.detach()))
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.current_gradient_accumulation_steps = 1
    trainer.training_step(trainer.model, batch)
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])


def test_only_one_chunk_is_in_the_encoder_at_a_time(tmp_path):
    sizes = []
    trainer = make_trainer(tmp_path, per_device_train_batch_size=8, gradient_cache_chunk_size=3, max_steps=1)
    for model in (trainer.model.amns.vision_model, trainer.teacher.module.vision_model):
        model.encoder.layers[0].register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    trainer.train()
    assert sizes == [3, 3, 2] * 3
