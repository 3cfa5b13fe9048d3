"""The fold: what exists now, in memory, built from the event log one event at a time.

Answers every look-up of the invoke path by dictionary access. Changes nothing itself: only `apply`,
with an event that is already stored, does. Does not know where events come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote_to_bytes

from stoker.catalog import events
from stoker.catalog.events import Subject
from stoker.catalog.references import References
from stoker.catalog.schema import Validator
from stoker.catalog.stored import Retired, RetiredCollection, StoredObject, StoredSecret
from stoker.catalog.tenants import Tenants
from stoker.model.errors import NotFound, VersionConflict
from stoker.model.function import CodeVersion, Collection, Function
from stoker.model.subjects import fnv1a, service_of_subject, topic_of_subject

Identity = tuple[str, str, str]
"""(account, collection topic, service): what a function is for good."""


@dataclass(frozen=True, slots=True)
class Contract:
    """A function's schemas, compiled; None where it has none."""

    input: Validator | None
    output: Validator | None


class Entry:
    """A function as the invoke path meets it; its contract is compiled when it is first needed."""

    __slots__ = ("_as_of", "contract", "created_sequence", "function", "versions")

    def __init__(self, function: Function, created_sequence: int) -> None:
        self.function = function
        """As it is now; changed by `become` alone."""
        self._as_of: dict[int, Function] | None = None
        self.created_sequence = created_sequence
        self.contract: Contract | None = None
        self.versions: dict[int, CodeVersion] = {function.code.version: function.code}
        """Since the function was created (again), the oldest first."""

    def become(self, function: Function) -> None:
        """Take note of the function's next state, and of its code if that is a new version."""
        self.function = function
        self._as_of = None
        self.versions[function.code.version] = function.code

    def at_version(self, version: int) -> Function:
        """Return the function as it is now with the code of a version; raises NotFound.

        As long as the function does not change, every call with one version returns the same object.
        """
        if version == self.function.code.version:
            return self.function
        if self._as_of is None:
            self._as_of = {}
        function = self._as_of.get(version)
        if function is None:
            code = self.versions.get(version)
            if code is None:
                raise NotFound("the function has no such version")
            function = self._as_of[version] = replace(self.function, code=code)
        return function


class Fold:
    """Everything that exists in all accounts."""

    def __init__(self) -> None:
        self.functions: dict[Identity, Entry] = {}
        self.collections: dict[tuple[str, str], Collection] = {}
        self.retired: dict[Identity, Retired] = {}
        self.retired_collections: dict[tuple[str, str], RetiredCollection] = {}
        self.tenants = Tenants()
        self.objects: dict[tuple[str, str], StoredObject] = {}
        self.secrets: dict[tuple[str, str], StoredSecret] = {}
        self.retired_secrets: dict[tuple[str, str], int] = {}
        """The revisions of deleted ones."""
        self._names: dict[tuple[str, str, str], str] = {}
        self._collection_names: dict[tuple[str, str], str] = {}
        self._resolved: dict[tuple[str, str, str], Entry] = {}
        self.references = References()
        """To contents, by versions and stored objects."""
        self.sequence = 0
        """All events up to this one are folded in."""
        self._ahead: set[int] = set()
        """Those after it that are as well: two accounts' events may come to be known in either order."""

    # -- folding ---------------------------------------------------------------------------------

    def apply(self, subject_text: str, data: bytes, sequence: int) -> None:
        """Fold one stored event in, once: one that was folded in before changes nothing.

        Raises UnknownFormat for what only a newer stoker can read.
        """
        if sequence <= self.sequence or sequence in self._ahead:
            return
        subject = Subject.parse(subject_text)
        if subject.noun not in (events.ERASED, events.VACANT):
            self._apply(subject, events.decode(data), sequence)
        self._ahead.add(sequence)
        while self.sequence + 1 in self._ahead:
            self.sequence += 1
            self._ahead.remove(self.sequence)
        self._resolved.clear()

    def _apply(self, subject: Subject, event: dict[str, Any], sequence: int) -> None:
        match subject.noun:
            case "function":
                self._apply_function(subject, event, sequence)
            case "collection":
                self._apply_collection(subject, event, sequence)
            case "token":
                self.tenants.apply_token(subject, event, sequence)
            case "account":
                self.tenants.apply_account(subject, event, sequence)
                if subject.account in self.tenants.gone:
                    self._erase(subject.account)
            case "secret":
                self._apply_secret(subject, event, sequence)
            case "object":
                self._apply_object(subject, event, sequence)
            case noun:
                raise events.UnknownFormat(f"the event log holds a {noun}, which this version does not know")

    def _apply_function(self, subject: Subject, event: dict[str, Any], sequence: int) -> None:
        identity = (subject.account, subject.key[0], subject.key[1])
        match event["type"]:
            case "created":
                function = events.function_from(subject, event, sequence)
                self.retired.pop(identity, None)
                self.functions[identity] = Entry(function, sequence)
                self.references.add(subject.account, function.code.contents)
                self._names[(subject.account, subject.key[0], function.name)] = function.service
            case "patched":
                entry = self.functions[identity]
                before = entry.function
                entry.become(events.patched(before, event, sequence))
                if entry.function.schema != before.schema:
                    entry.contract = None
                del self._names[(before.account, before.collection_topic, before.name)]
                self._names[(before.account, before.collection_topic, entry.function.name)] = before.service
            case "versioned":
                entry = self.functions[identity]
                entry.become(events.versioned(entry.function, event, sequence, entry.versions))
                self.references.add(subject.account, entry.function.code.contents)
            case "deleted":
                entry = self.functions.pop(identity)
                gone = entry.function
                for code in entry.versions.values():
                    self.references.remove(subject.account, code.contents)
                del self._names[(gone.account, gone.collection_topic, gone.name)]
                self.retired[identity] = Retired(gone.created_name, gone.code.version, sequence)
            case kind:
                raise events.UnknownFormat(f"the event log holds a function that was {kind}")

    def _apply_collection(self, subject: Subject, event: dict[str, Any], sequence: int) -> None:
        place = (subject.account, subject.key[0])
        before = self.collections.get(place)
        match event["type"]:
            case "created":
                self.retired_collections.pop(place, None)
                after = events.collection_from(subject, event, sequence)
            case "patched":
                after = events.patched_collection(self.collections[place], event, sequence)
            case "deleted":
                gone = self.collections.pop(place)
                del self._collection_names[(gone.account, gone.name)]
                self.retired_collections[place] = RetiredCollection(gone.created_name, sequence)
                return
            case kind:
                raise events.UnknownFormat(f"the event log holds a collection that was {kind}")
        if before is not None:
            del self._collection_names[(before.account, before.name)]
        self.collections[place] = after
        self._collection_names[(after.account, after.name)] = after.topic

    def _apply_secret(self, subject: Subject, event: dict[str, Any], sequence: int) -> None:
        place = (subject.account, subject.key[0])
        before = self.secrets.pop(place, None)
        match event["type"]:
            case "created":
                stored = self.secrets[place] = StoredSecret(
                    name=subject.key[0],
                    digest=event["digest"],
                    key_id=event["key_id"],
                    modified=event["at_ms"] // 1000,
                    revision=sequence,
                    created_sequence=sequence if before is None else before.created_sequence,
                    inject=events.injection(event),
                )
                self.references.add(subject.account, ((stored.digest, 0),))
                self.retired_secrets.pop(place, None)
            case "deleted":
                self.retired_secrets[place] = sequence
            case kind:
                raise events.UnknownFormat(f"the event log holds a secret that was {kind}")
        if before is not None:
            self.references.remove(subject.account, ((before.digest, 0),))

    def _apply_object(self, subject: Subject, event: dict[str, Any], sequence: int) -> None:
        place = (subject.account, subject.key[0])
        before = self.objects.get(place)
        stored = self.objects[place] = StoredObject(event["digest"], event["size_bytes"], sequence)
        self.references.add(subject.account, ((stored.digest, stored.size_bytes),))
        if before is not None:
            self.references.remove(subject.account, ((before.digest, before.size_bytes),))

    def _erase(self, account: str) -> None:
        """Let go of all that a deleted account had. Its id never comes back, so nothing is remembered."""
        for identity in [identity for identity in self.functions if identity[0] == account]:
            for code in self.functions.pop(identity).versions.values():
                self.references.remove(account, code.contents)
        for place in [place for place in self.objects if place[0] == account]:
            stored = self.objects.pop(place)
            self.references.remove(account, ((stored.digest, stored.size_bytes),))
        for place in [place for place in self.secrets if place[0] == account]:
            self.references.remove(account, ((self.secrets.pop(place).digest, 0),))
        owned: tuple[dict[Any, Any], ...] = (
            self.collections,
            self.retired,
            self.retired_collections,
            self.retired_secrets,
            self._names,
            self._collection_names,
        )
        for things in owned:
            for key in [key for key in things if key[0] == account]:
                del things[key]

    def function_at(self, subject: Subject) -> Function | None:
        """Return the living function whose events are stored there, or None."""
        if subject.noun != "function":
            return None
        entry = self.functions.get((subject.account, subject.key[0], subject.key[1]))
        return None if entry is None else entry.function

    # -- looking up ------------------------------------------------------------------------------

    def resolve(self, account: str, collection_text: str, function_text: str) -> Entry:
        """Return the function that a path names: by topic, subject or name, percent-encoded.

        An exact topic wins over a name. Raises NotFound, which says no more than that.
        """
        key = (account, collection_text, function_text)
        entry = self._resolved.get(key)
        if entry is None:
            entry = self._find(account, _decoded(collection_text), _decoded(function_text))
            if len(self._resolved) > 65_536:
                self._resolved.clear()  # spellings are the caller's: they must not fill the memory
            self._resolved[key] = entry
        return entry

    def _find(self, account: str, collection_text: str, function_text: str) -> Entry:
        collection = self.collection(account, collection_text)
        if collection is None:
            raise NotFound("no such function")
        topic = collection.topic
        entry = self.functions.get((account, topic, function_text))
        if entry is None:
            named = service_of_subject(function_text)
            if named is not None and named[0] == topic:
                entry = self.functions.get((account, topic, named[1]))
        if entry is None:
            service = self._names.get((account, topic, function_text))
            entry = None if service is None else self.functions.get((account, topic, service))
        if entry is None:
            raise NotFound("no such function")
        return entry

    def collection(self, account: str, text: str) -> Collection | None:
        """Return the collection that `text` (topic, subject or name) means, or None."""
        found = self.collections.get((account, text))
        if found is None:
            topic = topic_of_subject(text) or self._collection_names.get((account, text))
            found = None if topic is None else self.collections.get((account, topic))
        return found

    def collection_of_path(self, account: str, text: str) -> Collection:
        """Return the collection that a percent-encoded path segment means; raises NotFound."""
        found = self.collection(account, _decoded(text))
        if found is None:
            raise NotFound("no such collection")
        return found

    def living(self, entry: Entry, revisions: frozenset[int] | None) -> Function:
        """Return the function of an entry that is to be changed.

        Raises NotFound if it is gone, VersionConflict if `revisions` are given and it is at another one.
        """
        function = entry.function
        identity = (function.account, function.collection_topic, function.service)
        if self.functions.get(identity) is not entry:
            raise NotFound("no such function")
        if revisions is not None and function.revision not in revisions:
            raise VersionConflict("the function has changed since; read it again and decide anew")
        return function

    def name_is_taken(self, account: str, topic: str, name: str) -> bool:
        """Tell whether a living function of that collection has the name."""
        return (account, topic, name) in self._names

    def next_service(self, account: str, topic: str, name: str) -> tuple[str, Retired | None]:
        """Return the service number for a function created as `name`, and what was there before it.

        Its hash, or the next number that is free, as two names may collide. A number stays with the name
        it was first given to, also when that function is deleted.
        """
        number = fnv1a(name)
        while True:
            identity = (account, topic, str(number))
            retired = self.retired.get(identity)
            if identity not in self.functions and (retired is None or retired.created_name == name):
                return str(number), retired
            number = (number + 1) % 2**32

    def next_topic(self, account: str, name: str) -> tuple[str, int]:
        """Return the topic for a collection created by `name`, and the revision that its event follows.

        The same rule as for the numbers of functions.
        """
        number = fnv1a(name)
        while True:
            place = (account, str(number))
            retired = self.retired_collections.get(place)
            if place not in self.collections and (retired is None or retired.created_name == name):
                return str(number), retired.revision if retired else 0
            number = (number + 1) % 2**32

    def collection_name_is_taken(self, account: str, name: str) -> bool:
        """Tell whether a living collection of the account has the name."""
        return (account, name) in self._collection_names

    def entries(self, account: str, topic: str | None = None) -> Iterator[Entry]:
        """Yield an account's functions, those created first first."""
        for (owner, collection_topic, _), entry in self.functions.items():
            if owner == account and topic in (None, collection_topic):
                yield entry

    def count_of(self, account: str) -> int:
        """Return how many functions an account has."""
        return sum(1 for owner, _, _ in self.functions if owner == account)

    def secrets_of(self, account: str) -> Iterator[StoredSecret]:
        """Yield an account's secrets, those stored first first."""
        found = (stored for (owner, _), stored in self.secrets.items() if owner == account)
        return iter(sorted(found, key=lambda stored: stored.created_sequence))

    def collections_of(self, account: str) -> Iterator[Collection]:
        """Yield an account's collections, those created first first."""
        for (owner, _), collection in self.collections.items():
            if owner == account:
                yield collection


def _decoded(text: str) -> str:
    """Percent-decode a path segment; what is not UTF-8 names nothing."""
    if "%" not in text:
        return text
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise NotFound("no such resource") from None
