"""What the API's answers hold, as frozen types. Members that a newer server adds are ignored.

Spelled as the API spells them, so that its reference explains them. Does not know how they come here.
"""

from __future__ import annotations

import base64
from typing import Any, TypedDict

import msgspec

QUEUED = "queued"
RUNNING = "running"


class FunctionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A function as lists hold it."""

    name: str
    description: str = ""
    runtime: str = ""
    subject: str
    type: str = ""
    """The last event: `created` or `patched`."""
    modified: int = 0
    """Seconds since the epoch."""

    @property
    def collection_topic(self) -> str:
        """The topic of the collection it is in."""
        return self.subject.split(".")[2]

    @property
    def address(self) -> str:
        """What names it in every call, for good, also renamed: `<collection topic>/<service>`."""
        return f"{self.collection_topic}/{self.subject.rpartition('.')[2]}"


class AssetItem(msgspec.Struct, frozen=True, kw_only=True):
    """One file of code, or an archive of many."""

    asset_name: str
    asset_value: str
    """Base64 of the content; with `link` the key of a stored object."""
    asset_type: str = "file"
    link: bool = False

    @classmethod
    def of(cls, name: str, content: bytes) -> AssetItem:
        """Return a file with its content inline."""
        return cls(asset_name=name, asset_value=base64.b64encode(content).decode())

    @property
    def content(self) -> bytes:
        """What an inline item holds."""
        return base64.b64decode(self.asset_value)


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a function's code."""

    collection_topic: str = ""
    service: str = ""
    runtime: str = "nodejs"
    handler: str
    timeout: int | None = None
    """Milliseconds."""
    read_only_fs: bool = True
    env_vars: list[str] | None = None
    """`KEY=value` each."""
    secrets: list[str] | None = None
    network: dict[str, Any] | None = None
    assets: list[AssetItem] | None = None
    version: int | None = None
    modified: int | None = None
    """Seconds since the epoch."""


class Function(FunctionSummary, frozen=True, kw_only=True):
    """A function in full."""

    compute_asset: Code
    monitor_config: dict[str, Any] = {}
    schema: dict[str, Any] | None = None
    size: str | None = None
    retry: dict[str, Any] | None = None
    concurrency: dict[str, Any] | None = None
    version: int = 1
    etag: str | None = None
    """What `if_match` of a change takes, to be refused if somebody else changes it first."""


class FunctionCreate(msgspec.Struct, frozen=True, kw_only=True):
    """A function to be created."""

    name: str
    compute_asset: Code
    monitor_config: dict[str, Any]
    description: str | None = None
    schema: dict[str, Any] | None = None
    size: str | None = None
    retry: dict[str, Any] | None = None
    concurrency: dict[str, Any] | None = None


class FunctionChanges(TypedDict, total=False):
    """What to change of a function; what is absent stays, None is the default."""

    name: str
    description: str | None
    monitor_config: dict[str, Any]
    schema: dict[str, Any] | None
    size: str | None
    retry: dict[str, Any] | None
    concurrency: dict[str, Any] | None


class CodeChanges(TypedDict, total=False):
    """What to change of a function's code; what is absent stays, None is the default."""

    handler: str
    runtime: str
    assets: list[AssetItem]
    timeout: int | None
    read_only_fs: bool | None
    env_vars: list[str] | None
    secrets: list[str] | None
    network: dict[str, Any] | None


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """How long an invocation took, in milliseconds."""

    queue_ms: float | None = None
    init_ms: float | None = None
    run_ms: float | None = None


class RecordError(msgspec.Struct, frozen=True, kw_only=True):
    """Why an invocation did not end well."""

    error: str
    error_type: str | None = None
    stack: str | None = None
    field: str | None = None


class NetworkUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a call used of the network, to one host."""

    host: str
    """`host:port` as it was asked for."""
    connections: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    refused: int = 0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an invocation."""

    invocation_id: str
    function: str
    """The function's subject."""
    version: int
    invocation_type: str
    """`RequestResponse` or `Async`."""
    status: str
    """`queued`, `running`, or how it ended: `ok`, `error`, `timeout`, ..."""
    code: str | None = None
    attempts: int = 0
    created: str
    """RFC 3339, as all times here."""
    started: str | None = None
    ended: str | None = None
    timings: Timings = Timings()
    memory_bytes: int = 0
    log_bytes: int = 0
    caller: str = ""
    """The id of the token it came with."""
    payload: str | None = None
    """JSON text, if the function keeps payloads (`store_payload`) and the record was looked up by id."""
    result: str | None = None
    """JSON text, as `payload`."""
    error: RecordError | None = None
    replay_of: str | None = None
    network: list[NetworkUse] = []
    """What it used of the network, by host."""
    parent_invocation_id: str | None = None
    """The invocation whose function called it, if one did."""
    depth: int = 0
    """How many invocations it is within."""

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return self.status not in (QUEUED, RUNNING)

    @property
    def value(self) -> Any:
        """The result as a value; None if there is none, or it was not kept."""
        return None if self.result is None else msgspec.json.decode(self.result)


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line that a call printed just now."""

    invocation_id: str
    line: str


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """A name space for functions."""

    name: str
    description: str = ""
    collection_type: str = "function"
    subject: str
    type: str = ""
    modified: int = 0

    @property
    def topic(self) -> str:
        """What names it in every call, for good."""
        return self.subject.split(".")[2]


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """A language that functions may be written in."""

    name: str
    version: str
    description: str = ""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox that serves a function."""

    id: str
    pid: int
    status: str
    runtime: str
    runtime_version: str
    memory: str
    created: str
    annotations: dict[str, str] = {}
    owner: str = ""
    rootfs: str = ""
    stats: dict[str, Any] = {}
    type: str = ""


class ServiceStats(msgspec.Struct, frozen=True, kw_only=True):
    """Since the server's start."""

    requests: int = 0
    errors: int = 0
    average_processing_ms: float = 0


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A deployed function in the sense of NATS service discovery."""

    id: str
    name: str
    version: str
    description: str = ""
    endpoints: list[dict[str, Any]] = []
    metadata: dict[str, Any] = {}
    type: str = ""
    stats: ServiceStats = ServiceStats()


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token, without the text that opens anything."""

    id: str
    name: str = ""
    scopes: list[str] = []
    collection: str | None = None
    calls_per_minute: int | None = None
    created: str | None = None
    expires: str | None = None
    """None if it never does."""
    made_by: str | None = None
    """The id of the token it was made with."""


class NewToken(Token, frozen=True, kw_only=True):
    """A token just made; its text is shown this once, and by no repr."""

    token: str

    def __repr__(self) -> str:
        return f"NewToken(id={self.id!r}, name={self.name!r}, ...)"


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An isolated name space with its quotas."""

    name: str
    limits: dict[str, int | None] = {}
    """By quota; what is not there has none."""
    created: str | None = None


class NewAccount(Account, frozen=True, kw_only=True):
    """An account just made, with its first token, whose text is shown this once, and by no repr."""

    token_id: str
    token: str

    def __repr__(self) -> str:
        return f"NewAccount(name={self.name!r}, token_id={self.token_id!r}, ...)"


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """A quota of an account and what is used of it."""

    limit: int | None = None
    used: int = 0


class Inject(msgspec.Struct, frozen=True, kw_only=True):
    """Where a secret is put, in place of the function's environment."""

    hosts: list[str]
    """Asked by https; with a port if it is not 443."""
    header: str
    """Of the requests that a function makes."""
    format: str = "{}"
    """What the header says, with the value in place of `{}`."""


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """The name of a secret; its value is never shown."""

    name: str
    modified: int | None = None
    """Seconds since the epoch."""
    inject: Inject | None = None
