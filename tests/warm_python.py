"""Programs as processes of their own, copied from one that has imported what is slow: a second instead of five.

`python tests/warm_python.py SOCKET MODULE ...` imports the modules and waits. For each program that it is asked for it
makes a copy of itself, which gets environment, folder, output and arguments of its own and runs as `__main__`. What
reads its environment when it is imported (everything of Hugging Face) must not be among the modules unless it is the
same for all programs.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

# What torch, transformers and datasets bring, without a module of Hugging Face's that reads its environment.
LIBRARIES = (
    *("torch", "torch._dynamo", "torch.distributed.tensor", "torch.utils.data", "numpy", "pandas", "scipy.optimize"),
    *("sympy", "pyarrow.dataset", "pyarrow.parquet", "PIL.Image", "aiohttp", "requests", "httpx", "fsspec", "dill"),
    *("multiprocess.pool", "yaml", "jinja2", "sklearn.metrics"),
)
_servers: dict[tuple[str, ...], "_Server"] = {}


class _Server:
    def __init__(self, modules: Sequence[str]):
        self.socket, theirs = socket.socketpair()
        command = [sys.executable, __file__, str(theirs.fileno()), *modules]
        # Apart from this terminal's group, whose Ctrl-C is not for it; it ends with the socket.
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()
        atexit.register(self.end)

    def start(self, request: dict, output: Sequence[int]) -> int:
        socket.send_fds(self.socket, [json.dumps(request).encode()], output)
        return int(self.socket.recv(32))

    def end(self) -> None:
        """Waits for it, so that what its programs have used is counted as this process's."""
        self.socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)


class WarmProcess:
    """As `subprocess.Popen`, of a Python program with its output in pipes.

    Args:
        words: what stands behind `python`: a script and its arguments, or `-c` and a program.
        modules: imported before.
        env, cwd: as `Popen`.
    """

    def __init__(self, words: Sequence[object], env: dict[str, str], cwd: Path | None = None, modules=LIBRARIES):
        self.args, self.returncode = [sys.executable, *map(str, words)], None
        server = _servers.get(modules)
        if server is None:
            server = _servers[modules] = _Server(modules)
        pipes = [os.pipe() for _ in range(3)]
        request = {"words": self.args[1:], "env": env, "cwd": str(cwd or Path.cwd())}
        self.pid = server.start(request, [write for _, write in pipes])
        for _, write in pipes:
            os.close(write)
        self._read = {read: b"" for read, _ in pipes}

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Output and errors, once the process has ended."""
        if self.returncode is None:
            end = time.monotonic() + timeout
            with selectors.DefaultSelector() as selector:
                for read in self._read:
                    selector.register(read, selectors.EVENT_READ)
                while selector.get_map():
                    ready = selector.select(end - time.monotonic())
                    if not ready and time.monotonic() > end:
                        raise subprocess.TimeoutExpired(self.args, timeout)
                    for key, _ in ready:
                        part = os.read(key.fd, 2**16)
                        self._read[key.fd] += part
                        if not part:
                            selector.unregister(key.fd)
                            os.close(key.fd)
            self.returncode = int(list(self._read.values())[2])
        out, err, _ = (content.decode(errors="replace") for content in self._read.values())
        return out, err

    def kill(self) -> None:
        """Ends it, if it has not ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class FreshProcess(subprocess.Popen):
    """The same, of an interpreter that begins anew."""

    def __init__(self, words: Sequence[object], env: dict[str, str], cwd: Path | None = None, modules=LIBRARIES):
        pipe = subprocess.PIPE
        super().__init__([sys.executable, *map(str, words)], env=env, cwd=cwd, stdout=pipe, stderr=pipe, text=True)


# Libraries of other systems do not bear being copied in the midst of their work.
if sys.platform != "linux":
    WarmProcess = FreshProcess  # type: ignore[assignment, misc]


def run(
    words: Sequence[object], env: dict[str, str], cwd: Path | None = None, timeout: float = 300, modules=LIBRARIES
):
    """A program's end, as `subprocess.run` gives it."""
    process = WarmProcess(words, env, cwd, modules)
    try:
        out, err = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _serve(connection: socket.socket, modules: Sequence[str]) -> None:
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # Copies share what nobody writes to.
    gc.collect()
    gc.freeze()
    while True:
        message, output, _, _ = socket.recv_fds(connection, 2**24, 3)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG if message else 0)[0]:
                pass
        if not message:
            os._exit(0)
        if os.fork() == 0:
            connection_fd = connection.detach()
            _look_after(json.loads(message), output, connection_fd)
        for descriptor in output:
            os.close(descriptor)


def _look_after(request: dict, output: list[int], connection: int) -> None:
    """In a process between: tells the program's number at its start and its exit code at its end."""
    out, err, code = output
    pid = os.fork()
    if pid == 0:
        os.close(connection)
        os.close(code)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        _become(request)
    os.write(connection, str(pid).encode())
    os.close(out)
    os.close(err)
    _, status = os.waitpid(pid, 0)
    os.write(code, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(request: dict) -> None:
    """Runs a program as Python would, and ends as it does."""
    os.setsid()
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    first, *rest = request["words"]
    program = rest.pop(0) if first == "-c" else None
    sys.argv = ["-c" if program is not None else first, *rest]
    own = [part for part in request["env"].get("PYTHONPATH", "").split(os.pathsep) if part]
    # The first is this file's folder.
    sys.path[:] = ["" if program is not None else str(Path(first).parent), *own, *_PATH]
    for name in ("sitecustomize", "__main__"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    status = 0
    try:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module("sitecustomize")
        if program is None:
            runpy.run_path(first, run_name="__main__")
        else:
            module = type(sys)("__main__")
            sys.modules["__main__"] = module
            exec(compile(program, "<string>", "exec"), vars(module))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    # What waits for the end of the interpreter, but not the taking apart of all modules, which takes seconds.
    threading._shutdown()
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _PATH = [part for part in sys.path if Path(part or ".").resolve() != Path(__file__).parent]
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
