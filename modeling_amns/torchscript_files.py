"""Weights of a TorchScript archive, read as data: no code of it runs.

`torch.jit.load` compiles what the archive holds and calls `__setstate__` of its classes, which may write files
(`torch.save` is an operator of TorchScript); `torch.load(weights_only=True)` refuses such archives. The tensors lie in
them as in any file of torch's: `data.pkl` names them, `data/<key>` holds them.
"""

import pickle
import pickletools
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

_MARK = "/constants.pkl"
# What a class of an archive says of its attributes.
_MEMBERS = r"class {name}\(Module\):\n  __parameters__ = \[([^\]\n]*)\]\n(?:  __buffers__ = \[([^\]\n]*)\]\n)?"
# More modules than these, or deeper ones, are those of an archive that holds itself.
_DEEPEST, _MOST = 100, 100_000
_LONGEST_SOURCE = 2**24


def is_torchscript(file: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith(_MARK) for name in archive.namelist())


def read_torchscript(file: Path) -> dict[str, Tensor]:
    """The state dict of an archive that `torch.jit.save` wrote, on the CPU: parameters and buffers by their names.

    Raises:
        pickle.UnpicklingError: the archive holds more than modules, tensors and plain values, or a module whose state
            only its own code can read.
        Exception: of many kinds, for a file that is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        root = next(name for name in archive.namelist() if name.endswith(_MARK)).removesuffix(_MARK)
        records = _Records(archive, root, file.stat().st_size)
        byteorder = records.read("byteorder").decode() if records.has("byteorder") else "little"
        if byteorder != sys.byteorder:
            raise ValueError(f"it was written on a {byteorder}-endian machine")
        return dict(_tensors(_unpickled(records.read("data.pkl"), records), records))


class _Module:
    """In the place of an object of each class of an archive."""

    def __init__(self, qualified_name: str):
        self.qualified_name = qualified_name
        self.state: object = None


class _Name(NamedTuple):
    """What a pickle names; nothing is looked up or imported by it."""

    module: str
    name: str


_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Records:
    """The files in an archive, each read once at most and together no more than the archive is long."""

    def __init__(self, archive: zipfile.ZipFile, root: str, size: int):
        self.archive, self.root, self.left = archive, root, size
        self.names = set(archive.namelist())
        self.modules = 0
        self._sources: dict[str, str] = {}
        self._storages: dict[str, tuple[str, Tensor]] = {}

    def has(self, name: str) -> bool:
        return f"{self.root}/{name}" in self.names

    def read(self, name: str) -> bytes:
        info = self.archive.getinfo(f"{self.root}/{name}")
        # torch stores what it maps into memory; what is packed may be a bomb.
        self.left -= info.file_size
        if info.compress_type != zipfile.ZIP_STORED or self.left < 0:
            raise ValueError(f"{name} is packed, or longer than the file")
        return self.archive.read(info)

    def storage(self, pid: tuple[str, _Name, str, str, int]) -> Tensor:
        """All numbers of a storage, as a tensor of one dimension, by its persistent id."""
        kind, dtype, key, _, _ = pid
        _expect(_Name, dtype)
        if kind != "storage" or dtype.module != "torch" or dtype.name not in _STORAGES:
            raise _unsupported(dtype)
        if key not in self._storages:
            content = bytearray(self.read(f"data/{key}"))
            numbers = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
            self._storages[key] = dtype.name, numbers.view(_STORAGES[dtype.name])
        name, numbers = self._storages[key]
        if name != dtype.name:
            raise ValueError(f"storage {key} is of two types")
        return numbers

    def source(self, name: str) -> str:
        """A file of code, which is packed; empty if there is none."""
        if name not in self._sources:
            text = b""
            if self.has(name):
                with self.archive.open(f"{self.root}/{name}") as source:
                    text = source.read(_LONGEST_SOURCE)
            self._sources[name] = text.decode("utf-8", "replace")
        return self._sources[name]


def _unpickled(content: bytes, records: _Records) -> object:
    """What a pickle holds, by those opcodes that TorchScript writes; Python's own unpickler would call what it names.

    Raises:
        pickle.UnpicklingError: it holds others, or asks for what is neither module, tensor nor plain value.
        Exception: it is damaged.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def above_mark() -> list[Any]:
        start = marks.pop()
        taken = stack[start:]
        del stack[start:]
        return taken

    for opcode, read, _ in pickletools.genops(content):
        code, argument = opcode.name, cast(Any, read)
        if code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in _VALUES:
            stack.append(argument)
        elif code == "EMPTY_DICT":
            stack.append({})
        elif code == "EMPTY_LIST":
            stack.append([])
        elif code in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif code in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif code == "MARK":
            marks.append(len(stack))
        elif code == "TUPLE":
            stack.append(tuple(above_mark()))
        elif code in _TUPLES:
            stack[-_TUPLES[code] :] = [tuple(stack[-_TUPLES[code] :])]
        elif code in ("APPEND", "APPENDS"):
            values = above_mark() if code == "APPENDS" else [stack.pop()]
            _expect(list, stack[-1]).extend(values)
        elif code in ("SETITEM", "SETITEMS"):
            values = above_mark() if code == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _expect(dict, stack[-1]).update(zip(values[::2], values[1::2], strict=True))
        elif code == "GLOBAL":
            stack.append(_Name(*argument.split(" ", 1)))
        elif code == "BINPERSID":
            stack.append(records.storage(stack.pop()))
        elif code == "NEWOBJ":
            _, kind = stack.pop(), _expect(_Name, stack.pop())
            if kind.module.partition(".")[0] != "__torch__":
                raise _unsupported(kind)
            stack.append(_Module(f"{kind.module}.{kind.name}"))
        elif code == "REDUCE":
            arguments, kind = stack.pop(), _expect(_Name, stack.pop())
            stack.append(_made(kind, arguments))
        elif code == "BUILD":
            state = stack.pop()
            _expect(_Module, stack[-1]).state = state
        elif code == "STOP":
            return stack.pop()
        elif code != "PROTO":
            raise pickle.UnpicklingError(f"Unsupported opcode: {code}")
    raise ValueError("the pickle has no end")


_Kind = TypeVar("_Kind")


def _expect(kind: type[_Kind], value: object) -> _Kind:
    if not isinstance(value, kind):
        raise pickle.UnpicklingError(f"Unsupported use of a {type(value).__name__}")
    return value


def _unsupported(name: _Name) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f"Unsupported global: GLOBAL {name.module[:60]}.{name.name[:60]}")


def _made(kind: _Name, arguments: object) -> object:
    """What one of the functions that TorchScript's pickles name would make."""
    if kind == ("torch._utils", "_rebuild_tensor_v2"):
        storage, offset, size, stride = _expect(tuple, arguments)[:4]
        return _expect(Tensor, storage).as_strided(size, stride, offset)  # torch refuses what lies outside
    if kind.module == "torch.jit._pickle":
        return _expect(tuple, arguments)[0]  # lists and dicts with a note of their type
    if kind == ("collections", "OrderedDict") and not arguments:
        return {}
    raise _unsupported(kind)


def _tensors(module: object, records: _Records, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a module, then of the modules in it, as `state_dict` lists them."""
    if not isinstance(module, _Module) or not isinstance(module.state, Mapping):
        raise pickle.UnpicklingError(
            f"Unsupported state of the module {'.'.join(path)[:60] or 'itself'}: its own code makes it"
        )
    records.modules += 1
    if len(path) > _DEEPEST or records.modules > _MOST:
        raise ValueError("its modules are nested without end")
    state = module.state
    for name in _members(module, records):
        value = state.get(name)
        if isinstance(value, Tensor):
            yield ".".join((*path, name)), value
    for name, value in state.items():
        if isinstance(value, _Module):
            yield from _tensors(value, records, (*path, str(name)))


def _members(module: _Module, records: _Records) -> list[str]:
    """Names of a module's parameters and buffers: which attributes are, stands in the text of its class."""
    file, _, name = module.qualified_name.rpartition(".")
    source = records.source(f"code/{file.replace('.', '/')}.py")
    found = re.search(_MEMBERS.format(name=re.escape(name)), source)
    if found is None:
        raise ValueError(f"its code names no parameters of {module.qualified_name[:60]}")
    return re.findall(r'"([^"]*)"', f"{found[1]} {found[2] or ''}")


__all__ = ["is_torchscript", "read_torchscript"]
