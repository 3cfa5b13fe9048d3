"""One examination: the engine that `serve` would choose, in a folder of its own, and every check in turn.

Owns the order, the folder and that nothing is left of either. Does not know what a check looks at.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stoker.app.doctor import durability, ending, isolation, limits, machine
from stoker.app.doctor.finding import Check, Finding
from stoker.app.doctor.guest import ANSWER_S_MAX, NoAnswer, guest, guest_plan
from stoker.app.install import runtimes_directory
from stoker.app.open_files import raise_open_files
from stoker.app.settings import Settings
from stoker.model.errors import StokerError
from stoker.model.launch import LaunchPlan
from stoker.runtimes import launch_plans, wire
from stoker.sandbox.choose import open_engine
from stoker.sandbox.engine import Engine, IsolationUnavailable, Site

AS_ROOT = "sudo stoker doctor"
_PLAIN = "serve as root, without --isolation process"
"""What to do about functions that are plain processes."""
_MEND = "mend that, and try again; if it cannot be mended, report it"
_GIVE_UP = """
import sys
from pathlib import Path
from stoker.app.privileges import drop_root
print(drop_root(Path(sys.argv[1]), [Path(layer) for layer in sys.argv[2:]]).uid)
"""
_INSIDE = (
    "namespaces",
    "privileges",
    "system calls",
    "root files",
    "host files",
    "host processes",
    "network",
)
Tell = Callable[[Finding], None]


class CannotExamine(StokerError):
    """There is no place to examine anything in."""

    code = "doctor.no_place"


async def examine(settings: Settings, tell: Tell, progress: Callable[[str], None]) -> None:
    """Check everything, and tell each finding as it is made.

    `progress` takes lines for a person while runtimes are built, which happens once on a machine. Raises
    StokerError if nothing can be examined here.
    """
    began = machine.Moment.now()
    raise_open_files()
    with _folder(settings.data) as (folder, is_of_data):
        await _examine_sandboxes(settings, folder, tell, progress)
        await _examine_durability(settings, folder, is_of_data, tell)
    tell(machine.control_groups())
    tell(machine.open_files(settings.limits))
    tell(machine.clock(began, machine.Moment.now()))


# -- the folder --------------------------------------------------------------------------------------


@contextmanager
def _folder(data: Path) -> Iterator[tuple[Path, bool]]:
    """Make a folder until the end; also tell whether it is on the file system of the data directory."""
    place = place_for(data)
    try:
        with tempfile.TemporaryDirectory(prefix=".stoker-doctor-", dir=place) as folder:
            yield Path(folder).resolve(), place is not None
    except FileNotFoundError as error:  # of tempfile: no folder at all can be written to
        raise CannotExamine(f"no folder can be written to: {error}", hint="TMPDIR names one") from None


def place_for(data: Path) -> Path | None:
    """Return where a folder on the file system of the data directory may be made, None if nowhere.

    Beside it rather than in it: a server that starts looks through its own.
    """
    there = next(folder for folder in (data, *data.parents) if folder.exists())
    beside = there.parent if there == data else there
    if beside.stat().st_dev == there.stat().st_dev and os.access(beside, os.W_OK | os.X_OK):
        return beside
    return there if os.access(there, os.W_OK | os.X_OK) else None


# -- sandboxes ---------------------------------------------------------------------------------------


async def _examine_sandboxes(
    settings: Settings, folder: Path, tell: Tell, progress: Callable[[str], None]
) -> None:
    engine_check = Check(isolation.AREA, "engine", _PLAIN)
    if settings.isolation != "process" and os.geteuid() != 0:
        tell(engine_check.untried("isolating functions needs root", AS_ROOT))
        _tell_untried(tell, "needs root", AS_ROOT)
        return
    plans = launch_plans.ensure(runtimes_directory(), progress)
    plan = guest_plan(plans[-1])
    (folder / "code").mkdir(mode=0o700)
    site = Site(
        folder,
        folder / "code",
        (plan, *plans),
        replace(settings.limits, tmp_bytes_max=limits.TMP_BYTES),
    )
    notes: list[str] = []

    def notice(event: str, fields: Mapping[str, object]) -> None:
        notes.append(str(fields.get("reason", event)))

    before = ending.children()
    try:
        engine = await open_engine(settings.isolation, site, notice)
    except IsolationUnavailable as error:
        tell(replace(engine_check.weak(error.message), hint=error.hint or AS_ROOT))
        _tell_untried(tell, "there is no engine", error.hint or AS_ROOT)
        return
    hint = _PLAIN if engine.name == "process" else None
    try:
        supervisor = ending.supervisor_among(ending.children() - before)
        _tell_engine(engine, engine_check, notes, tell)
        await _tell_all(tell, isolation.AREA, ("runtimes",), runtimes(engine, plans))
        tell(await privileges_given_up(folder, plans))
        with isolation.lures(folder) as lures:
            await _tell_all(tell, isolation.AREA, _INSIDE, _inside(engine, plan, lures, hint))
        await _tell_all(tell, isolation.AREA, ("end",), _one(ending.ending(engine, plan, supervisor, hint)))
    finally:
        await engine.close()
    # the next one clears what a killed supervisor left
    try:
        engine = await open_engine(engine.name, site, notice)
    except IsolationUnavailable as error:
        for name in limits.CHECKS:
            tell(Check(limits.AREA, name, error.hint or isolation.REPORT).untried(error.message))
        return
    try:
        for name, check in limits.CHECKS.items():
            await _tell_all(tell, limits.AREA, (name,), _one(check(engine, plan, hint)))
    finally:
        await engine.close()


def _tell_engine(engine: Engine, check: Check, notes: Sequence[str], tell: Tell) -> None:
    if engine.name == "process":
        tell(check.weak("none: functions are plain processes of the server's user"))
        return
    others = f" ({' '.join(notes)})" if notes else ""
    tell(check.holds(f"{engine.name}, seen to end what goes past its limits{others}"))


async def _inside(
    engine: Engine, plan: LaunchPlan, lures: isolation.Lures, hint: str | None
) -> list[Finding]:
    async with guest(engine, plan) as one:
        return await isolation.isolation(one, lures, hint)


async def runtimes(engine: Engine, plans: Sequence[LaunchPlan]) -> list[Finding]:
    """Boot each runtime until it says hello."""
    check = Check(isolation.AREA, "runtimes", "stoker serve says in its log what a runtime printed")
    loop, said = asyncio.get_running_loop(), []
    for plan in plans:
        began = loop.time()
        sandbox = await engine.boot(plan, urgent=True)
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                frames = wire.FrameReader(frame_bytes_max=1 << 16)
                kinds: list[int] = []
                while not kinds:
                    data = await loop.sock_recv(sandbox.wire, 1 << 16)
                    if not data:
                        return [check.weak(f"{plan.runtime} {plan.version} ended before it said hello")]
                    kinds = [kind for kind, _, _ in frames.feed(data)]
        except TimeoutError:
            return [check.weak(f"{plan.runtime} {plan.version} said no hello in {ANSWER_S_MAX:.0f} s")]
        finally:
            sandbox.kill()
            sandbox.wire.close()
            os.close(sandbox.output)
            await sandbox.ended()
        took_ms = (loop.time() - began) * 1000
        said.append(f"{plan.runtime} {plan.version} in {took_ms:.0f} ms")
    return [check.holds(f"booted {', '.join(said)}")]


async def privileges_given_up(folder: Path, plans: Sequence[LaunchPlan]) -> Finding:
    """Have another process give root up as a server does."""
    check = Check(isolation.AREA, "server", "what it says, or serve as an ordinary user")
    if os.geteuid() != 0:
        return check.holds(f"no root to give up: it runs as user {os.geteuid()}")
    data = folder / "server"
    data.mkdir(mode=0o700)
    layers = [str(layer) for plan in plans for layer in plan.layers]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _GIVE_UP, str(data), *layers),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        last = err.decode(errors="replace").strip().splitlines()[-1:]
        return check.weak(f"root cannot be given up: {' '.join(last).rpartition('RootKept: ')[2]}")
    return check.holds(f"gives root up for good, to user {out.decode().strip()}")


# -- durability --------------------------------------------------------------------------------------


async def _examine_durability(settings: Settings, folder: Path, is_of_data: bool, tell: Tell) -> None:
    area = durability.AREA
    if is_of_data:
        tell(durability.disk_writes(folder))
    else:
        tell(Check(area, "fsync", AS_ROOT).untried(f"{settings.data} cannot be written to"))
    if settings.nats:
        hint = "ask who runs them whether sync_interval is always"
        tell(Check(area, "nats-server", hint).untried("it is another's"))
    else:
        await _tell_all(tell, area, ("nats-server",), _one(durability.store_writes(folder)))
    if is_of_data:
        tell(durability.free_space(folder))
    else:
        tell(Check(area, "free disk", AS_ROOT).untried(f"{settings.data} cannot be written to"))


# -- telling -----------------------------------------------------------------------------------------


async def _one(finding: Awaitable[Finding]) -> list[Finding]:
    return [await finding]


async def _tell_all(tell: Tell, area: str, names: Sequence[str], work: Awaitable[list[Finding]]) -> None:
    """Tell what comes of some checks; if they cannot be made, that."""
    try:
        found = await work
    except NoAnswer as error:
        found = [Check(area, name, isolation.REPORT).untried(error.message) for name in names]
    except StokerError as error:
        found = [Check(area, name, error.hint or _MEND).untried(error.message) for name in names]
    except OSError as error:
        found = [Check(area, name, _MEND).untried(error.strerror or str(error)) for name in names]
    except (TypeError, ValueError, KeyError):  # of an answer that is not as it should be
        found = [Check(area, name, isolation.REPORT).untried("the guest gave no answer") for name in names]
    for finding in found:
        tell(finding)


def _tell_untried(tell: Tell, why: str, hint: str) -> None:
    for area, names in ((isolation.AREA, ("runtimes", *_INSIDE, "end")), (limits.AREA, limits.CHECKS)):
        for name in names:
            tell(Check(area, name, hint).untried(why))
