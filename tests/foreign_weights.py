"""Random weights in the layouts of other projects, and their encoders as their own code computes them."""

import torch
from torch.nn import functional as F

VOCAB, CONTEXT, PATCH = 300, 20, 8
# Square as pretrained CLIP, 3:1 as IRRA and RDE at 384x128 with patch 16.
SQUARE, CROP = (4, 4), (24, 8)


def openai_weights(grid=SQUARE, width=128, text_width=64, embed=32, layers=2, vocab=VOCAB):
    """A random state dict in OpenAI's layout and key order."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape, scale=0.1):
        return torch.randn(*shape, generator=generator) * scale

    def norm(name, size):
        return {f"{name}.weight": 1 + random(size), f"{name}.bias": random(size)}

    def blocks(name, size):
        weights = {}
        for n in range(layers):
            block = f"{name}transformer.resblocks.{n}"
            weights[f"{block}.attn.in_proj_weight"] = random(3 * size, size)
            weights[f"{block}.attn.in_proj_bias"] = random(3 * size)
            weights |= linear(f"{block}.attn.out_proj", size, size) | norm(f"{block}.ln_1", size)
            weights |= linear(f"{block}.mlp.c_fc", size, 4 * size) | linear(f"{block}.mlp.c_proj", 4 * size, size)
            weights |= norm(f"{block}.ln_2", size)
        return weights

    def linear(name, inputs, outputs):
        return {f"{name}.weight": random(outputs, inputs), f"{name}.bias": random(outputs)}

    return {
        "positional_embedding": random(CONTEXT, text_width),
        "text_projection": random(text_width, embed),
        "logit_scale": torch.tensor(3.5),
        "visual.class_embedding": random(width),
        "visual.positional_embedding": random(1 + grid[0] * grid[1], width, scale=1),
        "visual.proj": random(width, embed),
        "visual.conv1.weight": random(width, 3, PATCH, PATCH),
        **norm("visual.ln_pre", width),
        **blocks("visual.", width),
        **norm("visual.ln_post", width),
        **blocks("", text_width),
        "token_embedding.weight": random(vocab, text_width),
        **norm("ln_final", text_width),
    }


def reference_blocks(weights, name, x, act, mask=None, head_width=64):
    """The residual blocks of CLIP on [B, N, C]."""

    def linear(x, key):
        return x @ weights[f"{key}.weight"].T + weights[f"{key}.bias"]

    def norm(x, key):
        return F.layer_norm(x, x.shape[-1:], weights[f"{key}.weight"], weights[f"{key}.bias"])

    n = 0
    while f"{name}transformer.resblocks.{n}.ln_1.weight" in weights:
        block = f"{name}transformer.resblocks.{n}"
        inputs = norm(x, f"{block}.ln_1")
        qkv = inputs @ weights[f"{block}.attn.in_proj_weight"].T + weights[f"{block}.attn.in_proj_bias"]
        q, k, v = (part.unflatten(-1, (-1, head_width)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        scores = q @ k.transpose(-1, -2) / head_width**0.5
        scores = scores if mask is None else scores + mask
        x = x + linear((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2), f"{block}.attn.out_proj")
        x = x + linear(act(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")), f"{block}.mlp.c_proj")
        n += 1
    return x


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def reference_image_features(weights, pixels, act=quick_gelu, stride=PATCH):
    x = F.conv2d(pixels, weights["visual.conv1.weight"], stride=stride).flatten(2).transpose(1, 2)
    x = torch.cat([weights["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
    x = x + weights["visual.positional_embedding"]
    x = F.layer_norm(x, x.shape[-1:], weights["visual.ln_pre.weight"], weights["visual.ln_pre.bias"])
    x = reference_blocks(weights, "visual.", x, act)[:, 0]
    x = F.layer_norm(x, x.shape[-1:], weights["visual.ln_post.weight"], weights["visual.ln_post.bias"])
    return x @ weights["visual.proj"]


def reference_text_features(weights, tokens, act=quick_gelu):
    x = weights["token_embedding.weight"][tokens] + weights["positional_embedding"]
    mask = torch.full((x.shape[1], x.shape[1]), -torch.inf, dtype=x.dtype).triu(1)
    x = reference_blocks(weights, "", x, act, mask)
    x = F.layer_norm(x, x.shape[-1:], weights["ln_final.weight"], weights["ln_final.bias"])
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ weights["text_projection"]


def captions(vocab=VOCAB, context=CONTEXT):
    """Token ids padded with 0, the largest id of a row its end."""
    tokens = torch.randint(1, vocab - 2, (5, context), generator=torch.Generator().manual_seed(7))
    for row, length in enumerate([3, 8, 13, context - 1, context]):
        tokens[row, length - 1] = vocab - 1
        tokens[row, length:] = 0
    return tokens


def images(grid=SQUARE, patch=PATCH):
    generator = torch.Generator().manual_seed(8)
    return torch.randn(3, 3, grid[0] * patch, grid[1] * patch, generator=generator)


@torch.no_grad()
def assert_features(model, pixels, tokens, image_features, text_features):
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.get_image_features(pixels).pooler_output, image_features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.get_text_features(tokens).pooler_output, text_features, atol=1e-5, rtol=1e-5)


def assert_equals_reference(model, weights, grid=SQUARE, act=quick_gelu):
    pixels, tokens = images(grid), captions()
    expected = reference_image_features(weights, pixels, act), reference_text_features(weights, tokens, act)
    assert_features(model, pixels, tokens, *expected)


def saved(tmp_path, content, name="checkpoint.pt"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


OPENAI_MARKS = {
    "input_resolution": torch.tensor(32),
    "context_length": torch.tensor(CONTEXT),
    "vocab_size": torch.tensor(VOCAB),
}


IRRA_HEADS = {
    "classifier.weight": torch.zeros(7, 32),
    "classifier.bias": torch.zeros(7),
    "cross_attn.in_proj_weight": torch.zeros(96, 32),
    "cross_modal_transformer.resblocks.0.ln_1.weight": torch.zeros(32),
    "ln_pre_t.weight": torch.zeros(32),
    "mlm_head.fc.weight": torch.zeros(VOCAB, 32),
}
RDE_HEADS = {
    "visul_emb_layer.fc.weight": torch.zeros(1024, 32),
    "visul_emb_layer.mlp.bns.0.num_batches_tracked": torch.tensor(3),
    "texual_emb_layer.linear.bias": torch.zeros(1024),
}
