"""Retry: only what the contract's table marks is tried again, later and later, and never too late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.invocation.retry import Again, Final, after_attempt, has_expired, policy_of
from stoker.model.function import Retry
from stoker.model.outcome import END_REASON_OF_CODE

TRIED_AGAIN = {
    "function.error",
    "function.exited",
    "function.timeout",
    "function.out_of_memory",
    "function.too_many_processes",
    "platform.lost",
}
"""The rows of the contract's table *What can end a call* that say yes."""
NO_DEAD_LETTER = {"invocation.cancelled", "invocation.expired"}
DAY_MS = 24 * 3600 * 1000
POLICY = Retry(attempts=3, backoff_ms=1000, max_age_ms=DAY_MS)


def test_a_call_that_ended_well_has_ended() -> None:
    assert after_attempt(None, 1, 0, POLICY, lambda: 0.0) == Final(dead=False)


@pytest.mark.parametrize("code", sorted(TRIED_AGAIN))
def test_what_the_table_marks_is_tried_again(code: str) -> None:
    assert after_attempt(code, 1, 0, POLICY, lambda: 0.0) == Again(1000)


@pytest.mark.parametrize("code", sorted(set(END_REASON_OF_CODE) - TRIED_AGAIN))
def test_all_else_is_final_and_a_dead_letter_unless_somebody_wanted_it_to_end(code: str) -> None:
    assert after_attempt(code, 1, 0, POLICY, lambda: 0.0) == Final(dead=code not in NO_DEAD_LETTER)


def test_the_last_attempt_is_final_and_a_dead_letter() -> None:
    steps = [after_attempt("function.error", n, 0, POLICY, lambda: 0.0) for n in (1, 2, 3, 4)]

    assert steps == [Again(1000), Again(2000), Final(dead=True), Final(dead=True)]


def test_one_that_is_tried_once_is_never_tried_again() -> None:
    assert after_attempt("function.error", 1, 0, Retry(attempts=1), lambda: 0.0) == Final(dead=True)


def test_the_wait_is_up_to_a_fifth_longer_than_the_backoff() -> None:
    assert after_attempt("function.error", 2, 0, POLICY, lambda: 0.5) == Again(2200)
    assert after_attempt("function.error", 2, 0, POLICY, lambda: 0.999999) == Again(2399)


def test_an_attempt_at_the_very_end_of_the_age_is_made_and_one_after_it_is_not() -> None:
    policy = Retry(attempts=9, backoff_ms=1000, max_age_ms=10_000)

    assert after_attempt("function.error", 1, 9_000, policy, lambda: 0.0) == Again(1000)
    assert after_attempt("function.error", 1, 9_001, policy, lambda: 0.0) == Final(dead=True)


def test_a_wait_is_not_cut_short_to_end_with_the_age() -> None:
    # Due at the very moment at which it expires it would never run, and would be no dead letter either.
    policy = Retry(attempts=9, backoff_ms=1000, max_age_ms=10_000)

    assert after_attempt("function.error", 1, 8_900, policy, lambda: 0.9) == Final(dead=True)


def test_one_that_was_lost_before_it_is_known_to_have_begun_waits_like_after_the_first() -> None:
    assert after_attempt("platform.lost", 0, 0, POLICY, lambda: 0.0) == Again(1000)


@given(
    code=st.sampled_from(sorted(TRIED_AGAIN)),
    attempts=st.integers(1, 100),
    age_ms=st.integers(0, 15 * DAY_MS),
    policy=st.builds(
        Retry,
        attempts=st.integers(1, 100),
        backoff_ms=st.integers(1, DAY_MS),
        max_age_ms=st.integers(1000, 14 * DAY_MS),
    ),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_no_wait_is_shorter_than_its_backoff_nor_ends_past_the_age(
    code: str, attempts: int, age_ms: int, policy: Retry, chance: float
) -> None:
    step = after_attempt(code, attempts, age_ms, policy, lambda: chance)

    if isinstance(step, Final):
        backoff_ms = policy.backoff_ms * 2 ** (attempts - 1)
        assert step.dead
        assert attempts >= policy.attempts or age_ms + backoff_ms * 1.2 > policy.max_age_ms
        return
    assert attempts < policy.attempts
    assert step.wait_ms >= policy.backoff_ms * 2 ** (attempts - 1)
    assert step.wait_ms <= policy.backoff_ms * 2 ** (attempts - 1) * 1.2
    assert age_ms + step.wait_ms <= policy.max_age_ms


def test_one_has_expired_once_it_is_older_than_its_function_allows() -> None:
    policy = Retry(max_age_ms=10_000)

    assert [has_expired(age_ms, policy) for age_ms in (0, 10_000, 10_001)] == [False, False, True]


def test_a_policy_has_the_defaults_of_the_contract_where_nothing_is_given() -> None:
    assert policy_of(None) == policy_of({}) == Retry(attempts=3, backoff_ms=1000, max_age_ms=6 * 3600 * 1000)
    assert policy_of({"attempts": None, "backoff_ms": 5}) == Retry(backoff_ms=5)
    assert policy_of({"attempts": 1, "backoff_ms": 2, "max_age_ms": 3000}) == Retry(1, 2, 3000)
