"""Reads the annotation file of a benchmark into checked records; every error names the file and the record."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Record:
    """One image of a benchmark.

    Args:
        person_id: as in the file.
        path: relative to the image folder, with forward slashes.
        captions: one or more sentences.
        split: "train", "val" or "test".
    """

    person_id: int
    path: str
    captions: tuple[str, ...]
    split: str


def read_annotations(file: Path, path_field: str) -> list[Record]:
    """All records of an annotation file, in its order.

    Args:
        file: a JSON list of objects with `id`, `captions`, `split` and the image path.
        path_field: name of the field with the path, "file_path" or "img_path".
    Raises:
        ValueError: the file is no such JSON, or a record lacks a field or holds one of the wrong kind.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON ({error}). It may be cut off; fetch it again.") from error
    if not isinstance(content, list) or not content:
        found = "an empty list" if content == [] else f"a JSON {type(content).__name__}"
        raise ValueError(f"{file} must hold a list of records, found {found}.")
    return [_record(item, file, number, path_field) for number, item in enumerate(content)]


def _record(item: object, file: Path, number: int, path_field: str) -> Record:
    place = f"{file}, record {number}"
    if not isinstance(item, dict):
        raise ValueError(f"{place}: expected an object, found {_short(item)}.")
    missing = [name for name in ("id", path_field, "captions", "split") if name not in item]
    if missing:
        fields = ", ".join(map(str, item)) or "nothing"
        raise ValueError(f"{place}: the field(s) {', '.join(missing)} are missing; it has {fields}.")
    person_id, path, captions, split = (item[name] for name in ("id", path_field, "captions", "split"))
    if isinstance(person_id, bool) or not isinstance(person_id, int) or not 0 <= person_id < 2**63:
        raise ValueError(f"{place}: id must be a whole number of at least 0, found {_short(person_id)}.")
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise ValueError(f"{place}: {path_field} must be the path of an image, found {_short(path)}.")
    path = path.replace("\\", "/")
    if path.startswith("/") or ".." in PurePosixPath(path).parts or ":" in path.split("/")[0]:
        raise ValueError(f"{place}: {path_field} {_short(path)} leaves the image folder; it must be relative to it.")
    if not isinstance(captions, list) or not captions:
        raise ValueError(f"{place}: captions must be a list with at least one sentence, found {_short(captions)}.")
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(
                f"{place} ({_short(path)}): caption {_short(caption)} is empty or no text. Correct or remove the record."
            )
    if not isinstance(split, str):
        raise ValueError(f"{place}: split must be a text, found {_short(split)}.")
    # As IRRA reads it: what is neither train nor test is val. ICFG-PEDES writes its splits in capitals at times.
    split = split.strip().lower()
    return Record(person_id, str(PurePosixPath(path)), tuple(captions), split if split in ("train", "test") else "val")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


__all__ = ["SPLITS", "Record", "read_annotations"]
