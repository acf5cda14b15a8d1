"""The dual encoder: equality with CLIP, dropped patches, CLS attention, loading and saving."""

import json

import pytest
import torch
from conftest import tiny_config
from torch import nn
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel

from modeling_amns import (
    AMNSConfig,
    AMNSForPersonRetrieval,
    AMNSModel,
    AMNSVisionConfig,
    configuration_base_amns,
    image_modes_amns,
)

IDS = torch.tensor([[618, 5, 9, 619, 619], [618, 7, 8, 11, 619]])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**sizes, "image_size": 64, "patch_size": 8},
        text_config={**sizes, "vocab_size": 620, "bos_token_id": 618, "eos_token_id": 619},
        projection_dim=16,
    )
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    return model, folder


def square_images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def test_a_clip_checkpoint_gives_the_same_features_at_its_own_grid(clip):
    reference, folder = clip
    model = AMNSModel.from_pretrained(folder).eval()
    with torch.no_grad():
        want = reference(input_ids=IDS, pixel_values=square_images(), return_loss=True)
        got = model(input_ids=IDS, pixel_values=square_images(), return_loss=True)
    for field in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text", "loss"):
        assert torch.allclose(got[field], want[field], atol=2e-6), field


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_position_embeddings_are_resized_to_another_grid(clip, mode):
    reference, folder = clip
    vision = {**AMNSConfig.from_pretrained(folder).vision_config.to_dict(), "image_size": [96, 32]}
    config = AMNSConfig.from_pretrained(folder, vision_config={**vision, "position_interpolation": mode})
    model = AMNSModel.from_pretrained(folder, config=config)
    old = reference.vision_model.embeddings.position_embedding.weight.detach()
    new = model.vision_model.embeddings.position_embedding.weight.detach()
    square = old[1:].T.reshape(1, 32, 8, 8)
    want = nn.functional.interpolate(square, size=(12, 4), mode=mode, align_corners=False)
    assert torch.equal(new[0], old[0])
    assert torch.allclose(new[1:].reshape(12, 4, 32).permute(2, 0, 1), want[0], atol=1e-6)
    assert model.config.image_size == [96, 32]
    assert model.get_image_features(torch.zeros(1, 3, 96, 32)).pooler_output.shape == (1, 16)


def test_a_rectangular_grid_is_resized_again_and_overlapping_patches_keep_the_weights(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AMNSModel.from_pretrained(tmp_path, image_size=[96, 48], stride=4)
    assert loaded.config.vision_config.grid_size == (23, 11)
    features = loaded.get_image_features(torch.zeros(1, 3, 96, 48))
    assert features.last_hidden_state.shape == (1, 23 * 11 + 1, 32)
    conv, other = loaded.vision_model.embeddings.patch_embedding, model.vision_model.embeddings.patch_embedding
    assert torch.equal(conv.weight, other.weight) and conv.stride == (4, 4)


def test_another_patch_size_than_the_checkpoints_is_an_error(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has patches of 8 pixels, the configuration asks for 16"):
        AMNSModel.from_pretrained(tmp_path, config=AMNSConfig())


def test_saving_and_loading_keeps_every_bit_and_writes_safetensors(model, pixels, tmp_path):
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    for loaded in (AMNSModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is AMNSModel
        assert torch.equal(
            loaded.eval().get_image_features(pixels).pooler_output, model.get_image_features(pixels).pooler_output
        )
    assert type(AutoConfig.from_pretrained(tmp_path)) is AMNSConfig


def test_all_indices_in_any_order_equal_the_plain_forward_exactly(model, pixels):
    plain = model.get_image_features(pixels)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        order = torch.stack([torch.randperm(32, generator=generator) for _ in pixels])
        kept = model.get_image_features(pixels, keep_indices=order)
        assert torch.equal(kept.pooler_output, plain.pooler_output)
        assert torch.equal(kept.last_hidden_state, plain.last_hidden_state)


def test_the_order_of_kept_indices_does_not_matter(model, pixels):
    indices = torch.tensor([[3, 30, 7, 11]] * 4)
    first = model.get_image_features(pixels, keep_indices=indices).pooler_output
    second = model.get_image_features(pixels, keep_indices=indices.flip(1)).pooler_output
    assert torch.equal(first, second)


def test_dropped_patches_are_never_encoded(model, pixels):
    counts = []
    for layer in model.vision_model.encoder.layers:
        layer.register_forward_hook(lambda module, args, output: counts.append(args[0].shape[1]))
    indices = torch.tensor([[0, 5, 9]] * 4)
    with torch.no_grad():
        kept = model.get_image_features(pixels, keep_indices=indices).pooler_output
        changed = pixels.clone()
        changed[:, :, -8:] = 100.0  # the last row of patches, 28 to 31
        assert torch.equal(kept, model.get_image_features(changed, keep_indices=indices).pooler_output)
    assert counts == [4] * 6


def test_kept_patches_keep_their_own_position_embeddings(model, pixels):
    embeddings = model.vision_model.embeddings
    indices = torch.tensor([[2, 17]] * 4)
    whole = embeddings(pixels)
    kept = embeddings(pixels, keep_indices=indices)
    assert torch.equal(kept, whole[:, [0, 3, 18]])


@pytest.mark.parametrize("indices", [torch.zeros(2, 3, dtype=torch.long), torch.zeros(4, 0, dtype=torch.long)])
def test_keep_indices_of_another_shape_are_an_error(model, pixels, indices):
    with pytest.raises(ValueError, match="keep_indices must be"):
        model.get_image_features(pixels, keep_indices=indices)


def test_an_image_of_another_size_is_an_error_that_names_both(model):
    with pytest.raises(ValueError, match="32x32 pixels .* expects 64x32"):
        model.get_image_features(torch.zeros(1, 3, 32, 32))
    assert (
        model.get_image_features(torch.zeros(1, 3, 32, 32), interpolate_pos_encoding=True)
        .pooler_output.isfinite()
        .all()
    )


@pytest.mark.parametrize("last_layers", [None, 1, 2])
def test_attention_scores_equal_eager_attention_while_the_encoder_runs_on_sdpa(model, pixels, tmp_path, last_layers):
    assert model.config._attn_implementation == "sdpa"
    # Biases of zero, as after initialisation, would hide an error in how the key's bias is left out.
    for layer in model.vision_model.encoder.layers:
        nn.init.normal_(layer.self_attn.k_proj.bias)
        nn.init.normal_(layer.self_attn.q_proj.bias)
        layer.self_attn.q_proj.weight.data.mul_(5)
    model.save_pretrained(tmp_path)
    eager = AMNSModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    attentions = torch.stack(eager.vision_model(pixels, output_attentions=True).attentions)
    layers = attentions[-last_layers:] if last_layers else attentions
    want = layers.mean(dim=(0, 2))[:, 0, 1:]
    scores = model.image_attention_scores(pixels, last_layers)
    assert scores.dtype == torch.float32 and scores.shape == (4, 32)
    assert scores.std() > 1e-3
    assert torch.allclose(scores, want, atol=1e-5, rtol=0)
    assert torch.allclose(scores.sum(1), 1 - layers.mean(dim=(0, 2))[:, 0, 0], atol=1e-5)


def test_attention_scores_never_hold_a_map_of_all_patches_nor_run_the_last_layer(model, pixels, monkeypatch):
    sizes = []
    original = torch.Tensor.softmax

    def watched(tensor, *args, **kwargs):
        sizes.append(tuple(tensor.shape))
        return original(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "softmax", watched)
    ran = []
    for number, layer in enumerate(model.vision_model.encoder.layers):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    model.image_attention_scores(pixels)
    assert sizes == [(4, 2, 33)] * 3
    assert ran == [0, 1]


def test_attention_scores_of_no_layer_are_an_error(model, pixels):
    with pytest.raises(ValueError, match=r"last_layers must lie in \[1, 3\]"):
        model.image_attention_scores(pixels, last_layers=0)


def test_the_image_tower_shares_the_models_modules_and_embeds_patches_as_the_pooled_token(model, pixels):
    tower = model.image_side()
    assert set(tower.state_dict()) == {
        name for name in model.state_dict() if name.startswith(("vision_model.", "visual_projection."))
    }
    shared = dict(model.named_parameters())
    assert all(parameter is shared[name] for name, parameter in tower.named_parameters())
    assert not tower.training and tower.num_patches == 32 and model.grid_size == (8, 4) and model.embedding_dim == 16
    assert torch.equal(tower.cls_attention(pixels, 2), model.image_attention_scores(pixels, 2))
    tokens = model.vision_model.post_layernorm(model.vision_model(pixels).last_hidden_state)
    embeds = tower.patch_embeds(pixels)
    assert torch.allclose(embeds, model.visual_projection(tokens)[:, 1:], atol=1e-6) and embeds.shape == (4, 32, 16)


def test_padding_does_not_change_text_features(model):
    short = torch.tensor([[618, 5, 9, 619]])
    want = model.get_text_features(short).pooler_output
    for pad in (0, 619):
        padded = nn.functional.pad(short, (0, 6), value=pad)
        mask = (torch.arange(10) < 4).long()[None]
        assert torch.allclose(model.get_text_features(padded).pooler_output, want, atol=1e-6)
        assert torch.allclose(model.get_text_features(padded, attention_mask=mask).pooler_output, want, atol=1e-6)


def test_gradient_checkpointing_gives_the_same_gradients(config, pixels):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = AMNSModel(config).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.vision_model.encoder.layers[0].gradient_checkpointing
        indices = torch.tensor([[1, 4, 6]] * 2)
        model(input_ids=IDS, pixel_values=pixels[:2], keep_indices=indices, return_loss=True).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 50
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-7) for name in gradients[0])


def test_hidden_states_and_tuples_are_returned_as_by_clip(model, pixels):
    output = model.vision_model(pixels, output_hidden_states=True)
    assert len(output.hidden_states) == 4 and output.hidden_states[0].shape == (4, 33, 32)
    as_tuple = model(input_ids=IDS, pixel_values=pixels, return_dict=False)
    assert isinstance(as_tuple, tuple) and as_tuple[0].shape == (4, 2)


def test_the_retrieval_model_loads_into_the_encoder_and_back(pixels, tmp_path):
    trained = AMNSForPersonRetrieval(tiny_config(num_identities=7)).eval()
    trained.save_pretrained(tmp_path / "trained")
    encoder = AMNSModel.from_pretrained(tmp_path / "trained").eval()
    assert torch.equal(
        encoder.get_image_features(pixels).pooler_output, trained.amns.get_image_features(pixels).pooler_output
    )
    encoder.save_pretrained(tmp_path / "encoder")
    again = AMNSForPersonRetrieval.from_pretrained(tmp_path / "encoder", num_identities=3).eval()
    assert torch.equal(
        again.amns.get_image_features(pixels).pooler_output, trained.amns.get_image_features(pixels).pooler_output
    )
    assert again.classifier.out_features == 3 and 0 < again.classifier.weight.std() < 0.002


def test_a_classifier_of_other_identities_starts_anew_and_an_equal_one_is_kept(tmp_path):
    trained = AMNSForPersonRetrieval(tiny_config(num_identities=7))
    trained.save_pretrained(tmp_path)
    same = AMNSForPersonRetrieval.from_pretrained(tmp_path)
    assert torch.equal(same.classifier.weight, trained.classifier.weight)
    other = AMNSForPersonRetrieval.from_pretrained(tmp_path, num_identities=9)
    assert other.classifier.weight.shape == (9, 16) and other.config.num_identities == 9


def test_the_retrieval_model_returns_embeddings_and_identity_scores(pixels):
    trained = AMNSForPersonRetrieval(tiny_config(num_identities=7)).eval()
    output = trained(input_ids=IDS.repeat(2, 1), pixel_values=pixels)
    assert output.image_identity_logits.shape == output.text_identity_logits.shape == (4, 7)
    features = trained.amns.get_image_features(pixels).pooler_output
    assert torch.allclose(output.image_identity_logits, trained.classifier(features))
    assert torch.allclose(output.image_embeds.norm(dim=1), torch.ones(4))


def test_the_default_configuration_is_vit_b16_on_384x128():
    config = AMNSConfig()
    assert config.image_size == [384, 128] and config.vision_config.grid_size == (24, 8)
    assert config.vision_config.hidden_size == 768 and config.text_config.vocab_size == 49408


def test_configuration_round_trips_and_takes_an_image_size(tmp_path):
    tiny_config(num_identities=4).save_pretrained(tmp_path)
    config = AMNSConfig.from_pretrained(tmp_path, image_size=(96, 32), stride=4)
    assert config.image_size == [96, 32] and config.stride == 4 and config.num_identities == 4
    assert AMNSConfig.from_pretrained(tmp_path).to_dict() == tiny_config(num_identities=4).to_dict() | {
        "transformers_version": AMNSConfig().to_dict()["transformers_version"],
        "auto_map": {"AutoConfig": "configuration_amns.AMNSConfig"},
    }


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"image_size": [8, 8]}, "smaller than one patch"),
        ({"stride": 20}, "stride must lie"),
        ({"position_interpolation": "nearest"}, "position_interpolation"),
        ({"image_size": [1, 2, 3]}, "image_size must be"),
        ({"patch_size": [8, 4]}, "patch_size must be square"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(fields, message):
    with pytest.raises(Exception, match=message):
        AMNSVisionConfig(**fields)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"text_config": {"vocab_size": 10**12}}, r"vocab_size must lie in \[1, 2,000,000\], found 1000000000000"),
        ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers must lie"),
        ({"text_config": {"max_position_embeddings": 10**10}}, "max_position_embeddings must lie"),
        ({"vision_config": {"hidden_size": 2**60, "num_attention_heads": 1}}, "hidden_size must lie"),
        ({"vision_config": {"num_attention_heads": 0}}, "num_attention_heads must lie"),
        ({"vision_config": {"image_size": 10**6}}, "image_size must be at most 8,192 pixels"),
        ({"vision_config": {"image_size": 8192}}, "makes 262,144 patches, expected at most 65,536"),
        ({"vision_config": {"stride": -1}}, "stride must lie"),
        ({"vision_config": {"layer_norm_eps": float("nan")}}, "layer_norm_eps must lie"),
        ({"projection_dim": 10**12}, "projection_dim must lie"),
        ({"num_identities": 10**12}, "num_identities must lie"),
        ({"logit_scale_init_value": float("nan")}, "logit_scale_init_value must lie"),
        ({"num_identities": 10**8, "projection_dim": 1024}, "weights is described, expected at most 10,000,000,000"),
        (
            {"vision_config": {"num_hidden_layers": 256, "hidden_size": 16384, "num_attention_heads": 1}},
            "weights is described, expected at most 10,000,000,000",
        ),
    ],
)
def test_a_configuration_of_impossible_size_is_refused_before_memory_is_taken(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        AMNSConfig(**fields)
    content = AMNSConfig().to_dict()
    for name, value in fields.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        AMNSModel.from_pretrained(tmp_path)


def test_the_limits_of_options_and_configuration_agree():
    assert image_modes_amns.MAX_SIDE == configuration_base_amns._MAX_SIDE
    for size in (0, 10**6, float("inf"), [64, float("nan")]):
        with pytest.raises(ValueError, match="image_size must be"):
            image_modes_amns.size_pair(size if isinstance(size, list) else [size])


def test_a_checkpoint_of_another_model_type_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="holds a model of type 'bert'"):
        AMNSModel.from_pretrained(tmp_path)


def test_positions_start_twice_as_strong_as_the_pixels_of_a_patch():
    torch.manual_seed(0)
    embeddings = AMNSForPersonRetrieval(tiny_config()).amns.vision_model.embeddings
    pixels = torch.randn(64, 3, 64, 32)
    content = embeddings.patch_embedding(pixels).std().item()
    assert embeddings.position_embedding.weight.std().item() == pytest.approx(2 * content, rel=0.15)


def test_words_start_ten_times_as_strong_as_positions():
    torch.manual_seed(0)
    embeddings = AMNSForPersonRetrieval(tiny_config()).amns.text_model.embeddings
    words, positions = embeddings.token_embedding.weight.std(), embeddings.position_embedding.weight.std()
    assert words.item() == pytest.approx(0.2, rel=0.15) and (words / positions).item() == pytest.approx(10, rel=0.15)
