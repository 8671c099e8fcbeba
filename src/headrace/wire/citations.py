"""Citations as the three protocols have them, and whole, as ours.

No protocol has a place for a citation that failed its check, so what a client of one reads as a
citation is only what is supported; `citations`, ours, has every one with its verdict.

| protocol | a supported citation is |
|---|---|
| OpenAI chat | `annotations`: url_citation, whose `url` is the document's id |
| OpenAI Responses | `annotations`: url_citation of a URL, else file_citation |
| Anthropic | `citations` of a text block: char_location in the document |

Sources: OpenAI's API reference, chat and Responses; Anthropic's, Citations.
"""

from collections.abc import Iterable
from typing import Any

from headrace.types import Citation, CitationVerdict


def is_shown(citation: Citation) -> bool:
    """Whether a client that knows no verdicts may see it."""
    return citation.verdict in (CitationVerdict.SUPPORTED, CitationVerdict.UNCHECKED)


def citation_object(citation: Citation) -> dict[str, Any]:
    """Our own shape: all that is known."""
    return {
        "source": citation.source,
        "document": citation.document,
        "title": citation.title,
        "start": citation.start,
        "end": citation.end,
        "quote": citation.quote,
        "support": round(citation.support, 4),
        "verdict": citation.verdict.value,
        "reason": citation.reason,
        "claim": {"start": citation.claim_start, "end": citation.claim_end},
        "mark": {"start": citation.mark_start, "end": citation.mark_end},
    }


def chat_fields(citations: Iterable[Citation]) -> dict[str, Any]:
    """`annotations` and `citations` of a chat message or delta; nothing where there are none."""
    every = list(citations)
    if not every:
        return {}
    return {
        "annotations": [_url_citation(item) for item in every if is_shown(item)],
        "citations": [citation_object(item) for item in every],
    }


def response_annotation(citation: Citation, *, base: int) -> dict[str, Any]:
    """An annotation of a Responses text part that begins at character `base` of all the text."""
    if _is_url(citation.document):
        return {
            "type": "url_citation",
            "url": citation.document,
            "title": citation.title or citation.document,
            "start_index": citation.mark_start - base,
            "end_index": citation.mark_end - base,
        }
    return {
        "type": "file_citation",
        "file_id": citation.document,
        "filename": citation.title or citation.document,
        "index": citation.mark_end - base,
    }


def char_location(citation: Citation) -> dict[str, Any]:
    """Anthropic's citation of a plain text document; `document_index` counts from 0."""
    return {
        "type": "char_location",
        "cited_text": citation.quote,
        "document_index": citation.source - 1,
        "document_title": citation.title or citation.document,
        "start_char_index": citation.start,
        "end_char_index": citation.end,
        "file_id": None,
    }


def _url_citation(citation: Citation) -> dict[str, Any]:
    return {
        "type": "url_citation",
        "url_citation": {
            "url": citation.document,
            "title": citation.title or citation.document,
            "start_index": citation.mark_start,
            "end_index": citation.mark_end,
        },
    }


def _is_url(document: str) -> bool:
    return document.startswith(("https://", "http://"))
