"""Doubtful pairs: what is remembered of each, how they are told apart, and what their rows then count."""

import copy
import math
import statistics

import numpy as np
import pytest
import torch
from conftest import tiny_retrieval_model
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from training_run import PERSONS, make_trainer, tiny_pairs
from transformers import TrainerCallback

from modeling_amns import AMNSTrainer, AMNSTrainingArguments, extras
from modeling_amns.losses import MATCHING_LOSSES, bsdm, identity_loss, inverse_sdm, matching_loss, sdm, tal
from modeling_amns.modeling_amns import AMNSPersonRetrievalOutput
from modeling_amns.objective import loss_parts, pair_losses
from modeling_amns.pair_memory import PairMemory
from modeling_amns.pair_mixture import PairMixture, fit_pairs, guess_loss

GUESS = guess_loss(64)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_memory_is_the_weighted_mean_of_each_pairs_losses_in_their_order(decay):
    """Against a sum over the whole history; rows come in any order, and some twice in a batch."""
    rng = np.random.default_rng(0)
    memory, history = PairMemory(20, decay), {row: [] for row in range(20)}
    for _ in range(30):
        rows, losses = rng.integers(0, 17, 8), rng.gamma(2.0, 1.0, 8).astype(np.float32)
        memory.update(torch.from_numpy(rows), torch.from_numpy(losses))
        for row in set(rows.tolist()):
            history[row].append(losses[rows.tolist().index(row)])
    for row, seen in history.items():
        assert memory.seen[row] == len(seen)
        shares = [decay ** (len(seen) - 1 - place) for place in range(len(seen))]
        want = np.average(seen, weights=shares) if seen else 0.0
        assert memory.average[row].item() == pytest.approx(want, rel=1e-5)
    assert {row for row, seen in history.items() if not seen} == {17, 18, 19}


def test_a_memory_comes_back_from_its_file_bit_by_bit_and_refuses_another_sets(tmp_path):
    memory, other = PairMemory(5), PairMemory(5)
    memory.update(torch.tensor([1, 4]), torch.rand(2))
    memory.weights.uniform_()
    memory.save(tmp_path)
    other.load(tmp_path)
    assert all(torch.equal(value, other.state()[name]) for name, value in memory.state().items())
    with pytest.raises(ValueError, match=r"pairs.safetensors must hold average, seen, weights of 6 pairs, found"):
        PairMemory(6).load(tmp_path)


def two_groups(share: float, pairs: int = 4000, low=(0.7, 0.12), high=(1.5, 0.1)) -> tuple[np.ndarray, np.ndarray]:
    """Losses whose fourth roots are of two normal distributions, and which are of the high one."""
    rng = np.random.default_rng(1)
    wrong = rng.random(pairs) < share
    roots = np.where(wrong, rng.normal(*high, pairs), rng.normal(*low, pairs))
    return roots**4, wrong


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_two_normal_groups_are_found_with_their_share_and_their_posteriors(share):
    losses, wrong = two_groups(share, low=(0.9, 0.15), high=(1.5, 0.15))
    found = fit_pairs(losses, 3.0)
    assert found.doubtful_share == pytest.approx(wrong.mean(), abs=0.01)
    assert (found.low, found.high) == pytest.approx((losses[~wrong].mean(), losses[wrong].mean()), rel=0.05)
    roots = losses**0.25
    densities = (1 - share) * norm.pdf(roots, 0.9, 0.15), share * norm.pdf(roots, 1.5, 0.15)
    between = (roots > 0.9) & (roots < 1.5)
    assert np.abs(found.plausible - densities[0] / sum(densities))[between].max() < 0.1
    assert np.array_equal(found.plausible, fit_pairs(losses, 3.0).plausible)


def test_a_higher_loss_is_never_more_plausible():
    """The high group is so wide that its density wins below the low one too."""
    losses, _ = two_groups(0.5, low=(1.2, 0.02), high=(1.55, 0.26))
    plausible = fit_pairs(losses, GUESS).plausible[np.argsort(losses)]
    assert (np.diff(plausible) <= 0).all()
    assert plausible[0] > 0.9 and plausible[-1] < 0.01


CLEAN, WRONG = two_groups(0.0, 500)[0], two_groups(1.0, 500, high=(1.43, 0.07))[0]


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(CLEAN, id="all clean"),
        pytest.param(WRONG, id="all wrong"),
        pytest.param(np.full(500, 3.0), id="constant"),
        pytest.param(np.full(500, np.nan), id="none seen"),
        pytest.param(np.append(np.zeros(4), np.full(5, 6.0)), id="nine pairs"),
        pytest.param(np.zeros(0), id="no pairs"),
    ],
)
def test_where_pairs_cannot_be_told_apart_all_count_fully_and_one_line_says_so(losses, caplog):
    found = fit_pairs(losses, GUESS)
    assert (found.plausible == 1).all() and found.plausible.shape == losses.shape
    assert (found.doubtful_share, found.low, found.high) == (0.0, None, None)
    assert len(caplog.records) == 1 and "tell no plausible ones from doubtful ones" in caplog.text


def test_ten_pairs_are_told_apart_and_what_is_not_known_gets_the_mean():
    losses = np.array([0.1, 0.2, 0.3, 0.15, 0.25, 0.2, 0.1, 5.0, 5.5, 6.0, np.nan, np.inf])
    found = fit_pairs(losses, GUESS)
    assert (found.plausible[:7] > 0.99).all() and (found.plausible[7:10] < 0.01).all()
    assert found.plausible[10:] == pytest.approx(0.7, abs=0.01)


def test_the_mixture_names_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])

    monkeypatch.setattr(extras.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r'pair_weighting needs the package sklearn.*"modeling_amns\[audit\]"'):
        fit_pairs(two_groups(0.5)[0], GUESS)


def batch(seed: int = 0, pairs: int = 6) -> tuple[torch.Tensor, ...]:
    """Images, captions and persons of a batch in float64, and a weight for each row."""
    generator = torch.Generator().manual_seed(seed)
    images, texts = (torch.randn(pairs, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return images, texts, torch.tensor([0, 1, 2, 0, 3, 4]), torch.tensor([1.0, 0.0, 0.3, 0.7, 1.0, 0.1])


@pytest.mark.parametrize("name", MATCHING_LOSSES)
def test_rows_are_weighted_in_both_directions_and_stay_columns(name):
    images, texts, ids, weights = batch()
    values = []

    def keep(logits, positives, **options):
        options |= {"temperature": 0.5} if name == "tal" else {}
        values.append(MATCHING_LOSSES[name](logits, positives, **options))
        return values[-1]

    matching_loss(keep, images, texts, ids, temperature=0.5)
    want = sum(weights[i] * (values[0][i] + values[1][i]) for i in range(6)) / 6
    options = {"temperature": 0.5, "row_weights": weights}
    assert torch.allclose(matching_loss(MATCHING_LOSSES[name], images, texts, ids, **options), want, rtol=1e-12)
    ones = matching_loss(MATCHING_LOSSES[name], images, texts, ids, temperature=0.5, row_weights=torch.ones(6))
    assert torch.equal(ones, matching_loss(MATCHING_LOSSES[name], images, texts, ids, temperature=0.5))
    images.requires_grad_()
    matching_loss(MATCHING_LOSSES[name], images, texts, ids, **options).backward()
    assert images.grad[1].abs().max() > 0, "the image of weight 0 is no negative of the other captions any more"


def outputs_of(images, texts) -> AMNSPersonRetrievalOutput:
    classifier = torch.randn(images.shape[1], PERSONS, generator=torch.Generator().manual_seed(3), dtype=images.dtype)
    logits = {"image_identity_logits": images @ classifier, "text_identity_logits": texts @ classifier}
    return AMNSPersonRetrievalOutput(image_embeds=images, text_embeds=texts, **logits)


@pytest.mark.parametrize(
    "kind, whole, weighed",
    [
        ("mixture", None, {"inverse", "text", "tal"}),
        ("selection", None, {"inverse", "text", "tal", "sdm", "robust"}),
        ("mixture", ["bsdm"], {"inverse", "robust"}),
        ("mixture", ["sdm", "identity"], {"sdm", "text", "image"}),
    ],
)
def test_what_is_weighed_of_each_loss(tmp_path, kind, whole, weighed):
    """Against the losses apart: bsdm is sdm plus 3 times the inverse, identity the mean of its halves."""
    weights = {"bsdm": 1.0, "sdm": 1.0, "tal": 1.0, "identity": 1.0}
    args = AMNSTrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        loss_weights=weights,
        loss_options={"bsdm": {"inverse_weight": 3.0}},
        pair_weighting=kind,
        pair_weighting_losses=whole,
        temperature=0.5,
    )
    images, texts, ids, given = batch()
    outputs = outputs_of(images, texts)

    def matched(fn, name):
        return matching_loss(fn, images, texts, ids, 0.5, row_weights=given if name in weighed else None)

    def told(logits, name):
        terms = -logits.log_softmax(dim=1)[torch.arange(6), ids]
        return (given * terms if name in weighed else terms).mean()

    identity = told(outputs.image_identity_logits, "image") + told(outputs.text_identity_logits, "text")
    want = {
        "bsdm": matched(sdm, "robust") + 3 * matched(inverse_sdm, "inverse"),
        "sdm": matched(sdm, "sdm"),
        "tal": matched(tal, "tal"),
        "identity": identity / 2,
    }
    found = loss_parts(args, outputs, ids, None, given)
    assert all(torch.allclose(found[name], want[name], rtol=1e-12) for name in weights)
    plain = loss_parts(args, outputs, ids)
    assert torch.equal(plain["bsdm"], matching_loss(bsdm, images, texts, ids, 0.5, inverse_weight=3.0))
    halves = (outputs.image_identity_logits, outputs.text_identity_logits)
    assert torch.equal(plain["identity"], identity_loss(*halves, ids))


def standardised_loss(row: list[float], same: list[bool]) -> float:
    """-log of what a row's positives get, its similarities in units of 0.7 of their spread over the others."""
    others = [value for value, own in zip(row, same) if not own]
    scaled = [value / (0.7 * statistics.pstdev(others)) for value in row]
    return math.log(sum(map(math.exp, scaled))) - math.log(sum(math.exp(v) for v, own in zip(scaled, same) if own))


@pytest.mark.parametrize("temperature", [0.02, 0.5])
def test_a_pairs_loss_is_the_mean_over_both_directions_of_what_its_person_gets(tmp_path, temperature):
    """Whatever the temperature of the losses: a start may be as sure of wrong pairs as of right ones."""
    args = AMNSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, temperature=temperature)
    images, texts, ids, _ = batch()
    unit = [part / part.norm(dim=1, keepdim=True) for part in (images, texts)]
    similarity = unit[0] @ unit[1].T
    same = (ids[:, None] == ids[None]).tolist()
    found = pair_losses(args, outputs_of(images, texts), ids)
    for row in range(6):
        directions = [standardised_loss(matrix[row].tolist(), same[row]) for matrix in (similarity, similarity.T)]
        assert found[row].item() == pytest.approx(sum(directions) / 2, rel=1e-6)


@pytest.mark.parametrize("persons", [[0, 0, 0], [0, 1, 2]])
def test_pairs_without_spread_have_finite_losses(tmp_path, persons):
    """One person alone, whose rows have no negatives, and embeddings that are all one."""
    args = AMNSTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    found = pair_losses(args, outputs_of(torch.ones(3, 5), torch.ones(3, 5)), torch.tensor(persons))
    assert found.tolist() == pytest.approx([math.log(3 / persons.count(0))] * 3, abs=0.02)


class Weights(TrainerCallback):
    """What rows weigh in each epoch."""

    def __init__(self, trainer):
        self.trainer, self.seen = trainer, []

    def on_step_begin(self, args, state, control, **kwargs):
        if not self.seen or state.epoch % 1 == 0:
            self.seen.append(self.trainer.memory.weights.clone())


@pytest.mark.parametrize("kind", ["mixture", "selection"])
def test_pairs_are_judged_between_epochs_and_count_after_the_warm_up(tmp_path, kind, monkeypatch):
    judged = []

    def alternating(losses, guess, seed):
        judged.append((losses, guess))
        return PairMixture(np.where(np.arange(len(losses)) % 2, 0.2, 0.9).astype(np.float32), 0.5, 3.0)

    monkeypatch.setattr("modeling_amns.pair_weighting.fit_pairs", alternating)
    trainer = make_trainer(
        tmp_path,
        num_train_epochs=4,
        per_device_train_batch_size=8,
        num_pairs=20,
        instances_per_identity=2,
        pair_weighting=kind,
    )
    weights = Weights(trainer)
    trainer.add_callback(weights)
    trainer.train()
    assert [weights.seen[epoch].unique().numel() == 1 for epoch in range(4)] == [True, True, False, False]
    even, odd = (1.0, 0.0) if kind == "selection" else (0.9, 0.2)
    assert weights.seen[2].tolist() == pytest.approx([even, odd] * 10)
    logged = [entry for entry in trainer.state.log_history if "doubtful_share" in entry]
    assert [entry["epoch"] for entry in logged] == [1, 2, 3, 4]
    assert logged[1]["doubtful_share"] == pytest.approx(0.45)
    assert (logged[1]["pair_loss_low"], logged[1]["pair_loss_high"]) == (0.5, 3.0)
    assert all(guess == pytest.approx(np.log(4)) for _, guess in judged), "8 columns, 2 of each person"
    seen, losses = trainer.memory.seen.numpy(), judged[-1][0]
    assert np.array_equal(np.isnan(losses), seen == 0) and seen.sum() >= 4 * 8


@pytest.mark.parametrize("chunk", [0, 3])
def test_a_start_judges_all_its_pairs_before_the_first_step(tmp_path, monkeypatch, chunk):
    """Its losses are those of the untouched model on whole images; rows count by them from the first step on."""
    judged = []

    def by_median(losses, guess, seed):
        judged.append(losses)
        return PairMixture((losses < np.nanmedian(losses)).astype(np.float32), 0.5, 3.0)

    monkeypatch.setattr("modeling_amns.pair_weighting.fit_pairs", by_median)
    trainer = make_trainer(
        tmp_path,
        start=True,
        double=True,
        max_steps=1,
        per_device_train_batch_size=8,
        num_pairs=16,
        pair_weighting="mixture",
        keep_ratio=0.5,
        augment_erasing=1.0,
        gradient_cache_chunk_size=chunk,
    )
    start = copy.deepcopy(trainer.model).eval()
    weights, args = Weights(trainer), trainer.args
    trainer.add_callback(weights)
    trainer.train()
    want, collated = np.zeros(16, np.float32), trainer.get_train_dataloader()
    collated.set_epoch(0)
    for inputs in collated:
        pixels = trainer.processor.normalize_images(inputs["images"]).double()
        tokens = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        outputs = start(pixel_values=pixels, **tokens)
        want[inputs["rows"]] = pair_losses(args, outputs, inputs["person_ids"])
    assert judged[0] == pytest.approx(want, rel=1e-5)
    assert weights.seen[0].tolist() == (want < np.median(want)).tolist()
    assert [entry["step"] for entry in trainer.state.log_history if "doubtful_share" in entry] == [0, 1]


def test_a_model_from_scratch_is_not_asked_before_it_has_learnt(tmp_path):
    with pytest.raises(ValueError, match="a model from scratch knows nothing of them"):
        make_trainer(tmp_path, pair_weighting="mixture", pair_weighting_start=0)
    with pytest.raises(ValueError, match=r"after 2 epoch\(s\), the run has 2"):
        make_trainer(tmp_path, pair_weighting="mixture", num_train_epochs=2)


def test_weighting_goes_through_the_gradient_cache(tmp_path):
    def trained(folder, lowest=0.0, **options):
        trainer = make_trainer(
            tmp_path / folder,
            double=True,
            per_device_train_batch_size=8,
            max_steps=2,
            pair_weighting="mixture",
            **options,
        )
        trainer.memory.weights.copy_(torch.linspace(lowest, 1, len(trainer.memory)))
        trainer.train()
        return trainer

    for folder in ("plain", "chunks", "ones"):
        (tmp_path / folder).mkdir()
    plain, chunks, ones = trained("plain"), trained("chunks", gradient_cache_chunk_size=3), trained("ones", 1.0)
    name = "amns.text_projection.weight"
    assert not torch.allclose(plain.model.state_dict()[name], ones.model.state_dict()[name], rtol=1e-6)
    for name, value in plain.model.state_dict().items():
        assert torch.allclose(chunks.model.state_dict()[name], value, rtol=1e-8, atol=1e-10), name
    assert torch.allclose(chunks.memory.average, plain.memory.average, rtol=1e-6)
    assert plain.memory.seen.sum() == 16


def test_a_run_without_the_memory_goes_on_only_where_nothing_hangs_on_it(tmp_path, caplog):
    options = {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 2}
    for kind in ("none", "mixture"):
        place = {"output_dir": str(tmp_path / kind), "pair_weighting": kind}
        make_trainer(tmp_path, max_steps=2, **options, **place).train()
        checkpoint = tmp_path / kind / "checkpoint-2"
        (checkpoint / "pairs.safetensors").unlink()
        (checkpoint / "manifest.json").write_text("{}")
        resumed = make_trainer(tmp_path, max_steps=4, **options, **place)
        if kind == "none":
            resumed.train(resume_from_checkpoint=str(checkpoint))
            assert "has no pairs.safetensors" in caplog.text and resumed.memory.seen.sum() == 16
        else:
            with pytest.raises(FileNotFoundError, match="what pair_weighting mixture goes by is not known"):
                resumed.train(resume_from_checkpoint=str(checkpoint))


def test_a_stream_has_no_rows_to_remember(tmp_path, processor):
    args = AMNSTrainingArguments(
        str(tmp_path), use_cpu=True, max_steps=1, per_device_train_batch_size=8, pair_weighting="mixture"
    )
    stream = tiny_pairs(tmp_path).to_iterable_dataset()
    with pytest.raises(ValueError, match="pair_weighting mixture needs to know all rows"):
        AMNSTrainer(tiny_retrieval_model(processor, PERSONS), args, train_dataset=stream, processing_class=processor)
    assert make_trainer(tmp_path, shards=2, max_steps=1).memory is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pair_weighting": "gmm"}, "pair_weighting must be one of none, mixture, selection, found 'gmm'"),
        ({"pair_weighting_start": 3}, "pair_weighting_start can't be used: pair_weighting none"),
        ({"pair_weighting_losses": ["waf"]}, "pair_weighting_losses can't be used: pair_weighting none"),
        ({"pair_weighting": "mixture", "pair_weighting_start": -1}, "must be at least 0, found -1"),
        ({"pair_weighting_start": 0}, "pair_weighting_start can't be used: pair_weighting none"),
        ({"pair_weighting": "mixture", "pair_weighting_losses": ["tal"]}, "tal: not among the losses"),
        ({"pair_weighting": "mixture", "pair_weighting_losses": []}, "would weigh nothing of bsdm, waf, identity"),
        ({"pair_weighting": "mixture", "loss_weights": {"sdm": 1.0}}, "would weigh nothing of sdm: name in"),
        ({"pair_memory_decay": 1.0}, r"pair_memory_decay must lie in \[0, 1\)"),
        ({"loss_options": {"identity": {"text_weights": 1}}}, "identity has no option 'text_weights'"),
    ],
)
def test_weighting_that_would_do_nothing_is_refused_by_name(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        AMNSTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)


def test_wrong_pairs_of_a_toy_are_found_and_their_share_is_estimated():
    """Linear encoders of persons' traits, trained as `mixture` does, with 30 % of the captions moved."""
    torch.manual_seed(0)
    persons, count, width = 150, 900, 24
    traits = torch.randn(persons, width)
    ids = torch.arange(count) % persons
    images, texts = (traits[ids] @ torch.randn(width, width) + 0.5 * torch.randn(count, width) for _ in range(2))
    moved = torch.randperm(count)[:270]
    texts[moved] = texts[moved.roll(1)]
    wrong = torch.zeros(count, dtype=torch.bool).index_fill(0, moved, True) & True
    wrong[moved] = ids[moved] != ids[moved.roll(1)]
    encoders = [torch.nn.Linear(width, 16) for _ in range(2)]
    optimizer = torch.optim.Adam([p for encoder in encoders for p in encoder.parameters()], lr=1e-2)
    memory = PairMemory(count)
    for epoch in range(8):
        if epoch >= 2:
            found = fit_pairs(memory.average.numpy(), guess_loss(60))
            memory.weights.copy_(torch.from_numpy(found.plausible))
        for rows in torch.randperm(count).view(-1, 60):
            embeds = [encoder(part[rows]) for encoder, part in zip(encoders, (images, texts))]
            losses = []

            def keep(logits, positives, losses=losses):
                losses.append(inverse_sdm(logits, positives))
                return losses[-1]

            loss = matching_loss(sdm, *embeds, ids[rows], 0.1)
            loss = loss + matching_loss(keep, *embeds, ids[rows], 0.1, row_weights=memory.weights[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            memory.update(rows, (losses[0] + losses[1]).detach() / 2)
    found = fit_pairs(memory.average.numpy(), guess_loss(60))
    assert found.doubtful_share == pytest.approx(wrong.float().mean().item(), abs=0.05)
    assert roc_auc_score(~wrong.numpy(), found.plausible) > 0.97
