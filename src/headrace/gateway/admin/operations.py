"""What an operator asks of a running gateway."""

from typing import Any

import msgspec

from headrace.errors import NotFound
from headrace.gateway.admin.call import Call
from headrace.store.identity import RoleName


async def show_config(call: Call) -> Any:
    """GET config: how the last reading of the settings file went."""
    call.need(RoleName.ADMIN)
    if call.config is None:
        raise NotFound("this service follows no settings file")
    return msgspec.to_builtins(call.config)
