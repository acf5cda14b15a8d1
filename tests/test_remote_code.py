"""A saved folder in a process that has transformers and torch alone: `trust_remote_code=True` gives equal features."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import CAPTIONS, IMAGE_SIZE, REFUSE_THE_PACKAGE, tiny_retrieval_model
from PIL import Image
from safetensors.torch import load_file

from modeling_amns import AMNSModel

WITHOUT_THE_PACKAGE = (
    REFUSE_THE_PACKAGE
    + """
import json
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor, pipeline
folder, picture, out, caption = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(text=[caption], images=[Image.open(picture)], return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
save_file({"image": outputs.image_embeds, "text": outputs.text_embeds}, out)
classify = pipeline("zero-shot-image-classification", model=folder, trust_remote_code=True)
scores = classify(Image.open(picture), candidate_labels=[caption, "a dog"], hypothesis_template="{}")
print(json.dumps([type(model).__name__, type(processor).__name__, {row["label"]: row["score"] for row in scores}]))
"""
)


@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_works_without_the_package(tmp_path, processor, whole):
    """Of a training checkpoint (`whole`) AutoModel gives the dual encoder, as it does with the package."""
    model = tiny_retrieval_model(processor, num_identities=4).eval()
    (model if whole else model.amns).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    picture = tmp_path / "person.png"
    Image.effect_noise((IMAGE_SIZE[1] + 3, IMAGE_SIZE[0] + 5), 90).convert("RGB").save(picture)
    arguments = [tmp_path / "model", picture, tmp_path / "out.safetensors", CAPTIONS[0]]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, *map(str, arguments)],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    model_class, processor_class, scores = json.loads(done.stdout)
    assert (model_class, processor_class) == ("AMNSModel", "AMNSProcessor")
    labels = [CAPTIONS[0], "a dog"]
    # The pipeline pads as long as the tokenizer allows, which changes no score.
    inputs = processor(text=labels, images=[Image.open(picture)], padding=True, return_tensors="pt")
    with torch.no_grad():
        want = model.amns(**inputs)
    chances = want.logits_per_image.softmax(-1)[0].tolist()
    assert scores == pytest.approx(dict(zip(labels, chances)), abs=1e-5) and abs(chances[0] - chances[1]) > 1e-3
    got = load_file(tmp_path / "out.safetensors")
    assert torch.allclose(got["image"], want.image_embeds, atol=1e-6)
    assert torch.allclose(got["text"], want.text_embeds[:1], atol=1e-6)


def test_with_the_package_its_own_classes_are_used(tmp_path, processor):
    from transformers import AutoModel, AutoProcessor

    tiny_retrieval_model(processor, num_identities=4).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is AMNSModel
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(processor)


def test_a_folder_holds_its_code_and_no_path_of_the_machine(tmp_path, processor):
    tiny_retrieval_model(processor).save_pretrained(tmp_path / "first")
    model = AMNSModel.from_pretrained(tmp_path / "first")
    model.save_pretrained(tmp_path / "second")
    processor.save_pretrained(tmp_path / "second")
    files = {file.name for file in (tmp_path / "second").glob("*.py")}
    names = ("captions", "configuration", "image_modes", "modeling", "pretrained", "processing", "text", "vision")
    shared = ("configuration_base", "configuration_siglip", "families", "outputs", "siglip")
    assert files == {f"{name}_amns.py" for name in names + shared}
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_amns.AMNSConfig",
        "AutoModel": "modeling_amns.AMNSModel",
        "AutoModelForZeroShotImageClassification": "modeling_amns.AMNSModel",
    }
    for file in (tmp_path / "second").glob("*.json"):
        assert str(tmp_path) not in file.read_text()
