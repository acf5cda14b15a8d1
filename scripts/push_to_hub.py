"""Pushes a checkpoint with its card, a benchmark's card or the demo page to the Hub; or shows what would be pushed.

python scripts/push_to_hub.py outputs/quickstart ORG/NAME --dry_run
python scripts/push_to_hub.py outputs/quickstart ORG/NAME --private
python scripts/push_to_hub.py cuhk-pedes ORG/NAME --dataset_card --dry_run
python scripts/push_to_hub.py photos ORG/NAME --space --dry_run
"""

import modeling_amns  # noqa: F401  before all that is slow: Ctrl-C ends it in one line from here on

# isort: split
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from transformers.utils import logging

from modeling_amns.cards import dataset_card
from modeling_amns.cli import parse, run_script
from modeling_amns.hub import push_checkpoint, push_dataset_card, push_space, stage_checkpoint, stage_space


@dataclass
class PushArguments:
    """Where it goes."""

    private: bool = field(default=False, metadata={"help": "A new repository is private; a public one is refused."})
    revision: str | None = field(default=None, metadata={"help": "Branch; default main."})
    dry_run: bool = field(default=False, metadata={"help": "List the files and print the card, send nothing."})
    dataset_card: bool = field(
        default=False, metadata={"help": "The first word is a benchmark, whose card alone is pushed."}
    )
    space: bool = field(
        default=False,
        metadata={"help": "The first word is an indexed folder of images; with the demo page it becomes a Space."},
    )


@dataclass
class SpaceArguments:
    """What a Space shows."""

    model: str | None = field(default=None, metadata={"help": "Checkpoint; default the one that indexed the images."})
    gallery: str | None = field(default=None, metadata={"help": "Where it lies; default .amns in the folder."})
    public: bool = field(default=False, metadata={"help": "Everybody sees the Space; default private."})


@dataclass
class CardArguments:
    """What the card of a checkpoint says."""

    license: str | None = field(
        default=None,
        metadata={
            "help": "Licence of the weights as the Hub names it; default: apache-2.0 for a run from scratch on "
            "synthetic-pedes, else not stated."
        },
    )
    license_name: str | None = field(default=None, metadata={"help": "Its name, with --license other."})
    license_link: str | None = field(default=None, metadata={"help": "Where it stands, with --license other."})
    pictures: bool = field(default=False, metadata={"help": "Send pictures that show images of a real benchmark too."})


def main() -> int:
    """Pushes, or shows what would be."""
    words = {"checkpoint": "output folder of a training run", "repo_id": "ORG/NAME"}
    options, card, space, checkpoint, repo_id = parse((PushArguments, CardArguments, SpaceArguments), __doc__, words)
    # Bars of the upload stay; those of loading a small file say nothing.
    logging.disable_progress_bar()
    where = {"private": options.private or None, "revision": options.revision}
    said = {**vars(card), "pictures": card.pictures or None}
    if options.space and options.dataset_card:
        raise ValueError("A push is of a Space or of a benchmark's card; leave out --space or --dataset_card.")
    if (options.dataset_card or options.space) and (given := [name for name, value in said.items() if value]):
        raise ValueError(f"--{given[0]} is for checkpoints; {_why(options.space)}")
    if not options.space and (given := [name for name, value in vars(space).items() if value]):
        raise ValueError(f"--{given[0]} is for --space.")
    if options.space:
        return _space(options, space, checkpoint, repo_id)
    if options.dataset_card:
        if options.dry_run:
            print(dataset_card(checkpoint))
            return 0
        commit = push_dataset_card(checkpoint, repo_id, **where)
    elif options.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            stage_checkpoint(checkpoint, repo_id, folder, **said)
            _show(Path(folder))
        return 0
    else:
        commit = push_checkpoint(checkpoint, repo_id, **where, **said)
    print(f"Pushed: {commit.repo_url}")
    return 0


def _why(space: bool) -> str:
    return "the images of a Space have their own." if space else "the card of a benchmark says what its authors say."


def _space(options: PushArguments, space: SpaceArguments, images: str, repo_id: str) -> int:
    if options.revision is not None:
        raise ValueError("--revision is not for --space: the Hub runs what main holds.")
    if options.private and space.public:
        raise ValueError("--private and --public exclude each other; leave one out.")
    if options.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            stage_space(images, folder, space.model, space.gallery)
            _show(Path(folder))
        return 0
    commit = push_space(images, repo_id, space.model, space.gallery, private=not space.public)
    print(f"Pushed: {commit.repo_url}")
    return 0


def _show(folder: Path) -> None:
    """Lists what would be sent, folders by how much is in them, and prints the card."""
    for entry in sorted(folder.iterdir()):
        files = [file for file in entry.rglob("*") if file.is_file()] if entry.is_dir() else [entry]
        count = f"/  {len(files):,} files" if entry.is_dir() else ""
        print(f"{sum(file.stat().st_size for file in files):>12,}  {entry.name}{count}")
    print("\n" + (folder / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    # The client's own error of an upload that failed is a RuntimeError.
    sys.exit(run_script("push_to_hub.py", main, (RuntimeError,)))
