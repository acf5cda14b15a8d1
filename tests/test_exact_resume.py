"""A run that goes on from any of its steps sees the batches and leaves the bits of one that was never stopped."""

import pytest
from test_distributed import launch
from training_run import walk

WAYS = {
    "random order, random masks, dropout, doubtful pairs": {
        "mask_score": "random",
        "dropout": 0.1,
        "pair_weighting": "mixture",
        "pair_weighting_start": 1,
    },
    "grouped by length, accumulation": {
        "train_sampling_strategy": "group_by_length",
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 4,
        "num_pairs": 20,
        "dropout": 0.1,
    },
    "identity sampling, gradient cache": {
        "instances_per_identity": 2,
        "gradient_cache_chunk_size": 4,
        "augment_color_jitter": 0.2,
    },
    "streamed, three passes": {"shards": 2, "max_steps": 9, "dropout": 0.1},
    # Better at steps 3 and 9 than ever before: only there are checkpoints.
    "saved where it was best": {
        "num_train_epochs": 4,
        "eval_strategy": "epoch",
        "save_strategy": "best",
        "metric_for_best_model": "grade",
        "grades": {"3": 1.0, "6": 0.5, "9": 2.0, "12": 1.0},
        "dropout": 0.1,
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_one_process_goes_on_from_every_step_of_three_epochs(tmp_path, way):
    found = walk(tmp_path, **WAYS[way])
    assert found["wrong"] == [] and found["weighed"] == ("doubtful" in way)
    total = max(found["seen"])
    at = [3, 9] if "best" in way else list(range(1, total))
    assert total >= 9 and found["resumes"] == at and found["steps"] == sum(total - step for step in at)
    # The test would not tell epochs apart if they were drawn alike.
    assert found["seen"][1] != found["seen"][4] or "shards" in WAYS[way]


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_go_on_from_steps_of_every_epoch(tmp_path, processes):
    """All ways in one group of processes; a batch of all processes has the pairs of the one process above."""
    walks = {}
    for way, options in WAYS.items():
        size = options.get("per_device_train_batch_size", 8) // processes
        walks[way] = {**options, "per_device_train_batch_size": size, "only": [3, 9] if "best" in way else [4, 6]}
        if "gradient_cache_chunk_size" in options:
            walks[way]["gradient_cache_chunk_size"] = size // 2
    found = launch(tmp_path, processes, walks=walks)
    for way in WAYS:
        total = max(found[way]["seen"])
        assert found[way]["wrong"] == [] and found[way]["weighed"] == ("doubtful" in way), way
        assert found[way]["resumes"] == walks[way]["only"]
        assert found[way]["steps"] == sum(total - step for step in walks[way]["only"]) > 0
