"""`stoker list`, `show`, `delete`, `versions`, `rollback`: functions and their versions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from stoker.cli.failures import WrongUsage
from stoker.cli.screen import size_text, time_text
from stoker.cli.session import Session, json_of

if TYPE_CHECKING:
    from stoker.client import Client
    from stoker.client.types import AssetItem

NAME_HELP = "collection/name, or a name that is unique"
NAME_HERE_HELP = NAME_HELP + "; without it the function of ./stoker.toml"


def add_parsers(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    parser = commands.add_parser(
        "list", parents=[common], help="list functions", description="List functions."
    )
    parser.add_argument("--collection", help="only those of this collection")
    parser.add_argument("--names", action="store_true", help="only their names, one a line")
    parser.set_defaults(run=list_functions)

    parser = commands.add_parser(
        "show",
        parents=[common],
        help="show a function",
        description="Show a function, its settings and its files.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help=NAME_HERE_HELP)
    parser.add_argument("--file", metavar="FILE", help="print that file of its code")
    parser.set_defaults(run=show)

    parser = commands.add_parser(
        "delete",
        parents=[common],
        help="delete a function",
        description="Delete a function. Records of its calls stay readable until their ttl.",
    )
    parser.add_argument("name", metavar="NAME", help=NAME_HELP)
    parser.set_defaults(run=delete)

    parser = commands.add_parser(
        "versions",
        parents=[common],
        help="list the versions of a function",
        description="List all versions, the latest first.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help=NAME_HERE_HELP)
    parser.set_defaults(run=versions)

    parser = commands.add_parser(
        "rollback",
        parents=[common],
        help="go back to an old version",
        description="Make a new version that equals an old one. The next call runs it.",
    )
    parser.add_argument("name", metavar="NAME", help=NAME_HELP)
    parser.add_argument("version", type=int, metavar="VERSION", help="its number, as `stoker versions` tells")
    parser.set_defaults(run=rollback)


def names_by_subject(client: Client) -> dict[str, str]:
    """Return `collection/name` of every function by its subject; of none if the token may not list them."""
    from stoker.client import Forbidden

    found: dict[str, str] = {}
    try:
        collections = {collection.topic: collection.name for collection in client.collections.list()}
        functions = client.functions.list()
    except Forbidden:
        return found
    for function in functions:
        topic = function.collection_topic
        found[function.subject] = f"{collections.get(topic, topic)}/{function.name}"
    return found


def list_functions(session: Session) -> int:
    """`stoker list`."""
    screen = session.screen
    with session.client() as client:
        functions = client.functions.list(session.arguments.collection)
        if screen.json:
            screen.document(json_of(functions))
            return 0
        names = names_by_subject(client)
    if session.arguments.names:
        for function in functions:
            screen.line(names.get(function.subject, function.address))
        return 0
    rows = [
        (
            names.get(function.subject, function.address),
            function.runtime,
            time_text(function.modified, session.now),
            function.description,
        )
        for function in functions
    ]
    screen.table(
        ("FUNCTION", "RUNTIME", "MODIFIED", "DESCRIPTION"),
        sorted(rows),
        empty="no functions yet: `stoker init` makes one, `stoker deploy` brings it here",
    )
    return 0


def show(session: Session) -> int:
    """`stoker show`."""
    screen = session.screen
    with session.client() as client:
        function = client.functions.get(session.name(client))
        collections = {collection.topic: collection.name for collection in client.collections.list()}
    code = function.compute_asset
    assets = code.assets or []
    if session.arguments.file is not None:
        return _show_file(session, assets)
    if screen.json:
        screen.document(json_of(function))
        return 0
    collection = collections.get(function.collection_topic, function.collection_topic)
    facts = [
        ("function", screen.bold_out(f"{collection}/{function.name}")),
        ("description", function.description),
        ("version", str(function.version)),
        ("modified", time_text(function.modified, session.now)),
        ("subject", function.subject),
        ("runtime", f"{code.runtime}, {code.handler}"),
        ("timeout", f"{code.timeout} ms"),
        ("size", function.size or ""),
        ("files", "" if code.read_only_fs else "writable"),
        ("env", ", ".join(item.partition("=")[0] for item in code.env_vars or ())),
        ("secrets", ", ".join(code.secrets or ())),
        ("network", _members(code.network)),
        ("records", _members(function.monitor_config)),
        ("retry", _members(function.retry)),
        ("concurrency", _members(function.concurrency)),
        ("schema", ", ".join(function.schema or ())),
    ]
    screen.facts([(name, value) for name, value in facts if value])
    screen.line()
    screen.table(
        ("FILE", "SIZE"),
        [(item.asset_name, size_text(len(item.content))) for item in assets],
        empty="no files",
    )
    return 0


def _members(given: dict[str, Any] | None) -> str:
    import json

    return ", ".join(
        f"{key} {value if isinstance(value, str) else json.dumps(value)}"
        for key, value in (given or {}).items()
    )


def _show_file(session: Session, assets: list[AssetItem]) -> int:
    wanted = session.arguments.file
    for item in assets:
        if item.asset_name == wanted:
            text = item.content.decode(errors="replace")
            if session.screen.json:
                session.screen.document({"name": wanted, "content": text})
            else:
                session.screen.text(text)
            return 0
    names = ", ".join(item.asset_name for item in assets)
    raise WrongUsage(f"--file: it has no file {wanted!r}", hint=f"it has {names}")


def delete(session: Session) -> int:
    """`stoker delete`."""
    with session.client() as client:
        name = session.name(client)
        client.functions.delete(name)
    if session.screen.json:
        session.screen.document({"function": name, "action": "deleted"})
    else:
        session.screen.line(f"{session.arguments.name} is deleted")
    return 0


def versions(session: Session) -> int:
    """`stoker versions`."""
    screen = session.screen
    with session.client() as client:
        found = list(client.functions.versions(session.name(client)))
    found.reverse()
    if screen.json:
        screen.document(json_of(found))
        return 0
    rows = [
        (
            str(code.version),
            time_text(code.modified, session.now),
            code.runtime,
            size_text(sum(len(item.content) for item in code.assets or ())),
            ", ".join(item.asset_name for item in code.assets or ()),
        )
        for code in found
    ]
    screen.table(("VERSION", "MADE", "RUNTIME", "SIZE", "FILES"), rows, empty="no versions")
    return 0


def rollback(session: Session) -> int:
    """`stoker rollback`."""
    old = session.arguments.version
    with session.client() as client:
        name = session.name(client)
        code = client.functions.roll_back(name, old)
    if session.screen.json:
        session.screen.document({"function": name, "version": code.version, "equals": old})
    else:
        session.screen.line(
            f"{session.arguments.name} is version {code.version} now, which equals version {old}"
        )
    return 0
