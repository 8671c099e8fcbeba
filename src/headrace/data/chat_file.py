"""A file of chats -> `Conversation`s: JSON lines of `messages` and `tools`, as in OpenAI's API.

Invariant: every line becomes a conversation or an error that names file, line and field; nothing is
guessed and nothing dropped.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from headrace.data.chat import Conversation
from headrace.errors import DataError, UserError
from headrace.wire.json_body import object_at
from headrace.wire.openai_messages import decode_messages, decode_tools


def conversations(path: Path) -> list[Conversation]:
    """The chats of one `*.jsonl[.gz]`, or of all in a directory, by file name.

    Raises:
        DataError: No such file, an empty one, or a line that is no conversation.
    """
    files = sorted(path.glob("*.jsonl*")) if path.is_dir() else [path]
    found = [conversation for file in files for conversation in _read(file)]
    if not found:
        raise DataError(f"{path} holds no conversation; give JSON lines with `messages`")
    return found


def _read(path: Path) -> Iterator[Conversation]:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = object_at(json.loads(line), "line")
            yield Conversation(
                id=f"{path.name}:{number}",
                messages=decode_messages(record.take("messages")),
                tools=decode_tools(record),
            )
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number} is not JSON: {error}; mend the line") from error
        except UserError as error:
            raise DataError(f"{path}:{number}: {error.message}") from error
