"""The API's bodies: what a request may hold, as types, and what an answer holds.

Source: `Create a function` of the reference and the compute API contract. Does not know what a value
means: the catalog checks that.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args, get_type_hints
from urllib.parse import unquote_to_bytes

import msgspec

from stoker.edge.http.items import ComputeAssetItem, item_answer
from stoker.model.errors import InvalidRequest
from stoker.model.function import CodeVersion, Collection, Function
from stoker.model.pointer import escape

T = TypeVar("T", bound=msgspec.Struct)


class Network(msgspec.Struct):
    """What a function may reach."""

    egress: list[str] | None = None


class ComputeAssetCreate(msgspec.Struct):
    """The code of a function, and how it is run."""

    handler: str
    collection_topic: str | None = None
    namespace: str | None = None
    runtime: str | None = None
    assets: list[ComputeAssetItem] | None = None
    timeout: int | None = None
    read_only_fs: bool | None = None
    env_vars: list[str] | None = None
    secrets: list[str] | None = None
    network: Network | None = None


class MonitorConfig(msgspec.Struct):
    """What is kept of invocations."""

    ttl: int | None = None
    store_payload: bool | None = None


class Schemas(msgspec.Struct):
    """JSON Schemas of what comes in and what goes out."""

    input: dict[str, Any] | bool | None = None
    output: dict[str, Any] | bool | None = None


class RetryConfig(msgspec.Struct):
    """How a failed Async invocation is tried again."""

    attempts: int | None = None
    backoff_ms: int | None = None
    max_age_ms: int | None = None


class ConcurrencyConfig(msgspec.Struct):
    """How many calls and instances at once."""

    per_instance: int | None = None
    max_instances: int | None = None
    min_instances: int | None = None


class FunctionCreate(msgspec.Struct):
    """The body of `POST /compute/functions`."""

    name: str
    compute_asset: ComputeAssetCreate
    monitor_config: MonitorConfig
    description: str | None = None
    schema: Schemas | None = None
    size: str | None = None
    retry: RetryConfig | None = None
    concurrency: ConcurrencyConfig | None = None


class FunctionPatch(msgspec.Struct):
    """The body of `PATCH` on a function; what is absent stays."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    description: str | msgspec.UnsetType | None = msgspec.UNSET
    monitor_config: MonitorConfig | msgspec.UnsetType = msgspec.UNSET
    schema: Schemas | msgspec.UnsetType | None = msgspec.UNSET
    size: str | msgspec.UnsetType | None = msgspec.UNSET
    retry: RetryConfig | msgspec.UnsetType | None = msgspec.UNSET
    concurrency: ConcurrencyConfig | msgspec.UnsetType | None = msgspec.UNSET


class ComputeAssetPatch(msgspec.Struct):
    """The body of `PATCH` on a compute asset; what is absent stays, null is what a create has by default."""

    handler: str | msgspec.UnsetType = msgspec.UNSET
    runtime: str | msgspec.UnsetType = msgspec.UNSET
    assets: list[ComputeAssetItem] | msgspec.UnsetType = msgspec.UNSET
    timeout: int | msgspec.UnsetType | None = msgspec.UNSET
    read_only_fs: bool | msgspec.UnsetType | None = msgspec.UNSET
    env_vars: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    secrets: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    network: Network | msgspec.UnsetType | None = msgspec.UNSET


class Rollback(msgspec.Struct):
    """The body of a rollback."""

    version: int


class CollectionCreate(msgspec.Struct):
    """The body of `POST /compute/collections`."""

    name: str
    description: str | None = None
    collection_type: str | None = None


class CollectionPatch(msgspec.Struct):
    """The body of `PATCH` on a collection; what is absent stays."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    description: str | msgspec.UnsetType | None = msgspec.UNSET


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
    """Tell whether the value of `?strict=` asks for it."""
    return (text or "").lower() in ("true", "1")


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


def collection_answer(collection: Collection) -> dict[str, Any]:
    """Return a collection as the API answers it."""
    return {
        "collection_type": collection.collection_type,
        "description": collection.description or "",
        "name": collection.name,
        "subject": collection.subject,
        "type": collection.type,
        "modified": collection.modified,
    }


def function_summary(function: Function) -> dict[str, Any]:
    """Return a function as lists hold it."""
    return {
        "description": function.description or "",
        "name": function.name,
        "runtime": function.code.runtime,
        "subject": function.subject,
        "type": function.type,
        "modified": function.modified,
    }


def function_answer(function: Function, contents: list[bytes] | None = None) -> dict[str, Any]:
    """Return a function as create answers it; with `contents`, as GET does."""
    asset = asset_answer(function, function.code)
    if contents is not None:
        asset["assets"] = list(map(item_answer, function.code.assets, contents))
    answer: dict[str, Any] = {
        **function_summary(function),
        "compute_asset": asset,
        "monitor_config": function.monitor_config,
    }
    for name, given in (
        ("schema", function.schema),
        ("size", function.size),
        ("retry", function.retry),
        ("concurrency", function.concurrency_given),
    ):
        if given is not None:
            answer[name] = given
    if contents is not None:
        answer["version"] = function.code.version
    return answer


def asset_answer(function: Function, code: CodeVersion) -> dict[str, Any]:
    """Return a version of a function's code as the API answers it, without its items."""
    asset: dict[str, Any] = {
        "collection_topic": function.collection_topic,
        "service": function.service,
        "runtime": code.runtime,
        "handler": code.handler,
        "timeout": code.timeout_ms,
        "read_only_fs": code.read_only_fs,
    }
    for key, value in (("env_vars", code.env_vars), ("secrets", code.secrets), ("network", code.network)):
        if value is not None:
            asset[key] = value
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
