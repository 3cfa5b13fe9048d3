"""Acceptance: an invocation becomes a stored one, or the one that has its Idempotency-Key already is told.

Everything that could refuse it is checked before it is stored. Does not know when it runs.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from stoker.catalog.catalog import Catalog
from stoker.catalog.fold import Entry
from stoker.catalog.principal import Principal
from stoker.invocation.admission import admit
from stoker.invocation.store import Store
from stoker.model.call import CallIds, text_of
from stoker.model.clock import wall_ms
from stoker.model.errors import IdempotencyConflict, NoCapacity
from stoker.model.limits import Limits
from stoker.model.record import QUEUED, RUNNING, Accepted, Claim, KeyHolder, Record, Work, created_ms_of

ASYNC = "Async"
REQUEST_RESPONSE = "RequestResponse"
Place = tuple[str, str, str, str]
"""(account, topic, service, hash of the key)."""


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """An Idempotency-Key with the request that it came with."""

    key: str
    """As it was sent."""
    body: bytes
    """What must be the same when it is sent again."""

    @property
    def token(self) -> str:
        """The key as it stands in a subject: a key is free text, so it is hashed."""
        return hashlib.sha256(self.key.encode()).hexdigest()[:40]

    @property
    def body_digest(self) -> str:
        """SHA-256 of the request, in hexadecimal."""
        return hashlib.sha256(self.body).hexdigest()


class Held:
    """A key that this server has in hand: the first request with it is being accepted, or still runs."""

    __slots__ = ("body_digest", "holder")

    def __init__(self, body_digest: str) -> None:
        self.body_digest = body_digest
        self.holder: asyncio.Future[KeyHolder] = asyncio.get_running_loop().create_future()
        """Who has it, once that is known; cancelled if the first request was refused."""


class Acceptance:
    """One for a server."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        limits: Limits,
        *,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._limits = limits
        self._now_ms = now_ms
        self._ids = CallIds()
        self._held: dict[Place, Held] = {}
        self.closed = False
        """True while the server drains."""

    async def accept(
        self,
        principal: Principal,
        entry: Entry,
        payload: bytes,
        invocation_type: str,
        *,
        version: int | None = None,
        key: KeyRequest | None = None,
        replay_of: str | None = None,
        redriven: bool = False,
    ) -> Accepted | KeyHolder:
        """Return once it is stored; or which invocation has the key, from the same request.

        A replay's payload is checked when its turn comes, and its record tells. Raises as `admit`; NotFound
        for an unknown version; QuotaExceeded; IdempotencyConflict; StorageFull, Unavailable.
        """
        if self.closed:
            raise NoCapacity("the server is stopping", retry_after_s=1)
        function = entry.function if version is None else entry.at_version(version)
        is_async = invocation_type == ASYNC
        bytes_max = self._limits.async_payload_bytes_max if is_async else self._limits.payload_bytes_max
        if replay_of is None:
            contract = entry.contract or self._catalog.contract(entry)
            admit(contract, payload, bytes_max)
        call_id = self._ids.next()
        parent = None if replay_of is not None else principal.parent
        record = Record(
            invocation_id=text_of(call_id),
            function=function.subject,
            version=function.code.version,
            invocation_type=invocation_type,
            status=QUEUED if is_async else RUNNING,
            created_ms=created_ms_of(call_id),
            caller=principal.token_id,
            replay_of=replay_of,
            parent_invocation_id=None if parent is None else parent.invocation_id,
            depth=0 if parent is None else parent.depth,
        )
        work = Work(
            topic=function.collection_topic,
            service=function.service,
            payload=payload.decode(),
            pinned=version,
            key=None if key is None else key.token,
        )
        origin = replay_of if redriven else None
        usage = self._catalog.usage
        usage.require_record_room(principal.account)
        usage.call(principal)
        found: Accepted | KeyHolder | None = None
        try:
            if key is None:
                found = await self._store.accept(function.account, record, work, redriven=origin)
            else:
                found = await self._accept_keyed(function.account, record, work, key)
        finally:
            if not isinstance(found, Accepted):
                usage.not_called(principal)
        return found

    async def _accept_keyed(
        self, account: str, record: Record, work: Work, key: KeyRequest
    ) -> Accepted | KeyHolder:
        place = (account, work.topic, work.service, key.token)
        digest = key.body_digest
        while (held := self._held.get(place)) is not None:
            _require_same(held.body_digest, digest)
            await asyncio.wait([held.holder])
            if not held.holder.cancelled():
                return held.holder.result()
        held = self._held[place] = Held(digest)
        claim = Claim(digest, self._now_ms() + self._limits.idempotency_ms_max)
        try:
            found = await self._store.accept(account, record, work, claim)
            if isinstance(found, KeyHolder):
                _require_same(found.body_digest, digest)
        except BaseException:
            held.holder.cancel()
            del self._held[place]
            raise
        if isinstance(found, KeyHolder):
            held.holder.set_result(found)
        else:
            held.holder.set_result(
                KeyHolder(record.invocation_id, record.invocation_type, digest, ended=False)
            )
        if isinstance(found, KeyHolder) or record.invocation_type == ASYNC:
            del self._held[place]  # the store knows; of a call that runs it is known here without asking
        return found

    def settled(self, accepted: Accepted) -> None:
        """Note that what a keyed call answered is stored, or that it was taken back."""
        work = accepted.work
        if work.key is not None:
            self._held.pop((accepted.account, work.topic, work.service, work.key), None)


def _require_same(known: str, digest: str) -> None:
    if known != digest:
        raise IdempotencyConflict(
            "the Idempotency-Key was used with another request",
            hint="a new request needs a key of its own",
        )
