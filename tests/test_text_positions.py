"""Text encoders with more positions: the numbers of Long-CLIP, and what follows them through saving and loading."""

import numpy as np
import pytest
import torch
from conftest import CAPTIONS, IMAGE_SIZE, tiny_retrieval_model

from modeling_amns import AMNSConfig, AMNSForPersonRetrieval, AMNSModel, AMNSProcessor
from modeling_amns.loading import check_fit, load_checkpoint
from modeling_amns.text_amns import stretch_positions

LONG = " ".join(CAPTIONS * 3)


def table(length: int, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(length, 5, generator=torch.Generator().manual_seed(length)).to(dtype)


def long_clip(positions: np.ndarray, keep: int = 20) -> np.ndarray:
    """The loop of Long-CLIP's `load_from_clip`, in float64: every gap in four, and three more behind the last."""
    length = len(positions)
    found = np.zeros((4 * length - 3 * keep, positions.shape[1]))
    found[:keep] = positions[:keep]
    for place in range(length - 1 - keep):
        here, there = positions[place + keep], positions[place + 1 + keep]
        for quarter in range(4):
            found[4 * place + quarter + keep] = (4 - quarter) * here / 4 + quarter * there / 4
    slope = positions[length - 1] - positions[length - 2]
    for quarter in range(4):
        found[4 * length - 3 * keep - 4 + quarter] = positions[length - 1] + quarter * slope / 4
    return found


def test_from_77_to_248_positions_are_those_of_long_clip():
    old = table(77)
    found = stretch_positions(old, 248)
    assert torch.equal(found[:20], old[:20]) and found.dtype == torch.float32
    assert np.abs(found.double().numpy() - long_clip(old.double().numpy())).max() < 1e-6


@pytest.mark.parametrize("keep_last", [False, True])
@pytest.mark.parametrize(("old", "new"), [(77, 78), (77, 100), (64, 128), (22, 23), (22, 300)])
def test_positions_are_interpolated_between_the_old_ones(old, new, keep_last):
    before = table(old)
    wide = before.double().numpy()
    # One more on the line through the last two, so that numpy's own interpolation reaches as far.
    line = np.vstack([wide, 2 * wide[-1] - wide[-2]])
    ratio = (new - 20 - keep_last) / (old - 20 - keep_last)
    places = [place if place < 20 else 20 + (place - 20) / ratio for place in range(new)]
    want = np.stack([np.interp(places, np.arange(old + 1), column) for column in line.T], axis=1)
    found = stretch_positions(before, new, keep_last)
    assert np.abs(found.double().numpy() - want).max() < 1e-6
    assert torch.allclose(found[-1], before[-1], atol=1e-6) is keep_last
    assert torch.equal(stretch_positions(before.bfloat16(), new, keep_last)[:20], before[:20].bfloat16())


def test_positions_that_cant_be_stretched_are_refused(model):
    with pytest.raises(ValueError, match="has 77 positions, found max_text_positions 60; they can only become more"):
        model.resize_text_positions(60)
    with pytest.raises(ValueError, match=r"max_position_embeddings must lie in \[1, 65,536\], found 1000000"):
        model.resize_text_positions(1_000_000)
    with pytest.raises(ValueError, match="has 21 positions, of which the first 20 would be kept; expected at"):
        stretch_positions(table(21), 30)
    assert model.config.text_config.max_position_embeddings == 77
    model.to("meta")
    with pytest.raises(ValueError, match="77 positions can't be stretched to 100 while they are offloaded"):
        model.resize_text_positions(100)


@torch.no_grad()
def test_a_stretched_model_reads_longer_captions_and_is_saved_as_it_is(tmp_path):
    processor = AMNSProcessor.from_captions(CAPTIONS * 20, IMAGE_SIZE, vocab_size=620)
    model = tiny_retrieval_model(processor).eval()
    short = processor(text=["a man"], return_tensors="pt")
    before = model.amns.get_text_features(**short).pooler_output
    model.resize_text_positions(150)
    processor.max_tokens = 150
    check_fit(model, processor)
    # Up to the 20th position nothing is another.
    assert torch.equal(model.amns.get_text_features(**short).pooler_output, before)
    tokens = processor(text=[LONG], return_tensors="pt")
    want = model.amns.get_text_features(**tokens).pooler_output
    assert tokens.input_ids.shape[1] == 110
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, its = load_checkpoint(tmp_path)
    assert its.max_tokens == 150 and loaded.config.text_config.max_position_embeddings == 150
    found = loaded.get_text_features(**its(text=[LONG], return_tensors="pt")).pooler_output
    assert torch.allclose(found, want, atol=1e-5)


@pytest.mark.parametrize("kind", [AMNSModel, AMNSForPersonRetrieval])
def test_a_configuration_that_asks_for_more_positions_gets_them(model, kind, tmp_path):
    model.save_pretrained(tmp_path)
    config = AMNSConfig.from_pretrained(tmp_path)
    config.text_config.max_position_embeddings = 100
    loaded = kind.from_pretrained(tmp_path, config=config)
    found = getattr(loaded, "amns", loaded).text_model.embeddings
    want = stretch_positions(model.text_model.embeddings.position_embedding.weight.data, 100)
    assert torch.equal(found.position_embedding.weight.data, want) and found.position_ids.shape == (1, 100)
    config.text_config.max_position_embeddings = 50
    with pytest.raises(ValueError, match="found max_text_positions 50"):
        kind.from_pretrained(tmp_path, config=config)


@torch.no_grad()
def test_of_siglip_the_pooled_position_stays_the_last(tmp_path):
    from test_siglip import gemma_tokenizer
    from transformers import SiglipConfig, SiglipModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(gemma_tokenizer()), "max_position_embeddings": 30}
    torch.manual_seed(0)
    siglip = SiglipModel(SiglipConfig(vision_config={**sizes, "image_size": 32, "patch_size": 8}, text_config=text))
    siglip.save_pretrained(tmp_path)
    model = AMNSModel.from_pretrained(tmp_path)
    model.resize_text_positions(45)
    old = siglip.text_model.embeddings.position_embedding.weight
    new = model.text_model.embeddings.position_embedding.weight
    assert torch.allclose(new[-1], old[-1], atol=1e-6) and torch.equal(new[:20], old[:20])
    ids = torch.randint(5, 40, (2, 45), generator=torch.Generator().manual_seed(2))
    assert model.get_text_features(ids).pooler_output.shape == (2, 32)
