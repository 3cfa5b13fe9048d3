"""What answers hold, as types: what answers is checked against them, the API's description is made from them.

Plain dictionaries at run time; only what is marked NotRequired may be absent. Does not know how an answer is
made. Source: the reference page, the compute API contract.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from stoker.edge.services import Endpoint

Seconds = Annotated[int, Meta(description="Seconds since the epoch.", examples=[1714378974])]
Time = Annotated[
    str, Meta(description="In UTC, as RFC 3339 writes it.", extra_json_schema={"format": "date-time"})
]
Subject = Annotated[str, Meta(description="The subject that names it, also over NATS.")]
EventType = Annotated[
    str,
    Meta(description="The last event that changed it.", extra_json_schema={"enum": ["created", "patched"]}),
]
FreeObject = dict[str, Any]


class CollectionAnswer(TypedDict):
    """A collection: a name space of functions."""

    collection_type: Annotated[str, Meta(extra_json_schema={"enum": ["function", "container"]})]
    description: str
    name: str
    subject: Subject
    type: EventType
    modified: Seconds


class FunctionSummary(TypedDict):
    """A function, as lists hold it."""

    description: str
    name: str
    runtime: str
    subject: Subject
    type: EventType
    modified: Seconds


class ItemAnswer(TypedDict):
    """One item of code."""

    asset_name: str
    asset_type: str
    asset_value: Annotated[
        str, Meta(description="Its content.", extra_json_schema={"contentEncoding": "base64"})
    ]
    link: bool


class AssetAnswer(TypedDict):
    """The code of a function, and how it is run. `assets` are there where code was asked for."""

    collection_topic: str
    service: Annotated[str, Meta(description="With the topic it is the function's identity for good.")]
    runtime: str
    handler: str
    timeout: Annotated[int, Meta(description="Milliseconds.")]
    read_only_fs: bool
    env_vars: NotRequired[list[str]]
    secrets: NotRequired[list[str]]
    network: NotRequired[FreeObject]
    assets: NotRequired[list[ItemAnswer]]


class VersionAnswer(AssetAnswer):
    """A version of a function's code."""

    version: int
    modified: Seconds


class FunctionAnswer(TypedDict):
    """A function. `monitor_config`, `schema`, `retry` and `concurrency` are as they were given."""

    description: str
    name: str
    runtime: str
    subject: Subject
    type: EventType
    modified: Seconds
    compute_asset: AssetAnswer
    monitor_config: FreeObject
    schema: NotRequired[FreeObject]
    size: NotRequired[str]
    retry: NotRequired[FreeObject]
    concurrency: NotRequired[FreeObject]
    version: NotRequired[Annotated[int, Meta(description="Of its code; where one function was asked for.")]]


class StoredObject(TypedDict):
    """An object for assets with `link: true`."""

    key: str
    size_bytes: int


class Timings(TypedDict):
    """Where the time went, in milliseconds; null before it is known."""

    queue_ms: float | None
    init_ms: float | None
    run_ms: float | None


class ErrorOfRecord(TypedDict):
    """Why an invocation did not end well."""

    error: str
    error_type: str | None
    stack: str | None
    field: NotRequired[str]


class NetworkAnswer(TypedDict):
    """What a call used of the network, to one host."""

    host: Annotated[str, Meta(description="host:port as asked for; `other`, past 50 of them; or `unknown`.")]
    connections: int
    bytes_sent: int
    bytes_received: int
    refused: int


class RecordAnswer(TypedDict):
    """One invocation: queued, running, or how it ended."""

    invocation_id: Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
    function: Subject
    version: int
    invocation_type: Annotated[str, Meta(extra_json_schema={"enum": ["RequestResponse", "Async"]})]
    status: Annotated[
        str,
        Meta(
            extra_json_schema={
                "enum": [
                    *("queued", "running", "ok", "error", "timeout", "memory", "processes"),
                    *("output", "input_schema", "output_schema", "cancelled", "lost"),
                ]
            }
        ),
    ]
    code: Annotated[str | None, Meta(description="What ended it; null if it ended well or has not ended.")]
    attempts: int
    created: Time
    started: Time | None
    ended: Time | None
    timings: Timings
    memory_bytes: Annotated[int, Meta(description="The instance's peak so far.")]
    log_bytes: Annotated[int, Meta(description="What it printed in all, also what was cut.")]
    caller: Annotated[str, Meta(description="The id of the token that asked for it.")]
    replay_of: NotRequired[str]
    network: NotRequired[
        Annotated[list[NetworkAnswer], Meta(description="What it used of the network; of its last attempt.")]
    ]
    parent_invocation_id: NotRequired[
        Annotated[str, Meta(description="The invocation whose function called it, through stoker.internal.")]
    ]
    depth: NotRequired[Annotated[int, Meta(description="How many invocations it is within, 1 to 16.")]]
    payload: NotRequired[Annotated[str, Meta(description="JSON text, with `store_payload`.")]]
    result: NotRequired[Annotated[str, Meta(description="JSON text, with `store_payload`.")]]
    error: NotRequired[ErrorOfRecord]


class RuntimeAnswer(TypedDict):
    """What functions may be written in here."""

    name: str
    version: str
    description: str


class ServiceStats(TypedDict):
    """What a function's calls came to since the server started."""

    requests: int
    errors: int
    average_processing_ms: float


class ServiceAnswer(TypedDict):
    """A deployed function, in the sense of NATS service discovery."""

    id: str
    name: str
    version: str
    description: str
    endpoints: list[Endpoint]
    metadata: dict[str, str]
    type: str
    stats: ServiceStats


class MachineStats(TypedDict):
    """The OCI runtime's figures."""

    CgroupStats: FreeObject
    Interfaces: list[FreeObject]


class MachineAnswer(TypedDict):
    """A machine: one sandbox instance that serves a function."""

    id: str
    pid: Annotated[int | None, Meta(description="The host's; null where it is not known.")]
    status: Annotated[str, Meta(extra_json_schema={"enum": ["running", "paused", "stopped"]})]
    runtime: str
    runtime_version: str
    memory: str
    rootfs: Annotated[str, Meta(description="A neutral name, no path of the host.")]
    created: Time
    annotations: dict[str, str]
    owner: str
    stats: MachineStats
    type: str


class Success(TypedDict):
    """What PATCH and DELETE answer."""

    message: Annotated[str, Meta(extra_json_schema={"const": "success"})]


class Refusal(TypedDict):
    """A request that was refused, or that we could not serve."""

    error: Annotated[str, Meta(description="What is wrong, for a person.")]
    code: Annotated[str, Meta(description="What is wrong, for a program. A code never changes its meaning.")]
    field: NotRequired[Annotated[str, Meta(description="A JSON Pointer into what was sent.")]]
    hint: NotRequired[Annotated[str, Meta(description="What to do about it.")]]
    id: NotRequired[Annotated[str, Meta(description="Under which the server's log has a fault of ours.")]]
    retry_after: NotRequired[Annotated[int, Meta(description="Seconds, as the header Retry-After.")]]


class FunctionFailure(TypedDict):
    """A call that ran and did not end well."""

    error: Annotated[str, Meta(description="The message of what was thrown, or what happened.")]
    code: str
    error_type: NotRequired[str]
    stack: NotRequired[Annotated[str, Meta(description="The user's frames only, one a line.")]]
    field: NotRequired[Annotated[str, Meta(description="A JSON Pointer into the result.")]]
    invocation_id: Annotated[str, Meta(extra_json_schema={"format": "uuid"})]


class Health(TypedDict):
    """The process lives."""

    status: Annotated[str, Meta(extra_json_schema={"const": "ok"})]


class Ready(TypedDict):
    """Functions can run."""

    status: Annotated[str, Meta(extra_json_schema={"const": "ready"})]
    isolation: Annotated[str, Meta(description="What keeps functions apart.")]
    instances: FreeObject
    warning: NotRequired[str]


class NotReady(TypedDict):
    """Functions cannot run just now."""

    status: Annotated[str, Meta(extra_json_schema={"const": "not ready"})]
    error: str
    code: Annotated[str, Meta(extra_json_schema={"const": "no_capacity"})]


class QuotaLimits(TypedDict):
    """The quotas of an account; what is absent has no limit."""

    functions: NotRequired[int]
    code_bytes: NotRequired[int]
    concurrent_invocations: NotRequired[int]
    invocations_per_minute: NotRequired[int]
    record_bytes: NotRequired[int]


class AccountAnswer(TypedDict):
    """An account."""

    name: str
    limits: QuotaLimits
    created: NotRequired[Time]


class AccountMade(TypedDict):
    """A new account with its first token, which is shown this once."""

    name: str
    token_id: str
    token: str
    limits: QuotaLimits


class TokenAnswer(TypedDict):
    """A token, without what it is made of; what does not limit it is left out."""

    id: str
    name: str
    scopes: list[str]
    created: Time
    collection: NotRequired[Annotated[str, Meta(description="The only collection that it sees.")]]
    calls_per_minute: NotRequired[int]
    expires: NotRequired[Time]
    made_by: NotRequired[Annotated[str, Meta(description="The id of the token it was made with.")]]


class TokenMade(TokenAnswer):
    """A new token, which is shown this once."""

    token: str


class SecretStored(TypedDict):
    """A secret whose value was taken."""

    name: str


class InjectAnswer(TypedDict):
    """Where a secret is put."""

    hosts: list[str]
    header: str
    format: str


class SecretAnswer(TypedDict):
    """A secret; its value is never told."""

    name: str
    modified: Seconds
    inject: NotRequired[InjectAnswer]


class Use(TypedDict):
    """A quota, null where there is none, and what is used of it."""

    limit: int | None
    used: int


class LimitsAnswer(TypedDict):
    """Quotas and their use. A token that is limited to a collection is told of its own rate alone."""

    functions: NotRequired[Use]
    code_bytes: NotRequired[Use]
    concurrent_invocations: NotRequired[Use]
    invocations_per_minute: NotRequired[Use]
    record_bytes: NotRequired[Use]
    calls_per_minute: NotRequired[Use]
