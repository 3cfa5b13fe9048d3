"""Instances that end by their own fault, or by their memory: whose call pays for it, and whose does not."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.conftest import Client

LATER = {
    "exception": "setTimeout(() => { throw new Error('later'); }, 5);",
    "rejection": "setTimeout(() => { Promise.reject(new Error('later')); }, 5);",
}
RING = """
exports.handler = async ({ ms }) => {
  const ring = [], began = Date.now();
  while (Date.now() - began < ms) {
    const some = [];
    for (let i = 0; i < 20000; i++) some.push({ i, s: 'k' + i, v: [i, i + 1] });
    ring.push(some);
    if (ring.length > 5) ring.shift();
  }
  return ring.length;
};
"""
COPIES = """
exports.handler = async ({ objects }) => {
  const some = [];
  for (let i = 0; i < objects; i++) some.push({ i, s: 'k' + i, v: [i, i + 1] });
  let size = 0;
  for (let n = 0; n < 30; n++) size = JSON.parse(JSON.stringify(some)).length;
  return size;
};
"""
KEEPS = """
const kept = [];
exports.handler = async () => {
  for (;;) for (let i = 0; i < 1000; i++) kept.push({ i, s: 'k' + i, v: [i, i + 1] });
};
"""


@pytest.mark.parametrize("how", list(LATER))
def test_the_call_after_one_that_brought_its_instance_down_runs_in_another(client: Client, how: str) -> None:
    source = f"""
exports.handler = async ({{ fail }}) => {{
  if (fail) {{ {LATER[how]} await new Promise((resolve) => setTimeout(resolve, 200)); }}
  return process.pid + '-' + performance.timeOrigin;
}};
"""
    name = client.function(f"down-{how}", source)

    for _ in range(15):
        failed, after = client.invoke(name, {"fail": True}), client.invoke(name, {})

        assert (failed.status_code, failed.json()["code"], failed.json()["error"]) == (
            500,
            "function.error",
            "later",
        )
        assert after.status_code == 200, after.text


def test_of_calls_at_once_only_those_that_run_beside_it_may_fall_with_an_instance(client: Client) -> None:
    source = f"""
exports.handler = async ({{ fail }}) => {{
  if (fail) {{ {LATER["exception"]} await new Promise((resolve) => setTimeout(resolve, 50)); }}
  return 1;
}};
"""
    name = client.function("among", source, concurrency={"max_instances": 2})
    client.result(name, {})

    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda number: client.invoke(name, {"fail": number % 10 == 0}), range(120))
        )

    wrong = [a.text for number, a in enumerate(answers) if (a.status_code == 200) == (number % 10 == 0)]
    assert wrong == []


@pytest.mark.parametrize("size", ["small", "medium"])
@pytest.mark.parametrize(("source", "event"), [(RING, {"ms": 2000}), (COPIES, {"objects": 60_000})])
def test_garbage_does_not_count_as_memory_that_a_function_needs(
    client: Client, size: str, source: str, event: dict[str, int]
) -> None:
    name = client.function(f"garbage-{os.urandom(4).hex()}", source, size=size)

    answer = client.invoke(name, event)

    assert answer.status_code == 200, answer.text


def test_the_smallest_size_has_room_for_garbage_too(client: Client) -> None:
    name = client.function("smallest", COPIES, size="128MB")

    assert client.result(name, {"objects": 20_000}) == 20_000


@pytest.mark.parametrize("size", ["128MB", "small"])
def test_what_a_function_keeps_is_its_memory(client: Client, size: str) -> None:
    name = client.function(f"keeps-{size}", KEEPS, size=size)

    answer = client.invoke(name, {})

    assert (answer.status_code, answer.json()["code"]) == (500, "function.out_of_memory")
