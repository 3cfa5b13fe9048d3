"""How the supervisor comes into the world: from a child of the gateway to init of its own namespaces.

    gateway --spawns--> outer --forks--> init (pid 1 of a PID namespace, private mounts, the supervisor)

Outer clears what a killed server left behind (it still sees the host's pids), enters the new namespaces
and waits. If the gateway dies, init reads the end of its socket; if outer dies, the kernel kills init; if
init dies, the kernel kills every process of its PID namespace: all sandboxes. Standard library only, and
as little of it as possible.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time

from stoker.model.packet import PACKET_BYTES_MAX, Malformed, encode
from stoker.sandbox import kernel
from stoker.sandbox.cgroups import Cgroups, CgroupsUnusable, Mount, mounts_of
from stoker.sandbox.cgroups_v1 import CgroupsV1
from stoker.sandbox.cgroups_v2 import CgroupsV2
from stoker.sandbox.layers import Folders
from stoker.sandbox.oci import OciRuntime
from stoker.sandbox.protocol import Refused, Setup, cut, setup
from stoker.sandbox.supervisor import Supervisor

LEFTOVERS_S_MAX = 3.0


def main(control_fd: int, gateway_pid: int) -> int:
    """Be the supervisor on the given control socket until the gateway is gone; return an exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A terminal or service manager signals the whole group; the gateway decides when this one ends.
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    os.umask(0o022)
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    try:
        gateway = os.pidfd_open(gateway_pid)
        if os.getppid() != gateway_pid:
            return 1
        first = setup(control.recv(PACKET_BYTES_MAX))
        mounts = mounts_of(_text("/proc/self/mountinfo"))
        cgroups = cgroups_of(mounts, f"stoker-{first.owner}")
        remove_leftovers(cgroups)
        cgroups.prepare(os.cpu_count() or 1)
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWPID)
    except (OSError, Malformed, CgroupsUnusable) as error:
        control.send(encode(Refused(cut(str(error)))))
        return 1
    child = os.fork()
    if child == 0:
        os._exit(_init(first, control, gateway, cgroups, mounts))
    control.close()
    os.close(gateway)
    _, status = os.waitpid(child, 0)
    return 1 if status else 0


def cgroups_of(mounts: list[Mount], name: str) -> Cgroups:
    """Return the control groups of this machine; version 1 where it has the memory controller."""
    first = [mount for mount in mounts if mount.version == 1]
    if any("memory" in mount.controllers for mount in first):
        return CgroupsV1(first, name)
    for mount in mounts:
        if mount.version == 2:
            return CgroupsV2(mount.point, name)
    raise CgroupsUnusable("no cgroup file system is mounted")


def remove_leftovers(cgroups: Cgroups) -> None:
    """Kill what a former server of the same data directory left running, and remove its cgroups."""
    deadline = time.monotonic() + LEFTOVERS_S_MAX
    for sandbox in cgroups.children():
        while not cgroups.remove(sandbox) and time.monotonic() < deadline:
            for pid in cgroups.members(sandbox):
                if pid > 0:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def _init(first: Setup, control: socket.socket, gateway: int, cgroups: Cgroups, mounts: list[Mount]) -> int:
    try:
        kernel.die_with_parent(signal.SIGKILL)
        kernel.hide_memory()
        folders = Folders(first.code_root, {name: plan.layers for name, plan in first.plans.items()})
        folders.build()
        hybrid = [mount.point for mount in mounts if mount.version == 2]
        if isinstance(cgroups, CgroupsV1):
            # crun refuses a machine that has both versions; in this mount namespace it has one.
            for point in hybrid:
                kernel.umount(point)
        runtime = OciRuntime(
            first.runtime,
            first.binary,
            folders,
            tmp_bytes_max=first.tmp_bytes_max,
            swap=cgroups.swap_limit,
        )
    except OSError as error:
        control.send(encode(Refused(cut(str(error)))))
        return 1
    supervisor = Supervisor(first, control, gateway, cgroups, folders, runtime)
    supervisor.run()
    return 0


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
