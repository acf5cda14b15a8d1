"""AMNS: text-to-image person retrieval that stays right when captions are wrong.

Importing the package registers model type `amns` with transformers' Auto classes; everything else is imported at first
use, so that `import modeling_amns` stays quick.
"""

import importlib

from .configuration_amns import AMNSConfig, AMNSTextConfig, AMNSVisionConfig
from .registration import register as _register

__version__ = "0.1.0"

_LAZY = {
    "AMNSForPersonRetrieval": "modeling_amns",
    "AMNSModel": "modeling_amns",
    "AMNSProcessor": "processing_amns",
    "AMNSTrainer": "trainer",
    "AMNSTrainingArguments": "training_args",
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

__all__ = ["AMNSConfig", "AMNSTextConfig", "AMNSVisionConfig", "__version__", *_LAZY]
