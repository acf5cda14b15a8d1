"""Samplers: deterministic per seed and epoch, no pair lost or doubled, also over processes and when resumed."""

from collections import Counter

import pytest
from accelerate import skip_first_batches
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader

from modeling_amns.data.sampler import IdentitySampler, PairKey, RandomPairSampler

PERSONS = [0] * 5 + [1] * 2 + [2] * 9 + [3] + [4] * 7


def samplers():
    return [RandomPairSampler(len(PERSONS), seed=3), IdentitySampler(PERSONS, 2, seed=3)]


@pytest.mark.parametrize("kind", [0, 1])
def test_an_epoch_repeats_with_its_seed_and_differs_from_the_next(kind):
    first, second = samplers()[kind], samplers()[kind]
    assert list(first) == list(second) and len(list(first)) == len(first)
    second.set_epoch(1)
    rows = [key.row for key in first]
    assert [key.row for key in second] != rows
    assert all(key.epoch == 1 for key in second)


def test_the_random_sampler_gives_every_pair_once():
    assert sorted(key.row for key in RandomPairSampler(23, seed=1)) == list(range(23))


@pytest.mark.parametrize("count", [3, 8, 1003])
def test_grouping_by_length_gives_every_pair_once_in_batches_of_like_length(count):
    lengths = [(37 * row) % 101 for row in range(count)]
    sampler = RandomPairSampler(count, seed=1, lengths=lengths, batch_size=8)
    rows = [key.row for key in sampler]
    assert sorted(rows) == list(range(count)) and rows == [key.row for key in sampler]
    sampler.set_epoch(1)
    batches = [frozenset(rows[start : start + 8]) for start in range(0, count, 8)]
    if count < 100:
        return
    again = [key.row for key in sampler]
    assert not set(batches) & {frozenset(again[start : start + 8]) for start in range(0, count, 8)}
    spread = [max(lengths[row] for row in batch) - min(lengths[row] for row in batch) for batch in batches[:-1]]
    assert sum(spread) / len(spread) < 8
    # Neighbouring batches are not sorted among themselves.
    means = [sum(lengths[row] for row in batch) / len(batch) for batch in batches]
    assert sum(one < other for one, other in zip(means, means[1:])) < 0.7 * len(means)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_pairs_without_overlap_and_get_equally_many_batches(processes):
    dealt = []
    for process in range(processes):
        batches = BatchSampler(RandomPairSampler(len(PERSONS), seed=3), 4, drop_last=True)
        dealt.append(list(BatchSamplerShard(batches, processes, process)))
    assert len({len(batches) for batches in dealt}) == 1
    rows = [key.row for batches in dealt for batch in batches for key in batch]
    assert len(rows) == len(set(rows)) and len(rows) == len(PERSONS) // (4 * processes) * 4 * processes


@pytest.mark.parametrize("processes", [1, 2])
def test_every_batch_of_the_identity_sampler_holds_persons_times_instances(processes):
    for process in range(processes):
        batches = BatchSampler(IdentitySampler(PERSONS, 2, seed=3), 4, drop_last=True)
        for batch in BatchSamplerShard(batches, processes, process):
            for first, second in zip(batch[::2], batch[1::2]):
                assert PERSONS[first.row] == PERSONS[second.row]


def test_a_persons_pairs_are_used_up_before_one_repeats():
    keys = list(IdentitySampler(PERSONS, 3, seed=0))
    for person, size in Counter(PERSONS).items():
        counts = Counter(key.row for key in keys if PERSONS[key.row] == person)
        assert (
            max(counts.values()) - min(counts.get(row, 0) for row in range(len(PERSONS)) if PERSONS[row] == person)
            <= 1
        )
        assert sum(counts.values()) == 6, size


def test_a_repeated_pair_is_drawn_with_another_key():
    keys = list(IdentitySampler([0], 4, seed=0))
    assert keys == [PairKey(0, 0, repeat) for repeat in range(4)]


def test_no_instances_are_an_error():
    with pytest.raises(ValueError, match="instances_per_identity must be at least 1"):
        IdentitySampler(PERSONS, 0)


class Rows:
    def __len__(self):
        return len(PERSONS)

    def __getitem__(self, key):
        return key.row


@pytest.mark.parametrize("kind", [0, 1])
def test_a_resumed_epoch_goes_on_where_it_stopped(kind):
    whole = list(DataLoader(Rows(), batch_size=4, sampler=samplers()[kind], drop_last=True, collate_fn=list))
    loader = DataLoader(Rows(), batch_size=4, sampler=samplers()[kind], drop_last=True, collate_fn=list)
    assert list(skip_first_batches(loader, 2)) == whole[2:]
