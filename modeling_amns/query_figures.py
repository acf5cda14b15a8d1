"""How each query of the test split fared under the weights of a run: `queries.parquet` in its output folder."""

from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet

from .disk import whole_file
from .evaluation import EmbeddedSplit

QUERIES = "queries.parquet"
COLUMNS = ("weights", "person_id", "first_hit", "average_precision", "inverse_negative_penalty")


def query_figures(embedded: EmbeddedSplit) -> dict[str, np.ndarray]:
    """The figures of each query, in the order of the split.

    Returns:
        `person_id` int64 [Q]; `first_hit`, the rank of the best-placed image of the person, from 1, int64 [Q];
        `average_precision` and `inverse_negative_penalty`, in (0, 1], float64 [Q].
    """
    ranks = embedded.ranks
    return {
        "person_id": embedded.query_ids.numpy(),
        "first_hit": ranks.first_hit.numpy(),
        "average_precision": ranks.average_precision.numpy(),
        "inverse_negative_penalty": ranks.inverse_negative_penalty.numpy(),
    }


def write_query_figures(folder: str | Path, figures: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Writes `queries.parquet`, whole or not at all.

    Args:
        folder: of the run.
        figures: what `query_figures` returned, by the name of the weights: `best`, `last`.
    """
    table: dict[str, list] = {name: [] for name in COLUMNS}
    for weights, columns in figures.items():
        table["weights"] += [weights] * len(columns["person_id"])
        for name in COLUMNS[1:]:
            table[name] += columns[name].tolist()
    with whole_file(Path(folder) / QUERIES) as part:
        datasets.Dataset.from_dict(table).to_parquet(str(part))


def read_query_figures(folder: str | Path, weights: str = "last") -> dict[str, np.ndarray]:
    """The figures that `write_query_figures` wrote.

    Args:
        folder: of the run.
        weights: `best` or `last`.
    Raises:
        FileNotFoundError: the run left none.
        ValueError: the file is no such table, or has none of these weights.
    """
    file = Path(folder) / QUERIES
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no {QUERIES}; pass the output_dir of a training run that has ended.")
    try:
        table = pyarrow.parquet.read_table(file, columns=list(COLUMNS))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{file} is no table of queries: {error}") from error
    chosen = table.filter(pyarrow.compute.equal(table["weights"], weights))
    if not len(chosen):
        raise ValueError(f"{file} has no figures of the weights {weights!r}.")
    return {name: chosen[name].to_numpy() for name in COLUMNS[1:]}


__all__ = ["COLUMNS", "QUERIES", "query_figures", "read_query_figures", "write_query_figures"]
