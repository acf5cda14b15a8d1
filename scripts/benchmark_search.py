"""What `benchmark.py search` measures: exact and approximate search of galleries that look like persons."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from modeling_amns.markdown import markdown_table
from modeling_amns.memory import peak_memory_mb
from modeling_amns.retrieval.exact import ExactIndex
from modeling_amns.retrieval.lance_store import LanceStore
from modeling_amns.retrieval.table import FileState, Table

K = 10
# A column whose filter keeps one row in a hundred.
RARE = "camera = 'c7'"


def person_vectors(rows: int, queries: int, dimension: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A gallery and queries as a dual encoder makes them, and not as noise is, on which every index looks bad.

    Four images a person lie around a centre of low rank; a query lies near its person, shifted by the gap between
    captions and images.

    Returns:
        L2-normalised float32 [rows, dimension] and [queries, dimension].
    """
    draw = np.random.default_rng(seed)
    rank = min(64, dimension)
    directions = draw.standard_normal((rank, dimension), np.float32) / np.sqrt(rank)
    centres = draw.standard_normal((-(-rows // 4), rank), np.float32) @ directions
    gallery = np.repeat(centres, 4, 0)[:rows]
    gallery += 0.4 * draw.standard_normal(gallery.shape, np.float32)
    gap = draw.standard_normal(dimension).astype(np.float32)
    asked = centres[draw.integers(0, len(centres), queries)] + 0.5 * gap
    asked += 0.5 * draw.standard_normal(asked.shape, np.float32)
    return tuple(values / np.linalg.norm(values, axis=1, keepdims=True) for values in (gallery, asked))


def search(_: object) -> None:
    """Milliseconds of a query, and the share of the exact ten that the index finds."""
    print(search_table((10_000, 100_000)))


def search_table(sizes: tuple[int, ...], queries: int = 200, dimension: int = 512) -> str:
    """Markdown: milliseconds of one query at a time, and how many of the exact ten the index finds."""
    rows = []
    for size in sizes:
        gallery, asked = person_vectors(size, queries, dimension)
        exact = None
        for name, search, seconds in searches(gallery):
            for where in (None, RARE):
                if where is not None and name == "torch":
                    continue
                times, found = measure(search, asked, where)
                if name.startswith("exact"):
                    exact = {**(exact or {}), where: found}
                right = np.mean([len(a & b) / len(b) for a, b in zip(found, exact[where])]) if exact else 1.0
                p50, p99 = np.percentile(times, [50, 99])
                shown = [f"{seconds:.1f}", f"{p50:.2f}", f"{p99:.2f}", f"{right:.3f}", peak_memory_mb()]
                rows.append([f"{size:,}", name, "no" if where is None else "yes", *shown])
    head = ["rows", "search", "keeps 1 %", "built in s", "p50 ms", "p99 ms", "recall@10", "peak MiB"]
    return markdown_table(head, rows, 2)


Search = Callable[[np.ndarray, str | None], list[str]]


def searches(gallery: np.ndarray) -> list[tuple[str, Search, float]]:
    """Name, search and seconds to build of each way; the index is in a folder that lasts as long as the program."""
    count = len(gallery)
    cameras = [f"c{row % 100}" for row in range(count)]
    table = Table(
        [str(row) for row in range(count)],
        [FileState(0, 0, "")] * count,
        gallery,
        {"camera": "text"},
        {"camera": cameras},
    )
    start = time.perf_counter()
    exact = ExactIndex.build(table)
    built = time.perf_counter() - start
    start = time.perf_counter()
    # Removed when the object goes.
    folder = tempfile.TemporaryDirectory()
    store = LanceStore(Path(folder.name), gallery.shape[1])
    for first in range(0, count, 50_000):
        store.put(table.select(range(first, min(count, first + 50_000))))
    store.build_index()
    indexed = time.perf_counter() - start
    tensor = torch.from_numpy(gallery)

    def by_torch(query: np.ndarray, _: str | None) -> list[str]:
        return [str(row) for row in torch.topk(tensor @ torch.from_numpy(query), K).indices.tolist()]

    def by_index(query: np.ndarray, where: str | None, _: object = folder) -> list[str]:
        return [hit.path for hit in store.search(query, K, where, None, False)]

    return [
        ("exact", lambda query, where: [hit.path for hit in exact.search(query, K, where)], built),
        ("torch", by_torch, 0.0),
        ("index", by_index, indexed),
    ]


def measure(search: Search, queries: np.ndarray, where: str | None) -> tuple[list[float], list[set[str]]]:
    """Milliseconds of each query, and what it found."""
    search(queries[0], where)
    times, found = [], []
    for query in queries:
        start = time.perf_counter()
        hits = search(query, where)
        times.append(1000 * (time.perf_counter() - start))
        found.append(set(hits))
    return times, found
