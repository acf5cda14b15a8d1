"""The folder for sentence-transformers: equal to our features, with the package and without it."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import CAPTIONS, REFUSE_THE_PACKAGE, tiny_retrieval_model
from PIL import Image

from modeling_amns import AMNSModel
from modeling_amns.export import export_sentence_transformer

sentence_transformers = pytest.importorskip("sentence_transformers")

SENTENCES = [*CAPTIONS, "word " * 200, "a <|endoftext|> man", "&amp;amp; é 你好", ""]

WITHOUT_THE_PACKAGE = (
    REFUSE_THE_PACKAGE
    + """
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer
folder = sys.argv[1]
model = SentenceTransformer(folder, device="cpu", trust_remote_code=True)
text, image = model.encode(["a man in a red coat"]), model.encode([Image.open(sys.argv[2])])
np.savez("got.npz", text=text, image=image)
assert not any(name.split(".")[0] == "modeling_amns" for name in sys.modules)
"""
)


def people(count):
    """Noise of several sizes and modes, and a 16-bit grey."""
    images = [
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (90, 40 + index, 3), dtype=np.uint8))
        for index in range(count)
    ]
    images[1] = images[1].convert("RGBA")
    return [*images, Image.fromarray(np.random.default_rng(9).integers(0, 65536, (90, 50), dtype=np.uint16))]


@torch.no_grad()
def want(model, processor, **inputs):
    """L2-normalised features by our own methods."""
    features = model.get_image_features if "images" in inputs else model.get_text_features
    outputs = features(**processor(**inputs, return_tensors="pt")).pooler_output
    return torch.nn.functional.normalize(outputs, dim=-1).numpy()


@pytest.fixture(scope="module")
def exported(tmp_path_factory, processor):
    """The folder of a training checkpoint, with a classifier, and our own model of it."""
    start, folder = tmp_path_factory.mktemp("start"), tmp_path_factory.mktemp("exported")
    tiny_retrieval_model(processor, num_identities=5).save_pretrained(start)
    processor.save_pretrained(start)
    export_sentence_transformer(start, folder)
    return folder, AMNSModel.from_pretrained(start).eval()


def test_sentences_and_images_equal_our_features(exported, processor):
    folder, model = exported
    encoder = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    texts, images = encoder.encode(SENTENCES), encoder.encode(people(3))
    assert np.abs(texts - want(model, processor, text=SENTENCES)).max() < 1e-5
    assert np.abs(images - want(model, processor, images=people(3))).max() < 1e-5
    assert texts.shape == (7, 16) and images.shape == (4, 16)
    assert np.abs(np.linalg.norm(np.concatenate([texts, images]), axis=1) - 1).max() < 1e-5
    similarity = encoder.similarity(texts, images)
    assert np.abs(similarity.numpy() - texts @ images.T).max() < 1e-5 and np.ptp(images, axis=0).max() > 1e-4


def test_it_works_without_our_package_when_its_code_is_trusted(exported, processor, tmp_path):
    folder, model = exported
    image = Image.linear_gradient("L").convert("RGB")
    image.save(tmp_path / "person.png")
    command = [sys.executable, "-c", WITHOUT_THE_PACKAGE, str(folder), str(tmp_path / "person.png")]
    env = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    got = np.load(tmp_path / "got.npz")
    assert np.abs(got["text"] - want(model, processor, text=["a man in a red coat"])).max() < 1e-5
    assert np.abs(got["image"] - want(model, processor, images=[image])).max() < 1e-5


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r'pip install "modeling_amns\[sentence-transformers\]"'):
        export_sentence_transformer(tmp_path, tmp_path / "out")
