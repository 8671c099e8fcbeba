"""Which documents of an index say another one anew, and which contradict each other.

| two documents | mark |
|---|---|
| of one title or file name, but for version marks, one known to be newer | superseded |
| near duplicates that tell the same facts, one known to be newer | superseded |
| near duplicates whose numbers, dates or negations differ, none of the above | in conflict |

A mark never names a document to somebody who may not read that one. Near duplicates are found as
`data` finds them: MinHash bands propose, the Jaccard similarity of shingles decides.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from headrace.data.near import bands_for, buckets, jaccard
from headrace.data.words import ngram_hashes, words
from headrace.retrieval.contracts import DocumentRow, IndexStore, Marks, Scope
from headrace.retrieval.sync.state import SyncState

_NEAR = 0.7
_RELATED = 0.3
"""Two of one title that share less are different documents of a common name."""
_SHINGLE_WORDS = 4
_MOST_OF_A_NAME = 64
_SLACK = 0.15
_VERSION = re.compile(
    r"[\s_.\-(\[]*(?:\b|_)(?:v(?:er(?:sion)?)?[\s.]?\d+(?:[.]\d+)*|rev(?:ision)?[\s.]?\d+|final|draft|entwurf|copy|kopie"
    r"|\(\d+\)|\d{4}[-_.]\d{2}(?:[-_.]\d{2})?)[\])]*",
    re.I,
)
_FACT = re.compile(r"\d+(?:[.,:/-]\d+)*\s*%?")
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|cannot|without|nor|neither|nicht|kein(?:e|en|er|em)?|nie|ohne|pas|jamais"
    r"|sans|nunca|sin)\b|n['’]t\b",
    re.I,
)
_ALL = Scope(principals=None)


@dataclass(frozen=True, slots=True)
class _Known:
    row: DocumentRow
    family: frozenset[str]


async def mark(store: IndexStore, state: SyncState) -> int:
    """Bring the marks of all documents up to date; how many were changed."""
    known = {row.id: _Known(row, _family(row)) async for row in store.documents(_ALL)}
    signatures = {
        status.document: np.frombuffer(status.signature, np.uint32)
        for status in state.statuses()
        if status.signature and status.document in known
    }
    verdicts = await _judge(store, state, known, signatures)
    marks = _marks(known, verdicts)
    changed = {
        id: said
        for id, said in marks.items()
        if (said.superseded_by, said.conflicts)
        != (known[id].row.superseded_by, known[id].row.conflicts)
    }
    if changed:
        await store.mark(changed)
    return len(changed)


async def _judge(
    store: IndexStore,
    state: SyncState,
    known: Mapping[str, _Known],
    signatures: Mapping[str, npt.NDArray[np.uint32]],
) -> dict[tuple[str, str], str]:
    """Pair → near, differs, related, or nothing; only pairs that are new are looked at."""
    before, fresh = state.pairs(), dict[tuple[str, str], tuple[str, str]]()
    verdicts: dict[tuple[str, str], str] = {}
    for a, b in sorted(set(_candidates(known, signatures))):
        texts = f"{known[a].row.sha256[:16]}:{known[b].row.sha256[:16]}"
        held = before.get((a, b))
        if held is not None and held[0] == texts:
            verdicts[a, b] = held[1]
            continue
        left, right = await store.document(a, _ALL), await store.document(b, _ALL)
        verdict = _verdict(left.text, right.text) if left and right else ""
        verdicts[a, b] = verdict
        fresh[a, b] = (texts, verdict)
    if fresh:
        state.judge(fresh)
    return verdicts


def _candidates(
    known: Mapping[str, _Known], signatures: Mapping[str, npt.NDArray[np.uint32]]
) -> Iterator[tuple[str, str]]:
    names = sorted(signatures)
    if len(names) < 2:
        return
    stacked_DP = np.stack([signatures[name] for name in names])
    places: set[tuple[int, int]] = set()
    for group in buckets(stacked_DP, bands_for(stacked_DP.shape[1], _NEAR)):
        # A bucket of very many is boilerplate: each is compared with the first ones.
        listed = group.tolist()
        places.update(combinations(listed[:_MOST_OF_A_NAME], 2))
        places.update((listed[0], other) for other in listed[_MOST_OF_A_NAME:])
    by_family: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        for one in known[name].family:
            by_family[one].append(place)
    for group in by_family.values():
        if len(group) <= _MOST_OF_A_NAME:
            places.update(combinations(group, 2))
    for left, right in places:
        least = _RELATED if known[names[left]].family & known[names[right]].family else _NEAR
        close = float(np.mean(stacked_DP[left] == stacked_DP[right])) >= least - _SLACK
        if close and known[names[left]].row.sha256 != known[names[right]].row.sha256:
            yield names[left], names[right]


def _verdict(left: str, right: str) -> str:
    shared = jaccard(_shingles(left), _shingles(right))
    if shared < _RELATED:
        return ""
    if shared < _NEAR:
        return "related"
    return "near" if _facts(left) == _facts(right) else "differs"


def _shingles(text: str) -> npt.NDArray[np.uint32]:
    return np.unique((ngram_hashes(words(text), _SHINGLE_WORDS) >> 32).astype(np.uint32))


def _facts(text: str) -> tuple[Counter[str], Counter[str]]:
    numbers = Counter(found.replace(" ", "") for found in _FACT.findall(text))
    return numbers, Counter(found.lower() for found in _NEGATION.findall(text))


def _marks(
    known: Mapping[str, _Known], verdicts: Mapping[tuple[str, str], str]
) -> dict[str, Marks]:
    newer: dict[str, list[str]] = defaultdict(list)
    conflicts: dict[str, list[str]] = defaultdict(list)
    for (a, b), verdict in verdicts.items():
        left, right = known[a], known[b]
        versions = bool(left.family & right.family)
        ordered = _older_first(left.row, right.row)
        if ordered and ((versions and verdict) or verdict == "near"):
            newer[ordered[0].id].append(ordered[1].id)
        elif verdict == "differs":
            conflicts[a].append(b)
            conflicts[b].append(a)
    return {
        id: Marks(
            superseded_by=max(
                (one for one in newer[id] if _may_name(known[id].row, known[one].row)),
                key=lambda one: (known[one].row.modified_s, one),
                default="",
            ),
            conflicts=tuple(
                sorted(one for one in conflicts[id] if _may_name(known[id].row, known[one].row))
            ),
        )
        for id in known
    }


def _older_first(a: DocumentRow, b: DocumentRow) -> tuple[DocumentRow, DocumentRow] | None:
    if not a.modified_s or not b.modified_s or a.modified_s == b.modified_s:
        return None
    return (a, b) if a.modified_s < b.modified_s else (b, a)


def _may_name(document: DocumentRow, other: DocumentRow) -> bool:
    """Whether all who read `document` may know of `other`."""
    if other.readers is None:
        return True
    return document.readers is not None and document.readers <= other.readers


def _family(row: DocumentRow) -> frozenset[str]:
    """What versions of one document share: title and file name without their version marks."""
    name = row.id.rstrip("/").rpartition("/")[2]
    stem = name.rpartition(".")[0] or name
    found = (" ".join(_VERSION.sub(" ", said).lower().split()) for said in (row.title, stem))
    return frozenset(one for one in found if len(one) > 2)
