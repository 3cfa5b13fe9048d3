"""Functions, their versions and collections, as the catalog holds them.

Frozen values; does not know how they are stored, answered or run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stoker.model.subjects import collection_subject, function_subject

RUNTIMES = ("nodejs", "python")
COLLECTION_TYPES = ("function", "container")


@dataclass(frozen=True, slots=True)
class Asset:
    """One item of a function's code: its name and the digest of its content in the blob store."""

    name: str
    kind: str
    """As it was given: `file`, `archive` or any other word."""
    digest: str
    """SHA-256 of the content, in hexadecimal."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many calls and instances a function may have at once."""

    per_instance: int = 1
    max_instances: int | None = None
    min_instances: int = 0


@dataclass(frozen=True, slots=True)
class Retry:
    """How a failed Async invocation is tried again."""

    attempts: int = 3
    backoff_ms: int = 1000
    max_age_ms: int = 6 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class CodeVersion:
    """What runs: a new one for every change of a compute asset."""

    version: int
    runtime: str
    handler: str
    assets: tuple[Asset, ...]
    timeout_ms: int
    read_only_fs: bool
    env_vars: tuple[str, ...] | None = None
    """`KEY=value` each; None where none were given."""
    secrets: tuple[str, ...] | None = None
    network: dict[str, Any] | None = None
    modified: int = 0
    """Seconds since the epoch."""

    @property
    def contents(self) -> tuple[tuple[str, int], ...]:
        """Digest and bytes of each of its assets."""
        return tuple((asset.digest, asset.size_bytes) for asset in self.assets)


@dataclass(frozen=True, slots=True)
class Function:
    """One function of an account."""

    account: str
    collection_topic: str
    service: str
    """Unsigned decimal; with the topic it is the function's identity for good."""
    name: str
    created_name: str
    """The name it was created with; `service` is derived from it and stays after a rename."""
    code: CodeVersion
    description: str | None = None
    monitor_config: dict[str, Any] = field(default_factory=dict)
    """As it was given."""
    schema: dict[str, Any] | None = None
    """`input` and `output`, as given."""
    size: str | None = None
    """As given; None is `medium`."""
    memory_bytes: int = 512 * 1024 * 1024
    retry: dict[str, Any] | None = None
    """As given; `retry_policy` in the catalog reads it."""
    concurrency: Concurrency = Concurrency()
    concurrency_given: dict[str, Any] | None = None
    type: str = "created"
    """The last event folded in: `created` or `patched`."""
    modified: int = 0
    """Seconds since the epoch."""
    revision: int = 0
    """The sequence of that event in the log; the precondition of the next one."""

    @property
    def subject(self) -> str:
        """The subject of the API, which is a NATS subject."""
        return function_subject(self.collection_topic, self.service)


@dataclass(frozen=True, slots=True)
class Collection:
    """A name space of functions within an account."""

    account: str
    topic: str
    """Unsigned decimal if it was created by name, else what a function named; its identity for good."""
    name: str
    created_name: str
    """The name it was created with; the topic stays with it, also after a rename."""
    description: str | None = None
    collection_type: str = "function"
    """`function` or `container`."""
    type: str = "created"
    modified: int = 0
    """Seconds since the epoch."""
    revision: int = 0
    """The sequence of its last event in the log."""
    created_sequence: int = 0
    """That of its first one: lists go by it."""

    @property
    def subject(self) -> str:
        """The subject of the API."""
        return collection_subject(self.topic)
