"""What `transformers.Trainer` offers works here or is refused by name, and which of its hooks we rely on."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from conftest import CAPTIONS, IMAGE_SIZE, tiny_retrieval_model
from training_run import PERSONS, as_split, make_trainer, tiny_pairs
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import HPSearchBackend

from modeling_amns import AMNSProcessor, AMNSTrainer, AMNSTrainingArguments, load_pairs
from modeling_amns.checkpoints import WholeCheckpoints
from modeling_amns.contract import check_training_set
from modeling_amns.data.collator import PairCollator
from modeling_amns.evaluation import evaluate_retrieval
from modeling_amns.losses import itc, matching_loss, register_loss
from modeling_amns.masked_training import MasksPatches
from modeling_amns.pair_weighting import WeighsPairs
from modeling_amns.pushes import PushesCheckpoints
from modeling_amns.resuming import ResumesExactly
from modeling_amns.splits import EvaluatesSplits
from modeling_amns.training_args import REFUSED

# Fields of transformers 5.20 to 5.23 that do here what they do in `Trainer`.
HONOURED = """
output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs
warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon gradient_accumulation_steps
max_grad_norm bf16 fp16 tf32 activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing
gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
auto_find_batch_size logging_strategy logging_steps logging_first_step log_on_each_node include_num_input_tokens_seen
log_level log_level_replica disable_tqdm report_to run_name project trackio_space_id trackio_bucket_id
trackio_static_space_id eval_strategy eval_steps eval_delay per_device_eval_batch_size eval_on_start save_only_model
save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint push_to_hub hub_token
hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision load_best_model_at_end metric_for_best_model
greater_is_better ignore_data_skip restore_callback_states_from_checkpoint full_determinism seed data_seed use_cpu
accelerator_config parallelism_config dataloader_drop_last dataloader_num_workers dataloader_pin_memory
dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order
train_sampling_strategy ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph
ddp_backend ddp_timeout debug skip_memory_metrics do_train do_eval do_predict resume_from_checkpoint local_rank
"""
# What `Trainer` hands to the methods that we override, without self. `init_hf_repo` and `push_to_hub` take `private`
# since 5.21.
HOOKS = {
    "__init__": "model args data_collator train_dataset eval_dataset processing_class model_init compute_loss_func "
    "compute_metrics callbacks optimizers optimizer_cls_and_kwargs preprocess_logits_for_metrics",
    "train": "resume_from_checkpoint trial ignore_keys_for_eval",
    "training_step": "model inputs num_items_in_batch",
    "compute_loss": "model inputs return_outputs num_items_in_batch",
    "create_optimizer": "model",
    "evaluate": "eval_dataset ignore_keys metric_key_prefix",
    "predict": "test_dataset ignore_keys metric_key_prefix",
    "log": "logs start_time",
    "call_model_init": "trial",
    "hyperparameter_search": "hp_space compute_objective n_trials direction backend hp_name kwargs",
    "_hp_search_setup": "trial",
    "_get_train_sampler": "train_dataset",
    "set_initial_training_values": "args dataloader",
    "get_batch_samples": "epoch_iterator num_batches device",
    "_init_training_state": ("max_steps num_update_steps_per_epoch num_train_epochs resume_from_checkpoint trial"),
    "_determine_best_metric": "metrics trial",
    "_save": "output_dir state_dict",
    "_save_checkpoint": "model trial",
    "_save_rng_state": "output_dir",
    "_save_optimizer_and_scheduler": "output_dir",
    "_load_optimizer_and_scheduler": "checkpoint",
    "init_hf_repo": "token private",
    "create_model_card": "language license tags model_name finetuned_from tasks dataset_tags dataset dataset_args",
    "push_to_hub": "commit_message blocking token revision private kwargs",
    "_push_from_checkpoint": "checkpoint_folder",
}
# What we call or read of it besides.
USED = (
    "_get_output_dir",
    "_evaluate",
    "_finish_current_push",
    "_prepare_inputs",
    "compute_loss_context_manager",
    "save_state",
)


def test_each_option_of_transformers_is_sorted():
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert not fields - set(HONOURED.split()) - set(REFUSED), "say in REFUSED why, or add to HONOURED after a try"
    assert not set(HONOURED.split()) & set(REFUSED)


OTHER = {"fsdp": "full_shard", "fsdp_config": {"min_num_params": 1}, "deepspeed": "zero.json", "label_names": ["y"]}
OTHER |= {"liger_kernel_config": {"rope": True}, "optim_target_modules": ["fc1"], "include_for_metrics": ["loss"]}
OTHER |= {"label_smoothing_factor": 0.1, "neftune_noise_alpha": 5.0, "eval_accumulation_steps": 2}
OTHER |= {"length_column_name": "n", "average_tokens_across_devices": False, "eval_do_concat_batches": False}


@pytest.mark.parametrize("name", REFUSED)
def test_an_option_without_effect_is_refused_by_name_before_anything_is_done(tmp_path, name):
    with pytest.raises(ValueError, match=rf"^{name}=.* can't be used: "):
        AMNSTrainingArguments(output_dir=str(tmp_path), **{name: OTHER.get(name, True)})


def test_arguments_can_be_copied(tmp_path):
    args = AMNSTrainingArguments(output_dir=str(tmp_path), report_to="none", loss_options={"waf": {"gamma": 1}})
    again = dataclasses.replace(args, learning_rate=1.0)
    assert (again.learning_rate, again.loss_options, again.loss_weights) == (1.0, args.loss_options, args.loss_weights)


@pytest.mark.parametrize("name", [*HOOKS, *USED])
def test_the_hooks_of_trainer_are_as_we_know_them(name):
    hook = getattr(Trainer, name, None)
    assert hook is not None, f"transformers' Trainer has no {name} any more"
    if name not in HOOKS:
        return
    found = [part for part in inspect.signature(hook).parameters if part != "self"]
    known = HOOKS[name].split()
    lowest = [part for part in known if part != "private"]
    assert found in (known, lowest), f"Trainer.{name} takes {found} now, known are {known}: look at our override"
    ours = inspect.signature(getattr(AMNSTrainer, name)).parameters
    loose = any(part.kind is part.VAR_KEYWORD for part in ours.values())
    assert loose or set(found) <= set(ours), f"AMNSTrainer.{name} does not take {sorted(set(found) - set(ours))}"


def test_no_hook_is_overridden_without_being_known():
    kinds = (AMNSTrainer, MasksPatches, EvaluatesSplits, PushesCheckpoints)
    kinds += (WeighsPairs, WholeCheckpoints, ResumesExactly)
    own = {name for kind in kinds for name in vars(kind)}
    overridden = {name for name in own if callable(getattr(Trainer, name, None)) and name in vars(Trainer)}
    assert overridden == set(HOOKS)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"compute_loss_func": len}, "takes no compute_loss_func: .*register_loss"),
        ({"preprocess_logits_for_metrics": len}, "takes no preprocess_logits_for_metrics"),
        ({"model_init": len}, "a model or a function model_init"),
        ({"args": TrainingArguments("out", report_to="none")}, "needs AMNSTrainingArguments, found TrainingArguments"),
        ({"train_dataset": [1, 2]}, "must be a datasets.Dataset or IterableDataset, found list"),
        ({"eval_dataset": {"gallery": 1}}, r'must hold "gallery" and "queries".*found \[\'gallery\'\]'),
        ({"eval_dataset": {"a": {"gallery": 1}}}, r'eval_dataset a must hold "gallery" and "queries"'),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tmp_path, given, message):
    processor = AMNSProcessor.from_captions(CAPTIONS, IMAGE_SIZE, 620)
    args = AMNSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    defaults = {"model": tiny_retrieval_model(processor, 1), "args": args, "processing_class": processor}
    with pytest.raises(ValueError, match=message):
        AMNSTrainer(**{**defaults, **given})


def test_the_dual_encoder_alone_is_refused_and_what_to_load_is_said(tmp_path, model, processor):
    args = AMNSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="trains an AMNSForPersonRetrieval, found AMNSModel"):
        AMNSTrainer(model, args, processing_class=processor)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss_options": {"waf": {"gama": 2}}}, "loss waf has no option 'gama'. Its options are gamma, weighting"),
        ({"loss_options": {"sdm": {"eps": 1e-6}}}, "loss_options for sdm, which loss_weights does not name"),
        ({"loss_options": {"waf": 2}}, "loss_options of waf must map"),
        ({"loss_options": {"identity": {"gamma": 0.5}}}, "identity: gamma must be 0 or at least 1"),
        (
            {"loss_weights": {"identity": 1.0}, "loss_options": {"identity": {"modality": "image"}}},
            "modality image as the only loss trains one encoder of two",
        ),
        ({"loss_weights": "{bsdm: 1}"}, "loss_weights is no valid JSON"),
        ({"loss_weights": {"bsdm": "much"}}, "must be finite numbers"),
        ({"loss_weights": {"bsdm": 0.0}}, "not all 0"),
        ({"metric_for_best_model": "loss"}, "evaluation ranks and computes no loss"),
        ({"metric_for_best_model": "eval_loss"}, "evaluation ranks and computes no loss"),
        ({"keep_ratio": 1.0, "mask_score": "text"}, "mask_score can't be used: keep_ratio 1 hides no patch"),
        ({"mask_last_layers": 2}, "mask_last_layers can't be used: only mask_score attention_last"),
        ({"keep_ratio": 1.0, "unmasked_share": 0.1}, "unmasked_share can't be used: keep_ratio 1 hides no patch"),
        ({"keep_ratio": 1.0, "ema_ramp": False}, "ema_ramp can't be used: keep_ratio 1 hides no patch"),
        ({"mask_score": "random", "mask_image": "augmented"}, "mask_image can't be used: mask_score random asks no"),
        ({"mask_score": "random", "ema_decay": 0.9}, "ema_decay can't be used: mask_score random asks no teacher"),
        ({"mask_image_scale": 0.0}, r"mask_image_scale must lie in \(0, 1\], found 0.0"),
        ({"keep_ratio": 1.0, "mask_image_scale": 0.5}, "mask_image_scale can't be used: keep_ratio 1 hides no patch"),
        ({"mask_score": "random", "mask_image_scale": 0.5}, "mask_image_scale can't be used: mask_score random"),
        ({"mask_score": "text", "mask_image_scale": 0.5}, "mask_image_scale can't be used: mask_score text compares"),
        ({"mask_image": "augmented", "augment_erasing": 0.0}, "mask_image can't be used: without augment_erasing"),
        ({"instances_per_identity": 2, "train_sampling_strategy": "group_by_length"}, "would have no effect"),
        ({"instances_per_identity": 2, "auto_find_batch_size": True}, "auto_find_batch_size"),
        ({"gradient_cache_chunk_size": 2, "torch_empty_cache_steps": 1}, "torch_empty_cache_steps has no effect"),
    ],
)
def test_options_that_have_no_effect_together_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        AMNSTrainingArguments(output_dir=str(tmp_path), **options)


@pytest.mark.parametrize(
    "metric, message",
    [("rank2", "no figure of the evaluation; choose one of rank1, rank5"), ("a_rank1", "choose one of rank1")],
)
def test_a_metric_that_no_evaluation_gives_is_refused_at_the_start(tmp_path, metric, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, eval_strategy="epoch", metric_for_best_model=metric)


class Sets:
    """Trainers over several evaluation sets."""

    def __init__(self, folder):
        pairs = tiny_pairs(folder)
        self.sets = {"a": as_split(pairs.select(range(16))), "b": as_split(pairs.select(range(16, 48)))}
        self.folder = folder

    def trainer(self, eval_dataset=None, model_init=None, train=True, **options) -> AMNSTrainer:
        given = {"per_device_train_batch_size": 8, "eval_strategy": "no", "save_strategy": "no", "logging_steps": 1}
        init = {name: options.pop(name) for name in ("compute_metrics", "data_collator") if name in options}
        processor = AMNSProcessor.from_captions(CAPTIONS * 20, IMAGE_SIZE, vocab_size=620)
        args = AMNSTrainingArguments(
            output_dir=str(self.folder / "out"), use_cpu=True, report_to="none", **{**given, **options}
        )
        return AMNSTrainer(
            None if model_init else tiny_retrieval_model(processor, PERSONS),
            args,
            train_dataset=tiny_pairs(self.folder) if train else None,
            eval_dataset=self.sets if eval_dataset is None else eval_dataset,
            processing_class=processor,
            model_init=model_init,
            **init,
        )


@pytest.fixture
def several(tmp_path):
    return Sets(tmp_path)


def figures(trainer, split) -> dict[str, float]:
    return evaluate_retrieval(trainer.student, trainer.processing_class, split)


def test_several_named_sets_are_each_evaluated_under_their_name(several):
    trainer = several.trainer()
    metrics = trainer.evaluate()
    for name, split in several.sets.items():
        want = figures(trainer, split)
        assert {figure: metrics[f"eval_{name}_{figure}"] for figure in want} == want
        alone = trainer.evaluate(name, metric_key_prefix="test")
        assert {figure: alone[f"test_{figure}"] for figure in want} == want
    assert want != figures(trainer, several.sets["a"])
    given = trainer.evaluate({"c": several.sets["b"]})
    assert given["eval_c_mAP"] == metrics["eval_b_mAP"] and "eval_a_mAP" not in given
    with pytest.raises(ValueError, match="no evaluation set 'd'; there are a, b"):
        trainer.evaluate("d")


@pytest.mark.parametrize("metric", ["b_mAP", "eval_b_mAP"])
def test_one_of_several_sets_selects_the_best_model(several, metric):
    trainer = several.trainer(
        num_train_epochs=2, eval_strategy="epoch", save_strategy="best", metric_for_best_model=metric
    )
    trainer.train()
    seen = [entry["eval_b_mAP"] for entry in trainer.state.log_history if "eval_b_mAP" in entry]
    assert len(seen) == 2 and trainer.state.best_metric == max(seen)


def test_a_bare_figure_of_several_sets_is_their_mean(several):
    metrics = several.trainer(eval_strategy="epoch").evaluate()
    for figure in ("rank1", "mINP"):
        assert metrics[f"eval_{figure}"] == pytest.approx(
            (metrics[f"eval_a_{figure}"] + metrics[f"eval_b_{figure}"]) / 2
        )
    with pytest.raises(
        ValueError, match="c_mAP is no figure of the evaluation; choose one of a_rank1, .*b_mINP, rank1"
    ):
        several.trainer(eval_strategy="epoch", metric_for_best_model="c_mAP")


def test_predict_gives_embeddings_persons_and_figures(several):
    trainer = several.trainer(train=False)
    (queries, gallery), (query_ids, gallery_ids), metrics = trainer.predict(several.sets["a"])
    assert queries.shape == gallery.shape == (16, 16) and np.allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-6)
    assert query_ids.tolist() == gallery_ids.tolist() == several.sets["a"]["queries"]["person_id"][:]
    best = gallery_ids[(queries @ gallery.T).argmax(axis=1)]
    assert metrics["test_rank1"] == pytest.approx(100 * (best == query_ids).mean())
    with pytest.raises(ValueError, match="ignore_keys"):
        trainer.predict(several.sets["a"], ignore_keys=["logits"])


def test_own_metrics_are_added_and_may_select_the_best_model(several):
    seen = []

    def same(prediction):
        (queries, gallery), (_, gallery_ids) = prediction.predictions, prediction.label_ids
        seen.append(len(queries))
        return {"pairs": float((queries * gallery).sum(1).mean()), "counts": np.int64(len(gallery_ids))}

    trainer = several.trainer(
        several.sets["a"], compute_metrics=same, max_steps=1, eval_strategy="steps", metric_for_best_model="pairs"
    )
    trainer.train()
    metrics = trainer.evaluate(metric_key_prefix="test")
    (queries, gallery), _, again = trainer.predict(several.sets["a"])
    assert metrics["test_pairs"] == pytest.approx((queries * gallery).sum(1).mean(), abs=1e-6) == again["test_pairs"]
    assert metrics["test_counts"] == 16 and seen == [16] * 3
    clash = several.trainer(several.sets["a"], compute_metrics=lambda prediction: {"rank1": 1.0})
    with pytest.raises(ValueError, match="compute_metrics returns rank1, which evaluation computes itself"):
        clash.evaluate()


def test_an_own_collator_makes_the_batches_or_is_told_what_it_left_out(several, processor):
    sizes, stack = [], PairCollator(processor.tokenizer.pad_token_id)

    def collate(examples):
        sizes.append(len(examples))
        return stack(examples)

    several.trainer(data_collator=collate, max_steps=2).train()
    assert sizes[:2] == [8, 8]
    with pytest.raises(ValueError, match="data_collator left out images, .*see PairCollator"):
        several.trainer(data_collator=lambda examples: {"rows": torch.zeros(1)}, max_steps=1).train()


def test_model_init_makes_a_new_model_and_teacher_for_each_training(several):
    def fresh():
        processor = AMNSProcessor.from_captions(CAPTIONS * 20, IMAGE_SIZE, vocab_size=620)
        return tiny_retrieval_model(processor, PERSONS)

    trainer = several.trainer(model_init=fresh, max_steps=2)
    ends = []
    for _ in range(2):
        trainer.train()
        ends.append({**trainer.model.state_dict(), **trainer.teacher.state_dict()})
    assert all(torch.equal(ends[0][name], value) for name, value in ends[1].items())
    given = several.trainer(max_steps=2)
    given.train()
    assert all(torch.equal(ends[0][name], value) for name, value in given.model.state_dict().items())


def test_a_trial_of_a_search_sets_options_before_model_and_teacher_are_made_ready(several, processor, monkeypatch):
    # It asks the packages that make trials, which need not be here.
    monkeypatch.setattr("transformers.integrations.hp_params", dict)
    monkeypatch.setattr(AMNSTrainer, "_get_output_dir", lambda self, trial: self.args.output_dir)
    trainer = several.trainer(model_init=lambda trial: tiny_retrieval_model(processor, PERSONS), max_steps=1)
    trainer.hp_search_backend = HPSearchBackend.WANDB
    trainer.train(trial={"keep_ratio": 0.25, "temperature": 0.1, "ema_decay": 0.5})
    assert trainer.teacher.decay == 0.5 and trainer.student.logit_scale.exp().item() == pytest.approx(10)
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer._model_inputs(batch)["keep_indices"].shape[1] == 8
    with pytest.raises(ValueError, match="keep_ratio must lie in"):
        trainer.train(trial={"keep_ratio": 2.0})


def test_a_search_maximises_the_figure_that_selects(several, monkeypatch):
    asked = {}
    monkeypatch.setattr(Trainer, "hyperparameter_search", lambda self, *args, **kwargs: asked.update(args=args))
    trainer = several.trainer(metric_for_best_model="a_mAP")
    trainer.hyperparameter_search(n_trials=3)
    _, objective, trials, direction, *_ = asked["args"]
    assert (objective({"eval_a_mAP": 7.0, "eval_b_mAP": 8.0}), trials, direction) == (7.0, 3, "maximize")


def test_the_first_layer_stays_as_it_is_when_it_is_frozen(tmp_path):
    trainer = make_trainer(
        tmp_path, freeze_patch_embedding=True, per_device_train_batch_size=8, max_steps=1, learning_rate=1e-2
    )
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    same = {name for name, value in trainer.model.state_dict().items() if torch.equal(value, before[name])}
    assert "amns.vision_model.embeddings.patch_embedding.weight" in same
    assert not any("encoder.layers" in name and "weight" in name for name in same)


@pytest.mark.parametrize("instances, clean, warned", [(2, False, True), (2, True, False), (0, False, False)])
def test_wrong_captions_in_batches_by_person_are_warned_of(tmp_path, caplog, instances, clean, warned):
    args = AMNSTrainingArguments(output_dir=str(tmp_path), instances_per_identity=instances, use_cpu=True)
    pairs = tiny_pairs(tmp_path)
    pairs = pairs.add_column("is_clean", [clean or row % 4 > 0 for row in range(len(pairs))])
    check_training_set(pairs, args)
    assert ("25% of the captions are wrong, and instances_per_identity 2" in caplog.text) == warned


def test_an_own_loss_is_trained_with_its_options(several, own_losses):
    register_loss("scaled", lambda logits, positives, factor=1.0: factor * itc(logits, positives))
    trainer = several.trainer(loss_weights={"scaled": 0.5}, loss_options={"scaled": {"factor": 3.0}}, max_steps=1)
    batch = next(iter(trainer.get_train_dataloader()))
    outputs = trainer.model(**trainer._model_inputs(batch))
    want = 1.5 * matching_loss(itc, outputs.image_embeds, outputs.text_embeds, batch["person_ids"])
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(want.item(), rel=1e-5)
    trainer.train()
    assert "loss_scaled" in trainer.state.log_history[0]


def test_a_balanced_identity_loss_is_told_how_many_pairs_each_person_has(tmp_path):
    options = {"loss_weights": {"bsdm": 1.0, "identity": 1.0}, "loss_options": {"identity": {"weighting": "balanced"}}}
    trainer = make_trainer(tmp_path, num_pairs=11, per_device_train_batch_size=11, **options)
    batch = next(iter(trainer.get_train_dataloader()))
    outputs = trainer.model(**trainer._model_inputs(batch))
    # Of the first 11 pairs the persons 0, 1 and 2 have two, the other five one: 11 / 8 is the mean.
    got = trainer._loss_parts(outputs, batch["person_ids"], batch["rows"])["identity"].item()
    want = 0.0
    for logits in (outputs.image_identity_logits, outputs.text_identity_logits):
        for row, person in zip(logits.log_softmax(1).tolist(), batch["person_ids"].tolist()):
            want -= 11 / 8 / (2 if person < 3 else 1) * row[person] / 22
    assert got == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
    "sampling",
    [
        {"instances_per_identity": 2},
        {"train_sampling_strategy": "group_by_length"},
        {"loss_options": {"identity": {"weighting": "balanced"}}},
    ],
)
def test_a_stream_cannot_be_sampled_and_says_so(tmp_path, processor, sampling):
    args = AMNSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=1, **sampling)
    stream = tiny_pairs(tmp_path).to_iterable_dataset()
    name = "weighting balanced" if "loss_options" in sampling else next(iter(sampling))
    with pytest.raises(ValueError, match=f"{name}.* needs to know all rows.*streaming=False"):
        AMNSTrainer(tiny_retrieval_model(processor, PERSONS), args, train_dataset=stream, processing_class=processor)


def test_a_stream_with_a_person_that_the_classifier_does_not_know_says_so(tmp_path, processor):
    options = {"use_cpu": True, "report_to": "none", "max_steps": 1, "eval_strategy": "no"}
    args = AMNSTrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=8, **options)
    stream = tiny_pairs(tmp_path).to_iterable_dataset()
    trainer = AMNSTrainer(tiny_retrieval_model(processor, 3), args, train_dataset=stream, processing_class=processor)
    with pytest.raises(ValueError, match="person ids up to 7, the model's classifier 3 identities.*num_identities=8"):
        trainer.train()


@pytest.mark.parametrize("steps", [{}, {"max_steps": 3}])
def test_fewer_pairs_than_a_batch_are_one_clear_error(tmp_path, steps):
    trainer = make_trainer(tmp_path, num_pairs=16, per_device_train_batch_size=64, **steps)
    with pytest.raises(ValueError, match="16 pairs are fewer than a batch of 64"):
        trainer.train()
    make_trainer(
        tmp_path, num_pairs=4, dataloader_drop_last=False, per_device_train_batch_size=64, max_steps=1
    ).train()


def test_a_data_seed_of_0_is_0(tmp_path):
    def rows(**seeds):
        trainer = make_trainer(tmp_path, per_device_train_batch_size=8, **seeds)
        batch = next(iter(trainer.get_train_dataloader()))
        return batch["rows"].tolist(), batch["images"]

    (order, images), (same, equal) = rows(seed=5, data_seed=0), rows(seed=0)
    assert order == same and torch.equal(images, equal)
    assert rows(seed=5)[0] != order == rows(seed=7, data_seed=0)[0]


FROZEN = {"text": ("text_model", "text_projection"), "vision": ("vision_model", "visual_projection")}
FROZEN |= {"tower": ("vision_model",), "both": ("vision_model", "visual_projection", "text_model", "text_projection")}


@pytest.mark.parametrize("part", FROZEN)
@pytest.mark.parametrize("options", [{}, {"gradient_cache_chunk_size": 3}, {"gradient_checkpointing": True}])
def test_a_partly_frozen_model_trains_the_rest_as_any_other(tmp_path, part, options):
    """With the gradient cache on too: the gradients are those of the plain step."""
    gradients = []
    for given in ({}, options) if options else ({},):
        # In float64: sums in another order differ in the last digits, by processor and number of threads.
        given = {"double": True, "per_device_train_batch_size": 8, "max_steps": 1, **given}
        trainer = make_trainer(tmp_path, frozen=FROZEN[part], **given)
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        trainer.add_callback(keep := KeepGradients())
        trainer.train()
        changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed and not any(name.split(".")[1] in FROZEN[part] for name in changed)
        gradients.append(keep.gradients)
    for name, value in gradients[0].items():
        assert torch.allclose(gradients[-1][name], value, rtol=1e-6, atol=1e-8), name


class KeepGradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_model_without_anything_to_train_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No parameter of the model is trained"):
        make_trainer(tmp_path, frozen=FROZEN["both"], loss_weights={"bsdm": 1.0})


def test_the_bar_is_for_terminals_and_memory_is_pinned_for_accelerators(tmp_path, monkeypatch, recwarn):
    quiet = AMNSTrainingArguments(output_dir=str(tmp_path), report_to="none")
    assert quiet.disable_tqdm is True
    assert quiet.dataloader_pin_memory is (quiet.device.type != "cpu")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert AMNSTrainingArguments(output_dir=str(tmp_path), report_to="none").disable_tqdm is False
    assert AMNSTrainingArguments(output_dir=str(tmp_path), report_to="none", disable_tqdm=True).disable_tqdm is True


def test_an_optimizer_of_the_users_own_kind_gets_our_groups_and_one_with_own_groups_is_refused(several):
    trainer = several.trainer(train=False)
    trainer.optimizer_cls_and_kwargs = (torch.optim.SGD, {"lr": 0.5, "momentum": 0.9})
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.SGD) and {group["momentum"] for group in optimizer.param_groups} == {0.9}
    assert {group["lr"] for group in optimizer.param_groups} == {0.5, 1.0, 2.5}
    other = several.trainer(train=False)
    other.optimizer_cls_and_kwargs = (torch.optim.SGD, {"lr": 0.5, "params": []})
    with pytest.raises(ValueError, match="makes its own groups of parameters"):
        other.create_optimizer()


def test_evaluation_before_training_is_logged_at_step_0(several):
    trainer = several.trainer(eval_on_start=True, max_steps=1)
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["step"] == 0 and "eval_a_rank1" in first


def test_a_formatted_training_set_trains_as_a_plain_one(tmp_path, processor):
    pairs = tiny_pairs(tmp_path).select(range(8))
    seen = []
    for data in (pairs, pairs.with_format("torch")):
        args = AMNSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", eval_strategy="no")
        trainer = AMNSTrainer(
            tiny_retrieval_model(processor, PERSONS), args, train_dataset=data, processing_class=processor
        )
        seen.append(next(iter(trainer.get_train_dataloader())))
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])


@pytest.mark.parametrize("streaming", [False, True])
def test_pairs_without_person_ids_are_refused_where_ids_are_needed(tmp_path, streaming):
    pairs = tiny_pairs(tmp_path).remove_columns("person_id")
    train = load_pairs(pairs, streaming=streaming, person_id_column=None)
    options = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True}
    args = AMNSTrainingArguments(**options, loss_weights={"waf": 1.0, "identity": 0.5})
    with pytest.raises(ValueError, match="the identity loss needs person ids"):
        check_training_set(train, args)
    check_training_set(train, AMNSTrainingArguments(**options, loss_weights={"waf": 1.0, "sdm": 1.0}))
