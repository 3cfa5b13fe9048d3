"""Deadlines of a connection, on a clock that the test turns."""

from __future__ import annotations

from stoker.edge.http.patience import LINGER_MS, LINGER_MS_MAX, UNREAD_MS_MAX, Patience, Verdict
from stoker.model.limits import Limits

LIMITS = Limits(idle_connection_ms_max=1_000, request_wait_ms_max=500)


def patience() -> Patience:
    made = Patience(LIMITS)
    made.idle(0)
    return made


def look(it: Patience, now_ms: float, *, in_flight: bool = False, unsent_bytes: int = 0) -> Verdict:
    return it.look(now_ms, in_flight=in_flight, unsent_bytes=unsent_bytes)


def test_a_connection_without_a_request_is_idle_after_its_limit() -> None:
    it = patience()

    assert look(it, 999) is Verdict.PATIENT
    assert look(it, 1_000, in_flight=True) is Verdict.PATIENT
    assert look(it, 1_000) is Verdict.IDLE


def test_a_request_is_late_from_its_first_byte_however_often_more_comes() -> None:
    it = patience()

    for now_ms in range(0, 500, 100):
        it.request_begun(now_ms)

    assert look(it, 499) is Verdict.PATIENT
    assert look(it, 500) is Verdict.LATE
    it.request_ended()
    assert look(it, 500) is Verdict.PATIENT


def test_time_in_which_we_do_not_read_is_not_the_clients() -> None:
    it = patience()
    it.request_begun(0)

    it.pause(100)
    assert look(it, 10_000, in_flight=True) is Verdict.PATIENT
    it.resume(10_000)

    assert look(it, 10_399, in_flight=True) is Verdict.PATIENT
    assert look(it, 10_400, in_flight=True) is Verdict.LATE


def test_lingering_ends_after_silence_and_in_any_case() -> None:
    silent, talking = patience(), patience()
    silent.linger(0)
    talking.linger(0)

    for now_ms in range(0, LINGER_MS_MAX, 1_000):
        talking.heard(now_ms)

    assert look(silent, LINGER_MS - 1) is Verdict.PATIENT
    assert look(silent, LINGER_MS) is Verdict.IDLE
    assert look(talking, LINGER_MS_MAX - 1) is Verdict.PATIENT
    assert look(talking, LINGER_MS_MAX) is Verdict.IDLE


def test_a_client_that_takes_nothing_is_cut_off_and_a_slow_one_is_not() -> None:
    stuck, slow = patience(), patience()
    look(stuck, 0, in_flight=True, unsent_bytes=100)
    look(slow, 0, in_flight=True, unsent_bytes=100)
    look(slow, UNREAD_MS_MAX - 1, in_flight=True, unsent_bytes=99)

    assert look(stuck, UNREAD_MS_MAX, in_flight=True, unsent_bytes=100) is Verdict.UNREAD
    assert look(slow, UNREAD_MS_MAX, in_flight=True, unsent_bytes=99) is Verdict.PATIENT
