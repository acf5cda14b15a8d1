"""What `benchmark.py cache` and `metric` measure: peak memory of a training step, and of the retrieval metric."""

import contextlib
import multiprocessing
import statistics
import time

import torch
import torch.nn.functional as F

from modeling_amns import AMNSConfig, AMNSModel
from modeling_amns.gradient_cache import cached_backward
from modeling_amns.losses import bsdm, matching_loss
from modeling_amns.markdown import markdown_table
from modeling_amns.memory import PeakMemory
from modeling_amns.metrics.ranking import rank_metrics
from modeling_amns.stops import without_interrupts


def step_memory(sizes: dict, batch_size: int, chunk_size: int, device: str) -> tuple[int, int, float]:
    """One step in a process of its own (forward, bsdm, backward) at 384x128 with 40 tokens a caption.

    Args:
        sizes: of both encoders.
        batch_size: pairs.
        chunk_size: of the gradient cache; 0 is the plain step.
        device: where it runs.
    Returns:
        peak memory before and after the step in MiB, and its seconds.
    """
    with without_interrupts():
        workers = multiprocessing.get_context("spawn").Pool(1)
    with workers as pool:
        return pool.apply(_step, (sizes, batch_size, chunk_size, device))


def memory_table(sizes: dict, batch_size: int, chunk_sizes: tuple[int, ...], device: str) -> str:
    """Markdown: the memory that each chunk size needs on top of weights and batch; the first is the reference."""
    rows, reference = [], None
    for chunk in chunk_sizes:
        before, peak, seconds = step_memory(sizes, batch_size, chunk, device)
        reference = reference or peak - before
        name = f"gradient_cache_chunk_size {chunk}" if chunk else "plain"
        rows.append([name, peak - before, f"{(peak - before) / reference:.2f}", f"{seconds:.2f}"])
    return markdown_table([f"step of {batch_size} pairs", "memory above start, MiB", "relative", "seconds"], rows)


def metric_table(queries: int, gallery: int, repeats: int) -> str:
    """Markdown: `rank_metrics` on random embeddings against other ways, in turns, each way in a process of its own.

    Args:
        queries: rows of 512 numbers; random ones are near to each other, which costs most.
        gallery: rows, five to a person.
        repeats: rounds; the median counts.
    """
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in _RANKINGS}
    with contextlib.ExitStack() as stack:
        with without_interrupts():
            pools = {name: stack.enter_context(multiprocessing.get_context("spawn").Pool(1)) for name in found}
        for _ in range(repeats):
            for name, runs in found.items():
                runs.append(pools[name].apply(_ranking, (name, queries, gallery)))
    rows = []
    seconds = {name: statistics.median(taken for _, taken in runs) for name, runs in found.items()}
    for name, runs in found.items():
        spread = f"{min(taken for _, taken in runs):.2f} to {max(taken for _, taken in runs):.2f}"
        ratio = f"{seconds['rank_metrics'] / seconds[name]:.2f}"
        rows.append([name, f"{seconds[name]:.2f}", spread, ratio, max(memory for memory, _ in runs)])
    title = f"{queries} x {gallery} x 512"
    return markdown_table([title, "seconds", "from, to", "rank_metrics is", "memory above start, MiB"], rows)


def _ranking(name: str, queries: int, gallery: int) -> tuple[int, float]:
    generator = torch.Generator().manual_seed(0)
    images, asked = (torch.randn(rows, 512, generator=generator) for rows in (gallery, queries))
    image_ids = torch.arange(gallery) // 5
    asked_ids = image_ids[torch.randint(gallery, (queries,), generator=generator)]
    _RANKINGS[name](images[:10], image_ids[:10], images[:10], image_ids[:10])  # warms up
    memory = PeakMemory("cpu")
    before, start = memory.mib, time.perf_counter()
    _RANKINGS[name](asked, asked_ids, images, image_ids)
    return memory.mib - before, time.perf_counter() - start


def _by_sorting(asked: torch.Tensor, asked_ids: torch.Tensor, images: torch.Tensor, image_ids: torch.Tensor) -> None:
    """As IRRA's `utils/metrics.py`: every row sorted, hits summed up along it."""
    order = (F.normalize(asked) @ F.normalize(images).T).argsort(dim=1, descending=True)
    hits = image_ids[order] == asked_ids[:, None]
    found = hits.cumsum(dim=1)
    (found / torch.arange(1, hits.shape[1] + 1) * hits).sum(dim=1).div(hits.sum(dim=1)).mean()


def _by_topk(asked: torch.Tensor, asked_ids: torch.Tensor, images: torch.Tensor, image_ids: torch.Tensor) -> None:
    """No mAP, no mINP, ties by chance: the least that Rank-10 takes."""
    images = F.normalize(images).T
    for part, ids in zip(F.normalize(asked).split(104), asked_ids.split(104), strict=True):
        (image_ids[(part @ images).topk(min(10, len(image_ids))).indices] == ids[:, None]).any(dim=1)


_RANKINGS = {
    "rank_metrics": rank_metrics,
    "argsort and cumulative sum": _by_sorting,
    "float32 product and topk": _by_topk,
}


def _step(sizes: dict, batch_size: int, chunk_size: int, device: str) -> tuple[int, int, float]:
    torch.manual_seed(0)
    model = AMNSModel(AMNSConfig(vision_config=sizes, text_config=sizes)).to(device).train()
    batch = {
        "pixel_values": torch.randn(batch_size, 3, 384, 128, device=device),
        "input_ids": torch.randint(0, 40000, (batch_size, 40), device=device),
    }
    batch["input_ids"][:, -1] = model.config.text_config.eos_token_id
    persons = torch.arange(batch_size, device=device)

    def forward(chunk: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        outputs = model(**chunk)
        return {"image": outputs.image_embeds, "text": outputs.text_embeds}

    def loss_backward(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
        loss = matching_loss(bsdm, outputs["image"], outputs["text"], persons)
        loss.backward()
        return loss

    memory = PeakMemory(device)
    before, start = memory.mib, time.perf_counter()
    if chunk_size:
        chunks = [
            {name: value[first : first + chunk_size] for name, value in batch.items()}
            for first in range(0, batch_size, chunk_size)
        ]
        cached_backward(model, chunks, forward, loss_backward)
    else:
        loss_backward(forward(batch))
    if device != "cpu":
        torch.cuda.synchronize()
    return before, memory.mib, time.perf_counter() - start


__all__ = ["memory_table", "metric_table", "step_memory"]
