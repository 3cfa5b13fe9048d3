"""Delivery: what is accepted runs at least once and ends once, poison and long work, keys and crashes included."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest

from tests.faults import breaking
from tests.faults.caller import Caller
from tests.faults.conftest import Broken

SLOW = """
exports.handler = async ({ n, ms }) => {
  console.log('begin', n);
  await new Promise((done) => setTimeout(done, ms));
  return { n, run: require('node:crypto').randomUUID() };
};
"""


@pytest.fixture
async def caller(server: Broken) -> AsyncIterator[Caller]:
    async with Caller(server) as caller:
        yield caller


async def test_poison_is_a_dead_letter_after_its_attempts_and_a_redrive_is_a_new_invocation_that_names_it(
    caller: Caller,
) -> None:
    await caller.create("poison", "exports.handler = () => { throw new Error('poison'); };", retry=(3, 10))
    bad = await caller.accepted("poison", {"n": 1})
    ended = await caller.ended(bad)
    letters = await caller.get(f"{caller.path('poison')}/dead-letters")

    assert (ended["status"], ended["code"], ended["attempts"]) == ("error", "function.error", 3)
    assert [letter["invocation_id"] for letter in letters["results"]] == [bad]

    await caller.change("poison", "exports.handler = ({ n }) => n;")
    answer = await caller.http.post(f"{caller.path('poison')}/dead-letters/{bad}/redrive")
    good = answer.headers["x-invocation-id"]
    again = await caller.ended(good)

    assert answer.status_code == 200, answer.text
    assert good != bad
    assert (again["status"], again["replay_of"], again["attempts"], again["result"]) == ("ok", bad, 1, "1")
    assert (await caller.get(f"{caller.path('poison')}/dead-letters"))["results"] == []
    assert (await caller.ended(bad))["status"] == "error"


async def test_work_that_outlasts_every_window_runs_once(
    server: Broken, caller: Caller, request: pytest.FixtureRequest
) -> None:
    seconds = 60 if request.config.getoption("--long") else 4
    await caller.create("long", SLOW, timeout_ms=1000 * (seconds + 60))

    one = await caller.accepted("long", {"n": 1, "ms": 1000 * seconds})
    await asyncio.to_thread(breaking.stand_still, [breaking.nats_of(server.pid)], 2.0)
    ended = await caller.ended(one)

    assert (ended["status"], ended["attempts"]) == ("ok", 1)
    log = await caller.http.get(f"/compute/invocations/{one}/log")
    assert log.text == "begin 1\n"


async def test_an_instance_that_wakes_after_its_time_is_up_has_no_say(server: Broken, caller: Caller) -> None:
    await caller.create("asleep", SLOW, timeout_ms=1500, retry=(1, 10), size="141MB")
    await caller.invoke("asleep", {"n": 0, "ms": 0})
    sleeping = breaking.processes_in(141)
    assert sleeping

    with breaking.stopped(sleeping):
        one = await caller.accepted("asleep", {"n": 1, "ms": 0})
        ended = await caller.ended(one)

    assert (ended["status"], ended["code"], ended["attempts"]) == ("timeout", "function.timeout", 1)
    assert (await caller.ended(one)) == ended
    assert await caller.count("asleep", "timeout") == 1


async def test_fifty_with_one_key_run_once_though_the_server_is_killed_under_them(
    server: Broken, caller: Caller, chance: random.Random
) -> None:
    await caller.create("once", SLOW)
    key = {"Idempotency-Key": str(uuid4())}

    async def ask() -> httpx.Response | None:
        try:
            return await caller.invoke("once", {"n": 1, "ms": 700}, headers=key)
        except httpx.TransportError:
            return None

    async def ask_until_told() -> httpx.Response:
        while True:
            answer = await ask()
            if answer is not None and answer.status_code not in (409, 503):
                return answer
            await asyncio.sleep(0.02)

    asked = [asyncio.ensure_future(ask_until_told()) for _ in range(50)]
    await caller.until(lambda: caller.count("once", "running"), 1)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    answers = await asyncio.gather(*asked)

    (told,) = {(answer.status_code, answer.json()["code"]) for answer in answers}
    assert told == (500, "platform.lost")
    assert len({answer.json()["invocation_id"] for answer in answers}) == 1
    assert await caller.count("once") == await caller.count("once", "lost") == 1
    other = await caller.invoke("once", {"n": 2, "ms": 0}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency.conflict")


async def test_a_backlog_is_taken_up_after_a_stop_and_after_a_kill(server: Broken, caller: Caller) -> None:
    await caller.create("backlog", SLOW, concurrency={"max_instances": 2})

    ids = await caller.many("backlog", [{"n": n, "ms": 20} for n in range(60)])
    await asyncio.to_thread(server.process.stop)
    await asyncio.to_thread(server.start)
    ids += await caller.many("backlog", [{"n": n, "ms": 20} for n in range(60, 120)])
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    known = [await caller.record(one) for one in ids]
    ended = [await caller.ended(one) for one in ids]

    assert [record["status"] for record in known if record["status"] not in ("queued", "running", "ok")] == []
    assert [record["status"] for record in ended] == ["ok"] * 120
    assert [json.loads(record["result"])["n"] for record in ended] == list(range(120))
    assert await caller.count("backlog") == await caller.count("backlog", "ok") == 120


async def test_the_backlog_of_one_function_does_not_hold_up_another(caller: Caller) -> None:
    await caller.create("crowded", SLOW, concurrency={"max_instances": 1})
    await caller.create("alone", SLOW)

    crowd = await caller.many("crowded", [{"n": n, "ms": 300} for n in range(100)])
    one = await caller.ended(await caller.accepted("alone", {"n": 0, "ms": 0}))
    left = await caller.count("crowded", "queued")

    assert one["status"] == "ok"
    assert left > 50
    assert len(set(crowd)) == 100


async def test_a_view_that_is_gone_or_damaged_is_made_anew_and_nothing_is_lost(
    server: Broken, caller: Caller, chance: random.Random
) -> None:
    await caller.create("seen", SLOW)
    ids = await caller.many("seen", [{"n": n, "ms": 0} for n in range(40)])
    for one in ids:
        await caller.ended(one)
    before = await caller.all("seen")

    for harm in ("deleted", "garbage", "cut", "flipped"):
        await asyncio.to_thread(server.process.stop)
        _harm(server, harm, chance)
        await asyncio.to_thread(server.start)
        known = [await caller.record(one) for one in ids]
        listed = await caller.all_at_last("seen", 40)

        assert [record["invocation_id"] for record in known] == ids
        assert listed == before, harm


def _harm(server: Broken, harm: str, chance: random.Random) -> None:
    view = server.data / "view.sqlite3"
    content = view.read_bytes()
    assert len(content) > 8192
    for path in server.data.glob("view.sqlite3*"):
        path.unlink()
    if harm == "deleted":
        return
    if harm == "garbage":
        content = chance.randbytes(len(content))
    elif harm == "cut":
        content = content[: len(content) // 2]
    else:  # the head of a page, past the first, which tells what the file is
        at = 4096 * chance.randrange(1, len(content) // 4096)
        content = content[:at] + bytes(64) + content[at + 64 :]
    view.write_bytes(content)
    owner = server.data.stat()
    os.chown(view, owner.st_uid, owner.st_gid)
    view.chmod(0o600)


async def test_accepts_while_the_store_stands_still_all_come_to_an_end(
    server: Broken, caller: Caller, request: pytest.FixtureRequest
) -> None:
    count = 10_000 if request.config.getoption("--long") else 300
    await caller.create("accepts", "exports.handler = ({ n }) => n;")
    slots = asyncio.Semaphore(64)
    accepted: dict[int, str] = {}

    async def accept(n: int) -> None:
        async with slots:
            while True:
                answer = await caller.post("accepts", {"n": n}, "Async")
                if answer.status_code == 200:
                    accepted[n] = answer.headers["x-invocation-id"]
                    return
                assert (answer.status_code, answer.json()["code"]) == (503, "no_capacity"), answer.text
                await asyncio.sleep(0.05)

    accepting = [asyncio.ensure_future(accept(n)) for n in range(count)]
    await caller.until(lambda: _value(len(accepted)), count // 4)
    await asyncio.to_thread(breaking.stand_still, [breaking.nats_of(server.pid)], 2.0)
    await caller.until(lambda: _value(len(accepted)), count // 2)
    await asyncio.to_thread(breaking.kill_nats, server.pid)
    await asyncio.gather(*accepting)
    ended = {n: await caller.ended(one) for n, one in accepted.items()}

    assert {n: record["status"] for n, record in ended.items() if record["status"] != "ok"} == {}
    assert {n: record["result"] for n, record in ended.items()} == {n: str(n) for n in range(count)}
    assert len(set(accepted.values())) == count


async def _value(number: int) -> int:
    return number
