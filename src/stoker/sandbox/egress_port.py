"""The way out of a sandbox, as the supervisor makes it: a port inside, and a process that serves it.

Owns the broker's process, from its fork to its next start, and every sandbox's listening socket: what is
opened while there is no broker waits, and nothing gets out. Does not know rules or connections. Standard
library only.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Callable, Sequence

from stoker.egress import broker
from stoker.egress.protocol import Bounds, Open, Shut
from stoker.egress.trust import trusting
from stoker.model.packet import encode
from stoker.sandbox import bundle, kernel, names
from stoker.sandbox.loop import Loop

PORT = 808
"""Below 1024, so that no program inside can want it for itself; and not one that browsers' rules block."""
BACKLOG = 256
UID = bundle.UID_BASE - 1
"""Of the broker: nobody's, next to those of the sandboxes."""
NICE = 5
"""The gateway and its calls come first: one function that moves all it can keeps one core busy here."""
RESTART_S = 0.2
OPEN_FILES = 65_536
HOME = f"http://127.0.0.1:{PORT}"
_LOCAL = "localhost,127.0.0.1,::1"
ENVIRONMENT = {
    "HTTP_PROXY": HOME,
    "HTTPS_PROXY": HOME,
    "NO_PROXY": _LOCAL,
    "http_proxy": HOME,
    "https_proxy": HOME,
    "no_proxy": _LOCAL,
    "NODE_USE_ENV_PROXY": "1",
}
"""What tells programs inside of the port. Set when a function is loaded: at its boot Node would load all of
its HTTP client for it."""


class EgressPorts:
    """The ports of all sandboxes, and the broker behind them.

    `started` is given the gateway's end of a socket to each new broker, `ended` the wait status of one that
    has ended.
    """

    def __init__(
        self, bounds: Bounds, loop: Loop, started: Callable[[int], None], ended: Callable[[int], None]
    ) -> None:
        self._bounds = bounds
        self._loop = loop
        self._started = started
        self._told_of_end = ended
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._listeners: dict[str, list[tuple[bytes, socket.socket]]] = {}
        """Of each sandbox, with what the broker is told of them."""
        self._broker: socket.socket | None = None
        self._queue: list[tuple[bytes, socket.socket | None]] = []

    def start(self) -> None:
        """Start the broker; another one whenever it has ended."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gateway, served = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
        except OSError:
            for end in (ours, theirs, gateway, served):
                end.close()
            self._loop.after(RESTART_S, self.start)
            return
        if pid == 0:
            _become_broker(self._bounds, theirs, served)
        theirs.close()
        served.close()
        ours.setblocking(False)
        self._broker = ours
        self._loop.at_end(pid, self._ended)
        self._queue = [opened for listeners in self._listeners.values() for opened in listeners]
        self._started(gateway.detach())
        self._flush()

    def open(self, sandbox: str, pidfd: int) -> None:
        """Open the proxy's port in the network namespace of a living process; OSError if that fails."""
        self._open(sandbox, pidfd, [("127.0.0.1", PORT, None)])

    def open_tunnels(self, sandbox: str, pidfd: int, tunnels: Sequence[str]) -> None:
        """Open a port for each tunnel `host:port`, where its name will resolve to; OSError if that fails."""
        self._open(sandbox, pidfd, names.places(tunnels))

    def _open(self, sandbox: str, pidfd: int, places: Sequence[tuple[str, int, str | None]]) -> None:
        kernel.setns(pidfd, kernel.CLONE_NEWNET)
        try:
            made = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in places]
        finally:
            kernel.setns(self._own, kernel.CLONE_NEWNET)
        try:
            for listener, (address, port, _) in zip(made, places, strict=True):
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((address, port))
                listener.listen(BACKLOG)
        except OSError:
            for listener in made:
                listener.close()
            raise
        opened = [
            (encode(Open(sandbox, target)), listener)
            for listener, (_, _, target) in zip(made, places, strict=True)
        ]
        self._listeners.setdefault(sandbox, []).extend(opened)
        for packet, listener in opened:
            self._tell(packet, listener)

    def shut(self, sandbox: str) -> None:
        """Close its ports, and cut what goes through them."""
        opened = self._listeners.pop(sandbox, None)
        if opened is not None:
            listeners = [listener for _, listener in opened]
            self._queue = [entry for entry in self._queue if entry[1] not in listeners]
            for listener in listeners:
                listener.close()
            self._tell(encode(Shut(sandbox)), None)

    def _tell(self, packet: bytes, listener: socket.socket | None) -> None:
        if self._broker is not None:
            self._queue.append((packet, listener))
            self._flush()

    def _flush(self) -> None:
        while self._queue and self._broker is not None:
            packet, listener = self._queue[0]
            try:
                socket.send_fds(self._broker, [packet], [] if listener is None else [listener.fileno()])
            except BlockingIOError:
                self._loop.watch(self._broker.fileno(), _ignore, self._flush)
                return
            except OSError:
                return  # it has ended; the next one is told all
            self._queue.pop(0)
        if self._broker is not None:
            self._loop.forget_if_watched(self._broker.fileno())

    def _ended(self, status: int) -> None:
        self._told_of_end(status)
        if self._broker is not None:
            self._loop.forget_if_watched(self._broker.fileno())
            self._broker.close()
        self._broker, self._queue = None, []
        self._loop.after(RESTART_S, self.start)


def _ignore() -> None:
    """A broker says nothing to the supervisor; its end is told by the kernel."""


def _become_broker(bounds: Bounds, supervisor: socket.socket, gateway: socket.socket) -> None:
    """Never returns. Runs with what was imported before: its uid may not be able to read our files."""
    status = 1
    try:
        kernel.die_with_parent(signal.SIGKILL)
        tls = trusting(bounds.authorities)  # while their files can be read
        _keep_only({0, 1, 2, supervisor.fileno(), gateway.fileno()})
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
            score.write(str(bundle.OOM_SCORE))
        with open("/proc/self/comm", "w", encoding="ascii") as name:
            name.write("stoker-egress")
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.setsid()
        os.nice(NICE)
        kernel.drop_bounding_set()
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)  # takes the capabilities with it
        kernel.no_new_privileges()
        kernel.hide_memory()
        kernel.die_with_parent(signal.SIGKILL)  # a change of identity has undone it
        broker.run(bounds, supervisor, gateway, tls)
        status = 0
    finally:
        os._exit(status)


def _keep_only(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue  # the one that this list was read through
