"""Earlier place of `modeling_amns.export.export_sentence_transformer`."""

from .export.sentence_transformers import export_sentence_transformer

__all__ = ["export_sentence_transformer"]
