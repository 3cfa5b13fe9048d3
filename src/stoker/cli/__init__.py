"""The command line: what people type and see."""

from __future__ import annotations

import argparse
import sys

import stoker


def main() -> None:
    """Run the command that was typed; ends with the exit codes of the operating contract."""
    parser = argparse.ArgumentParser(prog="stoker", description=stoker.__doc__)
    parser.add_argument("--version", action="version", version=f"stoker {stoker.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    from stoker.cli import serve  # imported late: `--version` needs none of it

    serve.add_parser(commands)
    arguments = parser.parse_args()
    sys.exit(arguments.run(arguments))
