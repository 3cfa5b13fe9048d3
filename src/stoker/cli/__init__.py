"""The command line: what people type and see."""

from __future__ import annotations

import sys
from io import TextIOWrapper


def main() -> None:
    """Run the command that was typed; ends with the exit codes of the operating contract."""
    from stoker.cli.parser import make_parser
    from stoker.cli.session import run

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign shows another
    arguments = make_parser().parse_args()
    if arguments.command == "serve":
        sys.exit(arguments.run(arguments))
    sys.exit(run(arguments, arguments.run))
