"""Retry: what becomes of a failed Async invocation, decided by numbers alone.

Source: the contract's table *What can end a call*, and `retry` of a function. Does not know clocks,
stores or instances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stoker.model.function import Retry

TRIED_AGAIN = frozenset(
    {
        "function.error",
        "function.exited",
        "function.timeout",
        "function.out_of_memory",
        "function.too_many_processes",
        "platform.lost",
    }
)
NO_DEAD_LETTER = frozenset({"invocation.cancelled", "invocation.expired"})
JITTER = 0.2
"""A wait is up to a fifth longer than its backoff, so that what failed together does not come together."""


@dataclass(frozen=True, slots=True)
class Again:
    """It is tried again after a wait."""

    wait_ms: int


@dataclass(frozen=True, slots=True)
class Final:
    """It has ended."""

    dead: bool
    """Whether it is a dead letter."""


def policy_of(given: dict[str, Any] | None) -> Retry:
    """Read a function's `retry` as it was given; what is absent has its default."""
    given = given or {}
    default = Retry()

    def value(name: str, otherwise: int) -> int:
        found = given.get(name)
        return otherwise if found is None else int(found)

    return Retry(
        attempts=value("attempts", default.attempts),
        backoff_ms=value("backoff_ms", default.backoff_ms),
        max_age_ms=value("max_age_ms", default.max_age_ms),
    )


def after_attempt(
    code: str | None, attempts: int, age_ms: int, policy: Retry, random: Callable[[], float]
) -> Again | Final:
    """Return what follows attempt number `attempts`, which ended with `code` at this age.

    The wait doubles with each attempt. One that would begin later than `max_age_ms` is not made. Attempts
    are counted from 1; 0 is one that was lost before it is known to have begun.
    """
    if code is None:
        return Final(dead=False)
    if code not in TRIED_AGAIN:
        return Final(dead=code not in NO_DEAD_LETTER)
    if attempts >= policy.attempts:
        return Final(dead=True)
    doubled = policy.backoff_ms << min(max(attempts - 1, 0), 32)
    wait_ms = doubled + int(doubled * JITTER * random())
    if age_ms + wait_ms > policy.max_age_ms:  # not cut short: due at that very moment, it would expire
        return Final(dead=True)
    return Again(wait_ms)


def has_expired(age_ms: int, policy: Retry) -> bool:
    """Tell whether an invocation has waited for longer than its function allows."""
    return age_ms > policy.max_age_ms
