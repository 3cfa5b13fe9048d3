"""The tasks beside the calls: one that fails is told of, and all end with the server."""

from __future__ import annotations

import asyncio

import pytest

from stoker.app.background import Background


class Errors:
    """A log that keeps what is an error."""

    def __init__(self) -> None:
        self.said: list[tuple[str, object, str]] = []

    def error(self, event: str, **fields: object) -> None:
        self.said.append((event, fields["task"], str(fields["exc_info"])))


async def test_a_task_that_fails_is_in_the_log_by_its_name_and_harms_no_other() -> None:
    errors, ran = Errors(), asyncio.Event()
    background = Background(errors)

    async def fail() -> None:
        raise ValueError("no such folder")

    async def go_on() -> None:
        await asyncio.sleep(0)
        ran.set()

    background.run(fail(), "trim")
    background.run(go_on(), "sweep")
    await ran.wait()

    assert errors.said == [("task_failed", "trim", "no such folder")]
    await background.close()


async def test_what_still_runs_has_ended_when_it_is_closed() -> None:
    errors, ended = Errors(), asyncio.Event()
    background = Background(errors)

    async def run_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(run_for_ever())
    background.own(task)
    await asyncio.sleep(0)
    await background.close()

    assert ended.is_set()
    assert errors.said == []
    with pytest.raises(asyncio.CancelledError):
        await task
