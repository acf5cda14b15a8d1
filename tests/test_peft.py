"""LoRA on both encoders: what is trained, the teacher, resumption, and what a run leaves."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import CAPTIONS, IMAGE_SIZE, tiny_config, tiny_retrieval_model
from training_run import PERSONS, as_split, make_trainer, tiny_pairs
from transformers import TrainerCallback

from modeling_amns import AMNSForPersonRetrieval, AMNSModel, AMNSProcessor, AMNSTrainer, AMNSTrainingArguments
from modeling_amns.adapters import (
    AdapterArguments,
    add_adapters,
    check_adapter_options,
    load_adapter,
    load_weights,
    save_final,
)

pytest.importorskip("peft")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A pretrained start with its processor."""
    folder = tmp_path_factory.mktemp("start")
    processor = AMNSProcessor.from_captions(CAPTIONS * 20, IMAGE_SIZE, vocab_size=620)
    tiny_retrieval_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def adapted(start, seed=0, **options):
    """The start with adapters and a classifier, float32."""
    torch.manual_seed(seed)
    model = AMNSForPersonRetrieval.from_pretrained(start, num_identities=PERSONS)
    return add_adapters(model, AdapterArguments(**{"lora_r": 4, "lora_alpha": 8, **options}))


def make_lora_trainer(start, folder, **options):
    defaults = {"report_to": "none", "use_cpu": True, "logging_steps": 1, "disable_tqdm": True, "max_grad_norm": 0.0}
    defaults |= {"save_strategy": "no", "eval_strategy": "no", "per_device_train_batch_size": 8, "learning_rate": 1e-2}
    args = AMNSTrainingArguments(**{**defaults, "output_dir": str(folder / "output"), **options})
    pairs = tiny_pairs(folder)
    processor = AMNSProcessor.from_pretrained(start)
    model = adapted(start)
    return AMNSTrainer(model, args, train_dataset=pairs, eval_dataset=as_split(pairs), processing_class=processor)


def randomise(model, seed=1):
    """Gives the adapters weights that change the outputs; they start as zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    return model


def features(model, pixels):
    """Image embeddings and embeddings of one caption."""
    ids = torch.tensor([[3, 5, 6, 7, model.config.text_config.eos_token_id]])
    with torch.no_grad():
        image = model.get_image_features(pixels).pooler_output
        return torch.cat([image, model.get_text_features(ids, attention_mask=torch.ones_like(ids)).pooler_output])


def test_both_encoders_get_adapters_and_only_they_and_the_classifier_are_trained(start, tmp_path):
    trainer = make_lora_trainer(start, tmp_path, max_steps=3)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    lora = {name for name in before if "lora_" in name}
    for encoder in ("vision_model", "text_model"):
        # A and B of four projections in each of three layers.
        assert sum(encoder in name for name in lora) == 2 * 4 * 3
    classifier = {name for name in before if "classifier.modules_to_save" in name}
    assert len(classifier) == 2 and changed == lora | classifier


def test_learning_rates_of_adapters_classifier_and_biases(start, tmp_path):
    trainer = make_lora_trainer(start, tmp_path, max_steps=1, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            kind = "lora" if "lora_" in name else name.split(".")[-1] + " of " + name.split(".")[2]
            found.setdefault(kind, set()).add((round(group["lr"] / 1e-2, 6), group["weight_decay"]))
    assert found == {
        "lora": {(1.0, 0.1)},
        "weight of classifier": {(5.0, 0.1)},
        "bias of classifier": {(2.0, 0.0)},
    }


@pytest.mark.parametrize("layers", [None, 1])
def test_the_attention_of_adapted_layers_is_that_of_the_merged_model(start, pixels, layers):
    model = randomise(adapted(start)).eval()
    plain = AMNSModel.from_pretrained(start).eval()
    got = model.amns.vision_model.cls_attention(pixels, layers)
    base = plain.vision_model.cls_attention(pixels, layers)
    merged = model.merge_and_unload().amns.vision_model
    assert torch.allclose(got, merged.cls_attention(pixels, layers), atol=1e-6)
    assert (got - base).abs().max() > 1e-3
    # Independently: the attention maps of the eager backend.
    merged.set_attn_implementation("eager")
    with torch.no_grad():
        maps = torch.stack(merged(pixel_values=pixels, output_attentions=True).attentions)
    want = maps[-(layers or len(maps)) :, :, :, 0, 1:].mean(dim=(0, 2))
    assert torch.allclose(got, want, atol=1e-6)


def test_the_teacher_is_the_moving_average_of_the_adapters(start, tmp_path):
    class Record(TrainerCallback):
        students = []

        def on_optimizer_step(self, args, state, control, model=None, **kwargs):
            self.students.append(student_adapters(model.amns))

    def student_adapters(module):
        return {name: value.clone() for name, value in module.vision_model.named_parameters() if "lora_" in name}

    trainer = make_lora_trainer(start, tmp_path, max_steps=3, ema_decay=0.9)
    want, record = student_adapters(trainer.model.amns), Record()
    trainer.add_callback(record)
    first = {name: value.clone() for name, value in want.items()}
    trainer.train()
    assert len(record.students) == 3
    for student in record.students:
        # A pretrained start: the decay does not rise to its value, it begins with it.
        want = {name: 0.9 * want[name] + 0.1 * student[name] for name in want}
    got = student_adapters(trainer.teacher.module)
    assert got.keys() == want.keys() and all(torch.allclose(got[name], want[name], atol=1e-7) for name in want)
    assert any(not torch.equal(got[name], first[name]) for name in got)


def test_a_first_layer_is_not_frozen_twice(start, tmp_path):
    with pytest.raises(ValueError, match="freeze_patch_embedding can't be used with adapters: nothing else is"):
        make_lora_trainer(start, tmp_path, freeze_patch_embedding=True)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(start, tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = make_lora_trainer(start, tmp_path, **options)
    whole.train()
    assert not (tmp_path / "output" / "checkpoint-2" / "model.safetensors").exists()
    resumed = make_lora_trainer(start, tmp_path, **{**options, "output_dir": str(tmp_path / "resumed")})
    resumed.train(resume_from_checkpoint=str(tmp_path / "output" / "checkpoint-2"))
    for got, want in (
        (resumed.model.state_dict(), whole.model.state_dict()),
        (resumed.teacher.state_dict(), whole.teacher.state_dict()),
    ):
        assert got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in (whole, resumed)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("lora", [True, False])
def test_the_weights_of_an_earlier_checkpoint_come_back(start, tmp_path, lora):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 8}
    seen = {}

    class Record(TrainerCallback):
        def on_save(self, args, state, control, model=None, **kwargs):
            seen[state.global_step] = {name: value.clone() for name, value in model.state_dict().items()}

    trainer = make_lora_trainer(start, tmp_path, **options) if lora else make_trainer(tmp_path, **options)
    trainer.add_callback(Record())
    trainer.train()
    load_weights(trainer, tmp_path / "output" / "checkpoint-2")
    got = trainer.model.state_dict()
    assert all(torch.equal(got[name], value) for name, value in seen[2].items())
    assert any(not torch.equal(got[name], value) for name, value in seen[4].items())


def test_the_final_folder_holds_a_merged_model_and_the_adapter(start, tmp_path, pixels):
    trainer = make_lora_trainer(start, tmp_path, max_steps=2, temperature=0.05)
    trainer.train()
    randomise(trainer.model)
    want = features(trainer.model.eval().amns, pixels)
    logits = trainer.model.classifier(want)
    save_final(trainer, tmp_path / "final")
    merged, info = AMNSModel.from_pretrained(tmp_path / "final", output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert (features(merged.eval(), pixels) - want).abs().max() < 1e-5
    assert AMNSProcessor.from_pretrained(tmp_path / "final").image_size == tuple(IMAGE_SIZE)
    whole = AMNSForPersonRetrieval.from_pretrained(tmp_path / "final")
    assert (whole.classifier(want) - logits).abs().max() < 1e-5
    loaded = load_adapter(tmp_path / "final" / "adapter").eval()
    assert (features(loaded.amns, pixels) - want).abs().max() < 1e-6
    assert (loaded.classifier(want) - logits).abs().max() < 1e-6
    assert loaded.amns.logit_scale.exp().item() == pytest.approx(20) == merged.logit_scale.exp().item()
    untrained = AMNSModel.from_pretrained(start).eval()
    assert (features(untrained, pixels) - want).abs().max() > 0.1
    adapter = sum(path.stat().st_size for path in (tmp_path / "final" / "adapter").glob("*.safetensors"))
    assert adapter < (tmp_path / "final" / "model.safetensors").stat().st_size / 2


def test_the_options_decide_rank_scale_dropout_and_layers(start):
    model = adapted(start, lora_r=3, lora_alpha=6, lora_dropout=0.25, lora_target_modules=["fc1", "fc2"])
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 6, 0.25)
    layers = {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert layers == {"fc1", "fc2"}


def test_an_adapter_finds_its_start_from_anywhere_and_says_when_it_is_gone(start, tmp_path, pixels, monkeypatch):
    monkeypatch.chdir(start.parent)
    model = randomise(adapted(start.name)).eval()
    want = features(model.amns, pixels)
    model.save_pretrained(tmp_path / "adapter")
    model.config.save_pretrained(tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    assert (features(load_adapter("adapter").eval().amns, pixels) - want).abs().max() < 1e-6
    moved = shutil.copytree(start, tmp_path / "moved")
    named = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    named["base_model_name_or_path"] = str(tmp_path / "gone")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(named))
    with pytest.raises(FileNotFoundError, match="was trained on .*gone, which is not there. Pass the checkpoint"):
        load_adapter("adapter")
    assert (features(load_adapter("adapter", base=moved).eval().amns, pixels) - want).abs().max() < 1e-6
    other = AMNSForPersonRetrieval(tiny_config(text_config={"hidden_size": 48}))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="was not trained on .*other: its weights have other shapes"):
        load_adapter("adapter", base=tmp_path / "other")


def test_a_checkpoint_of_a_run_loads_as_an_adapter_and_is_no_model(start, tmp_path, pixels):
    trainer = make_lora_trainer(start, tmp_path, max_steps=2, save_strategy="steps", save_steps=2, temperature=0.05)
    trainer.train()
    checkpoint = tmp_path / "output" / "checkpoint-2"
    want = features(trainer.model.eval().amns, pixels)
    loaded = load_adapter(checkpoint).eval()
    assert (features(loaded.amns, pixels) - want).abs().max() < 1e-6
    assert loaded.amns.logit_scale.exp().item() == pytest.approx(20)
    with pytest.raises(ValueError, match="holds LoRA adapters, no model. Put them onto .*load_adapter"):
        AMNSModel.from_pretrained(checkpoint)


def test_adapters_on_a_bfloat16_start_are_merged_without_rounding(start, tmp_path, pixels):
    trainer = make_lora_trainer(start, tmp_path, max_steps=1)
    trainer.train()
    trainer.model.base_model.bfloat16()
    randomise(trainer.model)
    want = features(copy.deepcopy(trainer.model).float().eval().amns, pixels)
    save_final(trainer, tmp_path / "final")
    merged = AMNSModel.from_pretrained(tmp_path / "final").eval()
    assert merged.dtype == torch.float32 and (features(merged, pixels) - want).abs().max() < 1e-5


def test_lora_options_without_use_peft_are_refused():
    check_adapter_options(AdapterArguments())
    check_adapter_options(AdapterArguments(use_peft=True, lora_r=4))
    with pytest.raises(ValueError, match="lora_r, lora_target_modules without use_peft: all weights would be trained"):
        check_adapter_options(AdapterArguments(lora_r=4, lora_target_modules=["fc1"]))


def test_the_gradient_cache_gives_the_adapters_the_plain_gradient(start, tmp_path):
    gradients = []
    for size in (0, 3):
        trainer = make_lora_trainer(start, tmp_path, gradient_cache_chunk_size=size, keep_ratio=1.0)
        trainer.model.double()
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.current_gradient_accumulation_steps = 1
        trainer.training_step(randomise(trainer.model), batch)
        gradients.append({n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 2 * 24 + 2
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


def test_the_script_trains_adapters_and_its_folder_evaluates_as_reported(start, tmp_path):
    from modeling_amns import make_synthetic_benchmark

    make_synthetic_benchmark(tmp_path, train_identities=8, val_identities=4, test_identities=6, images_per_identity=2)
    command = [sys.executable, ROOT / "scripts" / "train.py", "--data_root", tmp_path, "--model_name_or_path", start]
    command += ["--image_size", *map(str, IMAGE_SIZE), "--use_peft", "--lora_r", "4", "--num_train_epochs", "2"]
    command += ["--learning_rate", "0.01", "--per_device_train_batch_size", "16", "--use_cpu", "--report_to", "none"]
    done = subprocess.run(
        [*command, "--output_dir", tmp_path / "out"], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    best = json.loads((tmp_path / "out" / "results.json").read_text())["best"]
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
    evaluate = [sys.executable, ROOT / "scripts" / "evaluate.py", tmp_path / "out", "--data_root", tmp_path, "--json"]
    done = subprocess.run(evaluate, capture_output=True, text=True, timeout=120, cwd=ROOT)
    figures = json.loads(done.stdout)
    assert all(figures[name] == pytest.approx(best[name], abs=0.01) for name in figures)
    (tmp_path / "tiny.yaml").write_text("vision_config: {num_hidden_layers: 1}\ntext_config: {num_hidden_layers: 1}\n")
    scratch = [part for part in command if part not in ("--model_name_or_path", start)]
    scratch += ["--output_dir", tmp_path / "scratch", "--config", tmp_path / "tiny.yaml"]
    done = subprocess.run(scratch, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 1 and "set model_name_or_path" in done.stderr.strip().splitlines()[-1]


def test_wrong_layers_a_missing_adapter_and_a_missing_package_are_named(start, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="there is no layer qproj; the model has fc1, fc2, k_proj, out_proj, q_proj"):
        adapted(start, lora_target_modules=["qproj", "v_proj"])
    with pytest.raises(FileNotFoundError, match="holds no adapter_config.json.*output_dir/adapter"):
        load_adapter(tmp_path)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'--use_peft needs the package peft.*pip install "modeling_amns\[peft\]"'):
        adapted(start)
