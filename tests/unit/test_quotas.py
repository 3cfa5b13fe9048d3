"""Quotas: what decides them is pure, and what is counted is counted once."""

from __future__ import annotations

import pytest

from stoker.catalog.principal import Principal, Rate
from stoker.catalog.quotas import (
    MINUTE_S,
    NO_MINUTE,
    QUOTAS,
    Minute,
    Quotas,
    Usage,
    counted,
    fits,
    used_in,
    wait_s,
)
from stoker.catalog.stored import Account
from stoker.model.errors import QuotaExceeded

WHO = Principal("default", "t", frozenset({"*"}))


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    def __init__(self, **quotas: int) -> None:
        self.clock = Clock()
        self.usage = Usage(clock=self.clock)
        self.usage.limit(Account("default", "default", Quotas(**quotas)))

    def called(self, principal: Principal = WHO) -> str | None:
        """Return the code that a call is refused with."""
        try:
            self.usage.call(principal)
        except QuotaExceeded as error:
            return error.code
        return None


def test_the_quotas_are_those_of_the_contract() -> None:
    assert QUOTAS == (
        "functions",
        "code_bytes",
        "concurrent_invocations",
        "invocations_per_minute",
        "record_bytes",
    )


@pytest.mark.parametrize(
    ("limit", "used", "more", "expected"),
    [
        (None, 10**12, 10**12, True),
        (3, 2, 1, True),
        (3, 3, 1, False),
        (3, 2, 2, False),
        (0, 0, 1, False),
        (3, 5, 0, True),  # lowered below what there is: what is there stays
    ],
)
def test_what_fits_is_at_most_the_limit(limit: int | None, used: int, more: int, expected: bool) -> None:
    assert fits(limit, used, more) is expected


def test_a_minute_begins_with_its_first_call_and_lasts_sixty_seconds() -> None:
    minute = counted(NO_MINUTE, 100.0)
    assert minute == (100.0, 1)
    assert counted(minute, 159.9) == (100.0, 2)
    assert counted((100.0, 9), 160.0) == (160.0, 1)
    assert [used_in((100.0, 9), now_s) for now_s in (100.0, 159.9, 160.0)] == [9, 9, 0]


@pytest.mark.parametrize(
    ("minute", "limit", "now_s", "expected"),
    [
        (NO_MINUTE, 1, 5.0, None),
        (NO_MINUTE, 0, 5.0, 60),
        ((100.0, 2), None, 101.0, None),
        ((100.0, 2), 3, 101.0, None),
        ((100.0, 3), 3, 100.0, 60),
        ((100.0, 3), 3, 159.5, 1),
        ((100.0, 3), 3, 130.2, 30),
        ((100.0, 3), 3, 160.0, None),
        ((100.0, 3), 0, 160.0, 60),
    ],
)
def test_who_has_to_wait_is_told_for_how_many_whole_seconds(
    minute: Minute, limit: int | None, now_s: float, expected: int | None
) -> None:
    assert wait_s(minute, limit, now_s) == expected


def test_without_quotas_everything_is_counted_and_nothing_refused() -> None:
    bench = Bench()

    for _ in range(5):
        bench.usage.call(WHO)
        bench.usage.begin("default")
    bench.usage.require("default", "functions", 10**9, 1)

    assert (bench.usage.calls_of("default"), bench.usage.meter("default").running) == (5, 5)


def test_calls_beyond_those_of_a_minute_are_refused_until_it_is_over() -> None:
    bench = Bench(invocations_per_minute=2)

    assert [bench.called() for _ in range(3)] == [None, None, "quota.invocations_per_minute"]
    bench.clock.now_s += MINUTE_S - 0.5
    with pytest.raises(QuotaExceeded) as refused:
        bench.usage.call(WHO)
    assert refused.value.retry_after_s == 1
    bench.clock.now_s += 0.5
    assert bench.called() is None
    assert bench.usage.calls_of("default") == 1


def test_a_call_that_did_not_come_about_is_taken_back() -> None:
    bench = Bench(invocations_per_minute=1)
    bench.usage.call(WHO)

    bench.usage.not_called(WHO)

    assert bench.called() is None
    assert bench.called() == "quota.invocations_per_minute"


def test_as_many_are_under_way_at_once_as_the_quota_says() -> None:
    bench = Bench(concurrent_invocations=1)
    bench.usage.begin("default")

    assert not bench.usage.has_room("default")
    with pytest.raises(QuotaExceeded) as refused:
        bench.usage.begin("default")
    assert (refused.value.code, refused.value.retry_after_s) == ("quota.concurrent_invocations", 1)
    bench.usage.end("default")
    assert bench.usage.has_room("default")
    bench.usage.begin("default")


def test_accounts_are_counted_apart() -> None:
    bench = Bench(invocations_per_minute=1, concurrent_invocations=1)
    bench.usage.call(WHO)
    bench.usage.begin("default")

    bench.usage.call(Principal("other", "t", frozenset({"*"})))
    bench.usage.begin("other")

    assert bench.called() == "quota.invocations_per_minute"


def test_a_tokens_rate_bounds_it_beside_the_accounts_quota() -> None:
    bench = Bench(invocations_per_minute=10)
    limited = Principal("default", "t1", frozenset({"*"}), rates=(Rate("t1", 2),))

    assert [bench.called(limited) for _ in range(3)] == [None, None, "quota.calls_per_minute"]
    assert bench.called() is None
    assert bench.usage.calls_of("default") == 3  # what was refused is not counted
    bench.clock.now_s += MINUTE_S
    assert bench.called(limited) is None


def test_calls_of_a_token_count_for_those_that_it_was_made_with() -> None:
    bench = Bench()
    maker = Principal("default", "t1", frozenset({"*"}), rates=(Rate("t1", 3),))
    made = [
        Principal("default", name, frozenset({"*"}), rates=(*maker.rates, Rate(name, 2)))
        for name in ("a", "b")
    ]

    codes = [bench.called(one) for one in (made[0], made[1], made[0], made[1], maker)]

    assert codes == [None, None, None, "quota.calls_per_minute", "quota.calls_per_minute"]


def test_an_account_whose_unended_invocations_fill_its_records_gets_no_more_of_them() -> None:
    bench = Bench(record_bytes=100)

    bench.usage.records_over(frozenset({"default"}))

    with pytest.raises(QuotaExceeded) as refused:
        bench.usage.require_record_room("default")
    assert refused.value.code == "quota.record_bytes"
    bench.usage.require_record_room("other")
    bench.usage.records_over(frozenset())
    bench.usage.require_record_room("default")


def test_quotas_that_are_lifted_bound_no_more() -> None:
    bench = Bench(invocations_per_minute=0)
    assert bench.called() == "quota.invocations_per_minute"

    bench.usage.limit(Account("default", "default"))

    assert bench.called() is None
