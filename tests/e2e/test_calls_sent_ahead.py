"""Calls that are sent to a busy instance ahead of their turn, as those of quick functions are.

One call at a time runs in an instance all the same; nothing that such a call may suffer is another's.
"""

from __future__ import annotations

import json

import pytest

from tests.e2e.callers import burst, results
from tests.e2e.conftest import Client

BOTH = pytest.mark.parametrize("runtime", ["nodejs", "python"])
SOURCES = {
    "nodejs": """
const me = require('node:crypto').randomUUID();
let running = 0;
exports.handler = async (event) => {
  running += 1;
  const most = running;
  if (event.print) console.log('printed', event.n);
  if (event.die) process.exit(9);
  await null;
  if (event.ms) await new Promise((done) => setTimeout(done, event.ms));
  if (event.spin) { const end = Date.now() + event.spin; while (Date.now() < end) {} }
  if (event.child) require('node:child_process').execSync(`echo child ${event.n}`, { stdio: 'inherit' });
  running -= 1;
  return { n: event.n, me, most };
};
""",
    "python": """
import os, subprocess, time, uuid
me = str(uuid.uuid4())
running = 0
def handler(event):
    global running
    running += 1
    most = running
    if event.get('print'): print('printed', event['n'])
    if event.get('die'): os._exit(9)
    if event.get('ms'): time.sleep(event['ms'] / 1000)
    if event.get('spin'):
        end = time.monotonic() + event['spin'] / 1000
        while time.monotonic() < end: pass
    if event.get('child'): subprocess.run(['/bin/sh', '-c', f"echo child {event['n']}"])
    running -= 1
    return {'n': event['n'], 'me': me, 'most': most}
""",
}
CALLERS = 24


def quick_function(client: Client, runtime: str, **rest: object) -> str:
    """Create a function and call it until its calls are known to be quick and silent."""
    name = client.function("quick", SOURCES[runtime], runtime=runtime, **rest)
    for _ in range(8):
        results(burst(client, name, [{"n": n} for n in range(CALLERS)]))
    return name


@BOTH
def test_one_call_at_a_time_runs_and_each_gets_its_own_result(client: Client, runtime: str) -> None:
    name = quick_function(client, runtime, concurrency={"max_instances": 2})

    for _ in range(5):
        seen = results(burst(client, name, [{"n": n} for n in range(CALLERS)]))

        assert [one["n"] for one in seen] == list(range(CALLERS))
        assert {one["most"] for one in seen} == {1}


@BOTH
@pytest.mark.parametrize("how", ["print", "child"])
def test_what_a_call_prints_is_in_its_own_log(client: Client, runtime: str, how: str) -> None:
    name = quick_function(client, runtime, concurrency={"max_instances": 1})
    word = "printed" if how == "print" else "child"

    answers = burst(client, name, [{"n": n, how: n % 5 == 0} for n in range(CALLERS)])

    results(answers)
    logs = [client.log(answer) for answer in answers]
    assert logs == [f"{word} {n}\n" if n % 5 == 0 else "" for n in range(CALLERS)]


@BOTH
@pytest.mark.parametrize("how", ["ms", "spin"])
def test_calls_behind_one_that_turns_out_long_are_served_elsewhere(
    client: Client, runtime: str, how: str
) -> None:
    name = quick_function(client, runtime, concurrency={"max_instances": 2}, timeout=20_000)

    answers = burst(client, name, [{"n": n, how: 1500 if n == 2 else 0} for n in range(CALLERS)])

    seen = results(answers)
    assert [one["n"] for one in seen] == list(range(CALLERS))
    records = [
        client.http.get(f"/compute/invocations/{a.headers['x-invocation-id']}").json()["body"]
        for a in answers
    ]
    if how == "ms" and runtime == "nodejs":  # its event loop is free to hear that a call is asked back
        waited = [one["timings"]["queue_ms"] for one in records]
        assert max(waited[:2] + waited[3:]) < records[2]["timings"]["run_ms"], waited
    assert {one["status"] for one in records} == {"ok"}


@BOTH
def test_the_death_of_a_call_ends_no_other(client: Client, runtime: str) -> None:
    name = quick_function(client, runtime, concurrency={"max_instances": 1})

    answers = burst(client, name, [{"n": n, "die": n == 7} for n in range(CALLERS)])

    assert answers[7].json()["code"] == "function.exited"
    others = results([answer for n, answer in enumerate(answers) if n != 7])
    assert [one["n"] for one in others] == [n for n in range(CALLERS) if n != 7]


@BOTH
def test_a_timeout_counts_from_the_turn_of_a_call(client: Client, runtime: str) -> None:
    name = quick_function(client, runtime, concurrency={"max_instances": 1}, timeout=1000)

    answers = burst(client, name, [{"n": n, "ms": 400} for n in range(4)])

    served = [json.loads(a.json()["body"])["n"] for a in answers if a.status_code == 200]
    busy = [a for a in answers if a.status_code != 200]
    assert served
    assert {a.json()["code"] for a in busy} <= {"function.busy"}, [a.text for a in busy]
