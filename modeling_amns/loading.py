"""A checkpoint as tools use it: model and processor, both whole and fit for each other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import nn

from .brief import in_short
from .configuration_amns import TextConfig
from .image_modes_amns import size_pair
from .modeling_amns import AMNSModel, AMNSPreTrainedModel
from .processing_amns import AMNSProcessor
from .report import read_object

Part = TypeVar("Part")
Model = TypeVar("Model", bound=AMNSPreTrainedModel)


def load_checkpoint(
    checkpoint: str | Path, image_size: int | Sequence[int] | None = None, **options: Any
) -> tuple[AMNSModel, AMNSProcessor]:
    """Loads the dual encoder in eval mode, with its processor.

    `from_pretrained` of transformers fills what a folder lacks, weights at random and a tokenizer with nothing, and
    goes on. That is of use to those who train; a tool that embeds, exports or pushes must not.

    Args:
        checkpoint: checkpoint of AMNS, CLIP or SigLIP: folder or Hub id.
        image_size: (height, width) in pixels, or one number for a square, instead of the checkpoint's own. A CLIP
            checkpoint needs it, whose processor crops a square.
        options: of `AMNSModel.from_pretrained`, e.g. `dtype`.
    Raises:
        ValueError: a part can't be read, weights are missing, left over or not finite, or model and processor do not
            fit.
        OSError: there is no such folder or repository.
    """
    if Path(checkpoint).is_file():
        raise ValueError(
            f"{checkpoint} is a file; pass the folder of a checkpoint "
            "(scripts/convert_checkpoint.py makes one of a file)."
        )
    if not Path(checkpoint).exists():
        try:
            validate_repo_id(str(checkpoint))
        except HFValidationError as error:
            raise FileNotFoundError(
                f"There is no folder {checkpoint}, and no id of the Hub is written so; pass a checkpoint's folder or "
                "ORG/NAME."
            ) from error
    _check_shards(Path(checkpoint))
    size = {} if image_size is None else {"image_size": list(size_pair(image_size))}
    model, found = _read(
        checkpoint,
        "model",
        lambda: AMNSModel.from_pretrained(checkpoint, output_loading_info=True, **size, **options),
    )
    check_weights(model, found, str(checkpoint))
    # Whatever the folder says, no code of it runs here.
    processor = _read(
        checkpoint, "processor", lambda: AMNSProcessor.from_pretrained(checkpoint, trust_remote_code=False, **size)
    )
    check_fit(model, processor, str(checkpoint))
    return model.eval(), processor


def load_start(checkpoint: str, kind: type[Model], **options: Any) -> Model:
    """A model to train from: as `from_pretrained`, where weights that training would not mend are refused.

    Args:
        checkpoint: checkpoint of AMNS, CLIP or SigLIP: folder or Hub id.
        kind: class of the model.
        options: of `from_pretrained`.
    Raises:
        ValueError: weights of the encoders can't be read, are missing, left over or not finite.
        OSError: there is no such folder or repository.
    """
    _check_shards(Path(checkpoint))
    model, found = _read(
        checkpoint, "model", lambda: kind.from_pretrained(checkpoint, output_loading_info=True, **options)
    )
    check_weights(model, found, checkpoint)
    return model


def _check_shards(folder: Path) -> None:
    """A ValueError for an index of weights that names files elsewhere, or what is no file."""
    for index in folder.glob("*.index.json"):
        shards = read_object(index).get("weight_map", {})
        for name in set(map(str, shards.values())) if isinstance(shards, dict) else ():
            if Path(name).name != name or ((folder / name).exists() and not (folder / name).is_file()):
                raise ValueError(f"{index}: {name[:60]!r} is no file of this folder, expected the name of one.")


def check_weights(model: nn.Module, found: Mapping[str, Iterable[str]], name: str) -> None:
    """A ValueError where weights of a dual encoder are missing, have no place in it, or are not finite.

    Args:
        model: as it was loaded.
        found: transformers' report of the loading. A classifier may be missing: it starts anew.
        name: of the checkpoint.
    """
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("classifier."))
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} weights are missing, {missing[0]} first; they would be random. Take a "
            "checkpoint that was written as a whole."
        )
    # An encoder shortened by its configuration alone is another model. What only training needs may be left over.
    parts = ("vision_model.", "text_model.", "visual_projection.", "text_projection.")
    left_over = sorted(key for key in found["unexpected_keys"] if key.removeprefix("amns.").startswith(parts))
    if left_over:
        raise ValueError(
            f"{name}: {len(left_over)} weights of the encoders have no place in the model that config.json describes, "
            f"{left_over[0]} first. Is it the configuration of another checkpoint?"
        )
    broken = [key for key, weight in model.state_dict().items() if not weight.isfinite().all()]
    if broken:
        raise ValueError(
            f"{name}: {len(broken)} weights hold NaN or infinite values, {broken[0]} first; every similarity would be "
            "NaN. Take a checkpoint from before the training diverged."
        )


def check_fit(model: AMNSPreTrainedModel, processor: AMNSProcessor, name: str = "The processor") -> None:
    """A ValueError if a processor does not make what a model takes."""
    images, wanted = processor.image_processor, tuple(model.config.vision_config.image_size)
    found = None
    if images.do_center_crop:
        found = f"crops {dict(images.crop_size)} from the centre"
    elif images.do_pad or not images.do_resize:
        found = "pads images" if images.do_pad else "skips resize"
    elif dict(images.size) != dict(zip(("height", "width"), wanted)):
        found = f"makes {dict(images.size)}"
    if found:
        raise ValueError(
            f"{name}: the processor {found}, the model takes whole images resized to {wanted[0]}x{wanted[1]}. Load "
            "both with image_size=[height, width], as a CLIP checkpoint needs."
        )
    tokenizer, text = processor.tokenizer, model.config.text_config
    if processor.max_tokens > text.max_position_embeddings:
        raise ValueError(
            f"{name}: the tokenizer cuts captions at {processor.max_tokens} tokens, the model has positions for "
            f"{text.max_position_embeddings}. Set model_max_length in tokenizer_config.json, or max_tokens of the "
            f"processor, to {text.max_position_embeddings} or less."
        )
    if processor.padded_length != text.padded_length:
        found_length, wanted_length = (
            "the longest" if length is None else f"{length} tokens"
            for length in (processor.padded_length, text.padded_length)
        )
        raise ValueError(
            f"{name}: the processor pads captions to {found_length}, the text encoder takes {wanted_length}. "
            "Load the processor from the folder of the model, or set its caption_rules and max_tokens."
        )
    # Padded captions are pooled at their last position, whatever stands there.
    end = tokenizer.eos_token_id if text.padded_length else end_token_id(text)
    if len(tokenizer) > text.vocab_size or tokenizer.eos_token_id != end:
        raise ValueError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens and ends captions with {tokenizer.eos_token_id}, the "
            f"model has {text.vocab_size} and looks for {end}. Is tokenizer.json missing, or of another model?"
        )


def end_token_id(config: TextConfig) -> int:
    """The id at which a text encoder pools; in old CLIP configurations 2 stands for "the largest id"."""
    end = config.eos_token_id
    if not isinstance(end, int):
        raise ValueError(f"A text encoder pools at one end token, the configuration names {end!r} as eos_token_id.")
    return config.vocab_size - 1 if end == 2 else end


def _read(checkpoint: str | Path, part: str, load: Callable[[], Part]) -> Part:
    try:
        return load()
    except OSError:
        raise
    # Whatever the libraries below raise of a file that is cut off or does not fit the others: many kinds of errors.
    except Exception as error:
        raise ValueError(
            f"{checkpoint}: the {part} can't be read, was it copied in full? {type(error).__name__}: {in_short(error)}"
        ) from error


__all__ = ["check_fit", "check_weights", "end_token_id", "load_checkpoint", "load_start"]
