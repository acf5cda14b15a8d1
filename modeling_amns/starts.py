"""The model that a run starts from, and its processor: of a checkpoint, or new."""

import itertools
from typing import Any, cast

import datasets

from .configuration_amns import AMNSConfig, AMNSVisionConfig
from .data.collator import undecoded
from .loading import check_fit, load_start
from .modeling_amns import AMNSForPersonRetrieval, AMNSModel
from .processing_amns import AMNSProcessor
from .run_arguments import ModelArguments

# Of a stream; a vocabulary of thousands of words is in them.
STREAMED_CAPTIONS = 50_000


def build(
    arguments: ModelArguments, captions: list[str], num_identities: int
) -> tuple[AMNSForPersonRetrieval, AMNSProcessor]:
    """The model and its processor.

    Args:
        arguments: where to start.
        captions: of the training set; from scratch, the tokenizer is trained on them.
        num_identities: of the training set; 0 leaves the classifier out.
    Raises:
        ValueError: weights of the start are missing or not finite, its tokenizer does not fit them, or its positions
            can't be stretched to those asked for.

    A start keeps its preprocessing: mean, deviation, resampling, tokenizer; and, where `arguments` name no other, its
    image size and stride, its text positions and what it makes of long captions. Images are never cropped, also those
    of a CLIP start.
    """
    asked = {"image_size": arguments.image_size, "stride": arguments.stride}
    grid: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    options: dict[str, Any] = {}
    if arguments.attn_implementation:
        options["attn_implementation"] = arguments.attn_implementation
    if arguments.model_name_or_path:
        start = arguments.model_name_or_path
        model = load_start(start, AMNSForPersonRetrieval, num_identities=num_identities, **grid, **options)
        # Whatever a folder says, no code of it runs here.
        size = model.config.vision_config.image_size
        processor = AMNSProcessor.from_pretrained(start, image_size=size, trust_remote_code=False)
        if arguments.max_text_positions is not None:
            model.resize_text_positions(arguments.max_text_positions)
            processor.max_tokens = arguments.max_text_positions
        processor.long_captions = arguments.long_captions or processor.long_captions
        check_fit(model, processor, start)
        return model, processor
    vision = AMNSVisionConfig(**{**cast(dict, arguments.vision_config or {}), **grid})
    processor = AMNSProcessor.from_captions(captions, vision.image_size, arguments.vocab_size)
    config = AMNSConfig(
        vision_config=vision.to_dict(),
        text_config={**cast(dict, arguments.text_config or {}), **processor.text_config_fields},
        projection_dim=arguments.projection_dim,
        num_identities=num_identities,
        **options,
    )
    processor.max_tokens = config.text_config.max_position_embeddings
    processor.long_captions = arguments.long_captions or processor.long_captions
    return AMNSForPersonRetrieval(config), processor


def captions_of(train: datasets.Dataset | datasets.IterableDataset) -> list[str]:
    """The captions that a tokenizer is trained on: all of a set, of a stream its first `STREAMED_CAPTIONS`."""
    if isinstance(train, datasets.Dataset):
        return train["caption"][:]
    rows = undecoded(train)
    return [row["caption"] for row in itertools.islice(rows, STREAMED_CAPTIONS)]


def check_positions(arguments: ModelArguments, start: AMNSModel) -> None:
    """A ValueError where the text positions that are asked for can't be had of a start, which is changed by it."""
    if arguments.max_text_positions is not None:
        start.resize_text_positions(arguments.max_text_positions)


__all__ = ["build", "captions_of", "check_positions"]
