"""The supervisor's work: it starts sandboxes, gives them to functions and clears them away.

Owns the table of sandboxes and the order of steps in a life. Never blocks: runtimes and copies are child
processes, everything else is a few system calls. Ends when the gateway does, and everything with it. Does
not know HTTP, functions or accounts. Standard library only.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import signal
import socket
import time

from stoker.model.packet import Malformed
from stoker.sandbox import bundle, copier, names
from stoker.sandbox.cell import Cell, State
from stoker.sandbox.cgroups import SHARES_PER_CORE, SPARE_SHARES, Cgroups
from stoker.sandbox.egress_port import EgressPorts
from stoker.sandbox.exits import exit_of
from stoker.sandbox.layers import Folders
from stoker.sandbox.loop import Loop
from stoker.sandbox.oci import OciRuntime
from stoker.sandbox.post import Gone, Post
from stoker.sandbox.protocol import (
    Assign,
    Boot,
    Booted,
    Brokered,
    Count,
    Counted,
    Done,
    Ended,
    Failed,
    Hurry,
    Kill,
    Note,
    Ready,
    Report,
    Request,
    Setup,
    Usage,
    Used,
    cut,
    request,
)

SLOTS = 4096
"""Sandboxes at once; each owns its own range of host uids."""
START_S_MAX = 60.0
"""After which an OCI runtime that has not returned is given up."""
REMOVE_RETRY_S = 0.01
REMOVALS_MAX = 500
OOM_RECHECKS_S = (0.002, 0.02, 0.2)
"""The kernel signals just before it kills, so that the count may still be 0."""
FAREWELL_STEP_S = 0.002
FAREWELL_S_MAX = 0.7
"""For clearing up after the gateway is gone; within a second all is over in any case."""


class Supervisor:
    """The table of sandboxes, driven by packets, by the ends of children and by the clock."""

    def __init__(
        self,
        setup: Setup,
        control: socket.socket,
        gateway: int,
        cgroups: Cgroups,
        folders: Folders,
        runtime: OciRuntime,
    ) -> None:
        self._setup = setup
        self._control = control
        self._gateway = gateway
        self._cgroups = cgroups
        self._folders = folders
        self._runtime = runtime
        self._post = Post(control)
        self._loop = Loop()
        self._egress = EgressPorts(setup.egress, self._loop, self._broker_started, self._broker_ended)
        self._namespaces = names.Namespaces()
        self._cells: dict[str, Cell] = {}
        self._starting = 0
        self._slots = list(range(SLOTS))

    def run(self) -> None:
        """Serve until the gateway is gone; then kill all, clear up and return."""
        self._control.setblocking(False)
        self._loop.open()
        self._loop.watch(self._control.fileno(), self._hear)
        self._loop.watch(self._gateway, self._gateway_ended)
        try:
            self._egress.start()
            self._say(Ready())
            while True:
                self._loop.turn()
        except (Gone, Malformed):
            self._farewell()

    def _gateway_ended(self) -> None:
        raise Gone

    def _broker_started(self, gateway: int) -> None:
        self._say(Brokered(), (gateway,))

    def _broker_ended(self, status: int) -> None:
        self._say(Note("sandbox.egress_broker_ended", f"status {os.waitstatus_to_exitcode(status)}"))

    def _hear(self) -> None:
        while (packet := self._post.receive()) is not None:
            self._obey(request(packet))

    def _say(self, report: Report, descriptors: tuple[int, ...] = ()) -> None:
        if not self._post.send(report, descriptors):
            self._loop.watch(self._control.fileno(), self._hear, self._flush)

    def _flush(self) -> None:
        if self._post.flush():
            self._loop.watch(self._control.fileno(), self._hear)

    def _obey(self, wanted: Request) -> None:
        if isinstance(wanted, Boot):
            self._boot(wanted)
            return
        cell = self._cells.get(wanted.sandbox)
        if cell is None or cell.state is not State.LIVE:
            if isinstance(wanted, Assign | Usage | Count):
                self._say(Failed(wanted.tag, "the sandbox is gone"))
        elif isinstance(wanted, Kill):
            cell.kill()
        elif isinstance(wanted, Assign):
            self._assign(cell, wanted)
        elif isinstance(wanted, Usage):
            figures = self._cgroups.figures(cell.id)
            self._say(Used(wanted.tag, figures.memory_peak_bytes, figures.processes_limit_hit))
        elif isinstance(wanted, Count):
            self._count(cell, wanted)
        elif isinstance(wanted, Hurry) and cell.assigned is None:
            self._cgroups.weigh(cell.id, SHARES_PER_CORE)

    def _count(self, cell: Cell, wanted: Count) -> None:
        try:
            self._say(Counted(wanted.tag, self._cgroups.stats(cell.id)))
        except OSError as error:
            self._say(Failed(wanted.tag, cut(str(error))))

    # A life, step by step.

    def _boot(self, wanted: Boot) -> None:
        plan = self._setup.plans.get(wanted.plan)
        if plan is None or not self._slots:
            self._say(Failed(wanted.tag, "no such plan" if plan is None else "no free slot"))
            return
        sandbox, slot = os.urandom(6).hex(), heapq.heappop(self._slots)
        try:
            self._folders.add(sandbox)
            launch = self._runtime.launch(sandbox, wanted.plan, plan, self._cgroups.path(sandbox), slot)
        except OSError as error:
            self._folders.remove(sandbox)
            heapq.heappush(self._slots, slot)
            self._say(Failed(wanted.tag, cut(str(error))))
            return
        cell = Cell(sandbox, slot, plan.own_threads, wanted, launch)
        self._cells[sandbox] = cell
        self._starting += 1
        self._loop.at_end(launch.pid, lambda status: self._runtime_ended(cell, status))
        self._loop.after(START_S_MAX, lambda: self._give_up(cell))

    def _give_up(self, cell: Cell) -> None:
        if cell.state is State.STARTING:
            # Its children first: one of them does the work and would go on without it.
            for pid in reversed(_with_descendants(cell.launch.pid)):
                _kill(pid)

    def _runtime_ended(self, cell: Cell, status: int) -> None:
        gone = memory = None
        try:
            if status != 0:
                raise ChildProcessError(self._runtime.complaint(cell.id))
            first_pid = self._runtime.first_process(cell.id)
            memory = os.open(self._cgroups.memory_file(cell.id), os.O_RDONLY | os.O_CLOEXEC)
            # It may be gone before its runtime returned.
            gone = self._loop.stray(first_pid)
            if gone is None:
                cell.pidfd = os.pidfd_open(first_pid)
                self._loop.at_end(first_pid, lambda status: self._first_process_ended(cell, status))
                self._watch(cell)
        except (OSError, ValueError) as error:
            if memory is not None:
                os.close(memory)
            self._start_failed(cell, str(error))
            return
        finally:
            self._starting -= 1
            if not self._starting:
                self._loop.drop_strays()
        cell.enter(State.LIVE)
        self._open_egress(cell)
        handles = (cell.launch.wire, cell.launch.output, memory)
        self._say(
            Booted(cell.boot.tag, cell.id), handles if cell.pidfd is None else (*handles, os.dup(cell.pidfd))
        )
        if gone is not None:
            self._first_process_ended(cell, gone)

    def _start_failed(self, cell: Cell, reason: str) -> None:
        os.close(cell.launch.wire)
        os.close(cell.launch.output)
        self._say(Failed(cell.boot.tag, cut(reason)))
        if cell.pidfd is None:
            cell.enter(State.OVER)
            self._clear(cell)
        else:
            cell.enter(State.LIVE)
            cell.kill()

    def _open_egress(self, cell: Cell) -> None:
        if cell.pidfd is not None:
            try:
                self._egress.open(cell.id, cell.pidfd)
            except OSError as error:
                # It runs, and reaches nothing.
                self._say(Note("sandbox.egress_port", cut(str(error))))

    def _open_tunnels(self, cell: Cell, tunnels: tuple[str, ...]) -> None:
        """Make the names of tunnels resolve, and their ports listen; no code of a user has run in it."""
        if cell.pidfd is None:
            raise ChildProcessError("the sandbox is gone")
        self._egress.open_tunnels(cell.id, cell.pidfd, tunnels)
        names.write_hosts(self._folders.hosts(cell.id), tunnels)
        self._namespaces.show_hosts(self._folders.hosts(cell.id), cell.pidfd)

    def _watch(self, cell: Cell) -> None:
        self._cgroups.weigh(cell.id, SHARES_PER_CORE if cell.boot.urgent else SPARE_SHARES)
        cell.oom_event = self._cgroups.watch(cell.id)
        if cell.oom_event is not None:
            self._loop.watch(cell.oom_event, lambda: self._oom(cell))

    def _oom(self, cell: Cell) -> None:
        if cell.oom_event is not None:
            os.eventfd_read(cell.oom_event)
        self._check_oom(cell, OOM_RECHECKS_S)

    def _check_oom(self, cell: Cell, rechecks_s: tuple[float, ...]) -> None:
        """Kill the whole sandbox if the kernel has killed one of its processes."""
        if cell.state is not State.LIVE:
            return
        if self._cgroups.figures(cell.id).out_of_memory:
            cell.kill()
        elif rechecks_s:
            self._loop.after(rechecks_s[0], lambda: self._check_oom(cell, rechecks_s[1:]))

    def _assign(self, cell: Cell, wanted: Assign) -> None:
        if cell.assigned is not None:
            self._say(Failed(wanted.tag, "the sandbox belongs to a function already"))
            return
        cell.assigned = wanted
        try:
            if wanted.tunnels:
                self._open_tunnels(cell, wanted.tunnels)
            if wanted.folder is not None and wanted.writable:
                self._start_copy(cell, wanted, wanted.folder)
                return
            if wanted.folder is not None:
                self._folders.show(cell.id, wanted.folder)
            self._limit(cell, wanted)
        except OSError as error:
            self._assign_failed(cell, wanted, str(error))

    def _limit(self, cell: Cell, wanted: Assign) -> None:
        self._cgroups.limit(
            cell.id,
            memory_bytes=wanted.memory_bytes,
            shares=max(SPARE_SHARES, wanted.cpu_millis * SHARES_PER_CORE // 1000),
            processes=cell.own_threads + wanted.processes,
        )
        self._say(Done(wanted.tag))

    def _assign_failed(self, cell: Cell, wanted: Assign, reason: str) -> None:
        self._say(Failed(wanted.tag, cut(reason)))
        cell.kill()

    def _start_copy(self, cell: Cell, wanted: Assign, folder: str) -> None:
        pid = os.fork()
        if pid == 0:
            copier.copy_and_exit(self._folders, cell.id, folder, bundle.host_uid(cell.slot))
        cell.copier_pid = pid
        self._loop.at_end(pid, lambda status: self._copy_ended(cell, wanted, status))

    def _copy_ended(self, cell: Cell, wanted: Assign, status: int) -> None:
        cell.copier_pid = None
        if cell.state is not State.LIVE:
            self._say(Failed(wanted.tag, "the sandbox is gone"))
            if cell.state is State.OVER:
                self._clear(cell)
            return
        try:
            if status != 0:
                raise ChildProcessError(f"copying the code ended with status {status}")
            self._folders.show_room(cell.id)
            self._limit(cell, wanted)
        except OSError as error:
            self._assign_failed(cell, wanted, str(error))

    def _first_process_ended(self, cell: Cell, status: int) -> None:
        figures = self._cgroups.figures(cell.id)
        if cell.oom_event is not None:
            self._loop.forget(cell.oom_event)
        cell.close()
        self._egress.shut(cell.id)
        cell.enter(State.OVER)
        code, number = exit_of(status)
        report = Ended(
            sandbox=cell.id,
            code=code,
            signal=number,
            # A program may break its first process, which has its uid, but not send it this.
            killed_from_outside=os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
            out_of_memory=figures.out_of_memory,
            processes_limit_hit=figures.processes_limit_hit,
            memory_peak_bytes=figures.memory_peak_bytes,
        )
        self._say(report)
        if cell.copier_pid is not None:
            _kill(cell.copier_pid)
        else:
            self._loop.after(0.0, lambda: self._clear(cell))

    def _clear(self, cell: Cell) -> None:
        """Give back what it used, off everybody's path; tried again while its cgroup is busy."""
        for pid in self._cgroups.members(cell.id):
            _kill(pid)
        if not self._cgroups.remove(cell.id) and cell.removals < REMOVALS_MAX:
            cell.removals += 1
            self._loop.after(REMOVE_RETRY_S, lambda: self._clear(cell))
            return
        del self._cells[cell.id]
        try:
            self._folders.remove(cell.id)
        except OSError as error:
            # Its slot is not used again, as something of it may be left.
            self._say(Note("sandbox.leftover", cut(str(error))))
            return
        heapq.heappush(self._slots, cell.slot)

    def _farewell(self) -> None:
        """The gateway is gone: kill all, and remove the cgroups as far as time allows."""
        deadline = time.monotonic() + FAREWELL_S_MAX
        with contextlib.suppress(ProcessLookupError):
            # All of this PID namespace, whose init we are; children of an OCI runtime that works too.
            os.kill(-1, signal.SIGKILL)
        while time.monotonic() < deadline and (_a_child_is_left() or not self._groups_removed()):
            time.sleep(FAREWELL_STEP_S)

    def _groups_removed(self) -> bool:
        removed = [self._cgroups.remove(sandbox) for sandbox in self._cgroups.children()]
        return all(removed) and self._cgroups.close()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _with_descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError), open(f"/proc/{parent}/task/{parent}/children") as file:
            found += map(int, file.read().split())
    return found


def _a_child_is_left() -> bool:
    """Reap what has ended; an orphan of the namespace is a child of its init."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        return False
    return True
