"""Captions of more tokens than the text encoder reads: said, refused, or read in windows."""

import json

import datasets
import numpy as np
import pytest
import torch
from conftest import CAPTIONS, IMAGE_SIZE, tiny_retrieval_model
from PIL import Image
from transformers.utils import logging as hf_logging

from modeling_amns import AMNSModel, AMNSProcessor, AMNSTrainer, AMNSTrainingArguments
from modeling_amns.audit.pair_scores import score_pairs
from modeling_amns.captions_amns import token_windows
from modeling_amns.data.collator import PairPreparer
from modeling_amns.data.long_captions import count_long, read_captions
from modeling_amns.data.sampler import PairKey
from modeling_amns.data.streamed import StreamCollator, StreamedPairs
from modeling_amns.embedding import embed_texts
from modeling_amns.evaluation import embed_split
from modeling_amns.retrieval.encoders import TorchEncoder
from modeling_amns.retrieval.queries import cut_sentences, query_vector

LONG = " ".join(CAPTIONS * 3)
ENDLESS = " ".join(["a red coat and a blue bag"] * 720)  # 5,040 words


@pytest.fixture
def processor() -> AMNSProcessor:
    """Of its own for each test, which sets it up."""
    return AMNSProcessor.from_captions(CAPTIONS * 20, IMAGE_SIZE, vocab_size=620)


@pytest.fixture
def student(processor):
    return tiny_retrieval_model(processor).eval()


@pytest.fixture(params=["clip", "siglip"])
def family(request, processor, student, tmp_path):
    """A model and its processor of either family."""
    if request.param == "clip":
        return student.amns, processor
    from test_siglip import SIZE, TOKENS, gemma_tokenizer
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel, SiglipProcessor

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(gemma_tokenizer()), "max_position_embeddings": TOKENS}
    config = SiglipConfig(vision_config={**sizes, "image_size": 64, "patch_size": 8}, text_config=text)
    SiglipModel(config).save_pretrained(tmp_path)
    SiglipProcessor(SiglipImageProcessorPil(size={"height": 64, "width": 64}), gemma_tokenizer()).save_pretrained(
        tmp_path
    )
    return (
        AMNSModel.from_pretrained(tmp_path, image_size=SIZE).eval(),
        AMNSProcessor.from_pretrained(tmp_path, image_size=SIZE),
    )


@pytest.fixture
def warnings(caplog):
    """The warnings of a test, of which none counts as said before."""
    type(hf_logging.get_logger()).warning_once.cache_clear()
    name = "modeling_amns.data.long_captions"
    return lambda: [record.getMessage() for record in caplog.records if record.name == name]


def split_of(captions: list[str]) -> dict[str, datasets.Dataset]:
    images = [Image.new("RGB", (32, 64), (60 * place, 90, 30)) for place in range(2)]
    gallery = datasets.Dataset.from_dict({"image": images, "person_id": [0, 1]})
    persons = [place % 2 for place in range(len(captions))]
    queries = datasets.Dataset.from_dict({"caption": captions, "person_id": persons})
    return {"gallery": gallery, "queries": queries}


def pairs_of(captions: list[str]) -> datasets.Dataset:
    count = len(captions)
    images = [Image.new("RGB", (32, 64), (20 * place, 90, 30)) for place in range(count)]
    return datasets.Dataset.from_dict(
        {
            "image": images,
            "caption": captions,
            "person_id": list(range(count)),
            "image_id": list(range(count)),
            "image_path": [f"{place}.png" for place in range(count)],
        }
    )


@pytest.mark.parametrize("words", [0, 1, 4, 5, 6, 10, 11, 5000])
@pytest.mark.parametrize("ends", [((0,), (1,)), ((), (1,)), ((), ())], ids=["clip", "siglip", "bare"])
def test_windows_hold_every_token_once_in_equal_parts(words, ends):
    start, end = map(list, ends)
    body = list(range(10, 10 + words))
    room = 7 - len(start) - len(end)
    found = token_windows([*start, *body, *end], 7, bos_token_id=0, eos_token_id=1)
    number = max(1, int(np.ceil(words / room)))
    assert all(len(window) <= 7 for window in found) and len(found) == number
    assert all(window[: len(start)] == start and window[len(window) - len(end) :] == end for window in found)
    inner = [window[len(start) : len(window) - len(end)] for window in found]
    assert sum(inner, []) == body
    assert list(map(len, inner)) == list(map(len, np.array_split(body, number)))


def test_a_window_without_room_for_a_word_is_refused():
    with pytest.raises(ValueError, match="A window of 2 tokens has no room"):
        token_windows([0, 5, 6, 1], 2, 0, 1)


def test_long_captions_are_those_whose_tokens_do_not_fit(family):
    _, processor = family
    captions = ["", CAPTIONS[0], LONG, "a", ENDLESS]
    whole = [len(ids) for ids in processor.tokenizer([text.strip() for text in captions])["input_ids"]]
    found = count_long(processor, captions)
    want = [place for place, length in enumerate(whole) if length > processor.max_tokens]
    assert list(found.rows) == want and {2, 4} <= set(want)
    assert (found.total, found.longest) == (5, max(whole))
    # One that fills all places is not too long.
    processor.max_tokens = whole[1]
    if processor.padded_length is None:
        assert 1 not in count_long(processor, captions).rows
        processor.max_tokens -= 1
        assert 1 in count_long(processor, captions).rows


@torch.no_grad()
def test_windows_are_the_mean_of_their_embeddings(family):
    model, processor = family
    captions = ["a man", LONG, "", ENDLESS, CAPTIONS[2]]
    processor.long_captions = "windows"
    found = embed_texts(model, processor, captions, batch_size=3, what=None)
    tokenizer = processor.tokenizer
    end = tokenizer.eos_token_id
    start = [] if processor.padded_length else [tokenizer.bos_token_id]
    room = processor.max_tokens - 1 - len(start)
    for caption, vector in zip(captions, found, strict=True):
        words = [token for token in tokenizer(caption)["input_ids"] if token not in (end, *start)]
        parts = np.array_split(words, max(1, -(-len(words) // room)))
        total = torch.zeros(model.embedding_dim, dtype=torch.float64)
        for part in parts:
            ids = [*start, *map(int, part), end]
            length = processor.padded_length or len(ids)
            padded = torch.tensor([ids + [tokenizer.pad_token_id] * (length - len(ids))])
            mask = (torch.arange(length) < len(ids)).long()[None]
            one = model.get_text_features(padded, attention_mask=mask).pooler_output[0].double()
            total += one / one.norm()
        assert torch.allclose(vector.double(), total / total.norm(), atol=1e-5)


def test_what_comes_after_the_limit_counts_in_windows_alone(family):
    model, processor = family
    captions = [LONG, LONG + " and a yellow umbrella"]
    one, two = embed_texts(model, processor, captions, what=None)
    assert torch.equal(one, two)
    processor.long_captions = "windows"
    one, two = embed_texts(model, processor, captions, what=None)
    assert not torch.allclose(one, two, atol=1e-4)


def test_short_captions_keep_their_vectors_whatever_stands_beside_them(family):
    model, processor = family
    want = embed_texts(model, processor, CAPTIONS[:1], batch_size=1)
    processor.long_captions = "windows"
    assert torch.equal(embed_texts(model, processor, [LONG, CAPTIONS[0]], batch_size=1)[1:], want)
    assert embed_texts(model, processor, []).shape == (0, model.embedding_dim)


def test_an_evaluation_says_once_how_many_captions_it_cuts(student, processor, warnings):
    split = split_of([LONG, *CAPTIONS[:2], ENDLESS])
    for _ in range(2):
        embed_split(student.amns, processor, split)
    (said,) = warnings()
    assert said.startswith("Queries: 2 of 4 captions (50.00%) have more than the 77 tokens")
    assert f"the longest {len(processor.tokenizer(ENDLESS)['input_ids']):,}" in said
    processor.long_captions = "windows"
    embed_split(student.amns, processor, split)
    assert len(warnings()) == 1


@pytest.mark.parametrize("road", ["evaluation", "audit", "query"])
def test_long_captions_are_refused_before_any_image_is_read(student, processor, road, monkeypatch):
    processor.long_captions = "refuse"
    monkeypatch.setattr("modeling_amns.evaluation.embed_images", pytest.fail)
    monkeypatch.setattr("modeling_amns.audit.pair_scores.embed_images", pytest.fail)
    captions = ["a man", LONG, "a boy", ENDLESS]
    found = r": (2 of 4 captions|a caption of 110 tokens).* the 77 .*: (query|row|caption) \d"
    with pytest.raises(ValueError, match=found):
        if road == "evaluation":
            embed_split(student.amns, processor, split_of(captions))
        elif road == "audit":
            score_pairs(student.amns, processor, pairs_of(captions))
        else:
            query_vector(TorchEncoder(student.amns, processor), LONG, None)


def test_a_search_speaks_of_a_cut_sentence_and_reads_windows_whole(student, processor, warnings):
    encoder = TorchEncoder(student.amns, processor)
    assert "the first 75 tokens count" in cut_sentences(encoder, LONG)[0]
    cut = query_vector(encoder, LONG, None)
    processor.long_captions = "windows"
    assert cut_sentences(encoder, LONG) == [] and not warnings()
    want = embed_texts(student.amns, processor, [LONG])[0].numpy()
    assert np.allclose(query_vector(encoder, LONG, None), want, atol=1e-6) and not np.allclose(cut, want, atol=1e-4)


def arguments(folder, **options) -> AMNSTrainingArguments:
    options = {"per_device_train_batch_size": 4, "max_steps": 1, "report_to": "none", "use_cpu": True} | options
    return AMNSTrainingArguments(str(folder), loss_weights={"itc": 1.0}, keep_ratio=1.0, save_strategy="no", **options)


def test_a_trainer_counts_the_whole_set_or_refuses_it(student, processor, tmp_path, warnings):
    train, val = pairs_of([LONG, "a man", ENDLESS, "a boy"]), split_of(["a man", LONG])
    told = {"args": arguments(tmp_path), "processing_class": processor}
    trainer = AMNSTrainer(student, train_dataset=train, eval_dataset=val, **told)
    assert [text[:40] for text in warnings()] == ["Training set: 2 of 4 captions (50.00%) h"]
    trainer.train()
    assert [text[:12] for text in warnings()] == ["Training set", "Queries: 1 o"]
    processor.long_captions = "refuse"
    with pytest.raises(ValueError, match="Training set: 2 of 4 captions .*: row 0, 2. Shorten them"):
        AMNSTrainer(student, train_dataset=train, **told)
    short = pairs_of(["a man"] * 4)
    with pytest.raises(ValueError, match="Queries of eval_dataset: 1 of 2 captions .*: query 1. Shorten"):
        AMNSTrainer(student, train_dataset=short, eval_dataset=val, **told)
    processor.long_captions = "windows"
    figures = AMNSTrainer(student, train_dataset=train, eval_dataset=val, **told).evaluate()
    assert figures["eval_rank1"] in (0, 50, 100) and len(warnings()) == 2


def test_training_draws_each_window_of_a_long_caption(processor):
    processor.long_captions = "windows"
    windows = token_windows(processor.token_ids([LONG], cut=False)[0], 77, *ends_of(processor))
    assert len(windows) > 1
    preparer, row = PairPreparer(processor, seed=3), pairs_of([LONG])[0]
    drawn = [preparer(row, PairKey(0, epoch))["input_ids"] for epoch in range(30)]
    assert all(ids in windows for ids in drawn) and len({tuple(ids) for ids in drawn}) == len(windows)
    again = PairPreparer(processor, seed=3)
    assert [again(row, PairKey(0, epoch))["input_ids"] for epoch in range(30)] == drawn


def ends_of(processor):
    return processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id


def test_a_stream_says_or_refuses_the_first_long_caption(processor, warnings):
    stream = pairs_of(["a man", LONG, ENDLESS]).to_iterable_dataset()

    def count():
        collate = StreamCollator(lambda examples: {"count": len(examples)}, PairPreparer(processor))
        return collate(list(StreamedPairs(stream)))["count"]

    assert count() == 3
    (said,) = warnings()
    assert said.startswith("The first long caption of the stream, of which there may be more: a caption of 110 tok")
    processor.long_captions = "refuse"
    with pytest.raises(ValueError, match="first long caption of the stream.*: row 1"):
        count()


def test_the_choice_is_saved_with_the_processor(processor, tmp_path):
    processor.long_captions = "windows"
    processor.save_pretrained(tmp_path)
    assert AMNSProcessor.from_pretrained(tmp_path).long_captions == "windows"
    assert AMNSProcessor.from_pretrained(tmp_path, long_captions="refuse").long_captions == "refuse"
    file = tmp_path / "processor_config.json"
    fields = json.loads(file.read_text())
    del fields["long_captions"]
    file.write_text(json.dumps(fields))
    assert AMNSProcessor.from_pretrained(tmp_path).long_captions == "cut"
    with pytest.raises(ValueError, match="long_captions must be one of cut, refuse, windows, found 'split'"):
        AMNSProcessor.from_pretrained(tmp_path, long_captions="split")


def test_only_captions_that_fill_all_places_are_read_twice(processor):
    tokens, whole = read_captions(processor, ["a man", LONG])
    assert tokens == processor.token_ids(["a man", LONG]) and list(whole) == [1]
    assert whole[1] == processor.tokenizer(LONG)["input_ids"]
