"""Crashes under load: plain, keyed and Async calls go on while something is killed or stands still, and updates too."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest

from tests.e2e.processes import descendants
from tests.faults import breaking
from tests.faults.audit import acknowledged_are_known, audit
from tests.faults.conftest import Broken
from tests.faults.load import KINDS, Load

BEFORE, AFTER = 15, 10
"""So many calls of every kind are acknowledged before a fault, and after it."""


@pytest.fixture
async def load(server: Broken, chance: random.Random) -> AsyncIterator[Load]:
    load = Load(server.process.url, (server.data / "token").read_text().strip(), chance)
    await load.create()
    yield load
    await load.close()


async def test_updates_under_load_fail_no_call_and_every_record_names_its_version(
    load: Load, rounds: int
) -> None:
    async with load.running():
        for _ in range(rounds):
            await load.acknowledged(40)

    assert {kind: dict(load.books[kind].refused) for kind in KINDS} == {kind: {} for kind in KINDS}
    assert sum(load.books[kind].cut_off for kind in KINDS) == 0
    assert set(load.updates) == {"200"}
    await audit(load)


async def test_a_server_that_is_killed_loses_nothing_that_was_accepted(
    server: Broken, load: Load, chance: random.Random, rounds: int
) -> None:
    async with load.running():
        for _ in range(rounds):
            await load.acknowledged(BEFORE)
            await asyncio.sleep(chance.uniform(0, 0.2))
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await acknowledged_are_known(load)
            await load.acknowledged(AFTER)

    await audit(load, kills=rounds)


Fault = Callable[[Broken, random.Random], object]
FAULTS: dict[str, Fault] = {
    "the store is killed": lambda server, _: breaking.kill_nats(server.pid),
    "instances are killed": lambda server, chance: breaking.kill_some_sandboxes(server.pid, chance),
    "the store stands still": lambda server, chance: breaking.stand_still(
        [breaking.nats_of(server.pid)], chance.uniform(1.5, 3)
    ),
    "the server stands still": lambda server, chance: breaking.stand_still(
        [server.pid, *descendants(server.pid)], chance.uniform(3, 4)
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_loses_nothing_and_doubles_nothing(
    server: Broken, load: Load, chance: random.Random, rounds: int, fault: str
) -> None:
    async with load.running():
        for _ in range(rounds):
            await load.acknowledged(BEFORE)
            await asyncio.to_thread(FAULTS[fault], server, chance)
            await load.acknowledged(AFTER)

    await acknowledged_are_known(load)
    await audit(load)
