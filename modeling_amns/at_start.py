"""Lets Ctrl-C and SIGTERM end a script of this package in one line while it still imports torch, which takes seconds.

The package's first import, so that it comes before all that is slow; scripts import the package before anything else.
Later `cli.run_script` is in charge. A program that is none of the scripts is left alone. Nothing but the standard
library may be imported here.
"""

import os
import signal
import sys
from types import FrameType

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
# In a clone beside the package, installed inside it.
_SCRIPTS = (os.path.join(os.path.dirname(_PACKAGE), "scripts"), os.path.join(_PACKAGE, "scripts"))


def _script(words: list[str]) -> str | None:
    """The script of ours that a process was started for: by its file, also through a launcher, or by `-m`."""
    for word in words[1:]:
        folder, name = os.path.split(os.path.abspath(word))
        module, _, stem = word.rpartition(".")
        if module == "modeling_amns.scripts":
            folder, name = "scripts", f"{stem}.py"
        # A clone may be run with the package installed elsewhere.
        known = name.endswith(".py") and any(os.path.isfile(os.path.join(place, name)) for place in _SCRIPTS)
        if known and os.path.basename(folder) == "scripts":
            return name
    return None


def _stop(number: int, _: FrameType | None) -> None:
    # All processes of a run are stopped together; one says so.
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{_NAME}: stopped.\n".encode(errors="replace"))
    # What is half imported can't be asked to put things away.
    os._exit(128 + number)


# What the process was started with; a test that runs a script has its own name there.
_NAME = _script(sys.orig_argv)
if _NAME is not None:
    try:
        for _number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(_number, _stop)
    except ValueError:
        pass  # not the main thread: signals are somebody else's
