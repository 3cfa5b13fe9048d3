"""The command line: what people type and see."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that was typed; ends with the exit codes of the operating contract."""
    from stoker.cli.parser import make_parser
    from stoker.cli.session import run

    arguments = make_parser().parse_args()
    if arguments.command == "serve":
        sys.exit(arguments.run(arguments))
    sys.exit(run(arguments, arguments.run))
