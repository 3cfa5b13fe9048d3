"""Bringing a server to what a project says, in as few requests as that takes.

Does not decide what differs.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from stoker.cli import plan as plans
from stoker.cli.bundle import ARCHIVE, Bundle, object_key
from stoker.cli.plan import Change
from stoker.cli.project import Project, Typed
from stoker.cli.screen import size_text
from stoker.cli.session import Session
from stoker.client import Client, NotFound


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a deploy did."""

    function: str
    action: str
    """`created`, `updated` or `unchanged`."""
    version: int
    version_before: int | None
    changes: tuple[Change, ...]


def typed_of(arguments: argparse.Namespace) -> Typed:
    """Return what was typed in place of what stoker.toml says."""
    return Typed(
        arguments.name, arguments.collection, arguments.runtime, arguments.handler, tuple(arguments.file)
    )


def deploy(session: Session, client: Client, project: Project, code: Bundle) -> Deployment:
    """Bring a server to what a project says."""
    name = f"{project.collection}/{project.name}"
    to = plans.wanted(project, code)
    try:
        function = client.functions.get(name)
    except NotFound:
        upload(session, client, project, code)
        client.functions.create(plans.creation(project, to))
        changes = tuple(
            plans.Change(f"+ {file}", size_text(len(content))) for file, content in to.contents.items()
        )
        return Deployment(name, "created", client.functions.get(name).version, None, changes)
    plan = plans.plan(project, to, plans.present(function))
    if plan.is_empty:
        return Deployment(name, "unchanged", function.version, function.version, ())
    version = function.version
    etag = function.etag
    if plan.code:
        if "assets" in plan.code:
            upload(session, client, project, code)
        client.functions.change_code(name, plan.code, if_match=etag)
        etag = None  # it went with the change just made
    if plan.settings:
        client.functions.change(name, plan.settings, if_match=etag)
    if plan.code:
        version = client.functions.get(name).version
    return Deployment(name, "updated", version, function.version, plan.changes)


def upload(session: Session, client: Client, project: Project, code: Bundle) -> None:
    """Send an archive ahead of the version that links it; files one by one need none of it."""
    if not code.is_archive:
        return
    content = code.contents[ARCHIVE]
    progress = session.screen.progress("uploading")
    key = object_key(project.collection, project.name)
    client.functions.put_object(key, content, on_progress=lambda sent: progress.show(sent, len(content)))


def show_deployment(session: Session, project: Project, done: Deployment) -> None:
    """Print what a deploy did."""
    screen = session.screen
    name = screen.bold_out(done.function)
    if done.action == "unchanged":
        screen.line(f"{name} is up to date, version {done.version}")
        return
    if done.action == "created":
        screen.line(f"{name} created, version {done.version} ({project.runtime}, {project.handler})")
        show_changes(session, done.changes)
        return
    same = done.version == done.version_before
    screen.line(
        f"{name} "
        + (
            f"updated, still version {done.version}"
            if same
            else f"version {done.version_before} → {done.version}"
        )
    )
    show_changes(session, done.changes)


def show_changes(session: Session, changes: tuple[Change, ...]) -> None:
    """Print what was changed."""
    width = max((len(change.what) for change in changes), default=0)
    for change in changes:
        detail = session.screen.dim_out(change.detail)
        session.screen.line(
            f"  {change.what.ljust(width) if change.detail else change.what}  {detail}".rstrip()
        )
