"""Whether a source speaks of what a claim names: by whole name, surname, initials or people."""

from collections.abc import Iterable, Sequence

from headrace.retrieval.answering.reading import Name, Reading
from headrace.retrieval.answering.words import Word, stem

_PEOPLES = {
    "french": "france",
    "dutch": "netherland",
    "british": "britain",
    "english": "england",
    "greek": "greec",
    "spanish": "spain",
    "welsh": "wale",
    "danish": "denmark",
    "polish": "poland",
    "swiss": "switzerland",
    "norwegian": "norwai",
    "turkish": "turkei",
    "american": "america",
    "german": "germani",
    "us": "america",
    "ussr": "soviet",
    "uk": "britain",
}
_ENDINGS = frozenset(
    {"n", "an", "ian", "ean", "ese", "i", "ish", "s", "ans", "ic", "a", "y", "ia", "e"}
)
_CHIEF = [stem("chief"), stem("executive")]
_SKIPPED = frozenset({"of", "the", "and", "for", "in", "on", "de"})


def places_of(name: Name, reading: Reading) -> list[int]:
    """Where a text speaks of a name, in its row; empty = nowhere. Its words must stand together,
    or be its initials, or what it is the initials of."""
    found = [_word_places(word, reading) for word in name.words]
    reach = len(name.words) + 1
    places = {
        last
        for last in found[-1]
        if all(any(abs(at - last) <= reach for at in others) for others in found[:-1])
    }
    places.update(_as_initials(name.words, reading))
    if len(name.words) == 1:
        places.update(_spelled_out(name.words[0], reading))
    return sorted(places)


def names_in(readings: Iterable[Reading]) -> frozenset[str]:
    """Stems of the words that texts capitalise within sentences, and never write small."""
    large, small = set[str](), set[str]()
    for reading in readings:
        for item in reading.row:
            if isinstance(item, Word) and not item.capital:
                small.add(item.stem)
        for name in reading.names:
            if name.sure:
                large.update(word.stem for word in name.words)
    return frozenset(large - small)


def mentions(name: Name, words: Sequence[Word]) -> bool:
    """Whether any word of a name is among these."""
    return any(_alike(mine, other) for mine in name.words for other in words)


def _word_places(word: Word, reading: Reading) -> list[int]:
    exact = reading.places.get(word.stem, ())
    if exact:
        return list(exact)
    found = [
        place
        for stem, places in reading.places.items()
        if stem[:1] == word.stem[:1] or stem in _PEOPLES or word.stem in _PEOPLES
        for place in places
        if isinstance(other := reading.row[place], Word) and _alike(word, other)
    ]
    if found or not (word.text.isupper() and len(word.text) > 1):
        return found
    return _spelled_out(word, reading)


def _alike(word: Word, other: Word) -> bool:
    one, two = word.stem, other.stem
    if _PEOPLES.get(one, one) == _PEOPLES.get(two, two):
        return True
    if not (word.capital and other.capital):
        return False
    if min(len(word.text), len(other.text)) == 1:
        return word.text[0] == other.text[0] and max(len(word.text), len(other.text)) > 1
    shorter, longer = sorted((word.lower, other.lower), key=len)
    if len(longer) - len(shorter) == 1 and len(shorter) > 5:
        at = _common(shorter, longer)
        if shorter[at:] == longer[at + 1 :]:
            return True  # one letter is missing
    common = _common(shorter, longer)
    rest = {shorter[common:], longer[common:]}
    return (
        common >= 4 and common >= len(shorter) - 2 and all(part in _ENDINGS | {""} for part in rest)
    )


def _common(one: str, other: str) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _spelled_out(word: Word, reading: Reading) -> list[int]:
    """`OAPEC`, `U.S.` of a text that says it in full."""
    letters = word.text.replace(".", "")
    if not (letters.isupper() and len(letters) > 1):
        return []
    capitals = [
        (place, item)
        for place, item in enumerate(reading.row)
        if isinstance(item, Word) and item.capital and item.lower not in _SKIPPED
    ]
    found: list[int] = [] if len(letters) < 3 else _small_initials(letters.lower(), reading)
    for at in range(len(capitals)):
        said, last = "", capitals[at][0]
        for place, item in capitals[at : at + len(letters)]:
            if place - last > 3 or not letters.startswith(said):
                break
            numeral = len(item.text) > 1 and set(item.text) <= set("IVX")
            said, last = said + (item.text if numeral else item.text[0]), place
            if said == letters:
                found.append(capitals[at][0])
                break
    return found


def _small_initials(letters: str, reading: Reading) -> list[int]:
    """`GDP` of a text that has it in small letters; a chief executive is a CEO."""
    words = [(at, w) for at, w in enumerate(reading.row) if isinstance(w, Word)]
    words = [(at, w) for at, w in words if w.lower not in _SKIPPED]
    found: list[int] = []
    for first in range(len(words) - 1):
        run = words[first : first + len(letters)]
        said = "".join(w.lower[0] for _, w in run)
        if said == letters or (letters == "ceo" and [w.stem for _, w in run[:2]] == _CHIEF):
            found.append(run[0][0])
    return found


def _as_initials(words: Sequence[Word], reading: Reading) -> list[int]:
    """A full name of which a text has the initials."""
    letters = "".join(word.text[0] for word in words).lower()
    if len(letters) < 2:
        return []
    return [
        place
        for place in reading.places.get(letters, ())
        if isinstance(item := reading.row[place], Word) and item.text.replace(".", "").isupper()
    ]
