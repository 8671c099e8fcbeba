"""JSON payloads become `text/event-stream` frames. Source: WHATWG HTML, section 9.2.6.

A payload is JSON without line breaks, so one `data:` line carries it.
"""

DONE = b"data: [DONE]\n\n"
"""How OpenAI ends a stream that went well; one that failed ends with an error frame instead."""


def named_frame(event: str, payload: bytes) -> bytes:
    """One event with a name, as Anthropic's and OpenAI's newer streams have them."""
    return b"event: " + event.encode() + b"\ndata: " + payload + b"\n\n"


def frame(payload: bytes) -> bytes:
    """One event."""
    return b"data: " + payload + b"\n\n"
