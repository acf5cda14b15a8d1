"""AMNS: text-to-image person retrieval that stays right when captions are wrong.

Importing the package registers model type `amns` with transformers' Auto classes; everything else is imported at first
use, so that `import modeling_amns` stays quick.
"""

import importlib
from typing import TYPE_CHECKING

from .configuration_amns import AMNSConfig, AMNSTextConfig, AMNSVisionConfig
from .registration import register as _register

if TYPE_CHECKING:
    from .data.benchmarks import load_benchmark
    from .data.noise import inject_noise
    from .data.pairs import load_pairs
    from .data.synthetic import make_synthetic_benchmark
    from .modeling_amns import AMNSForPersonRetrieval, AMNSModel, AMNSTextModel, AMNSVisionModel
    from .processing_amns import AMNSProcessor
    from .report import RunReport
    from .retrieval import PersonGallery
    from .trainer import AMNSTrainer
    from .training_args import AMNSTrainingArguments

__version__ = "0.1.0"

_LAZY = {
    "AMNSForPersonRetrieval": "modeling_amns",
    "AMNSModel": "modeling_amns",
    "AMNSProcessor": "processing_amns",
    "AMNSTextModel": "text_amns",
    "AMNSTrainer": "trainer",
    "AMNSTrainingArguments": "training_args",
    "AMNSVisionModel": "vision_amns",
    "PersonGallery": "retrieval",
    "RunReport": "report",
    "inject_noise": "data.noise",
    "load_benchmark": "data.benchmarks",
    "load_pairs": "data.pairs",
    "make_synthetic_benchmark": "data.synthetic",
}


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


_register()

# In full, for type checkers, which cannot follow _LAZY.
__all__ = [
    "AMNSConfig",
    "AMNSForPersonRetrieval",
    "AMNSModel",
    "AMNSProcessor",
    "AMNSTextConfig",
    "AMNSTextModel",
    "AMNSTrainer",
    "AMNSTrainingArguments",
    "AMNSVisionConfig",
    "AMNSVisionModel",
    "PersonGallery",
    "RunReport",
    "__version__",
    "inject_noise",
    "load_benchmark",
    "load_pairs",
    "make_synthetic_benchmark",
]
