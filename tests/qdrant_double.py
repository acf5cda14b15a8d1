"""A Qdrant server for tests: its REST interface over the client's local mode; requests go over a connection."""

import contextlib
import http.server
import json
import re
import threading
from collections.abc import Iterator

from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models
from qdrant_client.http import models as rest

ROUTE = re.compile(r"/collections/(\w+)(/exists|/index|/points(?:/(?:query|scroll|delete|count))?)?(?:\?.*)?")
# What each request's body has to be, as Qdrant's own description of its interface says.
BODIES = {
    ("PUT", None): rest.CreateCollection,
    ("PATCH", None): rest.UpdateCollection,
    ("PUT", "/index"): rest.CreateFieldIndex,
    ("PUT", "/points"): rest.PointsList,
    ("POST", "/points"): rest.PointRequest,
    ("POST", "/points/query"): rest.QueryRequest,
    ("POST", "/points/scroll"): rest.ScrollRequest,
    ("POST", "/points/delete"): rest.PointIdsList,
    ("POST", "/points/count"): rest.CountRequest,
}


def answer(local: QdrantClient, method: str, name: str, action: str | None, body):
    """What the local mode answers to a request."""
    if (method, action) == ("GET", "/exists"):
        return {"exists": local.collection_exists(name)}
    if (method, action) == ("GET", None):
        return local.get_collection(name)
    asked = TypeAdapter(BODIES[method, action]).validate_python(body)
    match method, action:
        case "PUT", None:
            return local.create_collection(name, vectors_config=asked.vectors, metadata=asked.metadata)
        case "PATCH", None:
            return local.update_collection(name, metadata=asked.metadata)
        case "PUT", "/index":
            return local.create_payload_index(name, asked.field_name, asked.field_schema)
        case "PUT", "/points":
            return local.upsert(name, asked.points)
        case "POST", "/points":
            return local.retrieve(name, asked.ids, asked.with_payload, asked.with_vector)
        case "POST", "/points/query":
            return local.query_points(
                name, asked.query, query_filter=asked.filter, limit=asked.limit, with_payload=asked.with_payload
            )
        case "POST", "/points/scroll":
            points, place = local.scroll(
                name,
                limit=asked.limit,
                offset=asked.offset,
                with_payload=asked.with_payload,
                with_vectors=asked.with_vector,
            )
            return models.ScrollResult(points=points, next_page_offset=place)
        case "POST", "/points/delete":
            return local.delete(name, asked)
    return local.count(name)


class Handler(http.server.BaseHTTPRequestHandler):
    """One request after the other."""

    def answer(self):
        name, action = ROUTE.fullmatch(self.path).groups()
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        try:
            status, found = 200, answer(self.server.local, self.command, name, action, body)
        except ValueError as error:
            status, found = 400, str(error)
        content = TypeAdapter(object).dump_json({"result": found, "status": "ok", "time": 0.0})
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_PATCH = answer

    def log_message(self, *arguments): ...


@contextlib.contextmanager
def qdrant_server() -> Iterator[str]:
    """Address of a server that is empty."""
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.local = QdrantClient(":memory:", force_disable_check_same_thread=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        server.local.close()
