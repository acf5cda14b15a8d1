"""Persons of a training set in folds: which of them a run does not see, so that it can judge their pairs."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
from numpy.typing import NDArray

_FORM = re.compile(r"(\d{1,9})/(\d{1,9})")


@dataclass(frozen=True)
class Fold:
    """One of several parts of the persons; as text `number/count`.

    Args:
        number: which, from 1 to `count`.
        count: how many there are, at least 2.
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def read_fold(text: str) -> Fold:
    """A fold from its text.

    Raises:
        ValueError: it is not of the form I/K with K of at least 2 and I from 1 to K.

    ```python
    >>> read_fold("1/3")
    Fold(number=1, count=3)

    ```
    """
    found = _FORM.fullmatch(str(text))
    if found is None:
        raise ValueError(f"left_out_fold must read I/K, as 1/3 for the first of three folds, found {text!r}.")
    fold = Fold(int(found[1]), int(found[2]))
    if fold.count < 2:
        raise ValueError(f"left_out_fold {text}: expected at least 2 folds; of one, nobody would be left to train on.")
    if not 1 <= fold.number <= fold.count:
        raise ValueError(f"left_out_fold {text}: expected a fold from 1 to {fold.count}.")
    return fold


def person_folds(person_ids: Sequence[int] | NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The fold of each pair: all pairs of a person are in one.

    Persons are dealt out by their number of pairs, most first, and by their number where they have as many: each to
    the fold of fewest pairs so far, the first of several. No fold then has more than the average and the pairs of one
    person. The rule is that of scikit-learn's `GroupKFold`, with ties decided here.

    Args:
        person_ids: person of each pair, [pairs]; their order does not matter.
        count: of folds, at least 2.
    Returns:
        fold of each pair, from 1 to `count`, none without a person, int64 [pairs].
    Raises:
        ValueError: there are more folds than persons.

    ```python
    >>> person_folds([7, 7, 7, 3, 3, 5, 9], 2).tolist()
    [1, 1, 1, 2, 2, 2, 1]

    ```
    """
    persons, place, pairs = np.unique(np.asarray(person_ids), return_inverse=True, return_counts=True)
    if count > len(persons):
        raise ValueError(f"{count:,} folds of {len(persons):,} persons: each needs a person; ask for fewer folds.")
    folds, filled = np.zeros(len(persons), np.int64), np.zeros(count, np.int64)
    for person in np.argsort(-pairs, kind="stable"):
        lightest = int(filled.argmin())
        folds[person] = lightest + 1
        filled[lightest] += pairs[person]
    return folds[place]


def leave_out(train: datasets.Dataset, fold: Fold) -> datasets.Dataset:
    """A training set without the persons of a fold; persons and images keep their numbers.

    Args:
        train: pairs with `person_id`; noise that is to be the same in all folds is in it.
        fold: whom to leave out.
    Returns:
        the other pairs, in their order.
    Raises:
        ValueError: it is a stream, or there are more folds than persons.
    """
    if not isinstance(train, datasets.Dataset):
        raise ValueError(
            f"left_out_fold {fold} deals out all persons and needs a datasets.Dataset; found {type(train).__name__}. "
            "Load a stream with streaming=False."
        )
    folds = person_folds(train["person_id"][:], fold.count)
    return train.select(np.flatnonzero(folds != fold.number))


def pairs_digest(train: datasets.Dataset) -> str:
    """What tells training sets apart for folds: who is shown by how many pairs, with which captions, in any order.

    Args:
        train: with `person_id` and `caption`.
    Returns:
        sixteen hexadecimal digits.
    """
    pairs = sorted(zip(train["person_id"][:], train["caption"][:]))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]


__all__ = ["Fold", "leave_out", "pairs_digest", "person_folds", "read_fold"]
