"""Which pairs of a training set are wrong: scores against plain loops, tables, the clean set, and bad input."""

import contextlib
import copy
import csv
import io
import json
import math

import datasets
import numpy as np
import pytest
import torch
from conftest import CAPTIONS, tiny_retrieval_model
from PIL import Image
from safetensors.torch import save_file
from test_scripts import run_here

from modeling_amns import inject_noise, load_pairs, make_synthetic_benchmark
from modeling_amns.audit import Suspect
from modeling_amns.audit.auditing import audit_pairs, run_losses
from modeling_amns.audit.cleaning import doubtful_rows, read_decisions
from modeling_amns.audit.duplicates import near_images, same_images
from modeling_amns.audit.scoring import against_truth, compare_pairs, judge_pairs
from modeling_amns.audit.table import check_output, write_table
from modeling_amns.audit.teachers import teacher_of
from modeling_amns.data.files import ImageFolder
from modeling_amns.data.records import Record
from modeling_amns.ema import ImageTeacher

PERSONS, IMAGES, TEMPERATURE = 4, 9, 0.1


def small_set():
    """9 images of 4 persons; an image has one to three captions, not beside each other."""
    rng = np.random.default_rng(0)
    image_of = np.concatenate([rng.permutation(IMAGES), rng.integers(0, IMAGES, 8)])
    person_of = rng.permutation(np.arange(IMAGES) % PERSONS)
    images, captions = rng.normal(size=(IMAGES, 6)), rng.normal(size=(len(image_of), 6))
    images, captions = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (images, captions))
    return images, image_of, captions, person_of[image_of]


@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_losses_ranks_and_what_fits_better_are_those_of_a_plain_loop(block):
    images, image_of, captions, persons = small_set()
    tensors = [torch.from_numpy(part) for part in (images, image_of, captions, persons)]
    found = compare_pairs(*tensors, temperature=TEMPERATURE, block=block)
    of_image = dict(zip(image_of.tolist(), persons.tolist()))
    for row, person in enumerate(persons):
        own = float(captions[row] @ images[image_of[row]])
        for query, others, loss, rank, best in (
            (
                captions[row],
                {key: images[key] for key in range(IMAGES) if of_image[key] != person},
                *(found.loss_text, found.rank_image, found.best_image),
            ),
            (
                images[image_of[row]],
                {key: captions[key] for key in range(len(persons)) if persons[key] != person},
                *(found.loss_image, found.rank_caption, found.best_caption),
            ),
        ):
            similarity = {key: float(query @ other) for key, other in others.items()}
            total = sum(math.exp(value / TEMPERATURE) for value in (own, *similarity.values()))
            assert loss[row] == pytest.approx(math.log(total) - own / TEMPERATURE, rel=1e-9)
            assert rank[row] == 1 + sum(value > own for value in similarity.values())
            assert best[row] == max(similarity, key=similarity.__getitem__)


def test_the_same_caption_of_another_person_is_no_better_one():
    images, captions = torch.eye(3), torch.eye(3)[[0, 0, 2]]
    found = compare_pairs(images, torch.arange(3), captions, torch.tensor([0, 1, 2]), 0.1)
    assert found.rank_caption.tolist() == [1, 1, 1] and found.rank_image.tolist() == [1, 2, 1]


def planted(share: float, pairs: int = 600, hard: float = 0.35):
    """Embeddings of one image and caption a person, of which a share was shuffled, and which are right."""
    rng = np.random.default_rng(1)
    images = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(pairs, 24))).float(), dim=-1)
    captions = torch.nn.functional.normalize(
        images + hard * torch.from_numpy(rng.normal(size=(pairs, 24)) / 24**0.5 * 2).float(), dim=-1
    )
    wrong = rng.permutation(pairs)[: round(share * pairs)]
    order = np.arange(pairs)
    order[wrong] = np.roll(wrong, 1)
    return (images, torch.arange(pairs), captions[order], torch.arange(pairs), 0.1), order == np.arange(pairs)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_the_share_of_wrong_pairs_is_estimated_without_being_told(share):
    parts, clean = planted(share)
    score = compare_pairs(*parts).score()
    found = judge_pairs(score)
    if share in (0.0, 1.0):  # one group: nothing tells whether it is the right one
        assert found.low is None and found.doubtful_share == 0
        return
    truth = against_truth(score, found.doubtful_share, clean)
    assert found.doubtful_share == pytest.approx(share, abs=0.03)
    assert truth["auroc"] > 0.97 and truth["precision"] > 0.9 and truth["true_share"] == pytest.approx(share)


@pytest.mark.parametrize("name, at", [("images", 0), ("captions", 2)])
def test_embeddings_that_are_not_finite_are_refused_by_name(name, at):
    parts, _ = planted(0.2, pairs=12)
    parts[at][3, 0] = torch.nan
    with pytest.raises(ValueError, match=f"gives 1 of 12 {name} embeddings with NaN"):
        compare_pairs(*parts)


def test_files_of_the_same_bytes_are_found_within_and_across_splits(tmp_path):
    for name, data in (("a", b"one"), ("b", b"two"), ("c", b"one"), ("d", b"three")):
        (tmp_path / f"{name}.png").write_bytes(data)
    records = [Record(0, person, f"{name}.png", ("x",), split) for person, (name, split) in enumerate(
        (("a", "train"), ("b", "train"), ("c", "test"), ("d", "train"), ("d", "val"), ("gone", "val"))
    )]  # fmt: skip
    found = same_images([(records, ImageFolder(tmp_path))])
    assert found == [[("train", "a.png"), ("test", "c.png")], [("train", "d.png"), ("val", "d.png")]]


@pytest.mark.parametrize("block", [1, 10**6])
def test_nearly_the_same_images_of_one_person_are_no_duplicates(block):
    angles = torch.tensor([0.0, 0.01, 0.02, 1.5, 1.52])
    images = torch.stack([angles.cos(), angles.sin()], 1)
    found = near_images(images, torch.tensor([0, 0, 1, 2, 2]), 0.99, block)
    assert [entry[:2] for entry in found] == [(1, 2), (0, 2)] and found[0][2] == pytest.approx(math.cos(0.01))


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A checkpoint, and 24 pairs of 6 persons in three splits as a table with images in a folder of their own."""
    from modeling_amns import AMNSProcessor

    folder = tmp_path_factory.mktemp("people")
    processor = AMNSProcessor.from_captions(CAPTIONS * 20, [64, 32], vocab_size=620)
    tiny_retrieval_model(processor).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "photos").mkdir()
    rows = [["image", "caption", "person_id", "split"]]
    for number in range(24):
        pixels = np.random.default_rng(number // 2).integers(0, 255, (16, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number // 2}.png")
        split = ("train", "train", "train", "train", "val", "test")[number // 4]
        caption = f'{CAPTIONS[number % 3]} "{number}",\nperson'
        rows.append([f"photos/{number // 2}.png", caption, f"p{number // 4}", split])
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def audit(people, monkeypatch, capsys, *options):
    given = [people / "model", "--pairs", people / "pairs.csv", "--device", "cpu", *options]
    return run_here(monkeypatch, capsys, "audit_noise.py", *given)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_table_is_sorted_by_suspicion_and_the_clean_set_is_loaded_by_pairs(
    people, tmp_path, monkeypatch, capsys, kind
):
    decisions = tmp_path / "decisions.csv"
    decisions.write_text("row,path,caption,decision\n0,,,wrong\n5,,,wrong\n6,,,right\n7,,,unsure\n8,,,\n")
    output, clean, twice = tmp_path / f"audit.{kind}", tmp_path / "clean", tmp_path / "twice.json"
    page = ["--sheet", tmp_path / "page.html", "--sheet_pairs", 3]
    options = ["--output", output, "--duplicates", twice, "--write_clean", clean, "--decisions", decisions, *page]
    code, _ = audit(people, monkeypatch, capsys, *options)
    assert code == 0
    table = datasets.Dataset.from_parquet(str(output)) if kind == "parquet" else list(csv.DictReader(output.open()))
    suspicion = [(float(row["probability"]), float(row["score"])) for row in table]
    assert suspicion == sorted(suspicion, reverse=True) and sorted(int(row["row"]) for row in table) == [*range(16)]
    train = load_pairs(people / "pairs.csv", "train")
    for row in table:
        assert (row["caption"], row["path"]) == (
            train[int(row["row"])]["caption"],
            train[int(row["row"])]["image_path"],
        )
        assert row["person_id"] == train[int(row["row"])]["person_name"]
        assert (row["better_path"] in (None, "")) == (float(row["image_rank"]) == 1)
    doubtful = {int(row["row"]) for row in table if float(row["probability"]) >= 0.5} - {6} | {0, 5}
    kept = load_pairs(clean, "train", image_root=people)
    assert kept["caption"][:] == [caption for row, caption in enumerate(train["caption"][:]) if row not in doubtful]
    removed = list(csv.DictReader((clean / "removed.csv").open()))
    assert [int(row["row"]) for row in removed] == sorted(doubtful) and removed[0]["said_by"] == "decision"
    for split in ("val", "test"):
        before, after = (load_pairs(source, split, image_root=people) for source in (people / "pairs.csv", clean))
        for part in ("gallery", "queries"):
            columns = [name for name in before[part].column_names if name != "image"]
            assert all(before[part][name][:] == after[part][name][:] for name in columns)
    assert set(json.loads(twice.read_text())) == {"same_images", "near_images", "shared_captions", "shared_persons"}
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--output", "audit.xlsx"], "audit.xlsx ends in .xlsx; expected one of .csv, .parquet"),
        (["--output", "HERE/old.csv"], "old.csv exists; choose another name, or replace it with --overwrite"),
        (["--output", "nowhere/a.csv"], "There is no folder nowhere"),
        (["--write_clean", "HERE"], "would replace the pairs that are audited"),
        (["--write_clean", "HERE/photos"], "photos holds files; choose another folder"),
        (["--write_clean", "HERE/photos", "--overwrite"], "photos holds files and no removed.csv, so no audit has"),
        (["--output", "HERE/pairs.csv", "--overwrite"], "pairs.csv would replace the pairs that are audited"),
        (["--decisions", "d.csv"], "--decisions, --threshold and --repair are of --write_clean"),
        (["--write_clean", "new", "--threshold", "1.5"], "--threshold must lie in (0, 1], found 1.5"),
        (["--write_clean", "new", "--decisions", "d.csv"], "There is no file d.csv of decisions"),
        (["--sheet_pairs", "0"], "--sheet_pairs must be at least 1"),
    ],
)
def test_bad_options_are_one_line_before_the_work_starts(people, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    (people / "old.csv").write_text("row\n")
    before = {path: path.read_bytes() for path in people.glob("*.csv")}
    code, said = audit(people, monkeypatch, capsys, *(option.replace("HERE", str(people)) for option in options))
    assert code == 1 and message in said.splitlines()[-1] and not list(tmp_path.iterdir())
    assert {path: path.read_bytes() for path in people.glob("*.csv")} == before


def test_a_folder_that_is_its_own_table_is_not_replaced(people, tmp_path, monkeypatch, capsys):
    """Also not one that an earlier audit wrote: nothing is left to go back to."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "metadata.csv").write_bytes((people / "pairs.csv").read_bytes())
    (tmp_path / "set" / "removed.csv").write_text("row\n")
    given = [people / "model", "--pairs", tmp_path / "set", "--image_root", people, "--device", "cpu", "--overwrite"]
    for options in (["--write_clean", tmp_path / "set"], ["--output", tmp_path / "set" / "metadata.csv"]):
        code, said = run_here(monkeypatch, capsys, "audit_noise.py", *given, *options)
        assert code == 1 and "would replace the pairs that are audited" in said.splitlines()[-1]
    assert (tmp_path / "set" / "metadata.csv").read_bytes() == (people / "pairs.csv").read_bytes()


def test_images_that_are_not_there_are_left_out_of_every_split(people, tmp_path, monkeypatch, capsys):
    rows = list(csv.DictReader((people / "pairs.csv").open()))
    gone = [{**row, "image": row["image"].replace("photos/", "photos/gone-")} for row in (rows[0], rows[17], rows[21])]
    with (people / "part.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows([*rows, *gone])
    given = [people / "model", "--pairs", people / "part.csv", "--on_missing", "drop", "--device", "cpu"]
    options = ["--write_clean", tmp_path / "clean", "--output", tmp_path / "a.csv"]
    with pytest.warns(UserWarning, match="Their pairs are left out"):
        code, said = run_here(monkeypatch, capsys, "audit_noise.py", *given, *options)
    assert code == 0, said
    for split in ("val", "test"):
        whole, kept = (load_pairs(place, split, people) for place in (people / "pairs.csv", tmp_path / "clean"))
        assert kept["queries"]["caption"][:] == whole["queries"]["caption"][:]


@pytest.mark.parametrize(
    "text, message",
    [
        ("row,word\n1,wrong\n", "has no column decision; it has row, word"),
        ("row,decision\n1,maybe\n", "line 2: decision is the string 'maybe', expected one of right, wrong, unsure"),
        ("row,decision\n9,wrong\n", "row is the string '9', expected 0 to 8"),
        ("row,decision\n-1,wrong\n", "row is the string '-1', expected 0 to 8"),
        ("row,decision\n1,wrong\n1,right\n", "line 3: row 1 was wrong before and is right here"),
    ],
)
def test_decisions_that_are_none_are_refused_with_their_line(tmp_path, text, message):
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_decisions(tmp_path / "d.csv", 9)


@pytest.fixture
def loaded(people):
    from modeling_amns.loading import load_checkpoint

    return load_checkpoint(people / "model"), load_pairs(people / "pairs.csv", "train")


def test_ten_pairs_and_fewer_have_a_sensible_result(loaded):
    (model, processor), train = loaded
    for count in (10, 5):
        found = audit_pairs(model, processor, inject_noise(train.select(range(count)), 0.5))
        assert len(found.suspects) == count and all(0 <= suspect.probability <= 1 for suspect in found.suspects)
        assert "(true share: " in found.as_text() and f"- pairs: {count}\n" in found.as_text()


def test_partly_wrong_captions_are_scored_against_the_annotation(people, tmp_path, monkeypatch, capsys):
    """Plumbing: from the generator's annotation to the printed lines and the table, with no option."""
    sizes = {"train_identities": 12, "val_identities": 1, "test_identities": 1, "images_per_identity": 1}
    folder = make_synthetic_benchmark(tmp_path, **sizes, image_size=(64, 24), num_workers=1, wrong_captions=0.4)
    records = json.loads((folder / "reid_raw.json").read_text())
    said = [right for record in records if record["split"] == "train" for right in record["is_clean"]]
    given = [people / "model", "--benchmark", "synthetic-pedes", "--data_root", tmp_path, "--device", "cpu"]
    output = tmp_path / "audit.parquet"
    with contextlib.redirect_stdout(io.StringIO()) as kept:
        code, _ = run_here(monkeypatch, capsys, "audit_noise.py", *given, "--output", output)
    printed = kept.getvalue()
    assert code == 0
    assert f"(true share: {said.count(False) / len(said):.1%})" in printed
    table = datasets.Dataset.from_parquet(str(output), cache_dir=str(tmp_path))
    by_row = dict(zip(table["row"], zip(table["is_clean"], table["score"])))
    assert [by_row[row][0] for row in range(len(said))] == said
    # Of all pairs of a wrong and a right caption, how often the wrong one has the higher score.
    wrong, right = ([by_row[row][1] for row, one in enumerate(said) if one is kind] for kind in (False, True))
    auroc = np.mean([(bad > good) + 0.5 * (bad == good) for bad in wrong for good in right])
    assert f"- AUROC: {auroc:.4f}" in printed


def test_the_teacher_of_a_checkpoint_stands_beside_its_student(people, loaded, tmp_path, monkeypatch, capsys):
    """Of a teacher that is the student, scores are the student's; of another, those of a model with its weights."""
    (model, processor), train = loaded
    folder = tmp_path / "checkpoint-1"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    assert teacher_of(model, folder) is None
    trained = copy.deepcopy(model)
    torch.manual_seed(3)
    with torch.no_grad():
        for value in trained.vision_model.parameters():
            value += 0.05 * torch.randn_like(value)
    for student, taught in ((model, model), (model, trained)):
        save_file(ImageTeacher(taught).state_dict(), folder / "teacher.safetensors")
        found = audit_pairs(student, processor, train, teacher=teacher_of(student, folder))
        want = audit_pairs(taught, processor, train)
        scores = {suspect.row: suspect.scores["teacher_score"] for suspect in found.suspects}
        assert scores == pytest.approx({suspect.row: suspect.scores["score"] for suspect in want.suspects}, abs=1e-6)
        own = audit_pairs(student, processor, train).suspects
        assert [suspect.row for suspect in found.suspects] == [suspect.row for suspect in own]
    given = [folder, "--pairs", people / "pairs.csv", "--device", "cpu", "--output", tmp_path / "a.csv"]
    code, _ = run_here(monkeypatch, capsys, "audit_noise.py", *given)
    told = {int(row["row"]): float(row["teacher_score"]) for row in csv.DictReader((tmp_path / "a.csv").open())}
    assert code == 0 and told == pytest.approx(scores, abs=1e-6)
    # Its positions are resized as the student's are.
    wide = ["--overwrite", "true", "--image_size", "96", "32"]
    code, said = run_here(monkeypatch, capsys, "audit_noise.py", *given, *wide)
    assert code == 0, said
    (folder / "teacher.safetensors").write_bytes(b"no weights")
    code, said = run_here(monkeypatch, capsys, "audit_noise.py", *given, "--overwrite", "true")
    assert code == 1 and "so the checkpoint is damaged. Audit another one" in said.splitlines()[-1]


def test_one_person_a_stream_and_a_missing_column_are_refused(loaded):
    (model, processor), train = loaded
    for data, message in (
        (train.select(range(4)), "All 4 pairs show one person"),
        (train.to_iterable_dataset(), "needs a datasets.Dataset; found IterableDataset"),
        (train.remove_columns("image_id"), "lacks image_id"),
    ):
        with pytest.raises(ValueError, match=message):
            audit_pairs(model, processor, data)


def test_the_runs_averages_are_used_only_for_its_own_set(loaded, tmp_path, caplog):
    _, train = loaded
    assert run_losses(tmp_path, train) is None
    columns = {"row": [*range(16)], "loss": [None, *[1.5] * 15], "is_clean": [None] * 16}
    features = {"row": "int64", "loss": "float32", "is_clean": "bool"}
    scores = datasets.Dataset.from_dict(
        columns, datasets.Features({name: datasets.Value(kind) for name, kind in features.items()})
    )
    scores.to_parquet(str(tmp_path / "pair_scores.parquet"))
    losses = run_losses(tmp_path, train)
    assert np.isnan(losses[0]) and losses[1:].tolist() == [1.5] * 15
    known = train.add_column("is_clean", [row != 3 for row in range(16)])
    for other in (train.select(range(8)), inject_noise(train, 0.5), known):
        assert run_losses(tmp_path, other) is None
    told = scores.remove_columns("is_clean").add_column("is_clean", known["is_clean"][:])
    told.to_parquet(str(tmp_path / "pair_scores.parquet"))
    assert run_losses(tmp_path, known)[1:].tolist() == [1.5] * 15
    for other in (train, inject_noise(known, 0.5)):
        assert run_losses(tmp_path, other) is None
    (tmp_path / "pair_scores.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match="pair_scores.parquet can't be read"):
        run_losses(tmp_path, train)


def test_all_pairs_doubtful_is_an_error_and_images_inside_a_data_set_go_along(people, loaded, tmp_path):
    from modeling_amns.audit.cleaning import read_records, write_clean
    from modeling_amns.data.sources import SourceArguments

    held = datasets.Dataset.from_csv(str(people / "pairs.csv"), cache_dir=str(tmp_path / "cache"))
    images = [{"path": path, "bytes": (people / path).read_bytes()} for path in held["image"]]
    held = held.remove_columns("image").add_column("image", images).cast_column("image", datasets.Image())
    held.save_to_disk(str(tmp_path / "held"))
    source = SourceArguments(pairs=str(tmp_path / "held"))
    train = source.load("train")
    suspects = [Suspect(row, "", "", "", float(row in (2, 3))) for row in range(16)]
    with pytest.raises(ValueError, match="All 16 pairs are doubtful"):
        write_clean(tmp_path / "none", read_records(source), train, suspects, dict.fromkeys(range(16), "model"))
    doubtful = doubtful_rows(suspects, 0.5, {})
    said = write_clean(tmp_path / "clean", read_records(source), train, suspects, doubtful)
    assert said == ["--pairs", str(tmp_path / "clean")]
    kept = load_pairs(tmp_path / "clean", "train")
    assert kept["caption"][:] == [caption for row, caption in enumerate(train["caption"][:]) if row not in (2, 3)]
    assert np.array_equal(np.array(kept[2]["image"]), np.array(train[4]["image"]))
    assert len(load_pairs(tmp_path / "clean", "test")["queries"]) == 4


def test_an_output_is_replaced_only_on_request_and_stays_whole(tmp_path):
    suspects = [Suspect(0, "a.png", "a, hat", 7, 0.5, {"score": 1.0}, is_clean=None)]
    write_table(suspects, tmp_path / "a.parquet")
    assert datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"))[0]["better_path"] is None
    with pytest.raises(ValueError, match="exists"):
        check_output(tmp_path / "a.parquet", overwrite=False)
    assert check_output(tmp_path / "a.parquet", overwrite=True).name == "a.parquet"
