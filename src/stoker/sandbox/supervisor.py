"""The supervisor's work: one loop that starts sandboxes, gives them to functions and clears them away.

Owns the table of sandboxes and the order of steps in a life. Never blocks: runtimes and copies are child
processes, everything else is a few system calls. Ends when the gateway does, and everything with it. Does
not know HTTP, functions or accounts. Standard library only.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable

from stoker.sandbox import bundle, copying
from stoker.sandbox.cell import Cell, State, exit_of
from stoker.sandbox.cgroups import SHARES_PER_CORE, SPARE_SHARES, Cgroups
from stoker.sandbox.layers import Folders
from stoker.sandbox.oci import OciRuntime
from stoker.sandbox.post import Gone, Post
from stoker.sandbox.protocol import (
    Assign,
    Boot,
    Booted,
    Done,
    Ended,
    Failed,
    Hurry,
    Kill,
    Malformed,
    Note,
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
        self._post = Post(control)
        self._gateway = gateway
        self._cgroups = cgroups
        self._folders = folders
        self._runtime = runtime
        self._cells: dict[str, Cell] = {}
        self._by_pid: dict[int, tuple[Callable[[Cell, int], None], Cell]] = {}
        """What to do at the end of a child."""
        self._strays: dict[int, int] = {}
        """Ends of children nobody knows: a first process may be gone before its runtime returns."""
        self._slots = list(range(SLOTS))
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_count = 0
        self._selector = selectors.DefaultSelector()
        self._writing = False
        """Whether the loop waits for the control socket to become writable."""

    def run(self, post_ready: Callable[[Post], None]) -> None:
        """Serve until the gateway is gone; then kill all, clear up and return."""
        self._post.control.setblocking(False)
        wake, woken = socket.socketpair()
        for end in (wake, woken):
            end.setblocking(False)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._selector.register(self._post.control, selectors.EVENT_READ, self._hear)
        self._selector.register(self._gateway, selectors.EVENT_READ, self._gateway_ended)
        self._selector.register(wake, selectors.EVENT_READ, lambda: self._reap(wake))
        try:
            post_ready(self._post)
            while True:
                self._turn(None)
        except (Gone, Malformed):
            self._farewell()

    def _turn(self, until: float | None) -> None:
        """Wait for something to happen, at most until then, and deal with it."""
        deadlines = [at for at in (until, self._timers[0][0] if self._timers else None) if at is not None]
        timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        for key, events in self._selector.select(timeout):
            if events & selectors.EVENT_WRITE:
                self._post.flush()
            if events & selectors.EVENT_READ:
                key.data()
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()
        if self._post.pending is not self._writing:
            self._writing = self._post.pending
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._writing else 0)
            self._selector.modify(self._post.control, wanted, self._hear)

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (time.monotonic() + delay_s, self._timer_count, action))

    def _gateway_ended(self) -> None:
        raise Gone

    def _hear(self) -> None:
        while (packet := self._post.receive()) is not None:
            self._obey(request(packet))

    def _obey(self, wanted: Request) -> None:
        if isinstance(wanted, Boot):
            self._boot(wanted)
            return
        cell = self._cells.get(wanted.sandbox)
        if cell is None or cell.state is not State.LIVE:
            if isinstance(wanted, Assign | Usage):
                self._post.send(Failed(wanted.tag, "the sandbox is gone"))
        elif isinstance(wanted, Kill):
            cell.kill()
        elif isinstance(wanted, Assign):
            self._assign(cell, wanted)
        elif isinstance(wanted, Usage):
            figures = self._cgroups.figures(cell.id)
            self._post.send(Used(wanted.tag, figures.memory_peak_bytes, figures.processes_limit_hit))
        elif isinstance(wanted, Hurry) and cell.assigned is None:
            self._cgroups.weigh(cell.id, SHARES_PER_CORE)

    # A life, step by step.

    def _boot(self, wanted: Boot) -> None:
        plan = self._setup.plans.get(wanted.plan)
        if plan is None or not self._slots:
            self._post.send(Failed(wanted.tag, "no such plan" if plan is None else "no free slot"))
            return
        sandbox, slot = os.urandom(6).hex(), heapq.heappop(self._slots)
        try:
            self._folders.add(sandbox)
            launch = self._runtime.launch(sandbox, wanted.plan, plan, self._cgroups.path(sandbox), slot)
        except OSError as error:
            self._folders.remove(sandbox)
            heapq.heappush(self._slots, slot)
            self._post.send(Failed(wanted.tag, cut(str(error))))
            return
        cell = Cell(sandbox, slot, plan.own_threads, wanted, launch)
        self._cells[sandbox] = cell
        self._by_pid[launch.pid] = (self._runtime_ended, cell)
        self._after(START_S_MAX, lambda: self._give_up(cell))

    def _give_up(self, cell: Cell) -> None:
        if cell.state is State.STARTING and cell.launch.pid in self._by_pid:
            _kill(cell.launch.pid)

    def _runtime_ended(self, cell: Cell, status: int) -> None:
        try:
            if status != 0:
                raise ChildProcessError(self._runtime.complaint(cell.id))
            cell.first_pid = self._runtime.first_process(cell.id)
            gone = self._strays.pop(cell.first_pid, None)
            handles = [cell.launch.wire, cell.launch.output]
            if gone is None:
                cell.pidfd = os.pidfd_open(cell.first_pid)
                handles.append(os.dup(cell.pidfd))
                if not cell.boot.urgent:
                    self._cgroups.weigh(cell.id, SPARE_SHARES)
                self._watch(cell)
        except (OSError, ValueError) as error:
            self._start_failed(cell, str(error))
            return
        cell.enter(State.LIVE)
        self._post.send(Booted(cell.boot.tag, cell.id), tuple(handles))
        if gone is None:
            self._by_pid[cell.first_pid] = (self._first_process_ended, cell)
        else:
            self._first_process_ended(cell, gone)

    def _start_failed(self, cell: Cell, reason: str) -> None:
        os.close(cell.launch.wire)
        os.close(cell.launch.output)
        cell.enter(State.OVER)
        self._post.send(Failed(cell.boot.tag, cut(reason)))
        self._clear(cell)

    def _watch(self, cell: Cell) -> None:
        cell.oom_event = self._cgroups.watch(cell.id)
        if cell.oom_event is not None:
            self._selector.register(cell.oom_event, selectors.EVENT_READ, lambda: self._oom(cell))

    def _oom(self, cell: Cell) -> None:
        if cell.oom_event is not None:
            os.eventfd_read(cell.oom_event)
        self._check_oom(cell, OOM_RECHECKS_S)

    def _check_oom(self, cell: Cell, rechecks_s: tuple[float, ...]) -> None:
        """Kill the whole sandbox if the kernel has killed one of its processes."""
        if cell.state is not State.LIVE:
            return
        if self._cgroups.figures(cell.id).out_of_memory:
            cell.out_of_memory = True
            cell.kill()
        elif rechecks_s:
            self._after(rechecks_s[0], lambda: self._check_oom(cell, rechecks_s[1:]))

    def _assign(self, cell: Cell, wanted: Assign) -> None:
        if cell.assigned is not None:
            self._post.send(Failed(wanted.tag, "the sandbox belongs to a function already"))
            return
        cell.assigned = wanted
        try:
            if wanted.folder is not None and wanted.writable:
                self._start_copy(cell, wanted.folder)
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
            shares=max(2, wanted.cpu_millis * SHARES_PER_CORE // 1000),
            processes=cell.own_threads + wanted.processes,
        )
        self._post.send(Done(wanted.tag))

    def _assign_failed(self, cell: Cell, wanted: Assign, reason: str) -> None:
        self._post.send(Failed(wanted.tag, cut(reason)))
        cell.kill()

    def _start_copy(self, cell: Cell, folder: str) -> None:
        pid = os.fork()
        if pid == 0:
            _copy_and_exit(self._folders, cell, folder)
        cell.copier_pid = pid
        self._by_pid[pid] = (self._copy_ended, cell)

    def _copy_ended(self, cell: Cell, status: int) -> None:
        cell.copier_pid = None
        wanted = cell.assigned
        if wanted is None or cell.state is not State.LIVE:
            if wanted is not None:
                self._post.send(Failed(wanted.tag, "the sandbox is gone"))
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
            self._selector.unregister(cell.oom_event)
        cell.close()
        cell.enter(State.OVER)
        code, number = exit_of(status)
        report = Ended(
            sandbox=cell.id,
            code=code,
            signal=number,
            killed_from_outside=os.WIFSIGNALED(status),
            out_of_memory=cell.out_of_memory or figures.out_of_memory,
            processes_limit_hit=figures.processes_limit_hit,
            memory_peak_bytes=figures.memory_peak_bytes,
        )
        self._post.send(report)
        if cell.copier_pid is not None:
            _kill(cell.copier_pid)
        else:
            self._after(0.0, lambda: self._clear(cell))

    def _clear(self, cell: Cell) -> None:
        """Give back what it used, off everybody's path; tried again while its cgroup is busy."""
        for pid in self._cgroups.members(cell.id):
            _kill(pid)
        if not self._cgroups.remove(cell.id) and cell.removals < REMOVALS_MAX:
            cell.removals += 1
            self._after(REMOVE_RETRY_S, lambda: self._clear(cell))
            return
        try:
            self._folders.remove(cell.id)
        except OSError as error:
            self._post.send(Note("sandbox.leftover", cut(str(error))))
            return  # Its slot is not used again, as something of it may live.
        finally:
            del self._cells[cell.id]
        heapq.heappush(self._slots, cell.slot)

    def _reap(self, wake: socket.socket) -> None:
        wake.recv(4096)
        ended: list[tuple[int, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            ended.append((pid, status))
        for pid, status in ended:
            known = self._by_pid.pop(pid, None)
            if known is not None:
                known[0](known[1], status)
            elif any(cell.state is State.STARTING for cell in self._cells.values()):
                self._strays[pid] = status
        if not any(cell.state is State.STARTING for cell in self._cells.values()):
            self._strays.clear()

    def _farewell(self) -> None:
        """The gateway is gone: kill all, and remove the cgroups as far as time allows."""
        deadline = time.monotonic() + FAREWELL_S_MAX
        for source in (self._post.control, self._gateway):
            self._selector.unregister(source)
        self._post, self._writing = _Silence(self._post.control), False
        for cell in list(self._cells.values()):
            cell.kill()
            if cell.state is State.STARTING:
                _kill(cell.launch.pid)
        while self._cells and time.monotonic() < deadline:
            self._turn(deadline)
        while not self._cgroups.close() and time.monotonic() < deadline:
            time.sleep(REMOVE_RETRY_S)


class _Silence(Post):
    """Stands in for a socket that nobody reads any more."""

    def send(self, report: object, descriptors: tuple[int, ...] = ()) -> None:
        for handle in descriptors:
            os.close(handle)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _copy_and_exit(folders: Folders, cell: Cell, folder: str) -> None:
    """The copying child: fills a tmpfs and exits 0, or 1 if it cannot."""
    status = 1
    try:
        source = os.dup2(folders.open_code(folder), 3, inheritable=False)
        # Not one descriptor of the supervisor: its control socket must end with it.
        os.closerange(4, 1 << 16)
        os.nice(5)
        extent = copying.measure(source)
        room = folders.make_room(cell.id, extent.size_bytes, extent.files)
        target = os.open(room, os.O_RDONLY | os.O_DIRECTORY)
        copying.copy_tree(source, target, owner=bundle.host_uid(cell.slot), writable=True)
        status = 0
    finally:
        os._exit(status)
