"""Push and pull by the real client against a Hub on loopback; each program is a process of its own, as a user's."""

import io
import json
import runpy
import shutil
import sys
import time
from pathlib import Path
from subprocess import CompletedProcess

import pyarrow.parquet
import pytest
import torch
from conftest import tiny_retrieval_model
from hub_double import TOKEN, HubDouble, Repo
from hub_programs import BARE, BY_LFS, PULL, ROOT, run, start
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.trainer_utils import HubStrategy

from modeling_amns import AMNSModel, make_synthetic_benchmark
from modeling_amns.cards import weights_sha256
from modeling_amns.hub import push_checkpoint, push_dataset_card, push_metric, push_synthetic, stage_checkpoint
from modeling_amns.pushes import refuse_unfit_pushes

SCRIPT = ROOT / "scripts" / "push_to_hub.py"
CODE = {
    f"{name}_amns.py"
    for name in (
        *("captions", "configuration", "image_modes", "modeling", "pretrained", "processing", "text", "vision"),
        *("configuration_base", "configuration_siglip", "families", "outputs", "siglip"),
    )
}
FILES = CODE | {"README.md", "config.json", "model.safetensors"}
FILES |= {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
FIGURES = {"epoch": 1.0, "rank1": 12.34, "rank5": 20.0, "rank10": 30.0, "mAP": 10.0, "mINP": 5.0}


@pytest.fixture
def hub():
    with HubDouble() as double:
        yield double


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, processor):
    """What a run leaves, with everything that must not travel."""
    folder = tmp_path_factory.mktemp("machine") / "run"
    tiny_retrieval_model(processor, num_identities=4).save_pretrained(folder)
    processor.save_pretrained(folder)
    report = {"benchmark": "synthetic-pedes", "noise_rate": 0.2, "losses": {"bsdm": 1.0}, "best": FIGURES}
    report |= {"last": FIGURES, "selected_on": "val rank1", "weights_sha256": weights_sha256(folder)}
    (folder / "results.json").write_text(json.dumps(report))
    Image.effect_noise((9, 9), 50).save(folder / "ranking.png")
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth", "teacher.safetensors", "pairs.csv"):
        (folder / name).write_bytes(b"secret " + str(folder).encode())
    state = {"best_model_checkpoint": f"secret {folder}/checkpoint-3", "log_history": []}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "optimizer.pt").write_bytes(b"secret")
    return folder


def push(hub, home, checkpoint, *options, **environment) -> CompletedProcess:
    return run(hub, home, SCRIPT, checkpoint, "org/name", *options, **environment)


def other_weights(checkpoint: Path, folder: Path) -> Path:
    """A copy of a checkpoint with other weights."""
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: value * 1.5 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def features(folder: Path, processor) -> list[torch.Tensor]:
    """What the programs of `PULL` must find, computed here from the folder on disk."""
    image = Image.new("RGB", (40, 90), "red")
    inputs = processor(text=["a man in a red coat"], images=[image], return_tensors="pt")
    with torch.no_grad():
        outputs = AMNSModel.from_pretrained(folder).eval()(**inputs)
    return [outputs.image_embeds, outputs.text_embeds]


def test_push_and_pull_by_id_with_and_without_the_package_pinned_and_offline(hub, tmp_path, checkpoint, processor):
    done = push(hub, tmp_path, checkpoint)
    assert done.returncode == 0 and "/org/name" in done.stdout, done.stderr[-3000:]
    files = hub.files("org/name")
    assert set(files) == FILES | {"results.json", "ranking.png"}
    for name, content in files.items():
        assert b"secret" not in content and str(checkpoint.parent).encode() not in content, name
    assert "12.34" in files["README.md"].decode() and b"classifier" not in files["model.safetensors"][:4000]
    first = hub.repos["models", "org/name"].branches["main"]
    old, new = features(checkpoint, processor), None
    changed = other_weights(checkpoint, tmp_path / "changed")
    new = features(changed, processor)
    assert not torch.allclose(old[0], new[0], atol=1e-3)
    # As if there had been weights in two files once, which would win over one.
    _, tree = hub.repos["models", "org/name"].commits[-1]
    tree["model-00001-of-00002.safetensors"] = tree["model.safetensors.index.json"] = tree["config.json"]
    assert push(hub, tmp_path, changed).returncode == 0
    # The figures were another model's: neither they nor their files stay beside these weights.
    assert "12.34" not in hub.files("org/name")["README.md"].decode() and set(hub.files("org/name")) == FILES
    cases = {"package": (PULL, [], new), "code": (BARE + PULL, [], new), "pinned": (BARE + PULL, [first], old)}
    for how, (program, options, wanted) in cases.items():
        (tmp_path / how).mkdir()
        done = run(hub, tmp_path / how, program, how, tmp_path / how / "out.pt", *options)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.split()[-1] == ("modeling_amns" if how == "package" else "transformers_modules")
        for found, want in zip(torch.load(tmp_path / how / "out.pt"), wanted, strict=True):
            assert torch.allclose(found, want, atol=1e-6), how
    # Weights went and came by Xet, as huggingface_hub does where hf-xet is installed.
    assert not any(path.startswith("/lfs/") for _, path in hub.log)
    assert sum(path.startswith("/v1/reconstructions/") for _, path in hub.log) == len(cases)
    asked = len(hub.log)
    for how, program in (("package", PULL), ("code", BARE + PULL)):
        done = run(hub, tmp_path / how, program, how, tmp_path / "offline.pt", HF_HUB_OFFLINE="1")
        assert done.returncode == 0, done.stderr[-3000:]
    assert len(hub.log) == asked


def test_a_second_push_sends_only_the_card_that_changed(hub, tmp_path, checkpoint):
    assert push(hub, tmp_path, checkpoint).returncode == 0
    uploads = len(hub.uploads)
    done = push(hub, tmp_path, checkpoint, "--license", "mit")
    assert done.returncode == 0, done.stderr[-2000:]
    assert hub.committed[1:] == [["README.md"]] and len(hub.uploads) == uploads
    assert b"license: mit" in hub.files("org/name")["README.md"]


def test_a_push_to_a_branch_leaves_main_alone(hub, tmp_path, checkpoint):
    done = push(hub, tmp_path, checkpoint, "--revision", "runs/1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(hub.files("org/name", revision="runs/1")) >= FILES and not hub.files("org/name")


@pytest.mark.parametrize("transfer, files", [({}, ["weights"]), (BY_LFS, ["weights", "picture"])], ids=["xet", "lfs"])
def test_a_push_that_was_killed_goes_on_where_it_stopped(hub, tmp_path, checkpoint, transfer, files):
    """Of two files by LFS one is there; by Xet all content is there, but not yet what makes files of it."""
    checkpoint = shutil.copytree(checkpoint, tmp_path / "run")
    if "picture" not in files:
        # Xet packs files into one xorb in the order in which they were read, which differs from run to run.
        (checkpoint / "ranking.png").unlink()
    hub.hold_uploads = True
    process = start(hub, tmp_path, SCRIPT, checkpoint, "org/name", **transfer)
    assert hub.holding.wait(120)
    while not hub.uploads:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert len(hub.uploads) == 1 and not hub.committed
    hub.hold_uploads = False
    assert push(hub, tmp_path, checkpoint, **transfer).returncode == 0
    assert len(hub.uploads) == len(set(hub.uploads)) == len(files)
    assert len(hub.committed) == 1 and "model.safetensors" in hub.files("org/name")


# Calls of a script in one process, which takes seconds to start: token and words in, exit code and stderr out.
ONE_AFTER_THE_OTHER = """
import contextlib, io, json, os, runpy, sys
ends = []
for token, words in json.loads(sys.argv[2]):
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({"HF_TOKEN": token} if token else {})
    said, script = io.StringIO(), sys.argv[1]
    with contextlib.redirect_stderr(said):
        own, sys.argv = sys.argv, [script, *words]
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            ends.append((end.code, said.getvalue()))
        sys.argv = own
print(json.dumps(ends))
"""


def test_refusals_of_the_hub_are_one_line_each(hub, tmp_path, checkpoint):
    """A token, a card, an upload by Xet and by LFS, the address."""
    assert push(hub, tmp_path, checkpoint, "--private").returncode == 0
    assert hub.repos["models", "org/name"].private
    hub.repos["models", "org/public"] = Repo(private=False)
    asked = len(hub.log)
    calls = {
        "org/public is there and public": (TOKEN, [str(checkpoint), "org/public", "--private"]),
        "There is no Hugging Face token": (None, [str(checkpoint), "org/name"]),
        "401": ("hf_wrong", [str(checkpoint), "org/name"]),
        '"license" must be one of': (TOKEN, [str(checkpoint), "org/name", "--license", "none-such"]),
    }
    refused = run(hub, tmp_path, ONE_AFTER_THE_OTHER, SCRIPT, json.dumps(list(calls.values())))
    assert refused.returncode == 0, refused.stderr[-2000:]
    assert [entry for entry in hub.log[asked:] if "commit" in entry[1]] == []
    cases = {}
    with HubDouble() as gone:
        gone.fail_uploads = 1000
        cases["403 Forbidden"] = push(gone, tmp_path, checkpoint)
        cases["Error while uploading"] = push(gone, tmp_path, checkpoint, **BY_LFS)
    assert not gone.committed
    cases["can't be reached"] = push(gone, tmp_path, checkpoint)
    ends = {message: (done.returncode, done.stderr) for message, done in cases.items()}
    ends |= dict(zip(calls, json.loads(refused.stdout.splitlines()[-1]), strict=True))
    for message, (code, said) in ends.items():
        assert code == 1 and message in said, said[-2000:]
        assert len(said.strip().splitlines()) == 1, said


def test_a_repository_that_is_private_or_not_there_gives_the_clients_own_error(hub, tmp_path):
    hub.repos["models", "org/private"] = Repo(private=True)
    program = """
from modeling_amns import AMNSModel
for name, token in (("org/private", False), ("org/nowhere", None), ("org/private", "hf_wrong")):
    try:
        AMNSModel.from_pretrained(name, token=token)
    except OSError as error:
        print(error)
"""
    done = run(hub, tmp_path, program)
    for name in ("org/private", "org/nowhere"):
        assert f"{name} is not a local folder and is not a valid model" in done.stdout, done.stderr[-2000:]
    assert done.stdout.count("is not a local folder") == 2 and "401" in done.stdout.split("org/nowhere")[-1]


def test_a_dry_run_lists_files_and_card_and_sends_nothing(hub, tmp_path, checkpoint):
    done = push(hub, tmp_path, checkpoint, "--dry-run", token=None)
    assert done.returncode == 0 and not hub.log
    listed = {line.split()[1]: line.split()[0] for line in done.stdout.split("\n\n")[0].splitlines()}
    assert set(listed) == FILES | {"results.json", "ranking.png"}
    assert listed["ranking.png"] == f"{(checkpoint / 'ranking.png').stat().st_size:,}"
    assert "library_name: transformers" in done.stdout and "12.34" in done.stdout


@pytest.mark.parametrize("options, sent", [([], False), (["--pictures"], True)])
def test_pictures_of_a_real_benchmark_stay_at_home_unless_asked_for(hub, tmp_path, checkpoint, options, sent):
    shutil.copytree(checkpoint, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "results.json").read_text())
    (tmp_path / "run" / "results.json").write_text(json.dumps(report | {"benchmark": "rstpreid"}))
    done = push(hub, tmp_path, tmp_path / "run", "--dry-run", *options)
    assert done.returncode == 0 and ("  ranking.png" in done.stdout) == ("Red: somebody else" in done.stdout) == sent


def _without(name):
    return lambda folder: (folder / name).unlink()


def _cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:3000])


def _set(name, **changes):
    def change(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changes))

    return change


def _lose_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["amns.text_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    "change, message",
    [
        (shutil.rmtree, "There is no folder"),
        (_without("config.json"), "lacks config.json"),
        (_without("tokenizer.json"), "lacks tokenizer.json"),
        (_without("model.safetensors"), "lacks model.safetensors"),
        (_cut("model.safetensors"), "the model can't be read, was it copied in full"),
        (_lose_a_weight, "1 weights are missing, text_projection.weight first"),
        (_cut("tokenizer.json"), "the processor can't be read"),
        (_set("config.json", projection_dim=7), "the model can't be read"),
        (_set("config.json", vision_config={"image_size": "x"}), "the model can't be read"),
        (_set("results.json", benchmark=3), "benchmark must be a JSON str, found 3"),
        (lambda folder: (folder / "results.json").write_text("[]"), "must hold a JSON object, found list"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path, checkpoint, change, message):
    folder = shutil.copytree(checkpoint, tmp_path / "run")
    change(folder)
    (tmp_path / "staged").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        stage_checkpoint(folder, "org/name", tmp_path / "staged")


@pytest.mark.parametrize("repo_id", ["name", "org/na me", "a/b/c", "org/"])
def test_an_id_that_is_none_ends_the_script_with_one_line(hub, tmp_path, checkpoint, repo_id, monkeypatch, capsys):
    code, _, error = push_here(monkeypatch, capsys, checkpoint, repo_id)
    assert code == 1 and f"{repo_id!r} is no id of" in error and len(error.splitlines()) == 1


TRAIN = """
import sys
from pathlib import Path
from training_run import make_trainer
trainer = make_trainer(
    Path(sys.argv[1]), push_to_hub=True, hub_model_id="org/name", hub_strategy=sys.argv[2], save_strategy="steps",
    save_steps=2, max_steps=4, per_device_train_batch_size=8, hub_always_push=True,
)
trainer.train()
print(trainer.push_to_hub("done").oid)
"""


@pytest.mark.parametrize("strategy, pushed", [("end", 1), ("every_save", 2)])
def test_a_trainer_pushes_at_the_end_or_with_every_checkpoint(hub, tmp_path, strategy, pushed):
    done = run(hub, tmp_path, TRAIN, tmp_path, strategy)
    assert done.returncode == 0, done.stderr[-3000:]
    # The push at the end finds the weights of the last checkpoint there already.
    assert sum("model.safetensors" in changed for changed in hub.committed) == pushed
    assert done.stdout.split()[-1] == hub.repos["models", "org/name"].branches["main"]
    assert set(hub.files("org/name")) == FILES
    last = load_file(tmp_path / "output" / "checkpoint-4" / "model.safetensors")["amns.visual_projection.weight"]
    there = tmp_path / "there.safetensors"
    there.write_bytes(hub.files("org/name")["model.safetensors"])
    assert torch.equal(load_file(there)["visual_projection.weight"], last)


def test_training_goes_on_when_a_checkpoint_cannot_be_pushed(hub, tmp_path):
    hub.fail_uploads = 1
    # By LFS, because Xet tries again.
    done = run(hub, tmp_path, TRAIN, tmp_path, "every_save", **BY_LFS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Step 2 was not pushed, training goes on" in done.stderr
    assert (tmp_path / "output" / "checkpoint-2").is_dir() and set(hub.files("org/name")) == FILES


def test_checkpoints_arrive_in_the_order_in_which_they_were_made(hub, tmp_path):
    hub.first_upload_takes = 8.0
    done = run(hub, tmp_path, TRAIN, tmp_path, "every_save", **BY_LFS)
    assert done.returncode == 0, done.stderr[-3000:]
    last = load_file(tmp_path / "output" / "checkpoint-4" / "model.safetensors")["amns.visual_projection.weight"]
    (tmp_path / "there.safetensors").write_bytes(hub.files("org/name")["model.safetensors"])
    assert torch.equal(load_file(tmp_path / "there.safetensors")["visual_projection.weight"], last)
    assert len(hub.committed) == 2


def test_a_trainer_heeds_the_options_of_a_push(hub, tmp_path):
    """Token, visibility, branch and name come from the arguments; the call may return before the upload has ended."""
    hub.first_upload_takes = 3.0
    options = {"hub_token": TOKEN, "hub_private_repo": True, "hub_revision": "dev", "hub_license": "mit"}
    program = f"""
import sys
from concurrent.futures import Future
from pathlib import Path
from training_run import make_trainer
trainer = make_trainer(Path(sys.argv[1]), push_to_hub=True, hub_model_id=None, max_steps=1, **{options})
trainer.train()
trainer.create_model_card(tags="mine", model_name="Mine", language="en")
card = (Path(sys.argv[1]) / "output" / "README.md").read_text()
assert "license: mit" in card and "- mine" in card
upload = trainer.push_to_hub(blocking=False, tags=["mine"], model_name="Mine")
assert isinstance(upload, Future) and not upload.done()
print(upload.result().oid)
"""
    done = run(hub, tmp_path, program, tmp_path, token=None, **BY_LFS)
    assert done.returncode == 0, done.stderr[-3000:]
    repo = hub.repos["models", "org/output"]
    assert repo.private and done.stdout.split()[-1] == repo.branches["dev"] != repo.branches["main"]
    card = hub.files("org/output", revision="dev")["README.md"].decode()
    assert "license: mit" in card and "- mine" in card
    hub.repos["models", "org/output"] = Repo(private=False)
    done = run(hub, tmp_path, program, tmp_path, token=None, **BY_LFS)
    assert done.returncode == 1 and "org/output is there and public" in done.stderr


def test_adapters_are_pushed_merged_and_never_as_they_are(processor):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(tiny_retrieval_model(processor), peft.LoraConfig(target_modules=["q_proj"]))

    class Args:
        push_to_hub, hub_strategy = True, HubStrategy.EVERY_SAVE

    with pytest.raises(ValueError, match="hub_strategy end with use_peft"):
        refuse_unfit_pushes(adapted, Args)
    Args.hub_strategy = HubStrategy.END
    refuse_unfit_pushes(adapted, Args)


def test_strategies_that_would_upload_optimizer_states_are_refused(hub, tmp_path):
    done = run(hub, tmp_path, TRAIN, tmp_path, "checkpoint")
    assert done.returncode == 1 and not hub.repos
    assert "hub_strategy checkpoint would upload optimizer and teacher" in done.stderr


def train(hub, folder, *options, **environment) -> CompletedProcess:
    """scripts/train.py on a tiny benchmark of 8 persons, pushed to org/name at its end."""
    if not (folder / "data").exists():
        sizes = {"train_identities": 8, "val_identities": 3, "test_identities": 3, "images_per_identity": 2}
        make_synthetic_benchmark(folder / "data", **sizes, image_size=(64, 32), num_workers=1)
    fixed = ["--data_root", folder / "data", "--output_dir", folder / "out", "--image_size", 64, 32]
    fixed += ["--per_device_train_batch_size", 8, "--num_train_epochs", 1, "--use_cpu", "true", "--report_to", "none"]
    fixed += ["--push_to_hub", "true", "--hub_model_id", "org/name", "--hub_strategy", "end"]
    return run(hub, folder, ROOT / "scripts" / "train.py", *fixed, *options, **environment)


def test_a_recipe_pushes_once_with_the_figures_of_its_run(hub, tmp_path):
    small = '{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}'
    options = ["--vision_config", small, "--text_config", small, "--vocab_size", 600, "--projection_dim", 16]
    done = train(hub, tmp_path, *options, "--noise_rate", 0.5, "--augment_flip", 0.25)
    assert done.returncode == 0, done.stderr[-3000:]
    reports = {"results.json", "ranking.png", "mask.png", "curves.png"}
    assert len(hub.committed) == 1 and set(hub.files("org/name")) == FILES | reports
    files = hub.files("org/name")
    report = json.loads(files["results.json"])
    assert str(tmp_path).encode() not in b"".join(files.values())
    cells = " | ".join(f"{report['best'][name]:.2f}" for name in ("rank1", "rank5", "rank10", "mAP", "mINP"))
    card = files["README.md"].decode()
    assert f"| best, epoch 1 | {cells} |" in card and "Evaluations while training" in card
    assert all(f"![{name}](./{name})" in card for name in reports - {"results.json"})
    assert f"shuffled on purpose: {report['noise_rate']:.1%} (seed 0)" in card
    for line in (f'torch: `"{torch.__version__}"`', 'device: `"cpu"`', "augment_flip: `0.25`", "weight_decay: `0.0`"):
        assert f"\n- {line}\n" in card
    assert "license: apache-2.0" in card and "Start: from scratch." in card


def test_the_card_of_a_run_from_a_folder_names_neither_its_path_nor_a_licence(hub, tmp_path, checkpoint):
    start = shutil.copytree(checkpoint, tmp_path / "start")
    text = json.loads((start / "config.json").read_text())["text_config"]
    _set("config.json", text_config={**text, "_name_or_path": str(tmp_path / "text")})(start)
    done = train(hub, tmp_path, "--model_name_or_path", start, "--eval_strategy", "no")
    assert done.returncode == 0 and "no epoch selected" in done.stdout, done.stderr[-3000:]
    files = hub.files("org/name")
    assert str(tmp_path).encode() not in b"".join(files.values())
    card = files["README.md"].decode()
    assert "Start: a checkpoint on disk" in card and "base_model:" not in card and "license:" not in card
    assert "those of the last epoch; no other was selected" in card


def test_a_run_that_cannot_be_pushed_shows_its_figures_and_how_to_push_it_later(hub, tmp_path, checkpoint):
    hub.fail_uploads = 1000
    done = train(hub, tmp_path, "--model_name_or_path", checkpoint, **BY_LFS)
    assert done.returncode == 1 and "| last, epoch 1 |" in done.stdout and "Traceback" not in done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("train.py: ")]
    assert "upload refused" in error and error.endswith(f"push_to_hub.py {tmp_path / 'out'} org/name")
    # Without a token nothing begins.
    done = train(hub, tmp_path, "--model_name_or_path", checkpoint, "--output_dir", tmp_path / "new", token=None)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "There is no Hugging Face token" in done.stderr.splitlines()[-1] and not (tmp_path / "new").exists()


def test_model_and_processor_push_themselves(hub, tmp_path, checkpoint, processor):
    program = """
import sys
from modeling_amns import AMNSForPersonRetrieval, AMNSProcessor
AMNSForPersonRetrieval.from_pretrained(sys.argv[1]).push_to_hub("org/name")
AMNSProcessor.from_pretrained(sys.argv[1]).push_to_hub("org/name")
"""
    done = run(hub, tmp_path, program, checkpoint)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(hub.files("org/name")) == FILES
    assert str(checkpoint.parent).encode() not in b"".join(hub.files("org/name").values())
    card = hub.files("org/name")["README.md"].decode()
    assert "surveillance" in card and "not measured" in card and "embedding: `16`" in card
    done = run(hub, tmp_path, BARE + PULL, "code", tmp_path / "out.pt")
    assert done.returncode == 0, done.stderr[-3000:]
    for found, want in zip(torch.load(tmp_path / "out.pt"), features(checkpoint, processor), strict=True):
        assert torch.allclose(found, want, atol=1e-6)


def test_a_model_pushed_by_itself_leaves_no_figures_of_an_earlier_push(hub, tmp_path, checkpoint):
    assert push(hub, tmp_path, checkpoint).returncode == 0
    assert "12.34" in hub.files("org/name")["README.md"].decode()
    program = """
import sys
from modeling_amns import AMNSModel
model = AMNSModel.from_pretrained(sys.argv[1])
model.visual_projection.weight.data *= 1.5
model.push_to_hub("org/name", commit_message="new", tags=["mine"])
"""
    done = run(hub, tmp_path, program, checkpoint)
    assert done.returncode == 0, done.stderr[-3000:]
    files = hub.files("org/name")
    assert set(files) == FILES and b"12.34" not in files["README.md"] and b"- mine" in files["README.md"]


def test_the_metric_is_pushed_as_a_space_and_loads_by_its_id(hub, tmp_path):
    program = "from modeling_amns.hub import push_metric\npush_metric('org/person_retrieval', private={})"
    done = run(hub, tmp_path, program.format(None))
    assert done.returncode == 0, done.stderr[-3000:]
    done = run(hub, tmp_path, program.format(True))
    assert done.returncode == 1 and "org/person_retrieval is there and public" in done.stderr
    assert {"person_retrieval.py", "ranking.py", "README.md"} <= set(hub.files("org/person_retrieval", "spaces"))
    load = """
import evaluate
metric = evaluate.load("org/person_retrieval")
queries, gallery = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]
print(metric.compute(predictions=queries, references=[7, 8], gallery_embeddings=gallery, gallery_ids=[8, 7, 8]))
"""
    done = run(hub, tmp_path, BARE.replace('"datasets", "evaluate", ', "") + load)
    assert done.returncode == 0, done.stderr[-3000:]
    # The first query's person comes second, the second's first: ranks 2 and 1 (and 3, for the other image of 8).
    assert "'rank1': 50.0" in done.stdout and "'rank5': 100.0" in done.stdout
    with pytest.raises(ValueError, match="push to ORG/person_retrieval"):
        push_metric("org/metric")


def test_the_synthetic_benchmark_is_pushed_with_its_images_and_counts(hub, tmp_path):
    sizes = {"train_identities": 3, "val_identities": 1, "test_identities": 2, "images_per_identity": 2}
    make_synthetic_benchmark(tmp_path / "data", **sizes, image_size=(64, 24), num_workers=1)
    program = """
import resource, sys
from modeling_amns.disk import DiskFullError
from modeling_amns.hub import push_synthetic
before = resource.getrlimit(resource.RLIMIT_FSIZE)
for kib in (1, 8):  # as on a full disk: while tables are made, and while they are made ready to be sent
    resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, before[1]))
    try:
        push_synthetic(sys.argv[1], "org/synthetic", private=True)
    except DiskFullError as error:
        assert " while writing " in str(error) and "\\n" not in str(error)
    else:
        sys.exit("nothing was full")
resource.setrlimit(resource.RLIMIT_FSIZE, before)
print(push_synthetic(sys.argv[1], "org/synthetic", private=True).oid)
print(push_synthetic(sys.argv[1], "org/synthetic", revision="v1").oid)
"""
    done = run(hub, tmp_path, program, tmp_path / "data")
    assert done.returncode == 0, done.stderr[-3000:]
    repo, files = hub.repos["datasets", "org/synthetic"], hub.files("org/synthetic", "datasets")
    assert repo.private and done.stdout.split() == [repo.branches["main"], repo.branches["v1"]]
    assert hub.files("org/synthetic", "datasets", "v1") == files
    tables = {name: pyarrow.parquet.read_table(io.BytesIO(files[name])) for name in files if name.endswith("parquet")}
    assert len(tables) == 3
    for table in tables.values():
        assert table.column_names == ["image", "caption", "person_id", "image_id", "image_path"]
        assert str(tmp_path) not in str(table.drop(["image"]).to_pylist())
        assert all(
            str(tmp_path) not in (image["path"] or "") and image["bytes"] for image in table["image"].to_pylist()
        )
    text = files["README.md"].decode()
    assert "| train | 12 | 6 | 3 |" in text and "| test | 8 | 4 | 2 |" in text
    assert "dtype: image" in text and "pretty_name: synthetic-pedes" in text
    pulled = """
import datasets, sys
data = datasets.load_dataset("org/synthetic", split="test")
print(data.num_rows, data[0]["image"].size, data[0]["caption"])
from modeling_amns import load_benchmark
for split in ("train", "test"):
    here, there = (load_benchmark("synthetic-pedes", root, split) for root in (sys.argv[1], "hf://datasets/org/synthetic"))
    here, there = ([one] if split == "train" else one.values() for one in (here, there))
    for one, other in zip(here, there, strict=True):
        names = [name for name in one.column_names if name != "image"]
        assert one.select_columns(names)[:] == other.select_columns(names)[:]
"""
    done = run(hub, tmp_path, pulled, tmp_path / "data", HF_DATASETS_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0 and done.stdout.startswith("8 (24, 64) "), done.stderr[-3000:]


def push_here(monkeypatch, capsys, *options):
    """Exit code, output and error output of the script in this process."""
    monkeypatch.setattr(sys, "argv", ["push_to_hub.py", *map(str, options)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return ended.value.code, *capsys.readouterr()


def test_the_card_of_a_real_benchmark_is_shown_and_pushed_without_anything_else(hub, tmp_path, monkeypatch, capsys):
    options = ["cuhk-pedes", "org/cuhk", "--dataset-card"]
    code, shown, _ = push_here(monkeypatch, capsys, *options, "--dry_run")
    assert code == 0 and "| train | 11,003 | 34,054 | 68,126 |" in shown and not hub.log
    done = run(hub, tmp_path, SCRIPT, *options, "--private")
    assert done.returncode == 0 and "org/cuhk" in done.stdout, done.stderr[-3000:]
    files = hub.files("org/cuhk", "datasets")
    assert set(files) == {"README.md"} and files["README.md"].decode().strip() == shown.strip()
    assert hub.repos["datasets", "org/cuhk"].private


@pytest.mark.parametrize(
    "options, message",
    [
        (["market", "org/x"], "There is no benchmark 'market'"),
        (["synthetic-pedes", "org/x"], "push_synthetic pushes both"),
        (["cuhk-pedes", "x"], "no id of the form ORG/NAME"),
        (["cuhk-pedes", "org/x", "--license", "mit"], "--license is for checkpoints"),
    ],
)
def test_a_card_that_cannot_be_pushed_is_one_line(options, message, monkeypatch, capsys):
    code, _, error = push_here(monkeypatch, capsys, *options, "--dataset_card")
    assert code == 1 and message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("push", [push_metric, push_checkpoint, push_synthetic, push_dataset_card])
def test_a_misspelt_argument_of_a_push_is_refused(push):
    with pytest.raises(TypeError, match="privat"):
        push("a", "org/name", privat=True)
