"""The sweeper: erases what the view says is due, and waits for who needs that nothing goes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from stoker.backbone.ledger import Ledger, Write
from stoker.records.sweeper import Sweeper
from stoker.records.view import View
from stoker.testing.backbone import MemoryLedger
from stoker.testing.clock import in_fake_time
from stoker.testing.worker import Notes


class DueView:
    """A view by which everything is due that was not forgotten."""

    def __init__(self, due: list[int]) -> None:
        self._due = due

    async def shrink(self, bytes_max: int, shares: object) -> None: ...

    async def due(self, count: int) -> list[int]:
        return self._due[:count]

    async def forget(self, sequences: Sequence[int]) -> None:
        self._due = [one for one in self._due if one not in sequences]


@in_fake_time
async def test_nothing_is_erased_while_somebody_has_the_turn_and_all_of_it_after() -> None:
    ledger, ready = MemoryLedger(), asyncio.Event()
    await ledger.write([Write("accounts.a.invocation.call.1", b"queued")])
    ready.set()
    sweeper = Sweeper(
        cast(Ledger, ledger),
        cast(View, DueView([1])),
        ready,
        Notes(),
        busy=lambda: False,
        bytes_max=1,
        shares=dict,
        gone=frozenset,
        on_over=lambda _accounts: None,
    )

    async with sweeper.turn:
        running = asyncio.create_task(sweeper.run())
        await asyncio.sleep(3_600)
        held = list(ledger.erased)
    await asyncio.sleep(1)
    running.cancel()

    assert held == []
    assert ledger.erased == [1]
