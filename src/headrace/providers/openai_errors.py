"""OpenAI's error objects and HTTP statuses become our tree of errors.

The object's own `code` decides where it is one of ours (a headrace on the other side), else the
status does. What we cannot place is an `UpstreamError`.
"""

from collections.abc import Mapping
from typing import Any, cast

from headrace import errors
from headrace.errors import HeadraceError, Overloaded, ServiceError, UpstreamError

_BY_CODE: dict[str, type[HeadraceError]] = {
    kind.code: kind
    for kind in (
        errors.UserError,
        errors.InvalidParameter,
        errors.UnsupportedParameter,
        errors.UnknownParameter,
        errors.ContextLengthExceeded,
        errors.TemplateError,
        errors.Unauthorized,
        errors.NotFound,
        errors.ModelNotFound,
        errors.MethodNotAllowed,
        errors.PayloadTooLarge,
        errors.NotReady,
        errors.DeadlineExceeded,
        errors.WorkerDied,
        errors.UpstreamError,
        errors.UpstreamTimeout,
    )
}
_BY_STATUS: dict[int, type[HeadraceError]] = {
    400: errors.UserError,
    401: errors.Unauthorized,
    403: errors.Unauthorized,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    408: errors.UpstreamTimeout,
    413: errors.PayloadTooLarge,
    422: errors.UserError,
    503: errors.NotReady,
    504: errors.UpstreamTimeout,
}


def error_of(found: object, *, status: int, retry_after_s: int | None) -> HeadraceError:
    """The error that an answer other than 200 means."""
    if isinstance(found, Mapping):
        fields = cast("Mapping[str, object]", found)
        # vLLM has the fields at the top, FastAPI calls them `detail`.
        found = fields.get("error") or fields.get("detail") or fields
    return from_error_object(found, status=status, retry_after_s=retry_after_s)


def from_error_object(
    found: object, *, status: int | None, retry_after_s: int | None = None
) -> HeadraceError:
    """The error that an `error` object means; `status` None = it came inside a stream."""
    fields = cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else {"message": found}
    message = f"the server said: {str(fields.get('message'))[:2000]}"
    code, param = fields.get("code"), fields.get("param")
    if status == 429 or code == Overloaded.code:
        return Overloaded(message, retry_after_s=retry_after_s or 1)
    kind = _BY_CODE.get(str(code)) or _BY_STATUS.get(status or 0) or UpstreamError
    if kind is UpstreamError and status is not None:
        message = f"HTTP {status}; {message}"
    error = kind(message, param=param if isinstance(param, str) else None)
    if isinstance(error, ServiceError):
        error.retry_after_s = retry_after_s
    return error
