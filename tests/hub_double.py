"""A small Hub on 127.0.0.1 for tests: repositories, commits, LFS and downloads as huggingface_hub speaks them.

It holds files by content in memory and writes every request to a log, so that tests can say what travelled. Spoken:
`whoami`, `repos/create`, `branch`, `validate-yaml`, `preupload`, `commit` (ndjson), LFS batch with basic transfer,
repository info, tree listing, and `resolve` with ETag and commit headers. Clients run with HF_HUB_DISABLE_XET=1.

Where it is stricter than a stub: a card whose metadata the Hub would refuse is refused, a branch or folder that is not
there is a 404, a commit onto an old parent is a 412, LFS contents are checked against their sha256.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

TOKEN = "hf_double"
# Files of these kinds travel by LFS, as on the Hub; others are part of the commit.
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
        objects: LFS contents by sha256.
        log: (method, path) of every request.
        uploads: sizes of LFS contents that were sent, in order.
        committed: the paths that each commit changed, in order.
        fail_uploads: so many LFS uploads from now on are refused.
        hold_uploads: one LFS upload is let in, later ones wait for ever: the moment to kill a client in.
    """

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []
        self.uploads: list[int] = []
        self.committed: list[list[str]] = []
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


class _Handler(BaseHTTPRequestHandler):
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
        path = unquote(url.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else self._chunks()
        self.hub.log.append((method, path))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if method == "PUT" and path.startswith("/lfs/"):
            return self._put(path.removeprefix("/lfs/"), body)
        if token and token != TOKEN:
            return self._send(401, {"error": "Invalid credentials in Authorization header"}, "InvalidToken")
        if path == "/api/whoami-v2":
            return self._send(200, {"name": "org", "type": "user", "orgs": [], "auth": {"type": "access_token"}})
        if path == "/api/validate-yaml":
            card = json.loads(body)
            errors = [{"message": error} for error in card_errors(card["content"], card["repoType"])]
            return self._send(400 if errors else 200, {"errors": errors, "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body), token)
        if match := _LFS_BATCH.match(path):
            return self._batch(json.loads(body))
        if match := _API.match(path):
            kind, repo_id, rest = match.groups()
            return self._api(method, kind, repo_id, rest or "", body, token)
        if match := _RESOLVE.match(path):
            kind, repo_id, revision, file = match.groups()
            return self._resolve(method, kind or "models", repo_id, revision, file, token)
        return self._send(404, {"error": f"no such page {path}"})

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
            return self._send(401, {"error": "Invalid username or password."})
        kind = wanted.get("type", "model") + "s"
        repo_id = f"{wanted.get('organization') or 'org'}/{wanted['name']}"
        known = (kind, repo_id) in self.hub.repos
        self.hub.repos.setdefault(
            (kind, repo_id), Repo(wanted.get("visibility") == "private" or wanted.get("private"))
        )
        prefix = "" if kind == "models" else f"{kind}/"
        answer = {"url": f"{self.hub.url}/{prefix}{repo_id}", "name": repo_id, "id": "1"}
        self._send(409 if known else 200, {**answer, "error": "You already created this repo"} if known else answer)

    def _api(self, method: str, kind: str, repo_id: str, rest: str, body: bytes, token: str) -> None:
        repo = self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and not token):
            return self._send(404, {"error": "Repository not found"}, "RepoNotFound")
        action, _, argument = rest.partition("/")
        revision, _, folder = argument.partition("/")
        if action == "branch":
            return self._branch(repo, argument, json.loads(body), token)
        commit = repo.at(revision or "main")
        if commit is None:
            return self._send(404, {"error": f"Invalid rev id: {revision}"}, "RevisionNotFound")
        oid, tree = commit
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
            return self._send(200, {"files": files, "commitOid": oid})
        if action == "commit":
            return self._commit(repo, repo_id, revision, body, token)
        if action == "tree":
            return self._tree(tree, folder.strip("/"))
        if action == "paths-info":
            paths = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            return self._send(200, [self._entry(path, tree[path]) for path in paths if path in tree])
        siblings = [{"rfilename": path} for path in sorted(tree)]
        self._send(200, {"id": repo_id, "modelId": repo_id, "sha": oid, "private": repo.private, "siblings": siblings})

    def _branch(self, repo: Repo, name: str, wanted: dict, token: str) -> None:
        if not token:
            return self._send(401, {"error": "Invalid username or password."})
        if name in repo.branches:
            return self._send(409, {"error": f"Reference already exists: {name}"})
        repo.branches[name] = repo.at(wanted.get("startingPoint") or "main")[0]
        self._send(200, {})

    def _tree(self, tree: dict[str, str], folder: str) -> None:
        prefix = f"{folder}/" if folder else ""
        inside = {path: oid for path, oid in sorted(tree.items()) if path.startswith(prefix)}
        if folder and not inside:
            return self._send(404, {"error": f"{folder} does not exist"}, "EntryNotFound")
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
        self._send(200, list(entries.values()))

    def _entry(self, path: str, oid: str) -> dict:
        entry = {"type": "file", "path": path, "oid": oid, "size": len(self.hub.content(oid))}
        if oid in self.hub.objects:
            entry["lfs"] = {"oid": oid, "size": entry["size"], "pointerSize": 130}
        return entry

    def _commit(self, repo: Repo, repo_id: str, branch: str, body: bytes, token: str) -> None:
        if not token:
            return self._send(401, {"error": "Invalid username or password."})
        if branch not in repo.branches:
            return self._send(404, {"error": f"Invalid rev id: {branch}"}, "RevisionNotFound")
        head, tree = repo.at(branch)
        tree, changed = dict(tree), []
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header" and value.get("parentCommit") not in (None, head):
                return self._send(412, {"error": "A commit has happened since"})
            if item["key"] == "file":
                content = base64.b64decode(value["content"])
                oid = _sha1(b"blob %d\0" % len(content) + content)
                self.hub.blobs[oid] = content
                tree[value["path"]] = oid
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    return self._send(400, {"error": f"LFS object {value['oid']} was never uploaded"})
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
        self._send(200, answer)

    def _batch(self, wanted: dict) -> None:
        objects = []
        for item in wanted["objects"]:
            known = item["oid"] in self.hub.objects
            actions = {} if known else {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}}
            objects.append({**item, "authenticated": True, **actions})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _put(self, oid: str, body: bytes) -> None:
        with self.hub.lock:
            held = self.hub.hold_uploads and self.hub.let_in > 0
            self.hub.let_in += 1
            refused = self.hub.fail_uploads > 0
            self.hub.fail_uploads -= refused
        if held:
            self.hub.holding.set()
            # Until the client is gone; then its connection reads as ended.
            self.connection.recv(1)
            return None
        if refused:
            return self._send(403, {"error": "upload refused"})
        if hashlib.sha256(body).hexdigest() != oid:
            return self._send(400, {"error": "content does not match its sha256"})
        self.hub.objects[oid] = body
        self.hub.uploads.append(len(body))
        self._send(200, {})

    def _resolve(self, method: str, kind: str, repo_id: str, revision: str, file: str, token: str) -> None:
        repo = self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and not token):
            return self._send(404, {"error": "Repository not found"}, "RepoNotFound")
        commit = repo.at(revision)
        if commit is None:
            return self._send(404, {"error": f"Invalid rev id: {revision}"}, "RevisionNotFound")
        if file not in commit[1]:
            return self._send(404, {"error": "Entry not found"}, "EntryNotFound", {"X-Repo-Commit": commit[0]})
        oid = commit[1][file]
        content = self.hub.content(oid)
        headers = {"ETag": f'"{oid}"', "X-Repo-Commit": commit[0], "Accept-Ranges": "bytes"}
        if oid in self.hub.objects:
            headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        self._send(200, content, None, headers)

    def _send(self, status: int, answer, error: str | None = None, headers: dict[str, str] | None = None) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if error:
            self.send_header("X-Error-Code", error)
            self.send_header("X-Error-Message", json.loads(content)["error"])
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


# A part of the Hub's lists, as far as cards of this package use them.
LICENSES = {"apache-2.0", "mit", "other", "cc-by-4.0"}
TASKS = {"zero-shot-image-classification", "image-to-text", "image-feature-extraction"}


def card_errors(content: str, repo_type: str) -> list[str]:
    """Why the Hub would refuse a card: no YAML mapping in front, unknown licence or task, a broken model-index."""
    parts = content.split("---\n")
    if not content.startswith("---\n") or len(parts) < 3:
        return ["the card has no metadata block"]
    try:
        data = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        return [f"metadata is not YAML: {error}"]
    if not isinstance(data, dict):
        return ["metadata is no mapping"]
    errors = []
    if data.get("license", "mit") not in LICENSES:
        errors.append(f'"license" must be one of {sorted(LICENSES)}, found {data.get("license")!r}')
    if data.get("license") == "other" and not (data.get("license_name") and data.get("license_link")):
        errors.append('"license: other" needs "license_name" and "license_link"')
    tasks = [*data.get("task_categories", []), *([data["pipeline_tag"]] if "pipeline_tag" in data else [])]
    errors += [f"{task!r} is no task of the Hub" for task in tasks if task not in TASKS]
    for field in ("tags", "datasets", "metrics"):
        if any(not isinstance(value, str) for value in data.get(field, [])):
            errors.append(f'"{field}" must be a list of names')
    if repo_type == "space" and data.get("sdk") not in ("gradio", "static", "docker"):
        errors.append(f'"sdk" is {data.get("sdk")!r}')
    if "model-index" in data:
        try:
            _, results = model_index_to_eval_results(data["model-index"])
            values = {result.metric_type: result.metric_value for result in results}
            errors += [f"{name} is {value!r}, no number" for name, value in values.items() if not _is_number(value)]
        except (KeyError, TypeError, IndexError) as error:
            errors.append(f'"model-index" cannot be read: {error!r}')
    return errors


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
