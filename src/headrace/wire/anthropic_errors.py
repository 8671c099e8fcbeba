"""Errors become Anthropic's object: `{"type": "error", "error": {"type", "message"}}`.

| status | type |
|---|---|
| 400, 405, 408 and other 4xx | invalid_request_error |
| 401 | authentication_error |
| 402 | billing_error |
| 403 | permission_error |
| 404 | not_found_error |
| 413 | request_too_large |
| 429 | rate_limit_error |
| 503 | overloaded_error |
| 504 | timeout_error |
| other 5xx | api_error |

`code` and `param` are ours, beside it. Source: Anthropic's API reference, errors.
"""

import msgspec

from headrace.errors import HeadraceError
from headrace.wire.sse import named_frame

_KINDS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def encode_error(error: HeadraceError, *, request_id: str = "") -> bytes:
    """The body of an error's answer."""
    other = "api_error" if error.status >= 500 else "invalid_request_error"
    body: dict[str, object] = {
        "type": "error",
        "error": {
            "type": _KINDS.get(error.status, other),
            "message": error.message,
            "code": error.code,
            "param": error.param,
        },
    }
    if request_id:
        body["request_id"] = request_id
    return msgspec.json.encode(body)


def error_frame(error: HeadraceError, *, request_id: str = "") -> bytes:
    """The last frame of a stream that failed."""
    return named_frame("error", encode_error(error, request_id=request_id))
