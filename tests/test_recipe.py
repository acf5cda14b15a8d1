"""A run from its options: what is saved in which order, and labels that mean the same under every option."""

import dataclasses
import importlib.metadata
import json

import datasets
import numpy as np
import pytest
from conftest import tiny_retrieval_model
from PIL import Image
from safetensors.torch import load_file, save_file

import modeling_amns
from modeling_amns import AMNSModel, AMNSTrainingArguments, RunReport, evaluation, make_synthetic_benchmark, recipe
from modeling_amns.cards import model_card
from modeling_amns.data.benchmarks import load_benchmark
from modeling_amns.loading import load_checkpoint
from modeling_amns.pair_mixture import PairMixture
from modeling_amns.recipe import DataArguments, ModelArguments

TINY = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_synthetic_benchmark(
        folder, train_identities=12, val_identities=4, test_identities=6, images_per_identity=2, num_workers=1
    )
    return folder


def start() -> ModelArguments:
    return ModelArguments(
        image_size=[64, 32],
        vision_config=TINY | {"patch_size": 16},
        text_config=TINY,
        projection_dim=16,
        vocab_size=600,
    )


def arguments(folder, **options) -> AMNSTrainingArguments:
    given = {"num_train_epochs": 3, "per_device_train_batch_size": 8, "learning_rate": 3e-3, "keep_ratio": 1.0}
    return AMNSTrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to="none", disable_tqdm=True, **{**given, **options}
    )


def figures_of(folder, root) -> dict[str, float]:
    model, processor = load_checkpoint(folder)
    figures = evaluation.evaluate_retrieval(model, processor, load_benchmark("synthetic-pedes", root, "test"))
    return {name: round(value, 2) for name, value in figures.items()}


def test_pairs_without_person_ids_train_without_what_needs_them_and_one_image_is_right(tmp_path, root):
    records = json.loads((root / "synthetic-pedes" / "reid_raw.json").read_text())
    lines = ["image,caption1,caption2,split"]
    lines += [f'{r["file_path"]},"{r["captions"][0]}","{r["captions"][1]}",{r["split"]}' for r in records]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    data = DataArguments(
        pairs=str(tmp_path / "pairs.csv"),
        image_root=str(root / "synthetic-pedes" / "imgs"),
        caption_column=["caption1", "caption2"],
        person_id_column="none",
    )
    nowhere = dataclasses.replace(data, pairs="nowhere.csv")
    # The file is not looked for: the refusal comes before.
    with pytest.raises(ValueError, match="the identity loss needs person ids.*person_id_column none"):
        recipe.run(nowhere, start(), arguments(tmp_path / "run", loss_weights={"waf": 1.0, "identity": 1.0}))
    losses = {"loss_weights": {"bsdm": 1.0, "waf": 1.0}}
    with pytest.raises(ValueError, match="instances_per_identity 2 needs person ids"):
        recipe.run(nowhere, start(), arguments(tmp_path / "run", instances_per_identity=2, **losses))
    _, report = recipe.run(data, start(), arguments(tmp_path / "run", num_train_epochs=1, **losses))
    test = data.load("test")
    model, processor = load_checkpoint(tmp_path / "run")
    embedded = evaluation.embed_split(model, processor, test)
    similarity = (embedded.queries @ embedded.gallery.T).numpy()
    right = similarity[np.arange(len(similarity)), test["queries"]["image_id"][:]]
    place = 1 + (similarity > right[:, None]).sum(1)
    assert len(test["gallery"]) == 12 and len(place) == 24
    assert report.best.rank1 == pytest.approx(100 * (place == 1).mean(), abs=0.01)
    # With one right image a query, average precision is the inverse of its place.
    assert report.best.mAP == pytest.approx(100 * (1 / place).mean(), abs=0.01)


@pytest.mark.parametrize("at_end", [False, True])
def test_last_is_the_last_epoch_and_best_the_saved_weights_under_every_option(tmp_path, root, at_end, monkeypatch):
    """The first epoch is made the best one, so that best and last are two models."""
    seen = iter([90.0, 20.0, 10.0])

    def selected(trainer, *args, **kwargs):
        metrics = {"eval_rank1": next(seen)}
        trainer.log(metrics)
        trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, metrics)
        return metrics

    monkeypatch.setattr(recipe.AMNSTrainer, "evaluate", selected)
    args = arguments(tmp_path / "run", load_best_model_at_end=at_end)
    _, report = recipe.run(DataArguments(data_root=str(root)), start(), args)
    assert (report.best.epoch, report.last.epoch, report.selected_on) == (1.0, 3.0, "val rank1")
    assert report.figures == figures_of(tmp_path / "run", root) == figures_of(tmp_path / "run" / "checkpoint-6", root)
    last = {name: value for name, value in report.last.items() if name != "epoch"}
    assert last == figures_of(tmp_path / "run" / "checkpoint-18", root) != report.figures


def test_a_run_embeds_its_test_gallery_once_and_saves_before_it_draws(tmp_path, root, monkeypatch, caplog):
    order, embed = [], evaluation.embed_images

    def counted(model, processor, gallery, *rest):
        order.append("embed")
        return embed(model, processor, gallery, *rest)

    def broken(*_):
        order.append("draw")
        report = RunReport.load(tmp_path / "run")
        assert report.belongs_to(tmp_path / "run") and report.weights_sha256
        assert not (tmp_path / "run" / "ranking.png").exists(), "a picture of an earlier run is left"
        raise OSError("cannot open resource")

    monkeypatch.setattr(evaluation, "embed_images", counted)
    monkeypatch.setattr(recipe, "ranking_picture", broken)
    (tmp_path / "run").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "run" / "ranking.png")
    args = arguments(tmp_path / "run", num_train_epochs=1, eval_strategy="no", save_strategy="no")
    _, report = recipe.run(DataArguments(data_root=str(root)), start(), args)
    assert order == ["embed", "draw"]
    assert "a picture of it could not be drawn" in caplog.text
    assert report == RunReport.load(tmp_path / "run") and report.best == report.last and report.selected_on is None
    assert AMNSModel.from_pretrained(tmp_path / "run")


def test_a_run_that_weighs_pairs_reports_what_it_found_of_them(tmp_path, root, monkeypatch):
    """Scores of each pair in a file, their picture, and the share in report and card."""

    def alternating(losses, guess, seed):
        return PairMixture(np.where(np.arange(len(losses)) % 4, 0.9, 0.1).astype(np.float32), 0.5, 3.0)

    monkeypatch.setattr("modeling_amns.pair_weighting.fit_pairs", alternating)
    options = {"eval_strategy": "no", "save_strategy": "no", "pair_weighting": "mixture", "pair_weighting_start": 1}
    args = arguments(tmp_path / "run", num_train_epochs=2, **options)
    trainer, report = recipe.run(DataArguments(data_root=str(root), noise_rate=0.5), start(), args)
    assert report.doubtful_share == RunReport.load(tmp_path / "run").doubtful_share == 0.3
    assert "by their losses: 30.0%" in model_card(tmp_path / "run", "org/name", pictures=["pairs.png"]).text
    assert Image.open(tmp_path / "run" / "pairs.png").height > 100
    scores = datasets.Dataset.from_parquet(str(tmp_path / "run" / "pair_scores.parquet"), cache_dir=str(tmp_path))
    assert scores["row"][:] == list(range(48)) and scores["seen"][:] == trainer.memory.seen.tolist()
    assert scores["plausible"][:5] == pytest.approx([0.1, 0.9, 0.9, 0.9, 0.1])
    assert 0 < scores["is_clean"][:].count(False) <= 24
    assert scores["loss"][:] == [loss if seen else None for loss, seen in zip(trainer.memory.average, scores["seen"])]


def test_what_was_trained_is_saved_although_its_figures_fail(tmp_path, root, monkeypatch):
    def fail(*_, **__):
        raise ValueError("an image of test is broken")

    monkeypatch.setattr("modeling_amns.splits.embed_split", fail)
    args = arguments(tmp_path / "run", num_train_epochs=1, eval_strategy="no", save_strategy="no")
    with pytest.raises(ValueError, match="an image of test is broken"):
        recipe.run(DataArguments(data_root=str(root)), start(), args)
    load_checkpoint(tmp_path / "run")


def test_a_best_epoch_that_is_gone_gives_way_to_the_last_and_the_report_says_so(tmp_path, root, monkeypatch, caplog):
    seen = iter([90.0, 20.0])

    def selected(trainer, *args, **kwargs):
        metrics = {"eval_rank1": next(seen)}
        trainer.log(metrics)
        return metrics

    saved = recipe.AMNSTrainer._save_checkpoint

    def lost(trainer, model, trial):
        saved(trainer, model, trial)
        (tmp_path / "run" / "checkpoint-6" / "model.safetensors").unlink(missing_ok=True)

    monkeypatch.setattr(recipe.AMNSTrainer, "evaluate", selected)
    monkeypatch.setattr(recipe.AMNSTrainer, "_save_checkpoint", lost)
    _, report = recipe.run(
        DataArguments(data_root=str(root)), start(), arguments(tmp_path / "run", num_train_epochs=2)
    )
    assert "The best epoch, of step 6, has no whole checkpoint any more" in caplog.text
    assert report.selected_on is None and report.best == report.last and report.best.epoch == 2.0
    assert report.figures == figures_of(tmp_path / "run", root) == figures_of(tmp_path / "run" / "checkpoint-12", root)


def test_a_folder_in_use_is_refused_before_data_are_read_and_a_resume_reports_what_was_changed(tmp_path, root):
    data, short = DataArguments(data_root=str(root)), {"eval_strategy": "no", "save_strategy": "epoch"}
    recipe.run(data, start(), arguments(tmp_path / "run", num_train_epochs=1, **short))
    with pytest.raises(ValueError, match="run is in use: it holds checkpoint-6, model.safetensors, results.json"):
        recipe.run(DataArguments(data_root="nowhere"), start(), arguments(tmp_path / "run", **short))
    with pytest.raises(ValueError, match="noise_rate was 0.0, now 0.5; the training data changed .other captions"):
        noisy = DataArguments(data_root=str(root), noise_rate=0.5)
        recipe.run(noisy, start(), arguments(tmp_path / "run", resume_from_checkpoint="true", **short))
    again = arguments(tmp_path / "run", num_train_epochs=2, resume_from_checkpoint="true", **short)
    _, report = recipe.run(data, start(), again)
    assert report.training["changed_on_resume"] == [{"step": 6, "num_train_epochs": [1, 2]}]
    assert report.last.epoch == 2.0
    inside = ModelArguments(model_name_or_path=str(tmp_path / "run"))
    with pytest.raises(ValueError, match="starts from .*run, which overwrite_output_dir would delete"):
        recipe.run(data, inside, arguments(tmp_path / "run", overwrite_output_dir=True))


def test_a_start_whose_weights_are_missing_or_not_finite_is_refused_before_data_are_read(tmp_path, processor):
    nowhere, options = DataArguments(data_root=str(tmp_path / "nowhere")), arguments(tmp_path / "run")
    begin = ModelArguments(model_name_or_path=str(tmp_path / "start"))
    for part in (tiny_retrieval_model(processor, num_identities=3), processor):
        part.save_pretrained(tmp_path / "start")
    file = tmp_path / "start" / "model.safetensors"
    weights, name = load_file(file), "amns.visual_projection.weight"
    # The control: what a start need not have.
    save_file({key: value for key, value in weights.items() if "classifier" not in key}, file, {"format": "pt"})
    assert recipe.build(begin, ["a"], 5)[0].config.num_identities == 5
    with pytest.raises(FileNotFoundError, match="nowhere"):
        recipe.run(nowhere, begin, options)
    for spoilt, message in (
        ({**weights, name: weights[name] * float("nan")}, "1 weights hold NaN or infinite values, visual_projection"),
        ({key: value for key, value in weights.items() if key != name}, "1 weights are missing, visual_projection"),
    ):
        save_file(spoilt, file, {"format": "pt"})
        with pytest.raises(ValueError, match=f"start: {message}"):
            recipe.run(nowhere, begin, options)
        with pytest.raises(ValueError, match=f"start: {message.replace('visual', 'amns.visual')}"):
            recipe.build(begin, ["a"], 5)


def test_a_package_that_is_not_installed_can_report_its_version(tmp_path, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    found = recipe._environment(arguments(tmp_path).device)
    assert found["modeling_amns"] == modeling_amns.__version__ and "torch" in found


def test_a_start_with_more_positions_trains_goes_on_and_is_saved_with_them(tmp_path, root):
    """By `max_text_positions`, and `long_captions`, which a checkpoint remembers."""
    recipe.run(DataArguments(data_root=str(root)), start(), arguments(tmp_path / "first", max_steps=2))
    data = DataArguments(data_root=str(root))
    longer = ModelArguments(
        model_name_or_path=str(tmp_path / "first"), max_text_positions=120, long_captions="windows"
    )
    options = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 1, "eval_steps": 1}
    recipe.run(data, longer, arguments(tmp_path / "run", max_steps=1, **options))
    again = arguments(tmp_path / "run", max_steps=2, resume_from_checkpoint="true", **options)
    _, report = recipe.run(data, longer, again)
    assert (report.training["max_tokens"], report.training["long_captions"]) == (120, "windows")
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-1"):
        model, processor = load_checkpoint(folder)
        assert model.config.text_config.max_position_embeddings == processor.max_tokens == 120
        assert processor.long_captions == "windows" and processor.tokenizer.model_max_length == 120
    cut = ModelArguments(model_name_or_path=str(tmp_path / "first"), max_text_positions=120, long_captions="cut")
    with pytest.raises(ValueError, match='long_captions was "windows", now "cut"'):
        recipe.run(data, cut, again)


def test_positions_and_long_captions_are_refused_before_data_are_read(tmp_path, processor):
    for part in (tiny_retrieval_model(processor), processor):
        part.save_pretrained(tmp_path / "start")
    nowhere, begin = DataArguments(data_root="nowhere"), str(tmp_path / "start")
    with pytest.raises(ValueError, match="has 77 positions, found max_text_positions 60; they can only become more"):
        recipe.run(nowhere, ModelArguments(model_name_or_path=begin, max_text_positions=60), arguments(tmp_path / "a"))
    with pytest.raises(ValueError, match=r"from scratch set text_config '\{\"max_position_embeddings\": 248\}'"):
        ModelArguments(max_text_positions=248)
    with pytest.raises(ValueError, match=r"must lie in \[1, 65,536\], found 70000"):
        ModelArguments(model_name_or_path=begin, max_text_positions=70_000)
    with pytest.raises(ValueError, match="long_captions must be one of cut, refuse, windows, found 'split'"):
        ModelArguments(long_captions="split")


def test_long_queries_of_the_test_split_are_refused_before_training(tmp_path, root, monkeypatch):
    short = start()
    short.long_captions, short.text_config = "refuse", TINY | {"max_position_embeddings": 12}
    monkeypatch.setattr(recipe, "AMNSTrainer", lambda *_, **__: pytest.fail("it trains"))
    with pytest.raises(ValueError, match="Queries of the test split: .* the 12 tokens that the text encoder reads"):
        recipe.run(DataArguments(data_root=str(root)), short, arguments(tmp_path / "run"))
