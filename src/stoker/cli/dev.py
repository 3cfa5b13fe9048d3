"""`stoker dev`: deploys a folder at every save, and shows its calls and logs while they happen.

What cannot be compiled is shown and not deployed: the version before goes on serving.
"""

from __future__ import annotations

import argparse
from typing import Any

from stoker.cli.deploy import add_source_options
from stoker.cli.session import Session


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "dev",
        parents=[common],
        help="deploy at every save, and show calls and logs live",
        description="Watch DIR, deploy at every save, and show calls and what they print until Ctrl-C. A "
        "source that cannot be compiled is shown at its line and not deployed: the version before goes "
        "on serving.",
    )
    add_source_options(parser)
    parser.set_defaults(run=run)


def run(session: Session) -> int:
    """Watch until Ctrl-C."""
    import asyncio
    from contextlib import suppress

    from stoker.cli.watching import watch

    with suppress(KeyboardInterrupt):
        asyncio.run(watch(session))
    return 0
