"""Whose a checkpoint is: the run that wrote it, the options that decided it, its data, tokenizer and model.

A run resumes from its own checkpoints; what would make it another run is refused by name, what may differ is noted.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import datasets
from torch import nn
from transformers import Trainer, TrainingArguments

from .data.collator import TrainingPairs
from .data.streamed import Reading, StreamedPairs, StreamPlace
from .resuming import Pace
from .training_args import AMNSTrainingArguments

RECORD = "run.json"
# Options of transformers' that decide a training besides those of AMNSTrainingArguments. The first group comes back
# with the optimizer's state: another value would not be used.
DECIDING = (
    *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "optim", "optim_args"),
    *("seed", "data_seed", "train_sampling_strategy", "dataloader_drop_last"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_grad_norm"),
    *("metric_for_best_model", "greater_is_better"),
)
# What may differ, and is noted in the record where it does.
NOTED = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "world_size", "gradient_cache_chunk_size"),
    *("num_train_epochs", "max_steps", "bf16", "fp16", "tf32", "torch_compile", "gradient_checkpointing"),
)
_OF_NO_MATTER = ("hub_license", "overwrite_output_dir")
# Of a stream so many pairs are compared.
_HEAD = 16


def make_record(trainer: Trainer, options: Mapping[str, Any] = {}) -> dict[str, Any]:
    """The record of a run that begins.

    Args:
        trainer: with model, training set and processor.
        options: deciding options that the trainer does not know, by name.
    """
    args = cast(AMNSTrainingArguments, trainer.args)
    own = {option.name for option in fields(args)} - {option.name for option in fields(TrainingArguments)}
    deciding = sorted({*own, *DECIDING} - {*NOTED, *_OF_NO_MATTER})
    given = {name: getattr(args, name) for name in deciding} | dict(options)
    if isinstance(trainer.train_dataset, StreamedPairs):
        # The order of a stream depends on who reads which part of it.
        given["dataloader_num_workers"] = args.dataloader_num_workers
    record: dict[str, Any] = {
        "run": uuid.uuid4().hex,
        "options": given,
        "noted": {name: getattr(args, name, None) for name in NOTED},
        "data": _data(trainer.train_dataset),
        "model": _model(trainer.accelerator.unwrap_model(trainer.model)),
        "tokenizer": _tokenizer(getattr(trainer.processing_class, "tokenizer", None)),
        "changes": [],
    }
    # As it is read back: tuples are lists, keys are text.
    return json.loads(json.dumps(record, default=str))


def read_record(checkpoint: str | Path) -> dict[str, Any] | None:
    """The record in a checkpoint; `None` where there is none, as in those of earlier versions."""
    try:
        record = json.loads((Path(checkpoint) / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("run"), str) else None


def write_record(record: Mapping[str, Any], folder: str | Path) -> None:
    """Writes it whole or not at all."""
    file = Path(folder) / RECORD
    part = file.with_name(f"{RECORD}.partial")
    part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(part, file)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What makes a run another one than that of a record, a phrase each; empty where it is the same."""
    found = []
    old, new = _of(before, "options"), _of(now, "options")
    # An option that one of the two does not know (of another version, or of a run in Python) is no difference.
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            found.append(f"{name} was {_shown(old[name])}, now {_shown(new[name])}")
    found += _data_differences(_of(before, "data"), _of(now, "data"))
    old, new = _of(before, "model"), _of(now, "model")
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            found.append(f"the model's {name} was {_shown(old[name])}, now {_shown(new[name])}")
    if before.get("tokenizer") and now.get("tokenizer") and before["tokenizer"] != now["tokenizer"]:
        found.append("the tokenizer is another one")
    return found


def resumed_record(before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The record of a run that goes on: its id stays, what is noted and differs is added to `changes`."""
    old, new = _of(before, "noted"), _of(now, "noted")
    changed = {name: [old[name], new[name]] for name in new if name in old and old[name] != new[name]}
    changes = list(before.get("changes") or []) + ([{"step": step} | changed] if changed else [])
    return dict(now) | {"run": before["run"], "changes": changes}


def pace_of(record: Mapping[str, Any] | None) -> Pace | None:
    """How the run walked through its pairs, where the record says so."""
    pace = (record or {}).get("pace")
    if not isinstance(pace, list) or len(pace) != 3 or not all(type(part) is int and part > 0 for part in pace):
        return None
    return Pace(*pace)


def reading_of(record: Mapping[str, Any] | None) -> Reading | None:
    """How far the run had read its stream, where the record says so."""
    read: Any = (record or {}).get("reading")
    try:
        rows = {int(worker): (int(row), int(digest)) for worker, (row, digest) in read["rows"].items()}
        places = {
            int(worker): StreamPlace(int(row), int(digest), str(state))
            for worker, (row, digest, state) in read["places"].items()
        }
        return Reading(int(read["epoch"]), rows, places)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None


def _of(record: Mapping[str, Any], part: str) -> dict[str, Any]:
    value = record.get(part)
    return value if isinstance(value, dict) else {}


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:80] + " ..."


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()


def _data(pairs: object) -> dict[str, Any]:
    """Numbers and digests of a training set; of a stream those of its first pairs, which it must give again."""
    if isinstance(pairs, StreamedPairs):
        pairs.set_epoch(0)
        head = [[row["caption"], row["person_id"]] for _, row in zip(range(_HEAD), pairs.dataset)]
        return {"stream": _digest(head)}
    if not isinstance(pairs, TrainingPairs):
        return {}
    rows: datasets.Dataset = pairs.dataset
    ids = rows["person_id"][:]
    data = {"pairs": len(rows), "persons": len(set(ids)), "captions": _digest(rows["caption"][:])}
    data["person_ids"] = _digest(ids)
    if "person_name" in rows.column_names:
        names = sorted({name for name in rows["person_name"][:] if name is not None}, key=str)
        data["person_names"] = _digest(names)
    if "image_path" in rows.column_names:
        paths = [str(path) for path in rows["image_path"][:]]
        # A folder of data may have been moved.
        shared = (
            os.path.commonpath(paths) if len(set(paths)) > 1 and len({os.path.isabs(p) for p in paths}) == 1 else ""
        )
        data["images"] = _digest([os.path.relpath(path, shared) if shared else Path(path).name for path in paths])
    sizes = _file_sizes(rows)
    if sizes:
        data["image_sizes"] = _digest(sizes)
    return data


def _file_sizes(rows: datasets.Dataset) -> list[int]:
    """Bytes of each image file, in order: a call of the system for each; empty where images lie in the data set.

    Names alone would take another export of the same pictures for the same. Contents would take the time of an epoch.
    """
    known: dict[str, int] = {}
    for batch in rows.select_columns(["image"]).iter(1000):
        for image in batch["image"]:
            if image is None or image.get("bytes") is not None or not image.get("path"):
                return []
            path = image["path"]
            if path not in known:
                try:
                    known[path] = os.stat(path).st_size
                except (OSError, ValueError):
                    return []  # no file of this machine; whoever decodes it says so
    return list(known.values())


_DATA = {
    "stream": "the stream gives other pairs (a stream that is shuffled needs a seed)",
    "person_names": "other persons, or other names of them",
    "person_ids": "the pairs show other persons",
    "captions": "other captions, or in another order",
    "images": "other images, or in another order",
    "image_sizes": "image files of other sizes",
}


def _data_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    if bool(old) and bool(new) and ("stream" in old) != ("stream" in new):
        return ["the training data were " + ("a stream" if "stream" in old else "no stream")]
    parts = []
    for name in ("pairs", "persons"):
        if name in old and name in new and old[name] != new[name]:
            parts.append(f"{old[name]} {name} then, {new[name]} now")
    parts += [text for name, text in _DATA.items() if name in old and name in new and old[name] != new[name]]
    return [f"the training data changed ({'; '.join(parts)})"] if parts else []


def _model(model: nn.Module) -> dict[str, Any]:
    """The sizes in a model's configuration, by dotted name."""
    config: Any = getattr(model, "config", None)
    flat: dict[str, Any] = {}
    if config is None:
        return flat
    for name, value in config.to_dict().items():
        if name in ("vision_config", "text_config") and isinstance(value, dict):
            flat |= {f"{name}.{key}": part for key, part in value.items() if key in _SIZES}
        elif name in _SIZES:
            flat[name] = value
    return flat


_SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "projection_dim"),
    *("patch_size", "stride", "image_size", "vocab_size", "max_position_embeddings", "num_identities"),
    *("attention_dropout", "layer_norm_eps"),
)


def _tokenizer(given: object) -> str | None:
    tokenizer = cast(Any, given)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        # Set by each call that pads or cuts.
        return _digest({name: value for name, value in content.items() if name not in ("padding", "truncation")})
    return _digest(sorted(tokenizer.get_vocab().items())) if hasattr(tokenizer, "get_vocab") else None


__all__ = [
    "DECIDING",
    "NOTED",
    "RECORD",
    "differences",
    "make_record",
    "pace_of",
    "read_record",
    "reading_of",
    "resumed_record",
    "write_record",
]
