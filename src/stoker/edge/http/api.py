"""Bodies read and made: a request's as its type, refusals that name the field, answers from what there is.

Does not know what a value means: the catalog checks that.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args, get_type_hints
from urllib.parse import unquote_to_bytes

import msgspec

from stoker.edge.http.answers import AssetAnswer, CollectionAnswer, FunctionAnswer, FunctionSummary
from stoker.edge.http.items import item_answer
from stoker.model.errors import InvalidRequest
from stoker.model.function import CodeVersion, Collection, Function
from stoker.model.pointer import escape

T = TypeVar("T", bound=msgspec.Struct)

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
