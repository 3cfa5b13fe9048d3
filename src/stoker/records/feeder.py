"""The feeder: brings what is stored to the view, in the order of the stream, behind whoever stored it.

Takes what was written here as it is acknowledged, and reads from the stream what it did not see: at a
start, after a write whose acknowledgement was lost, for a view that has to be built anew. Does not know
what the messages mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from stoker.backbone.event_log import Event
from stoker.backbone.ledger import Ledger, Write
from stoker.model.errors import StokerError, Unavailable
from stoker.model.limits import MIB
from stoker.records.view import Stored, View, ViewDamaged

GATHER_MS = 20
"""Between two transactions of the view, unless somebody waits for it."""
BUSY_REST = 19
"""While calls keep the server busy the view is brought on for a twentieth of the time, the rest after."""
LIST_WAIT_S = 2.0
"""How long a list waits for what has ended just now; it is without the latest of a busy server else."""
GAP_MS = 500
"""A sequence that nobody has told of for so long is read from the stream."""
WINDOW = 256
"""Messages read from the stream, or brought to the view, at a time."""
HELD_BYTES_MAX = 32 * MIB
"""What waits for the view in memory; the rest is read from the stream when the view is that far."""
TOLD_S = 1.0
AGAIN_S = 0.25


class Notes(Protocol):
    """The operator's log."""

    def info(self, event: str, **fields: object) -> object: ...

    def warning(self, event: str, **fields: object) -> object: ...


class Feeder:
    """One for a view.

    `on_position` is told how far search has got, `on_found` what was read without having been written here.
    """

    def __init__(
        self,
        ledger: Ledger,
        view: View,
        notes: Notes,
        *,
        busy: Callable[[], bool],
        on_position: Callable[[int], None],
        on_found: Callable[[Event], None],
    ) -> None:
        self._ledger = ledger
        self._view = view
        self._notes = notes
        self._busy = busy
        self._on_position = on_position
        self._on_found = on_found
        self._arrived: dict[int, Write] = {}
        self._held_bytes = 0
        self._highest = 0
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()
        self._moved = asyncio.Event()
        self._waiting = 0
        self._unsure = False
        self._damage: ViewDamaged | None = None
        view.on_damage = self.damaged
        self._task: asyncio.Task[None] | None = None
        self._target = 0
        self.ready = asyncio.Event()
        """Set while the view has all that is stored, but for what was written just now."""

    @property
    def behind(self) -> bool:
        """Whether something is acknowledged that the view does not have yet."""
        return self._view.position < self._highest

    @property
    def progress(self) -> tuple[int, int] | None:
        """How far the view is, of how far, while it is being built; else None."""
        return None if self.ready.is_set() else (min(self._view.position, self._target), self._target)

    async def start(self) -> None:
        """Begin; returns at once. `ready` tells when the view has caught up."""
        await self._view.open()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="feed the view")

    async def close(self) -> None:
        """Bring what has been stored into the view, and stop."""
        task, self._task = self._task, None
        if task is None:
            return
        if self.ready.is_set():
            try:
                async with asyncio.timeout(2):
                    await self._until(self._highest)
            except TimeoutError:
                self._notes.warning("view_behind", position=self._view.position)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self._view.close()

    def stored(self, sequence: int, writes: Sequence[Write]) -> None:
        """Take note of writes that are stored one after the other from `sequence` on."""
        for offset, write in enumerate(writes):
            if self._held_bytes < HELD_BYTES_MAX:
                self._arrived[sequence + offset] = write
                self._held_bytes += len(write.data)
        self._highest = max(self._highest, sequence + len(writes) - 1)
        self._wake.set()

    def unsure(self) -> None:
        """Take note that something may be stored of which nobody was told: it is looked for."""
        self._unsure = True
        self._wake.set()

    def damaged(self, damage: ViewDamaged) -> None:
        """Take note that the view was found damaged, by whoever searched it: it is built anew."""
        if self._damage is None:
            self._damage = damage
            self.ready.clear()
            self._wake.set()

    async def caught_up(self) -> bool:
        """Return True once all that is acknowledged by now can be searched; False if that takes too long."""
        try:
            async with asyncio.timeout(LIST_WAIT_S):
                await self._until(self._highest)
        except TimeoutError:
            return False
        return True

    async def _until(self, sequence: int) -> None:
        self._waiting += 1
        try:
            while self._view.position < sequence:
                self._moved.clear()
                self._hurry.set()
                await self._moved.wait()
        finally:
            self._waiting -= 1

    async def _run(self) -> None:
        while True:
            try:
                await self._mend()
                await self._catch_up()
                if self._damage is None:
                    self.ready.set()
                while self._damage is None:
                    await self._wake.wait()
                    self._wake.clear()
                    if self._unsure:
                        await self._look()
                    await self._bring()
                    await self._rest(GATHER_MS / 1000)
            except ViewDamaged as error:
                self.damaged(error)
            except StokerError as error:
                self._notes.warning("view_waits", reason=error.message)
                self._wake.set()
                await asyncio.sleep(AGAIN_S)

    async def _mend(self) -> None:
        """Begin anew with the view, if it is damaged."""
        if self._damage is None:
            return
        self._notes.warning("view_damaged", reason=str(self._damage))
        try:
            await self._view.reset()
        except ViewDamaged as error:
            raise Unavailable("no view can be made") from error
        self._damage = None

    async def _look(self) -> None:
        """See how far the stream really is."""
        last = await self._ledger.read(lambda _event: None, after=self._ledger.last_sequence)
        self._unsure = False
        self._highest = max(self._highest, last)

    async def _catch_up(self) -> None:
        """Read on from where the view is to where the stream is now."""
        self._target = self._ledger.last_sequence
        tell = self.ready.is_set()  # what there is at a start has been told of otherwise
        loop = asyncio.get_running_loop()
        told = loop.time()
        while self._view.position < self._target:
            await self._read(min(self._view.position + WINDOW, self._target), tell=tell)
            if loop.time() - told >= TOLD_S:
                told = loop.time()
                self._notes.info("building_view", position=self._view.position, of=self._target)
        self._progressed()

    async def _bring(self) -> None:
        """Bring to the view what has arrived; what is missing in between is waited for, then read."""
        missing_since: float | None = None
        loop = asyncio.get_running_loop()
        while self._view.position < self._highest:
            batch = self._contiguous()
            if batch:
                began = loop.time()
                await self._view.ingest(batch)
                self._progressed()
                missing_since = None
                if self._busy():
                    await self._rest(BUSY_REST * (loop.time() - began))
                continue
            missing_since = missing_since or loop.time()
            full = self._held_bytes >= HELD_BYTES_MAX or not self._arrived
            if not full and (loop.time() - missing_since) * 1000 < GAP_MS:
                await _first(self._wake, GATHER_MS / 1000)
                self._wake.clear()
                continue
            following = min(self._arrived) - 1 if self._arrived else self._highest
            await self._read(min(self._view.position + WINDOW, following), tell=True)

    async def _rest(self, seconds: float) -> None:
        """Let others go first, unless somebody waits for the view."""
        await _first(self._hurry, seconds)
        if not self._waiting:
            self._hurry.clear()

    def _contiguous(self) -> list[Stored]:
        batch: list[Stored] = []
        sequence = self._view.position + 1
        while len(batch) < WINDOW and (write := self._arrived.get(sequence)) is not None:
            batch.append(Stored(sequence, write.subject, write.data))
            sequence += 1
        return batch

    async def _read(self, until: int, *, tell: bool = False) -> None:
        found: list[Event] = []
        await self._ledger.read(found.append, after=self._view.position, until=until)
        await self._view.ingest([Stored(event.sequence, event.subject, event.data) for event in found])
        await self._view.skip(until)  # what is missing up to there was erased
        for event in found:
            if tell and event.sequence not in self._arrived:
                self._on_found(event)
        self._progressed()

    def _progressed(self) -> None:
        position = self._view.position
        for sequence in [sequence for sequence in self._arrived if sequence <= position]:
            self._held_bytes -= len(self._arrived.pop(sequence).data)
        self._moved.set()
        self._on_position(position)


async def _first(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, after so long at most."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
