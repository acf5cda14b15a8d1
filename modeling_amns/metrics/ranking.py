"""Ranking figures of person retrieval as plain functions; the arithmetic lies beside the `evaluate` module.

`evaluate.load` copies only files of the metric's own folder, so that folder has to hold the one copy.
"""

from .person_retrieval.ranking import QueryRanks, rank_metrics, rank_queries, rank_similarity, similarity_metrics

__all__ = ["QueryRanks", "rank_metrics", "rank_queries", "rank_similarity", "similarity_metrics"]
