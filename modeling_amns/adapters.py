"""LoRA on both encoders by PEFT: the options, the wrapped model, and what a run leaves of it.

The identity classifier is trained in full beside the adapters; everything else stays as in the pretrained start. The
wrapped model is a `peft.PeftModel`, which `AMNSTrainer` trains, saves (adapter only) and resumes like any other.
"""

from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_model
from torch import nn
from transformers import Trainer

from .configuration_amns import AMNSConfig
from .extras import require
from .modeling_amns import AMNSForPersonRetrieval

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
    return peft.get_peft_model(model, config)


def load_weights(trainer: Trainer, checkpoint: str | Path) -> None:
    """Puts the weights of a checkpoint, whole or adapter, into the model of the run that wrote it."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "load_adapter") and hasattr(model, "merge_and_unload"):
        model.load_adapter(str(checkpoint), model.active_adapter, is_trainable=True)
    else:
        load_model(model, Path(checkpoint) / "model.safetensors")


def save_final(trainer: Trainer, folder: str | Path) -> None:
    """Saves a run's model with its processor as a plain checkpoint; adapters also by themselves.

    Args:
        trainer: its model, if it has adapters, is merged: `trainer.model` is a plain `AMNSForPersonRetrieval` then.
        folder: receives the (merged) model; `adapter/` below it the adapters, for `load_adapter`.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        if trainer.args.should_save:
            # What an adapter does not hold but its use needs: image size, identities, temperature.
            model.config.logit_scale_init_value = model.amns.logit_scale.item()
            model.save_pretrained(Path(folder) / ADAPTER_FOLDER)
            model.config.save_pretrained(Path(folder) / ADAPTER_FOLDER)
        trainer.model = model.merge_and_unload()
    # Internal: with `push_to_hub` a plain call would push before the results stand.
    trainer.save_model(folder, _internal_call=True)


def load_adapter(folder: str | Path, base: str | Path | None = None) -> nn.Module:
    """A pretrained model with the adapters that a run saved.

    Args:
        folder: the `adapter/` folder of a run.
        base: the checkpoint that the run started from; default the one that the adapter names.
    Returns:
        a `peft.PeftModel`; its `merge_and_unload()` is a plain `AMNSForPersonRetrieval`.
    Raises:
        ImportError: peft is not installed.
        FileNotFoundError: the folder holds no adapter.
    """
    peft = require("peft", "peft", "Loading an adapter")
    if not (Path(folder) / "adapter_config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no adapter_config.json. A run with --use_peft leaves its adapter in output_dir/adapter."
        )
    config = AMNSConfig.from_pretrained(folder)
    base = base or peft.PeftConfig.from_pretrained(folder).base_model_name_or_path
    model = AMNSForPersonRetrieval.from_pretrained(base, config=config)
    model.amns.logit_scale.data.fill_(config.logit_scale_init_value)
    return peft.PeftModel.from_pretrained(model, folder)


__all__ = ["ADAPTER_FOLDER", "AdapterArguments", "add_adapters", "load_adapter", "load_weights", "save_final"]
