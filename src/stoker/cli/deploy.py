"""`stoker deploy`: a function is as its folder says, and what was changed is told."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stoker.cli.session import Session


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "deploy",
        parents=[common],
        help="create a function, or make a new version of it where it differs",
        description="Create the function that DIR holds, or make a new version of it where it differs, and "
        "say what was changed. DIR has a stoker.toml, or the options say what it would.",
    )
    add_source_options(parser)
    parser.set_defaults(run=run)


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add what says where the code is and what it is called."""
    parser.add_argument(
        "dir", nargs="?", default=".", metavar="DIR", help="the folder, the current one if not given"
    )
    parser.add_argument(
        "--file",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a file of the code, in place of the folder's",
    )
    parser.add_argument("--name", help="the function's name")
    parser.add_argument("--collection", help="the collection's name or topic")
    parser.add_argument("--handler", help="FILE.FUNCTION, such as index.handler")
    parser.add_argument("--runtime", metavar="RUNTIME", help="nodejs or python")


def run(session: Session) -> int:
    """Deploy, and say what was done."""
    from stoker.cli.bundle import bundle
    from stoker.cli.deploying import deploy, show_deployment, typed_of
    from stoker.cli.project import read_project

    project = read_project(Path(session.arguments.dir), typed_of(session.arguments))
    code = bundle(project.files)
    with session.client() as client:
        done = deploy(session, client, project, code)
    if session.screen.json:
        session.screen.document(
            {
                "function": done.function,
                "action": done.action,
                "version": done.version,
                "version_before": done.version_before,
                "changes": [{"what": change.what, "detail": change.detail} for change in done.changes],
            }
        )
    else:
        show_deployment(session, project, done)
    return 0
