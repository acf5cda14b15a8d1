"""A query of several parts: sentences and images, each with a weight, added up to one vector."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from .arguments import QueryImages, Sentences
from .encoders import Encoder

# Beyond, nothing is a sentence; reading it into tokens alone would take seconds.
MAX_CHARACTERS = 100_000


def query_vector(encoder: Encoder, text: Sentences | None, image: QueryImages | None) -> np.ndarray:
    """The vector of a query: `normalise(sum_i w_i * normalise(e_i))`, float32 [D].

    Every part is brought to length 1 before it is weighted, so that sentence and image count alike, and the sum is
    brought to length 1 again, so that scores are cosines. A negative weight takes away: images near that part sink.

    Args:
        encoder: the gallery's model.
        text: a sentence, or several, each alone (weight 1) or as (sentence, weight).
        image: a path or a PIL image, or several in the same way.
    Raises:
        ValueError: there is no part; a sentence is empty; an image can't be read; the sum is zero.
    """
    sentences, images = _parts(text, "text"), _parts(image, "image")
    if not sentences and not images:
        raise ValueError("There is nothing to search for; pass a sentence, an image, or both.")
    for sentence, _ in sentences:
        if not isinstance(sentence, str):
            raise ValueError(f"A sentence must be a string, found {type(sentence).__name__}.")
        if not sentence.strip():
            raise ValueError('The sentence is empty; write what to search for, such as "a woman in a red coat".')
        if len(sentence) > MAX_CHARACTERS:
            raise ValueError(f"The sentence has {len(sentence):,} characters; at most {MAX_CHARACTERS:,} are taken.")
    total = np.zeros(encoder.dimension, np.float64)
    if sentences:
        # What no tokenizer takes: halves of a character.
        written = [sentence.encode("utf-8", "replace").decode() for sentence, _ in sentences]
        for (_, weight), vector in zip(sentences, encoder.embed_texts(written)):
            total += weight * _unit(vector)
    if images:
        vectors, faults = encoder.embed_images([picture for picture, _ in images])
        if faults:
            raise ValueError(f"The query's image can't be read. {next(iter(faults.values()))}")
        for (_, weight), vector in zip(images, vectors):
            total += weight * _unit(vector)
    if np.linalg.norm(total) < 1e-6:
        raise ValueError("The parts of the query cancel each other out; nothing is left to search for.")
    return _unit(total).astype(np.float32)


def cut_sentences(encoder: Encoder, text: Sentences | None) -> list[str]:
    """A note for each sentence that is longer than the model reads; none where it reads windows of it."""
    notes: list[str] = []
    # Encoders of others may not know of it, and cut.
    if getattr(encoder, "long_captions", "cut") == "windows":
        return notes
    for sentence, _ in _parts(text, "text"):
        # A token holds at least one character.
        if len(sentence) + 2 > encoder.max_tokens and encoder.token_count(sentence) >= encoder.max_tokens:
            notes.append(
                f"The sentence of {len(sentence):,} characters is longer than the model reads: the first "
                f"{encoder.max_tokens - 2} tokens count, the rest has no part in the search."
            )
    return notes


def _parts(given: Sentences | QueryImages | None, name: str) -> list[tuple[Any, float]]:
    if given is None:
        return []
    if _is_pair(given) or isinstance(given, (str, Path)) or not isinstance(given, Iterable) or hasattr(given, "mode"):
        given = cast(Any, [given])
    parts: list[tuple[Any, Any]] = [part if _is_pair(part) else (part, 1.0) for part in cast(Iterable[Any], given)]
    for _, weight in parts:
        if not np.isfinite(weight):
            raise ValueError(f"A weight of {name} must be a finite number, found {weight}.")
    return [(part, float(weight)) for part, weight in parts]


def _is_pair(part: object) -> bool:
    return (
        isinstance(part, Sequence)
        and not isinstance(part, str)
        and len(part) == 2
        and isinstance(part[1], (int, float))
        and not isinstance(part[1], bool)
    )


def checked_vector(query: object, dimension: int) -> np.ndarray:
    """A user's vector at length 1, float32 [D].

    Raises:
        ValueError: it has another dimension, or numbers that are not finite.
    """
    vector = np.asarray(query, np.float32).reshape(-1)
    if len(vector) != dimension or not np.isfinite(vector).all():
        raise ValueError(f"A query has {dimension} finite numbers, found {len(vector)} entries.")
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _unit(vector: np.ndarray) -> np.ndarray:
    wide = vector.astype(np.float64)
    return wide / max(float(np.linalg.norm(wide)), 1e-12)


__all__ = ["checked_vector", "cut_sentences", "query_vector"]
