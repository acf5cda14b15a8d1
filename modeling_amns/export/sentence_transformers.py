"""Exports a checkpoint for sentence-transformers, whose `SentenceTransformer` then encodes sentences and images.

```python
from modeling_amns.export import export_sentence_transformer

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

import tempfile
from pathlib import Path

from ..disk import whole_folder
from ..extras import require
from ..loading import load_checkpoint


def export_sentence_transformer(checkpoint: str | Path, folder: str | Path) -> None:
    """Writes a checkpoint as a `SentenceTransformer` whose embeddings are L2-normalised.

    Args:
        checkpoint: an AMNS checkpoint with its processor, folder or Hub id.
        folder: receives the model, its processor, the code that they need, and `modules.json`.
    Raises:
        ImportError: sentence-transformers is not installed.
        ValueError: the checkpoint is not whole, or its processor crops, as that of a CLIP checkpoint.
    """
    package = require("sentence_transformers", "sentence-transformers", "Export for sentence-transformers")
    from sentence_transformers.base.modules import Normalize, Transformer

    model, processor = load_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory() as whole:
        # By our own classes, whatever class saved it first: sentence-transformers opens what the folder names.
        model.save_pretrained(whole)
        processor.save_pretrained(whole)
        modules = [Transformer(whole), Normalize()]
        exported = package.SentenceTransformer(modules=modules, device="cpu", similarity_fn_name="cosine")
        # The card that sentence-transformers would write shows sentences about the weather.
        with whole_folder(folder, last="modules.json") as aside:
            exported.save(str(aside), create_model_card=False)


__all__ = ["export_sentence_transformer"]
