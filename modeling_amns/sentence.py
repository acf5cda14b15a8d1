"""Exports a checkpoint for sentence-transformers, whose `SentenceTransformer` then encodes sentences and images.

```python
from modeling_amns.sentence import export_sentence_transformer

export_sentence_transformer("outputs/quickstart", "exported/sentence_transformers")
```

The folder consists of sentence-transformers' own modules around `AMNSModel` and `AMNSProcessor`:

```python
import modeling_amns  # registers the model; without the package pass trust_remote_code=True instead
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("exported/sentence_transformers")
model.similarity(model.encode(["a woman in a red coat"]), model.encode(images))
```
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .configuration_amns import AMNSConfig
from .extras import require
from .modeling_amns import AMNSModel
from .processing_amns import AMNSProcessor


def export_sentence_transformer(checkpoint: str | Path, folder: str | Path) -> None:
    """Writes a checkpoint as a `SentenceTransformer` whose embeddings are L2-normalised.

    Args:
        checkpoint: an AMNS checkpoint with its processor, folder or Hub id.
        folder: receives the model, its processor, the code that they need, and `modules.json`.
    Raises:
        ImportError: sentence-transformers is not installed.
    """
    package = require("sentence_transformers", "sentence-transformers", "Export for sentence-transformers")
    from sentence_transformers.base.modules import Normalize, Transformer

    modules = [Transformer(str(checkpoint)), Normalize()]
    model = package.SentenceTransformer(modules=modules, device="cpu", similarity_fn_name="cosine")
    with _saved_with_code():
        # The card that sentence-transformers would write shows sentences about the weather.
        model.save(str(folder), create_model_card=False)


@contextlib.contextmanager
def _saved_with_code() -> Iterator[None]:
    """Within it, `save_pretrained` copies the code beside the weights, for `trust_remote_code=True`."""
    classes = {AMNSConfig: "AutoConfig", AMNSModel: "AutoModel", AMNSProcessor: "AutoProcessor"}
    before = {cls: cls._auto_class for cls in classes}
    try:
        for cls, auto_class in classes.items():
            cls.register_for_auto_class(auto_class)
        yield
    finally:
        for cls, auto_class in before.items():
            cls._auto_class = auto_class


__all__ = ["export_sentence_transformer"]
