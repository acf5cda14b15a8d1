"""Pushes a trained checkpoint with its card to the Hub, or shows what would be pushed.

python scripts/push_to_hub.py outputs/quickstart ORG/NAME --dry-run
python scripts/push_to_hub.py outputs/quickstart ORG/NAME --private
"""

import argparse
import sys
import tempfile
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import HTTPError
from transformers.utils import logging

from modeling_amns.hub import push_checkpoint, stage_checkpoint


def main() -> int:
    """Exit code 0 on success, 1 with one line of explanation on bad input or a refusal of the Hub."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="output folder of a training run")
    parser.add_argument("repo_id", help="ORG/NAME")
    parser.add_argument("--private", action="store_true", default=None, help="a new repository is private")
    parser.add_argument("--revision", help="branch, default main")
    parser.add_argument(
        "--license",
        help="licence of the weights as the Hub names it; default: apache-2.0 for a run from scratch on "
        "synthetic-pedes, else not stated",
    )
    parser.add_argument("--license-name", help="its name, with --license other")
    parser.add_argument("--license-link", help="where it stands, with --license other")
    parser.add_argument(
        "--pictures", action="store_true", default=None, help="send pictures that show images of a real benchmark too"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the files and print the card, send nothing")
    options = parser.parse_args()
    card = {name: getattr(options, name) for name in ("license", "license_name", "license_link", "pictures")}
    # Bars of the upload stay; those of loading a small file say nothing.
    logging.disable_progress_bar()
    try:
        if options.dry_run:
            with tempfile.TemporaryDirectory() as folder:
                stage_checkpoint(options.checkpoint, options.repo_id, folder, **card)
                for file in sorted(Path(folder).iterdir()):
                    print(f"{file.stat().st_size:>12,}  {file.name}")
                print("\n" + (Path(folder) / "README.md").read_text(encoding="utf-8"))
            return 0
        commit = push_checkpoint(
            options.checkpoint,
            options.repo_id,
            private=options.private,
            revision=options.revision,
            **card,
        )
        print(f"Pushed: {commit.repo_url}")
    # The client's own error of an upload that failed is a RuntimeError.
    except (ValueError, OSError, RuntimeError) as error:
        return fail(f"{error} {error.__cause__ or ''}")
    except HTTPError as error:
        # An answer of the Hub is an OSError too, so here there was none.
        return fail(f"{constants.ENDPOINT} can't be reached ({error}). Check the network and HF_ENDPOINT, push again.")
    return 0


def fail(message: str) -> int:
    """One line for the user."""
    print(f"push_to_hub.py: {' '.join(message.split())}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
