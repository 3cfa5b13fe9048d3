"""A function's folder: `stoker.toml`, and the files that are its code.

Does not know the server, nor what is deployed.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from stoker.cli.defaults import FILE, HANDLERS, RUNTIMES
from stoker.cli.failures import WrongUsage

_KINDS: dict[str, tuple[type, str]] = {
    "name": (str, "a text"),
    "collection": (str, "a text"),
    "description": (str, "a text"),
    "runtime": (str, "a text"),
    "handler": (str, "a text"),
    "timeout": (int, "a whole number of milliseconds"),
    "size": (str, 'a text, such as "medium" or "512MB"'),
    "read_only_fs": (bool, "true or false"),
    "secrets": (list, "a list of names"),
    "exclude": (list, "a list of patterns"),
    "env": (dict, "a table of texts"),
    "schema": (dict, "a table: input and output, each the name of a file"),
    "monitor": (dict, "a table: ttl, store_payload"),
    "retry": (dict, "a table: attempts, backoff_ms, max_age_ms"),
    "concurrency": (dict, "a table: per_instance, max_instances, min_instances"),
    "network": (dict, "a table: egress, tunnels"),
}


@dataclass(frozen=True, slots=True)
class Project:
    """What `stoker.toml` says, with its files found."""

    folder: Path
    name: str
    collection: str
    runtime: str
    handler: str
    files: Mapping[str, Path]
    """By the name it has in the function's root."""
    description: str | None = None
    timeout_ms: int | None = None
    size: str | None = None
    read_only_fs: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    schema_files: Mapping[str, Path] = field(default_factory=dict)
    """`input` and `output`, where there are any."""
    monitor: Mapping[str, Any] = field(default_factory=dict)
    retry: Mapping[str, Any] | None = None
    concurrency: Mapping[str, Any] | None = None
    network: Mapping[str, Any] | None = None

    def schema(self) -> dict[str, Any] | None:
        """Read the schema files. Raises WrongUsage for one that is no JSON."""
        if not self.schema_files:
            return None
        return {side: read_json(file) for side, file in self.schema_files.items()}


@dataclass(frozen=True, slots=True)
class Typed:
    """What was typed in place of what `stoker.toml` says."""

    name: str | None = None
    collection: str | None = None
    runtime: str | None = None
    handler: str | None = None
    files: tuple[str, ...] = ()
    """`NAME=PATH` each: then these are all files."""


def read_project(folder: Path, typed: Typed | None = None) -> Project:
    """Return the project of a folder. Raises WrongUsage that names the key, the file or the option."""
    typed = typed or Typed()
    file = folder / FILE
    given = _read(file)
    name = typed.name or given.get("name") or folder.resolve().name
    runtime = typed.runtime or given.get("runtime") or _runtime_of(typed)
    if not given and not typed.files:
        raise WrongUsage(
            f"there is no {file}", hint="`stoker init` makes one; or --file NAME=PATH, --name, --collection"
        )
    collection = typed.collection or given.get("collection")
    if not collection:
        raise WrongUsage(f"{file}: collection is missing" if given else "--collection is missing")
    if runtime not in RUNTIMES:
        raise WrongUsage(f"runtime: {runtime!r} is none of {', '.join(RUNTIMES)}")
    network = given.get("network")
    project = Project(
        folder,
        name,
        collection,
        runtime,
        typed.handler or given.get("handler") or HANDLERS[runtime],
        {},
        given.get("description"),
        given.get("timeout"),
        given.get("size"),
        given.get("read_only_fs", True),
        {key: _text(file, f"env.{key}", value) for key, value in given.get("env", {}).items()},
        tuple(_text(file, "secrets", value) for value in given.get("secrets", ())),
        _schema_files(file, given.get("schema", {})),
        given.get("monitor", {}),
        given.get("retry"),
        given.get("concurrency"),
        network,
    )
    if typed.files:
        return replace(project, files=_typed_files(typed.files))
    exclude = [_text(file, "exclude", value) for value in given.get("exclude", ())]
    return replace(project, files=find_files(project, exclude))


def _read(file: Path) -> dict[str, Any]:
    try:
        given = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WrongUsage(f"{file}: {error}") from None
    for key, value in given.items():
        if key not in _KINDS:
            raise WrongUsage(f"{file}: {key!r} is not known", hint="known are " + ", ".join(_KINDS))
        kind, text = _KINDS[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise WrongUsage(f"{file}: {key} is {text}")
    return given


def _text(file: Path, key: str, value: object) -> str:
    if not isinstance(value, str):
        raise WrongUsage(f"{file}: {key} is a text: write it in quotes")
    return value


def _schema_files(file: Path, given: Mapping[str, Any]) -> dict[str, Path]:
    found = {}
    for side, name in given.items():
        if side not in ("input", "output"):
            raise WrongUsage(f"{file}: schema.{side} is not known", hint="known are input, output")
        found[side] = file.parent / _text(file, f"schema.{side}", name)
        if not found[side].is_file():
            raise WrongUsage(f"{file}: schema.{side}: there is no {found[side]}")
    return found


def read_json(file: Path) -> Any:
    """Return what a file of JSON holds. Raises WrongUsage that names the line."""
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise WrongUsage(f"{file}:{error.lineno}:{error.colno}: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{file}: {error}") from None


def _runtime_of(typed: Typed) -> str:
    """Return the runtime that the names of files tell."""
    names = [entry.partition("=")[0] for entry in typed.files]
    return "python" if any(name.endswith(".py") for name in names) else "nodejs"


def _typed_files(entries: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        file = Path(path if equals else name)
        name = name if equals else file.name
        if not name or not file.is_file():
            raise WrongUsage(
                f"--file {entry}: there is no {file}",
                hint="--file NAME=PATH, for instance main.py=src/main.py",
            )
        found[name] = file
    return found


def find_files(project: Project, exclude: list[str]) -> dict[str, Path]:
    """Return the files of a folder that are code, by their name in it.

    Left out are stoker.toml, the schemas, what begins with a dot (but for what lies in node_modules),
    caches of Python, and what a pattern of `exclude` fits.
    """
    root = project.folder
    schemas = {file.resolve() for file in project.schema_files.values()}
    found: dict[str, Path] = {}
    todo = [root]
    while todo:
        for path in sorted(todo.pop().iterdir()):
            name = path.relative_to(root).as_posix()
            if is_left_out(name) or any(_fits(name, pattern) for pattern in exclude):
                continue
            if path.is_dir() and not path.is_symlink():
                todo.append(path)
            elif path.is_symlink() or (path.is_file() and path.resolve() not in schemas):
                found[name] = path
    if not found:
        raise WrongUsage(
            f"there is no code in {root.resolve()}",
            hint="a handler such as main.py or index.js has to be there",
        )
    return dict(sorted(found.items()))


def is_left_out(name: str) -> bool:
    """Tell whether a path within the folder is never code."""
    parts = name.split("/")
    last = parts[-1]
    if name == FILE or last == "__pycache__" or last.endswith((".pyc", "~", ".swp")):
        return True
    return last.startswith(".") and "node_modules" not in parts


def _fits(name: str, pattern: str) -> bool:
    pattern = pattern.rstrip("/")
    return fnmatch(name, pattern) or fnmatch(name.rpartition("/")[2], pattern)
