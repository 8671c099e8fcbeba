"""Text and messages ⇄ ids."""

from headrace.tokens.decoding import Detokenizer
from headrace.tokens.parse import (
    CallSyntax,
    OutputParser,
    Parsed,
    ParsedCall,
    ParsedReasoning,
    ParsedText,
)
from headrace.tokens.render import ChatTemplate, Rendered, Span, SpanKind, render
from headrace.tokens.stops import StopMatcher, StopResult
from headrace.tokens.tokenizer import Piece, Tokenizer
from headrace.tokens.train import train_bpe, train_unigram

__all__ = [
    "CallSyntax",
    "ChatTemplate",
    "Detokenizer",
    "OutputParser",
    "Parsed",
    "ParsedCall",
    "ParsedReasoning",
    "ParsedText",
    "Piece",
    "Rendered",
    "Span",
    "SpanKind",
    "StopMatcher",
    "StopResult",
    "Tokenizer",
    "render",
    "train_bpe",
    "train_unigram",
]
