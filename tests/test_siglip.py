"""SigLIP as a family of encoders: equal to transformers' `SiglipModel`, and all that CLIP's encoders can do."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CAPTIONS, REFUSE_THE_PACKAGE
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors.torch import load_file
from test_scripts import run_here
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional as F
from training_run import as_split, tiny_pairs
from transformers import (
    AutoModel,
    AutoProcessor,
    GemmaTokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
    pipeline,
)

from modeling_amns import (
    AMNSConfig,
    AMNSForPersonRetrieval,
    AMNSModel,
    AMNSProcessor,
    AMNSTrainingArguments,
    AMNSVisionModel,
    PersonGallery,
    evaluation,
    recipe,
)
from modeling_amns.data.collator import ordinary_ids
from modeling_amns.ema import ImageTeacher
from modeling_amns.embedding import embed_texts
from modeling_amns.export import export_onnx, export_sentence_transformer
from modeling_amns.export.amns_onnx import OnnxRetrieval
from modeling_amns.loading import load_checkpoint
from modeling_amns.recipe import ModelArguments
from modeling_amns.siglip_amns import AMNSSiglipTextModel, AMNSSiglipVisionModel

TOKENS = 20
SIZE = [64, 32]


def gemma_tokenizer() -> GemmaTokenizer:
    """Made as those of SigLIP 2: special tokens first, end but no start, and a class that forgets to lower-case."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trained = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    trained.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_previous")
    trained.train_from_iterator(CAPTIONS, trainers.BpeTrainer(special_tokens=special, show_progress=False))
    found = json.loads(trained.to_str())["model"]
    return GemmaTokenizer(
        vocab=found["vocab"],
        merges=[tuple(pair) for pair in found["merges"]],
        add_bos_token=False,
        add_eos_token=True,
        model_max_length=TOKENS,
    )


@pytest.fixture(scope="module")
def siglip() -> SiglipModel:
    """Random weights in the shape of SigLIP 2's checkpoints, whose configuration knows nothing of their tokenizer."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 64, "patch_size": 8}
    text = {**sizes, "vocab_size": len(gemma_tokenizer()), "max_position_embeddings": TOKENS}
    model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text)).eval()
    model.logit_scale.data.fill_(1.7)
    model.logit_bias.data.fill_(-3.0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            # As they start, a part of the arithmetic would be zero.
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def folder(siglip, tmp_path_factory):
    path = tmp_path_factory.mktemp("siglip")
    siglip.save_pretrained(path)
    SiglipProcessor(SiglipImageProcessorPil(size={"height": 64, "width": 64}), gemma_tokenizer()).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(5, 40, (3, TOKENS), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def square() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_folder_of_siglip_gives_its_features_and_logits(siglip, folder, ids, square):
    model, found = AMNSModel.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    want, got = siglip(input_ids=ids, pixel_values=square), model(input_ids=ids, pixel_values=square)
    for name in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text"):
        assert torch.allclose(got[name], want[name], atol=1e-6), name
    pooled = siglip.get_image_features(square).pooler_output
    assert torch.allclose(model.get_image_features(square).pooler_output, pooled, atol=1e-6)
    pooled = siglip.get_text_features(ids).pooler_output
    assert torch.allclose(model.get_text_features(ids).pooler_output, pooled, atol=1e-6)


@torch.no_grad()
def test_a_saved_model_loads_again_by_every_road(siglip, folder, ids, square, tmp_path):
    model = AMNSModel.from_pretrained(folder)
    AMNSForPersonRetrieval.from_pretrained(folder, num_identities=4).save_pretrained(tmp_path / "trained")
    model.save_pretrained(tmp_path / "plain")
    want = model(input_ids=ids, pixel_values=square)
    for name in ("plain", "trained"):
        loaded = AutoModel.from_pretrained(tmp_path / name)
        assert type(loaded) is AMNSModel
        assert torch.equal(loaded(input_ids=ids, pixel_values=square).logits_per_image, want.logits_per_image)
        vision = AMNSSiglipVisionModel.from_pretrained(tmp_path / name)
        assert torch.equal(vision(square).pooler_output, want.vision_model_output.pooler_output)
        text = AMNSSiglipTextModel.from_pretrained(tmp_path / name)
        assert torch.equal(text(ids).pooler_output, want.text_model_output.pooler_output)
    vision.save_pretrained(tmp_path / "vision")
    assert type(AutoModel.from_pretrained(tmp_path / "vision")) is AMNSSiglipVisionModel
    back = SiglipModel.from_pretrained(tmp_path / "plain")
    assert back.state_dict().keys() == siglip.state_dict().keys()
    assert all(torch.equal(value, siglip.state_dict()[name]) for name, value in back.state_dict().items())
    saved = json.loads((tmp_path / "plain" / "config.json").read_text())
    kinds = [saved[part]["model_type"] for part in ("vision_config", "text_config")]
    assert kinds == ["amns_siglip_vision_model", "amns_siglip_text_model"] and saved["projection_dim"] == 32


def test_positions_of_a_rectangle_are_those_of_the_square_in_between(siglip, folder):
    """Bilinear, cell by cell in float64: the middle of a new cell lies at (i + 0.5) * old / new - 0.5 of the old."""
    model = AMNSModel.from_pretrained(folder, image_size=[96, 32])
    old = siglip.vision_model.embeddings.position_embedding.weight.detach().double().reshape(8, 8, -1)
    assert model.grid_size == (12, 4)
    want = torch.zeros(12, 4, old.shape[-1], dtype=torch.float64)
    for row in range(12):
        for column in range(4):
            places = [min(max((place + 0.5) * 8 / new - 0.5, 0), 7) for place, new in ((row, 12), (column, 4))]
            for y in range(8):
                for x in range(8):
                    share = max(0, 1 - abs(places[0] - y)) * max(0, 1 - abs(places[1] - x))
                    want[row, column] += share * old[y, x]
    got = model.vision_model.embeddings.position_embedding.weight.detach().double()
    assert torch.allclose(got, want.flatten(0, 1), atol=1e-6)


@torch.no_grad()
def test_the_score_of_a_patch_is_the_attention_of_the_probe(siglip, folder, square):
    model, head = AMNSModel.from_pretrained(folder), copy.deepcopy(siglip.vision_model.head).double()
    hidden = siglip.vision_model(square).last_hidden_state.double()
    weight, bias = head.attention.in_proj_weight, head.attention.in_proj_bias
    query = (head.probe[0, 0] @ weight[:32].T + bias[:32]).reshape(2, 16)
    keys = (hidden @ weight[32:64].T + bias[32:64]).reshape(2, 64, 2, 16)
    want = torch.zeros(2, 64, dtype=torch.float64)
    for image in range(2):
        for number in range(2):
            scores = [float(query[number] @ keys[image, patch, number]) / 4 for patch in range(64)]
            want[image] += torch.tensor(scores, dtype=torch.float64).softmax(0) / 2
    assert torch.allclose(model.image_attention_scores(square).double(), want, atol=1e-6)
    with pytest.raises(ValueError, match="last_layers must be 1"):
        model.image_attention_scores(square, last_layers=2)


@torch.no_grad()
def test_a_teacher_scores_a_smaller_image(folder, square):
    """As a model that is loaded at half the size scores the image that torch halves."""
    model = AMNSModel.from_pretrained(folder)
    size = [side // 2 for side in square.shape[-2:]]
    half = AMNSModel.from_pretrained(folder, image_size=size).eval()
    smaller = torch.nn.functional.interpolate(square, size, mode="bilinear", antialias=True)
    coarse = half.image_attention_scores(smaller).unflatten(1, half.grid_size)[:, None]
    want = torch.nn.functional.interpolate(coarse, model.grid_size, mode="bilinear").flatten(1)
    assert torch.allclose(ImageTeacher(model, scale=0.5).cls_attention(square), want, atol=1e-6)


def test_kept_patches_alone_are_encoded_each_at_its_own_position(siglip, folder, square):
    model, vision = AMNSModel.from_pretrained(folder), siglip.vision_model
    kept = torch.tensor([[40, 3, 17], [0, 63, 8]])
    rows = torch.arange(2)[:, None]
    hidden = vision.embeddings(square)[rows, kept]
    for layer in vision.encoder.layers:
        hidden = layer(hidden, None)
    want = vision.head(vision.post_layernorm(hidden))
    got = model.get_image_features(square, keep_indices=kept)
    assert torch.allclose(got.pooler_output, want, atol=1e-6) and got.last_hidden_state.shape == (2, 3, 32)
    whole = model.get_image_features(square, keep_indices=torch.arange(64).flip(0).expand(2, -1))
    assert torch.equal(whole.pooler_output, model.get_image_features(square).pooler_output)


@torch.no_grad()
def test_a_patch_is_pooled_as_if_the_probe_saw_it_alone(siglip, folder, square):
    model, head = AMNSModel.from_pretrained(folder), siglip.vision_model.head
    hidden = siglip.vision_model(square).last_hidden_state
    values = hidden @ head.attention.in_proj_weight[64:].T + head.attention.in_proj_bias[64:]
    pooled = head.attention.out_proj(values)
    want = pooled + head.mlp(head.layernorm(pooled))
    assert torch.allclose(model.image_side().patch_embeds(square), want, atol=1e-6)


@torch.no_grad()
def test_captions_of_another_length_are_refused_and_padding_is_seen(folder, ids):
    model = AMNSModel.from_pretrained(folder)
    mask = (torch.arange(TOKENS) < 5).long().expand(3, -1)
    want = model.get_text_features(ids).pooler_output
    assert torch.equal(model.get_text_features(ids, attention_mask=mask).pooler_output, want)
    with pytest.raises(
        ValueError, match=f"last of its {TOKENS} positions, found captions of 9 tokens. Pad with AMNSP"
    ):
        model.get_text_features(ids[:, :9])


def test_a_processor_of_siglip_keeps_its_statistics_and_pads_as_it_was_trained(folder, tmp_path):
    AMNSProcessor.from_pretrained(folder, image_size=SIZE).save_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    end, pad, vocab = 1, 0, gemma_tokenizer().get_vocab()
    words = gemma_tokenizer()("a man in a red coat")["input_ids"]
    assert words[-1] == end and vocab["<unk>"] not in words
    for processor in (
        AMNSProcessor.from_pretrained(folder, image_size=SIZE),
        AMNSProcessor.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path),
    ):
        assert (processor.caption_rules, processor.padded_length, processor.image_size) == (
            "siglip",
            TOKENS,
            tuple(SIZE),
        )
        pixels = processor(images=image, return_tensors="pt").pixel_values[0]
        want = torch.from_numpy(np.asarray(image, dtype=np.float64) / 127.5 - 1).permute(2, 0, 1)
        assert torch.allclose(pixels.double(), want, atol=1e-6)
        for padding in ({}, {"padding": True}, {"padding": "max_length"}, {"text_kwargs": {"padding": True}}):
            batch = processor(text=["A man in a RED coat"], return_tensors="pt", **padding)
            assert batch.input_ids.tolist() == [words + [pad] * (TOKENS - len(words))]
            assert batch.attention_mask.sum() == len(words)
        assert processor.token_ids(["a Man in a red COAT"]) == [words]
        assert len(processor.token_ids([" ".join(CAPTIONS)])[0]) == TOKENS
        assert processor.token_ids([" ".join(CAPTIONS)])[0][-1] == end
        # Of a user, not an end.
        assert processor.token_ids(["a man <eos>"])[0].count(end) == 1


def test_ordinary_tokens_are_those_that_are_not_special(processor):
    assert ordinary_ids(processor.tokenizer) == range(processor.tokenizer.bos_token_id)
    assert ordinary_ids(gemma_tokenizer()) == range(5, len(gemma_tokenizer()))


def test_parts_that_do_not_fit_are_refused_by_name(folder, tmp_path, processor):
    model = AMNSModel.from_pretrained(folder, image_size=SIZE)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="caption_rules must be one of clip, siglip, found 'bert'"):
        AMNSProcessor(processor.image_processor, processor.tokenizer, caption_rules="bert")
    AMNSProcessor(processor.image_processor, gemma_tokenizer()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"pads captions to the longest, the text encoder takes {TOKENS} tokens"):
        load_checkpoint(tmp_path, image_size=SIZE)
    with pytest.raises(ValueError, match="type 'siglip'|type 'siglip_vision_model'"):
        AMNSVisionModel.from_pretrained(folder)
    parts = model.config.vision_config.to_dict()
    with pytest.raises(ValueError, match="AMNSSiglipVisionConfig and AMNSTextConfig are of two families"):
        AMNSConfig(vision_config=parts)
    with pytest.raises(ValueError, match="projection_dim 7 must equal it"):
        AMNSConfig(**{**model.config.to_dict(), "projection_dim": 7})
    with pytest.raises(StrictDataclassError, match="without SigLIP's pooling head"):
        AMNSConfig(**{**model.config.to_dict(), "vision_config": {**parts, "vision_use_head": False}})
    with pytest.raises(ValueError, match="vision_config is of model type 'vit'"):
        AMNSConfig(vision_config={"model_type": "vit"})


def test_a_configuration_of_before_there_were_families_is_of_clip():
    fields = AMNSConfig().to_dict()
    for part in ("vision_config", "text_config"):
        del fields[part]["model_type"]
    assert AMNSConfig.from_dict(fields).to_dict() == AMNSConfig().to_dict()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return tiny_pairs(tmp_path_factory.mktemp("pairs"))


def arguments(output, **options) -> AMNSTrainingArguments:
    given = {"max_steps": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "report_to": "none"}
    return AMNSTrainingArguments(output_dir=str(output), use_cpu=True, disable_tqdm=True, **{**given, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"keep_ratio": 1.0},
        {"keep_ratio": 0.5},
        {"keep_ratio": 0.5, "mask_score": "text", "augment_text": 0.5, "gradient_cache_chunk_size": 4},
        {"keep_ratio": 0.5, "gradient_checkpointing": True},
    ],
)
def test_the_same_trainer_trains_it(folder, pairs, tmp_path, options):
    model, processor = recipe.build(ModelArguments(model_name_or_path=str(folder), image_size=SIZE), [], 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    model.amns.vision_model.encoder.layers[0].register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].shape[1]) if module.training else None
    )
    trainer = recipe.AMNSTrainer(
        model,
        arguments(tmp_path, **options),
        train_dataset=pairs,
        eval_dataset=as_split(pairs),
        processing_class=processor,
    )
    trainer.train()
    assert set(seen) == {int(32 * options["keep_ratio"])}
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    # Rows of words that no caption holds stay; so do scale, which the temperature sets at once, and bias.
    assert same == {"amns.logit_bias"}
    assert model.amns.logit_bias.item() == pytest.approx(before["amns.logit_bias"].item())
    assert np.isfinite([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]).all()
    figures = trainer.evaluate()
    trainer.save_model(tmp_path / "saved")
    loaded, read = load_checkpoint(tmp_path / "saved")
    again = evaluation.evaluate_retrieval(loaded, read, as_split(pairs))
    assert again["rank1"] == pytest.approx(figures["eval_rank1"])
    assert again["mAP"] == pytest.approx(figures["eval_mAP"])


def test_adapters_are_put_where_they_are_used(folder, pairs, tmp_path):
    pytest.importorskip("peft")
    start = ModelArguments(model_name_or_path=str(folder), image_size=SIZE, use_peft=True, lora_r=2)
    model, processor = recipe.build(start, [], 8)
    wrapped = recipe.add_adapters(model, start)
    args = arguments(tmp_path, keep_ratio=0.5, max_steps=1, eval_strategy="no", save_strategy="no")
    recipe.AMNSTrainer(wrapped, args, train_dataset=pairs, processing_class=processor).train()
    adapted = {name: value for name, value in wrapped.named_parameters() if "lora_B" in name}
    assert len(adapted) == 2 * 3 * 4 and all(value.abs().sum() > 0 for value in adapted.values())


def test_a_pipeline_that_pads_to_the_longest_label_is_refused(folder, pairs, tmp_path):
    model, processor = recipe.build(ModelArguments(model_name_or_path=str(folder), image_size=SIZE), [], 0)
    model.amns.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path))
    with pytest.raises(ValueError, match="positions, found captions of [0-9]+ tokens"):
        classify(pairs["image_path"][0], candidate_labels=["a man", "a woman"])


def test_a_score_that_it_has_not_is_refused_by_name(folder, pairs, tmp_path):
    model, processor = recipe.build(ModelArguments(model_name_or_path=str(folder), image_size=SIZE), [], 8)
    args = arguments(tmp_path, keep_ratio=0.5, mask_score="attention_last")
    with pytest.raises(ValueError, match="mask_score attention_last: one attention of this encoder scores patches"):
        recipe.AMNSTrainer(model, args, train_dataset=pairs, processing_class=processor)


def test_a_gallery_ranks_by_its_cosines(folder, pairs):
    model, processor = recipe.build(ModelArguments(model_name_or_path=str(folder), image_size=SIZE), [], 0)
    gallery = PersonGallery.from_images(model.amns.eval(), processor, pairs["image_path"][:6])
    images = processor(images=pairs["image_path"][:6], text=[CAPTIONS[0]], return_tensors="pt")
    with torch.no_grad():
        scores = model.amns(**images)
    order = F.cosine_similarity(scores.text_embeds, scores.image_embeds).argsort(descending=True).tolist()
    found = [hit.path for hit in gallery.search(CAPTIONS[0].upper(), k=6)]
    assert [Path(path).name for path in found] == [Path(pairs["image_path"][row]).name for row in order]


def test_exports_equal_the_model(folder, pairs, tmp_path):
    pytest.importorskip("onnxruntime")
    model, processor = recipe.build(ModelArguments(model_name_or_path=str(folder), image_size=SIZE), [], 0)
    export_onnx(model.amns.eval(), processor, tmp_path / "onnx")
    exported, texts = OnnxRetrieval(tmp_path / "onnx"), [CAPTIONS[0].upper(), "a man"]
    batch = processor(images=pairs["image_path"][:2], text=texts, return_tensors="pt")
    with torch.no_grad():
        want = model.amns(**batch)
    assert np.allclose(exported.embed_texts(texts), want.text_embeds, atol=1e-5)
    assert np.allclose(exported.embed_images(pairs["image_path"][:2]), want.image_embeds, atol=1e-5)


WITHOUT_THE_PACKAGE = (
    REFUSE_THE_PACKAGE
    + """
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor
folder, picture, out, caption = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    outputs = model(**processor(text=[caption], images=[picture], return_tensors="pt"))
save_file({"image": outputs.image_embeds, "text": outputs.text_embeds}, out)
"""
)


def test_a_folder_works_without_the_package(folder, pairs, tmp_path):
    model, processor = recipe.build(ModelArguments(model_name_or_path=str(folder), image_size=SIZE), [], 4)
    model.eval().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    picture, out = pairs["image_path"][0], tmp_path / "out.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, str(tmp_path / "model"), picture, str(out), CAPTIONS[0]],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with torch.no_grad():
        want = model.amns(**processor(text=[CAPTIONS[0]], images=[picture], return_tensors="pt"))
    got = load_file(out)
    assert torch.allclose(got["image"], want.image_embeds, atol=1e-6)
    assert torch.allclose(got["text"], want.text_embeds, atol=1e-6)


def test_sentence_transformers_pads_by_the_processor(folder, tmp_path):
    package = pytest.importorskip("sentence_transformers")
    model, processor = recipe.build(ModelArguments(model_name_or_path=str(folder), image_size=SIZE), [], 0)
    model.amns.eval().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    export_sentence_transformer(tmp_path / "model", tmp_path / "exported")
    encoder = package.SentenceTransformer(str(tmp_path / "exported"), device="cpu")
    texts = [CAPTIONS[0], "a man"]
    with torch.no_grad():
        want = model.amns(**processor(text=texts, return_tensors="pt")).text_embeds
    assert np.allclose(encoder.encode(texts), want, atol=1e-5)


def test_its_configuration_is_read_whatever_it_leaves_out(tmp_path):
    """As that of SigLIP 2 at 256 pixels, in which only what differs from SigLIP's own defaults stands."""
    text = {"model_type": "siglip_text_model", "vocab_size": 256000, "hidden_size": 768, "projection_size": 768}
    vision = {"model_type": "siglip_vision_model", "image_size": 256, "hidden_size": 768}
    fields = {"model_type": "siglip", "architectures": ["SiglipModel"], "text_config": text, "vision_config": vision}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    config = AMNSConfig.from_pretrained(tmp_path, image_size=[384, 128])
    assert (config.vision_config.grid_size, config.vision_config.layer_norm_eps) == ((24, 8), 1e-6)
    assert (config.text_config.padded_length, config.text_config.hidden_act) == (64, "gelu_pytorch_tanh")
    assert AMNSConfig.from_pretrained(tmp_path).image_size == [256, 256]


def test_a_converted_folder_pads_captions_as_its_text_encoder_takes_them(folder, tmp_path, monkeypatch, capsys):
    code, said = run_here(monkeypatch, capsys, "convert_checkpoint.py", folder, tmp_path / "out")
    assert code == 0, said
    model, processor = load_checkpoint(tmp_path / "out")
    assert processor.caption_rules == "siglip" and processor.padded_length == TOKENS
    assert embed_texts(model, processor, ["a red coat"]).shape == (1, 32)
