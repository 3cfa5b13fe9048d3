"""What can go wrong when a server is asked for something: one tree that mirrors the codes of the API.

    StokerError               the root: code, message, field, hint, invocation_id, status, retry_after_s
      ServerUnreachable       nobody answers there, or the connection was lost before the answer
      UnexpectedAnswer        somebody answers, but it is not this API
      RequestRefused          the request breaks the contract; `field` points at the place
        InputRejected         the payload does not fit the function's schema.input
        TooLarge              past a limit of size
      Unauthenticated         no token, or one that the server does not know
      Forbidden               the token lacks a scope
      NotFound                nothing of that name in this account
      Conflict                it does not fit what is there
        NameTaken             another resource of that name
        NotEmpty              a collection that holds functions
        VersionConflict       somebody changed the resource first
        IdempotencyConflict   the key came with another request before
        SecretInUse           a secret that a function lists
        AlreadyEnded          an invocation that cannot be cancelled any more
      LimitReached            over a limit of the account or the function; later it may do
        QuotaExceeded         a quota of the account (`quota.<name>`)
        FunctionBusy          the function's own limit of concurrency
      FunctionFailed          the call ran and did not end well: error_type, stack
        FunctionTimeout       over its timeout
        OutOfMemory           over its memory
        OutputRejected        its result does not fit schema.output
      InvocationStopped       the invocation was cancelled, or expired while it waited
      PlatformFailed          a fault of the server
        NoCapacity            the machine has no room just now
        StorageFull           the disk is full
        InvocationLost        the instance or the machine died under the call

Does not know HTTP beyond the status it was told.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Details:
    """What an answer says of an error, beside its message."""

    code: str
    status: int = 0
    """Of the HTTP answer; 0 if there was none."""
    field: str | None = None
    """JSON Pointer into the request's body or the payload."""
    hint: str | None = None
    invocation_id: str | None = None
    retry_after_s: float | None = None
    error_type: str | None = None
    stack: str | None = None
    incident: str | None = None
    """The id under which the server's log has more."""


class StokerError(Exception):
    """The root. `str()` is the server's message."""

    def __init__(self, message: str, details: Details) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    @property
    def code(self) -> str:
        """The stable code, for instance `not_found`."""
        return self.details.code

    @property
    def status(self) -> int:
        """The status of the HTTP answer; 0 if there was none."""
        return self.details.status

    @property
    def field(self) -> str | None:
        """Where in the request the fault is, as a JSON Pointer."""
        return self.details.field

    @property
    def hint(self) -> str | None:
        """What to do about it."""
        return self.details.hint

    @property
    def invocation_id(self) -> str | None:
        """The invocation it is about."""
        return self.details.invocation_id

    @property
    def retry_after_s(self) -> float | None:
        """After how many seconds the server asks to try again."""
        return self.details.retry_after_s


class ServerUnreachable(StokerError):
    """Nobody answers there, or the connection was lost before the answer."""


class UnexpectedAnswer(StokerError):
    """Somebody answers, but it is not this API."""


class RequestRefused(StokerError):
    """The request breaks the contract; `field` points at the place."""


class InputRejected(RequestRefused):
    """The payload does not fit the function's `schema.input`; nothing ran."""


class TooLarge(RequestRefused):
    """Past a limit of size."""


class Unauthenticated(StokerError):
    """No token, or one that the server does not know."""


class Forbidden(StokerError):
    """The token lacks a scope."""


class NotFound(StokerError):
    """Nothing of that name in this account."""


class Conflict(StokerError):
    """It does not fit what is there."""


class NameTaken(Conflict):
    """Another resource has that name."""


class NotEmpty(Conflict):
    """The collection holds functions."""


class VersionConflict(Conflict):
    """Somebody changed the resource first; read it again and decide anew."""


class IdempotencyConflict(Conflict):
    """The Idempotency-Key came with another request before."""


class SecretInUse(Conflict):
    """A function lists the secret; it is to be deployed without it first."""


class AlreadyEnded(Conflict):
    """The invocation has ended, and that end stays."""


class LimitReached(StokerError):
    """Over a limit of the account or the function; later it may do."""


class QuotaExceeded(LimitReached):
    """Over a quota of the account; the code is `quota.<name>`."""


class FunctionBusy(LimitReached):
    """The function's own limit of concurrency is reached."""


class FunctionFailed(StokerError):
    """The call ran and did not end well."""

    @property
    def error_type(self) -> str | None:
        """The name of what the handler threw."""
        return self.details.error_type

    @property
    def stack(self) -> str | None:
        """The user's frames."""
        return self.details.stack


class FunctionTimeout(FunctionFailed):
    """Over its timeout."""


class OutOfMemory(FunctionFailed):
    """Over its memory."""


class OutputRejected(FunctionFailed):
    """Its result does not fit `schema.output`, or is no JSON."""


class InvocationStopped(StokerError):
    """The invocation was cancelled, or expired while it waited."""


class PlatformFailed(StokerError):
    """A fault of the server."""


class NoCapacity(PlatformFailed):
    """The machine has no room just now."""


class StorageFull(PlatformFailed):
    """The disk is full."""


class InvocationLost(PlatformFailed):
    """The instance or the machine died under the call."""


ERROR_OF_CODE: dict[str, type[StokerError]] = {
    "request.invalid": RequestRefused,
    "request.timeout": RequestRefused,
    "method_not_allowed": RequestRefused,
    "schema.input": InputRejected,
    "too_large": TooLarge,
    "auth.missing": Unauthenticated,
    "auth.invalid": Unauthenticated,
    "auth.forbidden": Forbidden,
    "not_found": NotFound,
    "name_taken": NameTaken,
    "not_empty": NotEmpty,
    "version_conflict": VersionConflict,
    "idempotency.conflict": IdempotencyConflict,
    "idempotency.in_progress": Conflict,
    "secret.in_use": SecretInUse,
    "invocation.ended": AlreadyEnded,
    "function.busy": FunctionBusy,
    "function.error": FunctionFailed,
    "function.load_failed": FunctionFailed,
    "function.exited": FunctionFailed,
    "function.too_many_processes": FunctionFailed,
    "function.timeout": FunctionTimeout,
    "function.out_of_memory": OutOfMemory,
    "function.result_invalid": OutputRejected,
    "function.result_too_large": OutputRejected,
    "schema.output": OutputRejected,
    "invocation.cancelled": InvocationStopped,
    "invocation.expired": InvocationStopped,
    "no_capacity": NoCapacity,
    "storage.full": StorageFull,
    "platform.lost": InvocationLost,
    "platform.error": PlatformFailed,
}

_ERROR_OF_STATUS: dict[int, type[StokerError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    429: LimitReached,
}


def error_of(message: str, details: Details) -> StokerError:
    """Return the error for a code; one that is not known here is told by its kind, then its status."""
    kind = ERROR_OF_CODE.get(details.code)
    if kind is None:
        if details.code.startswith("quota."):
            kind = QuotaExceeded
        elif details.code.startswith("function."):
            kind = FunctionFailed
        else:
            kind = _ERROR_OF_STATUS.get(
                details.status, PlatformFailed if details.status >= 500 else RequestRefused
            )
    return kind(message, details)
