"""Indexes that are further behind a source than its `fresh_s` → a line in the log and a POST to the
webhook of alerts, each said once until a sync moves it on.

By whichever replica sees it first, where there is a store; what a webhook did not take is tried
again at the next look. A failing webhook, database or home of indexes never touches a request.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from headrace.config import AlertSettings
from headrace.errors import HeadraceError
from headrace.gateway.alerts import AlertPolicy, Post
from headrace.observe.gauges import SourceAge
from headrace.providers.webhook import post_json
from headrace.store.database import Database
from headrace.store.source_alerts import State, claim, unclaim

_LOG = logging.getLogger("headrace.gateway")
Look = Callable[[], Awaitable[Sequence[SourceAge]]]


class SourceAlerts:
    """Looks at every source; `run` it as a task."""

    def __init__(
        self,
        look: Look,
        settings: AlertSettings,
        *,
        database: Database | None,
        post: Post = post_json,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            look: All sources, as they are now.
            settings: Who is told, and how often is looked.
            database: Which replicas share; None = this process tells for itself.
            post: Delivers to a webhook.
            clock: Unix time.

        Raises:
            ConfigError.
        """
        self._look = look
        self._webhook = AlertPolicy.of(settings).webhook
        self._every_s = settings.every_s
        self._database = database
        self._post = post
        self._clock = clock
        self._said: set[State] = set()

    async def run(self) -> None:
        """Look again and again until cancelled; not at all where `every_s` is 0."""
        while self._every_s > 0:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except HeadraceError as error:
                _LOG.warning("alerts of sources wait: %s", error.message)
            except Exception:  # noqa: BLE001 - alerts must not take the gateway along
                _LOG.exception("a bug in the alerts of sources")

    async def look(self) -> list[str]:
        """Say what is due and was not said. Returns: What was said."""
        late = [age for age in await self._look() if age.late]
        self._said &= {_state(age) for age in late}
        return [text_of(age) for age in late if await self._say(age)]

    async def _say(self, age: SourceAge) -> bool:
        state, now_s, database = _state(age), int(self._clock()), self._database
        if state in self._said:
            return False
        if database is not None and not await database.write(
            lambda c: claim(c, state, now_s=now_s)
        ):
            return False
        if self._webhook:
            try:
                await self._post(self._webhook, body_of(age))
            except HeadraceError as error:
                _LOG.warning("an alert was not delivered: %s", error.message)
                if database is not None:
                    await database.write(lambda c: unclaim(c, state))
                return False
        if database is None:
            self._said.add(state)
        _LOG.warning("%s", text_of(age))
        return True


def text_of(age: SourceAge) -> str:
    """One sentence."""
    whose = "/".join(part for part in (age.org, age.team) if part)
    name = f"{age.index!r} of {whose}" if whose else repr(age.index)
    behind = "was never synced whole" if age.behind_s is None else f"is {age.behind_s:.0f} s behind"
    return (
        f"the index {name} {behind}, source {age.source!r}, and may be {age.objective_s:.0f} s; "
        f"{age.why or 'no sync ran'}"
    )


def body_of(age: SourceAge) -> dict[str, Any]:
    """What a webhook gets."""
    return {
        "text": text_of(age),
        "rule": "freshness",
        "index": {"org": age.org, "team": age.team, "name": age.index},
        "source": age.source,
        "behind_s": age.behind_s,
        "objective_s": age.objective_s,
        "why": age.why,
    }


def _state(age: SourceAge) -> State:
    return State(age.org, age.team, age.index, age.source, int(age.complete_s))
