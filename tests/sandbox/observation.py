"""What tests see of the host: processes, mounts, cgroups; and waiting for an end without a sleep."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from stoker.sandbox.engine import Site
from stoker.sandbox.spawn import owner_of
from stoker.sandbox.supervised import SupervisedEngine

END_S_MAX = 1.0
"""What the operating contract allows between the end of a server and the end of all it started."""


def start_python(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start another Python, with a pipe for what it prints."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def next_numbers(process: subprocess.Popen[str]) -> list[int]:
    """Return the numbers of the next line that it prints."""
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


def say_go(process: subprocess.Popen[str]) -> None:
    """Let it read a line."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def kill_minus_nine(process: subprocess.Popen[str]) -> None:
    """Kill it as nobody can prepare for."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def pids() -> list[int]:
    """Return all processes of the machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def processes_of(site: Site) -> list[int]:
    """Return the living processes of all sandboxes of a site, by the name of their cgroup."""
    name = f"/stoker-{owner_of(site.data)}/"
    return [pid for pid in pids() if name in cgroup_of(pid) and not _is_zombie(pid)]


def _is_zombie(pid: int) -> bool:
    """Whether it has ended and only waits to be asked how; one keeps its cgroup's name in version 2."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def owner_of_process(pid: int) -> int | None:
    """Return its uid; None if it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return None


def cgroup_of(pid: int) -> str:
    """Return the text of its /proc/PID/cgroup; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def group_of(pid: int) -> int | None:
    """Return its process group; None if it is gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def mounts_of(pid: int | str = "self") -> list[str]:
    """Return the mounts that a process sees."""
    return Path(f"/proc/{pid}/mountinfo").read_text().splitlines()


def resident_kib(pid: int) -> int:
    """Return the resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def supervisors_of(engine: SupervisedEngine) -> dict[str, int]:
    """Return the pids of the two processes of a supervisor: `outer`, and `init`, which does the work."""
    outer = engine._supervisor.pid
    init = int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])
    return {"outer": outer, "init": init}


async def end_of(pidfd: int) -> None:
    """Wait for the end of a process and close its pidfd; TimeoutError if it lives on."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(pidfd, ready.set)
    try:
        async with asyncio.timeout(END_S_MAX):
            await ready.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


async def eventually(holds: Callable[[], bool], within_s: float = 5.0) -> bool:
    """Ask again and again: what is cleared away behind the scenes sends no word."""
    try:
        async with asyncio.timeout(within_s):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    except TimeoutError:
        return False
    return True
