"""One command on its way: the server it speaks to, what it prints, and how it ends.

Does not know which command.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.cli.defaults import FILE
from stoker.cli.failures import INTERRUPTED, WrongUsage, show_error, show_wrong_usage
from stoker.cli.screen import Screen

if TYPE_CHECKING:
    from stoker.client import Client

LIMIT = 20
"""How many calls are shown, if nothing else was typed."""
PAUSE_S_MAX = 3.0
"""Who sits before a terminal is told of a limit sooner than a program, which waits it out."""
SIGPIPE_EXIT = 141
"""As a shell says it of a program whose reader went away."""


class Session:
    """What a command works with."""

    def __init__(self, arguments: argparse.Namespace, screen: Screen) -> None:
        self.arguments = arguments
        self.screen = screen
        self.now = datetime.now().astimezone()

    @property
    def url(self) -> str | None:
        """The URL that was typed."""
        return getattr(self.arguments, "url", None)

    @property
    def token(self) -> str | None:
        """The token that was typed."""
        return getattr(self.arguments, "token", None)

    def client(self) -> Client:
        """Return a client of the server that is meant; it is to be closed."""
        from stoker.client import Client, Patience

        try:
            return Client(self.url, self.token, patience=Patience(pause_s_max=PAUSE_S_MAX))
        except ValueError as error:
            raise WrongUsage(f"--url: {error}") from None

    def name(self, client: Client) -> str:
        """Return what names the function that was typed for good; without one that of `./stoker.toml`."""
        return client.functions.find(self.typed_name())

    def limit(self) -> int | None:
        """Return how many are to be shown, None for all. Raises WrongUsage."""
        limit: int = self.arguments.limit
        if limit < 0:
            raise WrongUsage("--limit is a number from 0, which is all")
        return limit or None

    def typed_name(self) -> str:
        """Return the name that was typed, else that of `./stoker.toml`. Raises WrongUsage."""
        name: str | None = self.arguments.name
        return name or name_here()


def name_here() -> str:
    """Return the name of the function whose folder this is. Raises WrongUsage."""
    from stoker.cli.project import read_project

    if not Path(FILE).is_file():
        raise WrongUsage(
            "which function?", hint=f"NAME is collection/name; without it there has to be a {FILE} here"
        )
    project = read_project(Path())
    return f"{project.collection}/{project.name}"


def run(arguments: argparse.Namespace, command: Callable[[Session], int]) -> int:
    """Run a command; return its exit code, whatever happens."""
    screen = Screen(json=getattr(arguments, "json", False))
    try:
        return command(Session(arguments, screen))
    except WrongUsage as error:
        return show_wrong_usage(screen, error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # nothing more can be printed, also not at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGPIPE_EXIT
    except Exception as error:
        from stoker.client.errors import StokerError
        from stoker.client.names import InvalidName

        if isinstance(error, InvalidName):
            return show_wrong_usage(screen, WrongUsage(str(error)))
        if not isinstance(error, StokerError):
            raise
        return show_error(screen, error)


def json_of(value: Any) -> Any:
    """Return a value of the client as JSON shows it."""
    import msgspec

    return msgspec.to_builtins(value)
