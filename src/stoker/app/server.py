"""The server: its parts joined, in the order in which they start and stop.

Knows every room and no logic of any. `open` may fail at each step; `close` undoes what was done.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import certifi

from stoker import __version__
from stoker.app.administrator import ensure_administrator
from stoker.app.background import Background
from stoker.app.backup.store import catalog_log, catalog_reader
from stoker.app.backup.taking import Source, take
from stoker.app.calls import Calls
from stoker.app.closing import Closing
from stoker.app.housekeeping import Housekeeping, settle_memory
from stoker.app.install import runtimes_directory
from stoker.app.listening import is_loopback, listen, make_private, tls_of
from stoker.app.metrics import Measures, Metrics, Parts
from stoker.app.nats_access import NatsAccess, remove
from stoker.app.open_files import connections_max_of, raise_open_files
from stoker.app.privileges import drop_root
from stoker.app.record_keeping import RecordKeeping
from stoker.app.secrets_key import own_seal, seal_of
from stoker.app.settings import Settings
from stoker.backbone.blobs import BlobStore
from stoker.backbone.connection import Connection
from stoker.backbone.embedded import EmbeddedServer
from stoker.backbone.event_log import Event
from stoker.backbone.guard import StoreGuard
from stoker.backbone.jetstream import JetStream
from stoker.backbone.responder import Responder
from stoker.catalog.catalog import Catalog
from stoker.catalog.draft import cpu_millis_of
from stoker.catalog.fold import Fold
from stoker.catalog.issuer import Issuer
from stoker.catalog.tokens import Authenticator
from stoker.edge.errors import ErrorAnswers
from stoker.edge.history import History
from stoker.edge.http.access import Access
from stoker.edge.http.accounts import AccountRoutes
from stoker.edge.http.api import rfc3339
from stoker.edge.http.app import Door, make_app
from stoker.edge.http.assets import AssetRoutes
from stoker.edge.http.backup import BackupRoute
from stoker.edge.http.collections import CollectionRoutes
from stoker.edge.http.functions import FunctionRoutes
from stoker.edge.http.invocations import InvocationRoutes
from stoker.edge.http.invoke import InvokeRoute
from stoker.edge.http.limits_route import LimitsRoute
from stoker.edge.http.machines import MachineRoutes
from stoker.edge.http.metrics import MetricsRoute
from stoker.edge.http.openapi.routes import OpenApiRoutes
from stoker.edge.http.origin import Origin
from stoker.edge.http.runtimes import RuntimeRoutes
from stoker.edge.http.secrets import SecretRoutes
from stoker.edge.http.server import HttpServer
from stoker.edge.http.services import ServiceRoutes
from stoker.edge.http.tail import TailRoutes
from stoker.edge.http.tokens import TokenRoutes
from stoker.edge.mcp.asking import Asker
from stoker.edge.mcp.door import McpDoor
from stoker.edge.mcp.toolbox import Toolbox
from stoker.edge.nats.discovery import Discovery
from stoker.edge.nats.door import NatsDoor
from stoker.edge.services import Services
from stoker.model.clock import wall_ms
from stoker.model.egress import EgressPolicy
from stoker.model.function import Asset
from stoker.model.limits import MIB
from stoker.runtimes.launch_plans import ensure
from stoker.sandbox.choose import open_engine
from stoker.sandbox.engine import Engine, Site
from stoker.telemetry.exposition import CONTENT_TYPE
from stoker.telemetry.logging import get_logger
from stoker.worker.code_cache import CodeCache
from stoker.worker.pool import Pool, machine_pressure

VERIFIED_AT_START_BYTES = 64 * MIB
"""Contents up to here are read and checked before the server is ready, the rest in the background."""
CONNECTION_NAMES = ("stoker", "stoker door")
"""The store's connection, and another for what clients of NATS send: they must not hold up the store."""


class Server:
    """One gateway and worker. Open it once, close it once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._log = get_logger("stoker.app")
        self._closing = Closing(self._log)
        self._damage: str | None = None
        self._jetstream: JetStream | None = None
        self._bus: Responder | None = None
        self._pool: Pool | None = None
        self._http: HttpServer | None = None
        self._nats_door: NatsDoor | None = None
        self._calls: Calls | None = None
        self._tails: TailRoutes | None = None
        self._agents: McpDoor | None = None
        self._engine: Engine | None = None
        self._background = Background(self._log)
        self._files = 0
        """How many this process may have open."""
        self.url = ""

    # -- start -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Return once functions can run. Raises what `serve` turns into an exit code."""
        settings = self._settings
        self._files = raise_open_files()
        make_private(settings.data)
        guard = StoreGuard.open(settings.data, embedded=not settings.nats)
        self._closing.add(guard.close)
        tls = tls_of(settings)
        sock, self.url = listen(settings)
        if tls is None and not is_loopback(sock.getsockname()[0]):
            self._log.warning("listening_without_tls", address=self.url, hint="--tls-cert, --tls-key")
        plans = ensure(runtimes_directory(), lambda line: self._log.info("installing", what=line))
        code_root = settings.data / "code"
        folders = CodeCache(code_root, limits=settings.limits)
        folders.clear()
        policy = EgressPolicy(settings.egress == "public", settings.egress_allow_range)
        site = Site(settings.data, code_root, plans, settings.limits, policy, certifi.where())
        engine = self._engine = await open_engine(settings.isolation, site, self._notice)
        self._closing.add(engine.close)
        given_seal = None if settings.secrets_key is None else seal_of(settings.secrets_key)  # while we may
        drop_root(settings.data, [layer for plan in plans for layer in plan.layers])
        seal = given_seal or own_seal(settings.data)
        if engine.name == "process":
            self._log.warning("no_isolation", hint="functions run as plain processes of this user")
        jetstream = await self._open_backbone()
        log = catalog_log(jetstream, guard)
        blobs = BlobStore(jetstream, guard, spool_dir=settings.data / "spool", replicas=jetstream.replicas)
        fold = Fold()
        await log.open()
        await blobs.open()
        await log.replay(lambda event: _fold(fold, event))
        rest = await guard.verify(
            blobs, fold.references.all(), bytes_max=VERIFIED_AT_START_BYTES, on_damage=self._damaged
        )
        self._background.own(rest)
        token_file = settings.data / "token"
        if await ensure_administrator(fold, log, token_file, settings.token, now_ms=wall_ms):
            self._log.info("administrator_made", file=str(token_file))
        keeping = RecordKeeping(
            jetstream, guard, settings.data, settings.limits, fold.tenants, now_ms=wall_ms
        )
        self._closing.add(keeping.close)
        await keeping.open()
        catalog = Catalog(fold, log, blobs, _Unpacker(folders), settings.limits, seal=seal, now_ms=wall_ms)
        if (closed := sum(1 for one in fold.secrets.values() if one.key_id != seal.key_id)) > 0:
            self._log.warning("secrets_of_another_key", count=closed, hint="--secrets-key FILE")
        self._closing.add(catalog.settle)
        pool = self._pool = Pool(
            engine,
            {plan.runtime: plan for plan in plans},
            folders,
            blobs,
            catalog.secrets,
            settings.limits,
            spares={"nodejs": settings.pool_nodejs, "python": settings.pool_python},
            cpu_millis=cpu_millis_of,
            pressure=machine_pressure,
            cores=os.cpu_count() or 1,
            notes=get_logger("stoker.worker"),
        )
        await pool.open()
        self._closing.add(pool.close)
        catalog.on_change.append(pool.function_changed)
        keeping.on_over = catalog.usage.records_over
        catalog.on_secret.append(pool.secret_changed)
        housekeeping = Housekeeping(
            self._background, catalog, blobs, folders, pool, get_logger("stoker.catalog")
        )
        catalog.on_loosened.append(housekeeping.loosened)
        catalog.on_gone.append(housekeeping.account_gone)
        runtime_versions = {plan.runtime: plan.version for plan in plans}
        source = Source(
            store_id=guard.store_id,
            catalog=catalog_reader(jetstream, guard),
            stand_in=log.stand_in,
            catalog_end=lambda: guard.mark.sequence,
            invocations=keeping.ledger,
            blobs=blobs,
            hold_invocations=keeping.held,
            hold_contents=catalog.contents_held,
        )
        calls = await self._open_edge(fold, catalog, pool, keeping, sock, tls, runtime_versions, source)
        self._background.run(calls.recover(), "recovery of invocations")
        settle_memory()
        for entry in list(fold.functions.values()):
            if entry.function.concurrency.min_instances:
                pool.function_changed(entry.function, entry.function)
        housekeeping.start(list(fold.tenants.gone))

    async def _open_backbone(self) -> JetStream:
        settings = self._settings
        access_file = settings.data / "nats.json"
        if settings.nats:
            remove(access_file)  # of an embedded server that is not there any more
            connections = [Connection(settings.nats, name=name) for name in CONNECTION_NAMES]
        else:
            access = NatsAccess(access_file)
            nats = EmbeddedServer(settings.data / "nats", client=access.credentials, port=access.port)
            await nats.start()
            self._closing.add(nats.stop)
            access.write(nats.url)
            connections = [Connection.to_embedded(nats, name=name) for name in CONNECTION_NAMES]
        for connection in connections:
            await connection.open()
            self._closing.add(connection.close)
        self._bus = Responder(connections[1])
        await self._bus.open()
        self._closing.add(self._bus.close)
        self._jetstream = JetStream(connections[0])
        return self._jetstream

    async def _open_edge(
        self,
        fold: Fold,
        catalog: Catalog,
        pool: Pool,
        keeping: RecordKeeping,
        sock: socket.socket,
        tls: ssl.SSLContext | None,
        runtime_versions: Mapping[str, str],
        source: Source,
    ) -> Calls:
        limits = self._settings.limits
        edge_log = get_logger("stoker.edge")
        errors = ErrorAnswers(edge_log)
        access = Access(Authenticator(fold, issuer=await self._open_issuer(fold)))
        measures = Measures()
        services = Services(fold, measures.counters)
        calls = self._calls = Calls(catalog, fold, pool, keeping, limits, measures.ended, now_ms=wall_ms)
        self._closing.add(calls.close)
        history = History(calls.live, keeping.records)
        tails = self._tails = TailRoutes(fold, access, pool, limits)
        doors: list[Door] = [
            FunctionRoutes(catalog, fold, access, limits),
            InvocationRoutes(fold, access, history, keeping.records, keeping.store, calls, limits),
            tails,
            AssetRoutes(catalog, fold, access, limits),
            CollectionRoutes(catalog, fold, access),
            RuntimeRoutes(access, runtime_versions),
            ServiceRoutes(fold, access, services),
            MachineRoutes(fold, access, pool, node=socket.gethostname()),
            AccountRoutes(catalog, access),
            TokenRoutes(catalog, access),
            SecretRoutes(catalog, access),
            LimitsRoute(catalog, fold, access, keeping.records),
            OpenApiRoutes(limits, __version__),
            MetricsRoute(access, self._metrics(fold, pool, calls, keeping, measures).text, CONTENT_TYPE),
        ]
        invoke = InvokeRoute(fold, access, calls.invoker, calls.asynchronous, calls.keyed, errors)
        asker = Asker(make_app(doors, errors, self.problem, self.notes), invoke, errors)
        agents = self._agents = McpDoor(access, Toolbox(fold, asker, errors, limits), errors)
        catalog.on_change.append(agents.function_changed)
        backup = BackupRoute(access, lambda: take(source, wall_ms()))
        http = self._http = HttpServer(
            app=make_app([*doors, backup, agents], errors, self.problem, self.notes),
            invoke=invoke,
            admit=invoke.admit,
            limits=replace(limits, connections_max=connections_max_of(self._files, limits)),
            log=edge_log,
        )
        await http.start(sock, tls)
        pool.on_inward = lambda account, calls, connection: http.adopt(connection, Origin(account, calls))

        async def stop() -> None:
            http.abort()
            await http.stop(drain_ms=0)

        self._closing.add(stop)
        self._closing.add(agents.close)
        await self._open_nats_door(fold, calls, errors, services)
        return calls

    async def _open_issuer(self, fold: Fold) -> Issuer | None:
        """Return the issuer that the operator trusts, with its keys; None if there is none."""
        settings = self._settings.jwt
        if settings is None:
            return None
        from stoker.app.issuer_keys import IssuerKeys  # a client of HTTP, which few servers need

        issuer = Issuer(settings.trust, fold.tenants)
        keys = IssuerKeys(settings, issuer)
        await keys.first()
        self._background.run(keys.run(), "keys of the issuer")
        return issuer

    def _metrics(
        self, fold: Fold, pool: Pool, calls: Calls, keeping: RecordKeeping, measures: Measures
    ) -> Metrics:
        assert self._jetstream is not None
        assert self._engine is not None
        most, isolation = self._settings.limits.instances_max, self._engine.name
        parts = Parts(fold, pool, calls, keeping, self._jetstream, measures, most, isolation)
        return Metrics(parts, started_s=time.time())

    async def _open_nats_door(
        self, fold: Fold, calls: Calls, errors: ErrorAnswers, services: Services
    ) -> None:
        assert self._bus is not None
        bus = self._bus
        log = get_logger("stoker.edge")
        discovery = Discovery(services, bus, log, started=rfc3339(wall_ms()))
        await discovery.open()
        self._closing.add(discovery.close)
        door = self._nats_door = NatsDoor(
            fold, calls.invoker, calls.asynchronous, calls.keyed, errors, bus, log
        )
        await door.open()

    # -- while it runs ---------------------------------------------------------------------------

    def problem(self) -> str | None:
        """Return why functions cannot be run just now, or None."""
        if self._calls is None or self._calls.closed:
            return "the server is stopping" if self._calls else "the server is starting"
        if self._jetstream is not None and self._jetstream.unhealthy_reason is not None:
            return self._jetstream.unhealthy_reason
        return self._damage or (self._pool.problem if self._pool else None)

    def notes(self) -> Mapping[str, object]:
        """Return what an operator should know of a server that is ready."""
        assert self._engine is not None
        assert self._pool is not None
        notes: dict[str, object] = {"isolation": self._engine.name, "instances": self._pool.figures}
        if self._engine.name == "process":
            notes["warning"] = "functions run without isolation (--isolation process)"
        return notes

    async def broken(self) -> str:
        """Return the reason once the server cannot go on."""
        assert self._engine is not None
        await self._engine.ended()
        return "the supervisor of the sandboxes is gone"

    async def drain(self) -> None:
        """Take no new work and return when what was accepted has ended, after `drain_ms_max` at most."""
        assert self._http is not None
        assert self._calls is not None
        assert self._tails is not None
        assert self._agents is not None
        assert self._nats_door is not None
        self._tails.close()
        self._agents.drain()
        drain_ms = self._settings.limits.drain_ms_max
        await asyncio.gather(
            self._calls.drain(drain_ms),
            self._http.stop(drain_ms=drain_ms),
            self._nats_door.drained(wait_ms=drain_ms),
        )

    async def close(self) -> None:
        """End everything that was started, the last first. Harmless when repeated."""
        with self._closing.noticed("the server's own tasks"):
            await self._background.close()
        await self._closing.run()

    def _damaged(self, account: str, digest: str, what: str) -> None:
        self._damage = f"the store is damaged: content {digest[:12]} cannot be read"
        self._log.error("content_damaged", account=account, digest=digest, what=what)

    def _notice(self, event: str, fields: Mapping[str, object]) -> None:
        get_logger("stoker.sandbox").info(event, **fields)


class _Unpacker:
    """The catalog's view of the code cache: what can be unpacked is good code."""

    def __init__(self, folders: CodeCache) -> None:
        self._folders = folders

    async def unpack(self, assets: tuple[Asset, ...], fetch: Callable[[str], Awaitable[bytes]]) -> None:
        await self._folders.folder(assets, fetch, new=True)


def _fold(fold: Fold, event: Event) -> None:
    fold.apply(event.subject, event.data, event.sequence)
