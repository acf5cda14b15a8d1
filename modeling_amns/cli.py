"""What every program of `scripts/` shares: options from dataclasses, errors in one line, and an orderly end.

from modeling_amns.cli import parse, run_script

def main() -> int:
    options, folder = parse((Options,), "Counts what is in a folder.", {"folder": "what to count"})
    ...
    return 0

if __name__ == "__main__":
    sys.exit(run_script("count.py", main))
"""

import contextlib
import dataclasses
import difflib
import importlib.machinery
import importlib.util
import inspect
import os
import re
import signal
import sys
import time
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast, get_type_hints

import datasets
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError
from transformers import HfArgumentParser
from transformers.debug_utils import DebugOption
from transformers.utils import logging

from . import disk
from .stops import Stops, is_first_process

# What bad input, a full disk or a missing package raises; anything else is a fault of ours and keeps its traceback.
USER_ERRORS = (ValueError, OSError, ImportError, MemoryError, HTTPError, SafetensorError)
# torch, accelerate and transformers raise RuntimeError or AssertionError for these.
_SURROUNDINGS = re.compile(
    r"out of memory|alloc|CUDA|cuda|NVIDIA|NCCL|HIP|XPU|MPS|[Dd]evice|inline_container|PytorchStream|No space left"
    r"|DataLoader worker|shared memory|pip install|to be installed|gloo|[Cc]onnection (closed|reset)",
)
# What one process says of another that has ended. What was sent to all of them at once, or the end of their launcher,
# may be known there first; by so many seconds.
_ENDED = {"DataLoader worker": 0.5, "gloo": 1.5, "NCCL": 1.5, "onnection closed": 1.5, "onnection reset": 1.5}
_TRUTH = {"yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"}
_LONGEST = 1000


class OptionParser(HfArgumentParser):
    """`HfArgumentParser` whose `--help` reads well and which says what it does not know.

    Fields stand in groups by the class that declares them, titled by the first line of its docstring; a class may
    divide its own with `_argument_groups`, a mapping of the first field of a group to its title. The package's own
    come first, those of `transformers` last. Each option is spelt with underscores or hyphens. A switch takes the
    next word as its value only if that is one (`--int8 exported` leaves `exported` alone).
    """

    def __init__(self, dataclass_types: Sequence[type], **options: Any):
        texts = {"usage": "%(prog)s [options]", "epilog": "--debug shows where an error came from."}
        super().__init__(cast(Any, dataclass_types), **{**texts, **options})

    def _add_dataclass_arguments(self, dtype: type) -> None:
        hints = get_type_hints(dtype)
        for title, fields in option_groups(dtype).items():
            group = cast(ArgumentParser, self.add_argument_group(title))
            for field in fields:
                field.type = hints[field.name]
                self._parse_dataclass_field(group, field)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Namespace | None = None
    ) -> tuple[Namespace, list[str]]:
        """As argparse's, after a `true` was written out behind each switch that stands alone."""
        words = list(sys.argv[1:] if args is None else args)
        switches = {name for action in self._actions if action.nargs == "?" for name in action.option_strings}
        for place, word in enumerate(words):
            if word in switches and words[place + 1 : place + 2] and words[place + 1].lower() not in _TRUTH:
                words[place] = f"{word}=true"
        return super().parse_known_args(words, namespace)

    def parse_all(self, arguments: Sequence[str] | None = None) -> tuple[Any, ...]:
        """An instance of each dataclass, and the namespace of options that were added by hand if there are any.

        Raises:
            ValueError: there is no such option, or a dataclass refuses its values.
        """
        *parsed, rest = self.parse_args_into_dataclasses(
            None if arguments is None else list(arguments), return_remaining_strings=True, look_for_args_file=False
        )
        if rest:
            known = [name for action in self._actions for name in action.option_strings]
            near = difflib.get_close_matches(rest[0].split("=")[0], known, 1)
            guess = f"Did you mean {near[0]}? " if near else ""
            kind = "option" if rest[0].startswith("-") else "place for the word"
            raise ValueError(f"There is no {kind} {rest[0]!r}. {guess}--help lists all options.")
        return tuple(parsed)

    def error(self, message: str) -> NoReturn:
        """One line and exit code 2, without a usage that fills the screen."""
        self.exit(2, f"{self.prog}: {printable(message)}. --help lists all options.\n")


def option_groups(dtype: type) -> dict[str, list[dataclasses.Field]]:
    """The fields of a dataclass by the title of their group in `--help`, the package's own before transformers'."""
    fields = {field.name: field for field in dataclasses.fields(dtype) if field.init}
    owners = [owner for owner in reversed(dtype.__mro__) if dataclasses.is_dataclass(owner)]
    # A field that a derived class declares again, for another default, is the derived one's.
    owner_of = {name: owner for owner in owners for name in owner.__dict__.get("__annotations__", {})}
    groups: dict[str, list[dataclasses.Field]] = {}
    for owner in sorted(owners, key=lambda owner: owner.__module__.startswith("transformers.")):
        title = (
            getattr(owner, "_argument_group_name", None) or (inspect.getdoc(owner) or owner.__name__).splitlines()[0]
        )
        title = f"{owner.__name__} of transformers" if owner.__module__.startswith("transformers.") else title
        starts = owner.__dict__.get("_argument_groups", {})
        for name in owner.__dict__.get("__annotations__", {}):
            if name in fields and owner_of[name] is owner:
                title = starts.get(name, title)
                groups.setdefault(title.rstrip("."), []).append(fields[name])
    return groups


def parse(
    kinds: Sequence[type],
    description: str | None,
    positionals: Mapping[str, str] | None = None,
    arguments: Sequence[str] | None = None,
) -> tuple[Any, ...]:
    """Reads the command line.

    Args:
        kinds: dataclasses, a field an option.
        description: what the program does; of a module's docstring the first line.
        positionals: name and help of the words that must be given, in their order.
        arguments: the words; default those of the command line.
    Returns:
        an instance of each dataclass, then the text of each positional.
    Raises:
        ValueError: there is no such option, or a dataclass refuses its values.
    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Options:
        ...     '''What to do.'''
        ...     data_root: str = "data"
        >>> parse((Options,), "Evaluates.", {"model": "checkpoint"}, ["outputs", "--data-root", "d"])
        (Options(data_root='d'), 'outputs')
    """
    parser = OptionParser(kinds, description=(description or "").strip().split("\n")[0])
    for name, text in (positionals or {}).items():
        parser.add_argument(name, help=text)
    if positionals:
        parser.usage = " ".join(["%(prog)s", *(name.upper() for name in positionals), "[options]"])
    parsed = parser.parse_all(arguments)
    if not positionals:
        return parsed
    return (*parsed[: len(kinds)], *(getattr(parsed[-1], name) for name in positionals))


def run_script(name: str, main: Callable[[], int], errors: tuple[type[Exception], ...] = ()) -> int:
    """Runs a program and turns what ended it into one line on stderr and an exit code.

    Args:
        name: of the program, the start of the line.
        main: returns the exit code.
        errors: kinds that are the user's besides `USER_ERRORS`.
    Returns:
        what `main` returns; 1 after an error of the user or the machine, 130 after Ctrl-C, 143 after SIGTERM. Other
        errors are raised. With `--debug`, which is taken out of `sys.argv`, the traceback stands above the line.
    """
    debug = _take_debug(sys.argv)
    # A file name may hold characters that the console has not: after the work is no time to find out.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if not sys.stderr.isatty():  # a log file gets no line for each step of a bar
        logging.disable_progress_bar()
        datasets.disable_progress_bars()
    stops = Stops()
    try:
        with stops:
            try:
                code = main()
            except Exception as error:
                time.sleep(next((seconds for text, seconds in _ENDED.items() if text in str(error)), 0.0))
                raise
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        return _stopped(name, stops, debug)
    except BrokenPipeError as error:
        # Unless it was another pipe, whoever read the output has seen enough.
        return 1 if _give_up_output() else _fail(name, error_line(error), 1, debug)
    except Exception as error:
        if stops.received:  # it broke what was being done
            return _stopped(name, stops, debug)
        surroundings = isinstance(error, (RuntimeError, AssertionError)) and _SURROUNDINGS.search(str(error))
        if surroundings or disk.names_no_room(error) or isinstance(error, (*USER_ERRORS, *errors)):
            return _fail(name, error_line(error), 1, debug)
        raise


def _take_debug(words: list[str]) -> bool:
    """Takes `--debug` out of a command line; with one of transformers' own values behind it is an option of theirs."""
    values = {option.value for option in DebugOption}
    found = [
        place
        for place, word in enumerate(words)
        if place and word == "--debug" and not values.intersection(words[place + 1 : place + 2])
    ]
    for place in reversed(found):
        del words[place]
    return bool(found)


def error_line(error: BaseException) -> str:
    """An error's text in one line; of one that a worker process raised, what the worker said.

    >>> error_line(ValueError("Caught ValueError in worker 0.\\nOriginal Traceback (most recent call last):\\n"
    ...                       "  File 'a.py', line 1, in f\\n    g()\\nValueError: a.jpg is truncated.\\n"))
    'a.jpg is truncated.'
    """
    text = str(error)
    _, found, tail = text.rpartition("Traceback (most recent call last):\n")
    if found:
        lines = tail.splitlines()
        while lines and (not lines[0].strip() or lines[0].startswith(" ")):
            lines.pop(0)
        text = re.sub(r"^[\w.]+: ", "", "\n".join(lines)) or text
    if isinstance(error, HTTPError) and not isinstance(error, OSError):
        # An answer of the Hub is an OSError too, so here there was none.
        text = (
            f"{constants.ENDPOINT} can't be reached ({text or type(error).__name__}). Check network and HF_ENDPOINT."
        )
    if isinstance(error, MemoryError) and not text:
        text = "out of memory."
    if not isinstance(error, disk.DiskFullError) and disk.names_no_room(error):
        text = f"no space left on the disk: {text}"
    text = printable(text or type(error).__name__)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def printable(text: str) -> str:
    """A text in one line, with the codes of characters that steer a terminal."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in " ".join(text.split())
    )


def stand_aside(name: str, file: str) -> None:
    """Puts the library of a script's name in its place when a neighbour of the script imports that name.

    The folder of a script stands first on the path of every script in it, so that in `scripts/` the statement
    `import evaluate` finds `scripts/evaluate.py`.

    Args:
        name: `__name__` of the script.
        file: its `__file__`.
    Raises:
        ModuleNotFoundError: there is no such library.
    """
    script = Path(file).resolve()
    if name != script.stem or getattr(sys.modules[name], "__file__", None) != file:
        return  # run, or installed as one of the package's modules, or aside already
    path = [place for place in sys.path if Path(place or ".").resolve() != script.parent]
    spec = importlib.machinery.PathFinder.find_spec(name, path)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r} besides {script}", name=name)
    library = importlib.util.module_from_spec(spec)
    sys.modules[name] = library
    spec.loader.exec_module(library)


def _stopped(name: str, stops: Stops, debug: bool) -> int:
    code = 128 + (stops.received or signal.SIGINT)
    # All processes of a run are stopped together; one says so.
    return _fail(name, "stopped.", code, debug) if is_first_process() or debug else code


def _fail(name: str, line: str, code: int, debug: bool) -> int:
    """Says why the program ends; called while the error is being handled."""
    with contextlib.suppress(OSError):  # nowhere to say it
        if debug:
            traceback.print_exc()
        print(f"{name}: {line}", file=sys.stderr)
    _give_up_output()
    return code


def _give_up_output() -> bool:
    """Whether nothing can be printed any more: then nothing is tried, neither at the end of the interpreter."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


__all__ = [
    "USER_ERRORS",
    "OptionParser",
    "error_line",
    "option_groups",
    "parse",
    "printable",
    "run_script",
    "stand_aside",
]
