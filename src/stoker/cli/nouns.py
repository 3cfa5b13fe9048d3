"""Commands of a noun and a verb, such as `stoker tokens list`, and how they say that something was done."""

from __future__ import annotations

import argparse
from typing import Any

from stoker.cli.session import Session


def add_noun(commands: Any, noun: str, text: str) -> Any:
    """Add a noun, and return what its verbs are added to."""
    parser = commands.add_parser(noun, help=text, description=f"{noun.capitalize()}: {text}.")
    return parser.add_subparsers(dest="verb", metavar="VERB", required=True)


def add_verb(
    verbs: Any, common: argparse.ArgumentParser, verb: str, text: str, run: Any
) -> argparse.ArgumentParser:
    """Add a verb that `run` carries out, and return its parser."""
    description = text[0].upper() + text[1:] + "."
    parser: argparse.ArgumentParser = verbs.add_parser(
        verb, parents=[common], help=text, description=description
    )
    parser.set_defaults(run=run)
    return parser


def show_token(session: Session, document: Any, token: str, what: str) -> int:
    """Print a token alone on standard output, so that it can be kept by a `>`."""
    screen = session.screen
    if screen.json:
        screen.document(document)
        return 0
    screen.note(f"{what} is made; this is its text, shown this once:")
    screen.line(token)
    return 0


def show_done(session: Session, document: Any, text: str) -> int:
    """Say what was done."""
    if session.screen.json:
        session.screen.document(document)
    else:
        session.screen.line(text)
    return 0
