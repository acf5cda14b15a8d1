"""The trainer: teacher, mask, logged parts, learning rates, evaluation, resumption."""

import datasets
import pytest
import torch
from conftest import CAPTIONS, IMAGE_SIZE, tiny_retrieval_model
from torch.nn import functional as F
from training_run import PAIRS, PERSONS, as_split, make_trainer, tiny_pairs
from transformers import TrainerCallback

from modeling_amns import AMNSForPersonRetrieval, AMNSModel, AMNSProcessor, AMNSTrainer, AMNSTrainingArguments
from modeling_amns.ema import ImageTeacher
from modeling_amns.embedding import embed_images, embed_texts
from modeling_amns.evaluation import evaluate_retrieval
from modeling_amns.losses import bsdm, identity_loss, matching_loss, waf
from modeling_amns.masking import MASK_SCORES


def test_the_loss_is_the_weighted_sum_of_its_parts_and_each_is_logged(tmp_path):
    weights = {"bsdm": 0.5, "waf": 2.0, "identity": 1.0, "tal": 3.0}
    trainer = make_trainer(tmp_path, loss_weights=weights, per_device_train_batch_size=8, max_steps=2)
    trainer.train()
    entry = trainer.state.log_history[0]
    total = sum(weight * entry[f"loss_{name}"] for name, weight in weights.items())
    assert entry["loss"] == pytest.approx(total, rel=1e-5)


def test_one_step_equals_the_losses_of_the_masked_forward(tmp_path):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=8, augment_flip=0, augment_erasing=0)
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch)
    road = trainer.processing_class.image_processor
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (road.image_mean, road.image_std))
    pixel_values = (batch["images"] / 255 - mean) / std
    model = trainer.model
    scores = model.amns.image_attention_scores(pixel_values)  # the teacher starts as a copy of the student
    keep = scores.topk(16, dim=1).indices
    image = model.amns.get_image_features(pixel_values, keep_indices=keep).pooler_output
    text = model.amns.get_text_features(batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
    ids = batch["person_ids"]
    want = matching_loss(bsdm, image, text, ids) + matching_loss(waf, image, text, ids)
    want = want + identity_loss(model.classifier(image), model.classifier(text), ids)
    assert loss.item() == pytest.approx(want.item(), rel=1e-4)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_teacher_moves_once_an_optimizer_step(tmp_path, accumulation):
    trainer = make_trainer(
        tmp_path, per_device_train_batch_size=4, max_steps=3, gradient_accumulation_steps=accumulation
    )
    trainer.train()
    assert int(trainer.teacher.n_averaged) == 1 + 3


def test_gradient_accumulation_divides_the_loss_by_its_steps(tmp_path):
    """Means of two micro-batches without gathering across them: the gradient is their average."""

    class Keep(TrainerCallback):
        gradients = None

        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    trainer = make_trainer(
        tmp_path, double=True, per_device_train_batch_size=8, max_steps=1, gradient_accumulation_steps=2
    )
    keep = Keep()
    trainer.add_callback(keep)
    reference = make_trainer(tmp_path, double=True, per_device_train_batch_size=8)
    batches = iter(reference.get_train_dataloader())
    for _ in range(2):
        (reference.compute_loss(reference.model, next(batches)) / 2).backward()
    trainer.train()
    for name, parameter in reference.model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(keep.gradients[name], parameter.grad, rtol=1e-9, atol=1e-14), name


def test_awm_off_trains_without_a_teacher(tmp_path):
    trainer = make_trainer(tmp_path, keep_ratio=1.0, per_device_train_batch_size=8, max_steps=1)
    trainer.train()
    assert trainer.teacher is None


@pytest.mark.parametrize("score", MASK_SCORES)
def test_each_score_hides_patches_from_the_student_only_in_training(tmp_path, score):
    trainer = make_trainer(tmp_path, mask_score=score, keep_ratio=0.25, per_device_train_batch_size=8, max_steps=1)
    counts = []
    layer = trainer.model.amns.vision_model.encoder.layers[0]
    layer.register_forward_hook(lambda module, args, output: counts.append((module.training, args[0].shape[1])))
    trainer.train()
    trainer.evaluate()
    assert {tokens for training, tokens in counts if training} == {9}
    assert {tokens for training, tokens in counts if not training} == {33}


@pytest.mark.parametrize("score", ["attention", "random"])
@pytest.mark.parametrize("image", ["raw", "augmented"])
def test_the_teacher_scores_the_image_that_is_asked_for_and_no_erased_patch_is_kept(tmp_path, score, image):
    options = {"mask_image": image} if score != "random" else {}
    trainer = make_trainer(
        tmp_path, mask_score=score, keep_ratio=0.5, augment_erasing=1.0, augment_color_jitter=0.3,
        per_device_train_batch_size=8, **options,
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    seen = []
    attention = trainer.teacher.cls_attention
    trainer.teacher.cls_attention = lambda pixels: seen.append(pixels.clone()) or attention(pixels)
    inputs = trainer._model_inputs(batch)
    if score == "attention":
        raw = trainer.processor.normalize_images(batch["images"])
        assert torch.equal(seen[0], raw if image == "raw" else inputs["pixel_values"])
        assert not torch.equal(raw, inputs["pixel_values"])
    # Patches that are nothing but the mean colour are erased: none of them, of 32 there are enough others.
    blank = F.max_pool2d(inputs["pixel_values"].abs(), 8).amax(1).flatten(1) == 0
    assert blank.any() and not blank.gather(1, inputs["keep_indices"]).any()


def test_the_last_share_of_the_steps_shows_whole_images(tmp_path):
    trainer = make_trainer(
        tmp_path, keep_ratio=0.25, unmasked_share=0.4, per_device_train_batch_size=8, max_steps=5, ema_ramp=False
    )
    counts = []
    layer = trainer.model.amns.vision_model.encoder.layers[0]
    layer.register_forward_hook(
        lambda module, args, output: counts.append(args[0].shape[1]) if module.training else None
    )
    trainer.train()
    assert counts == [9, 9, 9, 33, 33]


def test_the_decay_of_the_teacher_rises_only_from_scratch_or_when_it_is_asked_to(tmp_path):
    trainer = make_trainer(tmp_path)
    first = {}
    for start, asked in (("", None), ("start", None), ("start", True), ("", False)):
        trainer.model.name_or_path, trainer.args.ema_ramp = start, asked
        trainer.start_teacher()
        first[start, asked] = ImageTeacher.decay_at(int(trainer.teacher.n_averaged), 0.999)
    assert list(first.values()) == [2 / 11, 0.999, 2 / 11, 0.999]


def test_learning_rates_go_by_group(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=1e-3, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    settings = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert settings["classifier.weight"] == (5e-3, 0.1)
    assert settings["classifier.bias"] == (2e-3, 0.0)
    assert settings["amns.visual_projection.weight"] == (1e-3, 0.1)
    assert settings["amns.text_model.final_layer_norm.weight"] == (1e-3, 0.0)
    assert settings["amns.vision_model.encoder.layers.0.mlp.fc1.bias"] == (2e-3, 0.0)
    assert set(names.values()) - set(settings) == {"amns.logit_scale"}


def test_the_saved_logit_scale_is_the_training_temperature(tmp_path):
    trainer = make_trainer(tmp_path, temperature=0.05)
    assert trainer.model.amns.logit_scale.exp().item() == pytest.approx(20, rel=1e-6)


def test_evaluation_equals_embedding_each_item_alone(tmp_path):
    trainer = make_trainer(tmp_path)
    pairs = tiny_pairs(tmp_path)
    split = as_split(pairs)
    metrics = trainer.evaluate()
    processor, model = trainer.processing_class, trainer.student.eval()
    with torch.no_grad():
        images = [
            model.get_image_features(processor(images=row["image"], return_tensors="pt").pixel_values).pooler_output
            for row in split["gallery"]
        ]
        texts = [
            model.get_text_features(processor(text=caption, return_tensors="pt").input_ids).pooler_output
            for caption in split["queries"]["caption"]
        ]
    images, texts = (torch.nn.functional.normalize(torch.cat(part), dim=1) for part in (images, texts))
    assert torch.allclose(embed_images(model, processor, split["gallery"], batch_size=7), images, atol=1e-5)
    assert torch.allclose(
        embed_texts(model, processor, split["queries"]["caption"][:], batch_size=7), texts, atol=1e-5
    )
    hits = 0
    for query, person in zip(texts, pairs["person_id"]):
        best = max(range(PAIRS), key=lambda j: (query @ images[j]).item())
        hits += pairs["person_id"][best] == person
    assert metrics["eval_rank1"] == pytest.approx(100 * hits / PAIRS)


def test_evaluation_needs_gallery_and_queries(tmp_path):
    with pytest.raises(ValueError, match='must hold "gallery" and "queries"'):
        make_trainer(tmp_path).evaluate(tiny_pairs(tmp_path))


def test_training_learns_and_the_checkpoint_gives_the_same_figures(tmp_path):
    trainer = make_trainer(
        tmp_path, num_train_epochs=40, per_device_train_batch_size=16, learning_rate=2e-3, augment_erasing=0.0
    )
    before = trainer.evaluate()["eval_mAP"]
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_mAP"] > before + 20
    trainer.save_model(tmp_path / "saved")
    model = AMNSModel.from_pretrained(tmp_path / "saved")
    processor = AMNSProcessor.from_pretrained(tmp_path / "saved")
    again = evaluate_retrieval(model, processor, as_split(tiny_pairs(tmp_path)))
    assert again == {name: after[f"eval_{name}"] for name in again}
    assert isinstance(AMNSForPersonRetrieval.from_pretrained(tmp_path / "saved"), AMNSForPersonRetrieval)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    options = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(tmp_path, output_dir=str(tmp_path / "whole"), mask_score="random", **options)
    whole.train()
    resumed = make_trainer(tmp_path, output_dir=str(tmp_path / "resumed"), mask_score="random", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-8"))
    for one, other in ((whole.model, resumed.model), (whole.teacher, resumed.teacher)):
        states = one.state_dict(), other.state_dict()
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_resuming_with_a_mask_from_a_run_without_one_is_an_error(tmp_path):
    options = {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    make_trainer(tmp_path, keep_ratio=1.0, **options).train()
    with pytest.raises(FileNotFoundError, match="has no teacher.safetensors"):
        make_trainer(tmp_path, keep_ratio=0.5, **{**options, "max_steps": 4}).train(
            resume_from_checkpoint=str(tmp_path / "output" / "checkpoint-2")
        )


def test_a_streamed_training_set_trains_to_the_weights_of_the_map_style_one(tmp_path):
    """The map-style order drawn beforehand, as a stream; augmentation goes by row and is off."""
    options = {"augment_flip": 0.0, "augment_crop_padding": 0, "augment_erasing": 0.0}
    trainer = make_trainer(tmp_path, per_device_train_batch_size=8, max_steps=3, **options)
    order = [key.row for key in trainer._get_train_sampler()]
    trainer.train()
    model = tiny_retrieval_model(trainer.processing_class, num_identities=PERSONS)
    streamed = tiny_pairs(tmp_path).select(order).to_iterable_dataset()
    streaming = AMNSTrainer(model, trainer.args, train_dataset=streamed, processing_class=trainer.processing_class)
    streaming.train()
    got, want = streaming.model.state_dict(), trainer.model.state_dict()
    assert all(torch.equal(got[name], value) for name, value in want.items())
    untrained = tiny_retrieval_model(trainer.processing_class, num_identities=PERSONS).state_dict()
    assert any(not torch.equal(untrained[name], value) for name, value in want.items())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"keep_ratio": 0.0}, r"keep_ratio must lie in \(0, 1\]"),
        ({"keep_ratio": 1.5}, r"keep_ratio must lie in \(0, 1\]"),
        ({"loss_weights": {"bdsm": 1.0}}, "There is no loss 'bdsm'; the losses are itc, sdm"),
        ({"loss_options": {"focal": {}}}, "There is no loss 'focal'"),
        ({"loss_weights": {}}, "loss_weights is empty"),
        ({"mask_score": "gradient"}, "mask_score must be one of"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"mask_image": "erased"}, "mask_image must be one of raw, augmented"),
        ({"unmasked_share": 1.0}, r"unmasked_share must lie in \[0, 1\)"),
        ({"temperature": -1.0}, "temperature must be above 0"),
        ({"temperature": float("nan")}, "temperature must be above 0"),
        ({"instances_per_identity": 3}, "no multiple of instances_per_identity 3"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        AMNSTrainingArguments(output_dir=str(tmp_path), **options)


def test_losses_are_read_as_json_from_the_command_line(tmp_path):
    args = AMNSTrainingArguments(output_dir=str(tmp_path), loss_weights='{"sdm": 1, "identity": 0.5}')
    assert args.loss_weights == {"sdm": 1.0, "identity": 0.5}


def test_more_persons_than_the_classifier_knows_are_an_error(tmp_path):
    processor = AMNSProcessor.from_captions(CAPTIONS, IMAGE_SIZE, 620)
    args = AMNSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    for known, message in ((0, "needs num_identities"), (3, "load it with num_identities=8")):
        with pytest.raises(ValueError, match=message):
            AMNSTrainer(
                tiny_retrieval_model(processor, num_identities=known),
                args,
                train_dataset=tiny_pairs(tmp_path),
                processing_class=processor,
            )


def test_a_training_set_without_captions_names_the_column(tmp_path):
    processor = AMNSProcessor.from_captions(CAPTIONS, IMAGE_SIZE, 620)
    args = AMNSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    data = datasets.Dataset.from_dict({"image": ["a.png"], "person_id": [0]})
    with pytest.raises(ValueError, match=r"lacks the column\(s\) caption"):
        AMNSTrainer(tiny_retrieval_model(processor, 1), args, train_dataset=data, processing_class=processor)
