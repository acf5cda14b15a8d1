"""Checkpoint files of other projects: where they lie, reading them without running code, what stands beside them."""

import pickle
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from .image_modes_amns import size_pair
from .open_clip_folders import CONFIG as OPENCLIP_CONFIG
from .open_clip_folders import FILES as OPENCLIP_FILES
from .open_clip_folders import HEAD_WIDTH, encoder_settings, read_settings
from .torchscript_files import is_torchscript, read_torchscript


class _Ignored:
    """In the place of what is no weight: takes what it is given and keeps nothing."""

    def __init__(self, *values: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


# What stands for plain records and numbers beside weights (TBPS-CLIP's configuration and learning rates, options of
# argparse): their own classes are not imported.
_STAND_INS = [
    (OrderedDict, "easydict.EasyDict"),
    (OrderedDict, "argparse.Namespace"),
    (_Ignored, "numpy.dtype"),
    (_Ignored, "numpy.core.multiarray.scalar"),
    (_Ignored, "numpy._core.multiarray.scalar"),
]
_CONTAINERS = ("model", "state_dict", "model_state_dict")


def existing(path: str | Path) -> Path:
    """The path, or a FileNotFoundError that says what to pass."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file or folder. Pass a checkpoint file or a transformers CLIP folder."
        )
    return path


def weights_file(path: Path) -> Path:
    """The file of weights: the path itself, or OpenCLIP's in a folder."""
    if path.is_file():
        return path
    found = [path / name for name in OPENCLIP_FILES if (path / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"{path}: holds neither config.json (transformers) nor {' or '.join(OPENCLIP_FILES)} (OpenCLIP). "
            "Pass the checkpoint file itself, for IRRA and RDE best.pth."
        )
    return found[0]


def read_checkpoint(file: str | Path) -> dict:
    """Content of a checkpoint file, on the CPU; a pickle that holds anything but tensors and plain values is refused.

    Of TorchScript archives the tensors are read, none of their code. Configurations (`easydict.EasyDict`,
    `argparse.Namespace`) and numpy's numbers are passed over: their packages are not imported.
    """
    file = Path(file)
    try:
        if file.suffix == ".safetensors":
            content = load_file(file)
        elif is_torchscript(file):
            content = read_torchscript(file)
        else:
            # torch declares a list of functions, and takes names beside them.
            with torch.serialization.safe_globals(cast(list, _STAND_INS)):
                content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        match = re.search(r"Unsupported .*?(?= was not|$)", str(error), re.MULTILINE)
        found = match[0] if match else "no plain torch.save"
        raise ValueError(
            f"refused, the pickle holds more than weights ({found}) and could run code. Have someone who trusts it "
            "save the weights alone: torch.save(model.state_dict(), file)."
        ) from None
    # A file that is no checkpoint fails inside the readers in many ways.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(f"not readable as a checkpoint ({reason}). Is the file complete?") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"holds a {type(content).__name__}, expected a state dict or a dict with one.")
    return content


def openclip_settings(file: Path) -> dict[str, Any]:
    """Activation, head widths and image size from OpenCLIP's configuration beside the weights, empty without one."""
    if not file.is_file():
        return {}
    settings = read_settings(file)
    config, (vision, text) = settings["model_cfg"], encoder_settings(settings)
    # Where it says none, the positions tell.
    size = config["vision_cfg"].get("image_size")
    return {
        "text_head_width": text["width"] // text["heads"],
        "hidden_act": "quick_gelu" if config.get("quick_gelu") else "gelu",
        "head_width": vision["head_width"],
        "native_size": None if size is None else list(size_pair(size)),
    }


def openclip_preprocessing(file: str | Path) -> dict[str, Any]:
    """Fields of an image processor from OpenCLIP's configuration, empty (CLIP's own) without one."""
    file = Path(file)
    config = (read_settings(file).get("preprocess_cfg") or {}) if file.is_file() else {}
    fields = {field: config[name] for name, field in (("mean", "image_mean"), ("std", "image_std")) if name in config}
    if "interpolation" in config:
        name = str(config["interpolation"])
        # OpenCLIP's "random" is of its training; it evaluates bicubic.
        resample = {"random": "bicubic"}.get(name, name).upper()
        if resample not in Image.Resampling.__members__:
            known = ", ".join(sorted(Image.Resampling.__members__)).lower()
            raise ValueError(f"{file.name} asks for interpolation {name!r}; known are {known}.")
        fields["resample"] = Image.Resampling[resample]
    return fields


def unwrap(checkpoint: Mapping) -> tuple[dict[str, Tensor], list[str]]:
    """The innermost state dict without the prefix of a distributed wrapper, and the names of what is around it.

    Raises:
        ValueError: it has no innermost one, or holds tensors that stand for more values than the file has.
    """
    left_over: list[str] = []
    around: list[Mapping] = []
    while inner := next((name for name in _CONTAINERS if isinstance(checkpoint.get(name), Mapping)), None):
        if any(checkpoint is other for other in around):
            raise ValueError(f"{inner} holds itself.")
        around.append(checkpoint)
        left_over += [str(name) for name in checkpoint if name != inner]
        checkpoint = checkpoint[inner]
    values = {str(name).removeprefix("module."): value for name, value in checkpoint.items()}
    if len(values) < len(checkpoint):
        twice = [name for name in checkpoint if f"module.{name}" in checkpoint]
        raise ValueError(
            f"holds {some(twice)} twice, with and without the prefix module. of a distributed run; keep one of them."
        )
    left_over += [name for name, value in values.items() if not isinstance(value, Tensor)]
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        # A few bytes may stand for any number of values; the model that they describe would take the memory.
        plain = value.layout == torch.strided and not value.is_meta
        if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{name[:60]} is no plain tensor, its {value.numel()} values are not all in the file.")
    return tensors, left_over


def some(names: Iterable[str]) -> str:
    """The first few of many names, for an error."""
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


__all__ = [
    "HEAD_WIDTH",
    "OPENCLIP_CONFIG",
    "existing",
    "openclip_preprocessing",
    "openclip_settings",
    "read_checkpoint",
    "some",
    "unwrap",
    "weights_file",
]
