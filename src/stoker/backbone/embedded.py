"""The embedded nats-server: a supervised child on loopback that lives no longer than we do.

Owns the process, its configuration, port and credentials. Does not know what is stored in it, nor
how one speaks to it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import select
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path

import structlog

from stoker.backbone.errors import BackboneMissing
from stoker.backbone.program import find_nats_server, free_port
from stoker.backbone.server_config import Credentials, ServerConfig
from stoker.model.errors import StokerError

_log = structlog.get_logger("stoker.backbone.embedded")
_libc = ctypes.CDLL(None, use_errno=True)  # before any fork: loading in the child could deadlock
_PR_SET_PDEATHSIG = 1

READY_WAIT_MS_MAX = 60_000
"""A store of 616 MB recovers in 0.8 s after a kill -9 (findings); a big one on a slow disk is read first."""
STOP_WAIT_MS_MAX = 5_000
"""From SIGTERM to SIGKILL; it usually ends within 2 ms."""
RESTART_DELAY_MS_MAX = 2_000
STABLE_MS = 5_000
"""A server that lived this long is restarted at once; one that lived shorter, with growing delay."""
RESTART_AGE_MS_MIN = 10_000
READY_POLL_MS = 2


class ServerState(Enum):
    """Where the child is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"


def restart_delay_ms(early_deaths: int) -> int:
    """Return how long to wait before the next start after so many short lives in a row."""
    return 0 if early_deaths <= 1 else int(min(50 * 2 ** (early_deaths - 2), RESTART_DELAY_MS_MAX))


class EmbeddedServer:
    """One nats-server on a data directory: `start` it once, `stop` it once; in between it is kept alive.

    Its files are in `directory`: configuration (0600), log, and the store in `jetstream`. `client` are the
    credentials of trusted clients, if there are to be any; `port` is tried first, so that clients find the
    server again where it was. `on_change` hears of every change of state with the reason, on the event loop.
    """

    def __init__(
        self,
        directory: Path,
        *,
        client: Credentials | None = None,
        port: int = 0,
        program: Path | None = None,
        on_change: Callable[[ServerState, str], None] | None = None,
    ) -> None:
        self._directory = directory.absolute()  # the child runs in it
        self._program = program
        self._on_change = on_change
        self._own = Credentials("stoker", secrets.token_urlsafe(24))
        self._client = client
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = False
        self._born = 0.0
        self._replacing: asyncio.Task[None] | None = None
        self.state = ServerState.STOPPED
        self.reason = "not started"
        """Why the state is what it is, for people."""

    @property
    def url(self) -> str:
        """Where it listens; the same for the server's whole life."""
        return f"nats://127.0.0.1:{self._port}"

    @property
    def directory(self) -> Path:
        """Where its files are."""
        return self._directory

    @property
    def credentials(self) -> Credentials:
        """Our own, generated for this life of the server."""
        return self._own

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Return once clients can connect. Raises BackboneMissing if it does not start.

        Must be called from the main thread: the kernel ends the child when the *thread* that made
        it ends.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the embedded server must be started from the main thread")
        self._program = self._program or find_nats_server()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._end_leftover()
        self._enter(ServerState.STARTING, "starting")
        tries = 3  # another program may take the port between the choice and the bind
        while True:
            tries -= 1
            self._port = self._port or free_port()
            self._write_config()
            try:
                await self._spawn_until_ready()
                break
            except BackboneMissing as error:
                if tries == 0 or "address already in use" not in error.message:
                    self._enter(ServerState.STOPPED, error.message)
                    raise
                self._port = 0
        self._supervisor = asyncio.create_task(self._keep_alive(), name="nats-server")

    async def stop(self) -> None:
        """End the child, politely first. Harmless when repeated."""
        self._stopping = True
        for task in (self._supervisor, self._replacing):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        self._supervisor = self._replacing = None
        await self._end_child(signal.SIGTERM)
        self._process = None
        self._enter(ServerState.STOPPED, "stopped")

    def restart(self, reason: str) -> None:
        """Ask for a new child, for instance when this one has given up its store; returns at once.

        Does nothing if the child is younger than RESTART_AGE_MS_MIN: what a new one does not heal, the
        next will not either.
        """
        age_ms = (asyncio.get_running_loop().time() - self._born) * 1000
        if self.pid is None or self._stopping or age_ms < RESTART_AGE_MS_MIN or self._replacing:
            return
        _log.warning("nats_server_restart", reason=reason)
        self._replacing = asyncio.create_task(self._end_child(signal.SIGTERM), name="nats-server-restart")

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        early_deaths = 0
        while True:
            assert self._process is not None
            await _exit_of(self._process)
            self._replacing = None
            early_deaths = early_deaths + 1 if (loop.time() - self._born) * 1000 < STABLE_MS else 1
            while True:
                self._enter(ServerState.RESTARTING, self._reason_of_death())
                await asyncio.sleep(restart_delay_ms(early_deaths) / 1000)
                try:
                    await self._spawn_until_ready()
                    break
                except StokerError as error:
                    early_deaths += 1
                    self.reason = error.message
                except OSError as error:  # no memory or no descriptor to start a process: try again later
                    early_deaths += 1
                    self.reason = f"nats-server cannot be started: {error}"

    async def _spawn_until_ready(self) -> None:
        """Start the child and wait for its ports file, which it writes once it listens."""
        for stale in self._directory.glob("*.ports"):
            stale.unlink(missing_ok=True)
        parent = os.getpid()

        def die_with_parent() -> None:
            # Between fork and exec. The second line closes the gap: a parent that died before the
            # first would never trigger the signal.
            if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent:
                os._exit(1)

        with (self._directory / "stderr.log").open("wb") as stderr:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - returns after exec, about 2 ms
                [str(self._program), "-c", str(self._config_path)],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                cwd=self._directory,
                env={"HOME": str(self._directory)},
                close_fds=True,
                start_new_session=True,  # Ctrl-C at the terminal is for us alone; we then stop the child
                preexec_fn=die_with_parent,
            )
        ports = self._directory / f"nats-server_{self._process.pid}.ports"
        deadline = asyncio.get_running_loop().time() + READY_WAIT_MS_MAX / 1000
        while not ports.exists():
            if self._process.poll() is not None:
                raise BackboneMissing(self._reason_of_death(), hint="see the log of nats-server")
            if asyncio.get_running_loop().time() > deadline:
                await self._end_child(signal.SIGKILL)
                raise BackboneMissing(
                    f"nats-server was not ready after {READY_WAIT_MS_MAX} ms; see {self.log_path}"
                )
            await asyncio.sleep(READY_POLL_MS / 1000)
        self._born = asyncio.get_running_loop().time()
        self._enter(ServerState.RUNNING, "running")

    async def _end_child(self, first: signal.Signals) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(first)
        try:
            async with asyncio.timeout(STOP_WAIT_MS_MAX / 1000):
                await _exit_of(process)
        except TimeoutError:
            process.kill()
            await _exit_of(process)

    def _end_leftover(self) -> None:
        """Kill a nats-server of an earlier life that escaped; two on one store would destroy it.

        The caller holds the lock of the data directory, so whatever runs on our configuration is a leftover.
        """
        mine = f"\0-c\0{self._config_path}\0".encode()
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # ended meanwhile, or not ours to look at
                if entry.read_bytes().endswith(mine):
                    pid = int(entry.parent.name)
                    _log.warning("nats_server_leftover_killed", pid=pid)
                    pidfd = os.pidfd_open(pid)
                    try:
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                        select.select([pidfd], [], [], STOP_WAIT_MS_MAX / 1000)
                    finally:
                        os.close(pidfd)

    def _reason_of_death(self) -> str:
        assert self._process is not None
        code = self._process.poll()
        how = f"signal {-code}" if code is not None and code < 0 else f"status {code}"
        words = _tail(self._directory / "stderr.log") or _last_error(self.log_path)
        return f"nats-server ended with {how}" + (f": {words}" if words else "")

    @property
    def log_path(self) -> Path:
        """The server's own log, at most two files of 4 MB."""
        return self._directory / "server.log"

    @property
    def _config_path(self) -> Path:
        return self._directory / "server.conf"

    def _write_config(self) -> None:
        config = ServerConfig(self._directory, self._port, self._own, self._client)
        descriptor = os.open(self._config_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o600)  # an older file may have had another mode
            file.write(config.text())

    def _enter(self, state: ServerState, reason: str) -> None:
        changed = state is not self.state
        self.state, self.reason = state, reason
        if changed:
            _log.info("nats_server", state=state.value, reason=reason, pid=self.pid)
            if self._on_change is not None:
                self._on_change(state, reason)


async def _exit_of(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a child and reap it; woken by its pidfd, without a thread or polling."""
    if process.poll() is not None:
        return
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    pidfd = os.pidfd_open(process.pid)
    try:
        loop.add_reader(pidfd, _set, ended)
        await ended
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    process.wait()


def _set(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _tail(path: Path) -> str:
    """Return the first words the program printed: where it fails or panics it says why first."""
    with suppress(FileNotFoundError):
        return path.read_text(errors="replace")[:300].strip()
    return ""


def _last_error(path: Path) -> str:
    """Return the last error or fatal line of the server's log."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        for line in reversed(file.read().decode(errors="replace").splitlines()):
            if "[ERR]" in line or "[FTL]" in line:
                return line.split("] ", 2)[-1].strip()
    return ""
