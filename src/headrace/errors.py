"""Every error headrace raises on purpose: one tree, whose classes know code, status and retry.

    HeadraceError                     internal_error          500
    ├── UserError                     invalid_request         400   the caller can mend it
    │   ├── InvalidParameter          invalid_parameter       400   names field, value and limit
    │   ├── UnsupportedParameter      unsupported_parameter   400   known, but not honoured
    │   ├── UnknownParameter          unknown_parameter       400   a field nobody knows
    │   ├── ContextLengthExceeded     context_length_exceeded 400
    │   ├── TemplateError             template_error          400   a template is absent or raised
    │   ├── Unauthorized              invalid_api_key         401
    │   ├── PermissionDenied          permission_denied       403   a key without the right
    │   ├── NotFound                  not_found               404
    │   │   └── ModelNotFound         model_not_found         404
    │   ├── MethodNotAllowed          method_not_allowed      405
    │   ├── Conflict                  conflict                409   the name is taken
    │   ├── PayloadTooLarge           payload_too_large       413
    │   ├── LimitExceeded             invalid_request         400   says what is left, until when
    │   │   ├── BudgetExceeded        budget_exceeded         402   money
    │   │   └── RateLimitExceeded     rate_limit_exceeded     429   retryable: requests, tokens
    │   └── RequestTimeout            request_timeout         408   the body did not come in time
    ├── ConfigError                   invalid_config          500   settings; refuses to start
    ├── CheckpointError               invalid_checkpoint      500   refuses to load
    │   └── UnsupportedModel          unsupported_model       500   config.json asks too much
    ├── TokenizerError                invalid_tokenizer       500   refuses to load
    ├── DataError                     invalid_data            500   a corpus or data set
    ├── MissingExtra                  missing_extra           500   one exact `pip install` line
    └── ServiceError                  service_error           503   not the caller's fault
        ├── Overloaded                overloaded              429   retryable, after `retry_after_s`
        ├── NotReady                  not_ready               503   retryable: starting or draining
        ├── StoreUnavailable          store_unavailable       503   retryable: no database, no money
        ├── DeadlineExceeded          deadline_exceeded       504
        ├── WorkerDied                worker_died             503   retryable: the engine restarts
        ├── PlaceForbidden            data_class_forbids      403   its data may not go there
        └── UpstreamError             upstream_error          502   a provider answered nonsense
            └── UpstreamTimeout       upstream_timeout        504   or did not answer in time

A message carries the value and the way out: "`max_tokens` 9000 exceeds context 8192 - prompt 400;
lower it to 7792".
"""

from collections.abc import Mapping
from typing import ClassVar


class HeadraceError(Exception):
    """Root of the tree; as itself it means a bug in headrace."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        """Path of the offending field (`messages[1].content`), where there is one."""

    def retell(self, message: str) -> None:
        """Say more of the same error than who raised it knew."""
        self.message = message
        self.args = (message,)


class UserError(HeadraceError):
    """The caller sent something that cannot be served."""

    code = "invalid_request"
    status = 400


class InvalidParameter(UserError):
    """A field with a wrong type or a value outside its limits."""

    code = "invalid_parameter"


class UnsupportedParameter(UserError):
    """A field or value of the protocol that this server does not honour, refused by name."""

    code = "unsupported_parameter"


class UnknownParameter(UserError):
    """A field that is in no protocol we know."""

    code = "unknown_parameter"


class ContextLengthExceeded(UserError):
    """Prompt and completion do not fit the context; the message has the counts."""

    code = "context_length_exceeded"


class TemplateError(UserError):
    """A chat template that is absent, raised, looped or does not compile."""

    code = "template_error"


class Unauthorized(UserError):
    """No key, or not one we know."""

    code = "invalid_api_key"
    status = 401


class PermissionDenied(UserError):
    """A key that is known but may not do this: a model, a route, a feature, another team's."""

    code = "permission_denied"
    status = 403


class LimitExceeded(UserError):
    """A limit has too little left; `details` say which, how much is left and when there is more."""

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, str | int | None] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.details = details or {}
        self.retry_after_s = retry_after_s
        """Whole seconds until the window ends; None = it never does."""


class BudgetExceeded(LimitExceeded):
    """A budget in money has too little left for the least that the request may cost."""

    code = "budget_exceeded"
    status = 402


class RateLimitExceeded(LimitExceeded):
    """A limit of requests, tokens or concurrency has too little left."""

    code = "rate_limit_exceeded"
    status = 429
    retryable = True


class Conflict(UserError):
    """Something of that name exists, or is still used."""

    code = "conflict"
    status = 409


class NotFound(UserError):
    """No such path or object."""

    code = "not_found"
    status = 404


class ModelNotFound(NotFound):
    """A model name that this server does not serve; the message lists those it does."""

    code = "model_not_found"


class MethodNotAllowed(UserError):
    """A known path called with the wrong HTTP method."""

    code = "method_not_allowed"
    status = 405


class PayloadTooLarge(UserError):
    """A request body over the configured limit."""

    code = "payload_too_large"
    status = 413


class RequestTimeout(UserError):
    """A request body that did not arrive in time."""

    code = "request_timeout"
    status = 408
    retryable = True


class ConfigError(HeadraceError):
    """A setting that is unknown or out of range."""

    code = "invalid_config"


class CheckpointError(HeadraceError):
    """A model directory that is missing something, has too much, or is corrupt."""

    code = "invalid_checkpoint"


class UnsupportedModel(CheckpointError):
    """A model whose config asks for a feature that headrace lacks, named."""

    code = "unsupported_model"


class TokenizerError(HeadraceError):
    """A tokenizer file that cannot be read, or training that cannot be done."""

    code = "invalid_tokenizer"


class DataError(HeadraceError):
    """A corpus or data set that cannot be used as asked."""

    code = "invalid_data"


class MissingExtra(HeadraceError):
    """A feature whose optional dependency is absent: the message is one `pip install` line."""

    code = "missing_extra"


class ServiceError(HeadraceError):
    """The service could not answer; the request itself was fine."""

    code = "service_error"
    status = 503
    usage: object = None
    """The `types.Usage` of what had been delivered before, where the request had begun."""
    begun: bool = False
    """Whether a provider had begun to answer; it is not asked again then."""
    retry_after_s: int | None = None
    """How long to wait before asking again, where it was said."""


class Overloaded(ServiceError):
    """Queue full, in requests or in tokens."""

    code = "overloaded"
    status = 429
    retryable = True

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(ServiceError):
    """Still starting, or draining before shutdown."""

    code = "not_ready"
    retryable = True


class StoreUnavailable(ServiceError):
    """The database cannot be reached; what needs it is refused rather than let through."""

    code = "store_unavailable"
    retryable = True


class DeadlineExceeded(ServiceError):
    """The request's own deadline passed."""

    code = "deadline_exceeded"
    status = 504


class WorkerDied(ServiceError):
    """The engine's process ended while the request ran; it is being restarted."""

    code = "worker_died"
    retryable = True


class PlaceForbidden(ServiceError):
    """A request's data class, or the air gap, forbids the place; another place may still answer."""

    code = "data_class_forbids"
    status = 403


class UpstreamError(ServiceError):
    """A provider's answer was malformed, cut off or an error of its own."""

    code = "upstream_error"
    status = 502
    retryable = True


class UpstreamTimeout(UpstreamError):
    """A provider did not answer, or fell silent, for longer than its timeouts allow."""

    code = "upstream_timeout"
    status = 504
