"""When a request is sent again, as a decision by numbers. Does not wait or send.

A request that was refused for now (429, 503) is sent again if repeating it does no more than sending it
once; one that was never carried out (429 tells so, a refused connection too) always. A function that
failed has answered: that is never repeated here.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoker.client.errors import NoCapacity, ServerUnreachable, StokerError

IN_PROGRESS = "idempotency.in_progress"
NEVER_SENT = "client.unreachable"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long somebody is willing to try."""

    retries: int = 4
    """How often a request is sent again: with the pauses below these are some three seconds."""
    pause_s: float = 0.2
    """Before the second try; doubles, and is drawn from its upper half, so that clients spread."""
    pause_s_max: float = 60.0
    """A server that asks for more than this is not waited for."""


NO_PATIENCE = Patience(retries=0)


def pause_s(
    error: StokerError, *, repeatable: bool, tried: int, patience: Patience, chance: float
) -> float | None:
    """Return after how many seconds to send it again, None to give up.

    `tried` counts what was sent, `chance` is random, from 0 to 1.
    """
    if error.code == IN_PROGRESS:
        # the first one still runs, and its outcome is ours: how long is bounded by the function's timeout
        return _at_least(error, 0.5) if patience.retries else None
    if tried > patience.retries or not _may_repeat(error, repeatable):
        return None
    pause = _at_least(error, patience.pause_s * 2 ** (tried - 1) * (0.5 + chance / 2))
    return pause if pause <= patience.pause_s_max else None


def _may_repeat(error: StokerError, repeatable: bool) -> bool:
    if error.status == 429 or error.code == NEVER_SENT:
        return True
    return repeatable and isinstance(error, (NoCapacity, ServerUnreachable))


def _at_least(error: StokerError, pause: float) -> float:
    return max(pause, error.retry_after_s or 0.0)
