"""PersonGallery on a server: the client's local mode against the other stores; faults of servers, a line each."""

import http.server
import sys
import threading
import warnings

import numpy as np
import pyarrow.parquet
import pytest
import qdrant_client
from gallery_double import Counting
from PIL import Image
from qdrant_double import qdrant_server
from test_gallery import FILTERS, table

from modeling_amns.commands import main
from modeling_amns.retrieval import PersonGallery, qdrant_store
from modeling_amns.retrieval.lance_store import LanceStore
from modeling_amns.retrieval.qdrant_store import QdrantStore
from modeling_amns.retrieval.store import MemoryStore
from modeling_amns.retrieval.table import FileState, Table

URL = "qdrant://localhost:6333/persons"
SETTINGS = {"format": 1, "name": "m", "model": {"dimension": 8}}
# Filters that have no equal on a server.
REFUSED = {"path like 'a/1%x.png'", "camera not like 'c_'"}


@pytest.fixture
def server(monkeypatch):
    """The client's local mode, which has the server's interface, in memory; whoever connects finds the same rows."""
    client = qdrant_client.QdrantClient(":memory:")
    monkeypatch.setattr(qdrant_client, "QdrantClient", lambda **options: client)
    with warnings.catch_warnings():
        # That indexes of columns and approximate search are the server's alone.
        warnings.simplefilter("ignore", UserWarning)
        yield client
    client.close()


@pytest.fixture
def store(server):
    made = QdrantStore(URL)
    made.create(SETTINGS)
    return made


def same_hits(found, wanted):
    assert [hit.path for hit in found] == [hit.path for hit in wanted]
    assert [hit.metadata for hit in found] == [hit.metadata for hit in wanted]
    np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in wanted], atol=1e-6)


def test_filters_keep_on_a_server_what_they_keep_in_a_folder(tmp_path, store):
    """Values that are not there are neither equal nor unequal, however often NOT stands before them."""
    others = [MemoryStore(8), LanceStore(tmp_path, 8)]
    for keeper in (store, *others):
        keeper.put(table())
    query = table().vectors[3]
    more = [
        "not (camera = 'c1' and frame > 3)",
        "not not (camera is null or not indoor)",
        "camera not in ('c1', 'c2') and not frame in (1, 2.0)",
        "frame not between -3 and 4.5",
        "path like '%1''x%' or path like 'a/3%'",
        "camera not like '%1%'",
        "camera like '%' and not camera like 'c1'",
        "indoor in (true) or height = 2.25",
        "\"seen at\" <> '2026-11-01' and not \"seen at\" > '2026-11-03 02:00'",
        "\"seen at\" = '2026-11-01T07:00'",
    ]
    for where in (set(FILTERS) - REFUSED) | set(more):
        found = store.search(query, 40, where, None, None)
        for other in others:
            wanted = other.search(query, 40, where, None, None)
            same_hits(found, wanted)
        assert where in FILTERS or 0 < len(found) < 40, where


def test_requests_over_a_connection_are_those_that_qdrant_describes(monkeypatch):
    """Every request of a store, read by Qdrant's own models of its interface."""
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    monkeypatch.setattr(qdrant_store, "_ROWS", 15)
    other = MemoryStore(8)
    with qdrant_server() as address, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        store = QdrantStore(f"qdrant://{address}/persons")
        assert not store.exists()
        store.create(SETTINGS)
        store.write_settings({**SETTINGS, "source": "photos", "open": "elsewhere"})
        assert store.settings == {**SETTINGS, "source": "photos"}
        for keeper in (store, other):
            keeper.put(table())
            keeper.remove(["a/3'x.png"])
        query = table().vectors[3]
        for where in (*(set(FILTERS) - REFUSED), "path like 'a/1%' and path like '%2%'"):
            same_hits(*(keeper.search(query, 40, where, None, None) for keeper in (store, other)))
        same_hits(*(keeper.search(query, 4, None, "camera", None) for keeper in (store, other)))
        same_hits(store.search(query, 4, None, None, False), other.search(query, 4, None, None, None))
        assert len(store) == 39 and store.states() == other.states()
        np.testing.assert_array_equal(store.vectors(["a/5'x.png"]), other.vectors(["a/5'x.png"]))
        assert store.read(vectors=True).values["seen at"] != [] and store.kinds == other.kinds


@pytest.mark.parametrize(
    ("where", "message"),
    [
        *((where, "LIKE 'a', 'a%' or '%a%' only") for where in sorted(REFUSED)),
        ("camera like '%1'", "LIKE 'a', 'a%' or '%a%' only"),
        ("camera < 'c2'", "compares text values by ="),
        ("not (camera between 'a' and 'b')", "found camera BETWEEN"),
        ("indoor > false", "compares boolean values by ="),
        ("frame > 9007199254740993", "orders integers below 9,007,199,254,740,992 only"),
        ("kamera = 'c3'", "no column kamera"),
        ("camera = 'c3' or", "a column is missing"),
    ],
)
def test_a_filter_that_a_server_cannot_answer_is_refused_by_name(store, where, message):
    store.put(table())
    with pytest.raises(ValueError) as raised:
        store.search(table().vectors[3], 5, where, None, None)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_groups_count_and_rows_are_those_of_the_other_stores(store):
    other = MemoryStore(8)
    for keeper in (store, other):
        keeper.put(table())
        keeper.remove([f"a/{n}'x.png" for n in (3, 4, 99)])
        replaced = table(2, seed=1)
        replaced.values["camera"] = ["c8", "c9"]
        keeper.put(replaced)
    assert len(store) == len(other) == 38
    query = table().vectors[5]
    for group_by, k in (("camera", 3), ("camera", 38), ("seen at", 5), ("indoor", 9)):
        same_hits(*(keeper.search(query, k, None, group_by, None) for keeper in (store, other)))
    with pytest.raises(ValueError, match="no such column"):
        store.search(query, 3, None, "person", None)
    order = sorted(range(38), key=lambda row: other.table.paths[row])
    found, wanted = store.read(vectors=True), other.table.select(order)
    assert (found.paths, found.files, found.kinds, found.values) == (
        wanted.paths, wanted.files, wanted.kinds, wanted.values
    )  # fmt: skip
    np.testing.assert_array_equal(found.vectors, wanted.vectors)
    np.testing.assert_array_equal(store.vectors(wanted.paths[:3][::-1]), wanted.vectors[:3][::-1])
    assert store.vectors([]).shape == (0, 8) and store.states() == other.states()


def test_columns_change_their_kind_and_a_killed_change_is_completed(store, monkeypatch):
    monkeypatch.setattr(qdrant_store, "_ROWS", 3)
    other = MemoryStore(8)
    for keeper in (store, other):
        keeper.put(table(10))
    words = Table(["w"], [FileState(1, 1, "w")], table(1).vectors, {"frame": "text", "seen at": "text"})
    words.values = {"frame": ["x"], "seen at": ["noon"]}
    upsert, left = store.client.upsert, [2]

    def killed(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return upsert(*arguments)

    monkeypatch.setattr(store.client, "upsert", killed)
    with pytest.raises(KeyboardInterrupt):
        store.put(words)
    other.table = other.table.in_kinds({**other.kinds, "frame": "text", "seen at": "text"})
    assert sorted(map(str, store.read().values["seen at"])) == sorted(map(str, other.table.values["seen at"]))
    left[0] = 99
    store.put(words)
    other.put(words)
    assert store.kinds == other.kinds
    for where in ("frame = '-19'", "frame = 'x' or \"seen at\" = '2026-11-01T07:00:00'"):
        same_hits(*(keeper.search(words.vectors[0], 9, where, None, None) for keeper in (store, other)))


@pytest.fixture
def photos(tmp_path):
    for number, colour in enumerate(("red", "green", "blue", "yellow")):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (16, 32), colour).save(tmp_path / "photos" / f"{number}.png")
    lines = [f"{n}.png,c{n % 2},{n // 2}" for n in range(4)]
    (tmp_path / "cameras.csv").write_text("\n".join(["path,camera,person_id", *lines]))
    return tmp_path / "photos"


def test_a_gallery_is_indexed_updated_and_opened_on_a_server(server, tmp_path, photos):
    encoder = Counting()
    gallery = PersonGallery.from_images(encoder, None, photos, tmp_path / "cameras.csv", URL)
    assert len(encoder.embedded) == len(gallery) == 4 and URL in repr(gallery)
    opened = PersonGallery.load(URL, encoder)
    assert opened.columns == {"camera": "text", "person_id": "integer"} and opened.source == photos
    assert [hit.path for hit in opened.search("red", k=4, where="camera = 'c0'")] == ["0.png", "2.png"]
    assert [hit.metadata["person_id"] for hit in opened.search("red", k=4, group_by="person_id")] == [0, 1]
    Image.new("RGB", (16, 32), "white").save(photos / "4.png")
    (photos / "1.png").unlink()
    assert not opened.is_current()
    changes = opened.update()
    assert (changes.added, changes.removed, changes.unchanged) == (1, 1, 3) and opened.is_current()
    assert opened.remove("4.png") == 1 and opened.add([photos / "0.png"]).copied == 1
    with pytest.raises(ValueError, match=f"{URL} was embedded by another model .* other weights"):
        PersonGallery.load(URL, Counting("other"))
    with pytest.raises(ValueError, match="other weights"):
        PersonGallery.from_images(Counting("other"), None, photos, folder=URL)
    with pytest.raises(ValueError, match="into a gallery in a folder"):
        PersonGallery.from_images(encoder, None, photos, folder=URL, detector="d")
    with pytest.raises(ValueError, match="makes its index itself"):
        opened.build_index()


def test_galleries_go_to_a_server_and_back_through_parquet(server, tmp_path, photos):
    encoder, file = Counting(), tmp_path / "a.parquet"
    local = PersonGallery.from_images(encoder, None, photos, tmp_path / "cameras.csv", tmp_path / "gallery")
    local.export_parquet(file)
    PersonGallery.from_parquet(file, encoder, folder=URL).export_parquet(tmp_path / "b.parquet")
    first, second = (pyarrow.parquet.read_table(name).sort_by("path") for name in (file, tmp_path / "b.parquet"))
    assert first.equals(second)
    saved = local.save("qdrant://localhost/other")
    same_hits(saved.search("green", k=2), local.search("green", k=2))


def test_the_commands_take_a_server_as_gallery(server, tmp_path, photos, capsys, monkeypatch):
    monkeypatch.setattr("modeling_amns.retrieval.gallery.open_encoder", lambda *arguments: Counting())

    def amns(*arguments):
        monkeypatch.setattr(sys, "argv", ["amns", *map(str, arguments)])
        code = main()
        return code, *capsys.readouterr()

    assert amns("search", photos, "red", "--gallery", URL, "--no_index")[::2] == (
        1, f"amns search: There is no gallery for {photos} yet, and --no_index was given.\n"
    )  # fmt: skip
    code, _, told = amns(
        "index", photos, "--gallery", URL, "--model", "counting", "--metadata", tmp_path / "cameras.csv"
    )
    assert code == 0 and f"4 images in {URL}" in told
    code, printed, _ = amns("search", photos, "red", "--gallery", URL, "--paths", "--where", "camera = 'c0'")
    assert (code, printed) == (0, f"{photos / '0.png'}\n{photos / '2.png'}\n")
    code, printed, _ = amns("search", URL, "red", "--paths", "-k", "1")
    assert (code, printed) == (0, "0.png\n")
    code, _, told = amns("index", URL)
    assert code == 1 and told.count("\n") == 1 and f"--gallery {URL}" in told
    code, _, told = amns("search", "qdrant://localhost/none", "red")
    assert code == 1 and told.count("\n") == 1 and "There is no gallery qdrant://localhost/none" in told


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers 403 to whoever has no key, 500 to whoever has one."""

    def do_GET(self):
        self.send_response(500 if self.headers.get("api-key") else 403)
        self.end_headers()
        self.wfile.write(b"a fault\nof two lines")

    def log_message(self, *arguments): ...


def one_line(kind, call):
    with pytest.raises(kind) as raised:
        call()
    assert "\n" not in str(raised.value) and "secret" not in str(raised.value)
    return str(raised.value)


def test_what_a_server_answers_is_one_line_without_the_key(monkeypatch):
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as answering:
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        url = f"qdrant://127.0.0.1:{answering.server_port}/persons"
        monkeypatch.delenv("QDRANT_API_KEY", raising=False)
        assert "QDRANT_API_KEY" in one_line(PermissionError, lambda: PersonGallery.load(url))
        monkeypatch.setenv("QDRANT_API_KEY", "secret")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that the connection is not encrypted
            assert "answers 500: a fault of two lines" in one_line(ValueError, lambda: PersonGallery.load(url))
        answering.shutdown()
    monkeypatch.delenv("QDRANT_API_KEY")
    assert "is it running?" in one_line(ConnectionError, lambda: PersonGallery.load(url))


def test_what_is_no_gallery_is_said(server, monkeypatch):
    models = qdrant_client.models
    assert "There is no gallery" in one_line(FileNotFoundError, lambda: PersonGallery.load(URL))
    params = models.VectorParams(size=4, distance=models.Distance.DOT)
    server.create_collection("persons", vectors_config=params)
    assert "something else" in one_line(ValueError, lambda: PersonGallery.load(URL))
    about = '{"settings": {"name": "m", "model": {"dimension": 8}}, "kinds": {}, "unwritten": {}}'
    server.update_collection("persons", metadata={"amns": about})
    assert "vectors of 4 numbers, its model makes 8" in one_line(ValueError, lambda: PersonGallery.load(URL))
    for url in (
        "qdrant://user:secret@host/persons",
        "http://host/persons",
        "qdrant://host",
        "qdrant://host/a?key=secret",
    ):
        assert "QDRANT_API_KEY" in one_line(ValueError, lambda url=url: PersonGallery.load(url))
    infinite = table(1)
    infinite.values["height"] = [float("inf")]
    empty = QdrantStore("qdrant://host/new")
    empty.create(SETTINGS)
    assert "height is inf" in one_line(ValueError, lambda: empty.put(infinite))
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    assert 'pip install "modeling_amns[qdrant]"' in one_line(ImportError, lambda: PersonGallery.load(URL))
