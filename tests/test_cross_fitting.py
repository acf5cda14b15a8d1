"""Pairs judged by models that have not seen them: against plain loops, refusals, and what it is for."""

import csv
import math
import os
import shutil
import signal
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CAPTIONS, tiny_retrieval_model
from PIL import Image
from test_scripts import run_here

from modeling_amns import AMNSProcessor, RunReport, inject_noise, load_pairs
from modeling_amns.audit import pair_scores
from modeling_amns.audit.auditing import audit_pairs
from modeling_amns.audit.cross_fitting import check_fold_models, cross_fit
from modeling_amns.audit.fold_runs import fold_options, train_folds
from modeling_amns.data.folds import pairs_digest, person_folds
from modeling_amns.embedding import embed_images, embed_texts
from modeling_amns.loading import load_checkpoint
from modeling_amns.run_arguments import NoiseArguments, parse_arguments
from modeling_amns.run_processes import RunProcesses
from modeling_amns.run_record import write_record

FOLDS, NOISE = 3, 0.4

# In the place of a processor.
AS_IT_COMES = SimpleNamespace(long_captions="cut")


def noisy(people):
    return inject_noise(load_pairs(people / "pairs.csv", "train"), NOISE)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """36 pairs of 9 persons, two of an image, and four models: `model` and one for each fold that says so."""
    folder = tmp_path_factory.mktemp("people")
    processor = AMNSProcessor.from_captions(CAPTIONS * 20, [64, 32], vocab_size=620)
    (folder / "photos").mkdir()
    rows = [["image", "caption", "person_id", "split"]]
    for number in range(40):
        pixels = np.random.default_rng(number // 2).integers(0, 255, (16, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number // 2}.png")
        # Persons lie in between each other; the last one is tested on.
        person = number // 2 % 9 if number < 36 else 9
        caption = f"{CAPTIONS[number % 3]} number {number * 37}"
        rows.append([f"photos/{number // 2}.png", caption, f"p{person}", "train" if number < 36 else "test"])
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for number in range(FOLDS + 1):
        model = tiny_retrieval_model(processor)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
        place = folder / (f"fold{number}" if number else "model")
        model.save_pretrained(place)
        processor.save_pretrained(place)
        if number:
            options = {"left_out_fold": f"{number}/{FOLDS}", "left_out_of": pairs_digest(noisy(folder))}
            RunReport("pairs.csv", training=options).save(place)
    return folder


def fold_folders(people):
    return [people / f"fold{number}" for number in range(1, FOLDS + 1)]


def loop_scores(model, processor, train, rows):
    """Scores and ranks of a fold's pairs, in float64."""
    part = train.select(rows)
    images = embed_images(model, processor, part).double().numpy()
    captions = embed_texts(model, processor, part["caption"][:]).double().numpy()
    persons, pictures = part["person_id"][:], part["image_id"][:]
    scale, places = math.exp(model.logit_scale.item()), range(len(rows))
    one_of = {picture: place for place, picture in reversed(list(enumerate(pictures)))}
    found = {}
    for at in places:
        own = float(captions[at] @ images[at])
        others = [place for place in one_of.values() if persons[place] != persons[at]]
        to_image = {place: float(captions[at] @ images[place]) for place in others}
        to_text = {place: float(images[at] @ captions[place]) for place in places if persons[place] != persons[at]}
        losses = [
            math.log(math.exp(own * scale) + sum(math.exp(value * scale) for value in values.values())) - own * scale
            for values in (to_image, to_text)
        ]
        found[rows[at]] = {
            "score": (losses[0] / math.log(len(one_of)) + losses[1] / math.log(len(rows))) / 2,
            "text_loss": losses[0],
            "image_loss": losses[1],
            "image_rank": 1 + sum(value > own for value in to_image.values()),
            "text_rank": 1 + sum(value > own for value in to_text.values()),
            "better_path": part["image_path"][max(to_image, key=to_image.__getitem__)],
            "better_caption": part["caption"][max(to_text, key=to_text.__getitem__)],
        }
    return found


def test_each_pair_is_scored_among_its_fold_by_the_model_that_has_not_seen_it(people):
    train = noisy(people)
    folds = person_folds(train["person_id"][:], FOLDS)
    expected = {}
    for number, folder in enumerate(fold_folders(people), start=1):
        expected |= loop_scores(*load_checkpoint(folder), train, np.flatnonzero(folds == number).tolist())
    assert sorted(expected) == [*range(36)]
    cross = cross_fit(fold_folders(people), load_checkpoint, train)
    audit = audit_pairs(*load_checkpoint(people / "model"), train, cross=cross)
    alone = {suspect.row: suspect for suspect in audit_pairs(*load_checkpoint(people / "model"), train).suspects}
    assert len(audit.suspects) == 36 and audit.folds == FOLDS
    for suspect in audit.suspects:
        wanted = expected[suspect.row]
        for name in ("score", "text_loss", "image_loss", "image_rank", "text_rank"):
            assert suspect.scores[f"cross_{name}"] == pytest.approx(wanted[name], rel=1e-4)
            assert suspect.scores[name] == alone[suspect.row].scores[name]
        assert suspect.better_path == (wanted["better_path"] if wanted["image_rank"] > 1 else None)
        assert suspect.better_caption == (wanted["better_caption"] if wanted["text_rank"] > 1 else None)
    ranked = [(-suspect.probability, -suspect.scores["cross_score"]) for suspect in audit.suspects]
    assert ranked == sorted(ranked)
    # AUROC as the share of pairs of a wrong and a right one that are in this order.
    for said, name in ((audit.truth, "cross_score"), (audit.own_truth, "score")):
        wrong, right = ([s.scores[name] for s in audit.suspects if s.is_clean is clean] for clean in (False, True))
        higher = np.mean([(a > b) + (a == b) / 2 for a in wrong for b in right])
        assert said["auroc"] == pytest.approx(higher)
    assert f"of {FOLDS} models, each for the persons that it has not seen" in audit.as_text()
    assert f"AUROC: {audit.truth['auroc']:.4f} (the model's own scores: {audit.own_truth['auroc']:.4f})" in (
        audit.as_text()
    )


def test_wrong_pairs_learnt_by_heart_are_excused_by_their_own_model_and_not_by_those_that_have_not_seen_them(
    people, monkeypatch
):
    """All models know what captions say; the one that was trained on all has learnt the wrong ones by heart."""
    train, clean = noisy(people), load_pairs(people / "pairs.csv", "train")
    right = dict(zip(clean["caption"][:], clean["person_id"][:]))
    by_heart = dict(zip(train["caption"][:], train["person_id"][:]))

    def embedded(persons):
        return torch.eye(9)[torch.tensor(persons)]

    def model(known):
        return SimpleNamespace(known=known, logit_scale=torch.tensor(math.log(5)), device="cpu")

    monkeypatch.setattr(pair_scores, "embed_images", lambda model, _, pairs, *rest: embedded(pairs["person_id"][:]))
    monkeypatch.setattr(
        pair_scores, "embed_texts", lambda model, _, texts, *rest: embedded([model.known[text] for text in texts])
    )
    cross = cross_fit(fold_folders(people), lambda folder: (model(right), AS_IT_COMES), train)
    audit = audit_pairs(model(by_heart), AS_IT_COMES, train, cross=cross)
    wrong = [suspect for suspect in audit.suspects if not suspect.is_clean]
    assert len(wrong) == round(NOISE * 36) and wrong == list(audit.suspects[: len(wrong)])
    assert all(suspect.scores["score"] < 0.1 for suspect in audit.suspects)
    assert all(suspect.scores["cross_score"] > 0.5 and suspect.probability > 0.9 for suspect in wrong)
    assert audit.share == pytest.approx(len(wrong) / 36, abs=0.01)
    assert audit.truth["auroc"] == 1.0 and audit.own_truth["auroc"] == pytest.approx(0.5, abs=0.2)


def changed(people, place, **training):
    shutil.copytree(people / "fold1", place)
    report = RunReport.load(place)
    report.training = {**report.training, **training}
    report.save(place)
    return place


def test_models_of_other_folds_sets_or_without_a_record_are_refused_by_name(people, tmp_path):
    train, (one, two, three) = noisy(people), fold_folders(people)
    check_fold_models([one, two, three], train)
    unknown, other = people / "model", changed(people, tmp_path / "other", left_out_of="0" * 16)
    for folders, message in (
        ([two, one, three], "fold2 is of a run with 2/3; expected a run with --left_out_fold 1/3"),
        ([one, two], "fold1 is of a run with 1/3; expected a run with --left_out_fold 1/2"),
        ([one, unknown, three], "model has no record of a fold .* --left_out_fold 2/3"),
        ([other, two, three], "other is of a run on other pairs than these"),
    ):
        with pytest.raises(ValueError, match=message):
            check_fold_models(folders, train)
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        check_fold_models([one, tmp_path / "nowhere", three], train)
    # Without its noise it is another set.
    with pytest.raises(ValueError, match="fold1 is of a run on other pairs"):
        check_fold_models([one, two, three], load_pairs(people / "pairs.csv", "train"))


def test_a_checkpoint_within_a_run_is_known_by_its_own_record(people, tmp_path):
    train, (one, two, three) = noisy(people), fold_folders(people)
    checkpoint = tmp_path / "checkpoint-4"
    shutil.copytree(one, checkpoint)
    (checkpoint / "results.json").rename(tmp_path / "results.json")
    options = {"left_out_fold": "1/3", "left_out_of": pairs_digest(train)}
    write_record({"run": "a", "options": options}, checkpoint)
    check_fold_models([checkpoint, two, three], train)


def test_a_report_of_other_weights_is_no_record(people, tmp_path):
    place = changed(people, tmp_path / "other")
    report = RunReport.load(place)
    report.weights_sha256 = "0" * 64
    report.save(place)
    with pytest.raises(ValueError, match="other has no record"):
        check_fold_models([place, *fold_folders(people)[1:]], noisy(people))


def test_folds_of_one_person_cannot_be_compared(people):
    train = noisy(people)
    with pytest.raises(ValueError, match="Fold 1 of 9 has one person alone"):
        cross_fit([people / "fold1"] * 9, load_checkpoint, train)


def audit(people, monkeypatch, capsys, *options):
    given = [people / "model", "--pairs", people / "pairs.csv", "--device", "cpu", "--noise_rate", NOISE, *options]
    return run_here(monkeypatch, capsys, "audit_noise.py", *given)


def test_the_table_has_both_scores_and_is_in_the_order_of_the_cross_fitted_ones(people, tmp_path, monkeypatch, capsys):
    output = tmp_path / "audit.csv"
    code, said = audit(people, monkeypatch, capsys, "--output", output, "--fold_models", *fold_folders(people))
    assert code == 0, said
    table = list(csv.DictReader(output.open()))
    keys = [(-float(row["probability"]), -float(row["cross_score"])) for row in table]
    assert len(table) == 36 and keys == sorted(keys) and {"score", "cross_image_rank"} <= set(table[0])


@pytest.mark.parametrize(
    "options, message",
    [
        (["--fold_models", "PEOPLE/fold1"], "--fold_models: expected at least 2 folds, found 1"),
        (["--folds", "1", "--config", "quickstart"], "--folds: expected at least 2 folds, found 1"),
        (["--folds", "3", "--fold_models", "a", "b"], "leave one of them out"),
        (["--folds", "3"], "--folds needs the recipe of its runs"),
        (["--config", "quickstart"], "--config and --folds_dir are of --folds"),
        (["--folds", "3", "--config", "nowhere.yaml"], "There is no recipe nowhere.yaml"),
        (["--folds", "9", "--config", "quickstart"], "Fold 1 of 9 has one person alone"),
        (["--fold_models", "PEOPLE/fold2", "PEOPLE/fold1"], "fold2 is of a run with 2/3; expected"),
        (["--left_out_fold", "1/3"], "There is no option '--left_out_fold'"),
    ],
)
def test_bad_options_end_in_a_line_and_leave_nothing(people, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    given = [option.replace("PEOPLE", str(people)) for option in options]
    code, said = audit(people, monkeypatch, capsys, *given)
    assert code == 1 and message in said.splitlines()[-1] and not list(tmp_path.iterdir())


@pytest.fixture
def processes(people, tmp_path):
    """Runs that are over at once: each leaves the model of its fold; the first of fold 2 is cut off."""
    program = tmp_path / "program.py"
    program.write_text(
        "import pathlib, shutil, sys, yaml\n"
        "words = sys.argv[1:]\n"
        "options = yaml.safe_load(open(words[words.index('--config') + 1]))\n"
        "fold, folder = options['left_out_fold'], pathlib.Path(options['output_dir'])\n"
        "with open(folder.parent / 'words.txt', 'a') as said: print(fold, words[-2], file=said)\n"
        "if fold[0] == '2' and not (folder / 'checkpoint-4').exists():\n"
        "    (folder / 'checkpoint-4').mkdir()\n"
        "    sys.exit('train.py: stopped.')\n"
        f"shutil.copytree({str(people)!r} + '/fold' + fold[0], folder, dirs_exist_ok=True)\n"
    )
    return lambda: RunProcesses("TEST", program=[sys.executable, str(program)])


def test_folds_are_trained_once_and_go_on_where_they_were_stopped(people, tmp_path, processes):
    source = NoiseArguments(pairs=str(people / "pairs.csv"), noise_rate=NOISE)
    (tmp_path / "recipe.yaml").write_text("num_train_epochs: 2\nnoise_rate: 0.1\neval_strategy: no\noutput_dir: x\n")
    options = fold_options(tmp_path / "recipe.yaml", source)
    # The audit's data go before the recipe's.
    assert (options["noise_rate"], options["num_train_epochs"], options["eval_strategy"]) == (NOISE, 2, "no")
    folder, told = tmp_path / "runs", []
    with pytest.raises(ChildProcessError, match="fold 2/3 could not be trained: exit code 1: train.py: stopped"):
        train_folds(options, 3, folder, told.append, processes())
    models = train_folds(options, 3, folder, told.append, processes())
    words = (folder / "words.txt").read_text().split("\n")[:-1]
    assert words == [
        *("1/3 --overwrite_output_dir", "2/3 --overwrite_output_dir"),
        *("2/3 --resume_from_checkpoint", "3/3 --overwrite_output_dir"),
    ]
    assert told[2] == f"Fold 1/3 is trained: {folder / 'fold-1-of-3'}"
    check_fold_models(models, noisy(people))
    data, _, args = parse_arguments(["--config", str(models[1] / "cell.yaml")])
    assert (data.left_out_fold, data.pairs, data.noise_rate) == ("2/3", source.pairs, NOISE)
    assert args.num_train_epochs == 2 and args.output_dir == str(models[1])
    with pytest.raises(ValueError, match="fold-1-of-3 holds a run with other options than these"):
        train_folds(options | {"num_train_epochs": 3}, 3, folder, told.append, processes())
    assert len((folder / "words.txt").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "line, message",
    [
        ("left_out_fold: 1/2", "sets left_out_fold, which is for --folds to say"),
        ("noise_file: noise.npy", "sets noise_file, and the audit is of data without it; pass --noise_file noise.npy"),
        ("num_epochs: 2", "has unknown field"),
        ("eval_strategy: steps", "The best epoch is read back from its checkpoint"),
    ],
)
def test_recipes_that_no_fold_can_be_trained_by_are_refused_before_any_run(people, tmp_path, line, message):
    (tmp_path / "recipe.yaml").write_text(f"save_strategy: epoch\n{line}\n")
    with pytest.raises(ValueError, match=message):
        fold_options(tmp_path / "recipe.yaml", NoiseArguments(pairs=str(people / "pairs.csv")))


def test_ctrl_c_ends_the_run_that_is_being_waited_for(tmp_path):
    program, mark = tmp_path / "program.py", tmp_path / "mark"
    program.write_text(f"import os, time\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)\n")

    def interrupt():
        while not (mark.exists() and mark.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    processes = RunProcesses("TEST", program=[sys.executable, str(program)])
    # A shell that starts the tests in the background has told them to ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            train_folds({}, 2, tmp_path / "runs", lambda _: None, processes)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)
