"""Doubtful captions that belong to another doubtful pair's image: found by a plain loop too, and written down."""

import csv
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from test_audit import audit, people, planted  # noqa: F401

from modeling_amns import load_pairs
from modeling_amns.audit import Suspect
from modeling_amns.audit.cleaning import read_records, write_clean
from modeling_amns.audit.pair_scores import EmbeddedPairs, PairScores
from modeling_amns.audit.repairing import Repair, find_repairs
from modeling_amns.audit.scoring import judge_pairs
from modeling_amns.data.sources import SourceArguments


def audited(images, image_of, captions, persons, temperature, texts=None):
    """What `find_repairs` reads of an audit, of embeddings."""
    embedded = EmbeddedPairs(images, image_of, captions, persons, temperature)
    found = embedded.compare()
    first = np.unique(image_of.numpy(), return_index=True)[1]
    own = PairScores({"score": found.score()}, first[found.best_image], found.best_caption)
    captions = [f"caption {row}" for row in range(len(persons))] if texts is None else texts
    suspects = [Suspect(row, "", caption, "", 0.5) for row, caption in enumerate(captions)]
    return SimpleNamespace(own=own, embedded=embedded, suspects=suspects)


def swaps(repairs):
    return {row: repair.caption_row for row, repair in repairs.items()}


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_shuffled_captions_go_back_to_their_images(share):
    parts, clean = planted(share)
    found = audited(*parts)
    doubtful = np.flatnonzero(judge_pairs(found.own.columns["score"]).plausible <= 0.5).tolist()
    repairs = find_repairs(found, doubtful, 0.25)
    # Each image has one caption, so the right one is the one that fits best of all, which a plain product finds.
    similarity = parts[0].double() @ parts[2].double().T
    for row, repair in repairs.items():
        assert row == repair.row and not clean[row] and repair.share >= 0.25
        assert int(similarity[row].argmax()) == repair.caption_row
        assert int(similarity[:, repair.caption_row].argmax()) == row
    assert len(set(swaps(repairs).values())) == len(repairs) >= 0.8 * (~clean).sum()


def test_the_share_is_that_of_all_images_and_captions_of_others_after_the_swaps():
    parts, clean = planted(0.3, pairs=200)
    found = audited(*parts)
    rows = np.flatnonzero(~clean).tolist()
    similarity = (parts[0].double() @ parts[2].double().T).numpy() / parts[4]
    all_repairs = find_repairs(found, rows, 1e-9)
    # Every doubtful caption goes somewhere, so all of them stand elsewhere when they are compared; where, a loop says.
    stands_at = {row: row for row in range(200)}
    for row in rows:
        others = [image for image in range(200) if image != row]
        best = max(others, key=lambda image: similarity[image, row])
        if best in rows:
            stands_at[row] = best
    for repair in all_repairs.values():
        image, caption = stands_at[repair.caption_row], repair.caption_row
        of_images = np.exp(similarity[image, caption]) / np.exp(similarity[:, caption]).sum()
        rest = [other for other in range(200) if stands_at[other] != image]
        total = np.exp(similarity[image, rest]).sum() + np.exp(similarity[image, caption])
        of_captions = np.exp(similarity[image, caption]) / total
        assert image == repair.row and repair.share == pytest.approx(min(of_images, of_captions), rel=1e-4)
    some = sorted(repair.share for repair in all_repairs.values())
    few = find_repairs(found, rows, some[len(some) // 2])
    assert 0 < len(few) < len(all_repairs) and swaps(few).items() <= swaps(all_repairs).items()
    assert find_repairs(found, rows, 1.0) == {}


def test_only_doubtful_pairs_are_swapped_and_none_that_is_better_where_it_is():
    parts, clean = planted(0.3)
    found = audited(*parts)
    wrong = np.flatnonzero(~clean)
    some = wrong[: len(wrong) // 2].tolist()
    repairs = find_repairs(found, some, 0.1)
    assert repairs and set(repairs) <= set(some) and set(swaps(repairs).values()) <= set(some)
    # Of these, caption and image fit each other best.
    similarity = (parts[0] @ parts[2].T).numpy()
    best = np.arange(len(clean))
    at_home = np.flatnonzero((similarity.argmax(0) == best) & (similarity.argmax(1) == best) & clean).tolist()
    assert len(at_home) > 300 and find_repairs(found, at_home, 0.5) == {} == find_repairs(found, [], 0.1)


def test_an_image_gets_as_many_captions_as_it_has_doubtful_pairs_and_a_clearer_one_first():
    """Images 0 and 1 have two captions each, all four swapped; a worse one of image 0 is at image 2."""
    images, _, captions, _, temperature = planted(0.3, pairs=200)[0]
    right = torch.nn.functional.normalize(images[:2] + 0.02 * images[2:4], dim=-1)
    worse = torch.nn.functional.normalize(images[:1] + 0.3 * images[4:5], dim=-1)
    captions = torch.cat([captions, right, worse])
    captions[[0, 1]] = captions.new_tensor(images[[1, 0]].tolist())
    image_of = torch.cat([torch.arange(200), torch.tensor([1, 0, 2])])
    found = audited(images, image_of, captions, image_of, temperature)
    assert swaps(find_repairs(found, [0, 1, 200, 201, 202], 0.01)) == {0: 1, 201: 200, 1: 0, 200: 201}


def test_a_caption_may_go_to_another_image_of_the_person_that_is_meant():
    """Images 0 and 1 show person 0; what stands at image 2 fits image 0 best, of which no pair is doubtful."""
    images = torch.eye(6)
    images[1] = torch.nn.functional.normalize(images[0] + 0.2 * images[1], dim=-1)
    captions = images.clone()
    captions[[1, 2]] = images[[2, 0]]
    persons = torch.tensor([0, 0, 2, 3, 4, 5])
    found = audited(images, torch.arange(6), captions, persons, 0.1)
    assert swaps(find_repairs(found, [1, 2], 0.5)) == {1: 2, 2: 1}


def test_an_image_does_not_get_a_caption_twice():
    """Image 0 keeps one caption; the same words stand at image 1, whose own caption stands at image 0."""
    images = torch.eye(6)
    image_of = torch.tensor([0, 0, 1, 2, 3, 4, 5])
    captions = images[[0, 1, 0, 2, 3, 4, 5]]
    for texts, want in ((None, {1: 2, 2: 1}), (["a hat", "a coat", "a hat", *"wxyz"], {2: 1})):
        found = audited(images, image_of, captions, image_of, 0.1, texts)
        assert swaps(find_repairs(found, [1, 2], 0.5)) == want


def test_repaired_pairs_stay_in_their_order_and_are_listed(people, tmp_path):  # noqa: F811
    source = SourceArguments(pairs=str(people / "pairs.csv"))
    train = source.load("train")
    suspects = [Suspect(row, train[row]["image_path"], train[row]["caption"], "p", 0.75) for row in range(16)]
    doubtful = dict.fromkeys((2, 5, 9), "model")
    repairs = {2: Repair(2, 9, 0.625), 9: Repair(9, 5, 0.5)}
    write_clean(tmp_path / "clean", read_records(source), train, suspects, doubtful, repairs)
    before, kept = train["caption"][:], load_pairs(tmp_path / "clean", "train", image_root=people)
    expected = [before[{2: 9, 9: 5}.get(row, row)] for row in range(16) if row != 5]
    assert kept["caption"][:] == expected
    assert kept["person_name"][:] == [name for row, name in enumerate(train["person_name"][:]) if row != 5]
    told = list(csv.DictReader((tmp_path / "clean" / "repaired.csv").open()))
    assert [(line["row"], line["of_row"], line["caption_now"]) for line in told] == [
        ("2", "9", before[9]),
        ("9", "5", before[5]),
    ]
    assert [(line["probability"], line["share"]) for line in told] == [("0.75", "0.625"), ("0.75", "0.5")]
    assert [line["row"] for line in csv.DictReader((tmp_path / "clean" / "removed.csv").open())] == ["5"]
    # Written again without repairs, their list is gone.
    write_clean(tmp_path / "clean", read_records(source), train, suspects, doubtful)
    assert not (tmp_path / "clean" / "repaired.csv").exists()


def test_pairs_of_several_caption_columns_are_written_one_a_row(people, tmp_path):  # noqa: F811
    rows = [
        "image,caption1,caption2,person_id",
        *(f"photos/{n}.png,first {n},{'second' * (n % 2)},{n}" for n in range(4)),
    ]
    (people / "two.csv").write_text("\n".join(rows))
    source = SourceArguments(pairs=str(people / "two.csv"), caption_column=["caption1", "caption2"])
    train = load_pairs(people / "two.csv", caption_column=source.caption_column)
    assert train["caption"][:] == ["first 0", "first 1", "second", "first 2", "first 3", "second"]
    suspects = [Suspect(row, "", "", "", 0.0) for row in range(6)]
    write_clean(tmp_path / "clean", read_records(source), train, suspects, {2: "model"})
    kept = load_pairs(tmp_path / "clean", "train", image_root=people)
    assert kept["caption"][:] == ["first 0", "first 1", "first 2", "first 3", "second"]
    assert kept["person_name"][:] == ["0", "1", "2", "3", "3"]


@pytest.mark.parametrize("kind", ["csv", "images"])
def test_a_set_without_person_ids_is_cleaned_into_one_without(people, tmp_path, kind):  # noqa: F811
    pairs = people / "pairs.csv"
    if kind == "images":
        held = datasets.Dataset.from_csv(str(pairs), cache_dir=str(tmp_path / "cache"))
        images = [{"path": path, "bytes": (people / path).read_bytes()} for path in held["image"]]
        held = held.remove_columns(["image", "person_id"]).add_column("image", images)
        pairs = tmp_path / "held"
        held.cast_column("image", datasets.Image()).save_to_disk(str(pairs))
    source = SourceArguments(pairs=str(pairs), person_id_column="none")
    train = source.load("train")
    suspects = [Suspect(row, "", "", row // 2, float(row in (0, 1, 4))) for row in range(16)]
    repairs = {4: Repair(4, 1, 0.1)}
    doubtful = {0: "model", 1: "model", 4: "model"}
    said = write_clean(tmp_path / "clean", read_records(source), train, suspects, doubtful, repairs)
    at = said.index("--person_id_column")
    assert said[at : at + 2] == ["--person_id_column", "none"]
    for name in ("removed.csv", "repaired.csv", *(["metadata.csv"] if kind == "csv" else ())):
        assert "person_id" not in (tmp_path / "clean" / name).read_text().splitlines()[0]
    root = people if kind == "csv" else None
    kept = load_pairs(tmp_path / "clean", "train", root, person_id_column=None)
    # Two captions an image: the first image is gone, the others keep both.
    assert len(kept) == 14 and kept["person_id"][:] == [image for image in range(7) for _ in range(2)]
    assert len(load_pairs(tmp_path / "clean", "test", root, person_id_column=None)["queries"]) == 4


def test_repair_is_of_write_clean_and_reaches_it(people, tmp_path, monkeypatch, capsys):  # noqa: F811
    for given, message in (
        (["0.5"], "--decisions, --threshold and --repair are of --write_clean"),
        (["1.5", "--write_clean", tmp_path / "clean"], "--repair must lie in (0, 1], found 1.5"),
    ):
        code, said = audit(people, monkeypatch, capsys, "--output", tmp_path / "a.csv", "--repair", *given)
        assert code == 1 and message in said.splitlines()[-1] and not list(tmp_path.iterdir())
    asked = []
    monkeypatch.setattr("modeling_amns.audit.repairing.find_repairs", lambda *given: asked.append(given) or {})
    (tmp_path / "d.csv").write_text("row,decision\n3,wrong\n")
    options = ["--output", tmp_path / "a.csv", "--write_clean", tmp_path / "clean", "--decisions", tmp_path / "d.csv"]
    code, _ = audit(people, monkeypatch, capsys, *options, "--repair", "0.5")
    assert code == 0 and 3 in asked[0][1] and asked[0][2] == 0.5
