"""Losses against plain-Python loops in float64, finite differences, and at the edges."""

import functools
import math

import pytest
import torch
from torch.nn import functional as F

from modeling_amns.losses import (
    MATCHING_LOSSES,
    bsdm,
    check_options,
    identity_loss,
    inverse_sdm,
    itc,
    loss_names,
    matching_loss,
    needs_temperature,
    register_loss,
    sdm,
    tal,
    waf,
)

IDS = torch.tensor([0, 1, 0, 2, 2, 2])


def random_case(ids=IDS, scale=5.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(len(ids), len(ids), generator=generator, dtype=torch.float64)
    return logits, ids[:, None] == ids[None, :]


def softmax_row(row):
    top = max(row)
    total = sum(math.exp(value - top) for value in row)
    return [math.exp(value - top) / total for value in row]


def itc_row(row, positives, index):
    return -math.log(softmax_row(row)[index])


def sdm_row(row, positives, index):
    q = [1 / sum(positives) if positive else 0.0 for positive in positives]
    return sum(p * (math.log(p) - math.log(target + 1e-8)) for p, target in zip(softmax_row(row), q))


def inverse_sdm_row(row, positives, index):
    q = 1 / sum(positives)
    return sum(q * (math.log(q) - math.log(p)) for p, positive in zip(softmax_row(row), positives) if positive)


def bsdm_row(row, positives, index):
    return sdm_row(row, positives, index) + inverse_sdm_row(row, positives, index)


def tal_row(row, positives, index, margin=0.1, tau=0.02):
    own = [value for value, positive in zip(row, positives) if positive]
    others = [value for value, positive in zip(row, positives) if not positive]
    if not others:
        return 0.0
    attraction = sum(a * value * tau for a, value in zip(softmax_row(own), own))
    repulsion = tau * math.log(sum(math.exp(value) for value in others))
    return max(0.0, margin - attraction + repulsion)


def waf_row(row, positives, index, gamma=2.0):
    m = sum(p for p, positive in zip(softmax_row(row), positives) if positive)
    weight = m / (m + sum(positives) / len(positives))
    return weight * (1 - m) ** gamma * -math.log(m)


REFERENCES = {
    "itc": itc_row,
    "sdm": sdm_row,
    "inverse_sdm": inverse_sdm_row,
    "bsdm": bsdm_row,
    "tal": tal_row,
    "waf": waf_row,
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("ids", [IDS, torch.arange(5), torch.zeros(4, dtype=torch.long), torch.tensor([7])])
def test_loss_equals_a_loop_in_float64(name, ids):
    logits, positives = random_case(ids)
    expected = [
        REFERENCES[name](row, same, index)
        for index, (row, same) in enumerate(zip(logits.tolist(), positives.tolist()))
    ]
    assert MATCHING_LOSSES[name](logits, positives).tolist() == pytest.approx(expected, abs=1e-12)


def test_waf_without_weighting_and_gamma_is_the_log_probability_of_the_positives():
    logits, positives = random_case()
    m = torch.where(positives, logits.softmax(1), 0).sum(1)
    assert torch.allclose(waf(logits, positives, gamma=0, weighting="none"), -m.log())


def test_waf_damps_a_contradicted_row_more_than_a_hard_one():
    positives = torch.eye(2, dtype=torch.bool)[:1].expand(2, 2)
    logits = torch.tensor([[-1.0, 0.0], [-20.0, 0.0]], dtype=torch.float64)
    hard, wrong = (waf(logits, positives) / waf(logits, positives, weighting="none")).tolist()
    assert hard > 0.3
    assert wrong < 1e-6


@pytest.mark.parametrize("name", ["itc", "sdm", "inverse_sdm", "bsdm"])
def test_gradient_equals_finite_differences(name):
    logits, positives = random_case(scale=1.0)
    assert torch.autograd.gradcheck(lambda x: MATCHING_LOSSES[name](x, positives), logits.requires_grad_())


def test_gradients_of_losses_with_a_detached_part_equal_finite_differences_of_their_surrogates():
    logits, positives = random_case(scale=1.0)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: waf(x, positives, weighting="none"), logits)
    m = torch.where(positives, logits.softmax(1), 0).sum(1).detach()
    weight = m / (m + positives.double().mean(1))
    (got,) = torch.autograd.grad(waf(logits, positives).sum(), logits)
    (want,) = torch.autograd.grad((weight * waf(logits, positives, weighting="none")).sum(), logits)
    assert torch.allclose(got, want)
    alpha = logits.detach().masked_fill(~positives, -math.inf).softmax(1)

    def surrogate(x):
        return (0.5 + 0.02 * (x.masked_fill(positives, -math.inf).logsumexp(1) - (alpha * x).sum(1))).clamp(min=0)

    (got,) = torch.autograd.grad(tal(logits, positives, margin=0.5).sum(), logits)
    (want,) = torch.autograd.grad(surrogate(logits).sum(), logits)
    assert want.abs().sum() > 0
    assert torch.allclose(got, want)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_fully_separated_similarities_at_temperature_001_stay_finite_in_float32(name, sign):
    """Cosine 1 for all positives and -1 for all negatives, or the reverse."""
    positives = IDS[:, None] == IDS[None, :]
    logits = (sign * torch.where(positives, 1.0, -1.0) / 0.01).requires_grad_()
    loss = MATCHING_LOSSES[name](logits, positives)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("ids", [torch.tensor([3]), torch.zeros(4, dtype=torch.long), torch.arange(4)])
def test_duplicate_embeddings_one_pair_and_one_person_have_finite_gradients(name, ids):
    image = torch.ones(len(ids), 8, requires_grad=True)
    text = torch.ones(len(ids), 8, requires_grad=True)
    loss = matching_loss(MATCHING_LOSSES[name], image, text, ids, temperature=0.01)
    loss.backward()
    assert loss.isfinite()
    assert image.grad.isfinite().all() and text.grad.isfinite().all()


@pytest.mark.parametrize("name", REFERENCES)
def test_a_row_without_a_positive_is_an_error(name):
    positives = torch.tensor([[True, False], [False, False]])
    with pytest.raises(ValueError, match=r"1 of 2 rows have no positive \(first: \[1\]\)"):
        MATCHING_LOSSES[name](torch.zeros(2, 2), positives)


@pytest.mark.parametrize("positives", [torch.eye(3, dtype=torch.bool), torch.eye(2)])
def test_positives_of_another_shape_or_type_are_an_error(positives):
    with pytest.raises(ValueError, match="boolean positives of the same shape"):
        sdm(torch.zeros(2, 2), positives)


def test_itc_needs_a_column_for_each_row():
    with pytest.raises(ValueError, match="a column for each row"):
        itc(torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool))


@pytest.mark.parametrize("options, message", [({"gamma": 0.5}, "gamma"), ({"weighting": "soft"}, "weighting")])
def test_waf_refuses_options_that_do_not_exist(options, message):
    with pytest.raises(ValueError, match=message):
        waf(*random_case(), **options)


def test_losses_are_float32_under_autocast_and_equal_to_those_outside():
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 6, 8, generator=generator).bfloat16()
    outside = matching_loss(bsdm, image, text, IDS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = matching_loss(bsdm, image, text, IDS)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_matching_loss_is_the_mean_of_each_direction_summed():
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64)
    cosine = [[float(F.cosine_similarity(a, b, dim=0)) / 0.05 for b in text] for a in image]
    positives = (IDS[:, None] == IDS[None, :]).tolist()
    rows = [sdm_row(cosine[i], positives[i], i) for i in range(6)]
    columns = [sdm_row([cosine[j][i] for j in range(6)], positives[i], i) for i in range(6)]
    expected = sum(rows) / 6 + sum(columns) / 6
    assert matching_loss(sdm, image, text, IDS, temperature=0.05).item() == pytest.approx(expected, abs=1e-10)


def test_matching_loss_passes_its_temperature_to_tal():
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64)
    got = matching_loss(tal, image, text, IDS, temperature=0.05)
    logits = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T / 0.05
    positives = IDS[:, None] == IDS[None, :]
    want = sum(tal(x, positives, temperature=0.05).mean() for x in (logits, logits.T))
    assert torch.allclose(got, want)


def test_matching_loss_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="one shape"):
        matching_loss(sdm, torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(2))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        matching_loss(sdm, torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(2), temperature=0)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_identity_loss_equals_a_loop(gamma):
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    total = 0.0
    for logits in (image, text):
        for row, person in zip(logits.tolist(), IDS.tolist()):
            p = softmax_row(row)[person]
            total += (1 - p) ** gamma * -math.log(p) / 12
    assert identity_loss(image, text, IDS, gamma=gamma).item() == pytest.approx(total, abs=1e-12)


def test_inverse_sdm_bounds_the_gradient_of_a_wrong_pair():
    """The claim of its docstring: |dL/dlogit| <= 1 even where the model is sure that the pair is wrong."""
    logits = torch.tensor([[-500.0, 500.0]], requires_grad=True)
    inverse_sdm(logits, torch.tensor([[True, False]])).sum().backward()
    assert logits.grad.abs().max() <= 1


def test_an_own_loss_keeps_its_own_temperature_unless_it_is_marked():
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64)

    def softened(logits, positives, temperature=1.0):
        return itc(logits / temperature, positives)

    plain = matching_loss(itc, image, text, IDS, temperature=0.05)
    assert torch.equal(matching_loss(softened, image, text, IDS, temperature=0.05), plain)
    twice = matching_loss(itc, image, text, IDS, temperature=0.05**2)
    assert torch.allclose(matching_loss(needs_temperature(softened), image, text, IDS, temperature=0.05), twice)
    assert not torch.allclose(plain, twice)


def test_arguments_bound_to_tal_are_kept_and_the_temperature_is_still_passed():
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64)
    want = matching_loss(tal, image, text, IDS, temperature=0.05, margin=0.7)
    assert torch.equal(matching_loss(functools.partial(tal, margin=0.7), image, text, IDS, temperature=0.05), want)
    own = matching_loss(functools.partial(tal, temperature=0.5), image, text, IDS, temperature=0.05)
    logits = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T / 0.05
    positives = IDS[:, None] == IDS[None, :]
    want = sum(tal(x, positives, temperature=0.5).mean() for x in (logits, logits.T))
    assert torch.allclose(own, want)


@pytest.mark.parametrize("gamma", [0.5, -1.0, float("nan")])
def test_a_focal_exponent_with_an_unbounded_gradient_is_refused_by_the_identity_loss_too(gamma):
    with pytest.raises(ValueError, match="identity: gamma must be 0 or at least 1"):
        identity_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 1]), gamma=gamma)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("waf", {"gama": 2}, r"The loss waf has no option 'gama'. Its options are gamma, weighting"),
        ("waf", {"gamma": 0.5}, r"waf can't be computed with \{'gamma': 0.5\}: waf: gamma must be 0"),
        ("waf", {"weighting": "soft"}, "weighting must be one of"),
        ("itc", {"margin": 1}, r"The loss itc has no option 'margin'. Its options are none"),
        ("tal", {"margin": "wide"}, "tal can't be computed with"),
        ("sdm", {"eps": -1.0}, "must give a finite number"),
        ("bsdm", {"inverse_weight": float("inf")}, "must give a finite number"),
        ("identity", {"gamma": 0.5}, "identity: gamma must be 0 or at least 1"),
        ("identity", {"smoothing": 0.1}, r"no option 'smoothing'. Its options are gamma"),
        ("focal", {}, "There is no loss 'focal'; the losses are itc, sdm"),
    ],
)
def test_a_wrong_option_of_a_loss_is_named_with_the_options_that_there_are(name, options, message):
    with pytest.raises(ValueError, match=message):
        check_options(name, options)


@pytest.mark.parametrize("name", [*REFERENCES, "identity"])
def test_each_loss_passes_its_own_trial(name):
    check_options(name, {})


@pytest.mark.parametrize(
    "fn, message",
    [
        (lambda logits, positives: logits.sum(), "for each of 3 rows"),
        (lambda logits, positives: logits.detach().sum(1), "with a gradient"),
        (lambda logits, positives: logits.sum(1) / 0, "a finite number"),
        (lambda logits, positives: 1.0, "found 1.0"),
        (lambda logits: logits.sum(1), "can't be computed"),
    ],
)
def test_an_own_loss_that_gives_something_else_is_refused(own_losses, fn, message):
    register_loss("mine", fn)
    with pytest.raises(ValueError, match=message):
        check_options("mine", {})


def test_a_name_is_given_to_one_loss_only(own_losses):
    register_loss("mine", itc)
    register_loss("mine", itc)
    assert loss_names()[-2:] == ("mine", "identity")
    for name in ("mine", "waf", "identity"):
        with pytest.raises(ValueError, match=f"There is a loss '{name}' already"):
            register_loss(name, sdm)
    with pytest.raises(ValueError, match="under a plain word"):
        register_loss("my loss", sdm)
