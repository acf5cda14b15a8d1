"""Push and pull by the real client against a Hub on loopback; each program is a process of its own, as a user's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny_retrieval_model
from hub_double import TOKEN, HubDouble
from PIL import Image

from modeling_amns import make_synthetic_benchmark
from modeling_amns.hub import push_metric, stage_checkpoint

ROOT = Path(__file__).parents[1]
CODE = {"configuration_amns.py", "modeling_amns.py", "processing_amns.py", "vision_amns.py"}
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
    run = {"benchmark": "synthetic-pedes", "noise_rate": 0.2, "losses": {"bsdm": 1.0}, "best": FIGURES}
    run |= {"last": FIGURES, "selected_on": "val rank1", "dropped_pairs": {"train": 0, "test": 0}}
    (folder / "results.json").write_text(json.dumps(run))
    Image.new("RGB", (9, 9)).save(folder / "ranks.png")
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth", "teacher.safetensors", "trainer_state.json"):
        (folder / name).write_bytes(b"secret " + str(folder).encode())
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "optimizer.pt").write_bytes(b"secret")
    return folder


def run(hub, home, program, *arguments, token=TOKEN, **environment) -> subprocess.CompletedProcess:
    """A Python program (text), or a script of the package (path), with this Hub and an empty cache at `home`."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    variables |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    variables |= {"HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **environment}
    if token:
        variables["HF_TOKEN"] = token
    command = [str(program)] if isinstance(program, Path) else ["-c", program]
    command = [sys.executable, *command, *map(str, arguments)]
    return subprocess.run(command, env=variables, cwd=home, capture_output=True, text=True, timeout=300)


def push(hub, home, checkpoint, *options, **environment) -> subprocess.CompletedProcess:
    return run(hub, home, ROOT / "scripts" / "push_to_hub.py", checkpoint, "org/name", *options, **environment)


PULL = """
import sys, torch
from PIL import Image
import transformers
if sys.argv[1] == "package":
    import modeling_amns
options = {} if sys.argv[1] == "package" else {"trust_remote_code": True}
if len(sys.argv) > 3:
    options["revision"] = sys.argv[3]
model = transformers.AutoModel.from_pretrained("org/name", **options).eval()
processor = transformers.AutoProcessor.from_pretrained("org/name", **options)
inputs = processor(text=["a man in a red coat"], images=[Image.new("RGB", (40, 90), "red")], return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
torch.save([outputs.image_embeds, outputs.text_embeds], sys.argv[2])
"""
# In front of PULL: a process in which the package cannot be imported.
REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "modeling_amns":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
"""


def test_push_and_pull_by_id_with_and_without_the_package_pinned_and_offline(hub, tmp_path, checkpoint, processor):
    import torch

    done = push(hub, tmp_path, checkpoint)
    assert done.returncode == 0, done.stderr[-3000:]
    files = hub.files("org/name")
    card = {"README.md", "results.json", "ranks.png"}
    tokens = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert set(files) == CODE | card | tokens | {"config.json", "model.safetensors"}
    for name, content in files.items():
        assert b"secret" not in content and str(checkpoint.parent).encode() not in content, name
    assert "12.34" in files["README.md"].decode() and b"classifier" not in files["model.safetensors"][:4000]
    first = hub.repos["models", "org/name"].commits[-1][0]
    with torch.no_grad():
        from modeling_amns import AMNSModel

        inputs = processor(
            text=["a man in a red coat"], images=[Image.new("RGB", (40, 90), "red")], return_tensors="pt"
        )
        outputs = AMNSModel.from_pretrained(checkpoint).eval()(**inputs)
    for number, (how, program, options) in enumerate(
        [("package", PULL, []), ("code", REFUSE + PULL, []), ("package", PULL, [first])]
    ):
        home = tmp_path / str(number)
        home.mkdir()
        done = run(hub, home, program, how, home / "out.pt", *options)
        assert done.returncode == 0, done.stderr[-3000:]
        image, text = torch.load(home / "out.pt")
        assert torch.allclose(image, outputs.image_embeds, atol=1e-6)
        assert torch.allclose(text, outputs.text_embeds, atol=1e-6)
    asked = len(hub.log)
    done = run(hub, tmp_path / "0", PULL, "package", tmp_path / "0" / "offline.pt", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(hub.log) == asked


def test_a_second_push_sends_only_what_changed(hub, tmp_path, checkpoint):
    assert push(hub, tmp_path, checkpoint).returncode == 0
    uploads = len(hub.uploads)
    done = push(hub, tmp_path, checkpoint, "--license", "mit")
    assert done.returncode == 0, done.stderr[-2000:]
    assert hub.committed[-1] == ["README.md"] and len(hub.uploads) == uploads
    assert len(hub.committed) == 2


def test_an_upload_that_broke_off_goes_on_where_it_stopped(hub, tmp_path, checkpoint):
    hub.fail_uploads = 1
    done = push(hub, tmp_path, checkpoint)
    assert done.returncode == 1 and "403" in done.stderr and not hub.committed
    arrived = list(hub.uploads)
    assert push(hub, tmp_path, checkpoint).returncode == 0
    # Two files travel by LFS (weights, picture): what had arrived is not sent again.
    assert len(hub.uploads) == 2 and hub.uploads[: len(arrived)] == arrived
    assert "model.safetensors" in hub.files("org/name")


def test_a_private_repository_a_wrong_token_and_a_missing_one_give_the_clients_errors(hub, tmp_path, checkpoint):
    assert push(hub, tmp_path, checkpoint, "--private").returncode == 0
    assert hub.repos["models", "org/name"].private
    wrong = push(hub, tmp_path, checkpoint, token="hf_wrong")
    assert wrong.returncode == 1 and "401" in wrong.stderr and "Traceback" not in wrong.stderr
    none = push(hub, tmp_path, checkpoint, token=None)
    assert none.returncode == 1 and "401" in none.stderr and "Traceback" not in none.stderr
    program = "from modeling_amns import AMNSModel\nAMNSModel.from_pretrained('org/nowhere')"
    missing = run(hub, tmp_path, program)
    assert missing.returncode == 1 and "org/nowhere is not a local folder and is not a valid model" in missing.stderr


def test_a_dry_run_lists_files_and_card_and_sends_nothing(hub, tmp_path, checkpoint):
    done = push(hub, tmp_path, checkpoint, "--dry-run")
    assert done.returncode == 0 and not hub.log
    assert "model.safetensors" in done.stdout and "12.34" in done.stdout and "optimizer" not in done.stdout


@pytest.mark.parametrize(
    "folder, repo_id, message",
    [
        ("nowhere", "org/name", "There is no folder"),
        ("empty", "org/name", "lacks config.json, processor_config.json"),
        (None, "name", "is no id of the form ORG/NAME"),
        (None, "org/na me", "is no id of the Hub"),
    ],
)
def test_bad_input_is_named(tmp_path, checkpoint, folder, repo_id, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        stage_checkpoint(tmp_path / folder if folder else checkpoint, repo_id, tmp_path)


TRAIN = """
import sys
from pathlib import Path
from training_run import make_trainer
strategy = sys.argv[2]
trainer = make_trainer(
    Path(sys.argv[1]), push_to_hub=True, hub_model_id="org/name", hub_strategy=strategy, save_strategy="steps",
    save_steps=2, max_steps=4, per_device_train_batch_size=8,
)
trainer.train()
print(trainer.push_to_hub("done").oid)
"""


@pytest.mark.parametrize("strategy, commits", [("end", 1), ("every_save", 3)])
def test_a_trainer_pushes_at_the_end_or_with_every_checkpoint(hub, tmp_path, strategy, commits):
    done = run(hub, tmp_path, TRAIN, tmp_path, strategy)
    assert done.returncode == 0, done.stderr[-3000:]
    files = hub.files("org/name")
    weights = [changed for changed in hub.committed if "model.safetensors" in changed]
    # The last push finds the weights of the last checkpoint there already.
    assert len(weights) == max(1, commits - 1)
    assert done.stdout.split()[-1] == hub.repos["models", "org/name"].commits[-1][0]
    assert {"README.md", "model.safetensors", "modeling_amns.py"} <= set(files)
    assert not [name for name in files if "optimizer" in name or "training_args" in name or "checkpoint" in name]


def test_strategies_that_would_upload_optimizer_states_are_refused(hub, tmp_path):
    done = run(hub, tmp_path, TRAIN, tmp_path, "checkpoint")
    assert done.returncode == 1
    assert "hub_strategy checkpoint would upload optimizer and teacher" in done.stderr


def test_model_and_processor_push_themselves(hub, tmp_path, checkpoint):
    program = """
import sys
from modeling_amns import AMNSForPersonRetrieval, AMNSProcessor
AMNSForPersonRetrieval.from_pretrained(sys.argv[1]).push_to_hub("org/name")
AMNSProcessor.from_pretrained(sys.argv[1]).push_to_hub("org/name")
"""
    done = run(hub, tmp_path, program, checkpoint)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(hub.files("org/name")) >= CODE | {"config.json", "model.safetensors", "tokenizer.json"}
    done = run(hub, tmp_path, REFUSE + PULL, "code", tmp_path / "out.pt")
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_metric_is_pushed_as_a_space_with_its_module(hub, tmp_path):
    program = "import sys\nfrom modeling_amns.hub import push_metric\npush_metric('org/person_retrieval')"
    done = run(hub, tmp_path, program)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"person_retrieval.py", "ranking.py", "README.md"} <= set(hub.files("org/person_retrieval", "spaces"))
    with pytest.raises(ValueError, match="push to ORG/person_retrieval"):
        push_metric("org/metric")


def test_the_synthetic_benchmark_is_pushed_with_its_images_and_counts(hub, tmp_path):
    sizes = {"train_identities": 3, "val_identities": 1, "test_identities": 2, "images_per_identity": 2}
    make_synthetic_benchmark(tmp_path / "data", **sizes, image_size=(64, 24), num_workers=1)
    program = """
import sys
from modeling_amns.hub import push_synthetic
push_synthetic(sys.argv[1], "org/synthetic-pedes")
"""
    done = run(hub, tmp_path, program, tmp_path / "data")
    assert done.returncode == 0, done.stderr[-3000:]
    files = hub.files("org/synthetic-pedes", "datasets")
    assert len([name for name in files if name.endswith(".parquet")]) == 3
    text = files["README.md"].decode()
    assert "| train | 12 | 6 | 3 |" in text and "| test | 8 | 4 | 2 |" in text
    assert "dtype: image" in text and "pretty_name: synthetic-pedes" in text
    pulled = """
import datasets
data = datasets.load_dataset("org/synthetic-pedes", split="test")
print(data.num_rows, data[0]["image"].size, data[0]["caption"])
"""
    done = run(hub, tmp_path, pulled, HF_DATASETS_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0 and done.stdout.startswith("8 (24, 64) "), done.stderr[-3000:]
