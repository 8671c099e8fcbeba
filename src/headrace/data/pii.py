"""Text -> text without personal data, and how many of each kind were replaced.

A scrubber is any function str -> `Scrubbed` (or a pair like it), named by import path
(`package.module:function`); `scrub` is the built-in one. What it replaces: e-mail addresses; IBANs
whose check digits hold (ISO 13616, modulo 97); payment cards whose number passes Luhn (ISO/IEC
7812) and begins as one; public IP addresses (private, loopback and documentation ones name nobody);
telephone numbers in international (E.164) or North American form. Names and postal addresses need a
model: that is what the hook is for.

Invariant: `scrub` is a pure function, and scrubbing twice changes nothing more.
"""

import importlib
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias, cast

from headrace.errors import DataError


class Scrubbed(NamedTuple):
    """A text and what is no longer in it."""

    text: str
    counts: Mapping[str, int]
    """Kind -> replacements."""


Scrub: TypeAlias = Callable[[str], Scrubbed]

_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"(?<![\w.+-])(?:\d[ -]?){12,18}\d(?![\w-])")
_IP = re.compile(
    r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{1,4}(?![\w:]))"
)
_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+\d{1,3}(?:[ .-]?\(\d{1,4}\))?(?:[ .-]?\d{1,5}){2,6}"
    r"|(?:\+?1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])[2-9]\d{2}[ .-]\d{4})(?![\w-])"
)


def scrub(text: str) -> Scrubbed:
    """Replace each find by its kind in brackets, such as [EMAIL]."""
    counts: Counter[str] = Counter()
    for kind, pattern, holds in _KINDS:

        def replaced(
            match: re.Match[str], kind: str = kind, holds: Callable[[str], bool] = holds
        ) -> str:
            if not holds(match[0]):
                return match[0]
            counts[kind] += 1
            return f"[{kind.upper()}]"

        text = pattern.sub(replaced, text)
    return Scrubbed(text, dict(counts))


def load(path: str) -> Scrub:
    """The scrubber that an import path names.

    Raises:
        DataError: No such module or function, or something that is not callable.
    """
    module, colon, name = path.partition(":")
    if not colon:
        raise DataError(
            f"scrubber {path!r} must be MODULE:FUNCTION, such as headrace.data.pii:scrub"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DataError(f"scrubber {path!r} cannot be imported: {error}") from error
    if not callable(found):
        raise DataError(f"scrubber {path!r} is a {type(found).__name__}, not a function")
    return lambda text: _checked(path, found(text))


def _checked(path: str, made: object) -> Scrubbed:
    if isinstance(made, tuple) and len(cast("tuple[object, ...]", made)) == 2:
        text, counts = cast("tuple[object, object]", made)
        if isinstance(text, str) and isinstance(counts, Mapping):
            return Scrubbed(
                text, {str(k): int(v) for k, v in cast("dict[str, int]", counts).items()}
            )
    raise DataError(f"scrubber {path!r} returned {made!r:.60}, not (text, counts by kind)")


def luhn_holds(number: str) -> bool:
    """Whether the last digit of a number is its check digit (ISO/IEC 7812-1)."""
    digits = [int(character) for character in reversed(number) if character.isdigit()]
    doubled = (digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def iban_holds(text: str) -> bool:
    """Whether a number's check digits are those of an IBAN (ISO 13616: 1 modulo 97)."""
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


_CARD_DIGITS: Mapping[str, tuple[int, ...]] = {
    "2": (16,),  # Mastercard
    "3": (14, 15, 16),  # Diners, American Express, JCB
    "4": (13, 16, 19),  # Visa
    "5": (16,),  # Mastercard
    "6": (16, 17, 18, 19),  # Discover, UnionPay, Maestro
}
"""First digit -> lengths of such a number."""


def _card_holds(text: str) -> bool:
    digits = "".join(filter(str.isdigit, text))
    known = len(digits) in _CARD_DIGITS.get(digits[0], ())
    return known and len(set(digits)) > 1 and luhn_holds(digits)


def _ip_holds(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _phone_holds(text: str) -> bool:
    return 8 <= sum(map(str.isdigit, text)) <= 15


def _always(text: str) -> bool:
    return bool(text)


_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("email", _EMAIL, _always),
    ("iban", _IBAN, iban_holds),
    ("card", _CARD, _card_holds),
    ("ip", _IP, _ip_holds),
    ("phone", _PHONE, _phone_holds),
)
"""In this order: a card's number must not be taken for a telephone's."""
