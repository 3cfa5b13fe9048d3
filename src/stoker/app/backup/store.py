"""A store that is opened for a backup or a restore alone, while no server runs on it.

Owns the order in which it is opened and closed. Does not know what is done with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from stoker.app.backup.taking import Source
from stoker.backbone.blobs import BlobStore
from stoker.backbone.connection import Connection
from stoker.backbone.embedded import EmbeddedServer
from stoker.backbone.event_log import EventLog
from stoker.backbone.guard import StoreGuard
from stoker.backbone.jetstream import JetStream
from stoker.backbone.ledger import Ledger
from stoker.backbone.vacancies import Signs
from stoker.catalog import events
from stoker.catalog.stored import DEFAULT_ACCOUNT
from stoker.records.formats import SUBJECTS

CATALOG_SUBJECTS = "accounts.*.catalog.>"
_SIGNS = Signs(
    notes=str(events.erased_key("*")), stand_in=str(events.Subject(DEFAULT_ACCOUNT, events.VACANT, ("self",)))
)


@dataclass(frozen=True, slots=True)
class PrivateStore:
    """Its parts, open."""

    guard: StoreGuard
    jetstream: JetStream
    log: EventLog
    blobs: BlobStore
    invocations: Ledger

    def source(self) -> Source:
        """Return it as what a backup is taken of. Nobody else is here to erase anything."""
        return Source(
            store_id=self.guard.store_id,
            catalog=catalog_reader(self.jetstream, self.guard),
            stand_in=self.log.stand_in,
            catalog_end=lambda: self.guard.mark.sequence,
            invocations=self.invocations,
            blobs=self.blobs,
            hold_invocations=nullcontext,
            hold_contents=nullcontext,
        )


def catalog_log(jetstream: JetStream, guard: StoreGuard) -> EventLog:
    """Return the log of the catalog, which is still to be opened."""
    return EventLog(
        jetstream,
        guard,
        stream="CATALOG",
        subjects=(CATALOG_SUBJECTS,),
        signs=_SIGNS,
        replicas=jetstream.replicas,
    )


def catalog_reader(jetstream: JetStream, guard: StoreGuard) -> Ledger:
    """Return what reads the events of the catalog by their place."""
    return Ledger(jetstream, guard, stream="CATALOG", subjects=(CATALOG_SUBJECTS,))


@asynccontextmanager
async def private_store(data: Path) -> AsyncIterator[PrivateStore]:
    """Open the store of a data directory, or make one in an empty one. To be entered in the main thread.

    Raises DataDirectoryInUse, StoreDamaged, BackboneMissing.
    """
    async with AsyncExitStack() as exits:
        guard = StoreGuard.open(data)
        exits.push_async_callback(guard.close)
        server = EmbeddedServer(data / "nats")
        exits.push_async_callback(server.stop)
        await server.start()
        connection = Connection.to_embedded(server)
        exits.push_async_callback(connection.close)
        await connection.open()
        jetstream = JetStream(connection)
        log = catalog_log(jetstream, guard)
        blobs = BlobStore(jetstream, guard, spool_dir=data / "spool")
        invocations = Ledger(jetstream, guard, stream="INVOCATIONS", subjects=(SUBJECTS,))
        await log.open()
        await blobs.open()
        await log.replay(lambda _event: None)
        await invocations.open()
        exits.push_async_callback(invocations.close)
        yield PrivateStore(guard, jetstream, log, blobs, invocations)
