"""Arguments of the tools that manage functions, as types, and the JSON Schema of each.

What a value may be beyond its type is checked where the routes check it. Does not know what a tool does.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from stoker.edge.http import api, bodies
from stoker.model.limits import Limits

T = TypeVar("T", bound=msgspec.Struct)

FunctionName = Annotated[str, Meta(description="`collection/name`, or the function's subject.")]
InvocationId = Annotated[str, Meta(description="The id of an invocation.")]
Version = Annotated[int, Meta(description="The number of one of the function's versions.")]
Payload = Annotated[Any, Meta(description="Any JSON value: what the handler gets as its event.")]
IdempotencyKey = Annotated[
    str, Meta(description="The same key and payload again, within 24 hours, answers the first outcome.")
]
Page = Annotated[
    int, Meta(description="How many at most.", extra_json_schema={"minimum": 1, "maximum": 1000})
]
Cursor = Annotated[str, Meta(description="`next_cursor` of the page before.")]
LIST_ITEMS = 50
LOG_ITEMS = 5


class Binary(msgspec.Struct):
    """A file that is no text, or an archive."""

    base64: str
    type: Annotated[str, Meta(description="`archive` unpacks a zip or tar.gz into the root.")] = "file"


Files = Annotated[
    dict[str, str | Binary],
    Meta(
        description="The whole code: by relative path the text of each file, as it is; "
        "an object with `base64` for what is no text.",
        examples=[{"index.js": "exports.handler = async (event) => ({ hello: event.name });\n"}],
    ),
]
ChangedFiles = Annotated[
    dict[str, str | Binary | None],
    Meta(description="Only the files that change, by path; null removes one. The others stay as they are."),
]
DefaultHandler = Annotated[
    str,
    Meta(
        description="FILE.EXPORT. If left out, `index.handler` for nodejs (`exports.handler = async (event, "
        "context) => ...` in index.js) and `main.handler` for python (`def handler(event, context)` in "
        "main.py)."
    ),
]


class CreateFunction(msgspec.Struct):
    """Of `stoker_create_function`."""

    name: bodies.Name
    collection: Annotated[
        str, Meta(description="Name or topic of the collection; one that is not there is created.")
    ]
    files: Files
    runtime: bodies.Runtime = "nodejs"
    handler: DefaultHandler | None = None
    description: Annotated[str, Meta(description="Shown to whoever may call the function.")] | None = None
    schema: bodies.Schemas | None = None
    timeout: bodies.TimeoutMs | None = None
    size: bodies.Size | None = None
    env_vars: bodies.EnvVars | None = None
    secrets: bodies.SecretNames | None = None
    network: bodies.Network | None = None
    read_only_fs: bodies.ReadOnly | None = None
    monitor_config: bodies.MonitorConfig | None = None
    retry: bodies.RetryConfig | None = None
    concurrency: bodies.ConcurrencyConfig | None = None


class UpdateFunction(msgspec.Struct):
    """Of `stoker_update_function`; what is absent stays."""

    function: FunctionName
    files: Files | UnsetType = UNSET
    change_files: ChangedFiles | UnsetType = UNSET
    runtime: bodies.Runtime | UnsetType = UNSET
    handler: bodies.Handler | UnsetType = UNSET
    timeout: bodies.TimeoutMs | UnsetType | None = UNSET
    env_vars: bodies.EnvVars | UnsetType | None = UNSET
    secrets: bodies.SecretNames | UnsetType | None = UNSET
    network: bodies.Network | UnsetType | None = UNSET
    read_only_fs: bodies.ReadOnly | UnsetType | None = UNSET
    name: bodies.Name | UnsetType = UNSET
    description: bodies.Description | UnsetType | None = UNSET
    schema: bodies.Schemas | UnsetType | None = UNSET
    size: bodies.Size | UnsetType | None = UNSET
    monitor_config: bodies.MonitorConfig | UnsetType = UNSET
    retry: bodies.RetryConfig | UnsetType | None = UNSET
    concurrency: bodies.ConcurrencyConfig | UnsetType | None = UNSET


class OneFunction(msgspec.Struct):
    """Of tools that are about one function."""

    function: FunctionName


class ListFunctions(msgspec.Struct):
    """Of `stoker_list_functions`."""

    collection: Annotated[str, Meta(description="Only those of one collection, by name or topic.")] | None = (
        None
    )
    limit: Page = LIST_ITEMS
    cursor: Cursor | None = None


class Invoke(msgspec.Struct):
    """Of `stoker_invoke` and `stoker_invoke_async`."""

    function: FunctionName
    payload: Payload = None
    version: Version | None = None
    idempotency_key: IdempotencyKey | None = None


class GetInvocation(msgspec.Struct):
    """Of `stoker_get_invocation`."""

    invocation_id: InvocationId
    wait_ms: (
        Annotated[
            int,
            Meta(
                description="Wait so long for its end.",
                extra_json_schema={"minimum": 0, "maximum": "limits.record_wait_ms_max"},
            ),
        ]
        | None
    ) = None


class Logs(msgspec.Struct):
    """Of `stoker_logs`: one of `invocation_id` and `function`."""

    invocation_id: InvocationId | None = None
    function: FunctionName | None = None
    limit: Annotated[
        int,
        Meta(
            description="Of a function: how many of its latest invocations.",
            extra_json_schema={"minimum": 1, "maximum": 100},
        ),
    ] = LOG_ITEMS


class Invocations(msgspec.Struct):
    """Of `stoker_invocations`."""

    function: FunctionName | None = None
    status: (
        Annotated[
            str,
            Meta(description="One or more with commas, as `error,timeout`; `ok` for those that worked."),
        ]
        | None
    ) = None
    since: Annotated[str, Meta(description="RFC 3339, for instance 2026-01-31T12:00:00Z.")] | None = None
    until: Annotated[str, Meta(description="RFC 3339.")] | None = None
    limit: Page = LIST_ITEMS
    cursor: Cursor | None = None


class OneInvocation(msgspec.Struct):
    """Of tools that are about one invocation."""

    invocation_id: InvocationId


class Replay(msgspec.Struct):
    """Of `stoker_replay`."""

    invocation_id: InvocationId
    version: Version | None = None


class Pages(msgspec.Struct):
    """Of tools that list something of a function."""

    function: FunctionName
    limit: Page = LIST_ITEMS
    cursor: Cursor | None = None


class OfVersion(msgspec.Struct):
    """Of `stoker_rollback`."""

    function: FunctionName
    version: Version


class OneLetter(msgspec.Struct):
    """Of tools that are about one dead letter."""

    function: FunctionName
    invocation_id: InvocationId


def read(arguments: dict[str, Any], kind: type[T]) -> tuple[T, dict[str, Any]]:
    """Return arguments as their type, and as they were given. Raises InvalidRequest naming the field."""
    return api.read_body(json.dumps(arguments).encode(), kind, strict=True)


def schema_of(kind: type[msgspec.Struct], limits: Limits) -> dict[str, Any]:
    """Return the JSON Schema of arguments, which have nothing beside what it names."""
    _, components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    filled = {name: bodies.with_limits(schema, limits) for name, schema in components.items()}
    root: dict[str, Any] = filled.pop(kind.__name__)
    del root["title"], root["description"]  # the tool has its own
    root["additionalProperties"] = False
    return {**root, "$defs": filled} if filled else root
