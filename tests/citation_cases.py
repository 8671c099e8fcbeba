"""Answers with citations, right ones in varied wording and wrong ones planted, made of real texts.

Each case is one claim with a mark, before the sources of its article. What a claim says right it
says in other words than its source: parts of sentences, turned clauses, other forms of numbers and
dates, other words, shorter names. What is wrong is one change: a number, a date, a name, a denial,
another source, a source that is none, a word of a quotation.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headrace.data.grounded import Passage
from headrace.retrieval.packing import Source

_ASKS = "\0"
"""Between a question and the claim that only answers it."""
KINDS = ("number", "date", "name", "negation", "shifted", "invented", "quote")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A claim and where it points."""

    article: str
    kind: str
    """`right/...` or one of `KINDS`."""
    claim: str
    number: int
    sources: tuple[Source, ...]
    question: str = ""
    """What was asked, where the claim is no more than an answer to it."""
    start: int | None = None
    """Characters of the source that the mark names; None = all of it."""
    end: int | None = None

    @property
    def right(self) -> bool:
        return self.kind.startswith("right")

    @property
    def text(self) -> str:
        """As a model would write it."""
        span = "" if self.start is None else f":{self.start}-{self.end}"
        return f"{self.claim.rstrip('.')} [{self.number}{span}]."


WAYS = ("plain", "words", "part", "turned", "forms", "framed", "asked", "quoted")
_OTHER_WORDS = {
    "began": "started",
    "also": "additionally",
    "many": "numerous",
    "large": "sizeable",
    "important": "significant",
    "because": "since",
    "however": "though",
    "such as": "like",
    "several": "a number of",
    "used": "employed",
    "shows": "demonstrates",
    "located": "situated",
    "needed": "required",
    "created": "made",
    "often": "frequently",
    "about": "roughly",
    "received": "got",
    "include": "comprise",
    "primarily": "mainly",
    "led to": "resulted in",
    "major": "big",
    "known as": "called",
    "during": "in the course of",
    "built": "constructed",
    "helped": "assisted",
    "throughout": "across",
    "attempted": "tried",
    "became": "turned into",
    "main": "chief",
    "due to": "owing to",
    "approximately": "around",
    "within": "inside",
    "although": "while",
    "quickly": "rapidly",
    "wrote": "penned",
    "died": "passed away",
    "largest": "biggest",
    "famous": "well-known",
    "popular": "well-liked",
    "according to": "per",
    "increased": "went up",
    "different": "distinct",
}
_SHORT_NAMES = {
    "United States": "U.S.",
    "United Kingdom": "UK",
    "European Union": "EU",
    "United Nations": "UN",
    "Soviet Union": "USSR",
    "World War II": "WWII",
    "New York City": "NYC",
}
_DIGITS = "zero one two three four five six seven eight nine ten eleven twelve"
_SPELLED = dict(enumerate(_DIGITS.split()))
_CALENDAR = "January February March April May June July August September October November December"
_MONTHS = _CALENDAR.split()
_SENTENCE = re.compile(r"(?<=[a-z0-9)\"][.!?])\s+(?=[A-Z\"])")
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-zéè]+(?: (?:of |de )?[A-Z][a-zéè]+){0,2}")
_NUMBER = re.compile(r"(?<![\w.,$-])\d{1,3}(?:,\d{3})*(?:\.\d+)?(?![\w,.]\d|\w|-)")
_YEAR = re.compile(r"(?<![\w,.$-])(?:1[0-9]|20)\d\d(?!\w|,\d|-)")
_DAY = re.compile(rf"\b({'|'.join(_MONTHS)}) (\d{{1,2}})(?:, (\d{{4}}))?\b")
_VERB = re.compile(r"\b(is|are|was|were|has|have|had|can|could|will|would|may|must)\b(?! not)")
_LEAD = re.compile(
    r"^((?:In|On|By|During|After|Before|At|For|Since|Under) [^,]{3,60}), (.+?)([.!?]?)$"
)
_TAIL = re.compile(r"^(.{30,}), (which|who|where|and|but|while|although|including|with) (.+)$")


def cases(
    passages: Sequence[Passage], *, seed: int, right: int, wrong: int, sources: int = 4
) -> Iterator[Case]:
    """So many right and wrong ones, the kinds in turn, from all articles alike."""
    draw = random.Random(seed)
    by_article: dict[str, list[Passage]] = {}
    for passage in passages:
        by_article.setdefault(passage.article, []).append(passage)
    articles = sorted(name for name, found in by_article.items() if len(found) >= sources)
    made = {"right": 0, "wrong": 0}
    wanted = {"right": right, "wrong": wrong}
    turn = 0
    ways = [way for way in WAYS if way != "asked" or any(p.asked for p in passages)]
    for attempt in range(400 * (right + wrong)):
        if made == wanted:
            return
        side = "right" if made["right"] * wrong <= made["wrong"] * right else "wrong"
        if made[side] == wanted[side]:
            side = "wrong" if side == "right" else "right"
        article = articles[attempt % len(articles)]
        shown = draw.sample(by_article[article], sources)
        case = (
            _right(draw, shown, article, ways[made["right"] % len(ways)])
            if side == "right"
            else _wrong(draw, shown, article, KINDS[turn % len(KINDS)])
        )
        if case is not None:
            made[side] += 1
            turn += side == "wrong"
            yield case
    raise AssertionError(f"the texts gave only {made} of {wanted}")


def _right(draw: random.Random, shown: Sequence[Passage], article: str, way: str) -> Case | None:
    number = draw.randint(1, len(shown))
    passage = shown[number - 1]
    said = _said(draw, passage, way)
    if said is None:
        return None
    return _case(shown, article, f"right/{way}", said, number)


def _said(draw: random.Random, passage: Passage, way: str) -> str | None:
    sentence = sentence_of(draw, passage.text)
    if way == "asked":
        return _asked(draw, passage)
    if sentence is None:
        return None
    if way in ("words", "forms", "framed") and re.search(r"[\"“”]", sentence):
        return None  # other words within quotation marks would be a misquotation
    match way:
        case "plain":
            return sentence
        case "words":
            changed = word_changes(draw, _turned(sentence) or sentence)
            return changed if changed != sentence else None
        case "part":
            return _part(sentence)
        case "turned":
            return _turned(sentence)
        case "forms":
            changed = _forms(sentence)
            return changed if changed != sentence else None
        case "framed":
            return _framed(draw, word_changes(draw, sentence))
        case _:
            return _quoted(draw, passage, sentence)


def _wrong(draw: random.Random, shown: Sequence[Passage], article: str, kind: str) -> Case | None:
    number = draw.randint(1, len(shown))
    passage = shown[number - 1]
    if kind in ("shifted", "invented"):
        way = draw.choice(
            ["plain", "words", "part", "turned", "forms", "framed", "asked", "quoted"]
        )
        said = _said(draw, passage, way)
        if said is None:
            return None
        if kind == "invented":
            return _case(shown, article, kind, said, len(shown) + draw.randint(1, 6))
        at = draw.choice([n for n in range(1, len(shown) + 1) if n != number])
        quoted = re.findall(r'"([^"]+)"', said)
        if (quoted or way == "asked") and _says(shown[at - 1].text, said):
            return None  # what it says happens to stand there too
        keeps = shown if draw.random() < 0.6 else [p for p in shown if p is not passage]
        if keeps is not shown:
            at = draw.randint(1, len(keeps))
            if (quoted or way == "asked") and _says(keeps[at - 1].text, said):
                return None
        return _case(keeps, article, kind, said, at)
    if kind == "quote":
        sentence = sentence_of(draw, passage.text)
        said = None if sentence is None else _misquoted(draw, passage, sentence)
    else:
        way = draw.choice(["plain", "words", "part", "turned", "framed", "asked"])
        said = _said(draw, passage, way)
        if said is not None:
            said = _planted(draw, passage, shown, said, kind)
    return None if said is None else _case(shown, article, kind, said, number)


def _planted(
    draw: random.Random, passage: Passage, shown: Sequence[Passage], said: str, kind: str
) -> str | None:
    question, between, said = said.rpartition(_ASKS)
    match kind:
        case "number":
            planted = _other_number(draw, passage, said)
        case "date":
            planted = _other_date(draw, passage, said)
        case "name":
            planted = _other_name(draw, passage, shown, said)
        case _:
            planted = _denied(draw, said)
    return None if planted is None else f"{question}{between}{planted}"


def _says(text: str, said: str) -> bool:
    """Whether a text has all the names and numbers of an answer, or its quotation."""
    said = said.rpartition(_ASKS)[2]
    quoted = re.findall(r'"([^"]+)"', said)
    if quoted:
        return all(quote in text for quote in quoted)
    words = [w for w in re.findall(r"\w+", said.split(":")[-1].lower()) if len(w) > 3]
    return sum(w in text.lower() for w in words) >= 0.6 * len(words)


def _case(shown: Sequence[Passage], article: str, kind: str, said: str, number: int) -> Case:
    question, _, said = said.rpartition(_ASKS)
    return make_case(shown, article, kind, said, number, question=question)


def make_case(
    shown: Sequence[Passage],
    article: str,
    kind: str,
    said: str,
    number: int,
    *,
    question: str = "",
) -> Case:
    """A claim before these passages as sources."""
    title = article.replace("_", " ")
    sources = tuple(
        Source(
            number=at,
            document=f"{article}/{at}",
            start=0,
            end=len(passage.text),
            text=passage.text,
            title=title,
        )
        for at, passage in enumerate(shown, start=1)
    )
    return Case(
        article=article,
        kind=kind,
        claim=said,
        number=number,
        sources=sources,
        question=question,
    )


def sentences_of(text: str) -> list[str]:
    """Sentences that a claim can be made of."""
    return [s for s in _SENTENCE.split(text) if 45 <= len(s) <= 260 and s[:1].isupper()]


def sentence_of(draw: random.Random, text: str) -> str | None:
    """One of them."""
    fit = sentences_of(text)
    return draw.choice(fit) if fit else None


def _asked(draw: random.Random, passage: Passage) -> str | None:
    fit = [(q, a) for _, q, a in passage.asked if a and len(a[0]) > 3 and a[0] in passage.text]
    if not fit:
        return None
    question, answers = draw.choice(fit)
    answer = answers[0].strip(" .,")
    context = next((s for s in _SENTENCE.split(passage.text) if answer in s), None)
    if context is None or question.count(" ") > 20:
        return None
    start = re.match(
        r"(?:Who|What|Which \w+) (was|were|is|are|did|has|led|created|founded)", question
    )
    if start and start[1] not in ("did", "is", "are") and question.startswith("Who"):
        return f"{answer[0].upper()}{answer[1:]} {question[4:].rstrip('?')}"
    return draw.choice(
        [
            f"{question}{_ASKS}The answer is {answer}",
            f"{question}{_ASKS}It is {answer}",
            f'{question}{_ASKS}"{answer}"',
            f"{question} {answer}",
        ]
    )


def word_changes(draw: random.Random, sentence: str) -> str:
    """The same in other words, as far as the list has them."""
    for old, new in _OTHER_WORDS.items():
        if draw.random() < 0.8:
            sentence = re.sub(rf"\b{old}\b", new, sentence)
    for old, new in _SHORT_NAMES.items():
        sentence = sentence.replace(f"the {old}", f"the {new}").replace(old, new)
    return sentence


def _part(sentence: str) -> str | None:
    found = _TAIL.match(sentence)
    if found is not None:
        return found[1] + "."
    lead = _LEAD.match(sentence)
    return f"{lead[2][0].upper()}{lead[2][1:]}{lead[3]}" if lead else None


def _turned(sentence: str) -> str | None:
    lead = _LEAD.match(sentence)
    if lead is None or "," in lead[2]:
        return None
    return f"{lead[2][0].upper()}{lead[2][1:]} {lead[1][0].lower()}{lead[1][1:]}."


def _forms(sentence: str) -> str:
    sentence = (
        re.sub(r"(\d)%", r"\1 percent", sentence)
        if "%" in sentence
        else re.sub(r"(\d) per ?cent\b", r"\1%", sentence)
    )
    sentence = re.sub(r"\b(\d{1,3}),000,000\b", lambda m: f"{m[1]} million", sentence)
    sentence = re.sub(r"(?<![\d.$])\b(\d{1,3}) million\b", lambda m: f"{m[1]},000,000", sentence)
    sentence = _DAY.sub(lambda m: f"{m[2]} {m[1]} {m[3]}" if m[3] else f"{m[2]} {m[1]}", sentence)
    sentence = re.sub(
        r"(?<=[a-z] )(\d{1,2})(?= [a-z]{3,})",
        lambda m: _SPELLED.get(int(m[1]), m[1]),
        sentence,
    )
    back = {word: str(number) for number, word in _SPELLED.items() if number > 1}
    sentence = re.sub(
        rf"(?<=[a-z] )({'|'.join(back)})(?= [a-z]{{3,}})", lambda m: back[m[1]], sentence
    )
    for old, new in _SHORT_NAMES.items():
        sentence = sentence.replace(old, new)
    return sentence


def _framed(draw: random.Random, sentence: str) -> str:
    frame = draw.choice(
        [
            "The source says that {}",
            "According to the text, {}",
            "It is stated that {}",
            "Note that {}",
        ]
    )
    small = (
        sentence[0].lower()
        if re.match(r"(?:The|In|On|A|An|This|It|There|As|By|After)\b", sentence)
        else sentence[0]
    )
    return frame.format(small + sentence[1:])


def _quoted(draw: random.Random, passage: Passage, sentence: str) -> str | None:
    words = sentence.split()
    if len(words) < 9 or '"' in sentence:
        return None
    length = draw.randint(4, 8)
    start = draw.randint(0, len(words) - length)
    piece = " ".join(words[start : start + length]).strip(".,;:")
    frame = draw.choice(
        ['The source says "{}"', 'It is described as "{}"', '"{}"', "The words are “{}”"]
    )
    return frame.format(piece) if piece in passage.text else None


def _misquoted(draw: random.Random, passage: Passage, sentence: str) -> str | None:
    said = _quoted(draw, passage, sentence)
    if said is None:
        return None
    quote = re.findall(r'["“]([^"”]+)["”]', said)[0]
    words = quote.split()
    longer = [n for n, w in enumerate(words) if len(w) > 3]
    if not longer:
        return None
    at = draw.choice(longer)
    pool = [w.strip('.,;:()"') for w in passage.text.split() if len(w) > 4]
    new = draw.choice(pool)
    if new.lower() == words[at].lower().strip('.,;:()"') or not new:
        return None
    altered = " ".join([*words[:at], new, *words[at + 1 :]])
    return None if altered in passage.text else said.replace(quote, altered)


def _other_number(draw: random.Random, passage: Passage, said: str) -> str | None:
    found = [m for m in _NUMBER.finditer(said) if not _YEAR.fullmatch(m[0])]
    if not found:
        return None
    old = draw.choice(found)
    value = float(old[0].replace(",", ""))
    inside = [
        m[0] for m in _NUMBER.finditer(passage.text) if m[0] != old[0] and not _YEAR.fullmatch(m[0])
    ]
    if inside and draw.random() < 0.5:
        new = draw.choice(inside)
    else:
        step = draw.choice([value + 1, value * 2, value + 10, value * 10, max(0.0, value - 1)])
        new = f"{step:,.0f}" if value == int(value) else f"{step:.1f}"
    if float(new.replace(",", "")) == value or re.search(
        rf"(?<![\d.,]){re.escape(new)}(?![\d,.]\d)", said
    ):
        return None
    return said[: old.start()] + new + said[old.end() :]


def _other_date(draw: random.Random, passage: Passage, said: str) -> str | None:
    days = list(_DAY.finditer(said))
    if days and draw.random() < 0.4:
        old = draw.choice(days)
        month = draw.choice([m for m in _MONTHS if m != old[1]])
        changed = f"{month}{old[0][len(old[1]) :]}"
        return (
            said[: old.start()] + changed + said[old.end() :]
            if changed not in passage.text
            else None
        )
    found = list(_YEAR.finditer(said))
    if not found:
        return None
    old = draw.choice(found)
    inside = [m[0] for m in _YEAR.finditer(passage.text) if m[0] not in said]
    if inside and draw.random() < 0.5:
        new = draw.choice(inside)
    else:
        new = str(int(old[0]) + draw.choice([-10, -2, -1, 1, 2, 3, 10, 100]))
    return said[: old.start()] + new + said[old.end() :] if new not in said else None


def _other_name(
    draw: random.Random, passage: Passage, shown: Sequence[Passage], said: str
) -> str | None:
    found = [m for m in _NAME.finditer(said) if m[0] not in _MONTHS]
    if not found:
        return None
    old = draw.choice(found)
    here = [m[0] for m in _NAME.finditer(passage.text)]
    there = [m[0] for other in shown for m in _NAME.finditer(other.text)]
    pool = [
        name
        for name in (here if draw.random() < 0.5 else there)
        if name not in said
        and old[0] not in name
        and name not in old[0]
        and name not in _MONTHS
        and not set(name.split()) & set(said.split())
        and name[:4] != old[0][:4]
    ]
    if not pool:
        return None
    return said[: old.start()] + draw.choice(pool) + said[old.end() :]


def _denied(draw: random.Random, said: str) -> str | None:
    if " not " in said:
        return said.replace(" not ", " ", 1)
    flips = (
        ("increase", "decrease"),
        ("before", "after"),
        ("largest", "smallest"),
        ("more", "less"),
        ("higher", "lower"),
        ("first", "last"),
        ("north", "south"),
        ("east", "west"),
        ("all", "none"),
        ("always", "never"),
        ("major", "minor"),
        ("early", "late"),
        ("can", "cannot"),
        ("most", "few"),
    )
    fit = [(a, b) for a, b in flips if re.search(rf"\b{a}\b", said)]
    if fit and draw.random() < 0.4:
        old, new = draw.choice(fit)
        return re.sub(rf"\b{old}\b", new, said, count=1)
    verb = _VERB.search(said)
    if verb is None:
        return None
    return f"{said[: verb.end()]} not{said[verb.end() :]}"
