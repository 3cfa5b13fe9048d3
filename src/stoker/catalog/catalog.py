"""The catalog: every change of a function, stored before it is told; the door to what else exists.

A change is decided against the fold, appended to the log with the revision it was decided on, and
folded in once it is stored. Does not know HTTP, NATS, nor where code is run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from stoker.catalog import draft as drafts
from stoker.catalog import events
from stoker.catalog.accounts import Accounts
from stoker.catalog.code import CodeStore, Unpacker
from stoker.catalog.collections import Collections
from stoker.catalog.contents import Contents, KeptContents
from stoker.catalog.draft import FunctionDraft
from stoker.catalog.fold import Contract, Entry, Fold
from stoker.catalog.journal import Journal, Log
from stoker.catalog.objects import Objects
from stoker.catalog.quotas import Usage
from stoker.catalog.references import Content
from stoker.catalog.schema import compile_schema
from stoker.catalog.sealing import Seal
from stoker.catalog.secrets import Secrets
from stoker.catalog.tokens import Tokens
from stoker.catalog.versions import Versions
from stoker.model.errors import NameTaken
from stoker.model.function import Asset, CodeVersion, Function
from stoker.model.limits import Limits, for_stored

FieldChange = dict[str, Any]


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
        seal: Seal,
        now_ms: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fold = fold
        self._limits = limits
        self._now_ms = now_ms
        self._journal = journal = Journal(fold, log)
        self._contents = KeptContents(fold.references, contents)
        self.usage = usage = Usage(clock=clock)
        for account in fold.tenants.accounts.values():
            usage.limit(account)
        journal.on_account.append(usage.limit)
        journal.on_gone.append(usage.forget)
        self._code = CodeStore(self._contents, unpacker, self._require_code_bytes)
        self.on_change = journal.on_change
        self.on_loosened = journal.on_loosened
        self.on_secret = journal.on_secret
        self.on_gone = journal.on_gone
        self.versions = Versions(fold, journal, self._code, limits, now_ms, self._require_version)
        self.collections = Collections(fold, journal, limits, now_ms)
        self.objects = Objects(fold, journal, self._contents, usage, now_ms)
        self.tokens = Tokens(fold, journal, limits, now_ms)
        self.accounts = Accounts(fold, journal, self.tokens, now_ms)
        self.secrets = Secrets(fold, journal, self._contents, seal, limits, now_ms)

    # -- functions -------------------------------------------------------------------------------

    async def create_function(self, account: str, wanted: FunctionDraft) -> Function:
        """Store a new function, and its collection if that does not exist yet; return it.

        Raises InvalidRequest or TooLarge naming the field, NameTaken, QuotaExceeded, StorageFull,
        Unavailable.
        """
        drafts.check_draft(wanted, self._limits)  # refuses before anything is unpacked or stored
        self._check_secrets(account, wanted)
        contract = _compile(wanted.schema, self._limits)
        self.collections.check_text(account, wanted.collection)
        if (known := self._fold.collection(account, wanted.collection)) is not None:
            self._refuse_taken(account, known.topic, wanted.name)
        self._require_one_more(account)

        async def create() -> Function:
            async with self._code.kept(account, wanted.assets) as assets, self._journal.deciding(account):
                collection = await self.collections.ensure(account, wanted.collection)
                return await self._store_function(account, collection.topic, wanted, assets, contract)

        return await self._journal.to_its_end(create())

    async def _store_function(
        self, account: str, topic: str, wanted: FunctionDraft, assets: tuple[Asset, ...], contract: Contract
    ) -> Function:
        self._refuse_taken(account, topic, wanted.name)
        self._check_secrets(account, wanted)  # one may have been deleted since
        self._require_one_more(account)
        self._require_code_bytes(account, assets)
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
        await self._journal.append(str(subject), data, expected=before.revision if before else 0)
        entry = self._fold.functions[(account, topic, service)]
        entry.contract = contract
        self._journal.tell(entry.function, entry.function)
        return entry.function

    async def patch_function(
        self, account: str, entry: Entry, changes: FieldChange, *, revisions: frozenset[int] | None = None
    ) -> None:
        """Store the changes of name, description, monitor_config, schema, size, retry, concurrency.

        What is given replaces that key whole. Raises as `create_function`; NotFound if it is gone by now,
        VersionConflict if `revisions` are given and it is at another one.
        """
        changes = dict(changes)
        contract: Contract | None = None
        if "name" in changes:
            drafts.check_name(changes["name"], "/name", self._limits)
        drafts.check_description(changes.get("description"), self._limits)
        if "monitor_config" in changes:
            drafts.check_monitor_config(changes["monitor_config"], self._limits)
        if "schema" in changes:
            drafts.check_schema(changes["schema"], self._limits)
            contract = _compile(changes["schema"], self._limits)
        if "size" in changes:
            changes["memory_bytes"] = drafts.memory_bytes_of(changes["size"])
        if "retry" in changes:
            drafts.check_retry(changes["retry"], self._limits)
        if "concurrency" in changes:
            drafts.check_concurrency(changes["concurrency"], self._limits)

        async def patch() -> None:
            async with self._journal.deciding(account):
                before = self._fold.living(entry, revisions)
                topic, service = before.collection_topic, before.service
                if changes.get("name", before.name) != before.name:
                    self._refuse_taken(account, topic, changes["name"])
                if not changes:
                    return
                data = events.encode("patched", self._now_ms(), changes=changes)
                subject = events.function_key(account, topic, service)
                await self._journal.append(str(subject), data, expected=before.revision)
                if contract is not None:
                    entry.contract = contract
                self._journal.tell(before, entry.function)

        await self._journal.to_its_end(patch())

    async def delete_function(
        self, account: str, entry: Entry, *, revisions: frozenset[int] | None = None
    ) -> None:
        """Store that the function is no more.

        Raises NotFound if it is gone already, VersionConflict if `revisions` are given and it is at another.
        """

        async def delete() -> None:
            async with self._journal.deciding(account):
                before = self._fold.living(entry, revisions)
                subject = events.function_key(account, before.collection_topic, before.service)
                data = events.encode("deleted", self._now_ms())
                await self._journal.append(str(subject), data, expected=before.revision)
                self._journal.tell(before, None)

        await self._journal.to_its_end(delete())

    def contract(self, entry: Entry) -> Contract:
        """Return a function's compiled schemas; compiles them at the first call after a start."""
        contract = entry.contract
        if contract is None:
            contract = entry.contract = _compile(entry.function.schema, for_stored(self._limits))
        return contract

    async def contents_of(self, function: Function) -> list[bytes]:
        """Return the content of a function's assets, in their order."""
        return list(
            await asyncio.gather(
                *(self._contents.get(function.account, a.digest) for a in function.code.assets)
            )
        )

    async def content(self, account: str, digest: str) -> bytes:
        """Return a content that some version refers to."""
        return await self._contents.get(account, digest)

    async def sweep(self, candidates: set[Content]) -> int:
        """Delete those (account, digest) that nothing refers to any more; return how many."""
        return await self._contents.sweep(candidates)

    def contents_held(self) -> asyncio.Lock:
        """Return what, while it is entered, has no content swept."""
        return self._contents.turn

    async def settle(self) -> None:
        """Return once no change is under way any more; for the end of a server."""
        await self._journal.settle()

    def _check_secrets(self, account: str, wanted: FunctionDraft) -> None:
        self.secrets.require(account, wanted.secrets, "/compute_asset/secrets")

    def _require_version(self, account: str, code: CodeVersion) -> None:
        """Refuse a new version whose secrets are not there, or for whose code there is no room."""
        self.secrets.require(account, code.secrets, "/secrets")
        self._require_code_bytes(account, code.assets)

    def _require_one_more(self, account: str) -> None:
        self.usage.require(account, "functions", self._fold.count_of(account), 1)

    def _require_code_bytes(self, account: str, assets: Iterable[Asset]) -> None:
        references = self._fold.references
        more = references.bytes_more(account, ((asset.digest, asset.size_bytes) for asset in assets))
        self.usage.require(account, "code_bytes", references.bytes_of(account), more)

    def _refuse_taken(self, account: str, topic: str, name: str) -> None:
        if self._fold.name_is_taken(account, topic, name):
            raise NameTaken(f"the collection has a function of the name {name!r} already", field="/name")


def _compile(schema: dict[str, Any] | None, limits: Limits) -> Contract:
    compiled = {}
    for part in ("input", "output"):
        document = (schema or {}).get(part)
        if document is not None:
            compiled[part] = compile_schema(document, pointer=f"/schema/{part}", limits=limits)
    return Contract(compiled.get("input"), compiled.get("output"))
