"""The command line: what people type and see."""

from __future__ import annotations

import argparse

import stoker


def main() -> None:
    """Run the command that was typed."""
    parser = argparse.ArgumentParser(prog="stoker", description=stoker.__doc__)
    parser.add_argument("--version", action="version", version=f"stoker {stoker.__version__}")
    parser.parse_args()
