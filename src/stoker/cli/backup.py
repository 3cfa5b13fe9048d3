"""`stoker backup` and `stoker restore`: all of a server as one file, and a data directory made of it.

A running server gives its backup itself; what works on files alone is of `app`, which this module may see.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.cli.failures import WrongUsage
from stoker.cli.screen import size_text
from stoker.cli.session import Session

if TYPE_CHECKING:
    from stoker.app.backup.format import Head, Manifest
    from stoker.app.backup.saving import NewFile

SHOWN_S = 0.1
"""Between two pictures of how far it is."""


def add_parsers(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    parser = commands.add_parser(
        "backup",
        parents=[common],
        help="save all of a server in one file, while it runs",
        description="Save all of a server in one file, through the server while it runs, else from its data"
        " directory. Secrets are in it sealed; the key that opens them is not.",
    )
    parser.add_argument("file", metavar="FILE", help="the file to write, in place of what is there")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="the server's data directory: works without the server, if it is stopped",
    )
    parser.add_argument(
        "--with-key", metavar="KEYFILE", help="copy the key that opens the secrets too, to a file of its own"
    )
    parser.set_defaults(run=backup)
    parser = commands.add_parser(
        "restore",
        parents=[common],
        help="make a data directory of a backup",
        description="Make a data directory of a backup: a missing or empty one. The file is checked before"
        " anything is made, and the directory is there only once all of it is good.",
    )
    parser.add_argument("file", metavar="FILE", help="what `stoker backup` wrote")
    parser.add_argument(
        "--data", metavar="DIR", help="the directory to make; as for `stoker serve` if not given"
    )
    parser.add_argument("--key", metavar="KEYFILE", help="the key that opens the secrets")
    parser.set_defaults(run=restore)


def backup(session: Session) -> int:
    """`stoker backup`."""
    from stoker.app.backup import saving

    arguments, screen = session.arguments, session.screen
    data = Path(arguments.data).absolute() if arguments.data else None
    with _told():
        store_id = saving.store_id_of(data) if data else None
        key = saving.require_key(data or _data_here()) if arguments.with_key else None
        with saving.writing(Path(arguments.file).absolute()) as file:
            if data is None or not _save_offline(session, data, file):
                _save_online(session, data, file)
            head, manifest = file.check()
            if store_id is not None and head.store != store_id:
                raise saving.BackupRefused(
                    f"the server that answered is not the one of {data}",
                    hint="--url names the one that works on it",
                )
            if key is not None:
                saving.copy_key(key, Path(arguments.with_key).absolute(), manifest)
            file.put()
    if screen.json:
        screen.document(
            {"file": arguments.file, "file_bytes": file.size, "key": arguments.with_key}
            | _document(head, manifest)
        )
        return 0
    screen.line(f"{arguments.file} is written and checked, {size_text(file.size)}")
    screen.line(f"  {_holds(manifest)}")
    if arguments.with_key:
        screen.line(f"  the key that opens secrets is in {arguments.with_key}; keep it apart from the backup")
    elif manifest.secrets:
        screen.line("  the key that opens secrets is not in it; --with-key KEYFILE copies it too")
    return 0


def _save_offline(session: Session, data: Path, file: NewFile) -> bool:
    """Write a backup of a data directory; False if a server works on it."""
    import uvloop

    from stoker.app.backup.saving import save_offline

    _quiet(session)
    with _counted(session, "saving", file) as write:
        return uvloop.run(save_offline(data, write))


def _save_online(session: Session, data: Path | None, file: NewFile) -> None:
    """Write a backup that a running server gives."""
    from stoker.client import Client

    token = session.token or os.environ.get("STOKER_TOKEN")
    if token is None and data is not None:
        token = _text_of(data / "token")
    try:
        client = Client(session.url, token)
    except ValueError as error:
        raise WrongUsage(f"--url: {error}") from None
    with client, client.backup() as pieces, _counted(session, "saving", file) as write:
        for piece in pieces:
            write(piece)


def restore(session: Session) -> int:
    """`stoker restore`."""
    import uvloop

    from stoker.app.backup import restoring

    arguments, screen = session.arguments, session.screen
    file = Path(arguments.file).absolute()
    data = Path(arguments.data).absolute() if arguments.data else _data_here()
    key = Path(arguments.key).absolute() if arguments.key else None
    _quiet(session)
    with _told():
        restoring.require_empty(data)
        checking, making = screen.progress("checking"), screen.progress("restoring")
        restoring.check(file, checking.show)
        done = uvloop.run(restoring.restore(file, data, key, making.show))
    if screen.json:
        screen.document({"data": str(data), "sealed": done.sealed} | _document(done.head, done.manifest))
        return 0
    taken = datetime.fromtimestamp(done.head.taken_ms / 1000).astimezone()
    screen.line(f"{data} is made of {arguments.file}, taken {taken:%Y-%m-%d %H:%M:%S}")
    screen.line(f"  {_holds(done.manifest)}")
    if done.sealed:
        place = data / restoring.KEY_FILE
        screen.line(
            f"  {done.sealed} of the secrets are sealed, and their key is not here: before the first start"
        )
        screen.line(f"  put it at {place}, or give `stoker serve --secrets-key KEYFILE`")
    screen.line(f"  start it: stoker serve --data {data}")
    screen.line("  tokens work as before; --token TOKEN replaces a lost administrator's token")
    return 0


@contextmanager
def _counted(session: Session, what: str, file: NewFile) -> Iterator[Any]:
    """Yield what writes to a file and shows how much that was so far."""
    progress = session.screen.progress(what)
    shown_s = 0.0

    def write(piece: bytes) -> None:
        nonlocal shown_s
        file.write(piece)
        now_s = time.monotonic()
        if now_s - shown_s >= SHOWN_S:
            shown_s = now_s
            progress.count(file.size)

    try:
        yield write
    finally:
        progress.clear()


@contextmanager
def _told() -> Iterator[None]:
    """Have what goes wrong on this machine told as what a server refuses is."""
    from stoker.app.settings import WrongSetting
    from stoker.client.errors import Details
    from stoker.client.errors import StokerError as Told
    from stoker.model.errors import StokerError

    try:
        yield
    except WrongSetting as error:
        raise WrongUsage(error.message, hint=error.hint) from None
    except StokerError as error:
        hint = None if error.hint is not None and error.hint in error.message else error.hint
        raise Told(error.message, Details(error.code, hint=hint)) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Told(f"{where}{error.strerror or error}", Details("file")) from None


def _quiet(session: Session) -> None:
    import logging

    from stoker.telemetry.logging import configure_logging

    configure_logging(sys.stderr, json=not sys.stderr.isatty(), level=logging.ERROR)


def _data_here() -> Path:
    from stoker.client.place import data_directory

    return data_directory(os.environ).absolute()


def _text_of(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None


def _holds(manifest: Manifest) -> str:
    count = sum(manifest.secrets.values())
    return (
        f"{manifest.events:,} events, {manifest.contents:,} contents, {manifest.messages:,} messages of"
        f" invocations; {count:,} secret{'s' if count != 1 else ''}"
    )


def _document(head: Head, manifest: Manifest) -> dict[str, Any]:
    return {
        "taken": datetime.fromtimestamp(head.taken_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "stoker": head.stoker,
        "events": manifest.events,
        "contents": manifest.contents,
        "messages": manifest.messages,
        "bytes": manifest.bytes,
        "secrets": sum(manifest.secrets.values()),
    }
