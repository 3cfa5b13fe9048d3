"""Quotas: what an account may have and do, how much of it is used, and when that is too much.

What decides is pure: numbers and times in, a decision out. `Usage` is the one place where calls are counted;
what is stored is counted by the fold. Rates and calls under way are counted from the server's start on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol

from stoker.catalog.principal import Principal, Rate
from stoker.model.errors import QuotaExceeded

MINUTE_S = 60.0
STORED_AGAIN_S = 60
"""When to come back for room: nobody knows, as somebody has to delete something first."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """The most that an account may have or do; None where nothing is said, and then there is no limit."""

    functions: int | None = None
    """Functions that exist."""
    code_bytes: int | None = None
    """Contents of all versions and stored objects, each once."""
    concurrent_invocations: int | None = None
    """Calls that run or wait for an instance. Accepted Async invocations wait for their turn beyond it."""
    invocations_per_minute: int | None = None
    record_bytes: int | None = None
    """Records, dead letters and queued invocations; past it the oldest ended ones go first."""


QUOTAS = tuple(field.name for field in fields(Quotas))
UNLIMITED = Quotas()


def fits(limit: int | None, used: int, more: int) -> bool:
    """Tell whether there is room for `more` under a limit; nothing more always fits."""
    return limit is None or not more or used + more <= limit


Minute = tuple[float, int]
"""When a minute began, with its first call, in seconds; and how many calls it has seen."""
NO_MINUTE: Minute = (-math.inf, 0)


def counted(minute: Minute, now_s: float) -> Minute:
    """Return the minute with one more call, or the new one that the call begins."""
    began_s, count = minute
    return (now_s, 1) if now_s - began_s >= MINUTE_S else (began_s, count + 1)


def used_in(minute: Minute, now_s: float) -> int:
    """Return how many calls are in the minute that is now."""
    began_s, count = minute
    return count if now_s - began_s < MINUTE_S else 0


def wait_s(minute: Minute, limit: int | None, now_s: float) -> int | None:
    """Return in how many whole seconds one more call fits; None if it does now."""
    used = used_in(minute, now_s)
    if limit is None or used < limit:
        return None
    return math.ceil(minute[0] + MINUTE_S - now_s) if used else int(MINUTE_S)


class Meter:
    """What an account's calls come to just now."""

    __slots__ = ("minute", "quotas", "running")

    def __init__(self) -> None:
        self.quotas = UNLIMITED
        self.minute: Minute = NO_MINUTE
        self.running = 0


class Limited(Protocol):
    """An account."""

    @property
    def id(self) -> str: ...

    @property
    def quotas(self) -> Quotas: ...


class Usage:
    """The counters of all accounts and of all tokens that have a rate."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._meters: dict[str, Meter] = {}
        self._over_records: frozenset[str] = frozenset()
        self._rates: dict[str, Minute] = {}
        """By the id of the token that has the rate."""

    def limit(self, account: Limited) -> None:
        """Take over an account's quotas."""
        self.meter(account.id).quotas = account.quotas

    def forget(self, account: str) -> None:
        """Let go of an account that is no more."""
        self._meters.pop(account, None)

    def meter(self, account: str) -> Meter:
        """Return an account's figures; to be changed by this module alone."""
        meter = self._meters.get(account)
        if meter is None:
            meter = self._meters[account] = Meter()
        return meter

    # -- calls -----------------------------------------------------------------------------------

    def call(self, principal: Principal) -> None:
        """Count one more call of an account, and of a token that has a rate.

        Raises QuotaExceeded, and then nothing is counted.
        """
        now_s = self._clock()
        meter = self._meters.get(principal.account) or self.meter(principal.account)
        minute = meter.minute
        limit = meter.quotas.invocations_per_minute
        if limit is not None and (again_s := wait_s(minute, limit, now_s)) is not None:
            raise _exceeded("invocations_per_minute", limit, again_s)
        if principal.rates:
            self._count_rates(principal, now_s)
        meter.minute = counted(minute, now_s)

    def _count_rates(self, principal: Principal, now_s: float) -> None:
        for rate in principal.rates:
            again_s = wait_s(self._rate(rate.token_id), rate.per_minute, now_s)
            if again_s is not None:
                raise _exceeded("calls_per_minute", rate.per_minute, again_s, whose="the token's")
        for rate in principal.rates:
            self._rates[rate.token_id] = counted(self._rate(rate.token_id), now_s)
        if len(self._rates) > 10_000:
            self._rates = {
                token_id: minute for token_id, minute in self._rates.items() if used_in(minute, now_s)
            }

    def _rate(self, token_id: str) -> Minute:
        return self._rates.get(token_id) or NO_MINUTE

    def not_called(self, principal: Principal) -> None:
        """Take a call back that was counted and did not come about."""
        meter = self.meter(principal.account)
        meter.minute = _one_less(meter.minute)
        for rate in principal.rates:
            if rate.token_id in self._rates:
                self._rates[rate.token_id] = _one_less(self._rates[rate.token_id])

    def begin(self, account: str) -> None:
        """Count one more call under way. Raises QuotaExceeded, and then it is not counted."""
        meter = self._meters.get(account) or self.meter(account)
        limit = meter.quotas.concurrent_invocations
        if limit is not None and meter.running >= limit:
            raise _exceeded("concurrent_invocations", limit, 1)
        meter.running += 1

    def has_room(self, account: str) -> bool:
        """Tell whether one more call may be under way."""
        meter = self.meter(account)
        return fits(meter.quotas.concurrent_invocations, meter.running, 1)

    def end(self, account: str) -> None:
        """Count one call less under way."""
        meter = self._meters.get(account)
        if meter is not None and meter.running:
            meter.running -= 1

    def records_over(self, accounts: frozenset[str]) -> None:
        """Take note of which accounts have more than their `record_bytes` in what has not ended."""
        self._over_records = accounts

    def require_record_room(self, account: str) -> None:
        """Raise QuotaExceeded if an account may not have one more that is stored before it runs."""
        if account in self._over_records:
            limit = self.meter(account).quotas.record_bytes
            if limit is not None:
                raise _exceeded("record_bytes", limit, 1)

    # -- what is stored --------------------------------------------------------------------------

    def require(self, account: str, quota: str, used: int, more: int) -> None:
        """Raise QuotaExceeded if an account may not have so much more of `functions` or `code_bytes`."""
        limit: int | None = getattr(self.meter(account).quotas, quota)
        if limit is not None and not fits(limit, used, more):
            raise _exceeded(quota, limit, STORED_AGAIN_S)

    # -- telling ---------------------------------------------------------------------------------

    def calls_of(self, account: str) -> int:
        """Return how many calls the account has made in the minute that is now."""
        return used_in(self.meter(account).minute, self._clock())

    def calls_with(self, rate: Rate) -> int:
        """Return how many of them were made with what a rate counts."""
        return used_in(self._rate(rate.token_id), self._clock())


def _one_less(minute: Minute) -> Minute:
    return minute[0], max(0, minute[1] - 1)


def _exceeded(quota: str, limit: int, again_s: int, *, whose: str = "the account's") -> QuotaExceeded:
    told = f"{whose} {quota} is {limit}, and there is no room for this within it"
    return QuotaExceeded(quota, told, hint="GET /limits tells what is used", retry_after_s=again_s)
