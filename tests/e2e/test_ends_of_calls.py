"""Every way a call can end, provoked in both languages; the function goes on serving after each.

Source: the contract's table *What can end a call*.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest

from tests.e2e.conftest import Client
from tests.e2e.processes import groups_with_memory_limit

BOTH = pytest.mark.parametrize("runtime", ["nodejs", "python"])

SOURCES = {
    "nodejs": """
const { spawn } = require('node:child_process');
exports.handler = async (event) => {
  console.log('got', event.do);
  switch (event.do) {
    case 'throw': throw new TypeError('broken on purpose');
    case 'exit': process.exit(3);
    case 'signal': process.kill(process.pid, 'SIGKILL'); await new Promise(() => {});
    case 'spin': for (;;) {}
    case 'memory': { const kept = []; for (;;) kept.push(Buffer.alloc(1 << 20, 1)); }
    case 'child-memory': {
      const child = spawn(process.execPath, ['-e', 'const k=[];for(;;)k.push(Buffer.alloc(1<<20,1))']);
      await new Promise((ended) => child.on('exit', ended));
      await new Promise((later) => setTimeout(later, 5000));
      return 'survived';
    }
    case 'fork': {
      const started = [];
      for (let i = 0; i < 200; i++) {
        await new Promise((ok, no) => {
          const child = spawn('/bin/sh', ['-c', 'read x'], { stdio: ['pipe', 'ignore', 'ignore'] });
          started.push(child);
          child.on('spawn', ok);
          child.on('error', no);
        });
      }
      return 'forked';
    }
    case 'not-json': return { big: 1n };
    case 'large': return 'x'.repeat(7 * 1024 * 1024);
    default: return { done: event.do ?? null };
  }
};
""",
    "python": """
import os, signal, subprocess, sys, time
def handler(event, context):
    what = event.get('do')
    print('got', what)
    if what == 'throw':
        raise TypeError('broken on purpose')
    if what == 'exit':
        os._exit(3)
    if what == 'signal':
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    if what == 'spin':
        while True: pass
    if what == 'memory':
        kept = []
        while True: kept.append(bytearray(b'x') * (1 << 20))
    if what == 'child-memory':
        subprocess.run([sys.executable, '-c', 'k=[]\\nwhile True: k.append(bytearray(b"x") * (1 << 20))'])
        time.sleep(5)
        return 'survived'
    if what == 'fork':
        kept = [subprocess.Popen(['/bin/sh', '-c', 'read x'], stdin=subprocess.PIPE) for _ in range(200)]
        return 'forked'
    if what == 'not-json':
        return {1, 2}
    if what == 'large':
        return 'x' * (7 * 1024 * 1024)
    return {'done': what}
""",
}

ENDS = [
    ("throw", 500, "function.error", "broken on purpose"),
    ("exit", 500, "function.exited", "code 3"),
    ("signal", 500, "function.exited", "SIGKILL"),
    ("spin", 504, "function.timeout", "1500 ms"),
    ("memory", 500, "function.out_of_memory", "memory"),
    ("child-memory", 500, "function.out_of_memory", "memory"),
    ("fork", 500, "function.too_many_processes", "processes"),
    ("not-json", 500, "function.result_invalid", ""),
    ("large", 500, "function.result_too_large", ""),
]


@BOTH
@pytest.mark.parametrize(("what", "status", "code", "words"), ENDS, ids=[end[0] for end in ENDS])
def test_a_call_ends_as_the_contract_says_and_the_next_one_succeeds(
    client: Client, runtime: str, what: str, status: int, code: str, words: str
) -> None:
    timeout = 1500 if what == "spin" else 30_000
    name = client.function("ends", SOURCES[runtime], runtime=runtime, size="128MB", timeout=timeout)

    answer = client.invoke(name, {"do": what})

    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), body
    assert words in body["error"]
    assert body["invocation_id"] == answer.headers["x-invocation-id"]
    assert client.log(answer) == f"got {what}\n"
    assert client.result(name, {"do": "well"}) == {"done": "well"}


@BOTH
def test_an_error_names_its_type_and_shows_only_the_frames_of_the_user(client: Client, runtime: str) -> None:
    name = client.function("throws", SOURCES[runtime], runtime=runtime)

    body = client.invoke(name, {"do": "throw"}).json()

    assert body["error_type"] == "TypeError"
    frames = [line for line in body["stack"].splitlines() if "/" in line]
    assert frames
    assert all("/code/" in line for line in frames), body["stack"]


LOAD_FAILURES = {
    "nodejs": [
        ("exports.other = 1;", "handler"),
        ("exports.handler = (", "index.js"),
        ("require('./gone'); exports.handler = () => 1;", "./gone"),
        ("throw new RangeError('at load');", "at load"),
    ],
    "python": [
        ("other = 1", "handler"),
        ("def handler(event, context:\n  pass", "main.py"),
        ("import gone\ndef handler(e): pass", "gone"),
        ("raise ValueError('at load')", "at load"),
    ],
}


@pytest.mark.parametrize(
    ("runtime", "source", "words"),
    [(runtime, *case) for runtime, cases in LOAD_FAILURES.items() for case in cases],
)
def test_code_that_cannot_be_loaded_says_what_is_missing(
    client: Client, runtime: str, source: str, words: str
) -> None:
    name = client.function("loads", source, runtime=runtime)

    answer = client.invoke(name, {})

    body = answer.json()
    assert (answer.status_code, body["code"]) == (500, "function.load_failed"), body
    assert words in body["error"] + (body.get("stack") or ""), body


@BOTH
def test_an_exit_while_loading_is_an_exit(client: Client, runtime: str) -> None:
    source = "process.exit(7)" if runtime == "nodejs" else "import os\nos._exit(7)"
    name = client.function("exits", source, runtime=runtime)

    body = client.invoke(name, {}).json()

    assert body["code"] == "function.exited"
    assert "7" in body["error"]


@BOTH
def test_what_loading_takes_counts_towards_the_timeout(client: Client, runtime: str) -> None:
    source = (
        "const end = Date.now() + 60000; while (Date.now() < end) {} exports.handler = () => 1;"
        if runtime == "nodejs"
        else "import time\ntime.sleep(60)\ndef handler(e): return 1"
    )
    name = client.function("slow-load", source, runtime=runtime, timeout=800)

    answer = client.invoke(name, {})

    assert (answer.status_code, answer.json()["code"]) == (504, "function.timeout")


SCHEMA = {
    "input": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]},
    "output": {"type": "object", "properties": {"twice": {"type": "integer", "maximum": 100}}},
}


@BOTH
def test_a_payload_that_does_not_fit_the_schema_is_refused_and_nothing_runs(
    client: Client, runtime: str
) -> None:
    source = (
        "let runs = 0; exports.handler = (e) => ({ twice: e.n * 2, runs: ++runs });"
        if runtime == "nodejs"
        else "runs = 0\ndef handler(e):\n    global runs\n    runs += 1\n    return {'twice': e['n'] * 2, 'runs': runs}"
    )
    name = client.function("typed", source, runtime=runtime, schema=SCHEMA, concurrency={"max_instances": 1})

    refused = client.invoke(name, {"n": 0})

    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (
        400,
        "schema.input",
        "/n",
    )
    assert client.result(name, {"n": 4}) == {"twice": 8, "runs": 1}


@BOTH
def test_a_result_that_does_not_fit_the_schema_is_the_functions_fault(client: Client, runtime: str) -> None:
    source = (
        "exports.handler = (e) => ({ twice: e.n * 2 });"
        if runtime == "nodejs"
        else "def handler(e): return {'twice': e['n'] * 2}"
    )
    name = client.function("typed", source, runtime=runtime, schema=SCHEMA)

    answer = client.invoke(name, {"n": 51})

    body = answer.json()
    assert (answer.status_code, body["code"], body["field"]) == (500, "schema.output", "/twice")
    assert client.result(name, {"n": 50}) == {"twice": 100}


@BOTH
def test_an_instance_that_is_killed_under_a_call_is_a_fault_of_the_platform(
    client: Client, runtime: str
) -> None:
    source = (
        "exports.handler = async (e) => { console.log(e.mark); if (e.hang) await new Promise(() => {}); return 1; }"
        if runtime == "nodejs"
        else "import time\ndef handler(e):\n    print(e['mark'], flush=True)\n    if e.get('hang'): time.sleep(60)\n    return 1"
    )
    mark = "here"
    size_mb = 129 if runtime == "nodejs" else 130  # tells its cgroup from every other one's
    name = client.function("killed", source, runtime=runtime, size=f"{size_mb}MB")
    answers = []
    calling = threading.Thread(
        target=lambda: answers.append(client.invoke(name, {"mark": mark, "hang": True}))
    )
    calling.start()

    init = _init_with_memory_limit(size_mb * 1024 * 1024)
    os.kill(init, 9)
    calling.join(30)

    assert (answers[0].status_code, answers[0].json()["code"]) == (500, "platform.lost"), answers[0].text
    assert client.result(name, {"mark": mark}) == 1


def _init_with_memory_limit(memory_bytes: int) -> int:
    """Return the host's pid of the one sandbox's init with that memory limit, once it is there."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for group in groups_with_memory_limit(memory_bytes):
            try:
                pids = [int(line) for line in (group / "cgroup.procs").read_text().split()]
                inits = [p for p in pids if Path(f"/proc/{p}/comm").read_text().strip() == "sh"]
            except OSError:
                continue  # it ended while we looked
            if inits:
                return min(inits)
    pytest.fail("no sandbox with that limit appeared")


@pytest.mark.parametrize("thrown", ["'text'", "{ a: 1 }", "null", "new Error('e')"])
def test_whatever_a_handler_throws_has_a_type_and_a_stack(client: Client, thrown: str) -> None:
    name = client.function(
        f"throws-{uuid4().hex[:8]}", f"exports.handler = async () => {{ throw {thrown}; }};"
    )

    body = client.invoke(name).json()

    assert body["code"] == "function.error"
    assert isinstance(body["error_type"], str)
    assert isinstance(body["stack"], str)


def test_every_answer_to_an_invoke_has_an_id(client: Client) -> None:
    schema = {"input": {"type": "string"}}
    name = client.function(f"id-{uuid4().hex[:8]}", "exports.handler = async () => 1;", schema=schema)
    path = f"/compute/functions/{client.collection}/{name}/invoke"

    answers = [
        client.invoke(name, "fits"),
        client.invoke(name, 1),
        client.invoke("no-such-function", 1),
        client.http.post(path, content=b"{"),
        client.http.post(path, json={"payload": "x", "invocation_type": "Async"}),
    ]

    assert [answer.status_code for answer in answers] == [200, 400, 404, 400, 400]
    ids = [answer.headers["x-invocation-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
