"""Eviction: which idle instances end, by age, memory and use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stoker.worker.eviction import (
    AMPLE_SHARE,
    SCARCE_SHARE,
    Idle,
    Pressure,
    first_to_go,
    idle_ms_allowed,
    to_evict,
)

AMPLE = Pressure(500, 1000)
SCARCE = Pressure(80, 1000)

idles = st.lists(
    st.builds(
        Idle,
        key=st.uuids().map(str),
        idle_ms=st.floats(0, 1e7),
        calls=st.integers(0, 1000),
        kept=st.booleans(),
    ),
    unique_by=lambda one: one.key,
    max_size=30,
)
pressures = st.builds(Pressure, st.integers(0, 1000), st.just(1000))


@given(idles, pressures, st.integers(0, 10**7))
def test_what_is_kept_never_goes(idle: list[Idle], pressure: Pressure, idle_ms_max: int) -> None:
    gone = set(to_evict(idle, pressure, idle_ms_max))

    assert not gone & {one.key for one in idle if one.kept}
    assert first_to_go([one for one in idle if one.kept]) is None


@given(idles, pressures, st.integers(0, 10**7))
def test_who_stays_idled_no_longer_than_who_goes(
    idle: list[Idle], pressure: Pressure, idle_ms_max: int
) -> None:
    gone = to_evict(idle, pressure, idle_ms_max)

    ages = {one.key: one.idle_ms for one in idle}
    staying = [one.idle_ms for one in idle if not one.kept and one.key not in gone]
    assert [ages[key] for key in gone] == sorted((ages[key] for key in gone), reverse=True)
    assert all(age <= idle_ms_max for age in staying)
    assert not gone or not staying or max(staying) <= min(ages[key] for key in gone)


@given(idles)
def test_while_memory_is_ample_only_the_old_go(idle: list[Idle]) -> None:
    gone = to_evict(idle, AMPLE, 60_000)

    assert set(gone) == {one.key for one in idle if not one.kept and one.idle_ms > 60_000}


@given(idles)
def test_where_memory_is_scarce_all_go_that_idled_at_all(idle: list[Idle]) -> None:
    gone = to_evict(idle, SCARCE, 60_000)

    assert set(gone) == {one.key for one in idle if not one.kept and one.idle_ms > 0}


@given(pressures, st.integers(0, 10**7))
def test_less_memory_never_lets_an_instance_idle_longer(pressure: Pressure, idle_ms_max: int) -> None:
    less = Pressure(max(0, pressure.available_bytes - 1), pressure.total_bytes)

    allowed = idle_ms_allowed(pressure, idle_ms_max)

    assert 0 <= idle_ms_allowed(less, idle_ms_max) <= allowed <= idle_ms_max


def test_the_ends_of_the_scale_are_where_they_are_said_to_be() -> None:
    ample, scarce = Pressure(int(AMPLE_SHARE * 1000), 1000), Pressure(int(SCARCE_SHARE * 1000), 1000)

    assert idle_ms_allowed(ample, 1000) == 1000
    assert idle_ms_allowed(scarce, 1000) == 0
    assert 0 < idle_ms_allowed(Pressure(140, 1000), 1000) < 1000


def test_a_machine_whose_memory_is_not_known_counts_as_empty() -> None:
    assert Pressure(0, 0).share_free == 1.0


def test_the_longest_idle_one_goes_first_and_of_two_the_one_that_was_used_less() -> None:
    old, often, seldom, kept = (
        Idle("old", 20.0, 9, kept=False),
        Idle("often", 10.0, 9, kept=False),
        Idle("seldom", 10.0, 1, kept=False),
        Idle("kept", 99.0, 0, kept=True),
    )

    assert first_to_go([often, old, seldom, kept]) == "old"
    assert first_to_go([often, seldom, kept]) == "seldom"
    assert to_evict([often, seldom, old, kept], SCARCE, 1000) == ["old", "seldom", "often"]
