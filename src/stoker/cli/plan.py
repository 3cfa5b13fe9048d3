"""What a deploy has to change: a project held against what is there. Decides by values alone.

Does not know the server or the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from stoker.cli.bundle import ARCHIVE, Bundle, linked, object_key
from stoker.cli.project import Project
from stoker.cli.screen import size_text
from stoker.client.types import AssetItem, Code, CodeChanges, Function, FunctionChanges, FunctionCreate

TIMEOUT_MS_DEFAULT = 30_000
"""What the server takes where none is given."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference, as people read it."""

    what: str
    """`+`, `-` or `~` with the name of a file, or a setting."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a server has of a function, as far as a deploy is concerned."""

    code: Mapping[str, Any]
    settings: Mapping[str, Any]
    contents: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send."""

    code: CodeChanges
    settings: FunctionChanges
    changes: tuple[Change, ...]

    @property
    def is_empty(self) -> bool:
        """Whether all is there already."""
        return not self.code and not self.settings


def wanted(project: Project, code: Bundle) -> Deployed:
    """Return what the server shall have."""
    return Deployed(
        code={
            "handler": project.handler,
            "runtime": project.runtime,
            "timeout": TIMEOUT_MS_DEFAULT if project.timeout_ms is None else project.timeout_ms,
            "read_only_fs": project.read_only_fs,
            "env_vars": [f"{key}={value}" for key, value in project.env.items()] or None,
            "secrets": list(project.secrets) or None,
            "network": project.network,
        },
        settings={
            "description": project.description or None,
            "monitor_config": dict(project.monitor),
            "schema": project.schema(),
            "size": project.size,
            "retry": project.retry,
            "concurrency": project.concurrency,
        },
        contents=code.contents,
    )


def present(function: Function) -> Deployed:
    """Return what the server has."""
    asset = function.compute_asset
    return Deployed(
        code={
            "handler": asset.handler,
            "runtime": asset.runtime,
            "timeout": asset.timeout,
            "read_only_fs": asset.read_only_fs,
            "env_vars": asset.env_vars or None,
            "secrets": asset.secrets or None,
            "network": asset.network,
        },
        settings={
            "description": function.description or None,
            "monitor_config": function.monitor_config,
            "schema": function.schema,
            "size": function.size,
            "retry": function.retry,
            "concurrency": function.concurrency,
        },
        contents={item.asset_name: item.content for item in asset.assets or ()},
    )


def plan(project: Project, to: Deployed, now: Deployed) -> Plan:
    """Return what has to be changed to get from `now` to `to`."""
    code = {key: value for key, value in to.code.items() if value != now.code[key]}
    changes = [*_file_changes(to.contents, now.contents)]
    if changes:
        code["assets"] = items(project, to.contents)
    settings = {key: value for key, value in to.settings.items() if value != now.settings[key]}
    for key in ("handler", "runtime", "timeout", "read_only_fs", "env_vars", "secrets", "network"):
        if key in code:
            changes.append(Change(key, _difference(key, now.code[key], to.code[key])))
    for key, value in settings.items():
        changes.append(Change(key, _difference(key, now.settings[key], value)))
    return Plan(cast(CodeChanges, code), cast(FunctionChanges, settings), tuple(changes))


def creation(project: Project, to: Deployed) -> FunctionCreate:
    """Return the function that is to be created."""
    code = {key: value for key, value in to.code.items() if value is not None}
    asset = msgspec.convert({**code, "collection_topic": project.collection}, Code)
    settings = {key: value for key, value in to.settings.items() if value is not None}
    return msgspec.convert(
        {
            **settings,
            "name": project.name,
            "compute_asset": msgspec.structs.replace(asset, assets=items(project, to.contents)),
        },
        FunctionCreate,
        from_attributes=True,
    )


def items(project: Project, contents: Mapping[str, bytes]) -> list[AssetItem]:
    """Return code as it is sent: files inline, an archive as a link to the object it was put into."""
    if ARCHIVE in contents and len(contents) == 1:
        key = linked(object_key(project.collection, project.name))
        return [AssetItem(asset_name=ARCHIVE, asset_type="archive", asset_value=key, link=True)]
    return [AssetItem.of(name, content) for name, content in contents.items()]


def _file_changes(to: Mapping[str, bytes], now: Mapping[str, bytes]) -> list[Change]:
    found = []
    for name in sorted({*to, *now}):
        if name not in now:
            found.append(Change(f"+ {name}", size_text(len(to[name]))))
        elif name not in to:
            found.append(Change(f"- {name}"))
        elif to[name] != now[name]:
            found.append(Change(f"~ {name}", _lines(now[name], to[name])))
    return found


def _lines(before: bytes, after: bytes) -> str:
    """Return how many lines came and went."""
    if b"\0" in before or b"\0" in after:
        return size_text(len(after))
    old, new = before.splitlines(), after.splitlines()
    gone, come = _count_of(old, new), _count_of(new, old)
    return f"+{come} -{gone} lines"


def _count_of(lines: list[bytes], others: list[bytes]) -> int:
    left: dict[bytes, int] = {}
    for line in others:
        left[line] = left.get(line, 0) + 1
    count = 0
    for line in lines:
        if left.get(line, 0):
            left[line] -= 1
        else:
            count += 1
    return count


def _difference(key: str, before: Any, after: Any) -> str:
    if key == "env_vars":
        return _names_that_differ(before, after)
    if isinstance(before, (dict, list)) or isinstance(after, (dict, list)):
        return "given" if not before else "taken away" if not after else "changed"
    return f"{_shown(before)} → {_shown(after)}"


def _names_that_differ(before: list[str] | None, after: list[str] | None) -> str:
    """Return the variables that differ, without their values, which may be nobody's business."""
    old, new = dict(_pair(item) for item in before or ()), dict(_pair(item) for item in after or ())
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return " ".join(("+" if name not in old else "-" if name not in new else "~") + name for name in names)


def _pair(item: str) -> tuple[str, str]:
    name, _, value = item.partition("=")
    return name, value


def _shown(value: Any) -> str:
    if value is None:
        return "default"
    return str(value).lower() if isinstance(value, bool) else str(value)
