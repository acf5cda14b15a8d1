"""The `evaluate` module: by path, by class, and in a process that has no modeling_amns."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

from modeling_amns.metrics import PersonRetrieval, rank_metrics

FOLDER = Path(__file__).parent.parent / "modeling_amns" / "metrics" / "person_retrieval"


@pytest.fixture(params=["path", "class"])
def metric(request, tmp_path):
    if request.param == "class":
        return PersonRetrieval(cache_dir=str(tmp_path))
    return evaluate.load(str(FOLDER), cache_dir=str(tmp_path))


@pytest.fixture(scope="module")
def case():
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(40, 16, generator=generator), torch.randn(30, 16, generator=generator)
    return queries, torch.arange(40) % 10, gallery, torch.arange(30) % 10


@pytest.mark.parametrize("image_to_text", [False, True])
def test_module_gives_the_figures_of_the_plain_functions(metric, case, image_to_text):
    queries, query_ids, gallery, gallery_ids = case
    found = metric.compute(
        predictions=queries,
        references=query_ids,
        gallery_embeddings=gallery,
        gallery_ids=gallery_ids,
        image_to_text=image_to_text,
    )
    assert found == rank_metrics(*case, image_to_text)
    assert ("i2t_mAP" in found) == image_to_text
    assert all(type(value) is float for value in found.values())


def test_queries_may_come_in_batches_and_the_metric_is_reusable(metric, case):
    queries, query_ids, gallery, gallery_ids = case
    for _ in range(2):
        for rows in torch.arange(40).split(17):
            metric.add_batch(predictions=queries[rows].numpy(), references=query_ids[rows].tolist())
        found = metric.compute(gallery_embeddings=gallery.numpy(), gallery_ids=gallery_ids.tolist())
        assert found == rank_metrics(*case)


def test_errors_of_the_arithmetic_reach_the_caller(metric, case):
    queries, query_ids, gallery, gallery_ids = case
    with pytest.raises(ValueError, match=r"4 of 40 queries .*query 9 \(person 9\)"):
        metric.compute(
            predictions=queries, references=query_ids, gallery_embeddings=gallery, gallery_ids=gallery_ids % 9
        )


def test_missing_gallery_is_named(tmp_path, case):
    with pytest.raises(ValueError, match="needs gallery_embeddings"):
        PersonRetrieval(cache_dir=str(tmp_path)).compute(predictions=case[0], references=case[1])


def test_batches_of_unequal_width_are_named(tmp_path):
    metric = PersonRetrieval(cache_dir=str(tmp_path))
    metric.add_batch(predictions=np.ones((2, 4)), references=[0, 1])
    metric.add_batch(predictions=np.ones((2, 5)), references=[0, 1])
    with pytest.raises(ValueError, match="query_embeddings must be"):
        metric.compute(gallery_embeddings=np.ones((2, 4)), gallery_ids=[0, 1])


def test_folder_alone_is_a_metric_where_the_package_is_not_installed(tmp_path, case):
    shutil.copytree(FOLDER, tmp_path / "person_retrieval", ignore=shutil.ignore_patterns("__pycache__"))
    np.savez(tmp_path / "case.npz", **dict(zip("abcd", (x.numpy() for x in case), strict=True)))
    code = (
        "import evaluate, json, numpy, sys\n"
        "sys.modules['modeling_amns'] = None\n"
        "case = numpy.load('case.npz')\n"
        "metric = evaluate.load('person_retrieval', cache_dir='cache')\n"
        "print(json.dumps(metric.compute(predictions=case['a'], references=case['b'],"
        " gallery_embeddings=case['c'], gallery_ids=case['d'])))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(result.stdout.splitlines()[-1]) == rank_metrics(*case)
