"""More ways to say it right and to be wrong, beside `citation_cases`: swapped arguments, additions,
other answers, moved spans; turned questions, pronouns put right, two sentences in one.

Made of any passages: questions are used where there are some.
"""

import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from citation_cases import Case, make_case, sentence_of, sentences_of, word_changes
from headrace.data.grounded import Passage

RIGHT = ("merged", "pronoun", "declared", "replied", "shortened", "converted", "span", "passive")
WRONG = (
    "swapped", "opposite", "replied", "declared", "added", "unit", "quantifier", "span", "rounded",
    "foreign", "half",
)  # fmt: skip
_NAME = r"[A-Z][a-zéè]+(?: (?:of |de )?[A-Z][a-zéè]+){0,2}"
_IN = re.compile(rf"(?<=[a-z,;] ){_NAME}")
_COUNT = re.compile(r"(?<![\w.,$£€-])\d{1,3}(?:,\d{3})*(?:\.\d+)?(?![\w,.]\d|\w|-)")
_CALENDAR = "January February March April May June July August September October November December"
_MONTHS = frozenset(_CALENDAR.split())
_FLIPS = (
    "increased decreased", "increases decreases", "rose fell", "higher lower", "larger smaller",
    "more fewer", "before after", "earlier later", "first last", "northern southern", "north south",
    "eastern western", "east west", "largest smallest", "highest lowest", "won lost",
    "accepted rejected", "allowed prohibited", "allows prohibits", "supported opposed",
    "began ended", "opened closed", "gained lost", "major minor", "early late", "public private",
    "positive negative", "male female", "men women", "strong weak", "most least", "above below",
    "old new", "long short", "good bad", "left right", "internal external", "included excluded",
    "often rarely", "always never", "majority minority", "success failure", "summer winter",
    "day night", "black white", "hot cold", "fast slow", "rich poor", "direct indirect",
    "common rare", "upper lower", "inside outside", "active passive", "legal illegal",
)  # fmt: skip
_UNITS = (
    "km miles", "kilometres miles", "kilometers miles", "miles kilometres", "feet metres",
    "metres feet", "meters feet", "million billion", "billion million", "thousand million",
    "years months", "days weeks", "months years", "weeks days", "hours minutes", "minutes hours",
    "percent million", "centuries decades", "kg tonnes", "grams kilograms", "mg g", "cm mm",
)  # fmt: skip
_ALL = (
    "some all", "many all", "most all", "most few", "several all", "sometimes always",
    "often always", "all few", "usually never", "may must", "could must", "every no",
    "both neither",
)  # fmt: skip


def twists(
    passages: Sequence[Passage], *, seed: int, right: int, wrong: int, sources: int = 4
) -> Iterator[Case]:
    """So many right and wrong ones, the kinds in turn as far as the texts have them."""
    draw = random.Random(seed)
    by_article: dict[str, list[Passage]] = {}
    for passage in passages:
        by_article.setdefault(passage.article, []).append(passage)
    articles = sorted(name for name, found in by_article.items() if len(found) >= sources)
    for side, kinds, count in (("right", RIGHT, right), ("wrong", WRONG, wrong)):
        made = dict.fromkeys(kinds, 0)
        for attempt in range(200 * count):
            if sum(made.values()) == count:
                break
            kind = min(made, key=lambda k: (made[k], kinds.index(k)))
            if attempt % 3:  # a kind that the texts seldom have must not hold up the others
                kind = draw.choice(kinds)
            shown = draw.sample(by_article[articles[attempt % len(articles)]], sources)
            case = _made(draw, shown, side, kind)
            if case is not None:
                made[kind] += 1
                yield case


def _made(draw: random.Random, shown: list[Passage], side: str, kind: str) -> Case | None:
    number = draw.randint(1, len(shown))
    passage = shown[number - 1]
    if kind == "span":
        return _span(draw, shown, number, side)
    maker = (_RIGHT if side == "right" else _WRONG)[kind]
    claim = maker(draw, passage, shown)
    if claim is None:
        return None
    question, claim = claim if isinstance(claim, tuple) else ("", claim)
    label = f"right/{kind}" if side == "right" else kind
    return make_case(shown, passage.article, label, claim, number, question=question)


def _span(draw: random.Random, shown: list[Passage], number: int, side: str) -> Case | None:
    """A mark of characters: those of the sentence, or of others of the same source."""
    text = shown[number - 1].text
    spans = [(s, text.index(s)) for s in sentences_of(text) if text.count(s) == 1]
    if len(spans) < 4:
        return None
    claim, start = draw.choice(spans)
    at, end = start, start + len(claim)
    if side == "wrong":
        far = [(s, at) for s, at in spans if abs(at - start) > 1.5 * len(claim)]
        if not far:
            return None
        other, at = draw.choice(far)
        end = at + len(other)
    case = make_case(
        shown,
        shown[0].article,
        "right/span" if side == "right" else "span",
        word_changes(draw, claim) if '"' not in claim else claim,
        number,
    )
    return replace(case, start=at, end=end)


def _merged(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    pairs = list(zip(sentences_of(passage.text), sentences_of(passage.text)[1:], strict=False))
    pairs = [p for p in pairs if all(40 < len(s) < 160 and '"' not in s for s in p)]
    if not pairs:
        return None
    one, other = draw.choice(pairs)
    if passage.text.find(f"{one} {other}") < 0:
        return None
    joined = other if re.match(rf"{_NAME}(?: |,)", other) else other[0].lower() + other[1:]
    return f"{one.rstrip('.')}, and {joined}"


def _pronoun(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    """`He` of a sentence whose neighbour before begins with the name that it means."""
    found = sentences_of(passage.text)
    fit: list[str] = []
    for one, other in itertools.pairwise(found):
        name = re.match(rf"({_NAME}) (?:was|is|had|has|[a-z]+ed)\b", one)
        said = re.match(r"(He|She|It) ((?:was|is|had|has|also|[a-z]+ed)\b.+)", other)
        if name and said and " " in name[1] and len(re.findall(_NAME, one)) <= 2:
            fit.append(f"{name[1]} {said[2]}")
    return draw.choice(fit) if fit else None


_ASKS = re.compile(
    r"(?P<w>Who|What|Which [a-z]+|Where|When|In what year|In which year|How many [a-z]+) "
    r"(?P<v>was|is|were|are|did|has|had) (?P<rest>.+?)\??$"
)
_BASE = {
    "begin": "began", "become": "became", "win": "won", "write": "wrote", "take": "took",
    "build": "built", "make": "made", "lose": "lost", "lead": "led", "come": "came", "give": "gave",
    "hold": "held", "find": "found", "leave": "left", "get": "got", "see": "saw", "say": "said",
    "have": "had", "rise": "rose", "fall": "fell", "grow": "grew", "know": "knew", "meet": "met",
}  # fmt: skip


def declared(question: str, answer: str) -> str | None:
    """A question and its answer as one sentence, where a simple rule gives one."""
    found = _ASKS.match(question.strip())
    if found is None:
        return None
    asks, verb, rest = found["w"], found["v"], found["rest"].strip()
    answer = answer.strip(" .,")
    begin = f"{answer[0].upper()}{answer[1:]}"
    if asks == "Who" and verb != "did":
        return f"{begin} {verb} {rest}"
    if asks in ("When", "Where", "In what year", "In which year"):
        words = rest.split()
        if verb == "did":
            for at, word in enumerate(words):
                past = _BASE.get(word) or (f"{word}d" if word.endswith("e") else f"{word}ed")
                if (
                    at
                    and word.islower()
                    and re.fullmatch(
                        r"begin|become|win|take|build|end|start|die|move|open|arrive|join|occur|happen|"
                        r"attack|return|live|visit|declare|lose|rise|fall|form|create|invade",
                        word,
                    )
                ):
                    said = " ".join([*words[:at], past, *words[at + 1 :]])
                    break
            else:
                return None
        else:
            at = next(
                (
                    n
                    for n, w in enumerate(words)
                    if n and re.fullmatch(r"[a-z]+(?:ed|en|lt|de|nd)", w)
                ),
                0,
            )
            if not at:
                return None
            said = " ".join([*words[:at], verb, *words[at:]])
        if not re.match(r"(?:in|on|at|by|during|from|since|between|the) ", answer.lower()):
            answer = f"in {answer}"
        return f"{said[0].upper()}{said[1:]} {answer}"
    if asks == "What" and verb in ("was", "is") and rest.startswith("the "):
        return f"{rest[0].upper()}{rest[1:]} {verb} {answer}"
    return None


def _asked(draw: random.Random, passage: Passage) -> tuple[str, str] | None:
    fit = [(q, a[0]) for _, q, a in passage.asked if a and a[0] in passage.text and len(a[0]) > 2]
    return draw.choice(fit) if fit else None


def _right_declared(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    asked = _asked(draw, passage)
    return None if asked is None else declared(*asked)


def _right_replied(
    draw: random.Random, passage: Passage, shown: Sequence[Passage]
) -> tuple[str, str] | None:
    asked = _asked(draw, passage)
    return None if asked is None else (asked[0], _reply(draw, asked[1]))


def _reply(draw: random.Random, answer: str) -> str:
    begin = f"{answer[0].upper()}{answer[1:]}"
    return draw.choice([begin, f"It was {answer}", f"The answer is {answer}", f"**{answer}**"])


def _kind_of(answer: str) -> str:
    if re.fullmatch(r"(?:1\d|20)\d\d", answer):
        return "year"
    if re.search(r"\d", answer):
        return "number"
    return "name" if answer[0].isupper() else "words"


def _other(draw: random.Random, passage: Passage, answer: str, accepted: str) -> str | None:
    """Another answer of the same passage that is of its kind, and that no one would take for it."""
    pool = sorted(
        {
            a[0]
            for _, _, a in passage.asked
            if a and _kind_of(a[0]) == _kind_of(answer) and a[0] in passage.text
        }
    )
    pool = [a for a in pool if not set(a.lower().split()) & set(accepted.lower().split())]
    return draw.choice(pool) if pool and _kind_of(answer) != "words" else None


def _wrong_asked(draw: random.Random, passage: Passage) -> tuple[str, str] | None:
    fit = [(q, a) for _, q, a in passage.asked if a and a[0] in passage.text]
    if not fit:
        return None
    question, answers = draw.choice(fit)
    other = _other(draw, passage, answers[0], " ".join(answers))
    if other is None or other in question:
        return None
    return question, other


def _wrong_declared(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    asked = _wrong_asked(draw, passage)
    return None if asked is None else declared(*asked)


def _wrong_replied(
    draw: random.Random, passage: Passage, shown: Sequence[Passage]
) -> tuple[str, str] | None:
    asked = _wrong_asked(draw, passage)
    return None if asked is None else (asked[0], _reply(draw, asked[1]))


def _shortened(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    sentence = sentence_of(draw, passage.text)
    if sentence is None or '"' in sentence:
        return None
    made = re.sub(r" \([^()]*\)", "", sentence)
    made = re.sub(r", (?:which|who|where|including|such as|known as)[^,]*(?=,|\.$)", "", made)
    made = re.sub(r"\b(?:also|very|however|generally|often|then|later|famously) ", "", made)
    made = re.sub(r"^(?:However|Moreover|Furthermore|In addition|Additionally), (\w)",
                  lambda m: m[1].upper(), made)  # fmt: skip
    return made if made != sentence and len(made) > 40 else None


def _converted(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    fit: list[str] = []
    for sentence in sentences_of(passage.text):
        if '"' in sentence:
            continue
        for pattern, change in _CONVERSIONS:
            made = re.sub(pattern, change, sentence, count=1)
            if made != sentence:
                fit.append(made)
    return draw.choice(fit) if fit else None


def _number(text: str) -> float:
    return float(text.replace(",", ""))


_CONVERSIONS: tuple[tuple[str, Callable[["re.Match[str]"], str]], ...] = (
    (r"(?<![\d.,])([\d,]+) (?:km|kilometres|kilometers)\b(?! \()",
     lambda m: f"{_number(m[1]) * 1000:,.0f} metres"),
    (r"(?<![\d.,–-])([\d,]+) (?:km|kilometres|kilometers)\b(?! \()",
     lambda m: f"about {_number(m[1]) / 1.609344:,.0f} miles"),
    (r"(?<![\d.,–-])([\d,]+) miles\b(?! \()",
     lambda m: f"about {_number(m[1]) * 1.609344:,.0f} km"),
    (r"(?<![\d.,–-])([\d,]{2,}) feet\b(?! \()",
     lambda m: f"roughly {_number(m[1]) * 0.3048:,.0f} metres"),
    (r"\b50 ?(?:%|percent|per cent)", lambda m: "half"),
    (r"\b25 ?(?:%|percent|per cent)", lambda m: "a quarter"),
    (r"\btwo[- ]thirds\b", lambda m: "about 67%"),
    (r"\b(\d{1,3}(?:\.\d)?) million\b", lambda m: f"{_number(m[1]) * 1e6:,.0f}"),
    (r"\b(\d{1,3}),(\d)00,000\b", lambda m: f"{m[1]}.{m[2]} million"),
    (r"\bfrom (\d{4}) to (\d{4})\b", lambda m: f"between {m[1]} and {m[2]}"),
    (r"\b(\d+)–(\d+)\b", lambda m: f"{m[1]} to {m[2]}"),
)  # fmt: skip


def _passive(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    """`X was founded by Y` → `Y founded X`, of short sentences with regular verbs."""
    fit: list[str] = []
    for sentence in sentences_of(passage.text):
        found = re.match(
            rf"(?P<x>(?:The )?{_NAME}) (?:was|were) (?P<v>[a-z]+ed) by (?P<y>(?:the )?{_NAME})"
            r"(?P<rest>(?: (?:in|on) [^,.;]+)?)[.,;]",
            sentence,
        )
        if found:
            y = found["y"]
            x = found["x"].replace("The ", "the ")
            fit.append(f"{y[0].upper()}{y[1:]} {found['v']} {x}{found['rest']}")
    return draw.choice(fit) if fit else None


def _swapped(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    """Two names or two numbers of a sentence, each in the other's place, unless they are a list."""
    sentence = sentence_of(draw, passage.text)
    if sentence is None or '"' in sentence:
        return None
    pattern = draw.choice([_IN, _COUNT, re.compile(r"\b(?:1[5-9]|20)\d\d\b(?!s)")])
    found = [m for m in pattern.finditer(sentence) if m[0] not in _MONTHS]
    pairs = [
        (a, b)
        for a, b in itertools.pairwise(found)
        if not set(a[0].split()) & set(b[0].split())
        and len(re.findall(r"[a-z]{4,}", sentence[a.end() : b.start()])) >= 2
        and not re.fullmatch(r"[\s,]*(?:and|or|,)?[\s]*", sentence[a.end() : b.start()])
    ]
    if not pairs:
        return None
    a, b = draw.choice(pairs)
    return sentence[: a.start()] + b[0] + sentence[a.end() : b.start()] + a[0] + sentence[b.end() :]


def _flip(draw: random.Random, sentence: str, pairs: Sequence[str]) -> str | None:
    fit: list[tuple[str, str]] = []
    for pair in pairs:
        one, other = pair.split()
        both = ((one, other),) if pairs is not _FLIPS else ((one, other), (other, one))
        fit += [(a, b) for a, b in both if re.search(rf"\b{a}\b", sentence)]
        if re.search(rf"\b{one}\b", sentence) and re.search(rf"\b{other}\b", sentence):
            fit = [pair for pair in fit if pair[0] not in (one, other)]
    if not fit:
        return None
    old, new = draw.choice(fit)
    return re.sub(rf"\b{old}\b", new, sentence, count=1)


def _opposite(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    sentence = sentence_of(draw, passage.text)
    return None if sentence is None or '"' in sentence else _flip(draw, sentence, _FLIPS)


def _quantifier(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    sentence = sentence_of(draw, passage.text)
    return None if sentence is None or '"' in sentence else _flip(draw, sentence, _ALL)


def _unit(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    fit: list[str] = []
    for sentence in sentences_of(passage.text):
        for pair in _UNITS:
            old, new = pair.split()
            made = re.sub(rf"(\d[\d,.]*(?: million)?) {old}\b", rf"\1 {new}", sentence, count=1)
            if made != sentence and "(" not in sentence and '"' not in sentence:
                fit.append(made)
    return draw.choice(fit) if fit else None


def _rounded(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    """A number with a digit turned around or lost: 1,204 → 1,024, 62.4 → 26.4."""
    sentence = sentence_of(draw, passage.text)
    if sentence is None or '"' in sentence:
        return None
    found = list(re.finditer(r"(?<![\w.,])\d[\d,.]*\d(?![\w%]|[.,]\d)", sentence))
    if not found:
        return None
    old = draw.choice(found)
    digits = [at for at, c in enumerate(old[0]) if c.isdigit()]
    pairs = [
        (a, b)
        for a, b in itertools.pairwise(digits)
        if old[0][a] != old[0][b] and not (a == 0 and old[0][b] == "0")
    ]
    if not pairs:
        return None
    a, b = draw.choice(pairs)
    new = list(old[0])
    new[a], new[b] = new[b], new[a]
    made = "".join(new)
    if made in passage.text:
        return None
    return sentence[: old.start()] + made + sentence[old.end() :]


def _added(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    """A right sentence with a clause of another passage behind it."""
    sentence = sentence_of(draw, passage.text)
    others = [p for p in shown if p is not passage]
    other = sentence_of(draw, draw.choice(others).text)
    if sentence is None or other is None or '"' in sentence + other:
        return None
    if len(sentence) > 140 or len(other) > 140:
        return None
    if re.match(r"(?:He|She|It|They|This|These|Its|His|Her|However)\b", other):
        return None
    small = other if re.match(rf"{_NAME} ", other) else other[0].lower() + other[1:]
    return f"{sentence.rstrip('.')}, and {small}"


def _half(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    """The beginning of one sentence and the end of another passage's."""
    sentence = sentence_of(draw, passage.text)
    other = sentence_of(draw, draw.choice([p for p in shown if p is not passage]).text)
    if sentence is None or other is None or '"' in sentence + other:
        return None
    one = re.match(r"(.{25,}? (?:was|is|were|are|has|had|can|by|in|of)) ", sentence)
    two = re.match(r"(.{10,}? (?:was|is|were|are|has|had|can|by|in|of)) (.{25,})", other)
    if one is None or two is None or one[1].split()[-1] != two[1].split()[-1]:
        return None
    return f"{one[1]} {two[2]}"


def _foreign(draw: random.Random, passage: Passage, shown: Sequence[Passage]) -> str | None:
    """A name that no passage of these has."""
    sentence = sentence_of(draw, passage.text)
    if sentence is None or '"' in sentence:
        return None
    found = [m for m in _IN.finditer(sentence) if m[0] not in _MONTHS]
    if not found:
        return None
    old = draw.choice(found)
    new = draw.choice(
        [
            "Henrik Solberg",
            "Maria Castellano",
            "Portland",
            "Lisbon",
            "Tanaka",
            "Bremen",
            "Whitfield",
        ]
    )
    return sentence[: old.start()] + new + sentence[old.end() :]


_RIGHT: dict[str, Callable[..., str | tuple[str, str] | None]] = {
    "merged": _merged,
    "pronoun": _pronoun,
    "declared": _right_declared,
    "replied": _right_replied,
    "shortened": _shortened,
    "converted": _converted,
    "passive": _passive,
}
_WRONG: dict[str, Callable[..., str | tuple[str, str] | None]] = {
    "swapped": _swapped,
    "opposite": _opposite,
    "replied": _wrong_replied,
    "declared": _wrong_declared,
    "added": _added,
    "unit": _unit,
    "quantifier": _quantifier,
    "rounded": _rounded,
    "foreign": _foreign,
    "half": _half,
}
