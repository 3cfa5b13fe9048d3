"""Versions: every change of a function's code is a new one, and an old one can come back as a new one.

Does not know how code is checked and stored (`code`), nor what runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from stoker.catalog import events
from stoker.catalog.code import CodeStore
from stoker.catalog.draft import CodeChanges, check_code
from stoker.catalog.fold import Entry, Fold
from stoker.catalog.journal import Journal
from stoker.model.errors import InvalidRequest, NotFound
from stoker.model.function import CodeVersion, Function
from stoker.model.limits import Limits


class Versions:
    """Changes of code, an account at a time."""

    def __init__(
        self,
        fold: Fold,
        journal: Journal,
        code: CodeStore,
        limits: Limits,
        now_ms: Callable[[], int],
        check: Callable[[str, CodeVersion], None],
    ) -> None:
        self._fold = fold
        self._journal = journal
        self._code = code
        self._limits = limits
        self._now_ms = now_ms
        self._check = check
        """Refuses a version of an account that cannot be, naming the field of its secrets."""

    async def change(
        self, account: str, entry: Entry, changes: CodeChanges, *, revisions: frozenset[int] | None = None
    ) -> None:
        """Store a new version: the latest one with what is given in place of those parts.

        It is a new one also if it equals the latest; without any changes nothing is stored. New code is
        unpacked, and refused if that fails, before anything is stored. Raises InvalidRequest or TooLarge with
        a field below the compute asset, NotFound if the function is gone, VersionConflict if `revisions` are
        given and it is at another one, StorageFull, Unavailable.
        """
        check_code(changes, self._limits, "", entry.function.code.runtime)
        self._fold.living(entry, revisions)  # before work that would be for nothing
        if changes.get("secrets"):
            self._check(account, replace(entry.function.code, secrets=changes["secrets"]))

        async def change() -> None:
            if "assets" not in changes:
                await self._store(account, entry, revisions, lambda code: self._changed(code, changes))
                return
            async with self._code.kept(account, changes["assets"], pointer="") as assets:
                taken = {**changes, "assets": assets}
                await self._store(account, entry, revisions, lambda code: self._changed(code, taken))

        if changes:
            await self._journal.to_its_end(change())

    async def roll_back(
        self, account: str, entry: Entry, version: int, *, revisions: frozenset[int] | None = None
    ) -> Function:
        """Store a new version that equals an old one, and return the function with it.

        Raises NotFound if the function is gone, or with the field `/version` if it has no such version (a
        deleted function that came back has only those since); VersionConflict as `change`.
        """

        def old(latest: CodeVersion) -> CodeVersion:
            code = entry.versions.get(version)
            if code is None:
                raise NotFound(
                    "the function has no such version", field="/version", hint="GET .../history lists them"
                )
            return code

        return await self._journal.to_its_end(self._store(account, entry, revisions, old, restores=version))

    async def _store(
        self,
        account: str,
        entry: Entry,
        revisions: frozenset[int] | None,
        next_code: Callable[[CodeVersion], CodeVersion],
        *,
        restores: int | None = None,
    ) -> Function:
        async with self._journal.deciding(account):
            before = self._fold.living(entry, revisions)
            code = replace(next_code(before.code), version=before.code.version + 1)
            try:
                self._check(account, code)
            except InvalidRequest as error:
                if restores is None:
                    raise
                raise InvalidRequest(error.message, field="/version", hint=error.hint) from None
            subject = events.function_key(account, before.collection_topic, before.service)
            data = events.encode(
                "versioned", self._now_ms(), code=events.code_content(code), restores=restores
            )
            await self._journal.append(str(subject), data, expected=before.revision)
            self._journal.tell(before, entry.function)
            return entry.function

    def _changed(self, code: CodeVersion, changes: CodeChanges) -> CodeVersion:
        fields = dict(changes)
        if "timeout" in fields:
            timeout_ms = fields.pop("timeout")
            fields["timeout_ms"] = self._limits.timeout_ms_default if timeout_ms is None else timeout_ms
        return replace(code, **fields)
