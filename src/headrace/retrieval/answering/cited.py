"""One choice of an answer as it streams → the same with its citations checked.

Annotated, the text goes on as it comes, each citation behind the piece that completed it. Struck,
it goes on by sentences: a claim that no source of its mark supports is `[…]` instead, and a mark
keeps only the numbers that hold. Invariants: what streams is what is told of, character by
character; ids and log-probabilities are on the first text after them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from headrace.retrieval.answering.claims import Cited, ClaimReader
from headrace.retrieval.answering.marks import Reference
from headrace.retrieval.answering.verifying import Checked, Verifier
from headrace.types import Citation, TextDelta

STRUCK = "[…]"
"""Stands where a claim was."""


class Looked(NamedTuple):
    """A mark, and what is true of it."""

    cited: Cited
    checked: tuple[Checked, ...]


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: str


class CitedChoice:
    """`push` the text of one choice, then `flush`."""

    def __init__(self, verifier: Verifier, index: int, *, strike: bool) -> None:
        self.looked: list[Looked] = []
        """All marks so far."""
        self._verifier = verifier
        self._index = index
        self._strike = strike
        self._reader = ClaimReader()
        self._held = TextDelta(text="", index=index)
        """Ids and log-probabilities of text that is held."""
        self._released = 0
        """Characters of the reader's text that went on."""
        self._sent = 0
        """Characters that they became."""
        self._waiting: list[Looked] = []

    @property
    def text(self) -> str:
        """What the model wrote."""
        return self._reader.text

    async def push(self, delta: TextDelta) -> list[TextDelta | Citation]:
        """A piece of the model's text."""
        found = await self._look(self._reader.push(delta.text))
        if not self._strike:
            return [delta, *(item for look in found for item in self._told(look))]
        self._hold(delta)
        return self._release(self._reader.open_since)

    async def flush(self) -> list[TextDelta | Citation]:
        """The choice has ended."""
        found = await self._look(self._reader.flush())
        if not self._strike:
            return [item for look in found for item in self._told(look)]
        return self._release(len(self.text), ended=True)

    async def _look(self, cited: Sequence[Cited]) -> list[Looked]:
        found = [
            Looked(item, tuple(await self._verifier.verify(item.text, item.references)))
            for item in cited
        ]
        self.looked += found
        self._waiting += found
        return found

    def _told(self, look: Looked) -> list[Citation]:
        cited = look.cited
        return [
            citation(checked, self._index, cited, cited.claim_start, cited.claim_end)
            for checked in look.checked
        ]

    def _hold(self, delta: TextDelta) -> None:
        self._held = replace(
            self._held,
            token_ids=self._held.token_ids + delta.token_ids,
            logprobs=self._held.logprobs + delta.logprobs,
        )

    def _release(self, end: int, *, ended: bool = False) -> list[TextDelta | Citation]:
        """Text up to `end`, edited, and the citations in it."""
        end = max(end, self._released)
        ready = [look for look in self._waiting if look.cited.mark_end <= end]
        edits = _edits(ready)
        text, places = _edited(self.text, self._released, end, edits)
        found: list[TextDelta | Citation] = []
        if text or (ended and (self._held.token_ids or self._held.logprobs)):
            found.append(replace(self._held, text=text))
            self._held = TextDelta(text="", index=self._index)
        for look in ready:
            cited = look.cited
            claim_start, claim_end = (
                self._sent + places(at) for at in (cited.claim_start, cited.claim_end)
            )
            moved = replace(
                cited,
                mark_start=self._sent + places(cited.mark_start),
                mark_end=self._sent + places(cited.mark_end),
            )
            found += (
                citation(checked, self._index, moved, claim_start, claim_end)
                for checked in look.checked
            )
        self._waiting = [look for look in self._waiting if look not in ready]
        self._released, self._sent = end, self._sent + len(text)
        return found


def citation(checked: Checked, index: int, cited: Cited, start: int, end: int) -> Citation:
    """What a client is told of one reference."""
    source = checked.source
    return Citation(
        index=index,
        source=checked.reference.source,
        document="" if source is None else source.document,
        title="" if source is None else source.title,
        start=checked.start,
        end=checked.end,
        quote=checked.quote,
        support=checked.support,
        verdict=checked.verdict,
        reason=checked.reason,
        claim_start=start,
        claim_end=end,
        mark_start=cited.mark_start,
        mark_end=cited.mark_end,
    )


def _edits(looked: Sequence[Looked]) -> list[_Edit]:
    """What has to go: claims that nothing holds up, and numbers that hold nothing."""
    by_claim: dict[tuple[int, int], list[Looked]] = {}
    for look in looked:
        by_claim.setdefault((look.cited.claim_start, look.cited.claim_end), []).append(look)
    edits: list[_Edit] = []
    for (start, end), marks in by_claim.items():
        if not any(checked.good for look in marks for checked in look.checked):
            first = min(start, *(look.cited.mark_start for look in marks))
            last = max(end, *(look.cited.mark_end for look in marks))
            edits.append(_Edit(first, last, STRUCK))
            continue
        for look in marks:
            good = [checked.reference for checked in look.checked if checked.good]
            if len(good) < len(look.checked):
                edits.append(_Edit(look.cited.mark_start, look.cited.mark_end, _mark(good)))
    return sorted(edits, key=lambda edit: edit.start)


def _mark(references: Sequence[Reference]) -> str:
    if not references:
        return ""
    spelled = (
        str(r.source) if r.start is None else f"{r.source}:{r.start}-{r.end}" for r in references
    )
    return f"[{', '.join(spelled)}]"


def _edited(text: str, start: int, end: int, edits: Sequence[_Edit]):
    """The text between, edited, and where in it a character of the whole stands."""
    pieces: list[str] = []
    moves: list[tuple[int, int, int, int]] = []
    at, size = start, 0
    for edit in edits:
        if edit.start < at:
            continue  # within one that is gone
        kept = text[at : edit.start]
        pieces += (kept, edit.text)
        size += len(kept)
        moves.append((edit.start, edit.end, size, size + len(edit.text)))
        size += len(edit.text)
        at = edit.end
    pieces.append(text[at:end])

    def place(where: int) -> int:
        shift = -start
        for first, last, new_first, new_last in moves:
            if where < first or (where == first and last > first):
                break
            if where < last:
                return new_first
            shift = new_last - last
        return max(0, where + shift)

    return "".join(pieces), place
