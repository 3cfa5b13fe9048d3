"""Collections: name spaces of functions, created by name or by the first function that is put there.

Does not know what is in them but for whether there is anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stoker.catalog import draft as drafts
from stoker.catalog import events
from stoker.catalog.fold import Fold
from stoker.catalog.journal import Journal
from stoker.model.errors import InvalidRequest, NameTaken, NotEmpty, NotFound, VersionConflict
from stoker.model.function import COLLECTION_TYPES, Collection
from stoker.model.limits import Limits
from stoker.model.subjects import is_topic


class Collections:
    """Changes of collections, an account at a time."""

    def __init__(self, fold: Fold, journal: Journal, limits: Limits, now_ms: Callable[[], int]) -> None:
        self._fold = fold
        self._journal = journal
        self._limits = limits
        self._now_ms = now_ms

    async def create(
        self, account: str, name: str, *, description: str | None, collection_type: str
    ) -> Collection:
        """Store a new collection whose topic is the hash of its name, or the next number that is free.

        Raises InvalidRequest naming the field, NameTaken, StorageFull, Unavailable.
        """
        drafts.check_name(name, "/name", self._limits)
        drafts.check_description(description, self._limits)
        if collection_type not in COLLECTION_TYPES:
            raise InvalidRequest(
                f"{collection_type[:40]!r} is no type of a collection",
                field="/collection_type",
                hint=f"one of {', '.join(COLLECTION_TYPES)}",
            )

        async def create() -> Collection:
            async with self._journal.deciding(account):
                self._refuse_taken(account, name)
                topic, expected = self._fold.next_topic(account, name)
                return await self._store_new(account, topic, name, description, collection_type, expected)

        return await self._journal.to_its_end(create())

    async def patch(
        self,
        account: str,
        topic: str,
        changes: dict[str, Any],
        *,
        revisions: frozenset[int] | None = None,
    ) -> None:
        """Store the changes of name and description; without any, nothing.

        Raises as `create`; NotFound if it is gone by now, VersionConflict if `revisions` are given and it is
        at another one.
        """
        if "name" in changes:
            drafts.check_name(changes["name"], "/name", self._limits)
        drafts.check_description(changes.get("description"), self._limits)

        async def patch() -> None:
            async with self._journal.deciding(account):
                before = self._living(account, topic, revisions)
                if changes.get("name", before.name) != before.name:
                    self._refuse_taken(account, changes["name"])
                if changes:
                    await self._append(before, "patched", changes=changes)

        await self._journal.to_its_end(patch())

    async def delete(self, account: str, topic: str, *, revisions: frozenset[int] | None = None) -> None:
        """Store that a collection is no more.

        Raises NotEmpty while it holds functions; NotFound and VersionConflict as `patch`.
        """

        async def delete() -> None:
            async with self._journal.deciding(account):
                before = self._living(account, topic, revisions)
                if next(self._fold.entries(account, topic), None) is not None:
                    raise NotEmpty("the collection holds functions", hint="delete them first")
                await self._append(before, "deleted")

        await self._journal.to_its_end(delete())

    def check_text(self, account: str, text: str) -> None:
        """Refuse what is no collection's topic, subject or name and cannot be a new one's topic."""
        if self._fold.collection(account, text) is not None:
            return
        if not is_topic(text) or len(text) > self._limits.topic_chars_max:
            raise InvalidRequest(
                "no collection has that topic or name, and it cannot be a new one's topic",
                field="/compute_asset/collection_topic",
                hint=f"1 to {self._limits.topic_chars_max} letters, digits, '-' or '_'",
            )

    async def ensure(self, account: str, text: str) -> Collection:
        """Return the collection that `text` means; one that does not exist is stored with it as topic.

        To be called while deciding. Raises as `check_text`, and as `create`.
        """
        known = self._fold.collection(account, text)
        if known is not None:
            return known
        self.check_text(account, text)  # it may have been deleted since it was checked first
        retired = self._fold.retired_collections.get((account, text))
        expected = retired.revision if retired else 0
        return await self._store_new(account, text, text, None, "function", expected)

    async def _store_new(
        self,
        account: str,
        topic: str,
        name: str,
        description: str | None,
        collection_type: str,
        expected: int,
    ) -> Collection:
        content = {"name": name, "description": description, "collection_type": collection_type}
        data = events.encode("created", self._now_ms(), collection=content)
        await self._journal.append(str(events.collection_key(account, topic)), data, expected=expected)
        return self._fold.collections[(account, topic)]

    async def _append(self, before: Collection, kind: str, **content: Any) -> None:
        subject = events.collection_key(before.account, before.topic)
        data = events.encode(kind, self._now_ms(), **content)
        await self._journal.append(str(subject), data, expected=before.revision)

    def _refuse_taken(self, account: str, name: str) -> None:
        if self._fold.collection_name_is_taken(account, name):
            raise NameTaken(f"there is a collection of the name {name!r} already", field="/name")

    def _living(self, account: str, topic: str, revisions: frozenset[int] | None) -> Collection:
        collection = self._fold.collections.get((account, topic))
        if collection is None:
            raise NotFound("no such collection")
        if revisions is not None and collection.revision not in revisions:
            raise VersionConflict("the collection has changed since; read it again and decide anew")
        return collection
