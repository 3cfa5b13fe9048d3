"""`stoker logs`: what calls printed, and what they print."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from stoker.cli.functions import NAME_HERE_HELP
from stoker.cli.screen import time_text
from stoker.cli.session import LIMIT, Session, json_of

if TYPE_CHECKING:
    from stoker.client import Client

RECONNECT_S = 1.0


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "logs",
        parents=[common],
        help="show what calls printed",
        description="Show what the latest calls printed, oldest first; with -f what calls print from now on.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help=NAME_HERE_HELP)
    parser.add_argument(
        "-f", "--follow", action="store_true", help="show lines while they are printed, until Ctrl-C"
    )
    parser.add_argument("--invocation", metavar="ID", help="of that call alone")
    parser.add_argument(
        "--limit", type=int, default=LIMIT, metavar="N", help=f"how many calls, {LIMIT} if not given"
    )
    parser.set_defaults(run=logs)


def logs(session: Session) -> int:
    """`stoker logs`."""
    arguments = session.arguments
    with session.client() as client:
        if arguments.invocation:
            return _one_log(session, client, arguments.invocation)
        name = session.name(client)
        if arguments.follow:
            return _follow(session, client, name)
        return _latest_logs(session, client, name)


def _one_log(session: Session, client: Client, invocation_id: str) -> int:
    log = client.invocations.log(invocation_id)
    if session.screen.json:
        session.screen.document({"invocation_id": invocation_id, "log": log})
    else:
        session.screen.text(log)
    return 0


def _latest_logs(session: Session, client: Client, name: str) -> int:
    screen = session.screen
    records = list(client.invocations.list(name, limit=session.limit()))
    records.reverse()
    found = [
        (record, client.invocations.log(record.invocation_id) if record.log_bytes else "")
        for record in records
    ]
    if screen.json:
        screen.document([{"invocation_id": record.invocation_id, "log": log} for record, log in found])
        return 0
    if not found:
        screen.note("it has not been called, or its records are gone")
    for record, log in found:
        at = time_text(record.created, session.now)
        screen.line(
            screen.dim_out(f"{at}  {record.invocation_id}  v{record.version}  ")
            + screen.status_out(record.status)
        )
        if log:
            screen.line(log.rstrip("\n"))
    return 0


def _follow(session: Session, client: Client, name: str) -> int:
    """Show lines until Ctrl-C; a server that starts again is followed again."""
    from stoker.client import ServerUnreachable

    screen = session.screen
    screen.note(screen.dim(f"following {session.typed_name()}; Ctrl-C ends it"))
    ended = ""
    try:
        while True:
            try:
                for line in client.invocations.follow(name):
                    ended = ""
                    if screen.json:
                        screen.document(json_of(line))
                    else:
                        screen.line(f"{screen.dim_out(line.invocation_id[-12:])}  {line.line}")
            except ServerUnreachable as error:
                if error.code == "client.unreachable" and not ended:
                    raise
                if not ended:
                    screen.note(screen.dim(f"{error.message}; following again"))
                ended = error.message
            time.sleep(RECONNECT_S)
    except KeyboardInterrupt:
        return 0
