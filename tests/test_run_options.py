"""Recipes and options of a run: what is read how, and what is refused before data are."""

import pytest
import yaml

from modeling_amns import AMNSTrainingArguments
from modeling_amns.data.benchmarks import BENCHMARKS
from modeling_amns.recipe import ModelArguments, parse_arguments
from modeling_amns.run_options import RECIPES, check_selection, read_recipe


def recipe(tmp_path, text: str, *words: str):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return parse_arguments(["--config", str(file), "--output_dir", str(tmp_path), "--report_to", "none", *words])


def test_no_is_a_word_where_words_are_expected_and_false_where_truth_is(tmp_path):
    text = "eval_strategy: no\nsave_strategy: no\nlogging_strategy: no\nrun_name: on\nbenchmark: yes\n"
    text += "gather_embeddings: no\nuse_cpu: on\ntf32: off\nvision_config: {output_hidden_states: yes}\n"
    data, start, args = recipe(tmp_path, text)
    assert [value.value for value in (args.eval_strategy, args.save_strategy, args.logging_strategy)] == ["no"] * 3
    assert (args.run_name, data.benchmark) == ("on", ["yes"])
    assert (args.gather_embeddings, args.use_cpu, args.tf32) == (False, True, False)
    assert start.vision_config == {"output_hidden_states": True}


def test_caption_columns_are_one_or_several_in_a_recipe_and_on_the_command_line(tmp_path):
    assert recipe(tmp_path, "pairs: a.csv\ncaption_column: text\n")[0].caption_column == ["text"]
    several = "pairs: a.csv\ncaption_column: [one, two]\n"
    assert recipe(tmp_path, several)[0].caption_column == ["one", "two"]
    assert recipe(tmp_path, several, "--caption_column", "a", "b")[0].columns.captions == ("a", "b")
    with pytest.raises(ValueError, match="caption_column must name one or more columns"):
        recipe(tmp_path, "pairs: a.csv\ncaption_column: [one, one]\n")


@pytest.mark.parametrize("word, value", [("true", "true"), ("no", "no")])
def test_resuming_is_asked_for_in_words(tmp_path, word, value):
    assert recipe(tmp_path, f"resume_from_checkpoint: {word}\n")[2].resume_from_checkpoint == value


@pytest.mark.parametrize("file", sorted(RECIPES[0].glob("*.yaml")), ids=lambda file: file.stem)
def test_a_recipe_of_the_package_is_read_and_says_how_it_is_started(file, tmp_path):
    data, start, args = parse_arguments(
        ["--config", file.stem, "--output_dir", str(tmp_path), "--report_to", "none", "--use_cpu", "true"]
    )
    assert data.benchmark[0] in BENCHMARKS
    head = file.read_text().split("\nbenchmark:")[0]
    assert head.startswith("# ")
    if start.model_name_or_path:
        # The peers' surroundings, in float32; and what differs from them stands in the head.
        assert f"train.py --config scripts/recipes/{file.name} --data_root DIR" in head and "half precision" in head
        assert (args.adam_epsilon, args.learning_rate, args.num_train_epochs) == (1e-3, 1e-5, 60)
        assert args.per_device_train_batch_size == 64 and 0.15 <= args.augment_text <= 0.2
        assert start.image_size == [384, 128] and args.max_grad_norm == 0


def test_the_recipes_are_those_of_the_benchmarks_and_the_peers():
    assert {"cuhk_pedes", "icfg_pedes", "rstpreid", "irra", "rde", "quickstart"} <= {
        file.stem for file in RECIPES[0].glob("*.yaml")
    }
    peers = {name: read_recipe(name, {"loss_weights", "keep_ratio", *_fields(name)}) for name in ("irra", "rde")}
    assert set(peers["irra"]["loss_weights"]) == {"sdm", "identity"} and peers["irra"]["keep_ratio"] == 1
    assert peers["rde"]["loss_weights"] == {"tal": pytest.approx(1 / peers["rde"]["temperature"], rel=1e-3)}


def _fields(name):
    return yaml.safe_load((RECIPES[0] / f"{name}.yaml").read_text())


def test_an_empty_recipe_and_a_list_are_no_recipes(tmp_path):
    for text, found in (("", "NoneType"), ("- a\n", "list")):
        (tmp_path / "recipe.yaml").write_text(text)
        with pytest.raises(ValueError, match=f"must map option names to values, found {found}"):
            read_recipe(tmp_path / "recipe.yaml", {"seed"})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"vision_config": '{"hiden_size": 32}'}, "vision_config has no field 'hiden_size'; it has .*hidden_size"),
        ({"text_config": {"layers": 2}}, "text_config has no field 'layers'"),
        ({"vision_config": "{hidden_size: 32}"}, "vision_config is no valid JSON"),
        ({"vision_config": "[32]"}, "vision_config must map fields to values, found list"),
        ({"text_config": {"vocab_size": 9}}, "text_config: vocab_size would be overwritten; use --vocab_size"),
        ({"vision_config": {"projection_dim": 9}}, "would be overwritten; use --projection_dim"),
        ({"vision_config": {"hidden_size": "wide"}}, "vision_config: .*expected int, got str"),
        ({"text_config": {"hidden_size": 30, "num_attention_heads": 4}}, "text_config: .*not a multiple"),
        ({"model_name_or_path": "start", "vocab_size": 9}, "vocab_size can't be used: the run starts from start"),
        ({"model_name_or_path": "start", "text_config": {"hidden_size": 64}}, "text_config can't be used"),
    ],
)
def test_a_wrong_description_of_the_model_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        ModelArguments(**options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"eval_steps": 0.3, "save_steps": 0.1}, None),
        ({"eval_steps": 0.2, "save_steps": 0.1, "max_steps": 15}, None),
        ({"eval_steps": 6, "save_steps": 3}, None),
        ({"eval_steps": 3, "save_steps": 2}, "each evaluation needs one"),
        ({"eval_steps": 3, "save_steps": 3, "metric_for_best_model": "rank2"}, "rank2 is no figure of the evaluation"),
    ],
)
def test_shares_of_a_training_may_select_an_epoch_and_steps_that_never_meet_may_not(tmp_path, options, message):
    args = AMNSTrainingArguments(
        output_dir=str(tmp_path), report_to="none", eval_strategy="steps", save_strategy="steps", **options
    )
    if message is None:
        check_selection(args)
    else:
        with pytest.raises(ValueError, match=message):
            check_selection(args)


def test_a_start_on_the_command_line_takes_the_place_of_the_recipes_new_model(tmp_path):
    words = ["--config", "quickstart", "--output_dir", str(tmp_path)]
    _, new, _ = parse_arguments(words)
    _, start, _ = parse_arguments([*words, "--model_name_or_path", "org/start"])
    assert new.vision_config and not start.vision_config and start.image_size == new.image_size
    with pytest.raises(ValueError, match="projection_dim can't be used: the run starts from org/start"):
        parse_arguments([*words, "--model_name_or_path", "org/start", "--projection_dim", "64"])
    both = tmp_path / "both.yaml"
    both.write_text("model_name_or_path: org/start\nvocab_size: 600\n")
    with pytest.raises(ValueError, match="vocab_size can't be used: the run starts from org/start"):
        parse_arguments(["--config", str(both), "--output_dir", str(tmp_path)])
