"""Search: a gallery of embedded person images, its filters, and the stores behind it.

Nothing here imports torch or transformers before a model of theirs is asked for, so that a query is quick.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .gallery import PersonGallery
    from .hits import Hit

__all__ = ["Hit", "PersonGallery"]


def __getattr__(name: str):
    # Lazy: the options of a command need neither numpy nor a store.
    if name == "PersonGallery":
        from .gallery import PersonGallery

        return PersonGallery
    if name == "Hit":
        from .hits import Hit

        return Hit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
