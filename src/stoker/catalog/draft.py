"""Drafts: a function as somebody wants it, checked field by field against the contract.

Pure: decides by its inputs alone and points every refusal at the field, as the API spells it. Does not
know JSON bodies nor what exists already.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec

from stoker.model.egress import parse_rule, parse_tunnel
from stoker.model.errors import InvalidRequest, TooLarge
from stoker.model.function import RUNTIMES
from stoker.model.limits import MIB, Limits

SIZES_MB = {"small": 256, "medium": 512, "large": 1024, "xlarge": 2048}
_SIZE = re.compile(r"([0-9]{1,5}) ?(mb|gb)\Z", re.IGNORECASE)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_CPU_MILLIS = ((128, 125), (256, 140), (512, 200), (1024, 250), (2048, 400), (4096, 700))
"""Thousandths of a core by memory in MB, as the contract lists them; linear in between."""


@dataclass(frozen=True, slots=True)
class StoredContent:
    """A content that the account has stored already."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DraftAsset:
    """One item of code."""

    name: str
    kind: str
    content: bytes | StoredContent
    """As it was sent, or where it lies if it was stored beforehand."""


CODE_KEYS = ("handler", "runtime", "assets", "timeout", "read_only_fs", "env_vars", "secrets", "network")
"""What a compute asset consists of; names are the API's."""
CodeChanges = dict[str, Any]
"""Some of them, each with a value as `FunctionDraft` has it."""


@dataclass(frozen=True, slots=True)
class FunctionDraft:
    """A whole function as it is asked for; names are the API's."""

    name: str
    collection: str
    """Topic, subject or name of a collection; one that does not exist is created with it as topic."""
    handler: str
    assets: tuple[DraftAsset, ...]
    runtime: str = "nodejs"
    timeout: int | None = None
    read_only_fs: bool = True
    env_vars: tuple[str, ...] | None = None
    secrets: tuple[str, ...] | None = None
    network: dict[str, Any] | None = None
    description: str | None = None
    monitor_config: dict[str, Any] | None = None
    schema: dict[str, Any] | None = None
    size: str | None = None
    retry: dict[str, Any] | None = None
    concurrency: dict[str, Any] | None = None


def check_name(name: str, field: str, limits: Limits) -> None:
    """Refuse a name that the contract does not allow."""
    if not 1 <= len(name) <= limits.name_chars_max:
        raise InvalidRequest(f"a name has 1 to {limits.name_chars_max} characters", field=field)
    if "/" in name or any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in name):
        raise InvalidRequest("a name has no '/' and no control character", field=field)


def check_handler(handler: str, runtime: str, field: str) -> None:
    """Refuse what cannot be a handler; whether it exists is seen when it is loaded."""
    path = handler.removeprefix("/")
    parts = path.split("/")
    module, dot, export = parts[-1].partition(".")
    example = "index.handler" if runtime == "nodejs" else "main.handler"
    if not (dot and module and export) or export.endswith(".") or ".." in parts[-1] or len(handler) > 512:
        raise InvalidRequest(
            f"{handler[:80]!r} is no handler", field=field, hint=f"FILE.EXPORT, as {example}"
        )
    if any(part in ("", ".", "..") for part in parts) or "\0" in handler or "\\" in handler:
        raise InvalidRequest("a handler is a path inside the function", field=field, hint=f"as {example}")


def memory_bytes_of(size: str | None, field: str = "/size") -> int:
    """Return the memory of a size as it is written: a word of the contract, or 128 to 4096 MB."""
    if size is None:
        return SIZES_MB["medium"] * MIB
    megabytes = SIZES_MB.get(size.strip().lower())
    if megabytes is None:
        match = _SIZE.match(size.strip())
        megabytes = int(match[1]) * (1024 if match[2].lower() == "gb" else 1) if match else 0
    if not 128 <= megabytes <= 4096:
        raise InvalidRequest(
            f"{size[:40]!r} is no size", field=field, hint="small, medium, large, xlarge, or 128MB to 4096MB"
        )
    return megabytes * MIB


def cpu_millis_of(memory_bytes: int) -> int:
    """Return the thousandths of a core that belong to a memory size."""
    megabytes = memory_bytes / MIB
    for (low_mb, low), (high_mb, high) in pairwise(_CPU_MILLIS):
        if megabytes <= high_mb:
            return round(low + (high - low) * (megabytes - low_mb) / (high_mb - low_mb))
    return _CPU_MILLIS[-1][1]


def _check_integer(settings: dict[str, Any], key: str, low: int, high: int, field: str) -> None:
    value = settings.get(key)
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidRequest(f"{key} is an integer from {low} to {high}", field=f"{field}/{key}")


def check_description(description: str | None, limits: Limits) -> None:
    """Refuse a description that is too long to be one."""
    if len(description or "") > limits.description_chars_max:
        told = f"a description has at most {limits.description_chars_max} characters"
        raise InvalidRequest(told, field="/description")


def _check_bytes(settings: dict[str, Any], limits: Limits, field: str) -> None:
    """Refuse what is too large: it is stored as it was given, with keys that mean nothing here."""
    if len(msgspec.json.encode(settings)) > limits.settings_bytes_max:
        raise InvalidRequest(f"it is at most {limits.settings_bytes_max} bytes of JSON", field=field)


def check_schema(schema: dict[str, Any] | None, limits: Limits) -> None:
    """Refuse a `schema` with too much beside `input` and `output`, which whoever compiles them measures."""
    rest = {key: value for key, value in (schema or {}).items() if key not in ("input", "output")}
    _check_bytes(rest, limits, "/schema")


def check_monitor_config(settings: dict[str, Any], limits: Limits) -> None:
    """Refuse a `monitor_config` that does not mean anything."""
    _check_bytes(settings, limits, "/monitor_config")
    _check_integer(settings, "ttl", 0, limits.ttl_ms_max, "/monitor_config")
    if not isinstance(settings.get("store_payload", False), bool | None):
        raise InvalidRequest("store_payload is true or false", field="/monitor_config/store_payload")


def check_retry(settings: dict[str, Any] | None, limits: Limits) -> None:
    """Refuse a `retry` outside its bounds."""
    _check_bytes(settings or {}, limits, "/retry")
    for key, low, high in (
        ("attempts", 1, 100),
        ("backoff_ms", 1, 24 * 3600 * 1000),
        ("max_age_ms", 1000, 14 * 24 * 3600 * 1000),
    ):
        _check_integer(settings or {}, key, low, high, "/retry")


def check_concurrency(settings: dict[str, Any] | None, limits: Limits) -> None:
    """Refuse a `concurrency` outside its bounds."""
    settings = settings or {}
    _check_bytes(settings, limits, "/concurrency")
    _check_integer(settings, "per_instance", 1, 1000, "/concurrency")
    _check_integer(settings, "max_instances", 1, 100_000, "/concurrency")
    _check_integer(settings, "min_instances", 0, limits.instances_max, "/concurrency")
    highest = settings.get("max_instances")
    if highest is not None and (settings.get("min_instances") or 0) > highest:
        raise InvalidRequest("min_instances is at most max_instances", field="/concurrency/min_instances")


def _check_env_vars(env_vars: tuple[str, ...], limits: Limits, field: str) -> None:
    for index, item in enumerate(env_vars):
        name, equals, value = item.partition("=")
        if not equals or not _ENV_NAME.match(name) or "\0" in value or not _is_unicode(value):
            raise InvalidRequest("an environment variable is KEY=value", field=f"{field}/{index}")
    if sum(len(item.encode()) for item in env_vars) > limits.env_bytes_max:
        raise TooLarge(f"env_vars are at most {limits.env_bytes_max} bytes together", field=field)


def _is_unicode(text: str) -> bool:
    return not any(0xD800 <= ord(c) < 0xE000 for c in text)


def _check_network(network: dict[str, Any], limits: Limits, field: str) -> None:
    _check_bytes(network, limits, field)
    _check_egress(network.get("egress"), limits, f"{field}/egress")
    _check_tunnels(network.get("tunnels"), limits, f"{field}/tunnels")


def _check_egress(egress: Any, limits: Limits, field: str) -> None:
    if egress is None:
        return
    if not isinstance(egress, list):
        raise InvalidRequest("egress is a list of HOST:PORT", field=field)
    if len(egress) > limits.egress_rules_max:
        raise InvalidRequest(f"a function has at most {limits.egress_rules_max} rules", field=field)
    for index, rule in enumerate(egress):
        try:
            parse_rule(rule if isinstance(rule, str) else "")
        except ValueError:
            raise InvalidRequest(
                "an egress rule is HOST:PORT",
                field=f"{field}/{index}",
                hint="api.example.com:443, *.example.org:443 or *:443; an IPv6 address in brackets",
            ) from None


def _check_tunnels(tunnels: Any, limits: Limits, field: str) -> None:
    if tunnels is None:
        return
    if not isinstance(tunnels, list):
        raise InvalidRequest("tunnels is a list of HOST:PORT", field=field)
    if len(tunnels) > limits.egress_tunnels_max:
        raise InvalidRequest(f"a function has at most {limits.egress_tunnels_max} tunnels", field=field)
    seen: set[str] = set()
    for index, tunnel in enumerate(tunnels):
        try:
            target = str(parse_tunnel(tunnel if isinstance(tunnel, str) else ""))
        except ValueError:
            raise InvalidRequest(
                "a tunnel is HOST:PORT, and the host a name",
                field=f"{field}/{index}",
                hint="db.internal:5432; to reach an address, give it a name in your DNS",
            ) from None
        if target in seen:
            raise InvalidRequest(f"{target} is listed twice", field=f"{field}/{index}")
        seen.add(target)


def check_code(given: CodeChanges, limits: Limits, pointer: str, runtime: str) -> None:
    """Refuse what breaks the contract of what is given of a compute asset, which stands at `pointer`.

    `runtime` is the one that it is for if none is given. Not checked here: what is inside the assets.
    """
    runtime = given.get("runtime", runtime)
    if runtime not in RUNTIMES:
        raise InvalidRequest(
            f"{runtime[:40]!r} does not run here",
            field=f"{pointer}/runtime",
            hint=f"one of {', '.join(RUNTIMES)}",
        )
    if "handler" in given:
        check_handler(given["handler"], runtime, f"{pointer}/handler")
    timeout = given.get("timeout")
    if timeout is not None and not limits.timeout_ms_min <= timeout <= limits.timeout_ms_max:
        raise InvalidRequest(
            f"timeout is from {limits.timeout_ms_min} to {limits.timeout_ms_max} ms",
            field=f"{pointer}/timeout",
        )
    for index, asset in enumerate(given.get("assets", ())):
        if len(asset.kind) > limits.name_chars_max:
            told = f"a type has at most {limits.name_chars_max} characters"
            raise InvalidRequest(told, field=f"{pointer}/assets/{index}/asset_type")
    _check_env_vars(given.get("env_vars") or (), limits, f"{pointer}/env_vars")
    secrets = given.get("secrets") or ()
    if len(secrets) > limits.secrets_max:
        told = f"a function has at most {limits.secrets_max} secrets"
        raise InvalidRequest(told, field=f"{pointer}/secrets")
    for index, name in enumerate(secrets):
        if not _ENV_NAME.match(name):
            raise InvalidRequest(
                "a secret's name is that of an environment variable", field=f"{pointer}/secrets/{index}"
            )
    _check_network(given.get("network") or {}, limits, f"{pointer}/network")


def check_draft(draft: FunctionDraft, limits: Limits) -> None:
    """Refuse a draft that breaks the contract; the first field found to be wrong is named.

    Not checked here: whether the schemas compile, and what is inside the assets.
    """
    check_name(draft.name, "/name", limits)
    check_description(draft.description, limits)
    check_code({key: getattr(draft, key) for key in CODE_KEYS}, limits, "/compute_asset", draft.runtime)
    check_monitor_config(draft.monitor_config or {}, limits)
    check_schema(draft.schema, limits)
    memory_bytes_of(draft.size)
    check_retry(draft.retry, limits)
    check_concurrency(draft.concurrency, limits)
