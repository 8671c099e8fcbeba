"""Limits that are nearly used up → a line in the log and a POST to a webhook, each said once.

Once a window and rule, by whichever replica sees it first; what a webhook did not take is tried
again at the next look. A failing webhook or database never touches a request.
"""

import asyncio
import datetime
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from headrace.config import AlertSettings
from headrace.errors import ConfigError, HeadraceError
from headrace.gateway.slices import shown
from headrace.providers.webhook import post_json
from headrace.store.database import Database
from headrace.store.forecast import Forecast, claim, forecasts, unclaim

_LOG = logging.getLogger("headrace.gateway")
Post = Callable[[str, Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertPolicy:
    """`AlertSettings`, read."""

    shares: tuple[int, ...] = (50, 80, 100)
    """Percent, ascending."""
    forecast: bool = True
    webhook: str = ""

    @staticmethod
    def of(settings: AlertSettings) -> "AlertPolicy":
        """Raises: ConfigError."""
        try:
            shares = sorted({int(text) for text in settings.shares.split(",") if text.strip()})
        except ValueError:
            shares = [0]
        if any(not 0 < share <= 100 for share in shares):
            raise ConfigError(
                f"alerts.shares = {settings.shares!r} is no list of percents; write 50,80,100"
            )
        if settings.webhook and not settings.webhook.startswith(("http://", "https://")):
            raise ConfigError(f"alerts.webhook = {settings.webhook!r} is no http or https URL")
        return AlertPolicy(
            shares=tuple(shares), forecast=settings.forecast, webhook=settings.webhook
        )


class Alert(NamedTuple):
    """One thing to say."""

    rule: str
    """`share:80` or `forecast`."""
    text: str
    forecast: Forecast


def due(found: Forecast, policy: AlertPolicy) -> list[Alert]:
    """What is to be said of a window now: its highest share, and where its pace leads."""
    limit = found.limit
    who = f"{limit.scope} {limit.subject}"
    whole = shown(limit.unit, limit.amount)
    alerts: list[Alert] = []
    reached = [s for s in policy.shares if limit.amount and found.spent * 100 >= s * limit.amount]
    if reached:
        spent = shown(limit.unit, found.spent)
        text = f"{who} has used {reached[-1]} % of its {limit.window} limit: {spent} of {whole}"
        alerts.append(Alert(f"share:{reached[-1]}", text, found))
    if policy.forecast and found.used_up_s is not None and found.spent < limit.amount:
        when = datetime.datetime.fromtimestamp(found.used_up_s, datetime.UTC)
        text = (
            f"at the pace so far {who} will have used up its {limit.window} limit of {whole} on "
            f"{when:%Y-%m-%d %H:%M} UTC"
        )
        alerts.append(Alert("forecast", text, found))
    return alerts


class Alerts:
    """Looks at every limit; `run` it as a task."""

    def __init__(
        self,
        database: Database,
        settings: AlertSettings,
        *,
        post: Post = post_json,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises: ConfigError."""
        self._database = database
        self._policy = AlertPolicy.of(settings)
        self._every_s = settings.every_s
        self._post = post
        self._clock = clock

    async def run(self) -> None:
        """Look again and again until cancelled; not at all where `every_s` is 0."""
        while self._every_s > 0:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except HeadraceError as error:
                _LOG.warning("alerts wait: %s", error.message)
            except Exception:  # noqa: BLE001 - alerts must not take the gateway along
                _LOG.exception("a bug in the alerts")

    async def look(self) -> list[Alert]:
        """Say what is due and was not said. Returns: What was said."""
        now_s = self._clock()
        spoken: list[Alert] = []
        for found in await self._database.read(lambda c: forecasts(c, now_s=now_s)):
            for alert in due(found, self._policy):
                if await self._say(alert, now_s=int(now_s)):
                    spoken.append(alert)
        return spoken

    async def _say(self, alert: Alert, *, now_s: int) -> bool:
        limit_id, starts_s = alert.forecast.limit.id, alert.forecast.starts_s
        if not await self._database.write(
            lambda c: claim(c, limit_id, starts_s, alert.rule, now_s=now_s)
        ):
            return False
        if self._policy.webhook:
            try:
                await self._post(self._policy.webhook, body_of(alert))
            except HeadraceError as error:
                _LOG.warning("an alert was not delivered: %s", error.message)
                await self._database.write(lambda c: unclaim(c, limit_id, starts_s, alert.rule))
                return False
        _LOG.warning("%s", alert.text)
        return True


def body_of(alert: Alert) -> dict[str, Any]:
    """What a webhook gets."""
    found, limit = alert.forecast, alert.forecast.limit
    return {
        "text": alert.text,
        "rule": alert.rule,
        "limit": {
            "id": limit.id,
            "scope": limit.scope,
            "subject": limit.subject,
            "unit": limit.unit.value,
            "window": limit.window,
            "amount": limit.amount,
        },
        "spent": found.spent,
        "starts_s": found.starts_s,
        "ends_s": found.ends_s,
        "used_up_s": found.used_up_s,
        "at_end": found.at_end,
    }
