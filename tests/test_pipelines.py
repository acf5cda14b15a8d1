"""transformers' pipelines and trackers take the model as they take CLIP, without the network."""

import json
import math
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CAPTIONS, tiny_retrieval_model
from PIL import Image
from transformers import AutoImageProcessor, pipeline
from transformers.utils import logging

from modeling_amns import AMNSForPersonRetrieval, AMNSModel, AMNSProcessor, make_synthetic_benchmark
from modeling_amns.processing_amns import AMNSImageProcessor

# A run in which opening a connection is an error.
TRACKED = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a connection was opened")
socket.socket.connect = refuse
from modeling_amns import recipe
small = '{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}'
options = ["--data_root", sys.argv[1], "--output_dir", "out", "--image_size", "64", "32", "--vocab_size", "600"]
options += ["--vision_config", small, "--text_config", small, "--projection_dim", "16", "--use_cpu", "true"]
options += ["--num_train_epochs", "1", "--per_device_train_batch_size", "8", "--logging_steps", "1"]
options += ["--keep_ratio", "1", "--report_to", "trackio", "--project", "people"]
recipe.run(*recipe.parse_arguments(options))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, processor):
    """A training checkpoint as a run leaves it, with its processor."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = tiny_retrieval_model(processor, num_identities=5)
    model.amns.logit_scale.data.fill_(2.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def people():
    return [
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (90, 40 + index, 3), dtype=np.uint8))
        for index in range(3)
    ]


def test_zero_shot_image_classification_gives_our_logits(checkpoint, people, caplog):
    logging.enable_propagation()
    try:
        classify = pipeline("zero-shot-image-classification", model=str(checkpoint))
        labels = [*CAPTIONS, "a <|endoftext|> man"]
        answers = classify(people, candidate_labels=labels, hypothesis_template="{}")
    finally:
        logging.disable_propagation()
    assert type(classify.model) is AMNSModel and "not supported" not in caplog.text
    model, processor = AMNSModel.from_pretrained(checkpoint).eval(), AMNSProcessor.from_pretrained(checkpoint)
    with torch.no_grad():
        logits = model(**processor(text=labels, images=people, return_tensors="pt")).logits_per_image
    assert len(answers) == len(people)
    for answer, expected in zip(answers, logits.log_softmax(dim=-1)):
        scores = {entry["label"]: math.log(entry["score"]) for entry in answer}
        assert [scores[label] for label in labels] == pytest.approx(expected.tolist(), abs=1e-4)
        assert max(scores.values()) - min(scores.values()) > 0.1


def test_pipelines_make_the_pixels_of_the_processor(checkpoint, processor, tmp_path):
    """Where transformers' own image processor differs: it paints what a file calls transparent white."""
    Image.new("RGB", (20, 40), (60, 60, 60)).save(tmp_path / "a.png", transparency=(60, 60, 60))
    extract = pipeline("image-feature-extraction", model=str(checkpoint))
    assert type(extract.image_processor) is AMNSImageProcessor
    with Image.open(tmp_path / "a.png") as image:
        assert "transparency" in image.info
        want = processor(images=image, return_tensors="pt").pixel_values
    for image in (str(tmp_path / "a.png"), Image.open(tmp_path / "a.png")):
        assert torch.equal(extract.preprocess(image)["pixel_values"], want)
    for backend in ("pil", "torchvision"):
        assert type(AutoImageProcessor.from_pretrained(checkpoint, backend=backend)) is AMNSImageProcessor


def test_image_feature_extraction_gives_our_embeddings(checkpoint, people):
    extract = pipeline("image-feature-extraction", model=str(checkpoint))
    got = torch.cat([extract(image, return_tensors=True) for image in people])
    model, processor = AMNSModel.from_pretrained(checkpoint).eval(), AMNSProcessor.from_pretrained(checkpoint)
    with torch.no_grad():
        features = model.get_image_features(**processor(images=people, return_tensors="pt")).pooler_output
    assert (got - torch.nn.functional.normalize(features, dim=-1)).abs().max() < 1e-5
    hidden = pipeline("image-feature-extraction", model=model.vision_model, image_processor=processor.image_processor)(
        people[0], return_tensors=True
    )
    assert hidden.shape == (1, 1 + 32, 32)


def test_one_modality_alone_gives_its_embeddings_and_no_logits(checkpoint, people):
    model, processor = AMNSModel.from_pretrained(checkpoint).eval(), AMNSProcessor.from_pretrained(checkpoint)
    inputs = processor(text=CAPTIONS, images=people, return_tensors="pt")
    pixels = {"pixel_values": inputs.pop("pixel_values")}
    with torch.no_grad():
        both, image, text = model(**inputs, **pixels), model(**pixels), model(**inputs)
    assert torch.equal(image.image_embeds, both.image_embeds) and torch.equal(text.text_embeds, both.text_embeds)
    assert set(image.keys()) == {"image_embeds", "vision_model_output"}
    assert set(text.keys()) == {"text_embeds", "text_model_output"}
    with pytest.raises(ValueError, match="needs pixel_values or input_ids"):
        model()
    with pytest.raises(ValueError, match="both of them for return_loss"):
        model(**pixels, return_loss=True)
    with pytest.raises(ValueError, match="embeds pairs"):
        AMNSForPersonRetrieval.from_pretrained(checkpoint)(**pixels)


def test_trackio_records_a_run_without_the_network(tmp_path):
    pytest.importorskip("trackio")
    sizes = {"train_identities": 8, "val_identities": 3, "test_identities": 3, "images_per_identity": 2}
    make_synthetic_benchmark(tmp_path / "data", **sizes, image_size=(64, 32), num_workers=1)
    root = str(Path(__file__).parents[1])
    env = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": root}
    command = [sys.executable, "-c", TRACKED, str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    with sqlite3.connect(tmp_path / "trackio" / "people.db") as database:
        entries = database.execute("SELECT run_name, metrics FROM metrics ORDER BY step, id").fetchall()
    rows = [json.loads(row) for _, row in entries]
    assert sum("train/loss_bsdm" in row for row in rows) == 4
    assert any("eval/rank1" in row for row in rows) and any("test/rank1" in row for row in rows)
    # One run, the figures on test in it too.
    assert len({name for name, _ in entries}) == 1 and entries[0][0].startswith("out ")
