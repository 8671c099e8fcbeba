"""Text and messages ⇄ ids."""

from headrace.tokens.decoding import Detokenizer
from headrace.tokens.render import ChatTemplate, Rendered, Span, SpanKind, render
from headrace.tokens.stops import StopMatcher, StopResult
from headrace.tokens.tokenizer import Piece, Tokenizer
from headrace.tokens.train import train_bpe, train_unigram

__all__ = [
    "ChatTemplate",
    "Detokenizer",
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
