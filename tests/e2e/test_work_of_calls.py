"""What a call makes the server do, in counts that are the same at every run: system calls, lines of Python, memory.

A budget is what was counted, and some percent more. Who makes a call do less lowers it; a change that needs more says
in its commit for what.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import descendants, wait_until

ECHO = {
    "nodejs": "exports.handler = async (event) => event;",
    "python": "def handler(event):\n    return event",
}
PROGRAM = {"nodejs": "/usr/bin/node", "python": "/usr/bin/python3"}
BOTH = pytest.mark.parametrize("runtime", ECHO)
CALLS = 300
SPARES = 2

LINES_OF_A_WARM_CALL = 570
"""From the request's bytes to the answer's: access, quota, the instance's frame, the log, counting. 546 were counted."""
LINES_OF_A_RECORD = 60
"""Making it, and all that stores it and brings it to search, by the call. 52 were counted."""
LINES_OF_A_FIRST_CALL = 2_100
"""With the choice of a spare, the bundle, and the start of the next spare. 1,994 and 2,005 were counted."""
SYSTEM_CALLS_OF_THE_SERVER = 7
"""Two waits, two reads, two writes, and uvloop's question whether the socket blocks."""
SYSTEM_CALLS_OF_AN_INSTANCE = {"nodejs": 4, "python": 2}
SYSTEM_CALLS_OF_A_BOOT = 125
"""The supervisor's own, with the cgroups, the mounts and the way out. 117 were counted."""
BLOCKS_LEFT = 0.5
"""By the call; what stays is of the timers and the garbage collector."""


class CountedServer(ServerProcess):
    """A server whose lines of Python can be counted."""

    def __init__(self, folder: Path) -> None:
        self._counts = folder / "counts"
        program = Path(__file__).parent / "counted_server.py"
        options = ("--pool", f"{SPARES},{SPARES}")
        under = (sys.executable, str(program), str(self._counts))
        super().__init__(folder / "data", *options, under=under)

    def counted(self, work: Callable[[], object]) -> dict[str, int]:
        """Return the lines that the loop's thread ran meanwhile, and the blocks of memory that it left."""
        before = self._toggle()
        work()
        after = self._toggle()
        return {"lines": after["lines"], "blocks": after["blocks"] - before["blocks"]}

    def _toggle(self) -> dict[str, int]:
        seen = len(self._read())
        os.kill(self.process.pid, signal.SIGUSR2)
        wait_until(lambda: len(self._read()) > seen)
        found: dict[str, int] = json.loads(self._read()[-1])
        return found

    def _read(self) -> list[str]:
        return self._counts.read_text().splitlines()


@pytest.fixture
def counted(isolated: None, data: Path) -> Iterator[CountedServer]:
    running = CountedServer(data.parent)
    running.wait_ready()
    yield running
    assert running.stop() == 0, "".join(running.stderr)


@pytest.fixture
def strace(isolated: None) -> None:
    """Skip where it is not installed; fail in CI."""
    if shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("strace is not installed")
        pytest.skip("strace is not installed")


@contextmanager
def calling(client: Client, name: str) -> Iterator[Callable[[], None]]:
    """Return what makes one call over one connection."""
    host, port = client.url.removeprefix("http://").split(":")
    body = json.dumps({"payload": '{"n": 1}', "invocation_type": "RequestResponse"}).encode()
    head = (
        f"POST /compute/functions/{client.collection}/{name}/invoke HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {client.token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    with socket.create_connection((host, int(port)), timeout=60) as connection:

        def call() -> None:
            connection.sendall(request)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 "), answer

        yield call


def many(call: Callable[[], None], count: int = CALLS) -> Callable[[], None]:
    def work() -> None:
        for _ in range(count):
            call()

    return work


def system_calls(pids: list[int], work: Callable[[], object], folder: Path) -> list[dict[str, int]]:
    """Return how often the main thread of each process made which system call meanwhile."""
    files = [folder / f"strace-{pid}" for pid in pids]
    with ExitStack() as stack:
        tracers = []
        for pid, file in zip(pids, files, strict=True):
            command = ["strace", "-c", "-o", str(file), "-p", str(pid)]
            tracers.append(stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True)))
            assert tracers[-1].stderr is not None
            said = tracers[-1].stderr.readline()
            assert "attached" in said, said
        try:
            work()
        finally:
            for tracer in tracers:
                tracer.send_signal(signal.SIGINT)
    return [_counts(file.read_text()) for file in files]


def _counts(table: str) -> dict[str, int]:
    rows = [line.split() for line in table.splitlines() if re.match(r" *\d", line)]
    return {row[-1]: int(row[3]) for row in rows if row[-1] != "total"}


def busiest(pids: list[int], work: Callable[[], object], folder: Path) -> dict[str, int]:
    """Return what that process did which did most."""
    return max(system_calls(pids, work, folder), key=lambda counts: sum(counts.values()))


def running(server: ServerProcess, program: str) -> list[int]:
    return [pid for pid in descendants(server.process.pid) if program in _command(pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it ended while we looked
        return ""


def spares(client: Client, runtime: str) -> int:
    metrics = client.http.get("/metrics").text
    found = re.search(rf'^stoker_spares_ready{{runtime="{runtime}"}} (\d+)', metrics, re.MULTILINE)
    assert found, metrics
    return int(found[1])


@BOTH
def test_a_warm_call_runs_no_more_python_and_leaves_no_memory(counted: CountedServer, runtime: str) -> None:
    client = counted.client()
    name = client.function("echo", ECHO[runtime], runtime=runtime, monitor_config={"ttl": 0})

    with client, calling(client, name) as call:
        many(call)()
        wait_until(lambda: spares(client, runtime) == SPARES)
        rounds = [counted.counted(many(call)) for _ in range(3)]

    assert min(found["lines"] for found in rounds) / CALLS < LINES_OF_A_WARM_CALL
    assert min(found["blocks"] for found in rounds) / CALLS < BLOCKS_LEFT


def test_a_record_costs_a_warm_call_few_lines_of_python(counted: CountedServer) -> None:
    client = counted.client()
    name = client.function("echo", ECHO["nodejs"], monitor_config={"store_payload": True})

    with client, calling(client, name) as call:
        many(call)()
        found = counted.counted(many(call))

    assert found["lines"] / CALLS < LINES_OF_A_WARM_CALL + LINES_OF_A_RECORD


@BOTH
def test_a_first_call_runs_no_more_python(counted: CountedServer, runtime: str) -> None:
    client = counted.client()
    lines = []
    with client:
        for number in range(5):
            name = client.function(
                f"echo-{number}", ECHO[runtime], runtime=runtime, monitor_config={"ttl": 0}
            )
            wait_until(lambda: spares(client, runtime) == SPARES)
            with calling(client, name) as call:
                lines.append(counted.counted(call)["lines"])

    assert statistics.median(lines) < LINES_OF_A_FIRST_CALL, lines


@BOTH
def test_a_warm_call_makes_no_more_system_calls(
    counted: CountedServer, strace: None, data: Path, runtime: str
) -> None:
    client = counted.client()
    name = client.function("echo", ECHO[runtime], runtime=runtime, monitor_config={"ttl": 0})

    with client, calling(client, name) as call:
        many(call)()
        wait_until(lambda: spares(client, runtime) == SPARES)
        server = busiest([counted.process.pid], many(call), data.parent)
        instance = busiest(running(counted, PROGRAM[runtime]), many(call), data.parent)

    assert sum(server.values()) / CALLS < SYSTEM_CALLS_OF_THE_SERVER + 0.5, server
    assert sum(instance.values()) / CALLS < SYSTEM_CALLS_OF_AN_INSTANCE[runtime] + 0.5, instance


@BOTH
def test_a_boot_takes_no_more_system_calls(
    counted: CountedServer, strace: None, data: Path, runtime: str
) -> None:
    client = counted.client()
    names = [client.function(f"echo-{number}", ECHO[runtime], runtime=runtime) for number in range(5)]
    wait_until(lambda: spares(client, runtime) == SPARES)

    def boot_one_for_each() -> None:
        for name in names:
            client.invoke(name, 1).raise_for_status()
            wait_until(lambda: spares(client, runtime) == SPARES)

    with client:
        supervisor = busiest(running(counted, "stoker.sandbox.birth"), boot_one_for_each, data.parent)

    assert sum(supervisor.values()) / len(names) < SYSTEM_CALLS_OF_A_BOOT, supervisor
