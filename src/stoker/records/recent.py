"""Recent invocations, in memory: the last ones of all accounts, with their logs.

A look back for who debugs a function, bounded by count and bytes, and gone with the server. Knows no
HTTP; stores nothing.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from stoker.model.call import Call, text_of
from stoker.model.errors import NotFound
from stoker.model.limits import MIB, TTL_MS_DEFAULT
from stoker.model.outcome import Outcome
from stoker.model.record import TTL_MS_MIN


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _size(outcome: Outcome) -> int:
    """Return what of an outcome its function could make large."""
    failure = outcome.failure
    if failure is None:
        return len(outcome.log)
    texts = (failure.error, failure.error_type, failure.stack, failure.field)
    return len(outcome.log) + sum(len(text) for text in texts if text is not None)


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one ended invocation."""

    invocation_id: str
    account: str
    subject: str
    version: int
    created_ms: int
    caller: str
    outcome: Outcome


class RecentInvocations:
    """The last invocations, oldest first out, none longer than its function's `monitor_config.ttl`."""

    def __init__(
        self,
        *,
        count_max: int = 2_000,
        bytes_max: int = 16 * MIB,
        now_ms: Callable[[], int] = _now_ms,
    ) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._now_ms = now_ms
        self._kept: OrderedDict[bytes, tuple[Call, Outcome, int]] = OrderedDict()
        """Call, outcome and the time until which it is kept."""

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Keep an ended call, unless its function asks for no record (`ttl` 0)."""
        ttl_ms = call.function.monitor_config.get("ttl")
        if ttl_ms == 0:
            return
        if outcome.result and len(outcome.result) > 1024:  # results are not looked up: keep none alive
            outcome = replace(outcome, result=None)
        call.payload = b""
        kept = self._kept
        kept_ms = TTL_MS_DEFAULT if ttl_ms is None else max(TTL_MS_MIN, ttl_ms)
        kept[call.id] = (call, outcome, self._now_ms() + kept_ms)
        self._bytes += _size(outcome)
        while len(kept) > self._count_max or self._bytes > self._bytes_max:
            _, (_, oldest, _) = kept.popitem(last=False)
            self._bytes -= _size(oldest)

    def find(self, account: str, invocation_id: str) -> Record:
        """Return an account's record by the id that its caller was given. Raises NotFound."""
        try:
            key = bytes.fromhex(invocation_id.replace("-", ""))
        except ValueError:
            raise NotFound("no such invocation") from None
        found = self._kept.get(key)
        if found is None or found[0].function.account != account or self._now_ms() >= found[2]:
            raise NotFound("no such invocation")
        call, outcome, _ = found
        return Record(
            invocation_id=text_of(call.id),
            account=account,
            subject=call.function.subject,
            version=call.function.code.version,
            created_ms=call.created_ms,
            caller=call.caller,
            outcome=outcome,
        )
