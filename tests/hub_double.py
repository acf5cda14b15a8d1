"""A small Hub on 127.0.0.1 for tests: repositories, commits, LFS and downloads as huggingface_hub speaks them.

It holds files by content in memory and writes every request to a log, so that tests can say what travelled. Spoken:
`whoami`, `repos/create`, `branch`, `validate-yaml`, `preupload`, `commit` (ndjson), Xet transfers both ways (the store
is `xet_double.py`), for clients without hf-xet LFS batch with basic transfer, repository info, tree listing, and
`resolve` with ETag and commit headers, which sends those who want a large file on to its store.

Where it is stricter than a stub: a card whose metadata the Hub would refuse is refused, a branch or folder that is not
there is a 404, a repository that is not there a 401 to those who have no token, a commit onto an old parent a 412;
large contents are checked against their sha256.
"""

import base64
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from card_rules import card_errors
from xet_double import XetRoutes, XetStore

TOKEN = "hf_double"
# Files of these kinds travel by Xet or LFS, as on the Hub; others are part of the commit.
LFS_SUFFIXES = (".safetensors", ".bin", ".png", ".parquet")
_API = re.compile(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(.*))?$")
_RESOLVE = re.compile(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")
_LFS_BATCH = re.compile(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch$")


class Repo:
    """One repository: commits, each a whole tree {path: oid}, newest last; branches name the commit they stand at."""

    def __init__(self, private: bool):
        self.private = private
        self.commits: list[tuple[str, dict[str, str]]] = [(_sha1(b"empty"), {})]
        self.branches = {"main": self.commits[0][0]}

    def at(self, revision: str) -> tuple[str, dict[str, str]] | None:
        """Commit id and tree of a branch or of a commit id."""
        revision = self.branches.get(revision, revision)
        return next((commit for commit in self.commits if commit[0] == revision), None)


class HubDouble:
    """The server; use as a context manager.

    Attributes:
        repos: repositories by (kind, id), kind `models`, `datasets` or `spaces`.
        objects: contents of large files by sha256.
        xet: what arrived by Xet.
        log: (method, path) of every request.
        uploads: names of LFS contents (sha256) and xorbs (hash) that were sent, in order.
        committed: the paths that each commit changed, in order.
        first_upload_takes: seconds before the first upload of a large file is answered.
        fail_uploads: so many uploads of large files from now on are refused.
        hold_uploads: one upload of a large file is let in, later ones (by Xet: what makes files of it) wait for ever:
            the moment to kill a client in.
    """

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.xet = XetStore()
        self.log: list[tuple[str, str]] = []
        self.uploads: list[str] = []
        self.committed: list[list[str]] = []
        self.first_upload_takes = 0.0
        self.fail_uploads = 0
        self.hold_uploads = False
        self.let_in = 0
        self.holding = threading.Event()
        self.lock = threading.Lock()
        double = self

        class Handler(_Handler):
            hub = double

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "HubDouble":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.server.shutdown()
        self.server.server_close()

    def files(self, repo_id: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        """The content of a repository."""
        return {path: self.content(oid) for path, oid in self.repos[kind, repo_id].at(revision)[1].items()}

    def content(self, oid: str) -> bytes:
        """A file's bytes by its sha256 (LFS) or git id."""
        return self.objects[oid] if oid in self.objects else self.blobs[oid]


class _Handler(XetRoutes, BaseHTTPRequestHandler):
    hub: HubDouble
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        url = urlsplit(self.path)
        # A revision with a slash comes quoted and must not be cut there.
        quoted, path = url.path, unquote(url.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else self._chunks()
        self.hub.log.append((method, path))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if path.startswith("/lfs/"):
            oid = path.removeprefix("/lfs/")
            return self._put(oid, body) if method == "PUT" else self.send_range(self.hub.objects[oid])
        if path.startswith(("/v1/", "/v2/", "/xorbs/")):
            return self.xet(method, path, body, token)
        if token and token != TOKEN:
            return self.send(401, {"error": "Invalid credentials in Authorization header"}, "InvalidToken")
        if path == "/api/whoami-v2":
            return self.send(200, {"name": "org", "type": "user", "orgs": [], "auth": {"type": "access_token"}})
        if path == "/api/validate-yaml":
            card = json.loads(body)
            errors = [{"message": error} for error in card_errors(card["content"], card["repoType"])]
            return self.send(400 if errors else 200, {"errors": errors, "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body), token)
        if match := _LFS_BATCH.match(path):
            return self._batch(json.loads(body))
        if match := _API.match(quoted):
            kind, repo_id, rest = match.groups()
            return self._api(method, kind, repo_id, rest or "", body, token)
        if match := _RESOLVE.match(quoted):
            kind, repo_id, revision, file = match.groups()
            return self._resolve(kind or "models", repo_id, unquote(revision), unquote(file), token)
        return self.send(404, {"error": f"no such page {path}"})

    def _chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _create(self, wanted: dict, token: str) -> None:
        if not token:
            return self.send(401, {"error": "Invalid username or password."})
        kind = wanted.get("type", "model") + "s"
        repo_id = f"{wanted.get('organization') or 'org'}/{wanted['name']}"
        known = (kind, repo_id) in self.hub.repos
        self.hub.repos.setdefault(
            (kind, repo_id), Repo(wanted.get("visibility") == "private" or wanted.get("private"))
        )
        prefix = "" if kind == "models" else f"{kind}/"
        answer = {"url": f"{self.hub.url}/{prefix}{repo_id}", "name": repo_id, "id": "1"}
        self.send(409 if known else 200, {**answer, "error": "You already created this repo"} if known else answer)

    def _api(self, method: str, kind: str, repo_id: str, rest: str, body: bytes, token: str) -> None:
        repo = self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and not token):
            return self._not_found(token)
        action, _, argument = rest.partition("/")
        revision, folder = map(unquote, argument.partition("/")[::2])
        if action == "branch":
            return self._branch(repo, unquote(argument), json.loads(body), token)
        commit = repo.at(revision or "main")
        if commit is None:
            return self.send(404, {"error": f"Invalid rev id: {revision}"}, "RevisionNotFound")
        oid, tree = commit
        if action in ("xet-read-token", "xet-write-token"):
            return self.xet_token(action, token)
        if action == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                    "shouldIgnore": False,
                    "oid": tree.get(file["path"]),
                }
                for file in json.loads(body)["files"]
            ]
            return self.send(200, {"files": files, "commitOid": oid})
        if action == "commit":
            return self._commit(repo, repo_id, revision, body, token)
        if action == "tree":
            return self._tree(tree, folder.strip("/"))
        if action == "paths-info":
            paths = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            return self.send(200, [self._entry(path, tree[path]) for path in paths if path in tree])
        siblings = [{"rfilename": path} for path in sorted(tree)]
        self.send(200, {"id": repo_id, "modelId": repo_id, "sha": oid, "private": repo.private, "siblings": siblings})

    def _branch(self, repo: Repo, name: str, wanted: dict, token: str) -> None:
        if not token:
            return self.send(401, {"error": "Invalid username or password."})
        if name in repo.branches:
            return self.send(409, {"error": f"Reference already exists: {name}"})
        repo.branches[name] = repo.at(wanted.get("startingPoint") or "main")[0]
        self.send(200, {})

    def _tree(self, tree: dict[str, str], folder: str) -> None:
        prefix = f"{folder}/" if folder else ""
        inside = {path: oid for path, oid in sorted(tree.items()) if path.startswith(prefix)}
        if folder and not inside:
            return self.send(404, {"error": f"{folder} does not exist"}, "EntryNotFound")
        deep = self.query.get("recursive", "false").lower() in ("true", "1")
        entries = {}
        for path, oid in inside.items():
            steps = path.removeprefix(prefix).split("/")
            for depth in range(1, len(steps)):
                if deep or depth == 1:
                    name = prefix + "/".join(steps[:depth])
                    entries[name] = {"type": "directory", "path": name, "oid": _sha1(name.encode()), "size": 0}
            if deep or len(steps) == 1:
                entries[path] = self._entry(path, oid)
        self.send(200, list(entries.values()))

    def _entry(self, path: str, oid: str) -> dict:
        entry = {"type": "file", "path": path, "oid": oid, "size": len(self.hub.content(oid))}
        if oid in self.hub.objects:
            entry["lfs"] = {"oid": oid, "size": entry["size"], "pointerSize": 130}
        return entry

    def _commit(self, repo: Repo, repo_id: str, branch: str, body: bytes, token: str) -> None:
        if not token:
            return self.send(401, {"error": "Invalid username or password."})
        if branch not in repo.branches:
            return self.send(404, {"error": f"Invalid rev id: {branch}"}, "RevisionNotFound")
        head, tree = repo.at(branch)
        tree, changed = dict(tree), []
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header" and value.get("parentCommit") not in (None, head):
                return self.send(412, {"error": "A commit has happened since"})
            if item["key"] == "file":
                content = base64.b64decode(value["content"])
                oid = _sha1(b"blob %d\0" % len(content) + content)
                self.hub.blobs[oid] = content
                tree[value["path"]] = oid
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    return self.send(400, {"error": f"LFS object {value['oid']} was never uploaded"})
                tree[value["path"]] = value["oid"]
            elif item["key"] == "deletedFile":
                del tree[value["path"]]
            if item["key"] != "header":
                changed.append(value["path"])
        oid = _sha1(json.dumps([len(repo.commits), tree]).encode())
        repo.commits.append((oid, tree))
        repo.branches[branch] = oid
        self.hub.committed.append(sorted(changed))
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}"}
        self.send(200, answer)

    def _batch(self, wanted: dict) -> None:
        objects = []
        for item in wanted["objects"]:
            known = item["oid"] in self.hub.objects
            actions = {} if known else {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}}
            objects.append({**item, "authenticated": True, **actions})
        self.send(200, {"transfer": "basic", "objects": objects})

    def let_through(self) -> bool:
        """Whether an upload may go on; if not, it has been answered."""
        with self.hub.lock:
            held = self.hub.hold_uploads and self.hub.let_in > 0
            first = self.hub.let_in == 0
            self.hub.let_in += 1
            refused = self.hub.fail_uploads > 0
            self.hub.fail_uploads -= refused
        if first:
            time.sleep(self.hub.first_upload_takes)
        if held:
            self.hub.holding.set()
            # Until the client is gone; then its connection reads as ended.
            self.connection.recv(1)
        elif refused:
            self.send(403, {"error": "upload refused"})
        return not (held or refused)

    def _put(self, oid: str, body: bytes) -> None:
        if not self.let_through():
            return None
        if hashlib.sha256(body).hexdigest() != oid:
            return self.send(400, {"error": "content does not match its sha256"})
        self.hub.objects[oid] = body
        self.hub.uploads.append(oid)
        self.send(200, {})

    def _not_found(self, token: str) -> None:
        """Who has no token learns less: not whether there is such a repository."""
        answer = (404, "Repository not found") if token else (401, "Invalid username or password.")
        self.send(answer[0], {"error": answer[1]}, "RepoNotFound")

    def send_range(self, content: bytes) -> None:
        """A large file or the part of it that is asked for."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.send(200, content)
        first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
        headers = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        return self.send(206, content[first : last + 1], None, headers)

    def _resolve(self, kind: str, repo_id: str, revision: str, file: str, token: str) -> None:
        repo = self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and not token):
            return self._not_found(token)
        commit = repo.at(revision)
        if commit is None:
            return self.send(404, {"error": f"Invalid rev id: {revision}"}, "RevisionNotFound")
        if file not in commit[1]:
            return self.send(404, {"error": "Entry not found"}, "EntryNotFound", {"X-Repo-Commit": commit[0]})
        oid = commit[1][file]
        content = self.hub.content(oid)
        headers = {"ETag": f'"{oid}"', "X-Repo-Commit": commit[0]}
        if oid not in self.hub.objects:
            return self.send(200, content, None, headers)
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": len(content)}
        # Another host than the Hub's, as its stores are.
        headers["Location"] = f"http://localhost:{self.hub.server.server_port}/lfs/{oid}"
        if oid in self.hub.xet.hash_of:
            read = f"{self.hub.url}/api/{kind}/{repo_id}/xet-read-token/{commit[0]}"
            headers |= {"X-Xet-Hash": self.hub.xet.hash_of[oid], "Link": f'<{read}>; rel="xet-auth"'}
        self.send(302, b"", None, headers)

    def send(self, status: int, answer, error: str | None = None, headers: dict[str, object] | None = None) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if error:
            self.send_header("X-Error-Code", error)
            self.send_header("X-Error-Message", json.loads(content)["error"])
        for name, value in (headers or {}).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
