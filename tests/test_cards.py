"""Cards hold what the run measured and no other number; their metadata is what the Hub reads."""

import json
import re

import pytest
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from modeling_amns.cards import TEMPLATES, model_card

FIGURES = {"rank1": 41.37, "rank5": 70.11, "rank10": 80.22, "mAP": 40.43, "mINP": 27.54}
RUN = {
    "benchmark": "icfg-pedes",
    "noise_rate": 0.5,
    "losses": {"bsdm": 1.0, "tal": 0.5},
    "best": {"epoch": 3.0, **FIGURES},
    "last": {"epoch": 5.0, **{name: value - 1 for name, value in FIGURES.items()}},
    "selected_on": "test rank1",
    "dropped_pairs": {"train": 7, "test": 0},
    "base_model": "org/start",
    "training": {"seed": 42, "learning_rate": 1e-5},
    "environment": {"torch": "2.13.0"},
}


def test_the_card_of_a_run_gives_its_figures_in_text_and_model_index(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(RUN))
    model_card(tmp_path, "org/name", pictures=["ranks.png"]).save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    text = str(card)
    assert "| best, epoch 3 | 41.37 | 70.11 | 80.22 | 40.43 | 27.54 |" in text
    assert "| last, epoch 5 | 40.37 | 69.11 | 79.22 | 39.43 | 26.54 |" in text
    assert "50.0% of the training captions" in text and "pairs without an image: train 7" in text
    assert "selected on test rank1" in text and "![ranks.png](./ranks.png)" in text
    assert "2409.06385" in text and "IRRA" in text and "RDE" in text and "InfoNCE" not in text
    assert card.data.base_model == "org/start" and card.data.library_name == "transformers"
    name, results = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert name == "name" and {result.metric_type: result.metric_value for result in results} == FIGURES
    assert {(result.dataset_name, result.dataset_split) for result in results} == {("icfg-pedes", "test")}
    assert all(result.dataset_args == {"noise_rate": 0.5} for result in results)


def test_a_card_without_a_run_holds_no_figure(tmp_path):
    card = model_card(tmp_path, "org/name")
    body = card.text.split("## Figures")[1].split("## Intended use")[0]
    assert "not measured" in body and not re.search(r"\d", body)
    assert "model-index" not in card.data.to_dict() and "metrics" not in card.data.to_dict()


def test_results_that_cannot_be_read_are_an_error_that_names_the_file(tmp_path):
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results.json is not valid JSON"):
        model_card(tmp_path, "org/name")


@pytest.mark.parametrize("name", ["cuhk-pedes", "icfg-pedes", "rstpreid", "synthetic-pedes"])
def test_dataset_cards_have_metadata_and_say_whether_they_hold_images(name):
    card = DatasetCard.load(TEMPLATES[0] / f"{name}.md")
    assert card.data.pretty_name and card.data.license and "person-retrieval" in card.data.tags
    if name != "synthetic-pedes":
        assert card.data.license == "other" and "holds no images" in card.text
