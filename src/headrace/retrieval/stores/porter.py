"""Words → stems, as SQLite's `porter` tokenizer makes them.

M. F. Porter, "An algorithm for suffix stripping", Program 14:3, 1980. Invariant: equal to FTS5's
(a test holds the two together), which leaves alone words of fewer than 3 or more than 64 bytes, and
takes no ending that is the whole word.
"""

from itertools import pairwise

_VOWELS = frozenset(b"aeiou")
_Y = ord("y")
_LONGEST = 64  # bytes; FTS5's FTS5_PORTER_MAX_TOKEN

_STEP_2 = (
    (b"ational", b"ate"),
    (b"tional", b"tion"),
    (b"enci", b"ence"),
    (b"anci", b"ance"),
    (b"izer", b"ize"),
    (b"logi", b"log"),
    (b"bli", b"ble"),
    (b"alli", b"al"),
    (b"entli", b"ent"),
    (b"eli", b"e"),
    (b"ousli", b"ous"),
    (b"ization", b"ize"),
    (b"ation", b"ate"),
    (b"ator", b"ate"),
    (b"alism", b"al"),
    (b"iveness", b"ive"),
    (b"fulness", b"ful"),
    (b"ousness", b"ous"),
    (b"aliti", b"al"),
    (b"iviti", b"ive"),
    (b"biliti", b"ble"),
)
_STEP_3 = (
    (b"icate", b"ic"),
    (b"ative", b""),
    (b"alize", b"al"),
    (b"iciti", b"ic"),
    (b"ical", b"ic"),
    (b"ful", b""),
    (b"ness", b""),
)
_STEP_4 = (
    *(b"al", b"ance", b"ence", b"er", b"ic", b"able", b"ible", b"ant", b"ement", b"ment", b"ent"),
    *(b"ion", b"ou", b"ism", b"ate", b"iti", b"ous", b"ive", b"ize"),
)


def stem(word: str) -> str:
    """The stem of one lower-case word."""
    w = word.encode("utf-8", "surrogatepass")
    if not 3 <= len(w) <= _LONGEST:
        return word
    w = _step_1(w)
    w = _replaced(w, _STEP_2, 0)
    w = _replaced(w, _STEP_3, 0)
    w = _step_4(w)
    w = _step_5(w)
    return w.decode("utf-8", "surrogatepass")


def _consonants(w: bytes) -> list[bool]:
    """Which letters are consonants: y is one at the start and after a vowel."""
    kinds: list[bool] = []
    for i, letter in enumerate(w):
        if letter == _Y:
            kinds.append(i == 0 or not kinds[-1])
        else:
            kinds.append(letter not in _VOWELS)
    return kinds


def _measure(w: bytes) -> int:
    """m of [C](VC){m}[V]."""
    kinds = _consonants(w)
    return sum(not a and b for a, b in pairwise(kinds))


def _has_vowel(w: bytes) -> bool:
    return not all(_consonants(w))


def _doubled(w: bytes) -> bool:
    return len(w) > 1 and w[-1] == w[-2] and _consonants(w)[-1]


def _short(w: bytes) -> bool:
    """Ends consonant, vowel, consonant, the last not w, x or y."""
    kinds = _consonants(w)[-3:]
    return kinds == [True, False, True] and w[-1] not in b"wxy"


def _step_1(w: bytes) -> bytes:
    if (len(w) > 4 and w.endswith(b"sses")) or (len(w) > 3 and w.endswith(b"ies")):
        w = w[:-2]
    elif w.endswith(b"s") and not w.endswith(b"ss"):
        w = w[:-1]
    if len(w) > 3 and w.endswith(b"eed"):
        w = w[:-1] if _measure(w[:-3]) > 0 else w
    else:
        for ending in (b"ed", b"ing"):
            if w.endswith(ending):
                if _has_vowel(w[: -len(ending)]):
                    w = _mended(w[: -len(ending)])
                break
    if w.endswith(b"y") and _has_vowel(w[:-1]):
        w = w[:-1] + b"i"
    return w


def _mended(w: bytes) -> bytes:
    """What lost its -ed or -ing."""
    if w.endswith((b"at", b"bl", b"iz")):
        return w + b"e"
    if _doubled(w) and w[-1] not in b"lsz":
        return w[:-1]
    if _measure(w) == 1 and _short(w):
        return w + b"e"
    return w


def _replaced(w: bytes, endings: tuple[tuple[bytes, bytes], ...], least: int) -> bytes:
    """The first ending that fits, replaced where what is before it is long enough."""
    for ending, other in endings:
        if w.endswith(ending):
            head = w[: -len(ending)]
            return head + other if _measure(head) > least else w
    return w


def _step_4(w: bytes) -> bytes:
    for ending in _STEP_4:
        if w.endswith(ending):
            head = w[: -len(ending)]
            if ending == b"ion" and not head.endswith((b"s", b"t")):
                return w
            return head if _measure(head) > 1 else w
    return w


def _step_5(w: bytes) -> bytes:
    if w.endswith(b"e"):
        head = w[:-1]
        m = _measure(head)
        if m > 1 or (m == 1 and not _short(head)):
            w = head
    if w.endswith(b"ll") and _measure(w) > 1:
        w = w[:-1]
    return w
