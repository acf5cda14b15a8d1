"""What a run may be asked for: recipes in YAML, and refusals before any data are read."""

import json
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from .brief import in_short
from .configuration_amns import AMNSTextConfig, AMNSVisionConfig
from .report import METRICS
from .training_args import AMNSTrainingArguments

# Beside the package in its source, inside it once installed.
RECIPES = (Path(__file__).parents[1] / "scripts" / "recipes", Path(__file__).parent / "scripts" / "recipes")
# Characters of what other libraries say of a recipe or an encoder that an error passes on.
MAX_TOLD = 500
# Fields of the two encoders that a run sets from elsewhere, and from where.
SET_ELSEWHERE = {
    "vision_config": {"projection_dim": "projection_dim"},
    "text_config": {
        "projection_dim": "projection_dim",
        "vocab_size": "vocab_size",
        "bos_token_id": "vocab_size",
        "eos_token_id": "vocab_size",
        "pad_token_id": "vocab_size",
    },
}


def read_recipe(path: str | Path, fields: Collection[str], switches: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a YAML recipe, a file or the name of one of the package's own, all of them known.

    Args:
        path: of the file, or the name.
        fields: names of all options.
        switches: those that are yes or no. In others `no`, `off`, `yes` and `on` are words, not truth values:
            `eval_strategy: no`.
    Raises:
        FileNotFoundError: there is no such recipe.
        ValueError: it is no mapping of options.
    """
    own = {recipe.stem: recipe for folder in RECIPES for recipe in folder.glob("*.yaml")}
    path = own.get(str(path), Path(path))
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {path}; the package's own are {', '.join(sorted(own))}.")
    loader = None
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        for name, value in root.value if isinstance(root, yaml.MappingNode) else ():
            if value.tag == "tag:yaml.org,2002:bool" and name.value not in switches:
                value.tag = "tag:yaml.org,2002:str"
        recipe = None if root is None else loader.construct_document(root)
    # Besides its own errors, what the constructors of numbers and times raise of a text that is none, what a key that
    # is a list raises, bytes that are no text, and brackets without end.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {in_short(error, MAX_TOLD)}") from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must map option names to values, found {type(recipe).__name__}.")
    unknown = sorted(str(name) for name in recipe if name not in fields or name in ("config", "help", "yes"))
    if unknown:
        raise ValueError(f"{path} has unknown field(s): {', '.join(unknown)}. `train.py --help` lists all options.")
    return recipe


def read_encoder(name: str, value: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """The fields of one encoder, from JSON or as they are.

    Args:
        name: `vision_config` or `text_config`.
        value: JSON text, or a mapping.
    Raises:
        ValueError: it is no mapping, or has a field that there is not, that a run sets from elsewhere, or whose value
            is not valid.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"{name} is no valid JSON: {error}; found {in_short(repr(value), MAX_TOLD)}.") from error
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{name} must map fields to values, found {type(value).__name__}.")
    given = dict(value or {})
    kind = AMNSVisionConfig if name == "vision_config" else AMNSTextConfig
    known = {option.name for option in fields(kind)}
    of_encoders = sorted(known - {option.name for option in fields(PreTrainedConfig)} - set(SET_ELSEWHERE[name]))
    for option in given:
        if option in SET_ELSEWHERE[name]:
            raise ValueError(f"{name}: {option} would be overwritten; use --{SET_ELSEWHERE[name][option]}.")
        if option not in known:
            raise ValueError(f"{name} has no field {option!r}; it has {', '.join(of_encoders)}.")
    try:
        kind(**given)
    # What huggingface_hub's strict dataclasses raise of a wrong type or of parts that do not fit.
    except StrictDataclassError as error:
        raise ValueError(f"{name}: {in_short(error, MAX_TOLD)}") from error
    return given


def refuse_from_scratch_options(start: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """A ValueError for options that describe a new model where a run starts from a checkpoint."""
    idle = [name for name, value in given.items() if value != defaults[name]]
    if idle:
        raise ValueError(
            f"{', '.join(idle)} can't be used: the run starts from {start}, which brings its own. They describe a "
            "model from scratch, without model_name_or_path."
        )


def check_selection(args: AMNSTrainingArguments) -> None:
    """Refuses to select an epoch by what is not evaluated, or one that would have no checkpoint.

    A new best is saved at whichever step it is found (`WholeCheckpoints`), so shares of the training, which
    transformers rounds to steps one by one, need not fit each other.

    Raises:
        ValueError: the metric is none of the figures, or evaluations and checkpoints do not meet.
    """
    evaluates, saves = (getattr(value, "value", value) for value in (args.eval_strategy, args.save_strategy))
    metric = args.metric_for_best_model
    if evaluates != "no" and metric is not None and metric.removeprefix("eval_") not in METRICS:
        raise ValueError(f"metric_for_best_model {metric} is no figure of the evaluation: {', '.join(METRICS)}.")
    if "no" in (evaluates, saves) or saves == "best":
        return
    steps, every = args.eval_steps or 0, args.save_steps
    whole = steps >= 1 and every >= 1
    if evaluates != saves or (saves == "steps" and whole and steps % every):
        raise ValueError(
            "The best epoch is read back from its checkpoint, so each evaluation needs one: eval_strategy is "
            f"{evaluates}, save_strategy {saves}. Make them and their steps equal, or pass --save_strategy best, or "
            "--save_strategy no to report the last epoch."
        )


__all__ = ["RECIPES", "check_selection", "read_encoder", "read_recipe", "refuse_from_scratch_options"]
