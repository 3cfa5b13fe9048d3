"""The API's bodies: what a request may hold, as types, and what an answer holds.

Source: `Create a function` of the reference and the compute API contract. Does not know what a value
means: the catalog checks that.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar, get_args, get_type_hints
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta

from stoker.edge.http.answers import AssetAnswer, CollectionAnswer, FunctionAnswer, FunctionSummary
from stoker.edge.http.items import ComputeAssetItem, item_answer
from stoker.model.errors import InvalidRequest
from stoker.model.function import COLLECTION_TYPES, RUNTIMES, CodeVersion, Collection, Function
from stoker.model.pointer import escape

T = TypeVar("T", bound=msgspec.Struct)


# What a value may be is checked in the catalog, whose refusals say more. The notes below only describe it:
# `limits.NAME` stands for the limit of that name, which each server has its own of.

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
_HEX = "[0-9A-Fa-f]{1,4}"
_IPV6 = f"(?:(?:{_HEX}:){{7}}{_HEX}|::(?:{_HEX}:){{0,5}}{_HEX}|(?:{_HEX}:){{1,6}}:{_HEX})"
EgressRule = Annotated[
    str,
    Meta(
        description="HOST:PORT, for instance `*.example.org:443`; an IPv6 address in brackets.",
        extra_json_schema={
            "maxLength": 300,
            "pattern": rf"^(?:\*|(?:\*\.)?{_LABEL}(?:\.{_LABEL})*\.?|\[{_IPV6}\]):{_PORT}$",
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

    egress: list[EgressRule] | None = None


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


_PLACE = re.compile(r" - at `(?P<path>[^`]*)`\Z")
_STEP = re.compile(r"\.(?P<key>[^.\[\]]+)|\[(?P<index>[^\]]*)\]")
_MISSING = re.compile(r"Object missing required field `(?P<key>[^`]+)`")


def read_body(body: bytes, kind: type[T], *, strict: bool) -> tuple[T, dict[str, Any]]:
    """Return a request body as its type, and as the plain value it was written as.

    Raises InvalidRequest that names the field. Unknown keys are ignored, unless `strict`.
    """
    try:
        plain = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(plain, dict):
        raise InvalidRequest("the body is a JSON object", field="")
    try:
        typed = msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    if strict:
        _refuse_unknown(plain, kind, "")
    return typed, plain


def _invalid(text: str) -> InvalidRequest:
    place = _PLACE.search(text)
    pointer = ""
    if place is not None:
        text = text[: place.start()]
        for step in _STEP.finditer(place["path"]):
            pointer += "/" + (step["key"] if step["key"] is not None else step["index"])
    missing = _MISSING.match(text)
    if missing is not None:
        return InvalidRequest(f"{missing['key']} is required", field=f"{pointer}/{missing['key']}")
    return InvalidRequest(text[:1].lower() + text[1:], field=pointer)


def asks_for_strict(text: str | None) -> bool:
    """Tell whether the value of `?strict=` asks for it. Raises InvalidRequest."""
    found = (text or "false").lower()
    if found not in ("true", "1", "false", "0"):
        raise InvalidRequest("strict is true or false", hint="?strict=true")
    return found in ("true", "1")


def unknown_key(key: str, pointer: str) -> InvalidRequest:
    """Return the refusal of a key that a strict request must not have at `pointer`."""
    return InvalidRequest(f"{key[:80]!r} is not known here", field=f"{pointer}/{escape(key[:80])}")


def _refuse_unknown(value: object, kind: object, pointer: str) -> None:
    for struct in (kind, *get_args(kind)):
        if isinstance(struct, type) and issubclass(struct, msgspec.Struct) and isinstance(value, dict):
            hints = get_type_hints(struct)
            for key, inner in value.items():
                if key not in hints:
                    raise unknown_key(key, pointer)
                _refuse_unknown(inner, hints[key], f"{pointer}/{escape(key)}")
            return
    if isinstance(value, list):
        kinds = (kind, *get_args(kind))
        items = next((arg for arg in kinds if getattr(arg, "__origin__", None) is list), None)
        for index, inner in enumerate(value):
            _refuse_unknown(inner, get_args(items)[0] if items else object, f"{pointer}/{index}")


def collection_answer(collection: Collection) -> CollectionAnswer:
    """Return a collection as the API answers it."""
    return {
        "collection_type": collection.collection_type,
        "description": collection.description or "",
        "name": collection.name,
        "subject": collection.subject,
        "type": collection.type,
        "modified": collection.modified,
    }


def function_summary(function: Function) -> FunctionSummary:
    """Return a function as lists hold it."""
    return {
        "description": function.description or "",
        "name": function.name,
        "runtime": function.code.runtime,
        "subject": function.subject,
        "type": function.type,
        "modified": function.modified,
    }


def function_answer(function: Function, contents: list[bytes] | None = None) -> FunctionAnswer:
    """Return a function as create answers it; with `contents`, as GET does."""
    asset = asset_answer(function, function.code)
    if contents is not None:
        asset["assets"] = list(map(item_answer, function.code.assets, contents))
    answer: FunctionAnswer = {
        "description": function.description or "",
        "name": function.name,
        "runtime": function.code.runtime,
        "subject": function.subject,
        "type": function.type,
        "modified": function.modified,
        "compute_asset": asset,
        "monitor_config": function.monitor_config,
    }
    if function.schema is not None:
        answer["schema"] = function.schema
    if function.size is not None:
        answer["size"] = function.size
    if function.retry is not None:
        answer["retry"] = function.retry
    if function.concurrency_given is not None:
        answer["concurrency"] = function.concurrency_given
    if contents is not None:
        answer["version"] = function.code.version
    return answer


def asset_answer(function: Function, code: CodeVersion) -> AssetAnswer:
    """Return a version of a function's code as the API answers it, without its items."""
    asset: AssetAnswer = {
        "collection_topic": function.collection_topic,
        "service": function.service,
        "runtime": code.runtime,
        "handler": code.handler,
        "timeout": code.timeout_ms,
        "read_only_fs": code.read_only_fs,
    }
    if code.env_vars is not None:
        asset["env_vars"] = list(code.env_vars)
    if code.secrets is not None:
        asset["secrets"] = list(code.secrets)
    if code.network is not None:
        asset["network"] = code.network
    return asset


def decoded(text: str) -> str:
    """Percent-decode a path segment; raises InvalidRequest for what is not UTF-8."""
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("the path is not UTF-8") from None


def rfc3339(at_ms: int) -> str:
    """Return a time in UTC as the API writes it."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
