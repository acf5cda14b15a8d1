"""What `benchmark.py cache` and `metric` measure: peak memory of a training step, and of the retrieval metric."""

import multiprocessing
import time

import numpy as np
import torch

from modeling_amns import AMNSConfig, AMNSModel
from modeling_amns.gradient_cache import cached_backward
from modeling_amns.losses import bsdm, matching_loss
from modeling_amns.markdown import markdown_table
from modeling_amns.memory import PeakMemory, peak_memory_mb
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


def metric_cost(queries: int, gallery: int) -> str:
    """Seconds of the metric on random embeddings, and the peak memory of the whole process before and after."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal((gallery, 512), dtype=np.float32)
    asked = generator.standard_normal((queries, 512), dtype=np.float32)
    image_ids = np.arange(gallery) // 5
    asked_ids = image_ids[generator.integers(0, gallery, queries)]
    before, start = peak_memory_mb(), time.perf_counter()
    rank_metrics(asked, asked_ids, images, image_ids)
    taken = f"{queries} queries x {gallery} images x 512: {time.perf_counter() - start:.1f} s"
    return f"{taken}\npeak memory of the process {peak_memory_mb()} MiB, before the call {before} MiB"


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


__all__ = ["memory_table", "metric_cost", "step_memory"]
