"""What a store finds → ranked passages: two lists fused by weights that each question gets of its
own, ranked anew by what was learned from other questions, and every decision told."""

from headrace.retrieval.ranking.phrasing import Phraser
from headrace.retrieval.ranking.rerankers import (
    ChatReranker,
    LearnedReranker,
    PairReranker,
    PairScorer,
    Reranker,
)
from headrace.retrieval.ranking.retriever import Retriever
from headrace.retrieval.ranking.settings import Fusing, RankingSettings
from headrace.retrieval.ranking.tuning import Golden, Tuned, tune
from headrace.retrieval.ranking.why import Reason, Standing, why

__all__ = [
    "ChatReranker",
    "Fusing",
    "Golden",
    "LearnedReranker",
    "PairReranker",
    "PairScorer",
    "Phraser",
    "RankingSettings",
    "Reason",
    "Reranker",
    "Retriever",
    "Standing",
    "Tuned",
    "tune",
    "why",
]
