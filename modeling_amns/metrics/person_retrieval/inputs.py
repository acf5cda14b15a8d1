"""What the retrieval figures take: matrices and person ids of any kind, checked, as tensors.

Torch only, no import of ours, as `ranking`, which is copied with it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Characters of an id, and of another library's error, that an error shows.
_SHOWN, _SHOWN_ERROR = 60, 200

Matrix = Tensor | np.ndarray | Sequence[Tensor | np.ndarray | Sequence[float]]
Ids = Tensor | np.ndarray | Sequence[int | str]


def matrix_of(values: Matrix, name: str) -> Tensor:
    """A matrix of numbers as a detached tensor; a ValueError that calls it by `name` if it is none."""
    try:
        matrix = _tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:_SHOWN_ERROR]
        raise ValueError(f"{name} must be one float matrix, rows of equal length: {reason}") from None
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} must be a matrix with at least one row and column, found {list(matrix.shape)}.")
    if matrix.is_complex():
        raise ValueError(f"{name} must be one float matrix, found complex numbers.")
    # Apple's GPU has no float64.
    return matrix.cpu() if matrix.device.type == "mps" else matrix


def _tensor(values: Matrix | Sequence[Any]) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().to_dense()
    if hasattr(values, "__array__"):
        array = np.asarray(values)
        if array.dtype.kind == "O":
            return _tensor(list(array))
    else:
        rows = list(values)
        if any(isinstance(row, Tensor | np.ndarray | Sequence) and not isinstance(row, str) for row in rows):
            return torch.stack([_tensor(row) for row in rows])
        array = np.asarray(rows)
        if array.dtype.kind == "O":
            array = np.asarray([float(value) for value in rows])
    if array.dtype.kind == "V" or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
        # bfloat16 and the like as numpy sees them, and long doubles.
        array = array.astype(np.float64)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"found values of type {array.dtype}")
    # Torch takes neither negative strides nor foreign byte orders, and warns of memory that it may not write.
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def persons_of(
    query_ids: Ids, queries: int, gallery_ids: Ids, gallery: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Both sides' ids as int64 that are equal where the persons are."""
    names = ids_of(query_ids, queries, "query_ids"), ids_of(gallery_ids, gallery, "gallery_ids")
    kinds = ["strings" if isinstance(side, list) and isinstance(side[0], str) else "integers" for side in names]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"query_ids are {kinds[0]}, gallery_ids are {kinds[1]}: no person would be found, since 7 is not '7'. "
            "Pass both as they stand in the same data."
        )
    if isinstance(names[0], Tensor) and isinstance(names[1], Tensor):
        query, item = names[0].to(device), names[1].to(device)
    else:
        # A dict tells "a" from "a\0" and takes numbers of any size, which numpy's strings and int64 do not.
        numbers: dict[int | str, int] = {}
        lists = [side.tolist() if isinstance(side, Tensor) else side for side in names]
        query, item = (
            torch.tensor([numbers.setdefault(person, len(numbers)) for person in side], device=device)
            for side in lists
        )
    missing = (~torch.isin(query, item)).nonzero()[:, 0]
    if len(missing):
        shown = [(row, names[0][row]) for row in missing[:5].tolist()]
        named = ", ".join(f"query {row} (person {_shown(person)})" for row, person in shown)
        raise ValueError(
            f"{len(missing)} of {queries} queries have no item of their person in the gallery: {named}"
            f"{', ...' if len(missing) > 5 else ''}. Leave these queries out or complete the gallery."
        )
    return query, item


def ids_of(ids: Ids, length: int, name: str) -> Tensor | list[int] | list[str]:
    """Person ids, int64 where they fit it, else as a list; a ValueError that calls them by `name` if they are none."""
    if isinstance(ids, str) or not isinstance(ids, Tensor | Iterable):
        raise ValueError(f"{name} must hold one person id per row, found {type(ids).__name__}.")
    if isinstance(ids, Tensor) or hasattr(ids, "__array__"):
        array = ids if isinstance(ids, Tensor) else np.asarray(ids)
        values, shape = array.tolist(), list(array.shape)
    else:
        # A column of a datasets.Dataset is a lazy sequence, hence list().
        values = list(ids)
        shape = [len(values), *(len(row) for row in values[:1] if isinstance(row, list | tuple))]
    if shape != [length]:
        raise ValueError(f"{name} must hold one person id per row: expected [{length}], found {shape}.")
    values = [value.item() if isinstance(value, Tensor | np.generic) else value for value in values]
    kind = str if isinstance(values[0], str) else int
    for row, value in enumerate(values):
        if not isinstance(value, kind):
            found = f"{_shown(value)} ({type(value).__name__}) in row {row}"
            raise ValueError(f"{name} must be integers, or all of them strings; found {found}.")
    if kind is int and min(values) >= -(2**63) and max(values) < 2**63:
        return torch.tensor(values, dtype=torch.int64)
    return values


def _shown(value: object) -> str:
    text = repr(value.item() if isinstance(value, Tensor) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def check_finite(values: Tensor, name: str) -> None:
    """A ValueError that names the first row of a matrix with NaN or infinity."""
    bad = (~values.isfinite().all(dim=1)).nonzero()[:, 0]
    if len(bad):
        raise ValueError(
            f"{name}: NaN or infinity in {len(bad)} of {len(values)} rows, first in row {bad[0].item()}. "
            "Has the training diverged, or half precision overflowed?"
        )


__all__ = ["Ids", "Matrix", "check_finite", "ids_of", "matrix_of", "persons_of"]
