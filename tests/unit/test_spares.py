"""Spares and their handover: taken once, replaced, given back; boots that fail, hang or are hurried."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from stoker.model.errors import NoCapacity, PlatformError
from stoker.model.launch import Exit
from stoker.sandbox.engine import SandboxGone
from stoker.testing.clock import in_fake_time, passed, settled
from stoker.testing.functions import a_function
from stoker.testing.sandbox import echo
from stoker.testing.worker import PoolBench
from stoker.worker.instance import Instance
from stoker.worker.spares import Spares


class FakeInstance:
    """As much of an instance as the spares see."""

    dead = False

    def kill(self) -> None:
        self.dead = True


class Yard:
    """Spares whose boots end when the test says so."""

    def __init__(self, count: int = 2) -> None:
        self.boots: list[asyncio.Future[Instance]] = []
        self.waited: list[Callable[[], bool]] = []
        self.failures: list[BaseException] = []
        self.hurries = 0
        self.spares = Spares(
            "nodejs",
            self._boot,
            count=count,
            loop=asyncio.get_running_loop(),
            on_failure=lambda runtime, error: self.failures.append(error),
            hurry=self._hurry,
            clock=asyncio.get_running_loop().time,
        )

    async def _boot(self, waited: Callable[[], bool]) -> Instance:
        self.waited.append(waited)
        boot: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()
        self.boots.append(boot)
        return await boot

    def _hurry(self) -> None:
        self.hurries += 1

    @property
    def booting(self) -> list[asyncio.Future[Instance]]:
        return [boot for boot in self.boots if not boot.done()]

    async def boot_one(self, *, dead: bool = False) -> Instance:
        instance = cast(Instance, FakeInstance())
        instance.dead = dead
        self.booting[0].set_result(instance)
        await settled()
        return instance

    async def fail_one(self) -> None:
        self.booting[0].set_exception(PlatformError("no sandbox"))
        await settled()


# -- booting -----------------------------------------------------------------------------------------


@in_fake_time
async def test_filling_boots_the_count_and_returns_with_the_first() -> None:
    yard = Yard(count=3)
    filling = asyncio.create_task(yard.spares.fill())
    await settled()

    before = (len(yard.booting), filling.done())
    await yard.boot_one()

    assert before == (3, False)
    assert filling.done()
    assert (yard.spares.ready, len(yard.booting)) == (1, 2)


@in_fake_time
async def test_filling_none_still_boots_one_to_see_that_it_works() -> None:
    yard = Yard(count=0)
    filling = asyncio.create_task(yard.spares.fill())
    await settled()

    await yard.boot_one()

    assert filling.done()
    assert (yard.spares.ready, yard.booting) == (1, [])


@in_fake_time
async def test_no_more_than_four_boot_at_a_time() -> None:
    yard = Yard(count=10)

    yard.spares.refill()
    await settled()
    at_first = len(yard.booting)
    await yard.boot_one()

    assert (at_first, len(yard.boots)) == (4, 5)


@in_fake_time
async def test_a_boot_that_fails_is_told_to_one_who_waits_and_tried_again_by_itself() -> None:
    yard = Yard(count=1)
    taking = asyncio.create_task(yard.spares.take())
    await settled()

    await yard.fail_one()
    with pytest.raises(PlatformError, match="could not be started"):
        await taking
    await yard.fail_one()
    at_once = len(yard.booting)
    await passed(1)

    assert (at_once, len(yard.booting)) == (0, 1)
    assert len(yard.failures) == 2


@in_fake_time
async def test_boots_that_keep_failing_come_more_and_more_seldom_and_are_told_of() -> None:
    yard = Yard(count=1)
    yard.spares.refill()
    await settled()

    tries = 0
    for _ in range(600):
        if yard.booting:
            tries += 1
            await yard.fail_one()
        await passed(0.1)

    assert yard.spares.failing
    assert 5 <= tries <= 20  # in a minute
    await passed(10)
    await yard.boot_one()
    assert not yard.spares.failing


@in_fake_time
async def test_a_boot_that_says_nothing_for_long_has_failed_and_its_sandbox_is_killed() -> None:
    async with PoolBench(spares=1) as bench:
        bench.engine.held = asyncio.Event()
        await bench.run(a_function())  # takes the spare: another one boots, and says no hello
        await passed(0.05)  # a successor boots a little later
        (silent,) = [one for one in bench.engine.living if one.assigned is None]

        await passed(21)

        assert not silent.alive
        assert [event for event, _ in bench.notes.events] == ["boot_failed"]


@in_fake_time
async def test_a_sandbox_that_dies_while_it_boots_is_told_at_once_with_what_it_printed() -> None:
    async with PoolBench(spares=1) as bench:
        bench.engine.held = asyncio.Event()
        await bench.run(a_function())
        await passed(0.05)  # a successor boots a little later
        (booting,) = [one for one in bench.engine.living if one.assigned is None]

        booting.print(b"node: cannot open shim.js\n")
        booting.end(Exit(code=1))
        await settled()

        ((event, fields),) = bench.notes.events
        assert event == "boot_failed"
        assert "cannot open shim.js" in str(fields["error"])


@in_fake_time
async def test_an_instance_that_dies_as_soon_as_it_has_booted_is_not_replaced_as_fast_as_it_dies() -> None:
    yard = Yard(count=1)
    yard.spares.refill()
    await settled()

    for _ in range(20):
        if yard.booting:
            await yard.boot_one(dead=True)
        await passed(0.01)

    assert yard.spares.ready == 0
    assert len(yard.boots) <= 4


# -- taking ------------------------------------------------------------------------------------------


@in_fake_time
async def test_those_who_wait_are_served_in_turn_before_any_spare_is_kept() -> None:
    yard = Yard(count=1)
    takes = [asyncio.create_task(yard.spares.take()) for _ in range(2)]
    await settled()

    first, second = await yard.boot_one(), await yard.boot_one()
    await yard.boot_one()

    assert [take.result() for take in takes] == [first, second]
    assert (yard.spares.ready, yard.booting) == (1, [])


@in_fake_time
async def test_who_stops_waiting_leaves_no_boot_behind_that_nobody_wants() -> None:
    yard = Yard(count=0)
    take = asyncio.create_task(yard.spares.take())
    await settled()

    take.cancel()
    await settled()
    another = asyncio.create_task(yard.spares.take())
    await settled()
    await yard.boot_one()

    assert another.done()
    assert len(yard.boots) == 1


@in_fake_time
async def test_an_instance_that_comes_in_the_moment_its_waiter_is_cancelled_is_kept() -> None:
    yard = Yard(count=1)
    take = asyncio.create_task(yard.spares.take())
    await settled()
    spare = cast(Instance, FakeInstance())

    yard.spares.give_back(spare)  # the waiter has it, and has not run since
    take.cancel()
    await settled()

    assert take.cancelled()
    assert yard.spares.take_now() is spare


@in_fake_time
async def test_an_instance_that_died_between_its_boot_and_its_taking_is_passed_over() -> None:
    yard = Yard(count=1)
    take = asyncio.create_task(yard.spares.take())
    await settled()
    spare = FakeInstance()

    yard.spares.give_back(cast(Instance, spare))
    spare.dead = True  # before the waiter runs again
    await settled()
    waits_on = not take.done()
    second = await yard.boot_one()

    assert waits_on
    assert take.result() is second


@in_fake_time
async def test_a_spare_that_is_ready_and_dead_is_not_given_out() -> None:
    yard = Yard(count=1)
    yard.spares.refill()
    await settled()
    spare = await yard.boot_one()

    spare.dead = True

    assert yard.spares.take_now() is None


@in_fake_time
async def test_a_spare_that_is_given_back_when_its_place_is_filled_is_killed() -> None:
    yard = Yard(count=1)
    yard.spares.refill()
    await settled()
    await yard.boot_one()
    taken = yard.spares.take_now()
    await passed(0.05)  # its successor boots a little later
    await yard.boot_one()

    assert taken is not None
    yard.spares.give_back(taken)

    assert taken.dead
    assert yard.spares.ready == 1


@in_fake_time
async def test_who_waits_makes_a_boot_hurry_that_began_when_nobody_did() -> None:
    async with PoolBench(echo, spares=1) as bench:
        bench.engine.held = asyncio.Event()
        await bench.run(a_function(name="a"))
        await passed(0.05)  # its successor boots a little later
        (booting,) = [one for one in bench.engine.living if one.assigned is None]
        before = booting.urgent

        call = bench.submit(a_function(name="b"))
        await settled()
        bench.engine.held.set()
        await settled()

        assert (before, booting.urgent) == (False, True)
        assert bench.outcome(call).result == b"1"


@in_fake_time
async def test_who_waits_makes_a_boot_hurry_whose_sandbox_is_not_there_yet() -> None:
    async with PoolBench(echo, spares=1) as bench:
        bench.engine.starting_held = starting = asyncio.Event()
        bench.engine.held = hello = asyncio.Event()
        await bench.run(a_function(name="a"))  # takes the spare: another one is asked for, not urgently
        await passed(0.05)  # its successor boots a little later

        call = bench.submit(a_function(name="b"))
        await settled()
        starting.set()
        await settled()
        booting = [one for one in bench.engine.living if one.assigned is None]
        hello.set()
        await settled()

        assert [one.urgent for one in booting] == [True] * len(booting)
        assert bench.outcome(call).result == b"1"


# -- closing -----------------------------------------------------------------------------------------


@in_fake_time
async def test_closing_ends_boots_spares_and_waits() -> None:
    yard = Yard(count=2)
    yard.spares.refill()
    await settled()
    spare = await yard.boot_one()
    yard.spares.take_now()
    waits = [asyncio.create_task(yard.spares.take()) for _ in range(2)]
    await settled()
    yard.spares.give_back(cast(Instance, FakeInstance()))

    await yard.spares.close()
    ends = await asyncio.gather(*waits, return_exceptions=True)
    await passed(60)

    assert [type(end) for end in ends if not isinstance(end, FakeInstance)] == [NoCapacity]
    assert yard.booting == []
    assert not spare.dead  # it was taken: its owner ends it
    with pytest.raises(NoCapacity):
        await yard.spares.take()


@in_fake_time
async def test_what_is_given_back_after_the_end_is_killed() -> None:
    yard = Yard()
    await yard.spares.close()
    late = FakeInstance()

    yard.spares.give_back(cast(Instance, late))

    assert late.dead


# -- the handover to a function ----------------------------------------------------------------------


@in_fake_time
async def test_a_spare_that_was_taken_is_replaced() -> None:
    async with PoolBench(spares=2) as bench:
        before = bench.pool.figures

        await bench.run(a_function())
        await passed(0.05)  # a successor boots a little later

        assert before == {"serving": 0, "spare_nodejs": 2}
        assert bench.pool.figures == {"serving": 1, "spare_nodejs": 2}


@in_fake_time
async def test_a_spare_that_dies_before_it_gets_its_code_is_replaced_by_another() -> None:
    async with PoolBench(spares=1) as bench:
        for sandbox in bench.engine.sandboxes:
            sandbox.assign_fails_with = SandboxGone("it ended before")

        outcome = await bench.run(a_function())

        assert outcome.result == b"1"


@in_fake_time
async def test_a_spare_that_dies_while_it_gets_its_code_is_replaced_by_another() -> None:
    async with PoolBench(spares=1) as bench:
        bench.engine.sandboxes[0].dies_once_assigned = True

        outcome = await bench.run(a_function())

        assert outcome.result == b"1"
        assert len(bench.started) == 2


@in_fake_time
@pytest.mark.parametrize(("boots_failing", "code"), [(2, None), (3, "platform.error")])
async def test_a_boot_that_fails_under_one_who_waits_is_tried_again_but_not_for_ever(
    boots_failing: int, code: str | None
) -> None:
    async with PoolBench(spares=1) as bench:
        bench.engine.sandboxes[0].end(Exit(signal=9))  # the spare: the call has to wait for a boot
        bench.engine.boots_failing = boots_failing

        call = bench.submit(a_function())
        await passed(1)

        assert bench.code(call) == code


@in_fake_time
async def test_spares_that_all_die_when_they_get_their_code_are_not_tried_for_ever() -> None:
    async with PoolBench(spares=1) as bench:
        function = a_function()
        for sandbox in bench.engine.sandboxes:
            sandbox.assign_fails_with = SandboxGone("it ended before")
        bench.engine.assigns_fail_with = SandboxGone("it ended before")

        call = bench.submit(function)
        await passed(1)

        assert bench.code(call) == "platform.error"
        assert len(bench.engine.sandboxes) <= 6


@in_fake_time
async def test_a_spare_that_died_unnoticed_serves_nobody() -> None:
    # The sandbox has ended, but the loop has not yet read that its wire is closed.
    async with PoolBench(spares=1) as bench:
        bench.engine.sandboxes[0].end(Exit(code=1))

        outcome = await bench.run(a_function())

        assert outcome.result == b"1"


@in_fake_time
async def test_code_that_cannot_be_given_is_told_to_one_caller_and_leaves_no_start_behind() -> None:
    async with PoolBench() as bench:
        function = a_function()
        for sandbox in bench.engine.sandboxes:
            sandbox.assign_fails_with = PlatformError("The sandbox could not be given to the function.")

        call = bench.submit(function)
        await settled()

        assert bench.code(call) == "platform.error"
        assert [event for event, _ in bench.notes.events] == ["instance_failed"]
        (group,) = bench.pool._groups.living.values()
        assert group.size == 0


@in_fake_time
async def test_a_spare_is_given_back_if_the_code_cannot_be_fetched() -> None:
    async with PoolBench(spares=2) as bench:
        bench.folders.error = PlatformError("the content cannot be read")

        call = bench.submit(a_function())
        await settled()

        assert bench.code(call) == "platform.error"
        assert bench.pool.figures == {"serving": 0, "spare_nodejs": 2}
        assert len(bench.engine.living) == 2
