"""The store behind `hub_double.py` that Xet transfers go to, as huggingface_hub makes them where hf-xet is installed.

Spoken, as in the public specification of the Xet protocol: upload of xorbs (blocks of chunks), by grants as newer
clients do or at once, upload of shards (which chunks make up a file), reconstruction of a file, and reads of byte
ranges of a xorb. What the client tries in a second version first is answered by 404, as by a store that lacks it.
Chunks must arrive uncompressed (HF_XET_XORB_COMPRESSION_POLICY=none): Python cannot read LZ4 by itself.
"""

import hashlib
import struct

COMMIT_PATH = "/v1/shards"
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
