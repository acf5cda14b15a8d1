"""AMNS: text-to-image person retrieval that stays right when captions are wrong.

Importing the package registers model type `amns` with transformers' Auto classes, as soon as transformers is imported
too; everything else is imported at first use. So a search with an exported model does not wait for transformers.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from . import at_start as _at_start  # noqa: F401  before all that is slow
from .import_hooks import WhenImported as _WhenImported

if TYPE_CHECKING:
    from .configuration_amns import AMNSConfig, AMNSTextConfig, AMNSVisionConfig
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
    "AMNSConfig": "configuration_amns",
    "AMNSForPersonRetrieval": "modeling_amns",
    "AMNSModel": "modeling_amns",
    "AMNSProcessor": "processing_amns",
    "AMNSTextConfig": "configuration_amns",
    "AMNSTextModel": "text_amns",
    "AMNSTrainer": "trainer",
    "AMNSTrainingArguments": "training_args",
    "AMNSVisionConfig": "configuration_amns",
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


def _register(_: ModuleType) -> None:
    registration, own = f"{__name__}.registration", sys.modules.get(f"{__name__}.configuration_amns")
    # It may be our configurations' own import of transformers that leads here; once they are whole they do too.
    if registration not in sys.modules and (own is None or hasattr(own, "AMNSConfig")):
        importlib.import_module(registration).register()


_WhenImported("transformers", _register)
if f"{__name__}.registration" not in sys.modules:
    _WhenImported(f"{__name__}.configuration_amns", _register)

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
