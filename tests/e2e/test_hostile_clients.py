"""A client that means harm, without a token and with one: what it can hold, break or find out.

Each test looks at what the kernel says of the server's processes and files, or at the bytes that came back.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import wait_until

MIB = 1 << 20
ECHO = "exports.handler = (event) => event;"
pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture(scope="module")
def open_door(isolated: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of this file's own, with room for a hundred connections."""
    data = tmp_path_factory.mktemp("door") / "data"
    data.mkdir(mode=0o700)
    data.parent.chmod(0o755)
    (data / "server.toml").write_text("[limits]\nconnections_max = 100\n")
    running = ServerProcess(data).wait_ready()
    yield running
    code = running.stop()
    assert code == 0, "".join(running.stderr)


@pytest.fixture
def door(open_door: ServerProcess) -> Iterator[Client]:
    """A client with the administrator's token."""
    with open_door.client() as client:
        yield client


def resident_bytes(pid: int) -> int:
    """Return what a process holds in memory."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def files_of(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname is not None
    sock = socket.create_connection((parts.hostname, parts.port or 80), timeout=20)
    return sock


def answer_of(sock: socket.socket) -> tuple[int, bytes]:
    """Read to the end of the connection; return status and body."""
    received = b""
    try:
        while piece := sock.recv(65_536):
            received += piece
    except ConnectionResetError:
        pass
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


def ask(client: Client, head: str, body: bytes = b"", *, token: bool = True) -> tuple[int, bytes]:
    """Send a head as it is given, with the host and the token; return status and body."""
    lines = head + "\r\nHost: x\r\nConnection: close\r\n"
    if token:
        lines += f"Authorization: Bearer {client.token}\r\n"
    with connect(client.url) as sock:
        sock.sendall(lines.encode("latin-1") + b"\r\n" + body)
        return answer_of(sock)


# -- without a token -----------------------------------------------------------------------------------


def test_a_stranger_cannot_make_the_server_hold_large_bodies(open_door: ServerProcess) -> None:
    before = resident_bytes(open_door.process.pid)
    statuses = []

    with ExitStack() as stack:
        for path in ("/compute/functions/c/f/invoke", "/compute/functions"):
            for _ in range(10):
                sock = stack.enter_context(connect(open_door.url))
                sock.sendall(
                    f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {60 * MIB}\r\n\r\n".encode()
                )
                with suppress(OSError):  # it hung up on us, as it may
                    sock.sendall(bytes(15 * MIB))
                statuses.append(sock.recv(12))

        assert statuses == [b"HTTP/1.1 401"] * 20
        assert resident_bytes(open_door.process.pid) - before < 50 * MIB


def test_a_stranger_who_sends_in_chunks_is_refused_at_the_head(door: Client) -> None:
    with connect(door.url) as sock:
        sock.sendall(
            b"POST /compute/functions/c/f/invoke HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

        assert sock.recv(12) == b"HTTP/1.1 401"


def test_strangers_who_connect_and_say_nothing_take_no_place_from_others(
    open_door: ServerProcess, door: Client
) -> None:
    before = files_of(open_door.process.pid)
    name = door.function("kept-out", "exports.handler = () => process.exit(1);")

    with ExitStack() as stack:
        mute = [stack.enter_context(connect(open_door.url)) for _ in range(300)]
        for sock in mute[::3]:
            sock.sendall(b"POST /compute/functions HTTP/1.1\r\nHost: x\r\nX-Slow:")
        codes = [door.invoke(name, {}).json()["code"] for _ in range(3)]

        assert codes == ["function.exited"] * 3  # each needs a new instance, and so descriptors
        assert files_of(open_door.process.pid) <= before + 130
    wait_until(lambda: files_of(open_door.process.pid) <= before + 10)
