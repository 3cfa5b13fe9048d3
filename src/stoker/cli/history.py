"""`stoker invocations`, `replay`, `dead-letters`: what happened, and doing it again."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from stoker.cli.failures import WrongUsage
from stoker.cli.functions import NAME_HELP, NAME_HERE_HELP, names_by_subject
from stoker.cli.invoke import call, show_end, show_submitted
from stoker.cli.screen import duration_text, size_text, time_text
from stoker.cli.session import LIMIT, Session, json_of

if TYPE_CHECKING:
    from stoker.client import Client
    from stoker.client.types import NetworkUse, Record

STATUSES = (
    "queued", "running", "ok", "error", "timeout", "memory", "processes", "output", "input_schema",
    "output_schema", "cancelled", "lost",
)  # fmt: skip
_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_AGO = re.compile(r"(?P<count>\d+)(?P<unit>[smhd])\Z")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_parsers(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    parser = commands.add_parser(
        "invocations",
        parents=[common],
        help="list calls, or show one",
        description="List calls, the latest first, or show the one whose id is given.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help=NAME_HELP + "; or the id of a call")
    parser.add_argument(
        "--status",
        action="append",
        default=[],
        metavar="STATUS",
        choices=STATUSES,
        help="such as error; may be repeated",
    )
    parser.add_argument("--since", metavar="TIME", help="RFC 3339, or such as 10m, 2h, 1d: so long ago")
    parser.add_argument("--until", metavar="TIME", help="as --since")
    parser.add_argument("--parent", metavar="ID", help="what the function of that call called")
    parser.add_argument(
        "--limit", type=int, default=LIMIT, metavar="N", help=f"how many, {LIMIT} if not given; 0 for all"
    )
    parser.set_defaults(run=invocations)

    parser = commands.add_parser(
        "replay",
        parents=[common],
        help="run a call once more",
        description="Run a call once more with the same payload, which its function has to keep "
        "(monitor.store_payload).",
    )
    parser.add_argument("id", metavar="ID", help="the id of the call")
    parser.add_argument(
        "--version", type=int, metavar="N", help="at that version; as the function is now if not given"
    )
    parser.add_argument("--wait", action="store_true", help="of an Async one: wait for its end, and show it")
    parser.set_defaults(run=replay)

    parser = commands.add_parser(
        "dead-letters",
        parents=[common],
        help="Async calls that failed to the end",
        description="List Async calls that failed to the end; run one again, or give it up.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help=NAME_HERE_HELP)
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--redrive", metavar="ID", help="run it again; it is no dead letter any more")
    one.add_argument("--delete", metavar="ID", help="give it up")
    parser.set_defaults(run=dead_letters)


# -- invocations -------------------------------------------------------------------------------------


def invocations(session: Session) -> int:
    """`stoker invocations`."""
    arguments = session.arguments
    with session.client() as client:
        if arguments.name and _ID.match(arguments.name):
            return _show_one(session, client, arguments.name)
        function = _function_of(client, arguments.name)
        records = list(
            client.invocations.list(
                function,
                status=arguments.status,
                since=time_of(session, arguments.since),
                until=time_of(session, arguments.until),
                parent=arguments.parent,
                limit=session.limit(),
            )
        )
        if session.screen.json:
            session.screen.document(json_of(records))
            return 0
        names = {} if arguments.name else names_by_subject(client)
    _table(session, records, names)
    return 0


def _function_of(client: Client, name: str | None) -> str | None:
    """Return what to filter by; a subject as it is, since its function may be gone."""
    return name if name is None or name.startswith("ms.compute.") else client.functions.find(name)


def _table(session: Session, records: list[Record], names: dict[str, str]) -> None:
    heads = ["ID", "STATUS", "STARTED", "RUN"]
    rows = [
        [
            record.invocation_id,
            record.status,
            time_text(record.created, session.now),
            duration_text(record.timings.run_ms),
        ]
        for record in records
    ]
    if session.arguments.name is None:
        heads.append("FUNCTION")
        for row, record in zip(rows, records, strict=True):
            row.append(names.get(record.function, record.function.removeprefix("ms.compute.")))
    else:
        heads.append("VERSION")
        for row, record in zip(rows, records, strict=True):
            row.append(str(record.version))
    session.screen.table(heads, rows, empty="no calls that fit, or their records are gone", status_at=1)


def _show_one(session: Session, client: Client, invocation_id: str) -> int:
    screen = session.screen
    record = client.invocations.get(invocation_id)
    if screen.json:
        screen.document(json_of(record))
        return 0
    names = names_by_subject(client)
    timings = record.timings
    facts = [
        ("invocation", record.invocation_id),
        ("function", names.get(record.function, record.function)),
        ("version", str(record.version)),
        ("type", record.invocation_type),
        ("status", screen.status_out(record.status) + (f", {record.code}" if record.code else "")),
        ("attempts", str(record.attempts)),
        ("created", time_text(record.created, session.now)),
        ("started", time_text(record.started, session.now)),
        ("ended", time_text(record.ended, session.now)),
        ("waited", duration_text(timings.queue_ms)),
        ("loaded", duration_text(timings.init_ms)),
        ("ran", duration_text(timings.run_ms)),
        ("memory", size_text(record.memory_bytes) if record.memory_bytes else ""),
        (
            "log",
            f"{size_text(record.log_bytes)}: stoker logs --invocation {record.invocation_id}"
            if record.log_bytes
            else "",
        ),
        ("caller", record.caller),
        *(("network", network_text(use)) for use in record.network),
        ("replay of", record.replay_of or ""),
        ("called by", record.parent_invocation_id or ""),
        ("payload", record.payload or ""),
    ]
    screen.facts([(name, value) for name, value in facts if value])
    if record.has_ended and (record.error or record.result is not None):
        show_end(session, record)
    return 0


def network_text(use: NetworkUse) -> str:
    """Return what a call used of the network, for one line."""
    made = f"{use.connections} connection{'s' * (use.connections != 1)}"
    moved = f"{size_text(use.bytes_sent)} sent, {size_text(use.bytes_received)} received"
    return f"{use.host}: {made}, {moved}" + (f", {use.refused} refused" if use.refused else "")


def time_of(session: Session, text: str | None) -> str | None:
    """Return a time that was typed as the API takes it. Raises WrongUsage."""
    from datetime import datetime, timedelta

    if text is None:
        return None
    ago = _AGO.match(text)
    if ago is not None:
        return (session.now - timedelta(seconds=int(ago["count"]) * _UNIT_S[ago["unit"]])).isoformat()
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        hint = "such as 10m, 2h, 1d, or 2026-01-31T12:00:00Z"
        raise WrongUsage(f"{text!r} is no time", hint=hint) from None
    return found.astimezone().isoformat()


# -- doing it again ----------------------------------------------------------------------------------


def replay(session: Session) -> int:
    """`stoker replay`."""
    arguments = session.arguments
    with session.client() as client:
        record = client.invocations.get(arguments.id)
        if record.invocation_type == "Async":
            answer = client.invocations.replay(arguments.id, version=arguments.version)
            return show_submitted(session, client, answer.invocation_id, wait=arguments.wait)
        return call(
            session, client, lambda: client.invocations.replay(arguments.id, version=arguments.version)
        )


def dead_letters(session: Session) -> int:
    """`stoker dead-letters`."""
    arguments, screen = session.arguments, session.screen
    with session.client() as client:
        name = session.name(client)
        if arguments.redrive:
            return show_submitted(
                session, client, client.dead_letters.redrive(name, arguments.redrive), wait=False
            )
        if arguments.delete:
            client.dead_letters.delete(name, arguments.delete)
            if screen.json:
                screen.document({"invocation_id": arguments.delete, "action": "deleted"})
            else:
                screen.line(f"{arguments.delete} is given up")
            return 0
        letters = client.dead_letters.list(name)
    if screen.json:
        screen.document(json_of(letters))
        return 0
    rows = [
        (
            letter.invocation_id,
            time_text(letter.ended, session.now),
            str(letter.attempts),
            f"{letter.code}: {letter.error.error}" if letter.error else letter.code or letter.status,
        )
        for letter in letters
    ]
    screen.table(("ID", "FAILED", "TRIED", "WHY"), rows, empty="no dead letters")
    return 0
