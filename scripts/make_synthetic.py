"""Writes the synthetic person retrieval benchmark.

python scripts/make_synthetic.py --root data
python scripts/make_synthetic.py --root data --layout rstpreid --train_identities 200 --sheet people.png
"""

import json
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from modeling_amns.cli import parse, run_script
from modeling_amns.data.benchmarks import BENCHMARKS
from modeling_amns.data.synthetic import LAYOUTS, make_synthetic_benchmark
from modeling_amns.disk import names_full_disk


@dataclass
class SheetArguments:
    """A picture of what was made."""

    sheet: str | None = field(default=None, metadata={"help": "PNG file for a contact sheet of the test split."})
    sheet_images: int = field(default=24, metadata={"help": "How many images the contact sheet shows."})


@dataclass
class SyntheticArguments:
    """What to write, and where."""

    root: str = field(default="data", metadata={"help": "Folder that will hold the benchmark's folder."})
    layout: str = field(default="synthetic-pedes", metadata={"help": "One of " + ", ".join(LAYOUTS) + "."})
    seed: int = field(default=0, metadata={"help": "Same seed and sizes, same bytes."})
    train_identities: int = field(default=2400, metadata={"help": "People in the train split."})
    val_identities: int = field(default=200, metadata={"help": "People in the val split."})
    test_identities: int = field(default=300, metadata={"help": "People in the test split."})
    images_per_identity: int = field(default=4, metadata={"help": "Images of each person."})
    captions_per_image: int = field(default=2, metadata={"help": "Captions of each image (icfg-pedes keeps one)."})
    image_size: list[int] = field(
        default_factory=lambda: [128, 48], metadata={"help": "Height and width of the images in pixels."}
    )
    num_workers: int | None = field(default=None, metadata={"help": "Processes that draw; default one a processor."})
    look: str = field(
        default="plain", metadata={"help": "plain, or elsewhere: mixed colours and other words, to start from."}
    )
    wrong_captions: float = field(default=0.0, metadata={"help": "Share of train captions that are partly wrong."})
    wrong_attributes: int = field(default=2, metadata={"help": "How many attributes such a caption gets wrong."})


def write_sheet(folder: Path, layout: str, file: str, count: int, columns: int = 6) -> None:
    """Saves a grid of `count` images spread over the test split, each with its captions below it."""
    known = BENCHMARKS[layout]
    records = json.loads((folder / known.annotations[0]).read_text(encoding="utf-8"))
    records = [record for record in records if record["split"] == "test"]
    chosen = [records[i * len(records) // count] for i in range(min(count, len(records)))]
    tall, wide, text_height, font = 300, 250, 190, ImageFont.load_default(13)
    rows = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * wide, rows * (tall + text_height)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, record in enumerate(chosen):
        x, y = place % columns * wide, place // columns * (tall + text_height)
        with Image.open(folder / known.images / record[known.path_field]) as photo:
            photo = photo.resize((round(tall * photo.width / photo.height), tall), Image.Resampling.BICUBIC)
        sheet.paste(photo, (x + (wide - photo.width) // 2, y + 4))
        lines = [f"id {record['id']}  {record[known.path_field]}"]
        for caption in record["captions"][:2]:
            lines += textwrap.wrap(f"- {caption}", 38)
        pen.multiline_text((x + 6, y + tall + 8), "\n".join(lines[:13]), "black", font, spacing=1)
    with names_full_disk(file):
        sheet.save(file)


def main() -> int:
    """Writes the benchmark, and a picture of it on request."""
    options, sheet = parse((SyntheticArguments, SheetArguments), __doc__)
    folder = make_synthetic_benchmark(**{**vars(options), "image_size": tuple(options.image_size)})
    print(f"Wrote {options.layout} to {folder}")
    if sheet.sheet:
        write_sheet(folder, options.layout, sheet.sheet, sheet.sheet_images)
        print(f"Wrote contact sheet to {sheet.sheet}")
    return 0


if __name__ == "__main__":
    sys.exit(run_script("make_synthetic.py", main))
