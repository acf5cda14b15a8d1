"""Which pairs of a training set are wrong: scores, a table, and what to do about them."""

from .suspects import Suspect

__all__ = ["Suspect"]
