"""The events of a model's answer → the same with citations among them, for all its choices."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

from headrace.providers.resilience import closing
from headrace.retrieval.answering.cited import CitedChoice
from headrace.retrieval.answering.styles import says_nothing_found
from headrace.retrieval.answering.verifying import Verifier
from headrace.types import ChatRequest, Event, Finished, TextDelta


class Telling:
    """Of one answer."""

    def __init__(self, verifier: Verifier, *, strike: bool) -> None:
        self._verifier = verifier
        self._strike = strike
        self._choices: dict[int, CitedChoice] = {}
        self._silent: set[int] = set()
        """Choices that say that the sources do not say."""

    async def told(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event]:
        """The events with citations; closing it closes theirs."""
        async with closing(events):
            async for event in events:
                match event:
                    case TextDelta():
                        for made in await self._choice(event.index).push(event):
                            yield made
                    case Finished():
                        choice = self._choice(event.index)
                        for made in await choice.flush():
                            yield made
                        silent = says_nothing_found(choice.text)
                        if silent:
                            self._silent.add(event.index)
                        yield replace(event, not_in_sources=silent)
                    case _:
                        yield event

    @property
    def failures(self) -> list[str]:
        """Why the answer should not be shown as it is; empty = every choice holds."""
        found: list[str] = []
        for index, choice in sorted(self._choices.items()):
            if index in self._silent:
                continue
            if not choice.looked and choice.text.strip():
                found.append("it cites nothing")
            found += [
                f"[{checked.reference.source}] is {checked.verdict}: {checked.reason}"
                for look in choice.looked
                for checked in look.checked
                if not checked.good
            ]
        return found

    def note(self, request: ChatRequest) -> None:
        """Say on the trail what was found."""
        checked = [
            item
            for choice in self._choices.values()
            for look in choice.looked
            for item in look.checked
        ]
        good = sum(item.good for item in checked)
        request.trail.note(
            "citations",
            f"{good} of {len(checked)} citations are supported",
            supported=good,
            citations=len(checked),
            not_in_sources=bool(self._silent),
        )
        for failure in self.failures[:8]:
            request.trail.note("citations", failure[:400])

    def _choice(self, index: int) -> CitedChoice:
        if index not in self._choices:
            self._choices[index] = CitedChoice(self._verifier, index, strike=self._strike)
        return self._choices[index]
