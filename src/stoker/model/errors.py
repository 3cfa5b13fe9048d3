"""The family of errors: one root with a stable `code` and a `fault`.

Does not know status codes: only `edge/http` maps a code to a status. A failing *function* is an
Outcome, never one of these; these are what keeps a request from being carried out.

    StokerError
      InvalidRequest      the request breaks the contract; names the field
      Unauthenticated     no credential, or one that is not ours
      Forbidden           the credential lacks a scope
      NotFound            nothing of that name in this account
      MethodNotAllowed    the path exists, the verb does not
      NameTaken           another resource of that name
      NotEmpty            a collection that holds functions
      VersionConflict     somebody changed the resource first
      IdempotencyConflict the key came with another request before
      IdempotencyInProgress the first request with the key still runs
      AlreadyEnded        an invocation that cannot be cancelled any more
      TooLarge            past a limit of size
      QuotaExceeded       past a quota of the account, or a rate of the token
      SecretInUse         a secret that functions list
      FunctionBusy        the function's own limit of concurrency
      NoCapacity          the machine has no room
      StorageFull         the disk is full
      Unavailable         the backbone does not answer just now
      PlatformError       a fault of ours; hides internals
"""

from __future__ import annotations

from enum import Enum


class Fault(Enum):
    """Who broke the rule."""

    CALLER = "caller"
    FUNCTION = "function"
    PLATFORM = "platform"


class StokerError(Exception):
    """The root. `message` is for the caller and names no internals."""

    code = "platform.error"
    fault = Fault.PLATFORM

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        hint: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        """JSON Pointer into the request body, for instance `/compute_asset/handler`."""
        self.hint = hint
        self.retry_after_s = retry_after_s


class InvalidRequest(StokerError):
    """The request breaks the contract; `field` points at the place."""

    code, fault = "request.invalid", Fault.CALLER


class InputRejected(StokerError):
    """A payload that its function's `schema.input` does not allow; nothing ran."""

    code, fault = "schema.input", Fault.CALLER


class Unauthenticated(StokerError):
    """No credential (`auth.missing`), or one that is not ours (`auth.invalid`)."""

    code, fault = "auth.invalid", Fault.CALLER

    def __init__(self, message: str, *, missing: bool = False, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = "auth.missing" if missing else "auth.invalid"


class Forbidden(StokerError):
    """The credential is known and lacks the scope."""

    code, fault = "auth.forbidden", Fault.CALLER


class NotFound(StokerError):
    """Nothing of that name in this account."""

    code, fault = "not_found", Fault.CALLER


class MethodNotAllowed(StokerError):
    """The path exists, the verb does not."""

    code, fault = "method_not_allowed", Fault.CALLER

    def __init__(self, message: str, *, allow: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allow = allow


class NameTaken(StokerError):
    """Another resource has that name already."""

    code, fault = "name_taken", Fault.CALLER


class NotEmpty(StokerError):
    """The collection holds functions, which would go with it."""

    code, fault = "not_empty", Fault.CALLER


class VersionConflict(StokerError):
    """Somebody changed the resource first; read it again and decide anew."""

    code, fault = "version_conflict", Fault.CALLER


class IdempotencyConflict(StokerError):
    """The Idempotency-Key came with another request before."""

    code, fault = "idempotency.conflict", Fault.CALLER


class IdempotencyInProgress(StokerError):
    """The first request with the Idempotency-Key still runs; a later attempt is answered as it was."""

    code, fault = "idempotency.in_progress", Fault.CALLER


class AlreadyEnded(StokerError):
    """The invocation has ended, and that end stays."""

    code, fault = "invocation.ended", Fault.CALLER


class TooLarge(StokerError):
    """Past a limit of size."""

    code, fault = "too_large", Fault.CALLER


class QuotaExceeded(StokerError):
    """Past a quota of the account, or a rate of the token; `code` is `quota.<name>`."""

    fault = Fault.CALLER

    def __init__(
        self, quota: str, message: str, *, hint: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message, hint=hint, retry_after_s=retry_after_s)
        self.code = f"quota.{quota}"


class SecretInUse(StokerError):
    """Functions list the secret: without it they could not start."""

    code, fault = "secret.in_use", Fault.CALLER


class FunctionBusy(StokerError):
    """The function's own limit of instances or of waiting calls is reached."""

    code, fault = "function.busy", Fault.CALLER


class NoCapacity(StokerError):
    """The machine has no room for another instance just now; a later attempt may succeed."""

    code, fault = "no_capacity", Fault.PLATFORM


class StorageFull(StokerError):
    """The disk is full: nothing new is accepted, what runs goes on."""

    code, fault = "storage.full", Fault.PLATFORM


class Unavailable(StokerError):
    """The backbone does not answer just now; answered as `no_capacity` with Retry-After."""

    code, fault = "no_capacity", Fault.PLATFORM


class PlatformError(StokerError):
    """A fault of ours. The message hides internals; the log has them."""

    code, fault = "platform.error", Fault.PLATFORM
