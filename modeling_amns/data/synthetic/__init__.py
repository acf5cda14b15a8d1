"""`synthetic-pedes`, the benchmark made from nothing: people, cameras, captions, drawing, and the folder on disk."""

from .benchmark import (
    GENERATOR_VERSION,
    LAYOUTS,
    Layout,
    make_synthetic_benchmark,
)
from .planning import PlannedImage, plan_benchmark, plan_image

__all__ = [
    "GENERATOR_VERSION",
    "LAYOUTS",
    "Layout",
    "PlannedImage",
    "make_synthetic_benchmark",
    "plan_benchmark",
    "plan_image",
]
