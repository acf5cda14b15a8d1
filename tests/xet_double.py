"""The store behind `hub_double.py` that Xet transfers go to, as huggingface_hub makes them where hf-xet is installed.

Spoken, as in the public specification of the Xet protocol: upload of xorbs (blocks of chunks), by grants as newer
clients do or at once, upload of shards (which chunks make up a file), reconstruction of a file, and reads of byte
ranges of a xorb. What the client tries in a second version first is answered by 404, as by a store that lacks it.
Chunks must arrive uncompressed (HF_XET_XORB_COMPRESSION_POLICY=none): Python cannot read LZ4 by itself.
"""

import hashlib
import struct
import time

XET_TOKEN = "xet_double"
ENTRY = 48
CHUNK_HEADER = 8
BOOKEND = b"\xff" * 32
WITH_VERIFICATION, WITH_METADATA = 1 << 31, 1 << 30


class XetStore:
    """Xorbs and files by their hash.

    Attributes:
        xorbs: serialized xorbs by their hash.
        terms: of each file, by its hash: (xorb, first chunk, end chunk) in order.
        hash_of: hash of a file by the sha256 of its content.
    """

    def __init__(self):
        self.xorbs: dict[str, bytes] = {}
        self.terms: dict[str, list[tuple[str, int, int]]] = {}
        self.hash_of: dict[str, str] = {}

    def add_shard(self, shard: bytes) -> dict[str, bytes]:
        """Registers the files of a shard.

        Returns:
            their contents by sha256.
        Raises:
            ValueError: a xorb was never uploaded, or a content does not match its sha256.
        """
        contents = {}
        for file_hash, sha256, terms in files_of(shard):
            if missing := [xorb for xorb, _, _ in terms if xorb not in self.xorbs]:
                raise ValueError(f"xorb {missing[0]} was never uploaded")
            content = b"".join(self._content(*term) for term in terms)
            if hashlib.sha256(content).hexdigest() != sha256:
                raise ValueError(f"content of {file_hash} does not match its sha256")
            self.terms[file_hash], self.hash_of[sha256] = terms, file_hash
            contents[sha256] = content
        return contents

    def reconstruction(self, file_hash: str, url: str) -> dict:
        """How a file is put together, with addresses below `url` where its pieces are read."""
        terms, fetch = [], {}
        for xorb, start, end in self.terms[file_hash]:
            offsets = chunk_offsets(self.xorbs[xorb])
            chunks = {"start": start, "end": end}
            length = len(self._content(xorb, start, end))
            terms.append({"hash": xorb, "unpacked_length": length, "range": chunks})
            # The last byte is part of a range of bytes, the last chunk is not part of a range of chunks.
            piece = {"range": chunks, "url": f"{url}/xorbs/{xorb}"}
            piece["url_range"] = {"start": offsets[start], "end": offsets[end] - 1}
            if piece not in fetch.setdefault(xorb, []):
                fetch[xorb].append(piece)
        return {"offset_into_first_range": 0, "terms": terms, "fetch_info": fetch}

    def _content(self, xorb: str, start: int, end: int) -> bytes:
        data = self.xorbs[xorb]
        offsets = chunk_offsets(data)
        return b"".join(data[offsets[n] + CHUNK_HEADER : offsets[n + 1]] for n in range(start, end))


class XetRoutes:
    """The part of the double's request handler that answers for the store."""

    def _put_xorb(self, name: str, body: bytes) -> None:
        if not self.let_through():
            return None
        known = name in self.hub.xet.xorbs
        self.hub.xet.xorbs[name] = body
        self.hub.uploads.append(name)
        self.send(200, {"was_inserted": not known})

    def xet_token(self, action: str, token: str) -> None:
        if action == "xet-write-token" and not token:
            return self.send(401, {"error": "Invalid username or password."})
        expires = int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": self.hub.url, "X-Xet-Access-Token": XET_TOKEN, "X-Xet-Token-Expiration": expires}
        answer = {"casUrl": self.hub.url, "accessToken": XET_TOKEN, "exp": expires}
        self.send(200, answer, None, headers)

    def xet(self, method: str, path: str, body: bytes, token: str) -> None:
        name, xet = path.rsplit("/", 1)[-1], self.hub.xet
        # Whoever was told the address of a xorb may read or write it, as at the stores behind the Hub.
        if method == "PUT" and path.startswith("/xorbs/"):
            return self._put_xorb(name, body)
        if method == "GET" and path.startswith("/xorbs/"):
            return self.send_range(xet.xorbs[name])
        if token != XET_TOKEN:
            return self.send(401, {"error": "no token of this store"})
        if method == "GET" and path.startswith("/v1/reconstructions/") and name in xet.terms:
            return self.send(200, xet.reconstruction(name, self.hub.url))
        if method == "POST" and path.startswith("/v1/xorb-grants/default/"):
            # For a xorb that is there nothing is granted, so that the client does not send it again.
            grant = {"id": name, "method": "PUT", "url": f"{self.hub.url}/xorbs/{name}", "headers": {}}
            return self.send(200 if name in xet.xorbs else 201, grant)
        if method == "POST" and path.startswith("/v1/xorb-commits/default/") and name in xet.xorbs:
            return self.send(200, {})
        if method == "POST" and path.startswith("/v1/xorbs/default/"):
            return self._put_xorb(name, body)
        if method == "POST" and path == "/v1/shards":
            if self.hub.hold_uploads and not self.let_through():
                return None
            try:
                self.hub.objects |= xet.add_shard(body)
            except ValueError as error:
                return self.send(400, {"error": str(error)})
            return self.send(200, {"result": 1})
        # Chunks that others stored already, and what this store lacks.
        return self.send(404, {"error": f"there is no {path}"})


def chunk_offsets(xorb: bytes) -> list[int]:
    """Where each chunk of a serialized xorb begins, and where the last one ends."""
    offsets = [0]
    # A footer may follow, which begins with a name where a chunk has its version.
    while offsets[-1] < len(xorb) and xorb[offsets[-1]] == 0:
        header = xorb[offsets[-1] : offsets[-1] + CHUNK_HEADER]
        if header[4] != 0:
            raise ValueError("chunks are compressed; clients run with HF_XET_XORB_COMPRESSION_POLICY=none")
        offsets.append(offsets[-1] + CHUNK_HEADER + int.from_bytes(header[1:4], "little"))
    return offsets


def files_of(shard: bytes) -> list[tuple[str, str, list[tuple[str, int, int]]]]:
    """Hash, sha256 and terms of the files that a shard lists; its section of xorbs is not needed here."""
    files, place = [], ENTRY
    while shard[place : place + 32] != BOOKEND:
        file_hash, flags, count = struct.unpack_from("<32sII", shard, place)
        place += ENTRY
        terms = []
        for number in range(count):
            xorb, _, _, start, end = struct.unpack_from("<32sIIII", shard, place + number * ENTRY)
            terms.append((as_text(xorb), start, end))
        place += count * ENTRY * (2 if flags & WITH_VERIFICATION else 1)
        if not flags & WITH_METADATA:
            raise ValueError("a file of the shard has no sha256")
        files.append((as_text(file_hash), as_text(shard[place : place + 32]), terms))
        place += ENTRY
    return files


def as_text(value: bytes) -> str:
    """A hash as the protocol writes it: four little-endian numbers of 64 bits, each in hexadecimal."""
    return "".join(f"{part:016x}" for part in struct.unpack("<4Q", value))
