"""Search: a gallery of embedded person images, its filters, and the stores behind it.

Nothing here imports torch or transformers before a model of theirs is asked for, so that a query is quick.
"""

from .gallery import PersonGallery
from .hits import Hit

__all__ = ["Hit", "PersonGallery"]
