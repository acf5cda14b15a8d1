"""Pushes a trained checkpoint with its card to the Hub, or the card of a benchmark; or shows what would be pushed.

python scripts/push_to_hub.py outputs/quickstart ORG/NAME --dry_run
python scripts/push_to_hub.py outputs/quickstart ORG/NAME --private
python scripts/push_to_hub.py cuhk-pedes ORG/NAME --dataset_card --dry_run
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
from modeling_amns.hub import push_checkpoint, push_dataset_card, stage_checkpoint


@dataclass
class PushArguments:
    """Where it goes."""

    private: bool = field(default=False, metadata={"help": "A new repository is private; a public one is refused."})
    revision: str | None = field(default=None, metadata={"help": "Branch; default main."})
    dry_run: bool = field(default=False, metadata={"help": "List the files and print the card, send nothing."})
    dataset_card: bool = field(
        default=False, metadata={"help": "The first word is a benchmark, whose card alone is pushed."}
    )


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
    options, card, checkpoint, repo_id = parse((PushArguments, CardArguments), __doc__, words)
    # Bars of the upload stay; those of loading a small file say nothing.
    logging.disable_progress_bar()
    where = {"private": options.private or None, "revision": options.revision}
    said = {**vars(card), "pictures": card.pictures or None}
    if options.dataset_card:
        if given := [name for name, value in said.items() if value]:
            raise ValueError(f"--{given[0]} is for checkpoints; the card of a benchmark says what its authors say.")
        if options.dry_run:
            print(dataset_card(checkpoint))
            return 0
        commit = push_dataset_card(checkpoint, repo_id, **where)
    elif options.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            stage_checkpoint(checkpoint, repo_id, folder, **said)
            for file in sorted(Path(folder).iterdir()):
                print(f"{file.stat().st_size:>12,}  {file.name}")
            print("\n" + (Path(folder) / "README.md").read_text(encoding="utf-8"))
        return 0
    else:
        commit = push_checkpoint(checkpoint, repo_id, **where, **said)
    print(f"Pushed: {commit.repo_url}")
    return 0


if __name__ == "__main__":
    # The client's own error of an upload that failed is a RuntimeError.
    sys.exit(run_script("push_to_hub.py", main, (RuntimeError,)))
