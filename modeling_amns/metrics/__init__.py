"""Retrieval figures: plain functions in `ranking`, the `evaluate` module in `person_retrieval`."""

from typing import TYPE_CHECKING

from .ranking import QueryRanks, rank_metrics, rank_queries, rank_similarity, similarity_metrics

if TYPE_CHECKING:
    from .person_retrieval.person_retrieval import PersonRetrieval

__all__ = ["PersonRetrieval", "QueryRanks", "rank_metrics", "rank_queries", "rank_similarity", "similarity_metrics"]


def __getattr__(name: str):
    # Lazy: `evaluate` takes a second to import and the plain functions don't need it.
    if name == "PersonRetrieval":
        from .person_retrieval.person_retrieval import PersonRetrieval

        return PersonRetrieval
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
