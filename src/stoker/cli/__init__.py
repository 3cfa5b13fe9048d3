"""The command line: what people type and see."""

from __future__ import annotations

import sys
from argparse import Namespace
from io import TextIOWrapper


def main() -> None:
    """Run the command that was typed; ends with the exit codes of the operating contract."""
    from stoker.cli.parser import make_parser
    from stoker.cli.session import run

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign shows another
    parser = make_parser()
    arguments, left = parser.parse_known_args()
    if left and not (len(left) == 1 and take_payload(arguments, left[0])):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if arguments.command == "serve":
        sys.exit(arguments.run(arguments))
    sys.exit(run(arguments, arguments.run))


def take_payload(arguments: Namespace, text: str) -> bool:
    """Take what argparse leaves of `invoke NAME --async PAYLOAD`: it looks for one before options alone."""
    if getattr(arguments, "payload", "") is not None or text.startswith("-"):
        return False
    arguments.payload = text
    return True
