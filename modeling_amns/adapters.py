"""LoRA on both encoders by PEFT: the options, the wrapped model, and what a run leaves of it.

The identity classifier is trained in full beside the adapters; everything else stays as in the pretrained start. The
wrapped model is a `peft.PeftModel`, which `AMNSTrainer` trains, saves (adapter only) and resumes like any other.
"""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from accelerate.utils import is_peft_model
from safetensors.torch import load_model
from torch import nn
from transformers import Trainer

from .brief import in_short
from .configuration_amns import AMNSConfig
from .disk import whole_folder
from .extras import require
from .loading import check_weights
from .modeling_amns import AMNSForPersonRetrieval
from .protocols import MaskedEncoder
from .report import is_number, read_object

ADAPTER_FOLDER = "adapter"
# Beyond the width of any encoder an adapter is larger than what it adapts.
MAX_RANK = 4096


@dataclass
class AdapterArguments:
    """LoRA (arXiv 2106.09685): names and defaults of TRL and PEFT."""

    use_peft: bool = field(default=False, metadata={"help": "Train LoRA adapters instead of all weights."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=32, metadata={"help": "The adapters' output is multiplied by alpha / rank."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout before the adapters."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "out_proj"],
        metadata={"help": "Layers of both encoders that get one; add fc1 fc2 for those of the MLPs."},
    )


def add_adapters(model: AMNSForPersonRetrieval, arguments: AdapterArguments) -> nn.Module:
    """Wraps a pretrained model so that only LoRA adapters and the identity classifier are trained.

    Args:
        model: changed in place.
        arguments: rank, scale, dropout and layers.
    Returns:
        a `peft.PeftModel` around it, through which `amns`, `classifier` and `config` are reached as before.
    Raises:
        ImportError: peft is not installed.
        ValueError: the model starts from scratch, or has no layer of the given names.
    """
    peft = require("peft", "peft", "--use_peft")
    if not 1 <= arguments.lora_r <= MAX_RANK:
        raise ValueError(f"lora_r must lie in [1, {MAX_RANK:,}], found {arguments.lora_r}.")
    if not model.name_or_path:
        raise ValueError(
            "use_peft adapts a pretrained model, this one starts from scratch: set model_name_or_path to an AMNS, "
            "CLIP or SigLIP checkpoint, or leave use_peft out."
        )
    # PEFT leaves out a name that fits no layer, as long as another one does.
    layers = {name.rsplit(".", 1)[-1] for name, module in model.amns.named_modules() if isinstance(module, nn.Linear)}
    wrong = sorted(set(arguments.lora_target_modules) - layers)
    if wrong:
        raise ValueError(
            f"lora_target_modules: there is no layer {', '.join(wrong)}; the model has {', '.join(sorted(layers))}."
        )
    # torch's attention, which pools in SigLIP, reads the weight of its out_proj and never calls the layer: an adapter
    # there would have no part.
    uncalled = [f"{name}.out_proj" for name, part in model.named_modules() if isinstance(part, nn.MultiheadAttention)]
    config = peft.LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=list(arguments.lora_target_modules),
        exclude_modules=uncalled or None,
        modules_to_save=None if model.classifier is None else ["classifier"],
    )
    start = Path(model.name_or_path)
    wrapped = peft.get_peft_model(model, config)
    if start.exists():
        # Else it means another folder, or a name on the Hub, to whoever stands elsewhere.
        wrapped.peft_config[str(wrapped.active_adapter)].base_model_name_or_path = str(start.resolve())
    return wrapped


def check_adapter_options(arguments: AdapterArguments) -> None:
    """A ValueError if LoRA is described and not asked for: all weights would be trained."""
    plain = AdapterArguments()
    described = [
        option.name
        for option in fields(AdapterArguments)
        if option.name != "use_peft" and getattr(arguments, option.name) != getattr(plain, option.name)
    ]
    if described and not arguments.use_peft:
        raise ValueError(f"{', '.join(described)} without use_peft: all weights would be trained. Add --use_peft.")


def load_weights(trainer: Trainer, checkpoint: str | Path) -> None:
    """Puts the weights of a checkpoint, whole or adapter, into the model of the run that wrote it."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if is_peft_model(model):
        model.load_adapter(str(checkpoint), model.active_adapter, is_trainable=True)
    else:
        load_model(model, Path(checkpoint) / "model.safetensors")


def save_configuration(model: nn.Module, folder: str | Path) -> None:
    """Beside adapters: what they do not hold but their use needs, image size, identities and temperature."""
    if is_peft_model(model):
        config = cast(AMNSConfig, model.config)
        config.logit_scale_init_value = cast(MaskedEncoder, model.amns).logit_scale.item()
        config.save_pretrained(folder)


def merge_adapters(trainer: Trainer, folder: str | Path) -> bool:
    """Merges the adapters of a run, if there are any, in float32: bfloat16 would round them away.

    Args:
        trainer: `trainer.model` is a plain `AMNSForPersonRetrieval` then.
        folder: receives the adapters by themselves in `adapter/`, for `load_adapter`.
    Returns:
        whether there were adapters.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not is_peft_model(model):
        return False
    if trainer.args.should_save:
        with whole_folder(Path(folder) / ADAPTER_FOLDER, last="adapter_config.json") as aside:
            model.save_pretrained(aside)
            save_configuration(model, aside)
    trainer.model = model.float().merge_and_unload()
    return True


def save_final(trainer: Trainer, folder: str | Path) -> None:
    """Saves a run's model, its adapters merged, with its processor as a plain checkpoint."""
    merge_adapters(trainer, folder)
    # Internal: with `push_to_hub` a plain call would push before the results stand.
    trainer.save_model(str(folder), _internal_call=True)


def load_adapter(folder: str | Path, base: str | Path | None = None) -> nn.Module:
    """A pretrained model with the adapters that a run saved.

    Of the adapter's own settings only those that describe plain LoRA are used, and weights are read as safetensors
    alone: adapters of others run no code and no search that they chose.

    Args:
        folder: the `adapter/` folder of a run.
        base: the checkpoint that the run started from; default the one that the adapter names.
    Returns:
        a `peft.PeftModel`; its `merge_and_unload()` is a plain `AMNSForPersonRetrieval`.
    Raises:
        ImportError: peft is not installed.
        FileNotFoundError: the folder holds no adapter, or the checkpoint that it names is gone.
        ValueError: the checkpoint is not the one that the adapter was trained on, or the folder holds something other
            than a LoRA adapter on a model of this package.
    """
    peft = require("peft", "peft", "Loading an adapter")
    settings, named = _read_settings(Path(folder), peft)
    try:
        config = AMNSConfig.from_pretrained(folder)
    except OSError:
        raise
    # Whatever transformers raises of fields that are not what they should be.
    except Exception as error:
        raise ValueError(f"{folder}: config.json can't be read: {in_short(error)}") from error
    base = base or named
    if not base:
        raise ValueError(f"{folder} names no model that it was trained on. Pass it: load_adapter(..., base=FOLDER).")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise FileNotFoundError(
            f"{folder} was trained on {base}, which is not there. Pass the checkpoint: load_adapter(..., base=FOLDER)."
        )
    try:
        model, found = AMNSForPersonRetrieval.from_pretrained(base, config=config, output_loading_info=True)
    except (OSError, ValueError):
        raise
    # What transformers raises of weights whose shapes do not fit, and of fields that no model is made of.
    except Exception as error:
        raise ValueError(
            f"{folder} was not trained on {base}: its weights have other shapes. {in_short(error)}"
        ) from error
    check_weights(model.amns, found, str(base))
    model.amns.logit_scale.data.fill_(cast(float, config.logit_scale_init_value))
    try:
        wrapped: nn.Module = peft.PeftModel.from_pretrained(model, folder, config=peft.LoraConfig(**settings))
    # PEFT has errors of many kinds for weights that do not fit.
    except Exception as error:
        raise ValueError(
            f"{folder}: the adapter does not fit {base}. {type(error).__name__}: {in_short(error)}"
        ) from error
    check_weights(wrapped, {"missing_keys": (), "unexpected_keys": ()}, str(folder))
    return wrapped


# A layer's name. PEFT would take a string in place of a list, and the keys of patterns, for regular expressions.
_LAYER = re.compile(r"\w+(\.\w+)*")
_MAX_LAYERS = 10_000
# Where an adapter came from; nothing is done with it.
_ORIGIN = {"peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode", "revision", "runtime_config"}
_ORIGIN |= {"base_model_name_or_path", "megatron_core", "qalora_group_size"}


def _read_settings(folder: Path, peft: ModuleType) -> tuple[dict[str, Any], str | None]:
    """The LoRA options in a folder, checked, and the model that it names."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no adapter_config.json. A run with --use_peft leaves its adapter in output_dir/adapter."
        )
    if not (folder / "adapter_model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} holds no adapter_model.safetensors; other forms of weights are not read.")
    content = read_object(file)
    if content.get("peft_type") != "LORA":
        raise ValueError(f"{file}: peft_type is {_shown(content.get('peft_type'))}, expected 'LORA'.")
    named = content.get("base_model_name_or_path")
    if named is not None and not isinstance(named, str):
        raise ValueError(f"{file}: base_model_name_or_path is {_shown(named)}, expected a folder or a Hub id.")
    plain = asdict(peft.LoraConfig())
    settings = {}
    for name, value in content.items():
        empty = value is None or value is False or value in ({}, [])
        if name in _ORIGIN or empty or value == plain.get(name):
            continue
        if name not in _CHECKS:
            raise ValueError(f"{file}: {name[:60]!r} is {_shown(value)}, expected the options of plain LoRA alone.")
        if not _CHECKS[name](value):
            raise ValueError(f"{file}: {name} is {_shown(value)}, expected {_EXPECTED.get(name, 'a switch')}.")
        settings[name] = value
    if "target_modules" not in settings:
        raise ValueError(f"{file} names no layers (target_modules), expected {_EXPECTED['target_modules']}.")
    return settings, named


def _are_layers(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _MAX_LAYERS
        and all(isinstance(name, str) and len(name) <= 200 and _LAYER.fullmatch(name) for name in value)
    )


def _is_number(value: object, low: float, high: float) -> bool:
    return is_number(value) and low <= cast(float, value) <= high


_CHECKS: dict[str, Callable[[object], bool]] = {
    "r": lambda value: isinstance(value, int) and _is_number(value, 1, MAX_RANK),
    "lora_alpha": lambda value: _is_number(value, 0, 1e6),
    "lora_dropout": lambda value: _is_number(value, 0, 0.99),
    "target_modules": _are_layers,
    "modules_to_save": _are_layers,
    "bias": lambda value: value in ("none", "all", "lora_only"),
    # Only before training; what was trained takes the place.
    "init_lora_weights": lambda value: value is True or value == "gaussian",
    "use_rslora": lambda value: value is True,
    "use_dora": lambda value: value is True,
}
_EXPECTED = {
    "r": f"a rank from 1 to {MAX_RANK}",
    "lora_alpha": "a number from 0 to 1,000,000",
    "lora_dropout": "a number from 0 to 0.99",
    "target_modules": "a list of layers' names",
    "modules_to_save": "a list of layers' names",
    "bias": "none, all or lora_only",
    "init_lora_weights": "true or 'gaussian'",
}


def _shown(value: object) -> str:
    return in_short(repr(value), 60)


__all__ = [
    "ADAPTER_FOLDER",
    "AdapterArguments",
    "add_adapters",
    "check_adapter_options",
    "load_adapter",
    "load_weights",
    "merge_adapters",
    "save_configuration",
    "save_final",
]
