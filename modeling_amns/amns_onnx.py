"""Earlier place of `modeling_amns.export.amns_onnx`."""

from .export.amns_onnx import PREPROCESSING_FILE, OnnxRetrieval, to_rgb

__all__ = ["PREPROCESSING_FILE", "OnnxRetrieval", "to_rgb"]
