"""The view: what is stored of invocations, made searchable. A file of SQLite beside the store.

The stream of invocations is the truth; the view is fed with it, in its order, and can be thrown away and
built anew at any time. What has expired is not found from that moment on. Owns three threads, so that the
event loop waits for none: one writes, one looks up what is asked for by its name, and one lists and counts,
which may take long. Does not know where messages come from, nor who erases what is due.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Concatenate, ParamSpec, TypeVar

from stoker.records.view_faults import ViewDamaged, fault_of
from stoker.records.view_file import Notes, ViewFile
from stoker.records.view_incoming import Stored
from stoker.records.view_search import DeadRow, Filter, PendingRow, Place, ViewSearch

__all__ = ["DeadRow", "Filter", "PendingRow", "Place", "Stored", "View", "ViewDamaged"]

Part = TypeVar("Part", ViewFile, ViewSearch)
P = ParamSpec("P")
T = TypeVar("T")

FORGET_COUNT_MAX = 8
"""Messages that are forgotten in one transaction: what comes in waits for no more than that."""

NO_SHARES: Mapping[str, int] = MappingProxyType({})


class View:
    """One for a store. Methods raise ViewDamaged, what writes StorageFull, and Unavailable if it is for now.

    A cancelled caller does not undo what it asked for.
    """

    def __init__(self, path: Path, store_id: str, *, now_ms: Callable[[], int], notes: Notes) -> None:
        self._file = ViewFile(path, store_id, now_ms=now_ms, notes=notes)
        self._lookup = ViewSearch(path, now_ms=now_ms)
        self._search = ViewSearch(path, now_ms=now_ms)
        parts: dict[ViewFile | ViewSearch, str] = {
            self._file: "view",
            self._lookup: "view-lookup",
            self._search: "view-search",
        }
        # of no lower priority than the loop: who loses the processor while it holds the interpreter's lock
        # keeps the loop waiting, twice as long at the 99.9th percentile as without
        self._threads: dict[ViewFile | ViewSearch, ThreadPoolExecutor] = {
            part: ThreadPoolExecutor(1, name) for part, name in parts.items()
        }
        self.on_damage: Callable[[ViewDamaged], None] = lambda _damage: None
        """Told when the file turns out to be damaged, whoever used it: it has to be `reset`."""

    async def open(self) -> int:
        """Return the sequence up to which all is in: 0 if it had to begin anew, and why is noted."""
        await self._run(self._file, ViewFile.open)
        await self._open_readers()
        return self.position

    async def reset(self) -> None:
        """Begin anew, at position 0."""
        await self._close_readers()
        await self._run(self._file, ViewFile.reset)
        await self._open_readers()

    async def close(self) -> None:
        """Let go of the file, for good. Harmless when repeated."""
        if not self._threads:
            return
        try:
            await self._close_readers()
            await self._run(self._file, ViewFile.close)
        finally:
            threads, self._threads = self._threads, {}
            for thread in threads.values():
                thread.shutdown(wait=False)  # it has nothing left to do

    @property
    def position(self) -> int:
        """The sequence up to which all is in."""
        return self._file.position

    # -- feeding ---------------------------------------------------------------------------------

    async def ingest(self, messages: Sequence[Stored]) -> None:
        """Take in messages, in the stream's order, all or none. What is in already does no harm."""
        await self._run(self._file, ViewFile.ingest, messages)

    async def skip(self, until: int) -> None:
        """Move on to a position, where nothing is stored between."""
        await self._run(self._file, ViewFile.ingest, (), until)

    # -- searching -------------------------------------------------------------------------------

    async def find(self, account: str, invocation_id: str) -> Place | None:
        """Return where a record is stored, None if it is unknown or has expired."""
        return await self._run(self._lookup, ViewSearch.find, account, invocation_id)

    async def knows(self, sequence: int) -> bool:
        """Tell whether a message is in, also if it has to go: then nothing of it is found."""
        return await self._run(self._lookup, ViewSearch.knows, sequence)

    async def page(self, account: str, wanted: Filter, *, limit: int, before: str | None) -> list[bytes]:
        """Return Records as JSON, without payload, result and log, newest first, older than id `before`."""
        return await self._run(self._search, ViewSearch.page, account, wanted, limit, before)

    async def count(self, account: str, wanted: Filter) -> int:
        """Return how many records there are."""
        return await self._run(self._search, ViewSearch.count, account, wanted)

    async def pending(self) -> list[PendingRow]:
        """Return the stored invocations of all accounts that have not ended, oldest first."""
        return await self._run(self._search, ViewSearch.pending)

    async def dead_letters(self, account: str, topic: str, service: str) -> list[DeadRow]:
        """Return a function's dead letters, newest first."""
        return await self._run(self._search, ViewSearch.dead_letters, account, topic, service)

    async def dead_letter(self, account: str, topic: str, service: str, invocation_id: str) -> int | None:
        """Return the sequence of a dead letter, None if there is none."""
        subject = f"dead.{topic}.{service}.{invocation_id}"
        return await self._run(self._lookup, ViewSearch.last, account, subject)

    async def key(self, account: str, topic: str, service: str, key: str) -> int | None:
        """Return the sequence of what a key stands for, None if it is free; `key` is a hash."""
        return await self._run(self._lookup, ViewSearch.last, account, f"key.{topic}.{service}.{key}")

    async def bytes_of(self, account: str) -> int:
        """Return what an account's messages take in the store, but for those that have to go."""
        return await self._run(self._lookup, ViewSearch.bytes_of, account)

    # -- what has to go --------------------------------------------------------------------------

    async def due(self, limit: int) -> list[int]:
        """Return up to so many sequences that have to go from the store.

        They are the expired, the replaced and those over the limit, with their bodies. More may follow once
        they are forgotten: a subject's last message goes after the earlier ones.
        """
        return await self._run(self._file, ViewFile.due, limit)

    async def forget(self, sequences: Sequence[int]) -> None:
        """Let go of what stands on messages that have been erased."""
        for at in range(0, len(sequences), FORGET_COUNT_MAX):
            await self._run(self._file, ViewFile.forget, sequences[at : at + FORGET_COUNT_MAX])

    async def shrink(self, bytes_max: int, shares: Mapping[str, int] = NO_SHARES) -> int:
        """Make the oldest ended messages due of each account that has more; return how many.

        `shares` has those accounts that may have less than `bytes_max`.
        """
        return await self._run(self._file, ViewFile.shrink, bytes_max, shares)

    async def over(self, bytes_max: int, shares: Mapping[str, int] = NO_SHARES) -> frozenset[str]:
        """Return the accounts that have more all the same: what has not ended does not go."""
        return await self._run(self._file, ViewFile.over, bytes_max, shares)

    async def erase(self, accounts: Iterable[str]) -> int:
        """Make messages due of accounts that are no more, some at a time; return how many."""
        return await self._run(self._file, ViewFile.erase, accounts)

    # -- threads ---------------------------------------------------------------------------------

    async def _open_readers(self) -> None:
        for reader in (self._lookup, self._search):
            await self._run(reader, ViewSearch.open)

    async def _close_readers(self) -> None:
        for reader in (self._lookup, self._search):
            await self._run(reader, ViewSearch.close)

    async def _run(
        self, part: Part, function: Callable[Concatenate[Part, P], T], *args: P.args, **_: P.kwargs
    ) -> T:
        """Return what a method of a part returns; it runs in the part's thread, in its turn."""
        thread = self._threads.get(part)
        if thread is None:
            raise ViewDamaged("the view is not open")
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, function, part, *args)
        except sqlite3.ProgrammingError:
            raise  # a fault of ours
        except (sqlite3.DatabaseError, OSError) as error:
            fault = fault_of(error)
            if isinstance(fault, ViewDamaged):
                self.on_damage(fault)
            raise fault from error
