"""What an import of the package brings: the Auto classes, and nothing that is slow or optional."""

import os
import subprocess
import sys

import pytest
import warm_python
from conftest import tiny_retrieval_model
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

from modeling_amns import (
    AMNSConfig,
    AMNSModel,
    AMNSProcessor,
    AMNSTextConfig,
    AMNSTextModel,
    AMNSVisionConfig,
    AMNSVisionModel,
)

HEAVY = [
    "accelerate",
    "datasets",
    "evaluate",
    "gradio",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "peft",
    "pandas",
    "scipy",
]
HEAVY += ["sentence_transformers", "sklearn", "tensorboard", "trackio", "transformers.modeling_utils"]
ORDERS = {
    "package first": "import modeling_amns\nfrom transformers import AutoModel, AutoProcessor",
    "Auto classes first": "from transformers import AutoModel, AutoProcessor\nimport modeling_amns",
    "slow module first": "import transformers.models.auto.processing_auto, modeling_amns\n"
    "from transformers import AutoModel, AutoProcessor",
    "configurations first": "import modeling_amns.configuration_amns\n"
    "from transformers import AutoModel, AutoProcessor",
    "a class first": "from modeling_amns import AMNSTrainer\nfrom transformers import AutoModel, AutoProcessor",
}


def run(program: str, *arguments) -> str:
    """What a program prints, in a process that has imported nothing."""
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_warm(program: str, *arguments) -> str:
    """As `run`, in a process that has imported torch and other libraries, but nothing of Hugging Face's or ours."""
    done = warm_python.run(["-c", program, *arguments], dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_process_that_has_imported_libraries_has_none_whose_order_or_environment_matters():
    show = (
        "import sys\nprint({name.split('.')[0] for name in sys.modules} & set(sys.argv[1:]), 'torch' in sys.modules)"
    )
    ours = ("modeling_amns", "transformers", "datasets", "huggingface_hub", "accelerate", "evaluate", "peft")
    assert run_warm(show, *ours, "tokenizers", "safetensors", "hf_xet").split() == ["set()", "True"]


def test_the_package_imports_nothing_optional_and_no_model_before_it_is_used():
    show = f"import sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    # Some releases of transformers bring optional packages with their configurations.
    alone = run(f"from transformers import AutoModel, CLIPConfig\n{show}")
    assert run(f"import modeling_amns\n{show}") == alone and "peft" not in alone
    # The control: a model brings some of them.
    assert "transformers.modeling_utils" in run(
        f"from modeling_amns import AMNSModel\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    )


@pytest.mark.parametrize("words", [["--help"], ["index", "--help"], ["search", "--help"], ["demo", "--help"]])
def test_help_of_the_command_waits_for_no_library(words):
    program = (
        "import sys\nfrom modeling_amns.commands import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "third = {'torch', 'numpy', 'transformers', 'datasets', 'PIL', 'pyarrow', 'lancedb', 'huggingface_hub'}\n"
        "print('found', sorted(third & set(sys.modules)))"
    )
    assert run(program, *words).splitlines()[-1] == "found []"


@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes_load_our_classes_whatever_is_imported_first(order, tmp_path, processor):
    tiny_retrieval_model(processor).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    load = "import sys\nfor auto in (AutoModel, AutoProcessor):\n    print(type(auto.from_pretrained(sys.argv[1])))"
    found = run_warm(f"{ORDERS[order]}\n{load}", tmp_path).splitlines()
    assert found == [
        f"<class 'modeling_amns.{name}'>" for name in ("modeling_amns.AMNSModel", "processing_amns.AMNSProcessor")
    ]


def test_auto_classes_make_models_from_a_configuration(config):
    assert type(AutoModel.from_config(config)) is AMNSModel
    assert type(AutoModelForZeroShotImageClassification.from_config(config)) is AMNSModel


def test_a_loaded_folder_is_of_our_classes_in_this_process_too(tmp_path, processor):
    model = tiny_retrieval_model(processor)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is AMNSConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is AMNSModel
    assert type(AutoProcessor.from_pretrained(tmp_path)) is AMNSProcessor


@pytest.mark.parametrize(
    "config_class, model_class",
    [(AMNSConfig, AMNSModel), (AMNSVisionConfig, AMNSVisionModel), (AMNSTextConfig, AMNSTextModel)],
)
def test_what_stands_in_for_a_class_acts_as_it(config, config_class, model_class):
    from transformers import MODEL_MAPPING

    parts = {type(part): part for part in (config, config.vision_config, config.text_config)}
    registered = MODEL_MAPPING[config_class]
    model = registered(parts[config_class])
    assert type(model) is model_class and isinstance(model, registered) and issubclass(model_class, registered)
    assert not isinstance(config, registered) and registered.__name__ == model_class.__name__
    assert registered.config_class is config_class and AutoConfig.for_model(config_class.model_type)


def test_an_import_hook_leaves_nothing_behind_once_it_was_used():
    show = "print([type(finder).__name__ for finder in sys.meta_path].count('WhenImported'))"
    program = f"import sys, modeling_amns\n{show}\nimport transformers.models.auto.processing_auto as module\n{show}"
    program += "\nprint(module.PROCESSOR_MAPPING[modeling_amns.AMNSConfig].__name__, module.__spec__.name)"
    expected = ["2", "0", "AMNSProcessor", "transformers.models.auto.processing_auto"]
    assert run_warm(program).split() == expected


def test_the_package_alone_does_not_import_transformers():
    show = "import sys, modeling_amns\nprint({'transformers', 'torch', 'numpy'} & set(sys.modules))"
    assert run(show).strip() == "set()"
