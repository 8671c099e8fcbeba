"""Where documents come from: what a source has now, and each item's bytes."""

from headrace.retrieval.sources.access import Access, Rule
from headrace.retrieval.sources.directory import Directory
from headrace.retrieval.sources.s3 import S3
from headrace.retrieval.sources.source import Fetched, Gone, Item, Source, Unchanged
from headrace.retrieval.sources.urls import Urls

__all__ = [
    "S3",
    "Access",
    "Directory",
    "Fetched",
    "Gone",
    "Item",
    "Rule",
    "Source",
    "Unchanged",
    "Urls",
]
