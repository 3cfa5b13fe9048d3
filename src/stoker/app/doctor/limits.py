"""Whether the limits of a sandbox hold: a guest goes past each of them.

Goes past by little, so that a machine where nothing holds takes no harm. Does not know isolation.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from stoker.app.doctor.finding import Check, Finding
from stoker.app.doctor.guest import LIMITS, guest
from stoker.model.launch import LaunchPlan
from stoker.model.limits import MIB
from stoker.sandbox.engine import Engine

AREA = "limits"
TMP_BYTES = 4 * MIB
"""`/tmp` of the doctor's sandboxes."""
_EATEN = 128 * MIB
_FORKS = 40
_CPU_MILLIS = (250, 2000)
_CPU_RATIO_MIN = 2.0
"""Of 8 that the weights make: others use the processor too."""
_SPIN_S = 1.0
_SPIN_CPU_S_MIN = 0.05
_EAT = f"import os\nkept = [os.urandom(1 << 20) for _ in range({_EATEN // MIB})]\nanswer = len(kept)"
_FORK = f"""
import os, signal
children, answer = [], None
try:
    for _ in range({_FORKS}):
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
except OSError as error:
    answer = error.errno
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
answer = [len(children), answer]
"""
_FILL = f"""
import os
path, answer = os.environ.get("TMPDIR", "/tmp") + "/fill", None
handle, written = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), 0
try:
    while written < {2 * TMP_BYTES}:
        written += os.write(handle, bytes(1 << 16))
except OSError as error:
    answer = error.errno
os.close(handle)
os.unlink(path)
answer = [written, answer]
"""


async def memory(engine: Engine, plan: LaunchPlan, hint: str | None) -> Finding:
    """Take twice the memory."""
    check = Check(AREA, "memory", hint or "the kernel's memory controller: cgroup_enable=memory at its boot")
    limit = LIMITS.memory_bytes // MIB
    async with guest(engine, plan) as one:
        taken = await one.run(_EAT)
        if isinstance(taken, int):
            return check.weak(f"it took {taken} MiB with a limit of {limit}")
        if not isinstance(taken, dict):
            end = await one.sandbox.ended()
            if end.out_of_memory:
                peak = end.memory_peak_bytes // MIB
                return check.holds(f"ended at {peak} MiB of {limit}, and told so")
        return check.weak("it ended without being told from other ends")


async def processes(engine: Engine, plan: LaunchPlan, hint: str | None) -> Finding:
    """Start more processes than are allowed."""
    check = Check(AREA, "processes", hint or "the kernel's pids controller (CONFIG_CGROUP_PIDS)")
    async with guest(engine, plan) as one:
        made, number = await one.run(_FORK)
        counted = (await one.sandbox.usage()).processes_limit_hit
    if number != errno.EAGAIN or made > LIMITS.processes:
        return check.weak(f"it started {made} with a limit of {LIMITS.processes}")
    if not counted:
        return check.weak("refused, but not counted")
    return check.holds(f"refused after {made} of its own, and told so")


async def tmp(engine: Engine, plan: LaunchPlan, hint: str | None) -> Finding:
    """Write more to /tmp than it holds."""
    check = Check(AREA, "/tmp", hint or "a kernel with tmpfs (CONFIG_TMPFS)")
    async with guest(engine, plan) as one:
        written, number = await one.run(_FILL)
    if number != errno.ENOSPC or written > TMP_BYTES:
        return check.weak(f"it took {written / MIB:.1f} MiB with a limit of {TMP_BYTES // MIB}")
    return check.holds(f"full at {written / MIB:.1f} MiB of {TMP_BYTES // MIB}")


async def cpu(engine: Engine, plan: LaunchPlan, hint: str | None) -> Finding:
    """Have two guests with different weights want one core."""
    check = Check(AREA, "CPU weight", hint or "the kernel's cpu controller (CONFIG_FAIR_GROUP_SCHED)")
    core = min(os.sched_getaffinity(0))
    small, big = (replace(LIMITS, cpu_millis=millis) for millis in _CPU_MILLIS)
    async with guest(engine, plan, small) as light, guest(engine, plan, big) as heavy:
        source = (
            f"import os, time\nos.sched_setaffinity(0, {{{core}}})\n"
            f"start = {time.monotonic() + 0.3}\n"  # the clock is the same inside
            "while time.monotonic() < start: pass\n"
            "began = time.process_time()\n"
            f"while time.monotonic() < start + {_SPIN_S}: pass\n"
            "answer = time.process_time() - began"
        )
        less, more = await asyncio.gather(light.run(source), heavy.run(source))
    if not isinstance(less, float) or not isinstance(more, float):
        return check.untried("the guests could not compute")
    if less + more < _SPIN_CPU_S_MIN:
        return check.untried("the machine is too busy to tell", "try again when it is less busy")
    ratio = more / max(less, 0.001)
    meant = _CPU_MILLIS[1] / _CPU_MILLIS[0]
    said = f"two on one core with weights 1 to {meant:.0f} got 1 to {ratio:.1f}"
    return check.holds(said) if ratio >= _CPU_RATIO_MIN else check.weak(said)


CHECKS: dict[str, Callable[[Engine, LaunchPlan, str | None], Awaitable[Finding]]] = {
    "memory": memory,
    "processes": processes,
    "/tmp": tmp,
    "CPU weight": cpu,
}
"""By name. Each takes what to do where no limit is meant to hold, else None."""
