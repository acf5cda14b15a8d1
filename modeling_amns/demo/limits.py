"""What may be asked of the page's server: a door before gradio's own, which opens many more."""

import asyncio
import contextlib
import ipaddress
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# All that the page asks for. Files of the machine (/gradio_api/file=...), addresses elsewhere (/gradio_api/proxy=...),
# code and functions by name are not among it: its pictures lie in the answers.
_READ = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/assets/[\w.-]+|/(svelte|static)(/[\w.-]+)+"
    r"|/gradio_api/(startup-events|app_id|queue/data|upload_progress|heartbeat/\w+)"
)
_WRITE = re.compile(r"/gradio_api/(queue/join|upload|cancel|reset)/?")
_UPLOAD = re.compile(r"/gradio_api/upload/?")
# Beside a file an upload holds a name and boundaries; a question is a sentence and some filters.
_AROUND, _QUESTION = 64 * 2**10, 2**20
# The page asks nobody else, whatever stands in it. gradio's templates are functions made of text.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'"
)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone; names of others that lead here do not count.

    >>> is_loopback("127.0.0.2"), is_loopback("127.0.0.1.example.org")
    (True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Door:
    """Lets through what the page asks for, within bounds, and refuses the rest.

    Args:
        app: behind the door.
        uploads: folder that uploads are written to.
        loopback: the server is this machine's alone: other names of it (DNS rebinding) and pages of others are
            refused.
        max_upload: bytes of a file.
        max_kept: bytes of all uploads; older ones make room.
        max_files: of all uploads.
        patience: seconds that an upload may take.
    """

    def __init__(
        self,
        app: App,
        uploads: Path,
        loopback: bool,
        max_upload: int,
        max_kept: int = 2**30,
        max_files: int = 200,
        patience: float = 60.0,
    ):
        self.app, self.uploads, self.loopback = app, uploads, loopback
        self.max_upload, self.max_kept, self.max_files, self.patience = max_upload, max_kept, max_files, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self.refusal(scope["method"], scope["path"], headers)
        if refused is not None:
            await _answer(send, *refused)
            return
        upload = bool(_UPLOAD.fullmatch(scope["path"]))
        if upload:
            make_room(self.uploads, int(headers["content-length"]), self.max_kept, self.max_files)
        elif scope["method"] == "POST":
            try:
                body = await asyncio.wait_for(_body(receive), self.patience)
            except asyncio.TimeoutError:
                await _answer(send, 408, f"A question may take {self.patience:g} seconds.")
                return
            if not names_only(body, self.uploads):
                await _answer(send, 403, "A file is named that was not sent.")
                return
            receive = _again(body, receive)
        begun = False

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = {b"content-security-policy": self.policy.encode(), b"referrer-policy": b"no-referrer"}
                own |= {b"x-content-type-options": b"nosniff"}
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in own]
                message = {**message, "headers": [*kept, *own.items()]}
            await send(message)

        if not upload:
            await self.app(scope, receive, guarded)
            return
        try:
            await asyncio.wait_for(self.app(scope, receive, guarded), self.patience)
        except asyncio.TimeoutError:
            if not begun:
                await _answer(send, 408, f"An upload may take {self.patience:g} seconds.")

    @property
    def policy(self) -> str:
        """What a browser lets the page do; nobody frames a page that is this machine's alone."""
        return f"{_POLICY}; frame-ancestors 'none'" if self.loopback else _POLICY

    def refusal(self, method: str, path: str, headers: MutableMapping[str, str]) -> tuple[int, str] | None:
        """Status and reason why a request is refused, `None` if it is not.

        Args:
            method, path: of the request, the path without its escapes.
            headers: by name in small letters.
        """
        if self.loopback:
            if not is_loopback(_hostname(headers.get("host", ""))):
                return 403, "This page is served to this machine alone."
            origin = headers.get("origin")
            if method == "POST" and origin is not None and origin.partition("://")[2] != headers["host"]:
                return 403, "Another page asked for this."
        known = {"GET": _READ, "HEAD": _READ, "POST": _WRITE}.get(method)
        if known is None or not known.fullmatch(path) or ".." in path:
            return 404, "There is no such page."
        if method == "POST":
            size = headers.get("content-length", "")
            if not (size.isascii() and size.isdigit()):
                return 411, "The length is missing."
            limit = self.max_upload + _AROUND if _UPLOAD.fullmatch(path) else _QUESTION
            if int(size) > limit:
                return 413, f"At most {limit - (_AROUND if limit > _QUESTION else 0):,} bytes are taken."
        return None


def names_only(body: bytes, folder: Path) -> bool:
    """Whether a question is JSON whose files all lie in a folder.

    gradio would copy any other that it is given the path of, and fetch any address.

    >>> names_only(b'{"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]}', Path("/tmp/uploads"))
    False
    """
    try:
        rest = [json.loads(body)] if body else []
    except (ValueError, RecursionError):
        return False
    root = os.path.realpath(folder)
    while rest:
        part = rest.pop()
        if isinstance(part, dict):
            path = part.get("path")
            # Whatever kind of file it says to be. No path holds a zero.
            if isinstance(path, str) and ("\0" in path or not os.path.realpath(path).startswith(root + os.sep)):
                return False
            rest += part.values()
        elif isinstance(part, list):
            rest += part
    return True


def make_room(folder: Path, size: int, max_bytes: int, max_files: int) -> None:
    """Removes the oldest files in a folder and its sub-folders until another of `size` bytes fits into the bounds."""
    found = _files(folder)
    total, count = sum(entry[2] for entry in found) + size, len(found) + 1
    for _, file, length in sorted(found):
        if total <= max_bytes and count <= max_files:
            return
        Path(file).unlink(missing_ok=True)
        total, count = total - length, count - 1


def remove_old(folder: Path, seconds: float) -> None:
    """Removes the files in a folder and its sub-folders that have lain there for so long."""
    for changed, file, _ in _files(folder):
        if changed / 1e9 < time.time() - seconds:
            Path(file).unlink(missing_ok=True)


def _files(folder: Path) -> list[tuple[int, str, int]]:
    """Time of the last change in ns, path and bytes of each file in a folder and its sub-folders."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                state = os.stat(os.path.join(place, name), follow_symlinks=False)
                found.append((state.st_mtime_ns, os.path.join(place, name), state.st_size))
    return found


def _hostname(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    # A bracket that is not closed.
    except ValueError:
        return ""


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """What receives a body that was read already, and then whatever follows."""
    left = [body]

    async def replay() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": left.pop(), "more_body": False} if left else await receive()

    return replay


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


__all__ = ["App", "Door", "is_loopback", "make_room", "names_only", "remove_old"]
