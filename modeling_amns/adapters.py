"""LoRA on both encoders by PEFT: the options, the wrapped model, and what a run leaves of it.

The identity classifier is trained in full beside the adapters; everything else stays as in the pretrained start. The
wrapped model is a `peft.PeftModel`, which `AMNSTrainer` trains, saves (adapter only) and resumes like any other.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import cast

from accelerate.utils import is_peft_model
from safetensors.torch import load_model
from torch import nn
from transformers import Trainer

from .configuration_amns import AMNSConfig
from .disk import whole_folder
from .extras import require
from .modeling_amns import AMNSForPersonRetrieval
from .protocols import MaskedEncoder

ADAPTER_FOLDER = "adapter"


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
    if not model.name_or_path:
        raise ValueError(
            "use_peft adapts a pretrained model, this one starts from scratch: set model_name_or_path to an AMNS or "
            "CLIP checkpoint, or leave use_peft out."
        )
    # PEFT leaves out a name that fits no layer, as long as another one does.
    layers = {name.rsplit(".", 1)[-1] for name, module in model.amns.named_modules() if isinstance(module, nn.Linear)}
    wrong = sorted(set(arguments.lora_target_modules) - layers)
    if wrong:
        raise ValueError(
            f"lora_target_modules: there is no layer {', '.join(wrong)}; the model has {', '.join(sorted(layers))}."
        )
    config = peft.LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=list(arguments.lora_target_modules),
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

    Args:
        folder: the `adapter/` folder of a run.
        base: the checkpoint that the run started from; default the one that the adapter names.
    Returns:
        a `peft.PeftModel`; its `merge_and_unload()` is a plain `AMNSForPersonRetrieval`.
    Raises:
        ImportError: peft is not installed.
        FileNotFoundError: the folder holds no adapter, or the checkpoint that it names is gone.
        ValueError: the checkpoint is not the one that the adapter was trained on.
    """
    peft = require("peft", "peft", "Loading an adapter")
    if not (Path(folder) / "adapter_config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no adapter_config.json. A run with --use_peft leaves its adapter in output_dir/adapter."
        )
    config = AMNSConfig.from_pretrained(folder)
    base = base or peft.PeftConfig.from_pretrained(folder).base_model_name_or_path
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise FileNotFoundError(
            f"{folder} was trained on {base}, which is not there. Pass the checkpoint: load_adapter(..., base=FOLDER)."
        )
    try:
        model = AMNSForPersonRetrieval.from_pretrained(base, config=config)
    # What transformers raises of weights whose shapes do not fit.
    except RuntimeError as error:
        raise ValueError(f"{folder} was not trained on {base}: its weights have other shapes. {error}") from error
    model.amns.logit_scale.data.fill_(cast(float, config.logit_scale_init_value))
    return peft.PeftModel.from_pretrained(model, folder)


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
