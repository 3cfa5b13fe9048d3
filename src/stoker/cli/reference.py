"""The reference page of all commands, made from the parser.

`python -m stoker.cli.reference > docs/reference/cli.md` writes it, and a test refuses a stale one. Does not
use argparse's own help, which differs from Python to Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from stoker.cli.completion import help_of, subparsers_of
from stoker.cli.parser import EPILOG, make_parser

_HEAD = """\
# The command line

Made from the commands themselves by `python -m stoker.cli.reference`; change it there.

"""
_COMMON = ("url", "token", "json")
_SEEN_EVERYWHERE = ("help",)
_OF_THIS_MACHINE = ("serve", "doctor")
"""Commands that speak to no server: all their options are their own."""


def page() -> str:
    """Return the page."""
    parser = make_parser()
    lines = [_HEAD + " ".join(EPILOG.split()), ""]
    lines += ["Every command but `serve` and `doctor` takes these:", "", *_table(_common_of(parser)), ""]
    lines += ["| command | does |", "|---|---|"]
    said = help_of(parser)
    for name in subparsers_of(parser):
        lines.append(f"| [`stoker {name}`](#stoker-{name}) | {_cell(said[name])} |")
    for name, command in subparsers_of(parser).items():
        lines += ["", *_section(name, command, "##")]
        for verb, below in subparsers_of(command).items():
            lines += ["", *_section(f"{name} {verb}", below, "###")]
    return "\n".join(lines) + "\n"


def _section(name: str, parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    yield f"{heading} stoker {name}"
    yield ""
    yield f"`stoker {name}{_usage(parser)}`"
    yield ""
    yield parser.description or ""
    actions = [
        action for action in _actions(parser) if action.dest not in _COMMON or name in _OF_THIS_MACHINE
    ]
    if actions:
        yield ""
        yield from _table(actions)


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        action
        for action in parser._actions
        if action.dest not in _SEEN_EVERYWHERE and not isinstance(action, argparse._SubParsersAction)
    ]


def _common_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    actions = _actions(subparsers_of(parser)["list"])
    return [action for action in actions if action.dest in _COMMON]


def _usage(parser: argparse.ArgumentParser) -> str:
    found = " VERB" if subparsers_of(parser) else ""
    for action in _actions(parser):
        if not action.option_strings:
            found += f" [{action.metavar}]" if action.nargs == "?" else f" {action.metavar}"
        elif action.required:
            found += f" {_option(action)}"
    return found


def _option(action: argparse.Action) -> str:
    text = ", ".join(action.option_strings)
    return text if action.nargs == 0 else f"{text} {action.metavar or action.dest.upper()}"


def _table(actions: list[argparse.Action]) -> list[str]:
    lines = ["| given | means |", "|---|---|"]
    for action in actions:
        shown = _option(action) if action.option_strings else str(action.metavar)
        lines.append(f"| `{_cell(shown)}` | {_cell(action.help or '')} |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("%%", "%")


if __name__ == "__main__":
    print(page(), end="")
