"""What fuzz tests change files by: values in wrong places, lost and doubled parts, bytes that are something else."""

import copy
import json

import numpy as np

# Values in places where they do not belong. JSON spells NaN and Infinity as Python does.
ODD_VALUES = (
    None,
    True,
    -1,
    2**63,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "  ",
    "7",
    "x" * 200_000,
    "../x.png",
    "/etc/passwd",
    "C:\\x.png",
    "a/../../x.png",
    "\0",
    "\ud800",
    "a\nb",
    [],
    [[]],
    [None],
    [""],
    {},
    {"id": 1},
    ["\udfff"],
    ["x" * 200_000],
)
# Bytes that mean something to a reader of numbers, text or JSON.
ODD_BYTES = (
    b"\0" * 4,
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80",
    b"\xc3\x28",
    b"\r\n",
    b'"',
    b"{",
    b",",
)


def pick(generator: np.random.Generator, values):
    return values[int(generator.integers(len(values)))]


def spoil_bytes(data: bytes, generator: np.random.Generator, changes: int = 3) -> bytes:
    """Up to `changes` cuts, losses, doublings, flipped bits and odd bytes."""
    for _ in range(int(generator.integers(1, changes + 1))):
        kind, place = int(generator.integers(7)), int(generator.integers(len(data) + 1))
        length = int(generator.integers(1, 65))
        if kind == 0:
            data = data[:place]
        elif kind == 1:
            data = data[:place] + data[place + length :]
        elif kind == 2:
            data = data[: place + length] + data[place:]
        elif kind == 3:
            data = data[:place] + bytes(generator.integers(0, 256, length, dtype=np.uint8)) + data[place + length :]
        elif kind == 4:
            odd = pick(generator, ODD_BYTES)
            data = data[:place] + odd + data[place + len(odd) :]
        elif kind == 5:
            data = data[:place] + pick(generator, ODD_BYTES) + data[place:]
        elif place < len(data):
            data = data[:place] + bytes([data[place] ^ 1 << int(generator.integers(8))]) + data[place + 1 :]
    return data


def places(value, path=()):
    """The path of every part of a JSON value but itself."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


def spoil_json(value, generator: np.random.Generator, odd=ODD_VALUES, changes: int = 3):
    """A copy with up to `changes` parts lost, renamed, replaced by an odd value or by another part."""
    value = copy.deepcopy(value)
    for _ in range(int(generator.integers(1, changes + 1))):
        known = list(places(value))
        if not known:
            return pick(generator, odd)
        *above, key = pick(generator, known)
        holder = value
        for step in above:
            holder = holder[step]
        kind = int(generator.integers(6))
        if kind == 0:
            del holder[key]
        elif kind == 1:
            source = value
            for step in pick(generator, known):
                source = source[step]
            holder[key] = copy.deepcopy(source)
        elif kind == 2 and isinstance(holder, dict):
            holder[f"{key}{pick(generator, ('x', ' ', '_'))}"] = holder.pop(key)
        elif kind == 3:
            holder[key] = pick(generator, ([holder[key]], {"0": holder[key]}, str(holder[key])[:1000]))
        else:
            holder[key] = pick(generator, odd)
    return value


def json_bytes(value, generator: np.random.Generator) -> bytes:
    """A spoiled JSON value as a file's bytes, at times spoiled themselves."""
    data = json.dumps(value).encode()
    return spoil_bytes(data, generator) if generator.integers(5) == 0 else data
