"""Bodies of requests, as types that also say what their values may be.

What a value may be is checked in the catalog, whose refusals say more; here it is only described, with
`limits.NAME` for the limit of that name, which each server has its own of. Source: `Create a function` of the
reference and the compute API contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from stoker.edge.http.items import ComputeAssetItem
from stoker.model.function import COLLECTION_TYPES, RUNTIMES
from stoker.model.limits import Limits

Name = Annotated[
    str,
    Meta(
        description="Unique within what it belongs to; no `/` and no control character.",
        extra_json_schema={
            "minLength": 1,
            "maxLength": "limits.name_chars_max",
            "pattern": "^[^/\\x00-\\x1f\\x7f-\\x9f]+$",
        },
    ),
]
Description = Annotated[str, Meta(extra_json_schema={"maxLength": "limits.description_chars_max"})]
Handler = Annotated[
    str,
    Meta(
        description="FILE.EXPORT, with folders before it: `index.handler` is `handler` of `index.js`.",
        extra_json_schema={
            "maxLength": 512,
            "pattern": (
                r"^/?(?:(?:[^/\\.\x00][^/\\\x00]*|\.[^/\\.\x00][^/\\\x00]*|\.\.[^/\\\x00]+)/)*"
                r"[^./\\\x00]+(?:\.[^./\\\x00]+)+$"
            ),
        },
    ),
]
Runtime = Annotated[
    str, Meta(description="`nodejs` if it is left out.", extra_json_schema={"enum": list(RUNTIMES)})
]
TimeoutMs = Annotated[
    int,
    Meta(
        description="Milliseconds from the start of the user's code; 30000 if it is left out.",
        extra_json_schema={"minimum": "limits.timeout_ms_min", "maximum": "limits.timeout_ms_max"},
    ),
]
EnvVar = Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}=[^\\x00]*$"})]
SecretName = Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}$"})]
_PORT = (
    "(?:0{0,4}[1-9]|0{0,3}[1-9][0-9]|0{0,2}[1-9][0-9]{2}|0?[1-9][0-9]{3}|[1-5][0-9]{4}"
    "|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
)
_LABEL = "[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"
_LAST = "[A-Za-z_][A-Za-z0-9_-]{0,62}"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_HEX = "[0-9A-Fa-f]{1,4}"
_IPV6 = f"(?:(?:{_HEX}:){{7}}{_HEX}|::(?:{_HEX}:){{0,5}}{_HEX}|(?:{_HEX}:){{1,6}}:{_HEX})"
HOST_PATTERN = rf"^(?:(?:{_LABEL}\.)*{_LAST}\.?|{_IPV4}|\[{_IPV6}\])(?::{_PORT})?$"
TunnelTarget = Annotated[
    str,
    Meta(
        description="HOST:PORT, for instance `db.internal:5432`; the host is a name, and resolves inside.",
        extra_json_schema={
            "maxLength": 254,
            "pattern": rf"^(?:{_LABEL}\.)*{_LAST}\.?:{_PORT}$",
            "not": {"pattern": r"^(?:.*\.)?[Ll][Oo][Cc][Aa][Ll][Hh][Oo][Ss][Tt]\.?:"},
        },
    ),
]
EgressRule = Annotated[
    str,
    Meta(
        description="HOST:PORT, for instance `*.example.org:443`; an IPv6 address in brackets.",
        extra_json_schema={
            "maxLength": 254,
            "pattern": rf"^(?:\*|(?:\*\.)?(?:{_LABEL}\.)*{_LAST}\.?|{_IPV4}|\[{_IPV6}\]):{_PORT}$",
        },
    ),
]
EnvVars = Annotated[list[EnvVar], Meta(description="`KEY=value` each.")]
SecretNames = Annotated[
    list[SecretName],
    Meta(
        description="Secrets that become environment variables.",
        extra_json_schema={"maxItems": "limits.secrets_max"},
    ),
]
ReadOnly = Annotated[bool, Meta(description="Whether only `/tmp` is writable; true if it is left out.")]
Size = Annotated[
    str,
    Meta(
        description="`small` (256 MB), `medium` (512 MB, the default), `large` (1024 MB), "
        "`xlarge` (2048 MB), or a memory size from 128 to 4096 MB as `512MB` or `1 gb`.",
        examples=["medium", "512MB"],
    ),
]


def _integer(least: int, most: int | str, description: str) -> Meta:
    return Meta(description=description, extra_json_schema={"minimum": least, "maximum": most})


class Network(msgspec.Struct):
    """What a function may reach."""

    egress: (
        Annotated[list[EgressRule], Meta(extra_json_schema={"maxItems": "limits.egress_rules_max"})] | None
    ) = None
    tunnels: (
        Annotated[
            list[TunnelTarget],
            Meta(extra_json_schema={"maxItems": "limits.egress_tunnels_max", "uniqueItems": True}),
        ]
        | None
    ) = None


class ComputeAssetCreate(msgspec.Struct):
    """The code of a function, and how it is run."""

    handler: Handler
    collection_topic: (
        Annotated[str, Meta(description="Topic, subject or name; one that is not there is created.")] | None
    ) = None
    namespace: Annotated[str, Meta(description="Another name of `collection_topic`.")] | None = None
    runtime: Runtime | None = None
    assets: list[ComputeAssetItem] | None = None
    timeout: TimeoutMs | None = None
    read_only_fs: ReadOnly | None = None
    env_vars: EnvVars | None = None
    secrets: SecretNames | None = None
    network: Network | None = None


class MonitorConfig(msgspec.Struct):
    """What is kept of invocations."""

    ttl: (
        Annotated[
            int,
            _integer(
                0,
                "limits.ttl_ms_max",
                "How long records are kept, in milliseconds; 7 days if left out.",
            ),
        ]
        | None
    ) = None
    store_payload: (
        Annotated[bool, Meta(description="Whether payload and result are part of the record.")] | None
    ) = None


class Schemas(msgspec.Struct):
    """JSON Schemas of what comes in and what goes out; of 2020-12 unless `$schema` says otherwise."""

    input: dict[str, Any] | bool | None = None
    output: dict[str, Any] | bool | None = None


class RetryConfig(msgspec.Struct):
    """How a failed Async invocation is tried again."""

    attempts: Annotated[int, _integer(1, 100, "In all; 3 if left out.")] | None = None
    backoff_ms: (
        Annotated[int, _integer(1, 86_400_000, "Before the second attempt, doubling; 1000 if left out.")]
        | None
    ) = None
    max_age_ms: (
        Annotated[int, _integer(1000, 1_209_600_000, "Since it was accepted; 6 hours if left out.")] | None
    ) = None


class ConcurrencyConfig(msgspec.Struct):
    """How many calls and instances at once."""

    per_instance: Annotated[int, _integer(1, 1000, "Calls at once in one; 1 if left out.")] | None = None
    max_instances: Annotated[int, _integer(1, 100_000, "Instances at once.")] | None = None
    min_instances: (
        Annotated[int, _integer(0, "limits.instances_max", "Instances kept ready; 0 if left out.")] | None
    ) = None


class FunctionCreate(msgspec.Struct):
    """The body of `POST /compute/functions`."""

    name: Name
    compute_asset: ComputeAssetCreate
    monitor_config: MonitorConfig
    description: Description | None = None
    schema: Schemas | None = None
    size: Size | None = None
    retry: RetryConfig | None = None
    concurrency: ConcurrencyConfig | None = None


class FunctionPatch(msgspec.Struct):
    """The body of `PATCH` on a function; what is absent stays."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    description: Description | msgspec.UnsetType | None = msgspec.UNSET
    monitor_config: MonitorConfig | msgspec.UnsetType = msgspec.UNSET
    schema: Schemas | msgspec.UnsetType | None = msgspec.UNSET
    size: Size | msgspec.UnsetType | None = msgspec.UNSET
    retry: RetryConfig | msgspec.UnsetType | None = msgspec.UNSET
    concurrency: ConcurrencyConfig | msgspec.UnsetType | None = msgspec.UNSET


class ComputeAssetPatch(msgspec.Struct):
    """The body of `PATCH` on a compute asset; what is absent stays, null is what a create has by default."""

    handler: Handler | msgspec.UnsetType = msgspec.UNSET
    runtime: Runtime | msgspec.UnsetType = msgspec.UNSET
    assets: list[ComputeAssetItem] | msgspec.UnsetType = msgspec.UNSET
    timeout: TimeoutMs | msgspec.UnsetType | None = msgspec.UNSET
    read_only_fs: ReadOnly | msgspec.UnsetType | None = msgspec.UNSET
    env_vars: EnvVars | msgspec.UnsetType | None = msgspec.UNSET
    secrets: SecretNames | msgspec.UnsetType | None = msgspec.UNSET
    network: Network | msgspec.UnsetType | None = msgspec.UNSET


class Rollback(msgspec.Struct):
    """The body of a rollback."""

    version: Annotated[int, Meta(description="One of the function's versions.")]


class CollectionCreate(msgspec.Struct):
    """The body of `POST /compute/collections`."""

    name: Name
    description: Description | None = None
    collection_type: Annotated[str, Meta(extra_json_schema={"enum": list(COLLECTION_TYPES)})] | None = None


class CollectionPatch(msgspec.Struct):
    """The body of `PATCH` on a collection; what is absent stays."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    description: Description | msgspec.UnsetType | None = msgspec.UNSET


def with_limits(schema: Any, limits: Limits) -> Any:
    """Return a JSON Schema with the numbers of this server where it names a limit."""
    if isinstance(schema, str) and schema.startswith("limits."):
        return getattr(limits, schema.removeprefix("limits."))
    if isinstance(schema, Mapping):
        return {key: with_limits(value, limits) for key, value in schema.items()}
    if isinstance(schema, list):
        return [with_limits(value, limits) for value in schema]
    return schema
