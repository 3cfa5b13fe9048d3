"""`stoker invoke`: the result on standard output, what the function printed on standard error."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.cli.failures import FUNCTION_FAILED, WrongUsage, document_of, exit_code_of, indented, show_error
from stoker.cli.session import Session, json_of, name_here

if TYPE_CHECKING:
    from stoker.client import Client
    from stoker.client.types import Record

_PAYLOAD_STARTS = ("{", "[", '"', "@")
"""What no name of a function begins with: then it is the payload, for the function of this folder."""


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "invoke",
        parents=[common],
        help="call a function",
        description="Call a function: its result goes to standard output, what it printed to standard error. "
        "Without NAME it is the function of this folder's stoker.toml, and without PAYLOAD the first example "
        "of its input schema.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="collection/name, or a name that is unique")
    parser.add_argument(
        "payload",
        nargs="?",
        metavar="PAYLOAD",
        help="JSON; - for standard input, @FILE for a file; null if not given",
    )
    parser.add_argument(
        "--async", dest="submit", action="store_true", help="have it run later: prints its id"
    )
    parser.add_argument("--wait", action="store_true", help="with --async: wait for its end, and show it")
    parser.add_argument("--version", type=int, metavar="N", help="call that version")
    parser.add_argument("--key", metavar="KEY", help="an Idempotency-Key: the same one runs it once")
    parser.set_defaults(run=run)


def run(session: Session) -> int:
    """Call it."""
    arguments = session.arguments
    name, payload = _typed(arguments)
    if arguments.wait and not arguments.submit:
        raise WrongUsage("--wait goes with --async")
    content = payload_of(payload)
    with session.client() as client:
        function = client.functions.find(name)
        key = arguments.key or "auto"
        if arguments.submit:
            return show_submitted(
                session,
                client,
                client.submit(function, content, version=arguments.version, key=key),
                wait=arguments.wait,
            )
        return call(
            session, client, lambda: client.call(function, content, version=arguments.version, key=key)
        )


def _typed(arguments: argparse.Namespace) -> tuple[str, str | None]:
    name, payload = arguments.name, arguments.payload
    if name is not None and (payload is not None or not (name.startswith(_PAYLOAD_STARTS) or name == "-")):
        return name, payload
    return name_here(), name if name is not None else _example()


def _example() -> str | None:
    """Return the first example of this folder's input schema."""
    import json

    from stoker.cli.project import read_project

    schema = (read_project(Path()).schema() or {}).get("input")
    examples = schema.get("examples") if isinstance(schema, dict) else None
    return json.dumps(examples[0]) if isinstance(examples, list) and examples else None


def payload_of(text: str | None) -> Any:
    """Return the payload that was typed, in the very text it was written in. Raises WrongUsage."""
    import msgspec

    if text is None:
        return None
    try:
        if text == "-":
            content = sys.stdin.buffer.read()
        elif text.startswith("@"):
            content = Path(text[1:]).read_bytes()
        else:
            content = text.encode()
    except OSError as error:
        raise WrongUsage(f"{text}: {error.strerror}") from None
    try:
        msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "a text goes in quotes of its own: '\"text\"'"
        raise WrongUsage(f"the payload is no JSON: {error}", hint=hint) from None
    return msgspec.Raw(content.strip())


def call(session: Session, client: Client, how: Any) -> int:
    """Make a call and show how it went; `how` returns its answer."""
    from stoker.client import StokerError
    from stoker.client.answers import CallAnswer

    screen = session.screen
    try:
        answer: CallAnswer = how()
    except StokerError as error:
        log = _log(client, error.invocation_id)
        if screen.json:
            screen.document({**document_of(error), "log": log} if error.invocation_id else document_of(error))
            return exit_code_of(error)
        _show_log(session, log)
        return show_error(screen, error)
    log = _log(client, answer.invocation_id)
    if screen.json:
        import msgspec

        result = msgspec.Raw(answer.text.encode())
        screen.document({"invocation_id": answer.invocation_id, "status": "ok", "result": result, "log": log})
        return 0
    _show_log(session, log)
    screen.line(answer.text)
    return 0


def show_submitted(session: Session, client: Client, invocation_id: str, *, wait: bool) -> int:
    """Show that an invocation was accepted, or how it ended."""
    screen = session.screen
    if not wait:
        if screen.json:
            screen.document({"invocation_id": invocation_id})
        else:
            screen.line(invocation_id)
        return 0
    if not screen.json:
        screen.note(screen.dim(f"waiting for {invocation_id}"))
    record = client.invocations.wait(invocation_id)
    log = _log(client, invocation_id)
    if screen.json:
        screen.document({**json_of(record), "log": log})
    else:
        _show_log(session, log)
        show_end(session, record)
    return 0 if record.status == "ok" else FUNCTION_FAILED


def show_end(session: Session, record: Record) -> None:
    """Print the result of a record, or why there is none."""
    screen = session.screen
    if record.status == "ok":
        if record.result is None:
            screen.note(screen.dim("it ended well; its result was not kept (monitor.store_payload)"))
        else:
            screen.line(record.result)
        return
    error = record.error
    if error is None:
        screen.note(f"{screen.red('stoker:')} it ended as {record.status}")
        return
    kind = f"{error.error_type}: " if error.error_type else ""
    screen.note(f"{screen.red('stoker:')} {kind}{error.error}")
    if error.stack:
        screen.note(indented(error.stack, "  "))
    screen.note(
        screen.dim(f"  {record.code}, invocation {record.invocation_id}, attempts: {record.attempts}")
    )


def _log(client: Client, invocation_id: str | None) -> str | None:
    """Return what a call printed; None where the token may not read it, or nothing is kept."""
    from stoker.client import StokerError

    if not invocation_id:
        return None
    try:
        return client.invocations.log(invocation_id)
    except StokerError:
        return None


def _show_log(session: Session, log: str | None) -> None:
    if log:
        session.screen.note(log.rstrip("\n"))
