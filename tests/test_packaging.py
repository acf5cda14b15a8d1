"""The wheel, built and unpacked beside nothing else of the source."""

import ast
import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import modeling_amns

ROOT = Path(__file__).parents[1]
# What runs from the unpacked wheel alone, in a folder where there is no source.
PROGRAM = """
import contextlib, io, runpy, sys
from pathlib import Path
import evaluate
import psutil  # has a road of its own on each system
# Windows has none: whoever of ours needs it at import fails here.
sys.modules["resource"] = None
import modeling_amns
from modeling_amns import cards, recipe

folder = Path(modeling_amns.__file__).parent
assert folder.parent == Path(sys.argv[1]), folder
for script in sys.argv[2:]:
    sys.argv = [script, "--help"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_module(f"modeling_amns.scripts.{script}", run_name="__main__", alter_sys=True)
    assert "usage:" in printed.getvalue(), script
assert recipe.parse_arguments(["--config", "quickstart", "--output_dir", "out"])[0].benchmark == ["synthetic-pedes"]
for name in ("model_card", "cuhk-pedes", "icfg-pedes", "rstpreid", "synthetic-pedes"):
    assert folder in cards.template(f"{name}.md").parents
metric = evaluate.load(str(folder / "metrics" / "person_retrieval"))
print(metric.compute(predictions=[[1.0, 0.0]], references=[3], gallery_embeddings=[[1.0, 0.0]], gallery_ids=[3]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: building leaves its traces in the source.
    for name in ("modeling_amns", "scripts", "hub_cards"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "README.md"):
        shutil.copy(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w"]
    done = subprocess.run([*command, str(folder), str(folder / "source")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_every_file_that_is_not_a_test(wheel):
    installed = set(zipfile.ZipFile(wheel).namelist())
    for folder, place in (
        ("modeling_amns", "modeling_amns"),
        ("scripts", "modeling_amns/scripts"),
        ("hub_cards", "modeling_amns/hub_cards"),
    ):
        files = [file.relative_to(ROOT / folder) for file in (ROOT / folder).rglob("*") if file.is_file()]
        # Caches of tools are no part of the source.
        files = [file for file in files if not any(part.startswith((".", "__pycache__")) for part in file.parts)]
        wanted = {f"{place}/{file.as_posix()}" for file in files}
        assert wanted and wanted <= installed, sorted(wanted - installed)
    top = {name.split("/")[0] for name in installed}
    assert {name for name in top if not name.endswith(".dist-info")} == {"modeling_amns"}


def test_an_installed_wheel_runs_without_the_source(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    scripts = sorted(file.stem for file in (ROOT / "scripts").glob("*.py") if not file.stem.startswith("benchmark_"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "installed"), *scripts],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "'rank1': 100.0" in done.stdout


def requirements(wheel) -> dict[str, set[str]]:
    """Names of what a wheel requires, by extra; "" for what it always requires."""
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    found: dict[str, set[str]] = {}
    for line in email.message_from_bytes(archive.read(name)).get_all("Requires-Dist"):
        requirement = Requirement(line)
        extra = re.search(r'extra == "([^"]+)"', str(requirement.marker))
        found.setdefault(extra[1] if extra else "", set()).add(requirement.name.lower().replace("_", "-"))
    return found


def test_what_is_imported_is_required(wheel):
    required = requirements(wheel)
    for extra, packages in {
        "demo": {"gradio"},
        "figures": {"matplotlib"},
        "onnx": {"onnx", "onnxscript", "onnxruntime"},
        "peft": {"peft"},
        "qdrant": {"qdrant-client"},
        "search": {"lancedb", "filelock"},
        "sentence-transformers": {"sentence-transformers"},
        "tensorboard": {"tensorboard"},
        "trackio": {"trackio"},
        "video": {"av"},
    }.items():
        assert required[extra] == packages and packages <= required["test"]
    imported = set()
    for file in (*(ROOT / "modeling_amns").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    own = {file.stem for file in (ROOT / "scripts").glob("*.py")} | {"modeling_amns", "amns_onnx"}
    names = {"PIL": "pillow", "yaml": "pyyaml"}
    imported = {names.get(name, name).lower().replace("_", "-") for name in imported - own - sys.stdlib_module_names}
    # datasets is made of these two and requires them itself; cards are rendered by huggingface_hub with jinja2.
    assert imported - {"pyarrow", "tqdm"} <= set.union(*required.values()), imported
    assert {"torch", "jinja2"} <= required[""]


def test_the_version_is_the_same_wherever_it_stands():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == modeling_amns.__version__
    assert citation["preferred-citation"]["title"] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_checks_before_a_commit_are_those_of_the_test_command():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = readme.partition("<!-- test command -->")[2].partition("<!-- end -->")[0]
    assert {tool for tool in ("ruff check", "ruff format", "mypy") if f"&& {tool}" in command} == {
        hook["name"] for hook in hooks
    }
