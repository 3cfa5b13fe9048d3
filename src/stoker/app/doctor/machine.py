"""What the machine itself gives: control groups, open files, a clock. Does not know sandboxes."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import stoker
from stoker.app.doctor.finding import Check, Finding
from stoker.app.open_files import connections_max_of, raise_open_files
from stoker.model.limits import Limits
from stoker.sandbox.cgroups import NEEDED, mounts_of

AREA = "machine"
STEP_S_MAX = 0.5
"""A clock on the wall that goes on by so much more or less than time does has been set meanwhile."""
_TIME_ERROR = 5


def control_groups() -> Finding:
    """Tell which version of control groups has the controllers that limits need."""
    check = Check(AREA, "control groups", "mount cgroup2 at /sys/fs/cgroup, with memory, pids and cpu")
    mounts = mounts_of(Path("/proc/self/mountinfo").read_text())
    first = {name for mount in mounts if mount.version == 1 for name in mount.controllers}
    if first.issuperset(NEEDED):
        return check.holds(f"version 1, with {', '.join(NEEDED)}")
    second: set[str] = set()
    for mount in mounts:
        if mount.version == 2:
            second |= set((Path(mount.point) / "cgroup.controllers").read_text().split())
    missing = [name for name in NEEDED if name not in second]
    if missing:
        return check.weak(f"no {', '.join(missing)}" if mounts else "none are mounted")
    return check.holds(f"version 2, with {', '.join(NEEDED)}")


def open_files(limits: Limits) -> Finding:
    """Ask for as many open files as a server does."""
    check = Check(AREA, "open files", "ulimit -Hn 65536, or LimitNOFILE=65536 of its systemd unit")
    files = raise_open_files()
    clients = connections_max_of(files, limits)
    said = f"{files}, enough for {clients} clients at once"
    if clients < limits.connections_max:
        return check.weak(f"{said}, not {limits.connections_max}")
    return check.holds(said)


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment, as both clocks have it."""

    wall_s: float
    monotonic_s: float

    @classmethod
    def now(cls) -> Moment:
        """Return this one."""
        return cls(time.time(), time.monotonic())


def clock(began: Moment, now: Moment) -> Finding:
    """Judge the clock on the wall by what it did since `began`, and by when stoker was installed."""
    check = Check(AREA, "clock", "set it, and have a time service keep it: timedatectl set-ntp true")
    installed_s = Path(stoker.__file__).stat().st_mtime
    said = datetime.fromtimestamp(now.wall_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if now.wall_s < installed_s:
        return check.weak(f"{said} is before stoker was installed")
    step_s = (now.wall_s - began.wall_s) - (now.monotonic_s - began.monotonic_s)
    if abs(step_s) > STEP_S_MAX:
        return check.weak(f"{said}; it jumped by {step_s:+.1f} s meanwhile")
    return check.holds(said if _is_synchronised() else f"{said}; no time service here")


def _is_synchronised() -> bool:
    """Whether the kernel was told so by a time service."""
    modes_none = ctypes.create_string_buffer(512)  # struct timex, all zero: nothing is changed
    return bool(ctypes.CDLL(None).adjtimex(modes_none) != _TIME_ERROR)
