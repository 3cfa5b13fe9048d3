"""`serve`: a server from its first step to its exit code.

Owns the signals and what a failure to start means. Does not know how the parts work: `server` joins them.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from stoker.app.closing import end_by
from stoker.app.server import Server
from stoker.app.settings import Settings, WrongSetting
from stoker.backbone.errors import DataDirectoryInUse
from stoker.model.errors import StokerError
from stoker.telemetry.logging import configure_logging, get_logger

EXIT_ENDED = 0
EXIT_OURS = 1
EXIT_WRONG = 2
EXIT_MISSING = 3

CLOSE_S_MAX = 20
"""What the end of a server may take once its calls have ended; what takes longer is shown and cut off."""


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code of the operating contract."""
    configure_logging(sys.stderr, json=not sys.stderr.isatty())
    try:
        return uvloop.run(_serve(settings))
    except (WrongSetting, DataDirectoryInUse) as error:
        return _say(error, EXIT_WRONG)
    except StokerError as error:
        return _say(error, EXIT_MISSING)
    except KeyboardInterrupt:
        return EXIT_ENDED
    except Exception:
        get_logger("stoker.app").exception("server_failed")
        return EXIT_OURS


def _say(error: StokerError, code: int) -> int:
    print(f"stoker: {error.message}", file=sys.stderr)
    if error.hint is not None and error.hint not in error.message:
        print(f"  {error.hint}", file=sys.stderr)
    return code


async def _serve(settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    stop, stop_now = asyncio.Event(), asyncio.Event()

    def asked() -> None:
        (stop_now if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    server = Server(settings)
    drain_s = settings.limits.drain_ms_max / 1000
    opening = asyncio.ensure_future(server.open())
    try:
        await _first(opening, stop)
        if stop.is_set():
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            return EXIT_ENDED
        opening.result()
        print(f"stoker is ready on {server.url}", flush=True)
        broken = asyncio.ensure_future(server.broken())
        await _first(broken, stop)
        if not stop.is_set():
            get_logger("stoker.app").error("server_broken", reason=broken.result())
            return EXIT_OURS
        broken.cancel()
        get_logger("stoker.app").info("stopping")
        end_by(drain_s + CLOSE_S_MAX)
        draining = asyncio.ensure_future(server.drain())
        await _first(draining, stop_now)
        draining.cancel()
        return EXIT_ENDED
    finally:
        end_by(CLOSE_S_MAX)
        opening.cancel()
        await server.close()


async def _first(
    work: asyncio.Future[object] | asyncio.Future[None] | asyncio.Future[str], event: asyncio.Event
) -> None:
    """Return when the work is done or the event is set."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
