"""Turns a checkpoint of OpenAI CLIP, OpenCLIP, Long-CLIP, TBPS-CLIP, IRRA, RDE or transformers into AMNS; and back.

python scripts/convert_checkpoint.py ViT-B-16.pt converted/clip --image_size 384 128
python scripts/convert_checkpoint.py logs/CUHK-PEDES/irra/best.pth converted/irra
python scripts/convert_checkpoint.py outputs/quickstart exported/open_clip --to open_clip
"""

import modeling_amns  # noqa: F401  before all that is slow: Ctrl-C ends it in one line from here on

# isort: split
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

from transformers import AutoTokenizer

from modeling_amns import AMNSModel, AMNSProcessor
from modeling_amns.cli import parse, run_script
from modeling_amns.clip_tokenizer import clip_tokenizer
from modeling_amns.conversion import convert_checkpoint, convert_preprocessing
from modeling_amns.disk import refuse_model, whole_model
from modeling_amns.export import export_clip, export_open_clip
from modeling_amns.loading import check_fit


@dataclass
class ConversionArguments:
    """What the file does not say, or says otherwise."""

    to: str = field(
        default="amns",
        metadata={
            "help": "amns; or, from an AMNS checkpoint: clip (transformers' CLIPModel, square images only), open_clip."
        },
    )
    image_size: list[int] | None = field(
        default=None, metadata={"help": "Height and width, one number for a square; default: the file's own."}
    )
    stride: int | None = field(
        default=None, metadata={"help": "Pixels between patches if they overlap (IRRA's stride_size)."}
    )
    hidden_act: str | None = field(
        default=None, metadata={"help": "quick_gelu or gelu; default: by the origin of the file."}
    )
    head_width: int | None = field(
        default=None, metadata={"help": "Channels of an attention head of the image encoder; default 64."}
    )
    processor: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a CLIP processor, for its tokenizer; default: the one in the checkpoint's "
            "folder, else the vocabulary inside open-clip-torch."
        },
    )


def main() -> int:
    """Converts, and says what came out."""
    words = {
        "checkpoint": "file, or folder of a transformers or OpenCLIP model; with --to, an AMNS checkpoint",
        "output_dir": "folder that from_pretrained, or OpenCLIP, will load",
    }
    options, checkpoint, output_dir = parse((ConversionArguments,), __doc__, words)
    if options.hidden_act not in (None, "quick_gelu", "gelu"):
        raise ValueError(f"--hidden_act must be quick_gelu or gelu, found {options.hidden_act!r}.")
    if options.to != "amns":
        return export(options, checkpoint, output_dir)
    refuse_model(output_dir, ("config.json", "*.safetensors*"))
    model = convert_checkpoint(
        Path(checkpoint), options.image_size, options.stride, options.hidden_act, options.head_width
    )
    processor, said = make_processor(options.processor, Path(checkpoint), model)
    with whole_model(output_dir) as folder:
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)
    vision = model.config.vision_config
    print(
        f"{output_dir}: {model.num_parameters():,} parameters, images {vision.image_size} (height, width), "
        f"grid {vision.grid_size}, {vision.hidden_act}; {said}."
    )
    return 0


def export(options: ConversionArguments, checkpoint: str, output_dir: str) -> int:
    """Writes an AMNS checkpoint as others read it."""
    exports = {"clip": export_clip, "open_clip": export_open_clip}
    if options.to not in exports:
        raise ValueError(f"--to must be amns, clip or open_clip, found {options.to!r}.")
    given = [name.name for name in fields(options) if name.name != "to" and getattr(options, name.name) is not None]
    if given:
        raise ValueError(f"--{given[0]} has no effect with --to {options.to}: the checkpoint is written as it is.")
    exports[options.to](checkpoint, output_dir)
    print(f"{output_dir}: {checkpoint} as {'OpenCLIP' if options.to == 'open_clip' else 'CLIPModel'} reads it.")
    return 0


def make_processor(source: str | Path | None, checkpoint: Path, model: AMNSModel) -> tuple[AMNSProcessor | None, str]:
    """A processor with the preprocessing of the checkpoint that fits the model, and whose tokenizer it has, if any."""
    images = convert_preprocessing(checkpoint, model.config.image_size)
    own = None
    if source is None and (checkpoint / "tokenizer.json").is_file():
        if any((checkpoint / f"{name}_config.json").is_file() for name in ("processor", "preprocessor")):
            own = AMNSProcessor.from_pretrained(checkpoint, trust_remote_code=False)
        else:
            source = checkpoint
    try:
        if own is not None:
            tokenizer = own.tokenizer
        else:
            tokenizer = (
                clip_tokenizer() if source is None else AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            )
    except FileNotFoundError as error:
        return None, f"saved without a processor: {error}"
    text = model.config.text_config
    rules = ("clip" if text.padded_length is None else "siglip") if own is None else own.caption_rules
    choice = {} if own is None else {"long_captions": own.long_captions}
    processor = AMNSProcessor(images, tokenizer, caption_rules=rules, **choice)
    # OpenAI's tokenizer stops at 77 tokens, where Long-CLIP goes on; a folder's own knows its limit.
    positions = text.max_position_embeddings
    known = own.max_tokens if own is not None else processor.max_tokens if source == checkpoint else positions
    processor.max_tokens = min(known, positions)
    check_fit(model, processor, str(source or checkpoint))
    return (
        processor,
        "OpenAI's tokenizer" if own is None and source is None else f"tokenizer of {source or checkpoint}",
    )


if __name__ == "__main__":
    sys.exit(run_script("convert_checkpoint.py", main))
