"""Embedding of galleries and captions apart from a trainer."""

import torch
from conftest import tiny_config

from modeling_amns import AMNSModel
from modeling_amns.embedding import embed_texts


def test_captions_of_a_batch_are_of_like_length_and_come_back_in_their_order(processor):
    torch.manual_seed(0)
    model = AMNSModel(tiny_config(text_config=processor.text_config_fields)).eval()
    words = "a man in a red coat and a pair of black pants"
    captions = [" ".join(words.split()[: 3 + 7 * place % 9]) for place in range(24)]
    lengths = [len(ids) for ids in processor.token_ids(captions)]
    read = []
    model.text_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    found = embed_texts(model, processor, captions, batch_size=4)
    # Sorted, a batch of four is padded by what its own captions differ in.
    ordered = sorted(lengths)
    assert sum(read) == sum(4 * max(ordered[first : first + 4]) for first in range(0, 24, 4))
    assert sum(read) < sum(4 * max(lengths[first : first + 4]) for first in range(0, 24, 4))
    alone = torch.cat([embed_texts(model, processor, [caption], batch_size=1) for caption in captions])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)
