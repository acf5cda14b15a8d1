"""The command `amns`: `index`, `search` and `demo` of folders of person images, and every program of `scripts/`.

amns index photos --model outputs/quickstart --metadata cameras.csv
amns search photos "a woman in a red coat with a black backpack" --where "camera = 'c3'"
amns demo photos
amns evaluate outputs/quickstart --benchmark synthetic-pedes --data_root data

Nothing heavy is imported before it is needed: with an exported model a search is over before torch would be there.
"""

import argparse
import contextlib
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .demo.commands import add_demo, demo
from .retrieval.options import add_index, add_search


def _index(options: argparse.Namespace) -> int:
    from .retrieval.commands import index

    return index(options)


def _search(options: argparse.Namespace) -> int:
    from .retrieval.commands import search

    return search(options)


_OWN: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int], str]] = {
    "index": (add_index, _index, "Embeds the images of a folder, or those that are new in it."),
    "search": (add_search, _search, "Finds the images of a folder that fit a sentence best."),
    "demo": (add_demo, demo, "Shows a page that searches an indexed folder."),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    programs = scripts()
    if words and words[0] in _OWN:
        return run(words[0], words[1:])
    if words and words[0].replace("-", "_") in programs:
        return _run_script(programs[words[0].replace("-", "_")], words[1:])
    parser = argparse.ArgumentParser("amns", description="Text-to-image person retrieval.", usage="amns COMMAND ...")
    listed = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (_, _, text) in _OWN.items():
        listed.add_parser(name, help=text)
    for name, file in programs.items():
        listed.add_parser(name, help=_first_line(file))
    parser.parse_args(words or ["--help"])
    return 2


def run(name: str, words: Sequence[str], program: str | None = None) -> int:
    """Runs `index`, `search` or `demo`.

    Args:
        name: which.
        words: its options, spelt with underscores or hyphens.
        program: what messages call it.
    """
    add, function, text = _OWN[name]
    program = program or f"amns {name}"
    parser = _Parser(prog=program, description=text)
    add(parser)
    # As the other programs: --no-index is --no_index.
    words = [re.sub(r"^--[a-z-]+", lambda found: "--" + found[0][2:].replace("-", "_"), word) for word in words]
    options = parser.parse_args(words)
    options.program = program
    with _bars_for_terminals_only():
        return _guarded(program, lambda: function(options))


@contextlib.contextmanager
def _bars_for_terminals_only() -> Iterator[None]:
    """A log file gets no line for each step of a bar."""
    before = os.environ.get("TQDM_DISABLE")
    if before is not None or sys.stderr.isatty():
        yield
        return
    if "transformers" in sys.modules:
        sys.modules["transformers"].logging.disable_progress_bar()
    # For what is imported later.
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        del os.environ["TQDM_DISABLE"]


class _Parser(argparse.ArgumentParser):
    """One line of error, as the other programs."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}. --help lists all options.\n")


def scripts() -> dict[str, Path]:
    """The programs by name: inside the package once installed, beside it in the source."""
    folder = Path(__file__).parent
    found = next(place for place in (folder / "scripts", folder.parent / "scripts", folder) if place.is_dir())
    files = sorted(found.glob("*.py")) if found != folder else []
    return {
        file.stem: file for file in files if file.stem not in _OWN and not file.stem.startswith(("_", "benchmark_"))
    }


def _run_script(file: Path, words: Sequence[str]) -> int:
    # As Python does for a script, whose neighbours are imported by name.
    sys.argv, sys.path = [str(file), *words], [str(file.parent), *sys.path]
    try:
        runpy.run_path(str(file), run_name="__main__")
    finally:
        sys.path = sys.path[1:]
    return 0


def _first_line(file: Path) -> str:
    found = re.match(r'"""(.+?)(?:"""|\n\n)', file.read_text(encoding="utf-8"), re.DOTALL)
    # argparse reads % as the start of a place for a value.
    return " ".join(found[1].split()).replace("%", "%%") if found else ""


def _guarded(program: str, function: Callable[[], int]) -> int:
    """As `cli.run_script`, without what that imports unless something unforeseen happens."""
    for stream in (sys.stdout, sys.stderr):
        # Names that the console can't show are escaped.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    try:
        code = function()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(f"{program}: stopped; what is embedded is kept.", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ValueError, OSError, ImportError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
        print(f"{program}: {shown[:1000]}", file=sys.stderr)
        return 1
    except Exception as error:
        from .cli import run_script

        unforeseen = error

        def again() -> int:
            raise unforeseen

        return run_script(program, again)


if __name__ == "__main__":
    sys.exit(main())
