"""A run that goes on from any of its steps sees the batches and leaves the bits of one that was never stopped."""

from pathlib import Path
from unittest import mock

import datasets
import pytest
from test_distributed import launch
from training_run import PAIRS, Diary, make_trainer, walk

from modeling_amns import AMNSTrainer

WAYS = {
    "random order, random masks, dropout, doubtful pairs": {
        "mask_score": "random",
        "dropout": 0.1,
        "pair_weighting": "mixture",
        "start": True,
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
    # 22 pairs: the last batch of a pass is completed with pairs of its first one, or cut.
    "streamed in order, read on": {"shards": 4, "in_order": True, "num_pairs": 22, "max_steps": 9, "dropout": 0.1},
    "streamed and mixed in blocks": {
        "shards": 4,
        "in_order": True,
        "stream_shuffle_block": 7,
        "num_pairs": 22,
        "max_steps": 9,
    },
    "streamed in order to workers": {
        "shards": 4,
        "in_order": True,
        "stream_shuffle_block": 5,
        "max_steps": 9,
        "per_device_train_batch_size": 4,
        "dataloader_num_workers": 2,
        "gradient_accumulation_steps": 2,
    },
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
    # Workers take seconds to start: places inside a block, at its end and after a step of two batches are enough.
    some = [3, 4, 7] if "workers" in way else None
    found = walk(tmp_path, some, **WAYS[way])
    assert found["wrong"] == [] and found["weighed"] == ("doubtful" in way)
    total = max(found["seen"])
    at = [3, 9] if "best" in way else some or list(range(1, total))
    assert total >= 9 and found["resumes"] == at and found["steps"] == sum(total - step for step in at)
    # The test would not tell epochs apart if they were drawn alike.
    assert found["seen"][1] != found["seen"][4] or "shards" in WAYS[way]


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_go_on_from_steps_of_every_epoch(tmp_path, processes):
    """All ways in one group of processes; a batch of all processes has the pairs of the one process above."""
    walks = {}
    # Two workers of each of four processes would be twelve processes.
    ways = {way: options for way, options in WAYS.items() if processes == 2 or "workers" not in way}
    for way, options in ways.items():
        size = options.get("per_device_train_batch_size", 8) // processes
        walks[way] = {**options, "per_device_train_batch_size": size, "only": [3, 9] if "best" in way else [4, 6]}
        if "gradient_cache_chunk_size" in options:
            walks[way]["gradient_cache_chunk_size"] = size // 2
    found = launch(tmp_path, processes, walks=walks)
    for way in ways:
        total = max(found[way]["seen"])
        assert found[way]["wrong"] == [] and found[way]["weighed"] == ("doubtful" in way), way
        assert found[way]["resumes"] == walks[way]["only"]
        assert found[way]["steps"] == sum(total - step for step in walks[way]["only"]) > 0


def counted_rows(shard: list[tuple[int, int]], folder: str, log: str):
    """Pairs of a shard [(first, end)]; each one that is read leaves a line in a file."""
    for first, end in shard:
        for number in range(first, end):
            with open(log, "a") as file:
                file.write(f"{number}\n")
            path = f"{folder}/{number % PAIRS}.png"
            image = {"bytes": None, "path": path}
            yield {"image": image, "caption": f"image {number}", "person_id": number % 8, "image_path": path}


def over_a_stream(folder: Path, name: str, workers: int, log: Path) -> AMNSTrainer:
    options = {"max_steps": 12, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 20}
    trainer = make_trainer(
        folder,
        shards=1,
        output_dir=str(folder / name),
        dataloader_num_workers=workers,
        dataloader_prefetch_factor=2 if workers else None,
        **options,
    )
    kwargs = {"shard": [(first, first + 25) for first in range(0, 300, 25)], "folder": str(folder), "log": str(log)}
    trainer.train_dataset.dataset = datasets.IterableDataset.from_generator(counted_rows, gen_kwargs=kwargs)
    return trainer


@pytest.mark.parametrize("workers", [0, 2])
@mock.patch("modeling_amns.data.streamed.BLOCK", 10)
def test_what_was_seen_of_a_stream_is_not_read_again(tmp_path, workers):
    """At step 10 of 12, 200 pairs were seen: those of at most a block and of the shard it lies in come again."""
    log = tmp_path / "read"
    whole = over_a_stream(tmp_path, "whole", workers, log)
    diary = Diary(whole)
    whole.add_callback(diary)
    whole.train()
    log.unlink()
    resumed = over_a_stream(tmp_path, "resumed", workers, log)
    pages = Diary(resumed)
    resumed.add_callback(pages)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-10"))
    for step in (11, 12):
        assert pages.steps[step]["batches"] == diary.steps[step]["batches"]
    read = [int(line) for line in log.read_text().split()]
    # The first 16 are compared at the start.
    assert read[:16] == list(range(16))
    assert len(set(read[16:]) & set(range(300))) <= 300 - 200 + (10 + 25) * max(1, workers)
    assert len(read) < 200
