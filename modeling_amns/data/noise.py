"""Wrong pairs on purpose: moves captions among training pairs, by rate and seed or by a published index file."""

from pathlib import Path

import datasets
import numpy as np
from transformers.utils import logging

logger = logging.get_logger(__name__)


def inject_noise(
    dataset: datasets.Dataset, rate: float, seed: int = 0, index_file: str | Path | None = None
) -> datasets.Dataset:
    """Moves the captions of a random subset of pairs among themselves; images and person ids stay.

    Args:
        dataset: training pairs with `caption` and `person_id`, e.g. `load_benchmark(..., split="train")`.
        rate: share of the pairs whose caption is moved, in [0, 1); exactly `round(rate * pairs)` pairs. No pair
            gets back its own caption, nor one of the same person unless that is unavoidable (logged with the count).
        seed: fixes the choice.
        index_file: a `.npy` permutation, int64, one entry a pair: pair i gets the caption of pair index[i]. The files
            that the authors of RDE published for each benchmark make results comparable; `rate` is then not used.
    Returns:
        the data set with the moved captions and the column `is_clean` (False where the caption was moved).
    Raises:
        ValueError: rate outside [0, 1), or an index file that is no permutation of the data set's pairs.
        FileNotFoundError: there is no such index file.
    Source: the noise protocol of RDE (CVPR 2024, arXiv 2308.09911), section 4.1.
    """
    persons = np.asarray(dataset["person_id"][:])
    if index_file is not None:
        index = _read_index(Path(index_file), len(dataset))
    else:
        if not 0 <= rate < 1:
            raise ValueError(f"noise_rate must lie in [0, 1), found {rate}.")
        index = _shuffle(persons, round(rate * len(dataset)), np.random.default_rng(seed))
    moved = index != np.arange(len(index))
    same = int((persons[index] == persons)[moved].sum())
    if same:
        logger.warning(f"{same} of {int(moved.sum())} moved captions went to another pair of the same person.")
    captions = dataset["caption"][:]
    names = dataset.column_names
    noisy = dataset.remove_columns("caption").add_column("caption", [captions[i] for i in index])
    return noisy.select_columns(names).add_column("is_clean", (~moved).tolist())


def _shuffle(persons: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """A permutation that moves exactly `count` rows, to rows of other persons where that can be done."""
    index = np.arange(len(persons))
    if count < 2:
        return index
    chosen = generator.choice(len(persons), size=count, replace=False)
    # Sorted by person and turned by the size of the largest group, every row meets another person, if one is left.
    order = chosen[np.argsort(persons[chosen], kind="stable")]
    largest = int(np.unique(persons[chosen], return_counts=True)[1].max())
    source = np.roll(order, min(largest, count - 1))
    index[order] = source
    # A turn alone would send neighbours to neighbours: swapping sources at random where both stay right mixes them.
    for _ in range(20):
        partner = generator.permutation(count)
        first, second = partner[: count // 2], partner[count // 2 : count // 2 * 2]
        a, b = order[first], order[second]
        good = (persons[index[b]] != persons[a]) & (persons[index[a]] != persons[b])
        good &= (index[b] != a) & (index[a] != b)
        a, b = a[good], b[good]
        index[a], index[b] = index[b], index[a]
    return index


def _read_index(file: Path, pairs: int) -> np.ndarray:
    if not file.is_file():
        raise FileNotFoundError(f"There is no noise index file {file}.")
    try:
        index = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{file} is no .npy file of numbers: {error}") from error
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise ValueError(f"{file} must hold whole numbers in one dimension, found {index.dtype} {index.shape}.")
    if len(index) != pairs:
        raise ValueError(
            f"{file} has {len(index)} entries, the training set {pairs} pairs. Each index file belongs to one benchmark "
            "with all its pairs in annotation order."
        )
    if not np.array_equal(np.sort(index), np.arange(pairs)):
        raise ValueError(f"{file} is no permutation of 0 to {pairs - 1}.")
    return index


__all__ = ["inject_noise"]
