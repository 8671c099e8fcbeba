"""Texts and questions -> conversations that answer from numbered sources, by quoting a span.

    Sources:
    [1] The 1973 oil crisis began in October 1973 when ...
    [2] In response to American aid to Israel, ...

    Question: When did the 1973 oil crisis begin?

is answered `"October 1973" [1]`, or `The sources do not say.`

Invariants: what an answer quotes stands word for word in the source whose number it gives; where
the answer is a refusal, none of the accepted answers stands in any source.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from headrace.data.chat import Conversation, pick, said
from headrace.data.sources import Document, id_hash
from headrace.types import DocumentPart, Message, Role, TextPart

REFUSAL = "The sources do not say."
_QUOTED = re.compile(r'"(?P<quote>.*)" \[(?P<number>\d+)\]', re.DOTALL)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"'(A-Z0-9])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question, what it is to be answered from, and what counts as right."""

    id: str
    text: str
    sources: tuple[str, ...]
    answers: tuple[str, ...] = ()
    """Accepted spans, the first the one to train on; none = the sources do not say."""
    cited: int = 0
    """Number of the source that holds the answers, from 1; 0 = none does."""

    @property
    def answerable(self) -> bool:
        return bool(self.answers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quote:
    """An answer as it was given."""

    text: str
    """Without the quotation marks; empty where it was a refusal."""
    number: int
    """Of the source, from 1; 0 = none was cited."""
    refused: bool = False


def prompt(question: Question) -> Message:
    """The user's message: each source is a document of its own, so its text is never trusted."""
    parts: list[TextPart | DocumentPart] = [TextPart(text="Sources:")]
    for number, source in enumerate(question.sources, start=1):
        parts += (TextPart(text=f"\n[{number}] "), DocumentPart(id=str(number), text=source))
    return Message(role=Role.USER, parts=(*parts, TextPart(text=f"\n\nQuestion: {question.text}")))


def answer(question: Question) -> str:
    """What a model should say."""
    if not question.answerable:
        return REFUSAL
    return f'"{question.answers[0]}" [{question.cited}]'


def parse(text: str) -> Quote:
    """What a model said; anything of another form is a text without a citation."""
    text = text.strip()
    if text == REFUSAL:
        return Quote(text="", number=0, refused=True)
    found = _QUOTED.fullmatch(text)
    if found is None:
        return Quote(text=text, number=0)
    return Quote(text=found["quote"], number=int(found["number"]))


def conversation(question: Question) -> Conversation:
    """The question with its right answer."""
    return Conversation(
        id=question.id, messages=(prompt(question), said(Role.ASSISTANT, answer(question)))
    )


def wrong_answers(question: Question) -> list[str]:
    """Answers in the right form that are wrong: what preference tuning turns a model away from.

    Of an answerable question: a refusal, the right words with another source's number, other words
    of the same source. Of one that is not: words of a source.
    """
    other = _other_words(question)
    if not question.answerable:
        return [f'"{other[0]}" [{other[1]}]'] if other else []
    wrong = [REFUSAL]
    if len(question.sources) > 1:
        wrong.append(f'"{question.answers[0]}" [{question.cited % len(question.sources) + 1}]')
    if other:
        wrong.append(f'"{other[0]}" [{other[1]}]')
    return wrong


def _other_words(question: Question) -> tuple[str, int] | None:
    """Some words of a source that are no accepted answer, and the source's number."""
    number = question.cited or 1 + id_hash(f"{question.id}/other") % len(question.sources)
    words = question.sources[number - 1].split()
    length = len(question.answers[0].split()) if question.answerable else 2
    for attempt in range(8):
        room = len(words) - length
        if room <= 0:
            return None
        start = id_hash(f"{question.id}/other/{attempt}") % room
        span = " ".join(words[start : start + length]).strip(".,;:()\"'")
        apart = all(span not in right and right not in span for right in question.answers)
        if span and apart and span in question.sources[number - 1]:
            return span, number
    return None


# --- questions that people asked ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A paragraph with questions about it."""

    article: str
    text: str
    asked: tuple[tuple[str, str, tuple[str, ...]], ...]
    """(id, question, accepted answers; none = it does not say)."""


def from_passages(
    passages: Sequence[Passage], *, source_chars: int, sources: int
) -> Iterator[Question]:
    """Every question with a cut of its paragraph among cuts of others of the same article.

    Args:
        passages: In any order.
        source_chars: Of one source, about: whole sentences around the answer.
        sources: At most so many; how many, and where the right one stands, is decided by the
            question's id.
    """
    by_article: dict[str, list[Passage]] = {}
    for passage in passages:
        by_article.setdefault(passage.article, []).append(passage)
    for passage in passages:
        others = [other for other in by_article[passage.article] if other is not passage]
        for id, text, accepted in passage.asked:
            right = _cut(passage.text, accepted[0] if accepted else "", source_chars, key=id)
            answers = tuple(dict.fromkeys(a for a in accepted if a in right))
            if accepted and not answers:
                continue
            count = min(id_hash(f"{id}/count") % sources, len(others))
            beside = [
                _cut(
                    others[(id_hash(f"{id}/beside") + place) % len(others)].text,
                    "",
                    source_chars,
                    key=f"{id}/{place}",
                )
                for place in range(count)
            ]
            beside = [cut for cut in beside if not any(a in cut for a in answers)]
            yield _placed(id, text, right, beside, answers)


def _placed(
    id: str, text: str, right: str, beside: Sequence[str], answers: tuple[str, ...]
) -> Question:
    at = id_hash(f"{id}/at") % (len(beside) + 1)
    return Question(
        id=id,
        text=text,
        sources=(*beside[:at], right, *beside[at:]),
        answers=answers,
        cited=at + 1 if answers else 0,
    )


def _cut(text: str, around: str, chars: int, *, key: str) -> str:
    """Whole sentences in a row of about `chars`, with `around` among them."""
    sentences = _SENTENCE.split(" ".join(text.split()))
    first = next((n for n, s in enumerate(sentences) if around and around in s), None)
    if first is None:
        first = id_hash(key) % len(sentences)
    last = first + 1
    grow_left = id_hash(f"{key}/left") % 2 == 0
    while True:
        before = first - 1 if first > 0 else None
        after = last if last < len(sentences) else None
        step = before if (grow_left and before is not None) or after is None else after
        size = sum(len(s) + 1 for s in sentences[first:last])
        if step is None or size + len(sentences[step]) > chars:
            return " ".join(sentences[first:last])
        first, last = min(first, step), max(last, step + 1)
        grow_left = not grow_left


# --- questions built from any text ---------------------------------------------------------------

_GAP = "____"
_ASK_GAP = (
    "Which words fill the gap: {sentence}",
    "What is missing here: {sentence}",
    "Complete: {sentence}",
)
_NAME = re.compile(
    r"(?<=[a-z,] )(?:[A-Z][\w'-]+(?: [A-Z][\w'-]+){0,3}|\d[\d.,]*\d(?: \w+)?)(?=[ ,.;)])"
)
_MIN_SENTENCE, _MAX_SENTENCE = 50, 220


def from_texts(
    documents: Iterable[Document], *, source_chars: int, sources: int, one_in: int
) -> Iterator[Question]:
    """Gap questions: a sentence of a source with a name or a number taken out.

    One in `one_in` asks about a sentence that is in none of the sources, and is to be refused.
    """
    pool: list[tuple[str, str]] = []
    for document in documents:
        cuts = [
            " ".join(paragraph.split())
            for paragraph in re.split(r"\n\s*\n", document.text)
            if paragraph[:1].isalpha() and 120 <= len(paragraph) <= 2 * source_chars
        ]
        pool += ((f"{document.id}/{n}", cut[:source_chars]) for n, cut in enumerate(cuts))
    for place, (id, text) in enumerate(pool):
        found = _gap(text, id)
        if found is None:
            continue
        sentence, gone = found
        count = id_hash(f"{id}/count") % sources
        beside = [
            pool[(place + 1 + id_hash(f"{id}/{n}") % 40) % len(pool)][1] for n in range(count)
        ]
        beside = [cut for cut in beside if cut != text and gone not in cut]
        asked = pick(_ASK_GAP, id).format(sentence=sentence)
        if id_hash(f"{id}/refuse") % one_in == 0 and beside:
            yield Question(id=f"gap/{id}", text=asked, sources=tuple(beside))
        else:
            yield _placed(f"gap/{id}", asked, text, beside, (gone,))


def _gap(text: str, key: str) -> tuple[str, str] | None:
    """(a sentence with a gap, the words that were there), if the text has one that is unique."""
    options: list[tuple[str, str]] = []
    for sentence in _SENTENCE.split(text):
        if not _MIN_SENTENCE <= len(sentence) <= _MAX_SENTENCE:
            continue
        for name in _NAME.finditer(sentence):
            if text.count(name[0]) == 1:
                options.append(
                    (f"{sentence[: name.start()]}{_GAP}{sentence[name.end() :]}", name[0])
                )
    return pick(options, key) if options else None
