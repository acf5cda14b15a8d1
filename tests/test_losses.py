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
    needs_gather,
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


def mass(row, positives):
    return sum(p for p, positive in zip(softmax_row(row), positives) if positive)


def waf_row(row, positives, index, gamma=2.0):
    m = mass(row, positives)
    weight = m / (m + sum(positives) / len(positives))
    return weight * (1 - m) ** gamma * -math.log(m)


def gce_row(row, positives, index, q=0.7):
    return (1 - mass(row, positives) ** q) / q


def smoothed_row(row, positives, index, smoothing=0.1):
    share = [(1 - smoothing) * positive / sum(positives) + smoothing / len(row) for positive in positives]
    return sum(q * (math.log(q) - math.log(p)) for q, p in zip(share, softmax_row(row)))


def plausible_row(row, positives, index):
    m = mass(row, positives)
    return m / (m + sum(positives) / len(positives)) * inverse_sdm_row(row, positives, index)


def balanced_row(row, positives, index, alpha=None, gamma=2.0):
    alpha = 1 - sum(positives) / len(positives) if alpha is None else alpha
    total = 0.0
    for own, (p, positive) in enumerate(zip(softmax_row(row), positives)):
        other = sum(q for column, q in enumerate(softmax_row(row)) if column != own)
        if positive:
            total -= alpha * other**gamma * math.log(p)
        else:
            total -= (1 - alpha) * p**gamma * math.log(other)
    return total


REFERENCES = {
    "itc": itc_row,
    "sdm": sdm_row,
    "inverse_sdm": inverse_sdm_row,
    "bsdm": bsdm_row,
    "tal": tal_row,
    "waf": waf_row,
    "gce": gce_row,
}
# Of a loss with options, one row.
READINGS = [
    ("gce", {"q": 1.0}, functools.partial(gce_row, q=1.0)),
    ("inverse_sdm", {"smoothing": 0.1}, smoothed_row),
    ("inverse_sdm", {"weighting": "plausible"}, plausible_row),
    ("bsdm", {"smoothing": 0.3, "inverse_weight": 2.0},
     lambda *row: sdm_row(*row) + 2 * smoothed_row(*row, smoothing=0.3)),
    ("bsdm", {"inverse_weighting": "plausible"}, lambda *row: sdm_row(*row) + plausible_row(*row)),
    ("waf", {"weighting": "balanced"}, balanced_row),
    ("waf", {"weighting": "balanced", "alpha": 0.3, "gamma": 0}, functools.partial(balanced_row, alpha=0.3, gamma=0)),
]  # fmt: skip
EXTREME = [*((name, {}) for name in REFERENCES), *((name, options) for name, options, _ in READINGS)]
EXTREME.append(("waf", {"weighting": "redistribute"}))


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("ids", [IDS, torch.arange(5), torch.zeros(4, dtype=torch.long), torch.tensor([7])])
def test_loss_equals_a_loop_in_float64(name, ids):
    logits, positives = random_case(ids)
    expected = [
        REFERENCES[name](row, same, index)
        for index, (row, same) in enumerate(zip(logits.tolist(), positives.tolist()))
    ]
    assert MATCHING_LOSSES[name](logits, positives).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name, options, reference", READINGS)
@pytest.mark.parametrize("ids", [IDS, torch.arange(5), torch.zeros(4, dtype=torch.long)])
def test_a_reading_of_a_loss_equals_a_loop_in_float64(name, options, reference, ids):
    logits, positives = random_case(ids)
    expected = [
        reference(row, same, index) for index, (row, same) in enumerate(zip(logits.tolist(), positives.tolist()))
    ]
    assert MATCHING_LOSSES[name](logits, positives, **options).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_redistributed_weights_follow_the_hard_rows_and_keep_their_mean(gamma):
    logits, positives = random_case()
    masses = [mass(row, same) for row, same in zip(logits.tolist(), positives.tolist())]
    hard = [(1 - m) ** gamma for m in masses]
    weights = [value * len(hard) / sum(hard) for value in hard]
    expected = [weight * -math.log(m) for weight, m in zip(weights, masses)]
    got = waf(logits, positives, gamma=gamma, weighting="redistribute")
    assert got.tolist() == pytest.approx(expected, abs=1e-12)
    # No gradient through the weights, those of other rows included.
    logits.requires_grad_()
    (got,) = torch.autograd.grad(waf(logits, positives, gamma=gamma, weighting="redistribute").sum(), logits)
    (rows,) = torch.autograd.grad(waf(logits, positives, gamma=0, weighting="none").sum(), logits)
    assert torch.allclose(got, torch.tensor(weights, dtype=torch.float64)[:, None] * rows)


# One positive of probability m among 64 columns, one other column with all but a millionth of the rest.
PULLS = {
    ("itc", ()): (0.1, 0.5, 0.9, 0.99, 0.999),
    ("inverse_sdm", ()): (0.1, 0.5, 0.9, 0.99, 0.999),
    ("sdm", ()): (1.46, 4.61, 1.85, 0.228, 0.025),
    ("bsdm", ()): (1.56, 5.11, 2.75, 1.22, 1.02),
    ("bsdm", (("inverse_weight", 8.0),)): (2.26, 8.61, 9.05, 8.15, 8.02),
    ("bsdm", (("inverse_weighting", "plausible"),)): (1.56, 5.09, 2.63, 0.61, 0.085),
    ("waf", (("weighting", "none"),)): (0.003, 0.298, 1.10, 1.06, 1.01),
    ("waf", ()): (0.003, 0.289, 0.953, 0.414, 0.061),
    ("gce", ()): (0.093, 0.31, 0.18, 0.04, 0.008),
    ("inverse_sdm", (("smoothing", 0.1),)): (0.0016, 0.40, 0.80, 0.89, 0.90),
}


@pytest.mark.parametrize("name, options", PULLS)
def test_the_pull_on_the_positive_of_easy_hard_and_contradicted_rows_is_the_one_of_the_table(name, options):
    m = torch.tensor([0.9, 0.5, 0.1, 0.01, 0.001], dtype=torch.float64)
    p = torch.cat([m[:, None], 1 - m[:, None] - 62e-12, torch.full((5, 62), 1e-12, dtype=torch.float64)], dim=1)
    logits = p.log().requires_grad_()
    positives = torch.zeros(5, 64, dtype=torch.bool)
    positives[:, 0] = True
    # `itc` takes the diagonal: each row is asked alone.
    rows = [MATCHING_LOSSES[name](logits[i : i + 1], positives[i : i + 1], **dict(options)) for i in range(5)]
    (gradient,) = torch.autograd.grad(torch.cat(rows).sum(), logits)
    assert gradient[:, 0].abs().tolist() == pytest.approx(PULLS[name, options], rel=0.01, abs=6e-4)


def test_smoothing_turns_the_pull_round_where_a_row_becomes_overconfident():
    logits, positives = torch.zeros(2, 4), torch.eye(2, 4, dtype=torch.bool)
    pulls = []
    for m in (0.92, 0.93):
        logits = torch.tensor([m, *[(1 - m) / 3] * 3], dtype=torch.float64).log()[None].requires_grad_()
        (gradient,) = torch.autograd.grad(inverse_sdm(logits, positives[:1], smoothing=0.1).sum(), logits)
        pulls.append(gradient[0, 0].item())
    # 1 - l (1 - 1 / M) with l = 0.1, M = 4.
    assert pulls == pytest.approx([0.92 - 0.925, 0.93 - 0.925])


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


@pytest.mark.parametrize(
    "name, options",
    [
        *((name, {}) for name in ("itc", "sdm", "inverse_sdm", "bsdm", "gce")),
        *((name, options) for name, options, _ in READINGS if "plausible" not in options.values()),
    ],
)
def test_gradient_equals_finite_differences(name, options):
    logits, positives = random_case(scale=1.0)
    assert torch.autograd.gradcheck(lambda x: MATCHING_LOSSES[name](x, positives, **options), logits.requires_grad_())


def test_gradients_of_losses_with_a_detached_part_equal_finite_differences_of_their_surrogates():
    logits, positives = random_case(scale=1.0)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: waf(x, positives, weighting="none"), logits)
    m = torch.where(positives, logits.softmax(1), 0).sum(1).detach()
    weight = m / (m + positives.double().mean(1))
    (got,) = torch.autograd.grad(waf(logits, positives).sum(), logits)
    (want,) = torch.autograd.grad((weight * waf(logits, positives, weighting="none")).sum(), logits)
    assert torch.allclose(got, want)
    (got,) = torch.autograd.grad(inverse_sdm(logits, positives, weighting="plausible").sum(), logits)
    (want,) = torch.autograd.grad((weight * inverse_sdm(logits, positives)).sum(), logits)
    assert torch.allclose(got, want)
    alpha = logits.detach().masked_fill(~positives, -math.inf).softmax(1)

    def surrogate(x):
        return (0.5 + 0.02 * (x.masked_fill(positives, -math.inf).logsumexp(1) - (alpha * x).sum(1))).clamp(min=0)

    (got,) = torch.autograd.grad(tal(logits, positives, margin=0.5).sum(), logits)
    (want,) = torch.autograd.grad(surrogate(logits).sum(), logits)
    assert want.abs().sum() > 0
    assert torch.allclose(got, want)


@pytest.mark.parametrize("name, options", EXTREME)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_fully_separated_similarities_at_temperature_001_stay_finite_in_float32(name, options, sign):
    """Cosine 1 for all positives and -1 for all negatives, or the reverse."""
    positives = IDS[:, None] == IDS[None, :]
    logits = (sign * torch.where(positives, 1.0, -1.0) / 0.01).requires_grad_()
    loss = MATCHING_LOSSES[name](logits, positives, **options)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name, options", EXTREME)
@pytest.mark.parametrize("ids", [torch.tensor([3]), torch.zeros(4, dtype=torch.long), torch.arange(4)])
def test_duplicate_embeddings_one_pair_and_one_person_have_finite_gradients(name, options, ids):
    image = torch.ones(len(ids), 8, requires_grad=True)
    text = torch.ones(len(ids), 8, requires_grad=True)
    loss = matching_loss(MATCHING_LOSSES[name], image, text, ids, temperature=0.01, **options)
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


@pytest.mark.parametrize("modality", ["both", "image", "text"])
def test_identity_loss_balances_persons_by_their_pairs_in_each_modality(modality):
    generator = torch.Generator().manual_seed(0)
    parts = dict(zip(["image", "text"], torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)))
    # Person 3 has no pairs and does not count in the mean.
    counts = [10, 2, 6, 0]
    terms = []
    for logits in [parts[modality]] if modality != "both" else parts.values():
        for row, person in zip(logits.tolist(), IDS.tolist()):
            p = softmax_row(row)[person]
            terms.append(6 / counts[person] * (1 - p) ** 2 * -math.log(p))
    got = identity_loss(
        parts["image"], parts["text"], IDS, gamma=2.0, modality=modality, weighting="balanced",
        counts=torch.tensor(counts),
    )  # fmt: skip
    assert got.item() == pytest.approx(sum(terms) / len(terms), abs=1e-12)


def test_the_pull_of_a_balanced_identity_loss_is_the_one_of_the_table():
    """W1, a person with a twentieth more pairs than the mean: alpha 0.95."""
    m = torch.tensor([0.9, 0.5, 0.1, 0.01, 0.001], dtype=torch.float64)
    logits = torch.stack([m, 1 - m], dim=1).log().requires_grad_()
    counts, ids = torch.tensor([200, 180]), torch.zeros(5, dtype=torch.long)
    loss = identity_loss(logits, logits, ids, gamma=2.0, modality="image", weighting="balanced", counts=counts)
    (gradient,) = torch.autograd.grad(5 * loss, logits)
    assert gradient[:, 0].abs().tolist() == pytest.approx([0.003, 0.28, 1.05, 1.01, 0.96], rel=0.013, abs=5e-4)


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


def test_a_loss_that_asks_for_it_is_told_whether_columns_are_gathered_and_nobody_sets_it(own_losses):
    told = []

    def noted(logits, positives, gather=None):
        told.append(gather)
        return itc(logits, positives)

    register_loss("noted", needs_gather(noted))
    for gather in (True, False):
        matching_loss(functools.partial(noted), torch.eye(2), torch.eye(2), torch.arange(2), gather=gather)
    assert told == [True, True, False, False]
    for name in ("noted", "waf"):
        with pytest.raises(ValueError, match=f"The loss {name} has no option 'gather'"):
            check_options(name, {"gather": True})


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
        ("waf", {"gama": 2}, r"The loss waf has no option 'gama'. Its options are gamma, weighting, alpha\."),
        ("waf", {"gamma": 0.5}, r"waf can't be computed with \{'gamma': 0.5\}: waf: gamma must be 0"),
        ("waf", {"weighting": "soft"}, "weighting must be one of"),
        ("waf", {"alpha": 0.5}, "alpha has no effect with weighting plausible"),
        ("waf", {"alpha": 1.0, "weighting": "balanced"}, r"alpha must lie in \(0, 1\), found 1.0"),
        ("waf", {"gamma": 0, "weighting": "redistribute"}, "gamma 0 makes all weights equal"),
        ("gce", {"q": 0.0}, r"q must lie in \(0, 1\], found 0.0"),
        ("inverse_sdm", {"smoothing": 1.0}, r"smoothing must lie in \[0, 1\), found 1.0"),
        ("inverse_sdm", {"weighting": "redistribute"}, "must be one of .'none', 'plausible'"),
        ("bsdm", {"inverse_weight": 0, "smoothing": 0.1}, "which inverse_weight 0 leaves out"),
        ("bsdm", {"inverse_weight": 0, "inverse_weighting": "plausible"}, "which inverse_weight 0 leaves out"),
        ("identity", {"modality": "images"}, "modality must be one of .'both', 'image', 'text'"),
        ("identity", {"weighting": "plausible"}, "weighting must be one of .'none', 'balanced'"),
        ("identity", {"counts": [1]}, "no option 'counts'. Its options are gamma, modality, weighting"),
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
