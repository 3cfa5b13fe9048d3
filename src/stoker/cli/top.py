"""`stoker top`: what a server does just now, once a second.

Owns the screen and the keys. Does not know how the numbers are made (`load`).
"""

from __future__ import annotations

import argparse
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from stoker.cli.failures import WrongUsage
from stoker.cli.screen import duration_text, size_text
from stoker.cli.session import Session

if TYPE_CHECKING:
    from stoker.cli.load import FunctionLoad, Load, Sample
    from stoker.cli.screen import Screen
    from stoker.client import Client

INTERVAL_S = 1.0
_ENTER = "\x1b[?1049h\x1b[?25l"
"""The alternate screen, without a cursor; what was on the terminal comes back at the end."""
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"
_HEADS = ("CALLS/S", "ERRORS/S", "AVERAGE", "INST", "MEMORY", "CALLS")
_WIDTHS = (9, 9, 9, 5, 9, 9)


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "top",
        parents=[common],
        help="watch what functions do just now",
        description="Watch calls a second, latencies, instances and memory, the busiest function first; `q` "
        "quits. An administrator's token shows the whole server. Without a terminal one table is printed, of "
        "one second.",
    )
    parser.add_argument("--count", type=int, metavar="N", help="end after N times, a second each")
    parser.set_defaults(run=top)


def top(session: Session) -> int:
    """`stoker top`."""
    screen, count = session.screen, session.arguments.count
    if count is not None and count < 1:
        raise WrongUsage("--count is a number from 1")
    with session.client() as client:
        taking = _Taking(client)
        taking.take()  # what is wrong with the server or the token is said before anything is drawn
        try:
            if screen.json:
                return _print_documents(screen, taking, count)
            if screen.is_terminal and sys.stdin.isatty():
                return _draw(screen, taking, client.url, count)
            return _print_table(screen, taking, client.url)
        except KeyboardInterrupt:
            return 0


class _Taking:
    """Samples of one server, the last of which is kept."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sees_metrics = True
        self._last: Sample | None = None

    def take(self) -> Load | None:
        """Return what happened since the last time; None at the first."""
        from stoker.cli.load import load_between, sample_of
        from stoker.client import Forbidden

        metrics = None
        if self._sees_metrics:
            try:
                metrics = self._client.metrics()
            except Forbidden:
                self._sees_metrics = False
        services = self._client.services()
        at_s = time.monotonic()
        now = sample_of(at_s, services, self._client.machines(), metrics)
        before, self._last = self._last, now
        return None if before is None else load_between(before, now)


# -- without a terminal ------------------------------------------------------------------------------


def _print_documents(screen: Screen, taking: _Taking, count: int | None) -> int:
    done = 0
    while count is None or done < count:
        time.sleep(INTERVAL_S)
        load = taking.take()
        assert load is not None
        screen.document(
            {"at": datetime.now().astimezone().isoformat(timespec="milliseconds"), **load.document()}
        )
        done += 1
    return 0


def _print_table(screen: Screen, taking: _Taking, url: str) -> int:
    time.sleep(INTERVAL_S)
    load = taking.take()
    assert load is not None
    for line in (*head(load, url), "", *rows(load, None, screen)):
        screen.line(line)
    return 0


# -- the screen --------------------------------------------------------------------------------------


def _draw(screen: Screen, taking: _Taking, url: str, count: int | None) -> int:
    from stoker.client import ServerUnreachable

    with _whole_terminal(screen) as key:
        lines = [f"stoker top  {url}", "", "looking ..."]
        done = 0
        while True:
            screen.text(picture(lines, screen.height))
            if count is not None and done >= count:
                return 0
            if _quits(key):
                return 0
            try:
                load = taking.take()
            except ServerUnreachable as error:
                lines = [f"stoker top  {url}", "", screen.bad_out(f"{error.message}; trying again")]
                continue
            assert load is not None
            done += 1
            clock = datetime.now().strftime("%H:%M:%S")
            above = [line[: screen.width] for line in head(load, url, clock)]
            lines = [*above, "", *rows(load, screen.height - len(above) - 1, screen)]


def _quits(key: Callable[[float], str]) -> bool:
    """Wait until the next picture is due; tell whether `q` was pressed before."""
    until_s = time.monotonic() + INTERVAL_S
    while (rest_s := until_s - time.monotonic()) > 0:
        if key(rest_s) in ("q", "Q", "\x04"):
            return True
    return False


@contextmanager
def _whole_terminal(screen: Screen) -> Iterator[Callable[[float], str]]:
    """Take the terminal over; yield what waits for a key, for so many seconds, and returns it or nothing."""
    import os
    import termios
    import tty

    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)

    def key(seconds: float) -> str:
        ready, _, _ = select.select([handle], [], [], seconds)
        if not ready:
            return ""
        pressed = os.read(handle, 1)
        if not pressed:  # the terminal is gone
            raise KeyboardInterrupt
        return pressed.decode(errors="replace")

    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    handlers = {number: signal.signal(number, ended) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setcbreak(handle)
        changed = termios.tcgetattr(handle)
        changed[6][termios.VSUSP] = b"\0"  # who stopped it here would be left on the other screen
        termios.tcsetattr(handle, termios.TCSANOW, changed)
        screen.text(_ENTER)
        yield key
    finally:
        screen.text(_LEAVE)
        termios.tcsetattr(handle, termios.TCSAFLUSH, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def picture(lines: list[str], height: int) -> str:
    """Return what draws lines over the last picture, as many as fit."""
    return _HOME + "\r\n".join(line + _REST_OF_LINE for line in lines[:height]) + _REST


# -- lines -------------------------------------------------------------------------------------------


def head(load: Load, url: str, clock: str = "") -> list[str]:
    """Return what is said of the server as a whole: four lines, or three if not all may be seen."""
    server = load.server
    calls = f"calls      {_rate(load.calls_per_second)}/s, errors {_rate(load.errors_per_second)}/s"
    latency = f"run        average {_ms(load.average_ms)}"
    instances = f"instances  {load.instances}, with {size_text(load.memory_bytes)}"
    lines = [f"stoker top  {url}  {clock}".rstrip(), calls, latency, instances]
    if server is None:
        return lines
    lines[1] += f", {server.in_flight} in flight, {server.queued} queued"
    lines[2] += f", p50 {_ms(server.run_p50_ms)}, p95 {_ms(server.run_p95_ms)}, p99 {_ms(server.run_p99_ms)}"
    lines[3] = (
        f"instances  {load.instances} of {server.instances_max}, {server.spares} spare, "
        f"with {size_text(load.memory_bytes)}"
    )
    gateway, nats = size_text(server.gateway_memory_bytes), size_text(server.nats_memory_bytes)
    lines.append(
        f"server     gateway {gateway}, {server.gateway_cpu_percent:.0f} % of a core; "
        f"nats {nats}, {server.nats_cpu_percent:.0f} %"
    )
    return lines


def rows(load: Load, room: int | None, screen: Screen) -> list[str]:
    """Return a table of functions, cut to `room` lines; without a terminal nothing is cut."""
    several = len({row.account for row in load.functions if row.account}) > 1
    names = [_name(row, several) for row in load.functions]
    widest = max((len(name) for name in names), default=0)
    width = max(widest, 8)
    if room is not None:
        width = max(8, min(width, screen.width - sum(_WIDTHS)))
    lines = [screen.dim_out("FUNCTION".ljust(width) + _right(_HEADS))]
    if not names:
        return [*lines, "no functions yet"]
    for name, row in zip(names, load.functions, strict=True):
        shown = name.ljust(width) if len(name) <= width else name[: width - 1] + "…"
        cells = (
            _rate(row.calls_per_second),
            _rate(row.errors_per_second),
            _ms(row.average_ms),
            str(row.instances),
            size_text(row.memory_bytes) if row.instances else "-",
            _count(row.calls),
        )
        line = shown + _right(cells)
        lines.append(screen.bad_out(line) if row.errors_per_second else _busy(line, row, screen))
    if room is not None and len(lines) > room:
        left = len(lines) - room + 1
        lines = [*lines[: room - 1], screen.dim_out(f"and {left} more")]
    return lines


def _name(row: FunctionLoad, several: bool) -> str:
    name = "".join(char if char.isprintable() else " " for char in row.function)
    return f"{row.account}:{name}" if several and row.account else name


def _busy(line: str, row: FunctionLoad, screen: Screen) -> str:
    return line if row.calls_per_second else screen.dim_out(line)


def _right(cells: tuple[str, ...]) -> str:
    return "".join(cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True))


def _rate(number: float) -> str:
    return f"{number:,.1f}" if number < 10_000 else f"{number:,.0f}"


def _ms(ms: float | None) -> str:
    return duration_text(ms) or "-"


def _count(number: int) -> str:
    """Return a count in few characters."""
    for unit in ("", "k", "M"):
        if number < 100_000 or unit == "M":
            return f"{number}{unit}"
        number //= 1000
    raise AssertionError(number)
