"""`synthetic-pedes`: a person retrieval benchmark made from nothing, for quick starts, tests and ablations.

CUHK-PEDES, ICFG-PEDES and RSTPReid are handed out by their authors on request. This generator draws people and writes
captions, hard in the way the real sets are, in any of their official layouts, the same bytes for the same seed.
Figures on it say nothing about the real benchmarks.
"""

import json
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets.utils import tqdm

from ...disk import names_full_disk, write_whole
from ..benchmarks import BENCHMARKS, SYNTHETIC_MARK, Benchmark
from ..records import SPLITS
from .camera import CAMERAS
from .elsewhere import mix_colours, reword
from .figure import draw_body
from .people import Person
from .planning import PlannedImage, number_people, plan_image
from .render import render_image

GENERATOR_VERSION = "1.1"
JPEG_QUALITY = 92
MIN_IMAGE_SIZE = (64, 24)
LOOKS = ("plain", "elsewhere")
# Arguments that stand in the folder's card only where they are not these: cards of before they came stay as they were.
_PLAIN = {"look": LOOKS[0], "wrong_captions": 0, "wrong_attributes": 2}
# Below this many images starting processes costs more than it saves.
MIN_PARALLEL_IMAGES = 200
# The folders of the real CUHK-PEDES, one for each camera.
CUHK_FOLDERS = ("cam_a", "cam_b", "CUHK03", "Market", "test_query", "train_query")


@dataclass(frozen=True)
class Layout:
    """How the images of a benchmark are named; everything else `Benchmark` knows.

    Attributes:
        benchmark: whose layout it is.
        image_path: of an image, relative to the image folder.
    """

    benchmark: Benchmark
    image_path: Callable[[PlannedImage], str]

    @property
    def annotation(self) -> str:
        """Name of the annotation file, the best of those that are read."""
        return self.benchmark.annotations[0]


def _cuhk_path(plan: PlannedImage) -> str:
    return f"{CUHK_FOLDERS[plan.shot.camera]}/{plan.identity + 1:05d}_{plan.index:03d}.jpg"


def _rstp_path(plan: PlannedImage) -> str:
    return f"{plan.identity:04d}_c{plan.shot.camera + 1}_{plan.index:04d}.jpg"


def _icfg_path(plan: PlannedImage) -> str:
    return f"{plan.split}/{plan.identity:04d}/{_rstp_path(plan)}"


LAYOUTS = {
    name: Layout(BENCHMARKS[name], image_path)
    for name, image_path in (
        ("synthetic-pedes", _cuhk_path),
        ("cuhk-pedes", _cuhk_path),
        ("icfg-pedes", _icfg_path),
        ("rstpreid", _rstp_path),
    )
}


def make_synthetic_benchmark(
    root: str | Path,
    layout: str = "synthetic-pedes",
    seed: int = 0,
    train_identities: int = 2400,
    val_identities: int = 200,
    test_identities: int = 300,
    images_per_identity: int = 4,
    captions_per_image: int = 2,
    image_size: tuple[int, int] = (128, 48),
    num_workers: int | None = None,
    look: str = "plain",
    wrong_captions: float = 0,
    wrong_attributes: int = 2,
) -> Path:
    """Writes a synthetic benchmark below `root`, or finds it there.

    The annotation file is written last: without it a folder is unfinished, and the same call completes it.

    Args:
        root: folder that will hold the benchmark's folder.
        layout: `synthetic-pedes` (the layout of CUHK-PEDES under its own name), `cuhk-pedes`, `icfg-pedes` (no val
            split, one caption an image) or `rstpreid`.
        seed: same seed and sizes, same bytes.
        train_identities, val_identities, test_identities: number of people in each split.
        images_per_identity: images of each, from different cameras (six; then they repeat).
        captions_per_image: sentences about each image.
        image_size: (height, width) in pixels, at least 64 x 24.
        num_workers: processes that draw; default one for each processor. Does not change any byte.
        look: `elsewhere` mixes the colours of each image by chance and says other words for the same things: for a
            checkpoint to start from that has not seen the plain look.
        wrong_captions: share of the train captions that are made partly wrong, each by chance, in [0, 1]. The
            annotation then says of every train caption whether all of it is right (`is_clean`): that of a caption that
            errs anyhow, as about one in 25 does in one attribute, is false too. Nothing else changes.
        wrong_attributes: how many attributes that such a caption names are not the person's; all that can be mistaken
            where it names fewer. One that names none stays as it is, and clean.
    Returns:
        The folder that holds `imgs/` and the annotation file.
    Raises:
        ValueError: an unknown layout, a number that makes no sense, or `wrong_attributes` without `wrong_captions`.
        FileExistsError: the folder holds something else, or a synthetic benchmark made with other arguments.

    Example:

        >>> from tempfile import mkdtemp
        >>> sizes = {"train_identities": 2, "val_identities": 1, "test_identities": 1, "images_per_identity": 1}
        >>> folder = make_synthetic_benchmark(mkdtemp(), image_size=(64, 24), num_workers=1, **sizes)
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'imgs', 'reid_raw.json', 'synthetic.json']
    """
    sizes = {
        "train_identities": train_identities,
        "val_identities": val_identities,
        "test_identities": test_identities,
        "images_per_identity": images_per_identity,
        "captions_per_image": captions_per_image,
    }
    _check_arguments(layout, seed, sizes, image_size, num_workers)
    given: dict[str, Any] = {"look": look, "wrong_captions": wrong_captions, "wrong_attributes": wrong_attributes}
    _check_options(look, wrong_captions, wrong_attributes)
    form = LAYOUTS[layout]
    known = form.benchmark
    folder = Path(root).expanduser() / known.folder
    about = {
        "benchmark": "synthetic-pedes",
        "note": "Drawn by modeling_amns, not photographs: figures on it do not stand for the real benchmarks.",
        "generator_version": GENERATOR_VERSION,
        "layout": layout,
        "seed": seed,
        **sizes,
        "image_size": list(image_size),
        **{name: value for name, value in given.items() if value != _PLAIN[name]},
    }
    annotation = folder / form.annotation
    if _claim(folder, about, layout) and annotation.exists():
        return folder
    counts = dict(zip(SPLITS, (train_identities, val_identities, test_identities)))
    tasks = [
        _Task(
            seed, identity, split, person, images_per_identity, captions_per_image, layout, folder, image_size, **given
        )
        for identity, (split, person) in enumerate(number_people(seed, counts))
        if split in known.splits
    ]
    with names_full_disk(folder):
        (folder / known.images).mkdir(exist_ok=True)
        records = _draw_all(tasks, images_per_identity, num_workers)
        write_whole(folder / "README.md", _readme(about, {split: counts[split] for split in known.splits}))
        write_whole(annotation, json.dumps(records, indent=1) + "\n")
    return folder


def _check_arguments(
    layout: str, seed: int, sizes: dict[str, int], image_size: tuple[int, int], num_workers: int | None
) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"Unknown layout {layout!r}; expected one of {', '.join(LAYOUTS)}.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; expected 0 or more.")
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more.")
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}; expected 1 or more, or None for one per processor.")
    if len(image_size) != 2 or image_size[0] < MIN_IMAGE_SIZE[0] or image_size[1] < MIN_IMAGE_SIZE[1]:
        raise ValueError(
            f"image_size is {tuple(image_size)}; expected (height, width) of at least {MIN_IMAGE_SIZE}: in smaller "
            "images bags and hats cannot be told apart."
        )


def _check_options(look: str, wrong_captions: float, wrong_attributes: int) -> None:
    if look not in LOOKS:
        raise ValueError(f"Unknown look {look!r}; expected one of {', '.join(LOOKS)}.")
    if not 0 <= wrong_captions <= 1:
        raise ValueError(f"wrong_captions is {wrong_captions}; expected a share in [0, 1].")
    if wrong_attributes < 1:
        raise ValueError(f"wrong_attributes is {wrong_attributes}; expected 1 or more.")
    if not wrong_captions and wrong_attributes != _PLAIN["wrong_attributes"]:
        raise ValueError(f"wrong_attributes is {wrong_attributes}, but no captions are; pass wrong_captions as well.")


def _claim(folder: Path, about: dict, layout: str) -> bool:
    """Makes the folder ours; True where it already was, made with the same arguments."""
    card = folder / SYNTHETIC_MARK
    if card.exists():
        try:
            found = json.loads(card.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            found = {}
        different = [
            f"{key} {found.get(key)!r} (asked: {about.get(key)!r})"
            for key in {**about, **dict.fromkeys(_PLAIN)}
            if found.get(key) != about.get(key)
        ]
        if different:
            raise FileExistsError(
                f"{layout}: {folder} holds a synthetic benchmark made with {', '.join(different)}. "
                "Pass another root, or delete that folder."
            )
        return True
    # A text that was being written when the process was killed is nobody's.
    names = sorted(path.name for path in folder.iterdir() if ".part" not in path.suffixes) if folder.exists() else []
    if names:
        raise FileExistsError(
            f"{layout}: {folder} holds {', '.join(names[:4] + ['...'] * (len(names) > 4))} and no {SYNTHETIC_MARK}, "
            "so it is not a synthetic benchmark and may be the real one. Pass another root; nothing was written."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(card, json.dumps(about, indent=2) + "\n")
    return False


@dataclass(frozen=True)
class _Task:
    """What a worker needs to draw and describe one person."""

    seed: int
    identity: int
    split: str
    person: Person
    images: int
    captions: int
    layout: str
    folder: Path
    image_size: tuple[int, int]
    look: str
    wrong_captions: float
    wrong_attributes: int


def _draw_person(task: _Task) -> list[dict]:
    """Saves the images of one person; returns their records."""
    form = LAYOUTS[task.layout]
    body = draw_body(task.seed, task.identity, task.person)
    records = []
    for index in range(task.images):
        wrong = task.wrong_captions, task.wrong_attributes
        plan = plan_image(task.seed, task.identity, index, task.split, task.person, task.captions, *wrong)
        path = form.image_path(plan)
        file = task.folder / form.benchmark.images / path
        file.parent.mkdir(parents=True, exist_ok=True)
        image = render_image(task.person, body, plan.shot, task.image_size)
        if task.look == "elsewhere":
            seeds = np.random.SeedSequence([task.seed, 15, task.identity, index])
            image = mix_colours(image, np.random.default_rng(seeds))
        image.save(file, "JPEG", quality=JPEG_QUALITY)
        records.append(_record(form.benchmark, plan, path, task))
    return records


def _draw_all(tasks: list[_Task], images_per_identity: int, num_workers: int | None) -> list[dict]:
    total = len(tasks) * images_per_identity
    workers = num_workers or os.cpu_count() or 1

    def follow(done: Iterable[list[dict]]) -> list[dict]:
        records = []
        with tqdm(total=total, desc="Drawing people", unit=" images") as bar:
            for drawn in done:
                records += drawn
                bar.update(len(drawn))
        return records

    if workers == 1 or total < MIN_PARALLEL_IMAGES:
        return follow(map(_draw_person, tasks))
    # Forked workers start at once; a fresh interpreter would first import torch and transformers.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_pool) as pool:
        return follow(pool.map(_draw_person, tasks, chunksize=8))


def _end_with_pool() -> None:
    """Lets a worker end with its parent, not before it and not after it.

    A stop is sent to all processes of a terminal or a job. A worker that ended first would be an error to the pool, so
    it gives the parent, which drops what is left to draw, some time. One whose parent was killed would wait for its
    next task for good.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: threading.Timer(5, os._exit, (128 + signal.SIGTERM,)).start())
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _record(known: Benchmark, plan: PlannedImage, path: str, task: _Task) -> dict:
    kept = plan.captions[: known.max_captions]
    captions = [caption.text for caption in kept]
    if task.look == "elsewhere":
        captions = [reword(caption) for caption in captions]
    record = {"id": plan.identity + known.first_id, known.path_field: path, "captions": captions, "split": plan.split}
    if task.wrong_captions and plan.split == "train":
        record["is_clean"] = [not caption.wrong for caption in kept]
    if known.tokens:
        record["processed_tokens"] = [re.findall(r"[a-z]+", caption.lower()) for caption in captions]
    return record


def _readme(about: dict, identities: dict[str, int]) -> str:
    height, width = about["image_size"]
    lines = [
        f"# synthetic-pedes, layout {about['layout']}",
        "",
        "Drawn by `modeling_amns` (`scripts/make_synthetic.py`): **not photographs, and not the real benchmark**",
        "whose layout it borrows. Results on it do not stand for results on CUHK-PEDES, ICFG-PEDES or RSTPReid.",
        "",
        f"Generator version {about['generator_version']}, seed {about['seed']}, {len(CAMERAS)} cameras, images of "
        f"{height} x {width} pixels (height x width).",
        *_wrong_lines(about),
        "",
        "| split | identities | images |",
        "| --- | --- | --- |",
        *(f"| {split} | {count} | {count * about['images_per_identity']} |" for split, count in identities.items()),
        "",
    ]
    return "\n".join(lines)


def _wrong_lines(about: dict) -> list[str]:
    if "wrong_captions" not in about:
        return []
    count = about.get("wrong_attributes", _PLAIN["wrong_attributes"])
    return [f"A share of {about['wrong_captions']} of the train captions is wrong in {count} attributes (`is_clean`)."]
