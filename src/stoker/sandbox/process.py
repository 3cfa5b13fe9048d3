"""The engine without isolation: a function is an ordinary child process of the server.

Owns its folders (below `DATA/processes`), its process group and its end. Limits neither memory nor CPU nor
processes, and a process that leaves its group outlives it: for trying things out, never for code of
others. Does not know OCI.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stoker.model.errors import PlatformError
from stoker.model.launch import Code, Exit, InstanceLimits, LaunchPlan
from stoker.model.network import NetworkUse
from stoker.sandbox import copying, kernel
from stoker.sandbox.bundle import FILES_MAX
from stoker.sandbox.engine import Sandbox, SandboxGone, Site, WayOut
from stoker.sandbox.exits import exit_of
from stoker.sandbox.stats import stats_of
from stoker.sandbox.watchdog import Watchdog

FOLDER = "processes"


class ProcessSandbox:
    """`Sandbox` in name only: a process group."""

    def __init__(
        self,
        home: Path,
        process: subprocess.Popen[bytes],
        wire: socket.socket,
        output: int,
        watchdog: Watchdog,
    ) -> None:
        self.id = home.name
        self.pid: int | None = process.pid
        self.wire = wire
        self.output = output
        self.code_root = str(home / "code")
        self.environment: Mapping[str, str] = {}
        self._home = home
        self._process = process
        self._watchdog = watchdog
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(process.pid)
        self._killed = False
        self._copying = False
        self._exit: asyncio.Future[Exit] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._first_process_ended)

    async def assign(self, code: Code | None, limits: InstanceLimits, tunnels: tuple[str, ...] = ()) -> None:
        """Copy the code to `code_root`; the limits are not kept."""
        if code is None:
            return
        self._copying = True
        try:
            await asyncio.to_thread(_copy, code, self._home / "code")
        except (OSError, copying.NotPlain) as error:
            self.kill()
            raise PlatformError("The code could not be given to the function.") from error
        finally:
            self._copying = False
            if self._exit.done():
                remove_folder(self._home)
        if self._exit.done():
            raise SandboxGone("The process ended before it was given to the function.")

    def reach(self, way_out: WayOut) -> None:
        """Nothing: it has the network of this machine."""

    def tally(self, taken: Callable[[tuple[NetworkUse, ...]], None]) -> None:
        """Nobody counts."""
        taken(())

    def kill(self) -> None:
        """Kill the process group."""
        if not self._exit.done():
            self._killed = True
            _kill_group(self._process.pid)

    async def ended(self) -> Exit:
        """Wait for the first process; the rest of its group has been killed by then."""
        return await asyncio.shield(self._exit)

    async def usage(self) -> Exit:
        """Return the peak alone."""
        if self._exit.done():
            return self._exit.result()
        return Exit(memory_peak_bytes=_peak_bytes(self._process.pid))

    def memory_peak(self) -> int:
        """Return the sum of the peaks of the first process and its children."""
        return self._exit.result().memory_peak_bytes if self._exit.done() else _peak_bytes(self._process.pid)

    async def stats(self) -> dict[str, Any] | None:
        """Return what the kernel counts of the first process and its children; they have no limits."""
        if self._exit.done():
            return None
        family = _family(self._process.pid)
        used_bytes = sum(_memory_bytes(pid, "VmRSS") for pid in family)
        times = [_times(pid) for pid in family]
        user_ns, kernel_ns = sum(one[0] for one in times), sum(one[1] for one in times)
        return stats_of(
            total_ns=user_ns + kernel_ns,
            user_ns=user_ns,
            kernel_ns=kernel_ns,
            throttling=(0, 0, 0),
            memory={"usage": used_bytes, "limit": 0, "max": self.memory_peak(), "failcnt": 0},
            cache_bytes=0,
            memory_stat={},
            pids={"current": sum(one[2] for one in times), "limit": 0},
            blkio=[],
        )

    def close_descriptors(self) -> None:
        """Close what no caller has taken."""
        self.wire.close()
        os.close(self.output)

    def _first_process_ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # Before it is reaped, as until then nobody else can have its number.
        _kill_group(self._process.pid)
        self._watchdog.drop(self._process.pid)
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        code, number = exit_of(status)
        if not self._copying:
            remove_folder(self._home)
        self._exit.set_result(
            Exit(
                code=code,
                signal=number,
                killed_from_outside=self._killed,
                memory_peak_bytes=used.ru_maxrss * 1024,
            )
        )


class ProcessEngine:
    """`Engine` of plain processes."""

    name = "process"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._root = site.data / FOLDER
        self._sandboxes: set[ProcessSandbox] = set()
        self._waits: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._watchdog = Watchdog()

    def open(self) -> None:
        """Make the folder of all sandboxes, without what a killed server left in it."""
        remove_folder(self._root)
        self._root.mkdir(mode=0o700, parents=True)
        self._watchdog.open()

    async def boot(self, plan: LaunchPlan, *, urgent: bool) -> Sandbox:
        """Start the plan's `process_argv`."""
        if self._ended.is_set() or plan not in self._site.plans:
            raise PlatformError("Only the plans of an open site can be booted.")
        sandbox = self._start(plan)
        self._sandboxes.add(sandbox)
        wait = asyncio.create_task(self._forget_at_end(sandbox), name=f"process {sandbox.id}")
        self._waits.add(wait)
        wait.add_done_callback(self._waits.discard)
        return sandbox

    async def hurry(self, sandbox: Sandbox) -> None:
        """Nothing: all boot at the same weight."""

    async def close(self) -> None:
        """Kill every process group and remove all folders."""
        self._ended.set()
        for sandbox in list(self._sandboxes):
            sandbox.kill()
        await asyncio.gather(*self._waits)
        self._watchdog.close()
        remove_folder(self._root)

    async def ended(self) -> None:
        """Wait until it is closed."""
        await self._ended.wait()

    async def _forget_at_end(self, sandbox: ProcessSandbox) -> None:
        await sandbox.ended()
        self._sandboxes.discard(sandbox)

    def _start(self, plan: LaunchPlan) -> ProcessSandbox:
        home = self._root / secrets.token_hex(6)
        for folder in (home, home / "code", home / "tmp"):
            folder.mkdir(mode=0o700)
        wire, theirs = socket.socketpair()
        output, end = os.pipe()
        try:
            process = subprocess.Popen(
                list(plan.process_argv),
                env={**dict(plan.env), "HOME": str(home / "tmp"), "TMPDIR": str(home / "tmp")},
                cwd=home / "code",
                stdin=theirs.fileno(),
                stdout=end,
                stderr=end,
                start_new_session=True,
                preexec_fn=_before_exec,
            )
        except OSError as error:
            wire.close()
            os.close(output)
            remove_folder(home)
            raise PlatformError("A process could not be started.") from error
        finally:
            theirs.close()
            os.close(end)
        wire.setblocking(False)
        os.set_blocking(output, False)
        self._watchdog.add(process.pid)
        return ProcessSandbox(home, process, wire, output, self._watchdog)


def _before_exec() -> None:
    kernel.die_with_parent(signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    files = min(FILES_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def _copy(code: Code, destination: Path) -> None:
    source = os.open(code.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        target = os.open(destination, os.O_RDONLY | os.O_DIRECTORY)
        try:
            copying.copy_tree(source, target, owner=None, writable=code.writable)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _peak_bytes(pid: int) -> int:
    return sum(_memory_bytes(one, "VmHWM") for one in _family(pid))


def _family(pid: int) -> list[int]:
    """Return a process, which may be a shell that runs the program, and its children."""
    return [pid, *map(int, _proc(f"{pid}/task/{pid}/children").split())]


def _memory_bytes(pid: int, name: str) -> int:
    """Return what /proc/PID/status says by that name; 0 of one that has ended."""
    lines = (line.split() for line in _proc(f"{pid}/status").splitlines())
    return next((int(words[1]) * 1024 for words in lines if words and words[0] == f"{name}:"), 0)


def _times(pid: int) -> tuple[int, int, int]:
    """Return how long a process computed for itself and in the kernel, in nanoseconds, and its threads."""
    fields = _proc(f"{pid}/stat").rpartition(")")[2].split()
    if not fields:
        return 0, 0, 0
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return int(fields[11]) * tick_ns, int(fields[12]) * tick_ns, int(fields[17])


def _proc(file: str) -> str:
    """Return the text of a file below /proc; nothing if the process has ended."""
    try:
        return Path("/proc", file).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def remove_folder(path: Path) -> None:
    """Remove a folder with all in it, read-only ones too; nothing if it is not there."""
    if not path.is_dir():
        return
    for _, _, _, handle in os.fwalk(path):
        os.fchmod(handle, 0o700)
    shutil.rmtree(path)
