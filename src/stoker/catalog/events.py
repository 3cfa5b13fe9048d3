"""Events: what is stored of a change, and the subjects it is stored under.

Every event carries its format's number; `tests/unit/golden/events.json` holds one of each, and what is
written there must be readable for good. Does not know how events are stored or folded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from stoker.catalog.quotas import QUOTAS, Quotas
from stoker.model.errors import PlatformError
from stoker.model.function import Asset, CodeVersion, Collection, Concurrency, Function
from stoker.model.injection import Injection

FORMAT = 1
ERASED = "erased"
"""The noun of notes on events that were taken out of the log; the log's own, nothing is folded of them."""
VACANT = "vacant"
"""The noun of what stands in the place of such an event."""


class UnknownFormat(PlatformError):
    """The event was written by a newer stoker; this one must not guess."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Where an event is stored: `accounts.<account>.catalog.<noun>.<key...>`."""

    account: str
    noun: str
    key: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join(("accounts", self.account, "catalog", self.noun, *self.key))

    @classmethod
    def parse(cls, text: str) -> Subject:
        """Read a subject back; a ValueError if it is none of the catalog's."""
        parts = text.split(".")
        if len(parts) < 5 or parts[0] != "accounts" or parts[2] != "catalog":
            raise ValueError(f"{text!r} is no subject of the catalog")
        return cls(parts[1], parts[3], tuple(parts[4:]))


def function_key(account: str, topic: str, service: str) -> Subject:
    """Return where a function's events are stored."""
    return Subject(account, "function", (topic, service))


def collection_key(account: str, topic: str) -> Subject:
    """Return where a collection's events are stored."""
    return Subject(account, "collection", (topic,))


def token_key(account: str, token_id: str) -> Subject:
    """Return where a token's events are stored."""
    return Subject(account, "token", (token_id,))


def account_key(account: str) -> Subject:
    """Return where an account's own events are stored."""
    return Subject(account, "account", ("self",))


def secret_key(account: str, name: str) -> Subject:
    """Return where a secret's events are stored."""
    return Subject(account, "secret", (name,))


def object_key(account: str, key_hash: str) -> Subject:
    """Return where a stored asset object's events are stored; a key is free text, so it is hashed."""
    return Subject(account, "object", (key_hash,))


def erased_key(account: str) -> Subject:
    """Return where it is noted what of a deleted account was taken out of the log."""
    return Subject(account, ERASED, ("self",))


def all_of(account: str) -> str:
    """Return the pattern of all subjects of an account."""
    return str(Subject(account, ">", ()))


def encode(kind: str, at_ms: int, **content: Any) -> bytes:
    """Return an event as it is stored: JSON with `format`, `type` and `at_ms`."""
    return msgspec.json.encode({"format": FORMAT, "type": kind, "at_ms": at_ms, **content})


def decode(data: bytes) -> dict[str, Any]:
    """Return an event's content; raises UnknownFormat for what only a newer stoker can read."""
    try:
        event = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnknownFormat(f"the event log holds an event that is not JSON: {error}") from None
    if not isinstance(event, dict) or event.get("format") != FORMAT:
        raise UnknownFormat("the event log holds an event in a format that this version does not know")
    return event


def function_content(function: Function) -> dict[str, Any]:
    """Return what a `created` event stores of a function: all but its place and its revision."""
    return {"name": function.name, "code": code_content(function.code), **settings_content(function)}


def code_content(code: CodeVersion) -> dict[str, Any]:
    """Return what is stored of a version: all but its time, which is the event's."""
    return {
        "version": code.version,
        "runtime": code.runtime,
        "handler": code.handler,
        "assets": [
            {"name": a.name, "kind": a.kind, "digest": a.digest, "size_bytes": a.size_bytes}
            for a in code.assets
        ],
        "timeout_ms": code.timeout_ms,
        "read_only_fs": code.read_only_fs,
        "env_vars": code.env_vars,
        "secrets": code.secrets,
        "network": code.network,
    }


def settings_content(function: Function) -> dict[str, Any]:
    """Return the part of a function that PATCH may change, but for its name."""
    return {
        "description": function.description,
        "monitor_config": function.monitor_config,
        "schema": function.schema,
        "size": function.size,
        "memory_bytes": function.memory_bytes,
        "retry": function.retry,
        "concurrency": function.concurrency_given,
    }


def quotas_content(quotas: Quotas) -> dict[str, int]:
    """Return what is stored and shown of quotas: those that there are."""
    return {name: limit for name in QUOTAS if (limit := getattr(quotas, name)) is not None}


def quotas_from(content: dict[str, Any]) -> Quotas:
    """Return stored quotas; a name that only a newer stoker knows is refused."""
    if not content.keys() <= set(QUOTAS):
        raise UnknownFormat("the event log holds a quota that this version does not know")
    return Quotas(**content)


def _optional_tuple(value: list[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)


def concurrency_of(given: dict[str, Any] | None) -> Concurrency:
    """Read a concurrency setting as it was given; what is absent has its default."""
    given = given or {}
    return Concurrency(
        per_instance=given.get("per_instance") or 1,
        max_instances=given.get("max_instances"),
        min_instances=given.get("min_instances") or 0,
    )


def function_from(subject: Subject, event: dict[str, Any], sequence: int) -> Function:
    """Return the function that a `created` event describes."""
    content = event["function"]
    at_s = event["at_ms"] // 1000
    return Function(
        account=subject.account,
        collection_topic=subject.key[0],
        service=subject.key[1],
        name=content["name"],
        created_name=content["name"],
        description=content["description"],
        monitor_config=content["monitor_config"],
        schema=content["schema"],
        size=content["size"],
        memory_bytes=content["memory_bytes"],
        retry=content["retry"],
        concurrency=concurrency_of(content["concurrency"]),
        concurrency_given=content["concurrency"],
        type="created",
        modified=at_s,
        revision=sequence,
        code=_code_from(content["code"], at_s),
    )


def _code_from(code: dict[str, Any], at_s: int) -> CodeVersion:
    return CodeVersion(
        version=code["version"],
        runtime=code["runtime"],
        handler=code["handler"],
        assets=tuple(Asset(a["name"], a["kind"], a["digest"], a["size_bytes"]) for a in code["assets"]),
        timeout_ms=code["timeout_ms"],
        read_only_fs=code["read_only_fs"],
        env_vars=_optional_tuple(code["env_vars"]),
        secrets=_optional_tuple(code["secrets"]),
        network=code["network"],
        modified=at_s,
    )


def patched(function: Function, event: dict[str, Any], sequence: int) -> Function:
    """Return `function` with a `patched` event folded in: only what it names changes."""
    changes: dict[str, Any] = dict(event["changes"])
    if "concurrency" in changes:
        given = changes.pop("concurrency")
        changes["concurrency_given"] = given
        changes["concurrency"] = concurrency_of(given)
    return replace(function, **changes, type="patched", modified=event["at_ms"] // 1000, revision=sequence)


def versioned(
    function: Function, event: dict[str, Any], sequence: int, versions: Mapping[int, CodeVersion]
) -> Function:
    """Return `function` with a `versioned` event folded in: its code is another version from now on.

    What the new version has in common with the one that it was made from is the same object.
    """
    at_s = event["at_ms"] // 1000
    code = _code_from(event["code"], at_s)
    origin = versions.get(event["restores"], function.code)
    shared = {
        name: getattr(origin, name)
        for name in ("assets", "env_vars", "secrets", "network")
        if getattr(origin, name) == getattr(code, name)
    }
    code = replace(code, **shared)
    return replace(function, code=code, type="patched", modified=at_s, revision=sequence)


def collection_from(subject: Subject, event: dict[str, Any], sequence: int) -> Collection:
    """Return the collection that a `created` event describes."""
    content = event["collection"]
    return Collection(
        account=subject.account,
        topic=subject.key[0],
        name=content["name"],
        created_name=content["name"],
        description=content["description"],
        collection_type=content["collection_type"],
        type="created",
        modified=event["at_ms"] // 1000,
        revision=sequence,
        created_sequence=sequence,
    )


def patched_collection(collection: Collection, event: dict[str, Any], sequence: int) -> Collection:
    """Return `collection` with a `patched` event folded in: only what it names changes."""
    at_s = event["at_ms"] // 1000
    return replace(collection, **event["changes"], type="patched", modified=at_s, revision=sequence)


def injection(event: Mapping[str, Any]) -> Injection | None:
    """Return how the secret of an event gets into requests; None if functions get it."""
    given = event.get("inject")
    if given is None:
        return None
    return Injection(tuple(given["hosts"]), given["header"], given["format"])
