"""Errors become OpenAI's error object: `{"error": {"message", "type", "param", "code"}}`.

`type` is `invalid_request_error` below 500, `rate_limit_error` for 429 and `server_error` from
500 on; `code` is the class's; of an exceeded limit, `limit` says which, how much is left and until
when. In the middle of a stream the same object comes as a `data:` frame, which the official client
raises as `APIError`, and the stream ends without `[DONE]`.
"""

import msgspec

from headrace.errors import HeadraceError, LimitExceeded
from headrace.wire.sse import frame


def encode_error(error: HeadraceError, *, request_id: str = "") -> bytes:
    """The body of an error's answer."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    body: dict[str, object] = {
        "message": error.message,
        "type": "rate_limit_error" if error.status == 429 else kind,
        "param": error.param,
        "code": error.code,
    }
    if isinstance(error, LimitExceeded) and error.details:
        body["limit"] = error.details
    if request_id:
        body["request_id"] = request_id
    return msgspec.json.encode({"error": body})


def error_frame(error: HeadraceError, *, request_id: str = "") -> bytes:
    """The last frame of a stream that failed."""
    return frame(encode_error(error, request_id=request_id))
