"""What a call does inside an instance, in both languages: one set of behaviours, each a pair of handlers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from stoker.model.launch import LaunchPlan
from stoker.runtimes import nodejs, python, wire
from stoker.testing.shim_process import ShimProcess

Start = Callable[[str], AbstractContextManager[ShimProcess]]
RUNTIMES = ["nodejs", "python"]


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LaunchPlan]:
    base = tmp_path_factory.mktemp("shims")
    return {
        "nodejs": nodejs.plan(base / "unused", nodejs.build_shim(base / "nodejs")),
        "python": python.plan(base / "unused", python.build_shim(base / "python")),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def instance(plans: dict[str, LaunchPlan], folder: Path) -> Iterator[Callable[[dict[str, str]], ShimProcess]]:
    """Return a function from the source of each language to an instance that has loaded the right one."""
    started: list[ShimProcess] = []

    def start(sources: dict[str, str], **order: Any) -> ShimProcess:
        (runtime,) = [name for name in sources if name in plans]
        file = {"nodejs": "index.js", "python": "main.py"}[runtime]
        (folder / file).write_text(sources[runtime])
        process = ShimProcess(plans[runtime], folder).__enter__()
        started.append(process)
        process.load(file.split(".")[0] + ".handler", **order)
        return process

    yield start
    for process in started:
        process.__exit__(None, None, None)


def both(node: str, py: str) -> pytest.MarkDecorator:
    """Run a test once with each handler."""
    return pytest.mark.parametrize("source", [{"nodejs": node}, {"python": py}], ids=RUNTIMES)


ECHO = both("exports.handler = (event) => event", "def handler(event, context): return event")


@both("exports.handler = async (e) => ({ got: e })", "async def handler(e, c): return {'got': e}")
def test_an_async_handler_answers_what_it_returns(source: dict[str, str], instance: Any) -> None:
    shim = instance(source)

    answers = [shim.invoke(n).value for n in range(3)]

    assert answers == [{"got": 0}, {"got": 1}, {"got": 2}]


@ECHO
def test_any_text_comes_back_unchanged(source: dict[str, str], instance: Any) -> None:
    shim = instance(source)
    event = {"a": [1, 2.5, None, True, "é\u2028\U0001f600\x00"], "": {"long": "x" * 100_000}}

    answer = shim.invoke(event)

    assert answer.value == event


@ECHO
def test_a_payload_of_five_megabytes_comes_back_in_order_with_small_ones(
    source: dict[str, str], instance: Any
) -> None:
    shim = instance(source)
    large = json.dumps("ü" * 2_500_000).encode()

    ids = [shim.send_invoke(payload) for payload in (b"1", large, b"2")]
    answers = [shim.answer() for _ in ids]

    assert [a.call_id for a in answers] == ids
    assert [a.value if i != 1 else len(a.value) for i, a in enumerate(answers)] == [1, 2_500_000, 2]


@ECHO
def test_a_payload_of_a_thousand_levels_comes_back(source: dict[str, str], instance: Any) -> None:
    shim = instance(source)
    payload = b"[" * 1000 + b"]" * 1000

    shim.send_invoke(payload)

    assert shim.answer().result == payload


@ECHO
def test_a_payload_nested_beyond_reason_fails_its_call_and_no_other(
    source: dict[str, str], instance: Any
) -> None:
    shim = instance(source)

    shim.send_invoke(b"[" * 1_000_000 + b"]" * 1_000_000)
    answer = shim.answer()

    assert answer.failure is not None
    assert shim.invoke("still there").value == "still there"


@ECHO
def test_half_a_surrogate_pair_stays_an_escape(source: dict[str, str], instance: Any) -> None:
    shim = instance(source)

    shim.send_invoke(b'{"half":"\\ud83d","whole":"\xc3\xa9"}')

    assert shim.answer().result == b'{"half":"\\ud83d","whole":"\xc3\xa9"}'


@both("exports.handler = () => undefined", "def handler(): pass")
def test_nothing_is_null(source: dict[str, str], instance: Any) -> None:
    assert instance(source).invoke({}).result == b"null"


@both(
    """exports.handler = async (e, c) => [c.awsRequestId, c.functionName, c.functionVersion,
    c.memoryLimitInMB, c.getRemainingTimeInMillis()]""",
    """def handler(e, c): return [c.aws_request_id, c.function_name, c.function_version,
    c.memory_limit_in_mb, c.get_remaining_time_in_millis()]""",
)
def test_the_context_names_the_call_and_its_limits(source: dict[str, str], instance: Any) -> None:
    shim = instance(source)

    answer = shim.invoke(timeout_ms=60_000)

    *named, remaining = answer.value
    assert named == [str(uuid.UUID(bytes=answer.call_id)), "echo", "7", 512]
    assert 0 < remaining <= 60_000


@both(
    """class Odd extends Error {}
function inner() { throw new Odd('no way') }
exports.handler = () => inner()""",
    "class Odd(Exception): pass\ndef inner(): raise Odd('no way')\ndef handler(e, c): return inner()",
)
def test_what_a_handler_throws_is_told_with_the_frames_of_its_own(
    source: dict[str, str], instance: Any
) -> None:
    shim = instance(source)

    error = shim.invoke().error

    assert (error.code, error.error, error.error_type) == ("function.error", "no way", "Odd")
    stacks = {
        "nodejs": "at inner (/code/index.js:2:26)\nat exports.handler (/code/index.js:3:25)",
        "python": 'File "/code/main.py", line 3, in handler\nFile "/code/main.py", line 2, in inner',
    }
    assert error.stack == stacks[shim.plan.runtime]


@both(
    "exports.handler = async () => { await null; JSON.parse('{') }",
    "import json\nasync def handler(e, c): json.loads('{')",
)
def test_frames_of_the_standard_library_are_left_out(source: dict[str, str], instance: Any) -> None:
    error = instance(source).invoke().error

    assert error.error_type in ("SyntaxError", "JSONDecodeError")
    assert error.stack is not None
    assert len(error.stack.splitlines()) == 1
    assert "/code/" in error.stack


@both(
    "exports.handler = (e) => { throw e === 1 ? 'plain text' : { odd: true } }",
    "def handler(e): raise BaseException('plain text' if e == 1 else {'odd': True})",
)
def test_anything_may_be_thrown(source: dict[str, str], instance: Any) -> None:
    shim = instance(source)

    errors = [shim.invoke(n).error.error for n in (1, 2)]

    assert errors[0] == "plain text"
    assert "odd" in errors[1]


@both(
    """const o = {}; o.o = o
exports.handler = (e) => ({ circle: o, bad: 10n, f: () => 1 })[e]""",
    """def handler(e):
    o = {}
    o['o'] = o
    return {'circle': o, 'bad': {1, 2}, 'f': float('nan')}[e]""",
)
@pytest.mark.parametrize("what", ["circle", "bad", "f"])
def test_a_result_that_is_no_json_is_an_error_of_its_own(
    what: str, source: dict[str, str], instance: Any
) -> None:
    shim = instance(source)

    error = shim.invoke(what).error

    assert error.code == "function.result_invalid"
    assert error.error.startswith("the result is not JSON: ")


@both("exports.handler = (n) => 'é'.repeat(n)", "def handler(n): return 'é' * n")
def test_a_result_past_the_bound_is_not_sent(source: dict[str, str], instance: Any) -> None:
    shim = instance(source, result_bytes_max=1000)

    fits, too_large = shim.invoke(499), shim.invoke(500)

    assert len(fits.value) == 499
    assert too_large.error.code == "function.result_too_large"
    assert "1002 bytes" in too_large.error.error


@both(
    "exports.handler = (e) => { console.log('out', e); console.error('err'); process.stdout.write('end') }",
    """import sys
def handler(e):
    print('out', e)
    print('err', file=sys.stderr)
    print('end', end='')""",
)
def test_what_a_call_prints_is_out_before_its_answer(source: dict[str, str], instance: Any) -> None:
    shim = instance(source)

    for n in range(20):
        shim.invoke(n)

        assert shim.printed() == f"out {n}\nerr\nend"


@both("exports.handler = () => process.exit(3)", "import sys\ndef handler(): sys.exit(3)")
def test_an_exit_in_a_handler_ends_the_process(source: dict[str, str], instance: Any) -> None:
    shim = instance(source)

    shim.send_invoke(b"1")

    with pytest.raises(EOFError):
        shim.answer()
    assert shim.exit_code() == 3


@both(
    "exports.handler = () => { console.log('x'.repeat(1_000_000)); process.exit(0) }",
    "import sys\ndef handler(): print('x' * 1_000_000); sys.exit(0)",
)
def test_what_is_printed_before_an_exit_is_all_out(source: dict[str, str], instance: Any) -> None:
    shim = instance(source)

    shim.send_invoke(b"1")

    assert len(shim.printed_to_the_end()) == 1_000_001


@both(
    "class E extends Error {}\nexports.handler = () => { throw new E('\\ud800'.repeat(1_000_000)) }",
    "class E(Exception): pass\ndef handler(): raise E('\\ud800' * 1_000_000)",
)
def test_an_error_fits_into_a_frame_however_long_its_message(source: dict[str, str], instance: Any) -> None:
    shim = instance(source)
    shim.send_invoke(b"1")

    kind, _, body = shim.frame()

    assert kind == wire.ERROR
    assert len(body) < wire.FRAME_SLACK_BYTES
    assert len(wire.decode_error(body).error) == 16384


@both(
    "exports.handler = () => { process.kill(process.pid, 'SIGKILL'); for (;;); }",
    "import os\ndef handler(): os.kill(os.getpid(), 9)",
)
def test_a_signal_that_a_handler_sends_itself_ends_the_process(source: dict[str, str], instance: Any) -> None:
    shim = instance(source)

    shim.send_invoke(b"1")

    with pytest.raises(EOFError):
        shim.answer()
    assert shim.exit_code() == 128 + 9


@both(
    """exports.handler = (e) => {
      JSON.parse = JSON.stringify = () => 'forged'; console.log = () => {}; Promise.prototype.then = null
      process.stdout.write = () => true; globalThis.Buffer = null; process.env = {}
      require('fs').writeSync = () => 0; return e }""",
    """import json, os, sys, time
def handler(e):
    json.loads = json.dumps = json.JSONEncoder.encode = json.JSONDecoder.decode = lambda *a: 'forged'
    sys.stdout = sys.stderr = None; os.write = None; time.monotonic = None
    return e""",
)
def test_a_handler_may_replace_what_the_language_gives_it(source: dict[str, str], instance: Any) -> None:
    shim = instance(source)

    answers = [shim.invoke([n]).value for n in range(3)]

    assert answers == [[0], [1], [2]]


@both(
    "exports.handler = () => [Math.random(), crypto.randomUUID()]",
    """import random, uuid, ssl
def handler(): return [random.random(), str(uuid.uuid4()), ssl.RAND_bytes(8).hex()]""",
)
def test_two_instances_differ_in_what_is_random(source: dict[str, str], instance: Any) -> None:
    first, second = instance(source), instance(source)

    pairs = list(zip(first.invoke().value, second.invoke().value, strict=True))

    assert all(a != b for a, b in pairs)


@both(
    "const fs = require('fs'); exports.handler = () => fs.readlinkSync('/proc/self/fd/0')",
    "import os\ndef handler(): return os.readlink('/proc/self/fd/0')",
)
def test_standard_input_is_empty(source: dict[str, str], instance: Any) -> None:
    assert instance(source).invoke().value == "/dev/null"


@both(
    """const { spawnSync } = require('child_process')
exports.handler = () => spawnSync('sh', ['-c', '[ -e /proc/self/fd/3 ]'], { stdio: 'ignore' }).status""",
    """import os
def handler(): return os.waitstatus_to_exitcode(os.system('[ -e /proc/self/fd/3 ]'))""",
)
def test_a_child_of_a_handler_does_not_inherit_the_wire(source: dict[str, str], instance: Any) -> None:
    assert instance(source).invoke().value == 1


@both(
    "exports.handler = () => [process.env, process.cwd()]",
    "import os\ndef handler(): return [dict(os.environ), os.getcwd()]",
)
def test_the_environment_is_the_clean_one_and_the_functions_own(
    source: dict[str, str], instance: Any, folder: Path
) -> None:
    shim = instance(source, env={"KEY": "välue", "HOME": "/elsewhere"})

    env, cwd = shim.invoke().value

    assert env == {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "KEY": "välue",
        "HOME": "/elsewhere",
    }
    assert cwd == str(folder)


@ECHO
def test_the_end_of_the_wire_ends_the_process(source: dict[str, str], instance: Any) -> None:
    shim = instance(source)

    shim.hang_up()

    assert shim.exit_code() == 0
