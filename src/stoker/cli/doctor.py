"""`stoker doctor`: what this machine really enforces, as lines for people or one document.

Sees the server's side, as it speaks to no server. Does not know what is checked.
"""

from __future__ import annotations

import argparse
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.cli.failures import REFUSED, WRONG_USAGE
from stoker.cli.session import Session

if TYPE_CHECKING:
    from stoker.app.doctor.finding import Finding
    from stoker.cli.screen import Screen

EXIT_WEAKER = 1
SIGTERM_EXIT = 143
"""As a shell says it of a program that SIGTERM ended."""
_STATE_CHARS, _NAME_CHARS = 7, 14
_STATES = {"ok": "ok", "weak": "WEAK", "untried": "unknown"}


def add_parser(commands: Any) -> None:
    """Add the command. It speaks to no server, so that it takes neither --url nor --token."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help="try what this machine enforces",
        description="Try what of isolation, limits and durability this machine really enforces, in sandboxes "
        "and a store of its own; a server may run meanwhile. Exit codes: 0 all of it holds; 1 something is "
        "weaker or could not be tried, and each line says what to do; 3 nothing can be tried.",
    )
    parser.add_argument("--data", metavar="DIR", help="the data directory, as of `stoker serve`")
    parser.add_argument("--isolation", metavar="NAME", help="auto, crun, runc, runsc or process")
    parser.add_argument("--config", metavar="FILE", help="settings in TOML; DATA/server.toml if there is one")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=run)


def run(session: Session) -> int:
    """Examine this machine."""
    import asyncio
    import logging
    import sys

    from stoker.app.settings import WrongSetting, read_settings
    from stoker.model.errors import StokerError
    from stoker.telemetry.logging import configure_logging

    screen, arguments = session.screen, session.arguments
    options = {name: getattr(arguments, name) for name in ("data", "isolation", "config")}
    configure_logging(sys.stderr, json=False, level=logging.CRITICAL)  # what fails is told by its line
    try:
        settings = read_settings(options, os.environ, Path.home())
        findings = asyncio.run(_examine(settings, screen))
    except WrongSetting as error:
        return _say(screen, error.message, error.hint, WRONG_USAGE)
    except StokerError as error:
        return _say(screen, error.message, error.hint, REFUSED)
    except PermissionError as error:
        return _say(screen, f"{error.filename} may not be looked at", "sudo stoker doctor", REFUSED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _say(screen, f"nothing can be tried: {where}{error.strerror}", None, REFUSED)
    except asyncio.CancelledError:
        return SIGTERM_EXIT
    weaker = [finding for finding in findings if finding.state.value != "ok"]
    if screen.json:
        checks = [
            {
                "area": finding.area,
                "name": finding.name,
                "state": finding.state.value,
                "found": finding.found,
                "hint": finding.hint or None,
            }
            for finding in findings
        ]
        screen.document({"ok": not weaker, "data": str(settings.data), "checks": checks})
    else:
        screen.line()
        screen.line(_sum(screen, findings))
    return EXIT_WEAKER if weaker else 0


async def _examine(settings: Any, screen: Screen) -> list[Finding]:
    """Return all findings; on a terminal each is shown as it comes."""
    import asyncio
    import signal

    from stoker.app.doctor.examination import examine

    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        if not screen.json:
            _show(screen, finding, findings[-1] if findings else None)
        findings.append(finding)

    await examine(settings, tell, lambda line: screen.note(screen.dim(f"{line} ...")))
    return findings


def _show(screen: Screen, finding: Finding, before: Finding | None) -> None:
    """Show one line, and what to do unless the line before said the same."""
    if before is None or before.area != finding.area:
        screen.line(("" if before is None else "\n") + screen.bold_out(finding.area))
    state = finding.state.value
    shown = f"{_STATES[state]:{_STATE_CHARS}}"
    coloured = screen.good_out(shown) if state == "ok" else screen.bad_out(shown)
    indent = _STATE_CHARS + _NAME_CHARS + 4
    lines = textwrap.wrap(finding.found, max(20, screen.width - indent)) or [""]
    screen.line(f"  {coloured} {finding.name:{_NAME_CHARS}} {lines[0]}".rstrip())
    for line in lines[1:]:
        screen.line(" " * indent + line)
    if finding.hint and (before is None or before.hint != finding.hint):
        for at, line in enumerate(textwrap.wrap(finding.hint, max(20, screen.width - indent - 2))):
            screen.line(" " * indent + screen.dim_out(("> " if at == 0 else "  ") + line))


def _sum(screen: Screen, findings: list[Finding]) -> str:
    states = [finding.state.value for finding in findings]
    weak, untried = states.count("weak"), states.count("untried")
    if not weak and not untried:
        return screen.good_out(f"all {len(findings)} checks hold")
    parts = [f"{len(findings) - weak - untried} of {len(findings)} checks hold"]
    parts += [f"{weak} are weak"] if weak else []
    parts += [f"{untried} could not be tried"] if untried else []
    return screen.bad_out(", ".join(parts))


def _say(screen: Screen, message: str, hint: str | None, code: int) -> int:
    if screen.json:
        screen.document({"error": message} | ({"hint": hint} if hint else {}))
    else:
        screen.note(f"{screen.red('stoker:')} {message}")
        if hint:
            screen.note(f"  hint: {hint}")
    return code
