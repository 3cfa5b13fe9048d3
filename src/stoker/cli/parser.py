"""All commands with their options. Kept light: `stoker --help` loads modules of commands, but no client.

Does not know what a command does.
"""

from __future__ import annotations

import argparse

import stoker
from stoker.cli import (
    access,
    accounts,
    backup,
    completion,
    deploy,
    dev,
    doctor,
    functions,
    history,
    invoke,
    logs,
    scaffold,
    serve,
    top,
)

EPILOG = """\
Commands speak to the server at STOKER_URL (http://127.0.0.1:8080 if not set) with the token STOKER_TOKEN
(that of this machine's server if not set). Exit codes: 0; 1 the function failed; 2 wrong usage; 3 the
server refused or cannot be reached."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `stoker`. A command's `run` takes a Session; that of `serve` the arguments."""
    parser = argparse.ArgumentParser(
        prog="stoker",
        description=stoker.__doc__,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=18),
    )
    parser.add_argument("--version", action="version", version=f"stoker {stoker.__version__}")
    common = _common(argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    serve.add_parser(commands)
    scaffold.add_parser(commands, common)
    deploy.add_parser(commands, common)
    invoke.add_parser(commands, common)
    dev.add_parser(commands, common)
    functions.add_parsers(commands, common)
    logs.add_parser(commands, common)
    history.add_parsers(commands, common)
    access.add_parsers(commands, common)
    accounts.add_parsers(commands, common)
    top.add_parser(commands, common)
    doctor.add_parser(commands)
    backup.add_parsers(commands, common)
    completion.add_parser(commands, common)
    return parser


def _common(default: object) -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("the server, and the answer")
    group.add_argument("--url", default=default, help="of the server, in place of STOKER_URL")
    group.add_argument(
        "--token", default=default, help="in place of STOKER_TOKEN; which is in no list of processes"
    )
    group.add_argument(
        "--json",
        action="store_true",
        default=default,
        help="one JSON document, or one a line where it follows",
    )
    return common
