"""What went wrong, said so that one knows what to do; and the exit codes of the operating contract.

Does not know commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stoker.cli.screen import Screen
    from stoker.client.errors import StokerError

FUNCTION_FAILED = 1
WRONG_USAGE = 2
REFUSED = 3
_HINTS = {
    "auth.missing": "STOKER_TOKEN or --token gives one",
    "auth.invalid": "STOKER_TOKEN or --token gives one that this server knows; it may have expired",
    "auth.forbidden": "a token that may do it makes another: `stoker tokens create NAME --scope SCOPE`",
    "version_conflict": "somebody changed it meanwhile; the same command again takes that into account",
    "no_capacity": "the machine is busy, or its store is away; /readyz of the server says which",
}
"""What to do, where the server does not say it."""
INTERRUPTED = 130
"""As a shell says it of a program that Ctrl-C ended."""


class WrongUsage(Exception):
    """What was typed, or a file that it names, cannot be meant; says what to type."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def exit_code_of(error: StokerError) -> int:
    """Return 1 if the function failed, else 3."""
    from stoker.client.errors import FunctionFailed, InvocationStopped

    return FUNCTION_FAILED if isinstance(error, (FunctionFailed, InvocationStopped)) else REFUSED


def document_of(error: StokerError) -> dict[str, Any]:
    """Return an error as JSON shows it; what is not known is left out."""
    details = error.details
    members = {
        "error": error.message,
        "code": error.code,
        "field": error.field,
        "hint": error.hint,
        "invocation_id": error.invocation_id,
        "retry_after": error.retry_after_s,
        "error_type": details.error_type,
        "stack": details.stack,
        "id": details.incident,
    }
    return {name: value for name, value in members.items() if value is not None}


def show_error(screen: Screen, error: StokerError) -> int:
    """Say on standard error what went wrong, as JSON on standard output; return the exit code."""
    if screen.json:
        screen.document(document_of(error))
        return exit_code_of(error)
    details = error.details
    kind = f"{details.error_type}: " if details.error_type else ""
    screen.note(f"{screen.red('stoker:')} {kind}{error.message}")
    if details.stack:
        screen.note(indented(details.stack, "  "))
    if error.field:
        screen.note(f"  at {error.field}")
    hint = error.hint or _HINTS.get(error.code)
    if hint:
        screen.note(f"  hint: {hint}")
    if error.retry_after_s:
        screen.note(f"  try again in {error.retry_after_s:g} s")
    if details.incident:
        screen.note(f"  the server's log has more under {details.incident}")
    if error.invocation_id:
        screen.note(screen.dim(f"  {error.code}, invocation {error.invocation_id}"))
    return exit_code_of(error)


def show_wrong_usage(screen: Screen, error: WrongUsage) -> int:
    """Say what cannot be meant; return the exit code."""
    if screen.json:
        screen.document(
            {"error": error.message, "code": "usage"} | ({"hint": error.hint} if error.hint else {})
        )
        return WRONG_USAGE
    screen.note(f"{screen.red('stoker:')} {error.message}")
    if error.hint:
        screen.note(f"  hint: {error.hint}")
    return WRONG_USAGE


def indented(text: str, by: str) -> str:
    """Return lines moved to the right."""
    return "\n".join(by + line.strip() for line in text.splitlines())
