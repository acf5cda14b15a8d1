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


@pytest.mark.parametrize("name", [str, "{:03}".format, "p\u00e9 {}\0".format])
def test_persons_may_be_strings_which_are_compared_as_they_are(metric, case, name):
    queries, query_ids, gallery, gallery_ids = case
    query_names, gallery_names = ([name(person) for person in ids.tolist()] for ids in (query_ids, gallery_ids))
    for rows in torch.arange(40).split(17):
        metric.add_batch(predictions=queries[rows], references=[query_names[row] for row in rows])
    found = metric.compute(gallery_embeddings=gallery, gallery_ids=gallery_names, image_to_text=True)
    assert found == rank_metrics(*case, image_to_text=True)
    # As numbers these would be the same persons.
    with pytest.raises(ValueError, match="40 of 40 queries|query_ids are strings"):
        metric.compute(
            predictions=queries,
            references=query_names,
            gallery_embeddings=gallery,
            gallery_ids=gallery_ids if name is str else [f"0{person}" for person in gallery_names],
        )


def test_queries_may_be_tensors_of_any_kind_or_come_one_by_one(metric, case):
    queries, query_ids, gallery, gallery_ids = case
    expected = rank_metrics(queries.bfloat16(), *case[1:])
    rows = [row.bfloat16().requires_grad_() for row in queries]
    assert expected == metric.compute(
        predictions=rows, references=list(query_ids), gallery_embeddings=gallery, gallery_ids=gallery_ids
    )
    for row, person in zip(rows, query_ids.tolist(), strict=True):
        metric.add(prediction=row, reference=person)
    assert metric.compute(gallery_embeddings=gallery, gallery_ids=gallery_ids) == expected


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        # A cast would make person 1 of it.
        (np.ones((2, 4)), [0, 1.5], r"references must be integers, .* found 1.5 \(float\) in row 1"),
        (np.ones((2, 4)), [0, "1"], r"references must be integers, .* found '1' \(str\) in row 1"),
        (np.ones((2, 4)), ["0", "1"], "references were int64 in earlier batches, here they are string"),
        (np.ones((2, 4)), [0, 2**70], "references beyond 64 bits can't be stored; pass them as strings"),
        (np.ones((2, 4)), [0], r"references must hold one person id per row: expected \[2\], found \[1\]"),
        ([["a"]], [0], "predictions must be one float matrix"),
    ],
)
def test_a_batch_that_a_cast_would_change_is_refused(tmp_path, predictions, references, message):
    metric = PersonRetrieval(cache_dir=str(tmp_path))
    metric.add_batch(predictions=np.ones((2, 4)), references=[0, 1])
    with pytest.raises(ValueError, match=message):
        metric.add_batch(predictions=predictions, references=references)
    # What came before stands.
    assert metric.compute(gallery_embeddings=np.ones((2, 4)), gallery_ids=[0, 1])["mINP"] == 75.0


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
    with pytest.raises(ValueError, match=r"rows of equal length; the batches had \[4, 5\] columns"):
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
