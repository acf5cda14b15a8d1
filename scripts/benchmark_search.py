"""What `benchmark.py search` measures: a gallery on disk, from its first row to its last query, as it grows."""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from modeling_amns.markdown import markdown_table
from modeling_amns.memory import PeakMemory
from modeling_amns.retrieval.lance_store import LanceStore
from modeling_amns.retrieval.table import FileState, Table
from modeling_amns.stops import without_interrupts

if __package__:  # installed, as modeling_amns.scripts.benchmark_search
    from .benchmark_persons import BLOCK, exact_ranks, person_blocks, person_queries
else:
    from benchmark_persons import BLOCK, exact_ranks, person_blocks, person_queries

K = 10
# One camera of a hundred took each row: a filter on one keeps 1 %.
CAMERAS, RARE = 100, 7
# So many blocks of rows are written in one commit, as `PersonGallery.save` and `from_parquet` do.
COMMIT = 5
HEAD = ["images", "search", "keeps 1 %", "built in s", "MiB building", "MiB", "p50 ms", "p99 ms", "recall@10"]


def search_report(sizes: Sequence[int], queries: int = 200, dimension: int = 512) -> str:
    """Measures galleries, each step in a process of its own, and returns Markdown and, in the last line, JSON."""
    rows = [row for size in sizes for row in measured(size, queries, dimension)]
    cells = [
        [f"{row['images']:,}", row["search"], "yes" if row["filtered"] else "no"]
        + ["" if row[name] is None else f"{row[name]:{form}}" for name, form in _FORMS.items()]
        for row in rows
    ]
    return f"{markdown_table(HEAD, cells, 3)}\n\n{json.dumps(rows)}"


_FORMS = {"built_s": ".1f", "building_mib": "d", "mib": "d", "p50_ms": ".2f", "p99_ms": ".2f", "recall": ".3f"}


def measured(size: int, queries: int, dimension: int) -> list[dict]:
    """The figures of one size: the gallery without and with a filter, and torch's product of all vectors."""
    if size < K * CAMERAS:
        raise ValueError(f"--sizes are {K * CAMERAS:,} or more, that a filter keeps {K} images; found {size}.")
    with tempfile.TemporaryDirectory() as folder:
        seconds, building = apart(build, folder, size, dimension)
        rows = []
        for where in (None, f"camera = 'c{RARE}'"):
            kind, times, found, mib = apart(search_gallery, folder, size, queries, dimension, where)
            rows.append((kind, where, seconds, building, times, found, mib))
    times, found, mib = apart(search_tensor, size, queries, dimension)
    rows.append(("torch matmul, topk", None, None, None, times, found, mib))
    every = {None: (1, 0), f"camera = 'c{RARE}'": (CAMERAS, RARE)}
    right = {where: apart(exact, size, queries, dimension, *step) for where, step in every.items()}
    return [
        {
            **{"images": size, "search": kind, "filtered": where is not None},
            **{"built_s": built, "building_mib": building, "mib": mib},
            **{f"p{part}_ms": float(np.percentile(times, part)) for part in (50, 99)},
            "recall": sum(len(set(a) & set(b)) for a, b in zip(found, right[where])) / (K * queries),
        }
        for kind, where, built, building, times, found, mib in rows
    ]


def apart(function: Callable, *arguments: object) -> tuple | list:
    """Calls a function in a process of its own, so that memory is of nothing else."""
    with without_interrupts():
        workers = multiprocessing.get_context("spawn").Pool(1)
    with workers as pool:
        return pool.apply(function, arguments)


def build(folder: str, size: int, dimension: int) -> tuple[float, int]:
    """Writes a gallery's rows and ends as a gallery ends: with an index where it has one. Its seconds, peak in MiB."""
    memory, seconds = PeakMemory(), 0.0
    store = LanceStore(Path(folder), dimension)
    waiting: list[np.ndarray] = []
    for number, vectors in enumerate(person_blocks(size, dimension)):
        waiting.append(vectors)
        last = min(size, (number + 1) * BLOCK)
        if len(waiting) < COMMIT and last < size:
            continue
        part = np.concatenate(waiting)
        waiting.clear()
        names = range(last - len(part), last)
        cameras = [f"c{name % CAMERAS}" for name in names]
        states = [FileState(0, 0, "")] * len(part)
        start = time.perf_counter()
        store.put(Table([str(name) for name in names], states, part, {"camera": "text"}, {"camera": cameras}))
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    store.finish()
    return seconds + time.perf_counter() - start, memory.mib


def search_gallery(
    folder: str, size: int, queries: int, dimension: int, where: str | None
) -> tuple[str, list[float], list[list[int]], int]:
    """How the gallery searches, milliseconds of each query, what it found, and the peak of the process in MiB."""
    memory, store = PeakMemory(), LanceStore(Path(folder), dimension)
    times, found = timed(
        lambda query: [int(hit.path) for hit in store.search(query, K, where, None, None)],
        person_queries(queries, size, dimension)[0],
    )
    return "gallery, index" if store.has_index else "gallery, exact", times, found, memory.mib


def search_tensor(size: int, queries: int, dimension: int) -> tuple[list[float], list[list[int]], int]:
    """The same by one tensor of all vectors."""
    memory, gallery = PeakMemory(), torch.empty(size, dimension)
    for number, vectors in enumerate(person_blocks(size, dimension)):
        gallery[number * BLOCK : number * BLOCK + len(vectors)] = torch.from_numpy(vectors)
    times, found = timed(
        lambda query: torch.topk(gallery @ torch.from_numpy(query), K).indices.tolist(),
        person_queries(queries, size, dimension)[0],
    )
    return times, found, memory.mib


def exact(size: int, queries: int, dimension: int, every: int, offset: int) -> list[list[int]]:
    """What is right: the best rows among those that the filter keeps."""
    return exact_ranks(person_queries(queries, size, dimension)[0], size, K, every=every, offset=offset)


def timed(search: Callable[[np.ndarray], list[int]], queries: np.ndarray) -> tuple[list[float], list[list[int]]]:
    """Milliseconds of each query, one at a time, after a few that warm up; and what it found."""
    for query in queries[:5]:
        search(query)
    times, found = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(search(query))
        times.append(1000 * (time.perf_counter() - start))
    return times, found


__all__ = ["search_report"]
