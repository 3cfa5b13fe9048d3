"""The sweeper: what has expired, was replaced or is past an account's share goes, from the disk too.

Does not know what messages mean: the view says which are due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from stoker.backbone.ledger import Ledger
from stoker.model.errors import StokerError
from stoker.records.view import View, ViewDamaged

SWEEP_S = 0.5
NOBODY: frozenset[str] = frozenset()
ERASED_AT_ONCE = 64
REST, BUSY_REST = 1, 9
"""How long it rests after some work, in times of that work: the store does nothing else meanwhile."""


class Notes(Protocol):
    """The operator's log."""

    def warning(self, event: str, **fields: object) -> object: ...


class Sweeper:
    """One for a server; works behind everything else."""

    def __init__(
        self,
        ledger: Ledger,
        view: View,
        ready: asyncio.Event,
        notes: Notes,
        *,
        busy: Callable[[], bool],
        bytes_max: int,
        shares: Callable[[], Mapping[str, int]],
        gone: Callable[[], Collection[str]],
        on_over: Callable[[frozenset[str]], None],
    ) -> None:
        """`shares` returns the bytes of accounts that may have less than `bytes_max`, `gone` accounts of
        which nothing may be left; `on_over` is told which have more than they may although all that has
        ended is gone.
        """
        self._ledger = ledger
        self._view = view
        self._ready = ready
        self._notes = notes
        self._busy = busy
        self._bytes_max = bytes_max
        self._shares = shares
        self._gone = gone
        self._on_over = on_over
        self.turn = asyncio.Lock()
        """Held by whoever needs that nothing is erased for a while."""

    async def run(self) -> None:
        """Sweep until cancelled. A store that is away is asked again later."""
        loop = asyncio.get_running_loop()
        while True:
            await self._ready.wait()
            began = loop.time()
            try:
                async with self.turn:
                    more = await self.sweep()
            except (StokerError, ViewDamaged) as error:
                self._notes.warning("sweep_waits", reason=str(error))
                more = False
            rest_s = (BUSY_REST if self._busy() else REST) * (loop.time() - began)
            await asyncio.sleep(rest_s if more else SWEEP_S)

    async def sweep(self) -> bool:
        """Erase some of what is due; tell whether there may be more."""
        shares = self._shares()
        await self._view.shrink(self._bytes_max, shares)
        self._on_over(await self._view.over(self._bytes_max, shares) if shares else NOBODY)
        if gone := self._gone():
            await self._view.erase(gone)
        due = await self._view.due(ERASED_AT_ONCE)
        if due:
            await self._ledger.erase(due)
            await self._view.forget(due)
        return len(due) == ERASED_AT_ONCE
