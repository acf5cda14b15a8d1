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
}


@pytest.mark.parametrize("way", WAYS)
def test_one_process_goes_on_from_every_step_of_three_epochs(tmp_path, way):
    found = walk(tmp_path, **WAYS[way])
    assert found["wrong"] == [] and found["weighed"] == ("doubtful" in way)
    total = max(found["seen"])
    assert total >= 9 and found["resumes"] == total - 1 and found["steps"] == total * (total - 1) / 2
    # The test would not tell epochs apart if they were drawn alike.
    assert found["seen"][1] != found["seen"][4] or "shards" in WAYS[way]


@pytest.mark.parametrize("processes, way", [(4 if "masks" in way else 2, way) for way in WAYS])
def test_several_processes_go_on_from_steps_of_every_epoch(tmp_path, processes, way):
    options = dict(WAYS[way])
    size = options.pop("per_device_train_batch_size", 8) // processes
    found = launch(tmp_path, processes, walk=True, only=[4, 6], per_device_train_batch_size=size, **options)
    assert found["wrong"] == [] and found["weighed"] == ("doubtful" in way)
    total = max(found["seen"])
    assert found["resumes"] == 2 and found["steps"] == total - 4 + total - 6
