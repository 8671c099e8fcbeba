"""Text and messages ⇄ ids."""

from headrace.tokens.decoding import Detokenizer
from headrace.tokens.stops import StopMatcher, StopResult
from headrace.tokens.tokenizer import Piece, Tokenizer
from headrace.tokens.train import train_bpe, train_unigram

__all__ = [
    "Detokenizer",
    "Piece",
    "StopMatcher",
    "StopResult",
    "Tokenizer",
    "train_bpe",
    "train_unigram",
]
