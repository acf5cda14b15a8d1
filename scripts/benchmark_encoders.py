"""Both encoders beside transformers' CLIPModel of the same weights, for `scripts/benchmark.py`."""

import tempfile

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from modeling_amns import AMNSModel, AMNSProcessor, load_benchmark, make_synthetic_benchmark
from modeling_amns.data.collator import pad_tokens
from modeling_amns.embedding import embed_texts

if __package__:
    from .benchmark_timing import ratios_table, side_by_side
else:
    from benchmark_timing import ratios_table, side_by_side


def image_report(sizes: dict, batch_size: int, repeats: int, device: str) -> str:
    """Image features at 224x224, the size that CLIPModel takes."""
    clip, amns = _twins(CLIPConfig(vision_config={**sizes, "image_size": 224, "patch_size": 16}), device)
    pixels = torch.randn(batch_size, 3, 224, 224, device=device)
    with torch.inference_mode():
        difference = clip.get_image_features(pixels).pooler_output - amns.get_image_features(pixels).pooler_output
        work = {
            "transformers CLIPModel": lambda: clip.get_image_features(pixels),
            "AMNSModel": lambda: amns.get_image_features(pixels),
            "AMNSModel, CLS attention scores": lambda: amns.image_attention_scores(pixels),
        }
        table = ratios_table(side_by_side(work, repeats), "image encoder")
    return f"{table}\nlargest difference of the features: {difference.abs().max():.1e}"


def text_report(sizes: dict, batch_size: int, repeats: int, device: str) -> str:
    """Features of 480 captions with their tokenising; CLIPModel's are padded to 77 tokens, as CLIP was trained."""
    with tempfile.TemporaryDirectory() as root:
        make_synthetic_benchmark(root, image_size=(64, 24), train_identities=60, val_identities=1, test_identities=1)
        captions = load_benchmark("synthetic-pedes", root, "train")["caption"][:]
    processor = AMNSProcessor.from_captions(captions, [224, 224])
    tokenizer = processor.tokenizer
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    clip, amns = _twins(CLIPConfig(text_config={**sizes, **special, "vocab_size": len(tokenizer)}), device)

    def padded() -> Tensor:
        tokens = pad_tokens(processor.token_ids(captions), tokenizer.pad_token_id, 77)
        batches = zip(*(tokens[name].to(device).split(batch_size) for name in ("input_ids", "attention_mask")))
        features = [clip.get_text_features(ids, attention_mask=mask).pooler_output for ids, mask in batches]
        return torch.nn.functional.normalize(torch.cat(features)).cpu()

    with torch.inference_mode():
        embedded = embed_texts(amns, processor, captions, batch_size)
        difference = (padded() - embedded).abs().max()
        work = {
            "transformers CLIPModel": padded,
            "embed_texts": lambda: embed_texts(amns, processor, captions, batch_size),
        }
        table = ratios_table(side_by_side(work, repeats), "text encoder")
    lengths = [len(ids) for ids in processor.token_ids(captions)]
    return (
        f"{table}\n{len(captions)} captions of {sum(lengths) / len(lengths):.1f} tokens on average; "
        f"largest difference of the normalised features: {difference:.1e}"
    )


def _twins(config: CLIPConfig, device: str) -> tuple[CLIPModel, AMNSModel]:
    clip = CLIPModel(config).to(device).eval()
    with tempfile.TemporaryDirectory() as folder:
        clip.save_pretrained(folder)
        return clip, AMNSModel.from_pretrained(folder).to(device).eval()
