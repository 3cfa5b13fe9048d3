"""Every limit of what a call may take: what is just within it succeeds, what is just past it ends as the contract says.

The same tests run against the defaults and against a server with small limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from stoker.model.limits import MIB, Limits
from tests.e2e.callers import burst, first_answer, results, sent
from tests.e2e.conftest import ServerProcess
from tests.e2e.limited import Place, limited
from tests.e2e.processes import groups_with_memory_limit

SMALL = Limits(
    result_bytes_max=1_000,
    log_bytes_max=1_000,
    tmp_bytes_max=1 * MIB,
    processes_max=10,
    waiting_calls_max=4,
    instances_max=3,
    wait_ms_max=4_000,
)
BOTH = pytest.mark.parametrize("runtime", ["nodejs", "python"])
ONLY_SMALL = pytest.mark.parametrize("place", ["small limits"], indirect=True)
HOLDS_MS = 60_000
"""A call that runs for so long is still there when the test looks; it ends when its caller leaves."""


@pytest.fixture(scope="module")
def small(isolated: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with limited(tmp_path_factory, SMALL) as running:
        yield running


@pytest.fixture(params=["the defaults", "small limits"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A server with a collection of the test's own."""
    name, limits = {"the defaults": ("server", Limits()), "small limits": ("small", SMALL)}[request.param]
    server: ServerProcess = request.getfixturevalue(name)
    with server.client() as client:
        client.collection = f"test-{uuid4().hex[:12]}"
        yield Place(client, limits)


def failure(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("code")


REPEATS = {
    "nodejs": "exports.handler = (bytes) => 'x'.repeat(bytes - 2);",
    "python": "def handler(size):\n    return 'x' * (size - 2)",
}


@BOTH
def test_a_result_is_answered_up_to_the_limit(place: Place, runtime: str) -> None:
    name = place.client.function("result", REPEATS[runtime], runtime=runtime)
    most = place.limits.result_bytes_max

    past, at = place.client.invoke(name, most + 1), place.client.invoke(name, most)

    assert failure(past) == (500, "function.result_too_large")
    assert str(most) in past.json()["error"]
    assert at.status_code == 200, at.text
    assert len(at.json()["body"]) == most


PRINTS = {
    "nodejs": "exports.handler = (bytes) => { process.stdout.write('x'.repeat(bytes)); return 'done'; };",
    "python": "import sys\ndef handler(size):\n    sys.stdout.write('x' * size)\n    return 'done'",
}


@BOTH
def test_a_log_is_kept_up_to_the_limit_and_says_what_was_cut(place: Place, runtime: str) -> None:
    name = place.client.function("log", PRINTS[runtime], runtime=runtime)
    most = place.limits.log_bytes_max

    for printed in (most, most + 1, 20 * most):
        answer = place.client.invoke(name, printed)

        assert answer.json() == {"body": '"done"'}
        log = place.client.log(answer)
        assert log[:most] == "x" * most
        if printed == most:
            assert log == "x" * most
        else:
            assert not log[most:].strip().startswith("x")
            assert f"{printed - most} more bytes were cut" in log[most:]


FILLS = {
    "nodejs": """
const fs = require('fs');
exports.handler = (bytes) => {
  const file = fs.openSync('/tmp/full', 'w');
  try {
    for (let left = bytes; left > 0;) left -= fs.writeSync(file, Buffer.alloc(Math.min(left, 1 << 20)));
    return 'written';
  } catch (error) {
    return error.code;
  } finally {
    fs.closeSync(file);
  }
};
""",
    "python": """
import errno, os
def handler(size):
    file = os.open('/tmp/full', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        left = size
        while left > 0:
            left -= os.write(file, bytes(min(left, 1 << 20)))
        return 'written'
    except OSError as error:
        return errno.errorcode[error.errno]
    finally:
        os.close(file)
""",
}


@BOTH
def test_tmp_takes_as_much_as_the_limit(place: Place, runtime: str) -> None:
    name = place.client.function("tmp", FILLS[runtime], runtime=runtime)
    most = place.limits.tmp_bytes_max

    assert place.client.result(name, most + 1) == "ENOSPC"
    assert place.client.result(name, most) == "written"


@pytest.mark.parametrize("place", ["the defaults"], indirect=True)
def test_what_lies_in_tmp_counts_as_memory(place: Place) -> None:
    source = """
import os
def handler(event):
    with open('/tmp/full', 'wb') as file:
        file.write(bytes(event['tmp']))
    held = bytearray(event['held'])
    held[::4096] = b'x' * len(held[::4096])
    return len(held)
"""
    name = place.client.function(
        "both", source, runtime="python", size="128MB", concurrency={"max_instances": 1}
    )
    held = 70 * MIB

    assert place.client.result(name, {"tmp": 0, "held": held}) == held
    assert failure(place.client.invoke(name, {"tmp": 60 * MIB, "held": held})) == (
        500,
        "function.out_of_memory",
    )


FORKS = """
import os, signal
def handler(count):
    children = []
    try:
        for _ in range(count):
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
        return len(children)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
"""
THREADS = """
import threading
def handler(count):
    stop, made = threading.Event(), []
    try:
        for _ in range(count):
            thread = threading.Thread(target=stop.wait)
            thread.start()
            made.append(thread)
        return len(made)
    finally:
        stop.set()
        for thread in made:
            thread.join()
"""


@pytest.mark.parametrize("source", [FORKS, THREADS], ids=["processes", "threads"])
def test_there_are_as_many_processes_and_threads_as_the_limit(place: Place, source: str) -> None:
    name = place.client.function("many", source, runtime="python")
    most = place.limits.processes_max

    assert place.client.result(name, most) == most
    assert failure(place.client.invoke(name, most + 1)) == (500, "function.too_many_processes")


HOLD = """
exports.handler = async ({ ms }) => { await new Promise((done) => setTimeout(done, ms)); return ms; };
"""


@ONLY_SMALL
def test_as_many_calls_wait_as_the_limit_and_the_next_is_busy_at_once(place: Place) -> None:
    limits = {"max_instances": 1}
    name = place.client.function("queue", HOLD, concurrency=limits, timeout=2 * HOLDS_MS)
    place.client.result(name, {"ms": 0})  # from now on there is an instance: the first call need not wait
    at_the_limit = 1 + place.limits.waiting_calls_max

    assert results(burst(place.client, name, [{"ms": 20}] * at_the_limit)) == [20] * at_the_limit

    with sent(place.client, name, [{"ms": HOLDS_MS}] * (at_the_limit + 1)) as sockets:
        answer = first_answer(sockets)

    assert failure(answer) == (429, "function.busy")
    assert f"{place.limits.waiting_calls_max} calls of this function wait" in answer.json()["error"]


@ONLY_SMALL
def test_there_are_as_many_instances_as_the_limit_and_who_waits_longer_than_its_limit_is_told(
    place: Place,
) -> None:
    memory_mb = 139
    rest: dict[str, Any] = {"size": f"{memory_mb}MB", "timeout": 2 * HOLDS_MS}
    first, second = (place.client.function(name, HOLD, **rest) for name in ("first", "second"))
    most = place.limits.instances_max

    with (
        sent(place.client, first, [{"ms": HOLDS_MS}] * (most // 2)) as some,
        sent(place.client, second, [{"ms": HOLDS_MS}] * (most - most // 2 + 1)) as others,
    ):
        answer = first_answer(some + others)
        serving = groups_with_memory_limit(memory_mb * MIB)

    assert failure(answer) == (503, "no_capacity")
    assert f"no instance became free within {place.limits.wait_ms_max} ms" in answer.json()["error"]
    assert len(serving) == most
