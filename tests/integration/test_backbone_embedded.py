"""The embedded server as a process: alive while we are, and not longer."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from stoker.backbone.connection import Connection, Message
from stoker.backbone.embedded import EmbeddedServer, ServerState
from stoker.backbone.errors import BackboneMissing
from stoker.model.errors import Unavailable


class States:
    """What the server told of its states; a test waits for one."""

    def __init__(self) -> None:
        self.seen: list[tuple[ServerState, str]] = []
        self._changed = asyncio.Event()

    def __call__(self, state: ServerState, reason: str) -> None:
        self.seen.append((state, reason))
        self._changed.set()

    async def until(self, state: ServerState, *, times: int = 1) -> None:
        while [seen for seen, _ in self.seen].count(state) < times:
            self._changed.clear()
            await self._changed.wait()


@pytest.fixture
def states() -> States:
    return States()


@pytest.fixture
async def server(nats_server_program: Path, tmp_path: Path, states: States) -> AsyncIterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "nats", on_change=states)
    await server.start()
    yield server
    await server.stop()


def pid_of(server: EmbeddedServer) -> int:
    assert server.pid is not None
    return server.pid


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def visible_of(pid: int) -> bytes:
    """Return what everybody may read of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()


def open_in(pid: int) -> list[str]:
    """Return what a process has open."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            found.append(os.readlink(entry))
    return found


def wait_for_end(pid: int) -> bool:
    """Wait until a process that is not our child has ended; False after ten seconds."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], 10)[0])
    finally:
        os.close(pidfd)


async def test_a_started_server_answers_those_who_have_the_password(server: EmbeddedServer) -> None:
    async with Connection.to_embedded(server) as connection:
        answer = await connection.request(Message("$JS.API.INFO"))

    assert b"account_info_response" in answer.data


async def test_a_client_without_the_password_is_turned_away(server: EmbeddedServer) -> None:
    stranger = Connection([server.url])

    with pytest.raises(Unavailable):
        await stranger.open(wait_ms=200)


async def test_the_password_is_in_a_file_for_us_alone_and_on_no_command_line(server: EmbeddedServer) -> None:
    password = server.credentials.password.encode()

    assert password not in visible_of(pid_of(server))
    assert password in (server.directory / "server.conf").read_bytes()
    assert (server.directory / "server.conf").stat().st_mode & 0o777 == 0o600


async def test_no_descriptor_of_ours_is_open_in_the_server(nats_server_program: Path, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()  # stands for the control socket of the supervisor
    ours.set_inheritable(True)
    server = EmbeddedServer(tmp_path / "nats")

    with ours, theirs:
        await server.start()
        inode = f"socket:[{os.fstat(ours.fileno()).st_ino}]"
        opened = open_in(pid_of(server))
        await server.stop()

    assert inode not in opened


async def test_a_killed_server_is_back_on_the_same_port_and_told_why(
    server: EmbeddedServer, states: States
) -> None:
    url, first = server.url, pid_of(server)

    os.kill(first, signal.SIGKILL)
    await states.until(ServerState.RUNNING, times=2)

    assert server.url == url
    assert pid_of(server) != first
    assert (ServerState.RESTARTING, "nats-server ended with signal 9") in states.seen


async def test_a_server_that_dies_again_and_again_is_started_again_and_again(
    server: EmbeddedServer, states: States
) -> None:
    for times in range(2, 6):
        os.kill(pid_of(server), signal.SIGKILL)
        await states.until(ServerState.RUNNING, times=times)

    assert server.state is ServerState.RUNNING


async def test_a_stopped_server_leaves_no_process_and_can_be_stopped_again(server: EmbeddedServer) -> None:
    pid = pid_of(server)

    await server.stop()
    await server.stop()

    assert not exists(pid)
    assert server.state is ServerState.STOPPED


async def test_a_server_that_hangs_is_ended_all_the_same(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.backbone.embedded.STOP_WAIT_MS_MAX", 50)
    pid = pid_of(server)

    os.kill(pid, signal.SIGSTOP)
    await server.stop()

    assert not exists(pid)


async def test_a_server_that_cannot_start_says_why(nats_server_program: Path, tmp_path: Path) -> None:
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "jetstream").write_text("a file where a folder must be")
    server = EmbeddedServer(tmp_path / "nats")

    with pytest.raises(BackboneMissing) as refused:
        await server.start()

    assert "jetstream" in refused.value.message.lower()
    await server.stop()


GATEWAY = """
import asyncio, pathlib, sys
from stoker.backbone.embedded import EmbeddedServer

async def main():
    server = EmbeddedServer(pathlib.Path(sys.argv[1]))
    await server.start()
    print("started", server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def started_gateway(directory: Path) -> tuple[subprocess.Popen[str], int]:
    """Start a process that has a nats-server; return it and the server's pid."""
    gateway = subprocess.Popen(
        [sys.executable, "-c", GATEWAY, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert gateway.stdout is not None
    for line in gateway.stdout:
        if line.startswith("started"):
            return gateway, int(line.split()[1])
    raise AssertionError("the gateway did not start")


def test_a_killed_gateway_leaves_no_server(nats_server_program: Path, tmp_path: Path) -> None:
    gateway, pid = started_gateway(tmp_path / "nats")
    with gateway:
        gateway.kill()

        assert wait_for_end(pid)


async def test_a_server_that_outlived_its_gateway_is_ended_before_another_one_starts(
    nats_server_program: Path, tmp_path: Path
) -> None:
    # Two on one store would destroy it. It cannot outlive it, but for a kernel that forgets PDEATHSIG.
    gateway, pid = started_gateway(tmp_path / "nats")
    server = EmbeddedServer(tmp_path / "nats")
    with gateway:
        gateway.send_signal(signal.SIGSTOP)
        try:
            await server.start()

            assert wait_for_end(pid)
        finally:
            await server.stop()
            gateway.kill()
