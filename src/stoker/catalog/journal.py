"""The journal: how a decision becomes an event that is stored and folded in.

Owns the order of decisions and the fold's pace with the log. Does not know what is decided.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from stoker.catalog import events
from stoker.catalog.events import Subject
from stoker.catalog.fold import Fold
from stoker.catalog.references import Content
from stoker.catalog.stored import Account, StoredSecret
from stoker.model.errors import Unauthenticated, Unavailable, VersionConflict
from stoker.model.function import Function

T = TypeVar("T")


class StoredEvent(Protocol):
    """An event as the log gives it back."""

    @property
    def subject(self) -> str: ...

    @property
    def data(self) -> bytes: ...

    @property
    def sequence(self) -> int: ...


class Log(Protocol):
    """The event log that the catalog is a fold of."""

    async def append(self, subject: str, data: bytes, *, expected: int | None) -> int:
        """Store an event and return its sequence; VersionConflict if `expected` is not the last one.

        Raises Unavailable where it is not known whether the event was stored.
        """
        ...

    async def replay(self, on_event: Callable[[StoredEvent], None], *, after: int) -> int:
        """Hand over every event after that sequence, in order, and return the last one."""
        ...

    async def erase(
        self, subjects: str, note_subject: str, *, until: int, on_event: Callable[[StoredEvent], None]
    ) -> None:
        """Take all events of a pattern up to a sequence out; hand over what is stored to say so.

        Raises as `append` does.
        """
        ...


class Journal:
    """One for a fold and its log."""

    def __init__(self, fold: Fold, log: Log) -> None:
        self._fold = fold
        self._log = log
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changes: set[asyncio.Task[Any]] = set()
        self._behind = False
        """True while the log may hold events that are not folded in."""
        self.on_change: list[Callable[[Function, Function | None], None]] = []
        """Called with (before, after) once a change of a function is stored.

        After is None if it was deleted; both are the new function if it was created.
        """
        self.on_loosened: list[Callable[[set[Content]], None]] = []
        """Called with (account, digest) of contents once nothing refers to them any more."""
        self.on_secret: list[Callable[[str, str], None]] = []
        """Called with (account, name) once a secret has another value, or none any more."""
        self.on_account: list[Callable[[Account], None]] = []
        """Called with an account that is new, or has other quotas."""
        self.on_gone: list[Callable[[str], None]] = []
        """Called with the id of an account once it is no more."""
        fold.references.take_loosened()  # whatever that was before there were listeners, a start sweeps

    async def settle(self) -> None:
        """Return once no change is under way any more; for the end of a server."""
        while self._changes:
            await asyncio.wait(self._changes)

    async def to_its_end(self, change: Coroutine[Any, Any, T]) -> T:
        """Carry a change out, also if the caller leaves meanwhile.

        Once sent, the event may be stored whatever becomes of the caller: then the fold and the listeners
        must follow it, and nobody may decide on what was before, nor sweep what it refers to.
        """
        task = asyncio.get_running_loop().create_task(change, name="change of the catalog")
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    @asynccontextmanager
    async def deciding(self, account: str) -> AsyncIterator[None]:
        """Hold off other decisions of the account; the fold is up to date within.

        Raises Unauthenticated if the account is no more: whoever asked came before that.
        """
        async with self._locks[account]:
            if self._behind:
                await self._catch_up()
            if account in self._fold.tenants.gone:
                raise Unauthenticated("the token is not known here")
            yield

    async def append(self, subject: str, data: bytes, *, expected: int) -> None:
        """Return once the event is stored and folded in. Raises as the log does."""
        try:
            sequence = await self._log.append(subject, data, expected=expected)
        except Unavailable:
            self._behind = True  # it may be stored all the same
            raise
        except VersionConflict:
            await self._catch_up()  # the log knows more than we do: the caller's next look must show it
            raise
        self._apply(subject, data, sequence)

    async def erase(self, account: str) -> None:
        """Return once the log has nothing of a deleted account but that it is deleted.

        However long that takes. Repeated, it goes on where it was left. Raises as the log does.
        """
        deleted = self._fold.tenants.gone[account]
        subjects, note = events.all_of(account), str(events.erased_key(account))
        try:
            await self._log.erase(subjects, note, until=deleted - 1, on_event=self._follow)
        except Unavailable:
            self._behind = True  # a note may be stored all the same
            raise

    async def _catch_up(self) -> None:
        self._behind = False
        try:
            await self._log.replay(self._follow, after=self._fold.sequence)
        except BaseException:
            self._behind = True
            raise

    def _follow(self, event: StoredEvent) -> None:
        subject = Subject.parse(event.subject)
        before = self._fold.function_at(subject)
        self._apply(event.subject, event.data, event.sequence)
        after = self._fold.function_at(subject)
        if after is not None and after is not before:
            self.tell(before or after, after)
        elif before is not None and after is None:
            self.tell(before, None)

    def _apply(self, text: str, data: bytes, sequence: int) -> None:
        subject = Subject.parse(text)
        account = subject.account
        owned = [entry.function for entry in self._fold.entries(account)] if subject.noun == "account" else []
        before = self._fold.secrets.get((account, subject.key[0])) if subject.noun == "secret" else None
        self._fold.apply(text, data, sequence)
        if subject.noun == "secret" and self._changes_instances(account, subject.key[0], before):
            for on_secret in self.on_secret:
                _call(on_secret, account, subject.key[0])
        elif subject.noun == "account" and account in self._fold.tenants.gone:
            for function in owned:
                self.tell(function, None)
            for on_gone in self.on_gone:
                _call(on_gone, account)
        elif subject.noun == "account":
            for on_account in self.on_account:
                _call(on_account, self._fold.tenants.accounts[account])
        if loosened := self._fold.references.take_loosened():
            for listener in self.on_loosened:
                _call(listener, loosened)

    def _changes_instances(self, account: str, name: str, before: StoredSecret | None) -> bool:
        """Tell whether instances hold something else of a secret from now on than they did."""
        now = self._fold.secrets.get((account, name))
        return before is None or now is None or before.inject is None or now.inject is None

    def tell(self, before: Function, after: Function | None) -> None:
        """Call every listener. One that fails is reported to the loop: what is stored is stored."""
        for listener in self.on_change:
            _call(listener, before, after)


def _call(listener: Callable[..., None], *news: object) -> None:
    try:
        listener(*news)
    except Exception as error:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a stored change could not be told", "exception": error}
        )
