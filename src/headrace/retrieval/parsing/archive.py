"""Looks into a zip before anything is unpacked: what it would become, and whether it is locked."""

import io
import itertools
import zipfile

from headrace.retrieval.parsing.reading import CannotRead, Unreadable

_MOST_MEMBERS = 20_000
_MOST_RATIO = 200
"""Real office files reach about 50; what a bomb needs is thousands."""
_SMALL = 10 << 20
"""Below it a ratio says nothing: an empty sheet packs well."""


def check(data: bytes, *, most_bytes: int) -> None:
    """Raises: CannotRead for a bomb, a lock, or what is no zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise CannotRead(Unreadable.CORRUPT, f"its archive is broken: {error}") from None
    if len(members) > _MOST_MEMBERS:
        raise CannotRead(
            Unreadable.BOMB, f"it has {len(members)} members; at most {_MOST_MEMBERS} are unpacked"
        )
    if any(member.flag_bits & 1 for member in members):
        raise CannotRead(Unreadable.ENCRYPTED, "it asks for a password; save it again without one")
    total = sum(member.file_size for member in members)
    if total > most_bytes:
        raise CannotRead(
            Unreadable.BOMB, f"it unpacks to {total} bytes; at most {most_bytes} are unpacked"
        )
    if total > _SMALL and total > _MOST_RATIO * len(data):
        raise CannotRead(
            Unreadable.BOMB,
            f"it unpacks to {total // max(len(data), 1)} times its size; at most {_MOST_RATIO} "
            "times is taken for a document",
        )
    # Members that overlap make more of the file than it is: a bomb whose sizes look small.
    spans = sorted((m.header_offset, m.header_offset + m.compress_size) for m in members)
    if any(end > begin for (_, end), (begin, _) in itertools.pairwise(spans)):
        raise CannotRead(Unreadable.BOMB, "members of its archive overlap")
