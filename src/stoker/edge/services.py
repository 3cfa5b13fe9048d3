"""Services: deployed functions in the sense of NATS service discovery, with what they did so far.

Owns the counters and the value that every door shows of a function. Does not know how it is asked for.
Source: ADR-32 of the NATS architecture (services), the compute API contract, *services*.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from stoker.catalog.fold import Fold, Identity
from stoker.edge.subjects import QUEUE_GROUP, listening_subject
from stoker.model.call import Call
from stoker.model.function import Function
from stoker.model.outcome import Outcome

ENDPOINT = "invoke"
"""The one endpoint of a service."""
ID_CHARS = 22
"""As many as the ids that NATS clients make; 88 bits."""

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")


class Counter:
    """What a function's calls came to since the server started."""

    __slots__ = ("errors", "failures", "last_error", "requests", "run_ms")

    def __init__(self) -> None:
        self.requests = 0
        """Calls that ran, through whatever door."""
        self.errors = 0
        """Those of them that did not end well."""
        self.last_error = ""
        """The code of the last of these; empty if there is none."""
        self.failures: dict[str, int] = {}
        """How many they were, by code."""
        self.run_ms = 0.0
        """The time that they ran, in all."""

    @property
    def average_ms(self) -> float:
        """Milliseconds a call; 0 before the first."""
        return self.run_ms / self.requests if self.requests else 0.0


_NONE = Counter()


class Counters:
    """A `Recorder` that counts. One counter stays for each function that was ever called, also if deleted."""

    def __init__(self) -> None:
        self._counters: dict[Identity, Counter] = {}

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Count a call that ran."""
        function = call.function
        identity = (function.account, function.collection_topic, function.service)
        counter = self._counters.get(identity)
        if counter is None:
            counter = self._counters[identity] = Counter()
        counter.requests += 1
        counter.run_ms += outcome.timings.run_ms
        if outcome.failure is not None:
            code = outcome.failure.code
            counter.errors += 1
            counter.last_error = code
            counter.failures[code] = counter.failures.get(code, 0) + 1

    def of(self, identity: Identity) -> Counter:
        """Return what a function's calls came to; not to be changed."""
        return self._counters.get(identity, _NONE)

    def all(self) -> Mapping[Identity, Counter]:
        """Return the counter of each function that was ever called; not to be changed."""
        return self._counters


class Endpoint(TypedDict):
    """Where a service is called over NATS."""

    name: str
    subject: str
    queue_group: str
    metadata: NotRequired[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Service:
    """One deployed function."""

    id: str
    """The same for the function's whole life."""
    name: str
    """The function's name in the letters that NATS allows; `metadata` has it as it is."""
    version: str
    """Semantic: `3.0.0` for version 3 of the code."""
    description: str
    subject: str
    """Where it is called over NATS."""
    metadata: dict[str, str]
    counter: Counter

    @property
    def endpoint(self) -> Endpoint:
        """Where it is called, as answers hold it."""
        return {
            "name": ENDPOINT,
            "subject": self.subject,
            "queue_group": QUEUE_GROUP,
            "metadata": self.metadata,
        }


def service_name(function: Function) -> str:
    """Return a function's name as a token of a subject."""
    return _NOT_IN_A_NAME.sub("_", function.name)


def service_id(function: Function) -> str:
    """Return what tells a function from all others, as a token of a subject."""
    identity = f"{function.account}.{function.collection_topic}.{function.service}"
    return hashlib.sha256(identity.encode()).hexdigest()[:ID_CHARS]


class Services:
    """What is deployed: the catalog's fold, seen as services."""

    def __init__(self, fold: Fold, counters: Counters) -> None:
        self._fold = fold
        self._counters = counters

    def all(self, name: str | None = None, id_: str | None = None) -> Iterator[Service]:
        """Yield the services of all accounts; only those of that name and id, if these are given.

        They are those there were when the first one was asked for; one that is gone by now may still come.
        """
        for entry in list(self._fold.functions.values()):
            function = entry.function
            if name is not None and service_name(function) != name:
                continue
            if id_ is not None and service_id(function) != id_:
                continue
            yield self.of(function)

    def of(self, function: Function) -> Service:
        """Return the service that a function is."""
        code = function.code
        return Service(
            id=service_id(function),
            name=service_name(function),
            version=f"{code.version}.0.0",
            description=function.description or "",
            subject=listening_subject(function, self._fold.tenants),
            metadata={
                "account": self._fold.tenants.name_of(function.account),
                "collection": function.collection_topic,
                "function": function.name,
                "runtime": code.runtime,
            },
            counter=self._counters.of((function.account, function.collection_topic, function.service)),
        )
