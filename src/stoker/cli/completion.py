"""`stoker completion`: what a shell needs to complete commands, options and names of functions.

The words are those of the parser; names are asked of the server when Tab is pressed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from stoker.cli.session import Session

SHELLS = ("bash", "zsh", "fish")
_NAMES = "stoker list --names 2>/dev/null"

_HINTS = {
    "bash": "# source <(stoker completion bash)   in ~/.bashrc",
    "zsh": "# source <(stoker completion zsh)   in ~/.zshrc, after compinit",
    "fish": "# stoker completion fish | source   in ~/.config/fish/config.fish",
}


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "completion",
        parents=[common],
        help="print what makes a shell complete commands",
        description="Print what makes a shell complete commands. "
        + " ".join(f"{hint.removeprefix('# ').replace('   ', ' ')}." for hint in _HINTS.values()),
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    parser.set_defaults(run=run)


def run(session: Session) -> int:
    """Print it."""
    from stoker.cli.parser import make_parser

    shell = session.arguments.shell
    text = script(make_parser(), shell)
    if session.screen.json:
        session.screen.document({"shell": shell, "script": text})
    else:
        session.screen.text(text)
    return 0


def subparsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the commands of a parser by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def help_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return what is said of each command of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {choice.dest: choice.help or "" for choice in action._choices_actions}
    return {}


def _leaves(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    yield path, parser
    for name, below in subparsers_of(parser).items():
        yield from _leaves(below, (*path, name))


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [text for action in parser._actions for text in action.option_strings if text.startswith("--")]


def _takes_function(path: tuple[str, ...], parser: argparse.ArgumentParser) -> bool:
    return len(path) == 1 and any(
        action.dest == "name" and not action.option_strings for action in parser._actions
    )


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the text for a shell."""
    return _HINTS[shell] + "\n" + (_fish(parser) if shell == "fish" else _bash(parser, shell))


def _bash(parser: argparse.ArgumentParser, shell: str) -> str:
    cases = []
    for path, leaf in _leaves(parser):
        words = [*subparsers_of(leaf), *_options(leaf)]
        if path == ("completion",):
            words += SHELLS
        names = f" $({_NAMES})" if _takes_function(path, leaf) else ""
        cases.append(f'    "{" ".join(path)}") words="{" ".join(words)}{names}" ;;')
    head = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return head + _BASH.replace("CASES", "\n".join(cases)).replace("NOUNS", "|".join(_nouns(parser)))


def _nouns(parser: argparse.ArgumentParser) -> list[str]:
    return [name for name, below in subparsers_of(parser).items() if subparsers_of(below)]


_BASH = """\
_stoker() {
  local current=${COMP_WORDS[COMP_CWORD]} typed="" word words=""
  for word in "${COMP_WORDS[@]:1:$((COMP_CWORD - 1))}"; do
    case $word in
    -*) ;;
    *) case $typed in
      "" | NOUNS) typed="${typed:+$typed }$word" ;;
      esac ;;
    esac
  done
  case $typed in
CASES
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _stoker stoker
"""


def _fish(parser: argparse.ArgumentParser) -> str:
    lines = ["complete -c stoker -f"]
    for path, leaf in _leaves(parser):
        below = subparsers_of(leaf)
        if not path:
            condition = "__fish_use_subcommand"
        else:
            condition = " ; and ".join(f"__fish_seen_subcommand_from {word}" for word in path)
            if below:
                condition += f" ; and not __fish_seen_subcommand_from {' '.join(below)}"
        said = help_of(leaf)
        for name in below:
            lines.append(f"complete -c stoker -n '{condition}' -a {name} -d '{_quoted(said.get(name, ''))}'")
        for action in leaf._actions:
            for text in action.option_strings:
                if text.startswith("--"):
                    lines.append(
                        f"complete -c stoker -n '{condition}' -l {text[2:]} -d '{_quoted(action.help or '')}'"
                    )
        if path == ("completion",):
            lines.append(f"complete -c stoker -n '{condition}' -a '{' '.join(SHELLS)}'")
        if _takes_function(path, leaf):
            lines.append(f"complete -c stoker -n '{condition}' -a '({_NAMES})'")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'").replace("%%", "%")
