"""Which engine a server gets: the strongest that is seen to work here.

Owns the order of preference, the trial and the words for a machine that offers nothing. An engine is not
believed: two sandboxes try to break out of small limits, and only if both are stopped is it taken. Does not
know what runs in the sandboxes later.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import replace

from stoker.model.errors import PlatformError
from stoker.model.launch import Exit, InstanceLimits, LaunchPlan
from stoker.sandbox.engine import Engine, IsolationUnavailable, Notice, Sandbox, Site
from stoker.sandbox.process import ProcessEngine
from stoker.sandbox.spawn import start_supervisor

AUTO = ("crun", "runc")
NAMES = (*AUTO, "runsc")
TRIAL_S_MAX = 20.0
_TRIAL_LIMITS = InstanceLimits(memory_bytes=32 << 20, cpu_millis=1000, processes=8)
_PROCESSES, _MEMORY = "processes", "memory"
_SCRIPT = f"""
exec 3<&0
read -r way
step=0
case $way in
{_PROCESSES}) while [ $step -lt 40 ]; do (read -r hold <&3) & step=$((step + 1)); done ;;
{_MEMORY}) fill=0123456789abcdef; while [ $step -lt 23 ]; do fill=$fill$fill; step=$((step + 1)); done ;;
esac
"""
"""Goes to five times the processes or four times the memory that it may have, and ends if it is let."""
_AS_ROOT = "sudo ./dev serve"
_WITHOUT = "./dev serve --isolation process"


async def open_engine(
    isolation: str,
    site: Site,
    notice: Notice,
    *,
    which: Callable[[str], str | None] = shutil.which,
    user: Callable[[], int] = os.geteuid,
) -> Engine:
    """Return an engine that works: `auto`, or one of `crun`, `runc`, `runsc`, `process` by name.

    Has to be called as root but for `process`; root may be given up afterwards. Raises
    IsolationUnavailable, with the command to type as its `hint`.
    """
    if isolation == "process":
        process = ProcessEngine(site)
        process.open()
        return process
    names = AUTO if isolation == "auto" else (isolation,)
    if user() != 0:
        # Limits hold only in a delegated scope of the user's own systemd (cgroup v2) and with subordinate ids
        # (newuidmap); the supervisor does not know how to get there.
        raise IsolationUnavailable(
            "Isolating functions needs root: an ordinary user's limits are not known to hold.", hint=_AS_ROOT
        )
    found = [(name, binary) for name in names if (binary := which(name)) is not None]
    if not found:
        raise IsolationUnavailable(
            f"No OCI runtime is installed: {' or '.join(names)} is missing.",
            hint=f"apt-get install -y {names[0]}",
        )
    failures = []
    for name, binary in found:
        try:
            return await _tried(name, binary, site, notice)
        except IsolationUnavailable as error:
            notice("sandbox.engine_unusable", {"engine": name, "reason": error.message})
            failures.append(error.message)
    raise IsolationUnavailable(" ".join(failures), hint=_WITHOUT)


async def _tried(name: str, binary: str, site: Site, notice: Notice) -> Engine:
    trial = trial_plan(site.plans[0])
    engine = await start_supervisor(name, binary, replace(site, plans=(*site.plans, trial)), notice)
    try:
        async with asyncio.timeout(TRIAL_S_MAX):
            processes, memory = await asyncio.gather(
                _stopped(engine, trial, _PROCESSES), _stopped(engine, trial, _MEMORY)
            )
    except (PlatformError, TimeoutError) as error:
        await engine.close()
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise IsolationUnavailable(f"{name} could not run a sandbox within its limits{cause}.") from error
    except BaseException:
        await engine.close()
        raise
    weak = [
        what
        for what, held in (("memory", memory.out_of_memory), ("processes", processes.processes_limit_hit))
        if not held
    ]
    if weak:
        await engine.close()
        raise IsolationUnavailable(f"{name} does not limit {' and '.join(weak)} here.")
    return engine


def trial_plan(plan: LaunchPlan) -> LaunchPlan:
    """Return a plan whose program, told so on its wire, goes past a limit."""
    return replace(
        plan,
        runtime="trial",
        argv=("/bin/sh", "-c", _SCRIPT),
        env=(("PATH", "/usr/bin:/bin"),),
        own_threads=0,
    )


async def _stopped(engine: Engine, trial: LaunchPlan, way: str) -> Exit:
    sandbox = await engine.boot(trial, urgent=True)
    try:
        return await _provoke(sandbox, way)
    finally:
        sandbox.kill()
        sandbox.wire.close()
        os.close(sandbox.output)


async def _provoke(sandbox: Sandbox, way: str) -> Exit:
    await sandbox.assign(None, _TRIAL_LIMITS)
    await asyncio.get_running_loop().sock_sendall(sandbox.wire, f"{way}\n".encode())
    return await sandbox.ended()
