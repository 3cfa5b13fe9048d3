"""What this room asks of whoever stores invocations: the protocols, for `records` to fill in."""

from __future__ import annotations

from typing import Protocol

from stoker.model.record import Accepted, Claim, Keeping, KeyHolder, Record, Work


class Store(Protocol):
    """Invocations that are stored from their acceptance on. Errors are StorageFull, Unavailable, TooLarge."""

    async def accept(
        self,
        account: str,
        record: Record,
        work: Work,
        claim: Claim | None = None,
        *,
        redriven: str | None = None,
    ) -> Accepted | KeyHolder:
        """Return once it is stored; or who has its key, and then nothing is stored.

        Raises NotFound or VersionConflict if the dead letter `redriven` is gone.
        """
        ...

    async def wait_again(self, accepted: Accepted, record: Record, work: Work) -> Accepted:
        """Return once it is stored that it is tried again later. VersionConflict if it has ended."""
        ...

    async def end(
        self,
        accepted: Accepted,
        record: Record,
        keeping: Keeping,
        *,
        dead_until_ms: int | None = None,
        answer: str | None = None,
    ) -> None:
        """Return once its end is stored. Raises VersionConflict if it has ended already."""
        ...

    async def release(self, accepted: Accepted) -> None:
        """Take an acceptance back: nothing ran, and its key is free again."""
        ...

    async def load(self, account: str, sequence: int) -> Accepted | None:
        """Return an invocation with its payload; None if it has ended."""
        ...


class Notes(Protocol):
    """The operator's log."""

    def warning(self, event: str, **fields: object) -> object: ...
