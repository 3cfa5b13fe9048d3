"""The end of a server: in order, noticed when it is slow, and certain."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from stoker.app import closing
from stoker.app.closing import Closing
from stoker.telemetry.logging import get_logger


def step(done: list[str], name: str) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        done.append(name)

    return run


async def test_the_last_that_was_added_is_undone_first_and_once() -> None:
    done: list[str] = []
    end = Closing(get_logger("test"))
    for name in ("a", "b", "c"):
        end.add(step(done, name))
    await end.run()
    await end.run()
    assert done == ["c", "b", "a"]


async def test_a_step_that_fails_is_logged_and_keeps_no_other_from_running() -> None:
    done: list[str] = []
    end = Closing(get_logger("test"))

    async def fails() -> None:
        raise OSError("no")

    end.add(step(done, "a"))
    end.add(fails)
    with capture_logs() as logged:
        await end.run()
    assert done == ["a"]
    [line] = logged
    assert line["event"] == "close_failed"
    assert "fails" in line["what"]


async def test_a_slow_step_is_logged_with_where_every_task_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "SLOW_S", 0.0)
    waits = asyncio.Event()

    async def slow() -> None:
        asyncio.get_running_loop().call_later(0.05, waits.set)
        await waits.wait()

    async def stands_here() -> None:
        await waits.wait()

    other = asyncio.create_task(stands_here(), name="the other")
    end = Closing(get_logger("test"))
    end.add(slow)
    with capture_logs() as logged:
        await end.run()
    await other
    [line] = logged
    assert line["event"] == "close_is_slow"
    assert "slow" in line["what"]
    [place] = [one for one in line["tasks"] if one.startswith("the other: ")]
    assert "test_closing.py" in place
    assert place.endswith("stands_here")


def test_a_process_that_does_not_end_shows_its_threads_and_is_ended() -> None:
    code = (
        "import threading\n"
        "from stoker.app.closing import end_by\n"
        "def stuck(): threading.Event().wait()\n"
        "threading.Thread(target=stuck).start()\n"
        "end_by(0.05)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "in stuck" in ended.stderr
