"""Placement: how many instances to start, by numbers alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from stoker.worker.placement import Load, instances_to_start

QUICK = Load(waiting=1, serving=0, starting=0, per_instance=1, run_ms=None, spares=4, boot_ms=100.0, cores=2)

loads = st.builds(
    Load,
    waiting=st.integers(0, 1000),
    serving=st.integers(0, 300),
    starting=st.integers(0, 300),
    per_instance=st.integers(1, 100),
    run_ms=st.none() | st.floats(0, 1e6),
    spares=st.integers(0, 300),
    boot_ms=st.floats(1, 1e4),
    cores=st.integers(1, 128),
)
rooms = st.integers(-5, 300)


@given(loads, rooms)
def test_never_more_than_there_is_room_for_nor_than_calls_wait(load: Load, room: int) -> None:
    started = instances_to_start(load, room)

    assert 0 <= started <= max(0, room)
    assert started <= load.waiting


@given(loads, rooms)
def test_never_more_places_than_calls_that_nobody_comes_for(load: Load, room: int) -> None:
    started = instances_to_start(load, room)

    if started:
        covered_without_the_last = (load.starting + started - 1) * load.per_instance
        assert covered_without_the_last < load.waiting


@given(loads, st.integers(1, 300))
def test_at_least_one_where_nothing_serves_and_nothing_comes(load: Load, room: int) -> None:
    alone = replace(load, waiting=max(1, load.waiting), serving=0, starting=0)

    assert instances_to_start(alone, room) >= 1


@given(loads, rooms)
def test_nothing_for_nobody(load: Load, room: int) -> None:
    assert instances_to_start(replace(load, waiting=0), room) == 0


@given(loads, rooms)
def test_never_more_boots_at_a_time_than_cores(load: Load, room: int) -> None:
    boots = instances_to_start(load, room) - load.spares

    assert boots <= max(1, load.cores)


@given(loads, rooms)
def test_more_waiting_never_means_fewer_instances(load: Load, room: int) -> None:
    more = replace(load, waiting=load.waiting + 1)

    assert instances_to_start(more, room) >= instances_to_start(load, room)


def test_an_unknown_function_gets_a_spare_for_each_call_that_waits() -> None:
    assert instances_to_start(replace(QUICK, waiting=3), room=10) == 3
    assert instances_to_start(replace(QUICK, waiting=200), room=10) == 4


def test_an_unknown_function_without_spares_gets_one_boot() -> None:
    assert instances_to_start(replace(QUICK, waiting=200, spares=0), room=10) == 1


def test_a_herd_for_a_quick_function_that_is_served_starts_nothing() -> None:
    herd = replace(QUICK, waiting=16, serving=2, run_ms=0.5)

    assert instances_to_start(herd, room=10) == 0


def test_calls_that_would_wait_longer_than_a_spare_costs_get_spares_and_no_boot() -> None:
    busy = replace(QUICK, waiting=8, serving=2, run_ms=20.0)

    assert instances_to_start(busy, room=10) == 4
    assert instances_to_start(replace(busy, spares=0), room=10) == 0


def test_calls_that_would_wait_longer_than_a_boot_takes_get_boots_a_few_at_a_time() -> None:
    slow = replace(QUICK, waiting=8, serving=2, run_ms=1000.0, spares=0)

    assert instances_to_start(slow, room=10) == 2
    assert instances_to_start(replace(slow, starting=2), room=8) == 2


def test_instances_on_their_way_count_for_the_calls_they_can_take() -> None:
    coming = replace(QUICK, waiting=8, starting=2, per_instance=4)

    assert instances_to_start(coming, room=10) == 0
    assert instances_to_start(replace(coming, waiting=9), room=10) == 1
