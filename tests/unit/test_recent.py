"""Recent invocations: what can be looked up, by whom and for how long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stoker.model.call import Call, text_of
from stoker.model.errors import NotFound
from stoker.model.outcome import Failure, Outcome
from stoker.records.recent import RecentInvocations
from stoker.testing.functions import a_function
from stoker.testing.invocation import an_outcome

DAY_MS = 24 * 3600 * 1000


class Clock:
    now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


def a_call(number: int = 1, *, account: str = "default", **monitor: Any) -> Call:
    function = replace(a_function(), account=account, monitor_config=monitor)
    return Call(
        number.to_bytes(16, "big"),
        function,
        b"{}",
        queued_at=0.0,
        created_ms=5,
        caller="administrator",
        ended=lambda call, outcome: None,
    )


def ended(recent: RecentInvocations, call: Call, outcome: Outcome | None = None) -> str:
    recent.ended(call, outcome or an_outcome(b"1"))
    return text_of(call.id)


def found(recent: RecentInvocations, invocation_id: str, account: str = "default") -> bool:
    try:
        recent.find(account, invocation_id)
    except NotFound:
        return False
    return True


def test_an_ended_call_can_be_looked_up() -> None:
    recent = RecentInvocations()
    outcome = an_outcome(b"1", log=b"line")

    record = recent.find("default", ended(recent, a_call(), outcome))

    assert (record.subject, record.version) == ("ms.compute.tools.function.3970185486", 1)
    assert (record.created_ms, record.caller, record.outcome) == (5, "administrator", outcome)


@pytest.mark.parametrize("invocation_id", ["", "x", "0" * 31, "0" * 32, "ü", "-" * 32])
def test_what_is_not_there_is_not_found(invocation_id: str) -> None:
    recent = RecentInvocations()
    ended(recent, a_call())

    with pytest.raises(NotFound):
        recent.find("default", invocation_id)


def test_what_is_another_accounts_is_not_found() -> None:
    recent = RecentInvocations()

    invocation_id = ended(recent, a_call(account="other"))

    assert found(recent, invocation_id, "other")
    assert not found(recent, invocation_id, "default")


@pytest.mark.parametrize(
    ("monitor", "kept_ms"),
    [({}, 7 * DAY_MS), ({"ttl": None}, 7 * DAY_MS), ({"ttl": 1}, 1000), ({"ttl": 5000}, 5000)],
)
def test_a_record_is_kept_for_its_ttl(monitor: dict[str, Any], kept_ms: int) -> None:
    clock = Clock()
    recent = RecentInvocations(now_ms=clock)
    invocation_id = ended(recent, a_call(**monitor))

    clock.now_ms += kept_ms - 1
    before = found(recent, invocation_id)
    clock.now_ms += 1

    assert before
    assert not found(recent, invocation_id)


def test_a_ttl_of_0_keeps_nothing() -> None:
    recent = RecentInvocations()

    assert not found(recent, ended(recent, a_call(ttl=0)))


def test_the_oldest_go_first_when_there_are_too_many() -> None:
    recent = RecentInvocations(count_max=2)

    ids = [ended(recent, a_call(number)) for number in range(3)]

    assert [found(recent, one) for one in ids] == [False, True, True]


def test_the_oldest_go_first_when_their_logs_are_too_large() -> None:
    recent = RecentInvocations(bytes_max=100)

    ids = [ended(recent, a_call(number), an_outcome(log=b"x" * 40)) for number in range(4)]
    too_large = ended(recent, a_call(9), an_outcome(log=b"x" * 101))
    after = ended(recent, a_call(10), an_outcome(log=b"x" * 100))

    assert [found(recent, one) for one in ids] == [False] * 4
    assert (found(recent, too_large), found(recent, after)) == (False, True)


def test_what_failing_functions_say_counts_like_a_log() -> None:
    recent = RecentInvocations(bytes_max=100)
    said = Failure("function.error", "x" * 20, "y" * 10, "z" * 10)

    ids = [ended(recent, a_call(number), an_outcome(failure=said)) for number in range(3)]

    assert [found(recent, one) for one in ids] == [False, True, True]


def test_payloads_and_large_results_are_not_kept_alive() -> None:
    recent = RecentInvocations()
    call = a_call()

    record = recent.find("default", ended(recent, call, an_outcome(b'"' + b"x" * 2000 + b'"')))

    assert record.outcome.result is None
    assert call.payload == b""
