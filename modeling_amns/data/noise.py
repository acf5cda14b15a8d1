"""Wrong pairs on purpose: captions moved among training pairs, by rate and seed or by a published index file."""

import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow.compute as pc
from transformers.utils import logging

from .records import TRUTH

_MOVED = re.compile(r"^moved_captions: (\d+)$", re.MULTILINE)
logger = logging.get_logger(__name__)

# Partners tried at once before all are looked at.
_TRIALS = 32


def inject_noise(
    dataset: datasets.Dataset, rate: float, seed: int = 0, index_file: str | Path | None = None
) -> datasets.Dataset:
    """Moves the captions of a random share of the pairs among themselves; images and person ids stay.

    Exactly `round(rate * pairs)` captions move (of one alone, none: it has nowhere to go). None goes to a pair of the
    same person unless that is unavoidable, which is so only where more than half of the moved pairs show one person;
    the log says how often it happened.

    Args:
        dataset: training pairs with `caption` and `person_id`.
        rate: share of the pairs, in [0, 1). With an index file it may be 0; any other rate must be the file's, to half
            a percent.
        seed: same data, rate and seed, same result.
        index_file: a `.npy` permutation, int64, one entry for each pair: row i gets the caption of row index[i]. The
            authors of RDE published one for each benchmark and rate; they fit the whole train split in the order of
            the annotation file.
    Returns:
        the data set with moved captions and the column `is_clean`, True where the caption stayed, unless the data set
        has the column and calls it wrong. Images are not read.
    Raises:
        ValueError: the rate is outside its range, the data set is streamed, lacks a column or was already made noisy,
            or the index file does not fit.
        FileNotFoundError: there is no such index file.
    Source: noise protocol of RDE (CVPR 2024, arXiv 2308.09911).

    Example:

        >>> pairs = datasets.Dataset.from_dict({"caption": list("abcd"), "person_id": [0, 1, 2, 3]})
        >>> noisy = inject_noise(pairs, rate=0.5)
        >>> noisy["is_clean"][:].count(True), sorted(noisy["caption"][:])
        (2, ['a', 'b', 'c', 'd'])
    """
    _check_dataset(dataset)
    if not 0 <= rate < 1:
        raise ValueError(f"noise_rate must lie in [0, 1), found {rate}.")
    pairs = len(dataset)
    persons = np.asarray(dataset.with_format("numpy")["person_id"][:])
    if index_file is not None:
        index = read_index(index_file, pairs)
        share = float(np.mean(index != np.arange(pairs)))
        if rate and abs(share - rate) > 0.005:
            raise ValueError(
                f"{index_file} moves {share:.4f} of the captions, noise_rate asks for {rate}; leave it at 0."
            )
    else:
        index = shuffle_persons(persons, round(rate * pairs), np.random.default_rng(seed))
    clean = index == np.arange(pairs)
    same = int(np.count_nonzero((persons[index] == persons) & ~clean))
    if same:
        logger.warning(f"{same:,} of {pairs - clean.sum():,} moved captions went to a pair of the same person.")
    captions = pc.take(dataset.with_format("arrow")["caption"][:], index)
    noisy = dataset.remove_columns("caption").add_column(
        "caption", captions.to_pylist(), feature=dataset.features["caption"]
    )
    right = clean
    if TRUTH in noisy.column_names:
        # A caption that is partly wrong is no better anywhere else.
        right = clean & np.asarray(noisy[TRUTH][:], bool)
        noisy = noisy.remove_columns(TRUTH)
    noisy = noisy.add_column(TRUTH, right)
    noisy.info.description = f"{noisy.info.description}\nmoved_captions: {(~clean).sum()}"
    return noisy


def moved_captions(dataset: datasets.Dataset) -> int | None:
    """How many captions `inject_noise` moved, also after `map` or `select`; None where it was not called.

    Args:
        dataset: of training pairs. The number is kept in `dataset.info.description`.
    """
    found = _MOVED.search(dataset.info.description or "")
    return int(found[1]) if found else None


def shuffle_persons(persons: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """A random permutation that moves exactly `count` rows, as few as possible of them to a row of the same person.

    A random shuffle of the chosen rows is mended: a row i that got a row of its own person swaps with a random j such
    that both end with other persons. If a person a has no such j, each chosen row shows a, or received a, or both, so
    the rows where both hold number 2 n_a - count: the least that any permutation leaves.

    Args:
        persons: person of each row, [N].
        count: rows to move, at most N; 1 moves none.
        generator: source of chance.
    Returns:
        int64 [N]; row i takes from row index[i].
    """
    index = np.arange(len(persons))
    if count < 2:
        return index
    chosen = generator.choice(len(persons), size=count, replace=False)
    given = generator.permutation(count)
    own = np.unique(persons[chosen], return_inverse=True)[1]
    hopeless: set[int] = set()
    for i in np.flatnonzero(own[given] == own).tolist():
        if own[given[i]] != own[i] or own[i] in hopeless:
            continue
        partner = _partner(own, given, i, generator)
        if partner is None:
            hopeless.add(own[i])
        else:
            given[[i, partner]] = given[[partner, i]]
    # Rows of a hopeless person may still hold their own caption. Any swap moves it and makes no further conflict.
    for i in np.flatnonzero(given == np.arange(count)).tolist():
        if given[i] == i:
            partner = (i + int(generator.integers(1, count))) % count
            given[[i, partner]] = given[[partner, i]]
    index[chosen] = chosen[given]
    return index


def _partner(own: np.ndarray, given: np.ndarray, i: int, generator: np.random.Generator) -> int | None:
    few = generator.integers(len(own), size=_TRIALS)
    for candidates in (few, np.arange(len(own))):
        good = candidates[(own[given[candidates]] != own[i]) & (own[candidates] != own[given[i]])]
        if len(good):
            return int(good[0] if candidates is few else generator.choice(good))
    return None


def read_index(file: str | Path, pairs: int) -> np.ndarray:
    """A published noise index file, checked.

    Args:
        file: `.npy`; files that hold Python objects are refused.
        pairs: rows that it must fit.
    Returns:
        a permutation, int64 [pairs].
    Raises:
        FileNotFoundError, ValueError: it is not there, or not what it should be.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no noise index file {file}. Nothing is generated in its place; use noise_rate."
        )
    try:
        with open(file, "rb") as opened:
            index = np.lib.format.read_array(opened, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{file} is no .npy file of numbers: {error}") from error
    if index.dtype != np.int64 or index.ndim != 1:
        raise ValueError(
            f"{file} holds {index.dtype} of shape {index.shape}; expected int64 in one dimension: a permutation."
        )
    if len(index) != pairs:
        raise ValueError(
            f"{file} has {len(index):,} entries, the training set {pairs:,} pairs. An index file fits one benchmark, "
            "whole and in the order of its annotation file: is this the right file, and are no images missing?"
        )
    if not np.array_equal(np.sort(index), np.arange(pairs)):
        raise ValueError(
            f"{file} is no permutation of 0 to {pairs - 1:,}: it names rows twice, or rows that do not exist."
        )
    return index


def _check_dataset(dataset: datasets.Dataset) -> None:
    if not isinstance(dataset, datasets.Dataset):
        raise ValueError(
            f"Noise goes into a datasets.Dataset of training pairs, found {type(dataset).__name__}. Test sets stay "
            "clean, and a stream cannot be shuffled as a whole."
        )
    lacking = [name for name in ("caption", "person_id") if name not in dataset.column_names]
    if lacking:
        raise ValueError(f"The data set lacks {', '.join(lacking)}; it has {', '.join(dataset.column_names)}.")
    moved = moved_captions(dataset)
    if moved is not None:
        raise ValueError(f"{moved:,} captions of the data set were moved already. Start from the pairs as loaded.")
    if TRUTH in dataset.column_names and None in dataset[TRUTH][:]:
        raise ValueError(f"The data set does not say {TRUTH} of every pair. Fill it in, or remove the column.")


__all__ = ["inject_noise", "moved_captions", "read_index", "shuffle_persons"]
