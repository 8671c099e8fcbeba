"""The process of `headrace serve` once its arguments were read: it begins anew without the reader.

What reads arguments (typer, with pydantic) takes 10 MB that a gateway would carry for as long as it
serves. So `serve` checks its arguments and then becomes `python -m headrace.cli.serving`, the same
process under the same number.
"""

import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from headrace.cli import GlobalOptions, finish
from headrace.config import settings_file

_M_ARENA_MAX = -8
_ARENAS = 2
"""glibc keeps freed memory apart by thread; the few threads of a gateway need no sixteen places."""


def become(options: GlobalOptions, changes: Mapping[str, object]) -> NoReturn:
    """Turn this process into the service.

    Args:
        options: Before the verb.
        changes: As `GlobalOptions.settings`.
    """
    call = {
        "config": None if options.config is None else str(options.config),
        "sets": options.sets,
        "debug": options.debug,
        "changes": changes,
    }
    # The interpreter's own options (-X, -W) are kept; a script's folder was on the path, not ours.
    own = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv)]
    flags = own[:-1] if own[-1:] == ["-m"] else [*own, "-P"]
    sys.stdout.flush()
    sys.stderr.flush()
    words = [sys.executable, *flags, "-m", "headrace.cli.serving", json.dumps(call)]
    os.execv(sys.executable, words)


def main() -> NoReturn:
    """Serve as `become` was told."""
    call: dict[str, Any] = json.loads(sys.argv[1])
    config = None if call["config"] is None else Path(call["config"])
    options = GlobalOptions(config=config, sets=tuple(call["sets"]), debug=call["debug"])
    finish(lambda: _serve(options, call["changes"]), debug=options.debug)


def _serve(options: GlobalOptions, changes: Mapping[str, object]) -> int:
    from headrace import app

    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
    source = app.SettingsSource(
        file=settings_file(options.config), load=lambda: options.settings(changes)
    )
    app.serve(source.load(), say=_say, source=source)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
