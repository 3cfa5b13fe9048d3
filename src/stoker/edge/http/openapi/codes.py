"""Codes: an example of every refusal and failure, as it is answered.

Does not know who answers what. The statuses are those of `edge/errors.py`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from stoker.edge.http.openapi.parameters import INVOCATION_ID

ALWAYS = ("request.invalid", "request.timeout", "too_large", "platform.error")
"""What every request may be refused with, whatever it asks for."""
AUTHENTICATED = ("auth.missing", "auth.invalid")
STORING = ("storage.full", "no_capacity")
"""What is stored may find the disk full, or the store away."""
FAILURES = (
    "function.error",
    "function.load_failed",
    "function.exited",
    "function.timeout",
    "function.out_of_memory",
    "function.too_many_processes",
    "function.result_invalid",
    "function.result_too_large",
    "schema.output",
    "invocation.cancelled",
    "platform.lost",
)
"""How a call that ran may end."""
CALLING = (
    "schema.input",
    "function.busy",
    "quota.invocations_per_minute",
    "quota.concurrent_invocations",
    "quota.calls_per_minute",
    "no_capacity",
)
"""What a call may be refused with that is well formed."""

_QUOTA_HINT = "GET /limits tells quotas and their use"


def _refusal(error: str, **more: Any) -> dict[str, Any]:
    return {"error": error, **more}


def _failure(error: str, **more: Any) -> dict[str, Any]:
    return {"error": error, **more, "invocation_id": INVOCATION_ID}


_EXAMPLES = {
    "request.invalid": _refusal("name is required", field="/name"),
    "auth.missing": _refusal("no token was sent", hint="send Authorization: Bearer <token>, or X-Api-Key"),
    "auth.invalid": _refusal("the token is not known here"),
    "auth.forbidden": _refusal("the token lacks the scope functions:write"),
    "not_found": _refusal("no such function"),
    "request.timeout": _refusal("the request did not arrive whole in time"),
    "name_taken": _refusal("a function of the collection has that name already", field="/name"),
    "not_empty": _refusal("the collection holds functions", hint="delete them first"),
    "version_conflict": _refusal("the function has changed since; read it again and decide anew"),
    "idempotency.conflict": _refusal(
        "the Idempotency-Key was used with another request", hint="a new request needs a key of its own"
    ),
    "idempotency.in_progress": _refusal("the first call with the Idempotency-Key still runs", retry_after=1),
    "invocation.ended": _refusal("the invocation has ended already, as ok"),
    "secret.in_use": _refusal("functions list the secret", hint="take it out of their secrets first"),
    "too_large": _refusal("the request's body is larger than 67108864 bytes"),
    "schema.input": _refusal('"name" is a required property', field="/payload"),
    "function.busy": _refusal("1000 calls of the function wait already", retry_after=1),
    "quota.functions": _refusal("the quota is 10 functions", hint=_QUOTA_HINT, retry_after=60),
    "quota.code_bytes": _refusal("the quota is 1048576 bytes of code", hint=_QUOTA_HINT, retry_after=60),
    "quota.invocations_per_minute": _refusal(
        "the quota is 600 invocations a minute", hint=_QUOTA_HINT, retry_after=12
    ),
    "quota.concurrent_invocations": _refusal(
        "the quota is 10 invocations at once", hint=_QUOTA_HINT, retry_after=1
    ),
    "quota.calls_per_minute": _refusal(
        "the quota is 60 calls a minute with this token", hint=_QUOTA_HINT, retry_after=31
    ),
    "quota.tokens": _refusal("an account has at most 1000 tokens", retry_after=60),
    "quota.secrets": _refusal("an account has at most 1000 secrets", retry_after=60),
    "platform.error": _refusal(
        "an internal error; the server's log has it under this id", id="9e107d9d372bb6826bd81d3542a419d6"
    ),
    "no_capacity": _refusal(
        "the machine has no room for another instance just now", id="1f3870be", retry_after=1
    ),
    "storage.full": _refusal("the disk is full", hint="delete something", id="5d41402a"),
    "function.error": _failure(
        "no such city", error_type="Error", stack="Error: no such city\n    at handler (/code/index.js:3:9)"
    ),
    "function.load_failed": _failure("index.js has no export 'handler'", error_type="MissingExport"),
    "function.exited": _failure("the process ended with exit code 1"),
    "function.timeout": _failure("the function ran longer than 30000 ms"),
    "function.out_of_memory": _failure("the function used more than 512 MB of memory"),
    "function.too_many_processes": _failure("the function started more than 64 processes and threads"),
    "function.result_invalid": _failure(
        "the result is not JSON: Do not know how to serialize a BigInt", error_type="TypeError"
    ),
    "function.result_too_large": _failure("the result is larger than 6291456 bytes"),
    "schema.output": _failure(
        "the result does not fit schema.output: 1 is not of type string", field="/message"
    ),
    "invocation.cancelled": _failure("the call was cancelled"),
    "platform.lost": _failure("the instance was lost under the call"),
}
EXAMPLES = MappingProxyType(
    {
        code: {"error": example["error"], "code": code, **{k: v for k, v in example.items() if k != "error"}}
        for code, example in _EXAMPLES.items()
    }
)
"""The body of an answer by its code."""
