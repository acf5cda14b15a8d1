"""Turns a checkpoint of OpenAI CLIP, OpenCLIP, IRRA, RDE or transformers' CLIP into an AMNS folder.

python scripts/convert_checkpoint.py ViT-B-16.pt converted/clip --image_size 384 128
python scripts/convert_checkpoint.py logs/CUHK-PEDES/irra/best.pth converted/irra
"""

import argparse
import sys
from pathlib import Path

from transformers import AutoTokenizer

from modeling_amns import AMNSModel, AMNSProcessor
from modeling_amns.clip_tokenizer import clip_tokenizer
from modeling_amns.conversion import convert_checkpoint, convert_preprocessing


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Converts CLIP, OpenCLIP, IRRA and RDE checkpoints to AMNS.")
    parser.add_argument("checkpoint", type=Path, help="file, or folder of a transformers or OpenCLIP model")
    parser.add_argument("output_dir", type=Path, help="folder that AMNSModel.from_pretrained will load")
    parser.add_argument(
        "--image_size", type=int, nargs="+", help="height and width, one number for a square; default: the file's own"
    )
    parser.add_argument("--stride", type=int, help="pixels between patches if they overlap (IRRA's stride_size)")
    parser.add_argument("--hidden_act", choices=["quick_gelu", "gelu"], help="default: by the origin of the file")
    parser.add_argument(
        "--head_width", type=int, help="channels of an attention head of the image encoder, default 64"
    )
    parser.add_argument("--processor", help="folder or Hub id of a CLIP processor, for its tokenizer; default: the "
                        "one in the checkpoint's folder, else the vocabulary inside open-clip-torch")  # fmt: skip
    return parser.parse_args()


def main() -> int:
    """Exit code 0 on success, 1 with one line of explanation on bad input."""
    options = parse_arguments()
    try:
        model = convert_checkpoint(
            options.checkpoint, options.image_size, options.stride, options.hidden_act, options.head_width
        )
        model.save_pretrained(options.output_dir)
        processor = save_processor(options, model)
    except (ValueError, OSError) as error:
        print(f"convert_checkpoint.py: {error}", file=sys.stderr)
        return 1
    vision = model.config.vision_config
    print(f"{options.output_dir}: {model.num_parameters():,} parameters, images {vision.image_size} (height, width), "
          f"grid {vision.grid_size}, {vision.hidden_act}; {processor}.")  # fmt: skip
    return 0


def save_processor(options: argparse.Namespace, model: AMNSModel) -> str:
    """Saves a processor with the preprocessing of the checkpoint, and says whose tokenizer it has, if any."""
    images = convert_preprocessing(options.checkpoint, model.config.image_size)
    source = options.processor
    if source is None and (options.checkpoint / "tokenizer.json").is_file():
        source = options.checkpoint
    try:
        tokenizer = clip_tokenizer() if source is None else AutoTokenizer.from_pretrained(source)
    except FileNotFoundError as error:
        return f"saved without a processor: {error}"
    processor = AMNSProcessor(images, tokenizer)
    processor.max_tokens = min(processor.max_tokens, model.config.text_config.max_position_embeddings)
    processor.save_pretrained(options.output_dir)
    return "OpenAI's tokenizer" if source is None else f"tokenizer of {source}"


if __name__ == "__main__":
    sys.exit(main())
