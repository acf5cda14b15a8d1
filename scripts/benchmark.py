"""Measures costs side by side in one run and prints ratios; no test depends on it.

python scripts/benchmark.py step    # training step with and without AWM
python scripts/benchmark.py embed   # image encoder against transformers' CLIPModel
python scripts/benchmark.py text    # text encoder against CLIPModel, which pads to 77 tokens
python scripts/benchmark.py data    # JPEG files to a ready batch, against a plain loader with Pillow transforms
python scripts/benchmark.py cache   # peak memory of a step with the gradient cache
python scripts/benchmark.py search  # galleries as they grow; --sizes 10000 100000 1000000 takes minutes
python scripts/benchmark.py stream  # pairs of shards as a stream, against rows of a cache; its memory
python scripts/benchmark.py metric  # the retrieval metric at 20,000 x 20,000 against sorting every row and a bare topk
"""

import modeling_amns  # noqa: F401  before all that is slow: Ctrl-C ends it in one line from here on

# isort: split
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from modeling_amns import AMNSConfig, AMNSModel, AMNSProcessor, load_benchmark, make_synthetic_benchmark
from modeling_amns.cli import parse, run_script
from modeling_amns.data.transforms import Augmentation
from modeling_amns.ema import ImageTeacher
from modeling_amns.losses import bsdm, matching_loss
from modeling_amns.masking import patch_scores, select_patches

if __package__:  # installed, as modeling_amns.scripts.benchmark
    from .benchmark_encoders import image_report, text_report
    from .benchmark_loader import largest_difference, loaders
    from .benchmark_memory import memory_table, metric_table
    from .benchmark_search import search_report
    from .benchmark_stream import stream_report
    from .benchmark_timing import ratios_table, side_by_side
else:
    from benchmark_encoders import image_report, text_report
    from benchmark_loader import largest_difference, loaders
    from benchmark_memory import memory_table, metric_table
    from benchmark_search import search_report
    from benchmark_stream import stream_report
    from benchmark_timing import ratios_table, side_by_side

SIZES = {
    "small": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4},
    "base": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
}


@dataclass
class Options:
    """Sizes, which not every benchmark asks for."""

    size: str = field(default="small", metadata={"help": "Of the encoders.", "choices": list(SIZES)})
    batch_size: int = field(default=16, metadata={"help": "Pairs of a step, or images."})
    repeats: int = field(default=5, metadata={"help": "Rounds; the median counts."})
    queries: int = field(default=20000, metadata={"help": "Rows of the metric's queries."})
    gallery: int = field(default=20000, metadata={"help": "Rows of its gallery."})
    sizes: list[int] = field(default_factory=lambda: [10_000, 100_000], metadata={"help": "Images that are searched."})
    device: str = field(default="cuda" if torch.cuda.is_available() else "cpu", metadata={"help": "Where it runs."})


def step(options: Options) -> None:
    """A training step (forward, loss, backward, teacher) at 384x128 with and without AWM."""
    model = AMNSModel(AMNSConfig(vision_config=SIZES[options.size], text_config=SIZES[options.size]))
    model.to(options.device).train()
    teachers = {scale: ImageTeacher(model, scale=scale) for scale in (1.0, 0.5)}
    pixels = torch.randn(options.batch_size, 3, 384, 128, device=options.device)
    ids = torch.randint(0, 40000, (options.batch_size, 40), device=options.device)
    ids[:, -1] = model.config.text_config.eos_token_id
    persons = torch.arange(options.batch_size, device=options.device)

    def train(keep_ratio: float, scale: float = 1.0) -> None:
        teacher = teachers[scale]
        keep = select_patches(patch_scores("attention", teacher, pixels), keep_ratio) if keep_ratio < 1 else None
        output = model(input_ids=ids, pixel_values=pixels, keep_indices=keep)
        matching_loss(bsdm, output.image_embeds, output.text_embeds, persons).backward()
        if keep_ratio < 1:
            teacher.update(model)
        model.zero_grad()

    work = {f"keep_ratio {ratio}": (lambda ratio=ratio: train(ratio)) for ratio in (1.0, 0.7, 0.5, 0.3)}
    work |= {
        f"keep_ratio {ratio}, mask_image_scale 0.5": (lambda ratio=ratio: train(ratio, 0.5)) for ratio in (0.7, 0.5)
    }
    print(ratios_table(side_by_side(work, options.repeats), "training step"))


def data(options: Options) -> None:
    """JPEG files to a normalised, augmented batch of 384x128 with tokens, on one thread of this process."""
    torch.set_num_threads(1)
    for height, width in ((128, 64), (384, 128), (768, 256)):
        with tempfile.TemporaryDirectory() as root:
            people = {"train_identities": 60, "val_identities": 1, "test_identities": 1}
            make_synthetic_benchmark(root, image_size=(height, width), **people)
            train = load_benchmark("synthetic-pedes", root, "train")
            processor = AMNSProcessor.from_captions(train["caption"][:], [384, 128])
            timed = side_by_side(loaders(train, processor, Augmentation(), options.batch_size), options.repeats)
            print(ratios_table(timed, f"files of {height}x{width}"))
            rates = ", ".join(f"{name} {len(train) / one.seconds:.0f}" for name, one in timed.items())
            largest, mean = largest_difference(train, processor)
        print(
            f"pairs per second and core: {rates}; pixels differ by at most {largest} of 255, {mean:.2f} on average\n"
        )


# What prints a text of its own.
REPORTS: dict[str, Callable[[Options], str]] = {
    "cache": lambda options: memory_table(SIZES[options.size], options.batch_size, (0, 16, 4), options.device),
    "embed": lambda o: image_report(SIZES[o.size], o.batch_size, o.repeats, o.device),
    "text": lambda o: text_report(SIZES[o.size], o.batch_size, o.repeats, o.device),
    "metric": lambda options: metric_table(options.queries, options.gallery, options.repeats),
    "search": lambda options: search_report(options.sizes),
    # The first of the sizes is timed, the last is read for its memory.
    "stream": lambda o: stream_report(o.sizes[0], o.sizes[-1], o.batch_size, o.repeats),
}


def main() -> int:
    """Runs one benchmark."""
    benchmarks = {"step": step, "data": data}
    benchmarks |= {name: lambda options, report=report: print(report(options)) for name, report in REPORTS.items()}
    options, what = parse((Options,), __doc__, {"what": "one of " + ", ".join(benchmarks)})
    if what not in benchmarks:
        raise ValueError(f"There is no benchmark {what!r}; there are {', '.join(benchmarks)}.")
    benchmarks[what](options)
    return 0


if __name__ == "__main__":
    sys.exit(run_script("benchmark.py", main))
