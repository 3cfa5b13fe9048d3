"""The loop of `stoker dev`: what is saved is deployed, what is called is shown.

Three tasks beside each other: saves, calls, lines of logs. Does not know how a deploy is planned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from watchfiles import awatch

from stoker.cli.bundle import bundle
from stoker.cli.defaults import FILE
from stoker.cli.deploying import Deployment, deploy, show_changes, show_deployment, typed_of, upload
from stoker.cli.failures import WrongUsage, document_of, indented
from stoker.cli.plan import Change, Deployed, plan, wanted
from stoker.cli.project import Project, is_left_out, read_project
from stoker.cli.screen import duration_text
from stoker.cli.session import Session
from stoker.cli.syntax import Fault, Syntax
from stoker.client import AsyncClient, Client, PlatformFailed, ServerUnreachable, StokerError
from stoker.client.types import Record

STEP_MS = 10
"""After which a save is taken as whole, if nothing more came."""
GROUP_MS = 50
"""Saves that follow each other for so long are one."""
POLL_S = 0.5
"""How often calls that printed nothing are looked for."""
CALLS_MAX = 100
"""Shown of one look; a flood of calls is not worth more."""


class Watched:
    """The function of a folder, and what its server has of it."""

    def __init__(self, session: Session, client: Client, syntax: Syntax) -> None:
        self._session = session
        self._client = client
        self._syntax = syntax
        self.folder = Path(session.arguments.dir)
        self._known: Deployed | None = None
        self.version = 0
        self.name = ""
        """With its collection, once it is deployed."""

    @property
    def is_deployed(self) -> bool:
        """Whether the server has it."""
        return self._known is not None

    def read(self) -> Project:
        """Read the folder. Raises WrongUsage."""
        return read_project(self.folder, typed_of(self._session.arguments))

    def take(self, saved: Iterable[str]) -> None:
        """Deploy what was saved, or say why not."""
        began = time.time()
        try:
            project = self.read()
            code = bundle(project.files)
            fault = self._fault(project, saved)
            if fault is not None:
                show_fault(self._session, fault, self.version)
                return
            if self.name not in ("", f"{project.collection}/{project.name}"):
                raise WrongUsage(
                    f"this was {self.name} and is another function now", hint="start stoker dev again"
                )
            to = wanted(project, code)
            if self._known is None:
                self._first(project, deploy(self._session, self._client, project, code), to)
                return
            found = plan(project, to, self._known)
            if found.is_empty:
                return
            if found.code:
                if "assets" in found.code:
                    upload(self._session, self._client, project, code)
                self._client.functions.change_code(self.name, found.code)
                self.version += 1
                self._known = replace(self._known, code=to.code, contents=to.contents)
            if found.settings:
                self._client.functions.change(self.name, found.settings)
            self._known = to
            self._tell(found.changes, time.time() - _newest(project, saved, began))
        except WrongUsage as error:
            show_wrong(self._session, error, self.version)
        except StokerError as error:
            show_refusal(self._session, error, self.version)

    def _first(self, project: Project, done: Deployment, to: Deployed) -> None:
        self.name = done.function
        self._known = to
        self.version = done.version
        if not self._session.screen.json:
            show_deployment(self._session, project, done)
        else:
            self._session.screen.document(
                {"event": "deployed", "version": done.version, "action": done.action}
            )

    def _fault(self, project: Project, saved: Iterable[str]) -> Fault | None:
        """Return what cannot be compiled of what was saved, at the start of all."""
        names = [name for name in saved if name in project.files] if self._known else list(project.files)
        for name in names:
            try:
                content = project.files[name].read_bytes()
            except OSError:
                continue
            fault = self._syntax.check(name, content)
            if fault is not None:
                return fault
        return None

    def _tell(self, changes: tuple[Change, ...], after_s: float) -> None:
        screen = self._session.screen
        after_ms = round(after_s * 1000)
        if screen.json:
            told = [{"what": change.what, "detail": change.detail} for change in changes]
            screen.document(
                {"event": "deployed", "version": self.version, "after_save_ms": after_ms, "changes": told}
            )
            return
        screen.line(f"{clock()}  {screen.bold_out(f'version {self.version}')} {after_ms} ms after the save")
        show_changes(self._session, changes)


def _newest(project: Project, saved: Iterable[str], now: float) -> float:
    """Return when the latest of the saved files was written; what is gone says nothing."""
    times = []
    for name in saved:
        try:
            times.append((project.folder / name).stat().st_mtime)
        except OSError:
            continue
    return min(now, max(times, default=now))


async def watch(session: Session) -> None:
    """Deploy at every save and show what happens, until it is cancelled."""
    screen = session.screen
    with session.client() as client, Syntax() as syntax:
        watched = Watched(session, client, syntax)
        project = watched.read()  # what is wrong with it from the start ends the command
        if not screen.json:
            screen.note(screen.dim(f"watching {watched.folder} for {client.url}; Ctrl-C ends it"))
        client.runtimes()  # so does a server that cannot be reached, or that refuses the token
        since = datetime.now(UTC)
        async with AsyncClient(session.url, session.token) as live, asyncio.TaskGroup() as tasks:
            ready = asyncio.Event()
            tasks.create_task(_saves(watched, project, ready), name="saves")
            await ready.wait()
            tasks.create_task(_calls(session, live, watched.name, since), name="calls")
            tasks.create_task(_lines(session, live, watched.name), name="lines")


async def _saves(watched: Watched, project: Project, ready: asyncio.Event) -> None:
    """Deploy what is there, then what is saved; `ready` is set once the server has it."""
    root = watched.folder.resolve()

    def counts(_: Any, path: str) -> bool:
        name = Path(path).relative_to(root).as_posix()
        return name == FILE or not any(is_left_out(part) for part in _prefixes(name))

    saves = awatch(root, watch_filter=counts, step=STEP_MS, debounce=GROUP_MS)
    names: Iterable[str] = project.files
    while True:
        # the watch is on before the folder is read: what is saved meanwhile comes next
        coming = asyncio.ensure_future(anext(saves))
        await asyncio.sleep(0)
        await asyncio.to_thread(watched.take, names)
        if watched.is_deployed:
            ready.set()
        changes = await coming
        names = sorted({Path(path).relative_to(root).as_posix() for _, path in changes})


def _prefixes(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


async def _calls(session: Session, client: AsyncClient, name: str, since: datetime) -> None:
    """Show each call once it has ended."""
    shown: dict[str, None] = {}
    while True:
        try:
            found = [
                record
                async for record in client.invocations.list(name, since=since, limit=CALLS_MAX)
                if record.has_ended and record.invocation_id not in shown
            ]
        except (ServerUnreachable, PlatformFailed):
            found = []  # what follows the log says so
        except StokerError as error:
            show_refusal(session, error, 0)
            return
        for record in reversed(found):
            shown[record.invocation_id] = None
            show_call(session, record)
        while len(shown) > 2 * CALLS_MAX:
            del shown[next(iter(shown))]
        await asyncio.sleep(POLL_S)


async def _lines(session: Session, client: AsyncClient, name: str) -> None:
    """Show each line while it is printed."""
    screen = session.screen
    is_away = False
    while True:
        try:
            async for line in client.invocations.follow(name):
                is_away = False
                if screen.json:
                    screen.document({"event": "log", "invocation_id": line.invocation_id, "line": line.line})
                else:
                    screen.line(f"{screen.dim_out('        | ')}{line.line}")
        except (ServerUnreachable, PlatformFailed) as error:
            if not is_away and not screen.json:
                screen.note(screen.dim(f"{clock()}  {error.message}; following again"))
            is_away = True
        except StokerError as error:
            show_refusal(session, error, 0)
            return
        await asyncio.sleep(POLL_S)


def show_call(session: Session, record: Record) -> None:
    """Show how a call ended."""
    screen = session.screen
    error = record.error
    if screen.json:
        told: dict[str, Any] = {
            "event": "call",
            "invocation_id": record.invocation_id,
            "status": record.status,
        }
        told |= {"version": record.version, "run_ms": record.timings.run_ms}
        screen.document(told | ({"error": error.error, "error_type": error.error_type} if error else {}))
        return
    took = duration_text(record.timings.run_ms).rjust(8)
    status = screen.status_out(record.status, record.status.ljust(7))
    screen.line(f"{clock()}  {status} {took}  v{record.version}  {screen.dim_out(record.invocation_id)}")
    if error is not None:
        kind = f"{error.error_type}: " if error.error_type else ""
        screen.line(screen.bad_out(f"          {kind}{error.error}"))
        if error.stack:
            screen.line(indented(error.stack, "            "))


def show_fault(session: Session, fault: Fault, version: int) -> None:
    """Show what cannot be compiled."""
    screen = session.screen
    if screen.json:
        place = {"file": fault.file, "line": fault.line, "column": fault.column, "message": fault.message}
        screen.document({"event": "syntax", **place})
        return
    first, *rest = fault.lines()
    screen.line(f"{clock()}  {screen.bad_out(first)}")
    for line in rest:
        screen.line(f"      {line}")
    _goes_on(session, version)


def show_wrong(session: Session, error: WrongUsage, version: int) -> None:
    """Show what cannot be meant in what was saved."""
    screen = session.screen
    if screen.json:
        screen.document({"event": "wrong", "error": error.message})
        return
    screen.line(f"{clock()}  {screen.bad_out(error.message)}")
    if error.hint:
        screen.line(f"          hint: {error.hint}")
    _goes_on(session, version)


def show_refusal(session: Session, error: StokerError, version: int) -> None:
    """Show why the server did not take what was saved."""
    screen = session.screen
    if screen.json:
        screen.document({"event": "refused", **document_of(error)})
        return
    screen.line(
        f"{clock()}  {screen.bad_out(error.message)}" + (f" (at {error.field})" if error.field else "")
    )
    if error.hint:
        screen.line(f"          hint: {error.hint}")
    _goes_on(session, version)


def _goes_on(session: Session, version: int) -> None:
    if version:
        session.screen.line(session.screen.dim_out(f"          version {version} goes on serving"))


def clock() -> str:
    """Return the time on the wall."""
    return datetime.now().strftime("%H:%M:%S")
