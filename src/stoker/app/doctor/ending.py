"""Whether all of a sandbox ends: with what started it, and with nothing left.

Kills the supervisor as nobody can prepare for. Does not know what a sandbox may do.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path

from stoker.app.doctor.finding import Check, Finding
from stoker.app.doctor.guest import LIMITS, guest
from stoker.app.doctor.isolation import AREA, REPORT
from stoker.model.launch import LaunchPlan
from stoker.sandbox.engine import Engine

END_S_MAX = 1.0
"""What the operating contract allows."""
_DAEMONS = 2
_DAEMON = f"""
import os
read, write = os.pipe()
for _ in range({_DAEMONS}):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(read)
            for stream in (0, 1, 2, 3):
                os.close(stream)
            os.write(write, b"%d\\n" % os.getpid())
            os.close(write)
            import time
            time.sleep(60)
        os._exit(0)
os.close(write)
with open(read) as stream:
    answer = [int(line) for line in stream]
"""
"""Grandchildren that have left every group, and end by themselves in the end."""


def children() -> set[int]:
    """Return our own child processes."""
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        with suppress(OSError):
            found |= set(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
    return found


def supervisor_among(pids: set[int]) -> int | None:
    """Return the process that keeps the sandboxes, None if there is none."""
    for pid in pids:
        with suppress(OSError):
            if b"stoker.sandbox.birth" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return None


async def ending(engine: Engine, plan: LaunchPlan, supervisor: int | None, hint: str | None) -> Finding:
    """Kill the supervisor, which ends the engine (without one, the sandbox), and look for what lives on."""
    check = Check(AREA, "end", hint or REPORT)
    isolated = engine.name != "process"
    if isolated and supervisor is None:
        return check.untried("the supervisor was not found: /proc tells no children here")
    async with guest(engine, plan, LIMITS) as one:
        said = await one.run(_DAEMON)
        if not isinstance(said, list) or len(said) != _DAEMONS:
            return check.untried(f"the guest started no daemons: {said}")
        watched = _watched(_members(one.sandbox.pid or 0) if isolated else said)
        began = time.monotonic()
        if supervisor is None:
            one.sandbox.kill()
        else:
            os.kill(supervisor, signal.SIGKILL)
        await one.sandbox.ended()
        alive = await _ended(watched, began + END_S_MAX)
        took_ms = (time.monotonic() - began) * 1000
    if alive:
        return check.weak(f"{alive} of {len(watched)} processes outlived their sandbox")
    return check.holds(f"{len(watched)} processes gone {took_ms:.0f} ms after the supervisor was killed")


def _members(pid: int) -> list[int]:
    """Return the processes of a PID namespace, by the host's numbers."""
    own = os.readlink(f"/proc/{pid}/ns/pid")
    found = []
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit() and os.readlink(f"/proc/{name}/ns/pid") == own:
                found.append(int(name))
    return found


def _watched(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        with suppress(ProcessLookupError):
            found.append(os.pidfd_open(pid))
    return found


async def _ended(pidfds: list[int], until_s: float) -> int:
    """Wait for ends, and return how many live on; these are killed then."""
    waiting = select.poll()
    for pidfd in pidfds:
        waiting.register(pidfd, select.POLLIN)
    left = set(pidfds)
    while left and time.monotonic() < until_s:
        for pidfd, _ in waiting.poll(0):
            waiting.unregister(pidfd)
            left.discard(pidfd)
        await asyncio.sleep(0.002)
    for pidfd in left:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    for pidfd in pidfds:
        os.close(pidfd)
    return len(left)
