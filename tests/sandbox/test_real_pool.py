"""The pool over real instances: what it tells of memory and output is what really was used and printed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.catalog.draft import cpu_millis_of
from stoker.model.call import Call, CallIds
from stoker.model.errors import StokerError
from stoker.model.function import Asset, Function
from stoker.model.launch import LaunchPlan
from stoker.model.limits import MIB, Limits
from stoker.model.outcome import Outcome
from stoker.runtimes import launch_plans
from stoker.sandbox.engine import Site
from stoker.sandbox.spawn import start_supervisor
from stoker.testing.functions import a_function
from stoker.testing.worker import AMPLE, FakeSecrets, Notes
from stoker.worker.code_cache import CodeCache
from stoker.worker.groups import identity_of
from stoker.worker.pool import Pool

BOTH = pytest.mark.parametrize("runtime", ["nodejs", "python"])
TALK = {
    "nodejs": """
exports.handler = async (event) => {
  for (let i = 0; i < event.lines; i++) console.log(`${event.id} line ${i}`);
  if (event.id % 3 === 0) await new Promise((done) => setTimeout(done, 2));
  process.stdout.write(`${event.id} last`);
  return event.id;
};
""",
    "python": """
import time
def handler(event):
    for i in range(event["lines"]):
        print(event["id"], "line", i)
    if event["id"] % 3 == 0:
        time.sleep(0.002)
    print(event["id"], "last", end="")
    return event["id"]
""",
}
SHARED = {
    "nodejs": TALK["nodejs"].replace("event.id % 3 === 0", "true"),
    "python": """
import asyncio
async def handler(event):
    for i in range(event["lines"]):
        print(event["id"], "line", i)
        await asyncio.sleep(0)
    print(event["id"], "last", end="")
    return event["id"]
""",
}
EAT = {
    "nodejs": """
const kept = [];
exports.handler = async (event) => { kept.push(Buffer.alloc(event.mb << 20, 1)); };
""",
    "python": """
kept = []
def handler(event):
    kept.append(bytearray(event["mb"] << 20))
    for i in range(0, len(kept[-1]), 4096):
        kept[-1][i] = 1
""",
}


class RealPool:
    """A pool of real instances, and the contents that their code is made of."""

    def __init__(self, pool: Pool, contents: dict[str, bytes]) -> None:
        self.pool = pool
        self._contents = contents
        self._ids = CallIds()

    def function(self, runtime: str, source: str, **rest: Any) -> Function:
        """Return a function of one file."""
        name, handler = ("index.js", "index.handler") if runtime == "nodejs" else ("main.py", "main.handler")
        digest = hashlib.sha256(source.encode()).hexdigest()
        self._contents[digest] = source.encode()
        assets = (Asset(name, "file", digest, len(source)),)
        return a_function(runtime=runtime, handler=handler, assets=assets, **rest)

    def start(self, function: Function, payload: str) -> tuple[Call, asyncio.Future[Outcome | StokerError]]:
        """Begin a call; the future gets its end."""
        loop = asyncio.get_running_loop()
        end: asyncio.Future[Outcome | StokerError] = loop.create_future()
        call = Call(
            self._ids.next(),
            function,
            payload.encode(),
            queued_at=loop.time(),
            ended=lambda call, outcome: end.set_result(outcome),
        )
        self.pool.submit(call)
        return call, end

    async def run(self, function: Function, payload: str) -> Outcome:
        """Return how a call ended that ran."""
        outcome = await self.start(function, payload)[1]
        assert isinstance(outcome, Outcome), repr(outcome)
        return outcome


@pytest.fixture(scope="module")
def real_plans(tmp_path_factory: pytest.TempPathFactory) -> tuple[LaunchPlan, ...]:
    """The root file systems with their shims."""
    return launch_plans.ensure(tmp_path_factory.mktemp("runtimes"), lambda line: None)


@pytest.fixture
async def real(crun: str, tmp_path: Path, real_plans: tuple[LaunchPlan, ...]) -> AsyncIterator[RealPool]:
    """Two spares of each runtime."""
    plans = real_plans
    limits = Limits()
    site = Site(tmp_path, tmp_path / "code", plans, limits)
    folders = CodeCache(site.code_root, limits=limits)
    folders.clear()
    contents: dict[str, bytes] = {}

    class Contents:
        async def get(self, account: str, digest: str) -> bytes:
            return contents[digest]

    engine = await start_supervisor("crun", crun, site, print)
    pool = Pool(
        engine,
        {plan.runtime: plan for plan in plans},
        folders,
        Contents(),
        FakeSecrets(),
        limits,
        spares={"nodejs": 2, "python": 2},
        cpu_millis=cpu_millis_of,
        pressure=lambda: AMPLE,
        cores=2,
        notes=Notes(),
    )
    await pool.open()
    yield RealPool(pool, contents)
    await pool.close()
    await engine.close()


def printed(number: int, lines: int) -> bytes:
    return b"".join(b"%d line %d\n" % (number, i) for i in range(lines)) + b"%d last" % number


async def follow_calls(real: RealPool, function: Function, count: int, at_once: int) -> None:
    """Call a followed function; fail unless each call's lines are told once, in order and to that call."""
    told: dict[bytes, bytearray] = {}

    def tap(call_id: bytes, text: bytes) -> None:
        told.setdefault(call_id, bytearray()).extend(text)

    stop = real.pool.follow(identity_of(function), tap)
    gate = asyncio.Semaphore(at_once)

    async def one(number: int) -> tuple[bytes, bytes]:
        async with gate:
            call, end = real.start(function, f'{{"id":{number},"lines":{number % 7}}}')
            outcome = await end
            assert isinstance(outcome, Outcome), repr(outcome)
            assert outcome.failure is None
            return call.id, outcome.log

    ends = await asyncio.gather(*(one(number) for number in range(count)))
    stop()

    for number, (call_id, log) in enumerate(ends):
        assert bytes(told[call_id]) == log == printed(number, number % 7)
    assert len(told) == count


@BOTH
async def test_every_line_of_a_followed_function_is_told_once_and_to_its_call(
    real: RealPool, runtime: str
) -> None:
    await follow_calls(real, real.function(runtime, TALK[runtime], max_instances=3), 400, 16)


@BOTH
async def test_lines_of_calls_that_share_an_instance_are_told_apart(real: RealPool, runtime: str) -> None:
    function = real.function(runtime, SHARED[runtime], max_instances=1, per_instance=8)
    await follow_calls(real, function, 200, 16)


@BOTH
async def test_an_outcome_says_what_the_instance_has_used_at_most(real: RealPool, runtime: str) -> None:
    function = replace(real.function(runtime, EAT[runtime]), memory_bytes=256 * MIB)

    first = await real.run(function, '{"mb":1}')
    second = await real.run(function, '{"mb":60}')
    third = await real.run(function, '{"mb":1000}')

    assert 1 * MIB < first.memory_bytes < 60 * MIB
    assert 60 * MIB <= second.memory_bytes < 160 * MIB
    assert third.failure is not None
    assert third.failure.code == "function.out_of_memory"
    assert 250 * MIB <= third.memory_bytes <= 256 * MIB
