"""Samplers on drawn data: every pair once, persons in runs of K, batches of like length, fixed by seed and epoch."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from modeling_amns.data.sampler import IdentitySampler, RandomPairSampler

SEEDS = st.integers(0, 2**31 - 1)
PERSONS = st.lists(st.integers(0, 6).map(lambda person: 11 * person), min_size=1, max_size=40)


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert len(keys) == len(sampler) and all(key.epoch == epoch for key in keys)
    return keys


@given(st.integers(1, 60), SEEDS, st.integers(0, 5))
def test_the_random_sampler_gives_every_pair_once_and_repeats_by_seed_and_epoch(pairs, seed, epoch):
    first = epoch_of(RandomPairSampler(pairs, seed), epoch)
    other = RandomPairSampler(pairs, seed)
    for earlier in range(epoch):
        epoch_of(other, earlier)
    # Which epochs were drawn before, whole or in part, does not matter.
    next(iter(other))
    assert epoch_of(other, epoch) == first
    assert sorted(key.row for key in first) == list(range(pairs)) and not any(key.repeat for key in first)


class Narrow(RandomPairSampler):
    """Sorts within three batches instead of fifty, so that a few pairs are several runs."""

    GROUPED_BATCHES = 3


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 7), SEEDS, st.integers(0, 3))
def test_grouping_cuts_sorted_runs_into_full_batches_and_leaves_the_rest_as_drawn(lengths, size, seed, epoch):
    grouped = [key.row for key in epoch_of(Narrow(len(lengths), seed, lengths, size), epoch)]
    plain = [key.row for key in epoch_of(RandomPairSampler(len(lengths), seed), epoch)]
    full, reach = len(lengths) // size * size, 3 * size
    assert sorted(grouped) == list(range(len(lengths))) and grouped[full:] == plain[full:]
    batches = [frozenset(grouped[start : start + size]) for start in range(0, full, size)]
    for start in range(0, full, reach):
        run = set(plain[start : min(start + reach, full)])
        inside = sorted(sorted(lengths[row] for row in batch) for batch in batches if batch <= run)
        # Batch for batch they are the sorted run: none holds lengths from both sides of another's.
        assert sum(inside, []) == sorted(lengths[row] for row in run)


@given(PERSONS, st.integers(1, 5), SEEDS, st.integers(0, 3))
def test_the_identity_sampler_gives_rounds_of_k_pairs_of_each_person(persons, instances, seed, epoch):
    sampler = IdentitySampler(persons, instances, seed)
    keys = epoch_of(sampler, epoch)
    assert keys == epoch_of(IdentitySampler(persons, instances, seed), epoch)
    of_each = Counter(persons)
    round_length = instances * len(of_each)
    rounds, rest = divmod(len(keys), round_length)
    assert rounds >= 1 and rest == 0
    # No other number of rounds is closer to one pass.
    assert all(
        abs(len(keys) - len(persons)) <= abs(r * round_length - len(persons)) for r in (rounds + 1, rounds - 1) if r
    )
    for start in range(0, len(keys), round_length):
        runs = [keys[at : at + instances] for at in range(start, start + round_length, instances)]
        shown = [{persons[key.row] for key in run} for run in runs]
        assert all(len(run) == 1 for run in shown) and set().union(*shown) == set(of_each)
        assert len({next(iter(run)) for run in shown}) == len(runs)
    drawn = Counter()
    for key in keys:
        # All of a person's pairs before one comes again, and each time under another key.
        person = persons[key.row]
        least = min(drawn[row] for row, other in enumerate(persons) if other == person)
        assert key.repeat == drawn[key.row] == least
        drawn[key.row] += 1
    assert len(set(keys)) == len(keys)
