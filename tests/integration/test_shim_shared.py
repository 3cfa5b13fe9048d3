"""Several calls in one instance, callbacks, and what happens outside a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stoker.model.launch import LaunchPlan
from stoker.runtimes import nodejs, python, wire
from stoker.testing.shim_process import ShimProcess

Start = Callable[..., ShimProcess]


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LaunchPlan]:
    base = tmp_path_factory.mktemp("shims")
    return {
        "nodejs": nodejs.plan(base / "unused", nodejs.build_shim(base / "nodejs")),
        "python": python.plan(base / "unused", python.build_shim(base / "python")),
    }


@pytest.fixture
def start(plans: dict[str, LaunchPlan], tmp_path: Path) -> Iterator[Start]:
    """Return a function from a source to an instance that has loaded it."""
    started: list[ShimProcess] = []

    def start(runtime: str, source: str, *, per_instance: int = 1) -> ShimProcess:
        (tmp_path / {"nodejs": "main.js", "python": "main.py"}[runtime]).write_text(source)
        process = ShimProcess(plans[runtime], tmp_path).__enter__()
        started.append(process)
        process.load("main.handler", per_instance=per_instance)
        return process

    yield start
    for process in started:
        process.__exit__(None, None, None)


# The second call lets the first one go on, so they are in flight together or the test never ends.
MEETING = {
    "nodejs": """
        const { promise, resolve } = Promise.withResolvers()
        exports.handler = async (e) => {
          console.log(e, 'begins'); process.stderr.write(e)
          if (e === 'a') await promise; else resolve()
          await null; console.log('', 'ends'); return e }""",
    "python": """
import asyncio, sys
met = asyncio.Event()
async def handler(e):
    print(e, 'begins'); sys.stderr.write(e)
    if e == 'a': await met.wait()
    else: met.set()
    await asyncio.sleep(0); print('', 'ends'); return e""",
    "python-threads": """
import threading, sys
met = threading.Event()
def handler(e):
    print(e, 'begins'); sys.stderr.write(e)
    if e == 'a': met.wait()
    else: met.set()
    print('', 'ends'); return e""",
}


@pytest.mark.parametrize("kind", MEETING)
def test_calls_that_share_an_instance_run_together_and_keep_their_logs_apart(kind: str, start: Start) -> None:
    shim = start(kind.split("-")[0], MEETING[kind], per_instance=2)

    a, b = shim.send_invoke(b'"a"'), shim.send_invoke(b'"b"')
    answers = {answer.call_id: answer.value for answer in (shim.answer(), shim.answer())}

    assert answers == {a: "a", b: "b"}
    assert shim.logs == {a: b"a begins\na ends\n", b: b"b begins\nb ends\n"}
    assert shim.printed() == ""


@pytest.mark.parametrize("kind", MEETING)
def test_calls_that_come_with_the_load_in_one_piece_are_served(
    kind: str, plans: dict[str, LaunchPlan], tmp_path: Path
) -> None:
    runtime = kind.split("-")[0]
    (tmp_path / {"nodejs": "main.js", "python": "main.py"}[runtime]).write_text(MEETING[kind])

    with ShimProcess(plans[runtime], tmp_path) as shim:
        ids = shim.send_load_and_invoke("main.handler", [b'"a"', b'"b"'], per_instance=2)
        assert shim.frame()[0] == wire.LOADED
        answers = {answer.call_id: answer.value for answer in (shim.answer(), shim.answer())}

    assert answers == dict(zip(ids, "ab", strict=True))


@pytest.mark.parametrize(
    ("runtime", "source"),
    [
        ("nodejs", "exports.handler = async (e) => { if (e) throw new Error('no'); return 10n }"),
        ("python", "async def handler(e):\n    if e: raise KeyError('no')\n    return {1}"),
        ("python", "def handler(e):\n    if e: raise StopIteration('no')\n    return {1}"),
    ],
)
def test_failures_of_calls_that_share_an_instance_are_their_own(
    runtime: str, source: str, start: Start
) -> None:
    shim = start(runtime, source, per_instance=2)

    ids = [shim.send_invoke(b"1"), shim.send_invoke(b"0")]
    codes = {answer.call_id: answer.error.code for answer in (shim.answer(), shim.answer())}

    assert codes == {ids[0]: "function.error", ids[1]: "function.result_invalid"}


@pytest.mark.parametrize(
    ("runtime", "source"),
    [
        ("nodejs", "exports.handler = () => console.log('x'.repeat(200_000))"),
        ("python", "def handler(): print('x' * 200_000)"),
    ],
)
def test_a_long_line_of_a_call_that_shares_its_instance_comes_in_small_frames(
    runtime: str, source: str, start: Start
) -> None:
    shim = start(runtime, source, per_instance=2)
    call_id = shim.send_invoke(b"1")

    frames = [shim.frame()]
    while frames[-1][0] != wire.RESULT:
        frames.append(shim.frame())

    assert {frame_id for _, frame_id, _ in frames} == {call_id}
    assert max(len(body) for _, _, body in frames) == 65536
    assert b"".join(body for kind, _, body in frames if kind == wire.LOG) == b"x" * 200_000 + b"\n"


@pytest.mark.parametrize(
    ("handler", "result"),
    [
        ("(e, c, done) => { setImmediate(done, null, 'late') }", "late"),
        ("(e, c, done) => { done(null, 'first'); done(null, 'second'); done(new Error('third')) }", "first"),
        ("(e, c, done) => { done(null, 'called'); return 'returned' }", "called"),
        ("async (e, c, done) => { setImmediate(done, null, 'late'); return 'promised' }", "promised"),
        ("(e, c, done) => 'returned'", "returned"),
        ("(e, c) => {}", None),
        ("(e) => ({ then(ok) { ok('from a thenable') } })", "from a thenable"),
    ],
)
def test_the_first_answer_of_a_callback_handler_counts(
    handler: str, result: str | None, start: Start
) -> None:
    shim = start("nodejs", f"let n = 0; exports.handler = {handler}")

    answers = [shim.invoke().value for _ in range(3)]

    assert answers == [result] * 3


def test_answers_to_a_host_that_does_not_read_wait_in_order(start: Start) -> None:
    shim = start("nodejs", "exports.handler = (n) => { if (n === 1) console.log('1'); return 'x'.repeat(n) }")

    # The last call has begun: the first answer is far larger than what a socket holds, and was not read.
    ids = [shim.send_invoke(b"3000000"), shim.send_invoke(b"20"), shim.send_invoke(b"1")]
    assert shim.wait_for_print() == "1\n"
    answers = [shim.answer() for _ in ids]

    assert [answer.call_id for answer in answers] == ids
    assert [len(answer.value) for answer in answers] == [3_000_000, 20, 1]


def test_a_callback_given_an_error_fails_the_call(start: Start) -> None:
    shim = start("nodejs", "exports.handler = (e, c, done) => done(new TypeError('no'))")

    error = shim.invoke().error

    assert (error.code, error.error, error.error_type) == ("function.error", "no", "TypeError")


@pytest.mark.parametrize(
    "thrown",
    ["setImmediate(() => { throw new Error('astray') })", "Promise.reject(new Error('astray'))"],
)
def test_what_is_thrown_beside_a_call_in_flight_fails_it_and_ends_the_process(
    thrown: str, start: Start
) -> None:
    shim = start("nodejs", f"exports.handler = () => {{ {thrown}; return new Promise(() => {{}}) }}")

    answer = shim.invoke()

    assert (answer.error.code, answer.error.error) == ("function.error", "astray")
    assert shim.begun_at_leave == frozenset((answer.call_id,))
    assert shim.exit_code() == 1
    assert "Error: astray" in shim.printed()


def test_what_is_thrown_after_a_call_ends_the_process(start: Start) -> None:
    shim = start("nodejs", "exports.handler = () => { setTimeout(() => { throw new Error('astray') }, 1) }")

    assert shim.invoke().value is None

    with pytest.raises(EOFError):
        shim.answer()
    assert shim.begun_at_leave == frozenset()
    assert shim.exit_code() == 1
    assert "Error: astray" in shim.printed()


def test_a_rejection_that_the_function_listens_for_does_not_end_the_process(start: Start) -> None:
    shim = start(
        "nodejs",
        """let seen = 0; process.on('unhandledRejection', () => { seen++ })
        exports.handler = (e, c, done) => {
          if (e) Promise.reject(1)
          setImmediate(() => done(null, seen)) }""",
    )

    shim.invoke(1)

    assert shim.invoke(0).value == 1


def test_a_python_task_left_running_goes_on_in_the_next_call(start: Start) -> None:
    source = """
import asyncio
ticks = 0
async def tick():
    global ticks
    while True:
        ticks += 1
        await asyncio.sleep(0)
kept = []
async def handler(e):
    if not kept: kept.append(asyncio.create_task(tick()))
    before = ticks
    for _ in range(3): await asyncio.sleep(0)
    return ticks > before"""
    shim = start("python", source)

    answers = [shim.invoke().value for _ in range(3)]

    assert answers == [True, True, True]


def test_a_python_instance_has_its_standard_streams_and_one_socket(start: Start) -> None:
    source = """
import os
def handler():
    with os.scandir('/proc/self/fd') as entries:
        return {e.name: os.readlink(e.path) for e in entries}"""
    shim = start("python", source)

    found = shim.invoke().value

    listing = max(found, key=int)  # of the directory itself
    assert sorted(found.keys() - {listing}) == ["0", "1", "2", "3"]
    assert found["3"].startswith("socket:")


def test_a_fork_that_returns_from_its_handler_answers_nothing(start: Start) -> None:
    source = """
import os
def handler():
    child = os.fork()
    return 'child' if child == 0 else os.waitpid(child, 0)[1]"""
    shim = start("python", source)

    answers = [shim.invoke().value for _ in range(2)]

    assert answers == [0, 0]


def test_an_exit_does_not_wait_for_threads_left_behind(start: Start) -> None:
    source = """
import threading, sys
def handler():
    threading.Thread(target=threading.Event().wait).start()
    print('last words', end='')
    sys.exit('why')"""
    shim = start("python", source)

    shim.send_invoke(b"1")

    assert shim.exit_code() == 1
    assert shim.printed() == "last wordswhy\n"
