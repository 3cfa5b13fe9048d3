"""The catalog: every change of what exists, stored before it is told.

A change is decided against the fold, appended to the log with the revision it was decided on, and
folded in once it is stored. Does not know HTTP, NATS, nor where code is run.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from stoker.catalog import draft as drafts
from stoker.catalog import events
from stoker.catalog.draft import DraftAsset, FunctionDraft
from stoker.catalog.fold import Contract, Entry, Fold
from stoker.catalog.schema import compile_schema
from stoker.model.errors import InvalidRequest, NameTaken, NotFound
from stoker.model.function import Asset, CodeVersion, Collection, Function
from stoker.model.limits import Limits
from stoker.model.subjects import is_topic

FieldChange = dict[str, Any]


class Log(Protocol):
    """The event log that the catalog is a fold of."""

    async def append(self, subject: str, data: bytes, *, expected: int | None) -> int:
        """Store an event and return its sequence; VersionConflict if `expected` is not the last one."""
        ...


class Contents(Protocol):
    """Where the content of assets is kept, by the SHA-256 of it."""

    async def put(self, account: str, content: bytes) -> str: ...

    async def get(self, account: str, digest: str) -> bytes: ...

    async def delete(self, account: str, digest: str) -> None: ...


class Unpacker(Protocol):
    """Checks code by making the folder that it unpacks to."""

    async def unpack(
        self, assets: tuple[Asset, ...], fetch: Callable[[str], Awaitable[bytes]]
    ) -> None:
        """Raise InvalidRequest or TooLarge for code that breaks the rules."""
        ...


class Catalog:
    """Changes of functions, collections and stored objects, an account at a time."""

    def __init__(
        self,
        fold: Fold,
        log: Log,
        contents: Contents,
        unpacker: Unpacker,
        limits: Limits,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self._fold = fold
        self._log = log
        self._contents = contents
        self._unpacker = unpacker
        self._limits = limits
        self._now_ms = now_ms
        self._deciding: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._uploading: Counter[tuple[str, str]] = Counter()
        """Contents that are stored but not yet referred to: they must not be swept."""
        self._sweeping: dict[tuple[str, str], asyncio.Event] = {}
        self.on_change: list[Callable[[Function, Function | None], None]] = []
        """Called with (before, after) once a change of a function is stored; after is None if deleted."""

    # -- functions -------------------------------------------------------------------------------

    async def create_function(self, account: str, wanted: FunctionDraft) -> Function:
        """Store a new function, and its collection if that does not exist yet; return it.

        Raises InvalidRequest or TooLarge naming the field, NameTaken, StorageFull, Unavailable.
        """
        drafts.check_draft(wanted, self._limits)
        contract = self._compile(wanted.schema)
        self._check_collection_text(account, wanted.collection)
        if (known := self._fold.collection(account, wanted.collection)) is not None:
            self._refuse_taken(account, known.topic, wanted.name)
        contents = {hashlib.sha256(a.content).hexdigest(): a.content for a in wanted.assets}
        assets = tuple(_asset(item) for item in wanted.assets)
        pins = [(account, digest) for digest in contents]

        async def fetch(digest: str) -> bytes:
            return contents[digest]

        with self._pinned(pins):
            await self._unpacker.unpack(assets, fetch)
            await asyncio.gather(*(self._put(account, d, c) for d, c in contents.items()))
            async with self._deciding[account]:
                collection = await self._ensure_collection(account, wanted.collection)
                return await self._store_function(account, collection.topic, wanted, assets, contract)

    async def _store_function(
        self, account: str, topic: str, wanted: FunctionDraft, assets: tuple[Asset, ...], contract: Contract
    ) -> Function:
        self._refuse_taken(account, topic, wanted.name)
        service, before = self._fold.next_service(account, topic, wanted.name)
        now_ms = self._now_ms()
        function = Function(
            account=account,
            collection_topic=topic,
            service=service,
            name=wanted.name,
            created_name=wanted.name,
            description=wanted.description,
            monitor_config=wanted.monitor_config or {},
            schema=wanted.schema,
            size=wanted.size,
            memory_bytes=drafts.memory_bytes_of(wanted.size),
            retry=wanted.retry,
            concurrency=events.concurrency_of(wanted.concurrency),
            concurrency_given=wanted.concurrency,
            code=CodeVersion(
                version=before.version + 1 if before else 1,
                runtime=wanted.runtime,
                handler=wanted.handler,
                assets=assets,
                timeout_ms=self._limits.timeout_ms_default if wanted.timeout is None else wanted.timeout,
                read_only_fs=wanted.read_only_fs,
                env_vars=wanted.env_vars,
                secrets=wanted.secrets,
                network=wanted.network,
                modified=now_ms // 1000,
            ),
        )
        subject = events.function_key(account, topic, service)
        data = events.encode("created", now_ms, function=events.function_content(function))
        await self._append(str(subject), data, expected=before.revision if before else 0)
        entry = self._fold.functions[(account, topic, service)]
        entry.contract = contract
        self._tell(entry.function, entry.function)
        return entry.function

    async def patch_function(self, account: str, entry: Entry, changes: FieldChange) -> None:
        """Store the changes of name, description, monitor_config, schema, size, retry, concurrency.

        What is given replaces that key whole. Raises as `create_function`; NotFound if it is gone by now.
        """
        changes = dict(changes)
        contract: Contract | None = None
        if "name" in changes:
            drafts.check_name(changes["name"], "/name", self._limits)
        if "monitor_config" in changes:
            drafts.check_monitor_config(changes["monitor_config"], self._limits)
        if "schema" in changes:
            contract = self._compile(changes["schema"])
        if "size" in changes:
            changes["memory_bytes"] = drafts.memory_bytes_of(changes["size"])
        if "retry" in changes:
            drafts.check_retry(changes["retry"])
        if "concurrency" in changes:
            drafts.check_concurrency(changes["concurrency"], self._limits)
        if not changes:
            return
        async with self._deciding[account]:
            before = self._living(entry)
            topic, service = before.collection_topic, before.service
            if changes.get("name", before.name) != before.name:
                self._refuse_taken(account, topic, changes["name"])
            data = events.encode("patched", self._now_ms(), changes=changes)
            subject = events.function_key(account, topic, service)
            await self._append(str(subject), data, expected=before.revision)
            entry.contract = contract
            self._tell(before, entry.function)

    async def delete_function(self, account: str, entry: Entry) -> None:
        """Store that the function is no more. Raises NotFound if it is gone already."""
        async with self._deciding[account]:
            before = self._living(entry)
            subject = events.function_key(account, before.collection_topic, before.service)
            await self._append(
                str(subject), events.encode("deleted", self._now_ms()), expected=before.revision
            )
            self._tell(before, None)

    def contract(self, entry: Entry) -> Contract:
        """Return a function's compiled schemas; compiles them at the first call after a start."""
        contract = entry.contract
        if contract is None:
            contract = entry.contract = self._compile(entry.function.schema)
        return contract

    async def contents_of(self, function: Function) -> list[bytes]:
        """Return the content of a function's assets, in their order."""
        return list(
            await asyncio.gather(
                *(self._contents.get(function.account, a.digest) for a in function.code.assets)
            )
        )

    # -- objects and contents --------------------------------------------------------------------

    async def put_object(self, account: str, key: str, content: bytes) -> None:
        """Store raw bytes under a key, in place of what was there, for assets with `link: true`."""
        key_hash = _key_hash(key)
        digest = hashlib.sha256(content).hexdigest()
        with self._pinned([(account, digest)]):
            await self._put(account, digest, content)
            async with self._deciding[account]:
                stored = self._fold.objects.get((account, key_hash))
                data = events.encode(
                    "created", self._now_ms(), key=key, digest=digest, size_bytes=len(content)
                )
                expected = stored.revision if stored else 0
                await self._append(str(events.object_key(account, key_hash)), data, expected=expected)

    async def object_content(self, account: str, key: str) -> bytes | None:
        """Return what is stored under a key, or None."""
        stored = self._fold.objects.get((account, _key_hash(key)))
        return None if stored is None else await self._contents.get(account, stored.digest)

    async def sweep(self, candidates: set[tuple[str, str]]) -> int:
        """Delete those (account, digest) that nothing refers to any more; return how many.

        A content that somebody is uploading just now is pinned and stays; one that somebody begins to
        upload while its delete is under way is stored after that delete.
        """
        removed = 0
        for pin in candidates - self._fold.digests_in_use():
            if self._uploading[pin] > 0 or pin in self._fold.digests_in_use():
                continue
            gone = self._sweeping[pin] = asyncio.Event()
            try:
                await self._contents.delete(*pin)
                removed += 1
            finally:
                del self._sweeping[pin]
                gone.set()
        return removed

    @contextmanager
    def _pinned(self, pins: list[tuple[str, str]]) -> Iterator[None]:
        """Keep contents from being swept between their upload and the event that refers to them."""
        self._uploading.update(pins)
        try:
            yield
        finally:
            self._uploading.subtract(pins)
            for pin in pins:
                if self._uploading[pin] <= 0:
                    del self._uploading[pin]

    async def _put(self, account: str, digest: str, content: bytes) -> None:
        while (gone := self._sweeping.get((account, digest))) is not None:
            await gone.wait()
        await self._contents.put(account, content)

    # -- deciding --------------------------------------------------------------------------------

    async def _append(self, subject: str, data: bytes, *, expected: int) -> None:
        # Once sent, the event may be stored whatever becomes of the caller: the fold must follow it.
        await asyncio.shield(asyncio.ensure_future(self._append_and_fold(subject, data, expected)))

    async def _append_and_fold(self, subject: str, data: bytes, expected: int) -> None:
        sequence = await self._log.append(subject, data, expected=expected)
        self._fold.apply(subject, data, sequence)

    async def _ensure_collection(self, account: str, text: str) -> Collection:
        known = self._fold.collection(account, text)
        if known is not None:
            return known
        data = events.encode(
            "created",
            self._now_ms(),
            collection={"name": text, "description": None, "collection_type": "function"},
        )
        await self._append(str(events.collection_key(account, text)), data, expected=0)
        return self._fold.collections[(account, text)]

    def _check_collection_text(self, account: str, text: str) -> None:
        if self._fold.collection(account, text) is None and not is_topic(text):
            raise InvalidRequest(
                "no collection has that topic or name, and it cannot be a new one's topic",
                field="/compute_asset/collection_topic",
                hint="1 to 64 letters, digits, '-' or '_'",
            )

    def _refuse_taken(self, account: str, topic: str, name: str) -> None:
        if self._fold.name_is_taken(account, topic, name):
            raise NameTaken(f"the collection has a function of the name {name!r} already", field="/name")

    def _living(self, entry: Entry) -> Function:
        function = entry.function
        identity = (function.account, function.collection_topic, function.service)
        if self._fold.functions.get(identity) is not entry:
            raise NotFound("no such function")
        return entry.function

    def _compile(self, schema: dict[str, Any] | None) -> Contract:
        compiled = {}
        for part in ("input", "output"):
            document = (schema or {}).get(part)
            if document is not None:
                compiled[part] = compile_schema(document, pointer=f"/schema/{part}", limits=self._limits)
        return Contract(compiled.get("input"), compiled.get("output"))

    def _tell(self, before: Function, after: Function | None) -> None:
        for listener in self.on_change:
            listener(before, after)


def _asset(item: DraftAsset) -> Asset:
    return Asset(item.name, item.kind, hashlib.sha256(item.content).hexdigest(), len(item.content))


def _key_hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()

