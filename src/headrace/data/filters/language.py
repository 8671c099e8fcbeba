"""Which language a text is in, by py3langid: a naive Bayes model over byte n-grams, numpy alone.

Taken because its model (139 languages, 4.6 MB) is in the package, so nothing is downloaded, it is
deterministic, maintained, BSD-licensed and needs nothing but numpy; fastText's lid.176 is a
download under CC BY-SA, lingua a hundred megabytes. Source: Lui & Baldwin, ACL 2012.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from headrace.data.document import Document
from headrace.data.filters.verdict import KEEP, Verdict, drop
from headrace.errors import DataError, MissingExtra

_SAMPLE_CHARS = 1000
"""Of a long text its beginning, middle and end are read, so much of each."""


class Guess(NamedTuple):
    """An ISO 639 code (`zxx`: no language) and how sure the model is, 0 to 1."""

    language: str
    confidence: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """Keeps texts in one of the languages."""

    allowed: tuple[str, ...] = ("en",)
    min_confidence: float = 0.65
    """Below it a text in an allowed language is dropped too; FineWeb's threshold."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.allowed) - known_languages())
        if unknown or not self.allowed:
            raise DataError(
                f"language {', '.join(unknown) or '(none)'} is not known; known are "
                f"{', '.join(sorted(known_languages()))}"
            )

    def __call__(self, document: Document) -> Verdict:
        guess = identify(document.text)
        if guess.language not in self.allowed:
            return drop(f"language:{guess.language}")
        return KEEP if guess.confidence >= self.min_confidence else drop("language:unsure")


def identify(text: str) -> Guess:
    """The most likely language of a text.

    Raises:
        MissingExtra: py3langid is not installed.
    """
    if len(text) > 3 * _SAMPLE_CHARS:
        middle = (len(text) - _SAMPLE_CHARS) // 2
        parts = (text[:_SAMPLE_CHARS], text[middle : middle + _SAMPLE_CHARS], text[-_SAMPLE_CHARS:])
        text = "\n".join(parts)
    language, confidence = _model().classify(text)
    return Guess(str(language), float(confidence))


def known_languages() -> frozenset[str]:
    """The codes that `identify` can give."""
    return frozenset(_model().labels)


@lru_cache(maxsize=1)
def _model() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise MissingExtra(
            "naming languages needs py3langid: pip install 'headrace[data]' or 'headrace[routing]'"
        ) from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
