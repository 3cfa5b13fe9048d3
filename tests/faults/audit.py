"""The audit of a load's books against the records: nothing that was acknowledged is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from tests.faults.load import KINDS, Load


async def acknowledged_are_known(load: Load) -> None:
    """Every accepted id is found at once, whatever happened before: a look-up never answers 404."""
    for kind in ("keyed", "async"):
        ids = [answer.invocation_id for answer in load.books[kind].acknowledged.values()]
        records = await load.records(ids)
        assert [one for one, record in records.items() if record is None] == []


async def audit(load: Load, *, kills: int = 0) -> None:
    """Let everything end, and hold what the callers saw against what is recorded.

    `kills`: how often the whole server was killed, which may take the last records of plain calls with it.
    """
    print(load)  # shown if something does not fit
    assert not load.unexpected, load.unexpected
    await _keys_are_kept(load)
    await _async_has_ended(load)
    for kind in KINDS:
        await _counts_fit(load, kind)
        await _records_fit(load, kind, kills=kills if kind == "plain" else 0)


async def _keys_are_kept(load: Load) -> None:
    """The same request again answers what it did, and runs nothing."""
    book = load.books["keyed"]
    before = (await load.counted("keyed"))["all"]
    for n in sorted(book.attempted):
        first = book.acknowledged.get(n)
        again = await _asked_again(load, n)
        if first is not None:
            assert again.status_code == 200, again.text
            assert again.headers["x-invocation-id"] == first.invocation_id
            assert _value(again) == first.value
        elif again.status_code != 200:  # it was cut off: then it may have been lost, for good
            assert again.json()["code"] == "platform.lost", again.text
            twice = await _asked_again(load, n)
            assert (twice.status_code, twice.json()) == (again.status_code, again.json())
    assert before <= (await load.counted("keyed"))["all"] <= len(book.attempted)
    assert {record["attempts"] for record in await load.listed("keyed")} <= {0, 1}


async def _asked_again(load: Load, n: int) -> httpx.Response:
    while True:
        answer = await load.call("keyed", n)
        if answer.status_code not in (409, 429, 503):
            return answer
        await asyncio.sleep(0.05)


def _value(answer: httpx.Response) -> Any:
    return json.loads(answer.json()["body"])


async def _async_has_ended(load: Load) -> None:
    book = load.books["async"]
    ids = [answer.invocation_id for answer in book.acknowledged.values()]
    records = await load.records(ids, wait_ms=60_000)
    ends = {one: None if record is None else record["status"] for one, record in records.items()}
    assert {one: end for one, end in ends.items() if end != "ok"} == {}


async def _counts_fit(load: Load, kind: str) -> None:
    """Accepted = queued + running + ended, with a drift of 0."""
    if kind == "async":
        await load.until(lambda: _none_waits(load, kind))  # ones that were accepted, and nobody was told
    counts = await load.counted(kind)
    total = counts.pop("all")
    assert sum(counts.values()) == total, counts
    assert (counts["queued"], counts["running"]) == (0, 0)


async def _records_fit(load: Load, kind: str, *, kills: int) -> None:
    book = load.books[kind]
    listed = await load.listed(kind)
    ids = [record["invocation_id"] for record in listed]
    assert len(ids) == len(set(ids)), "an invocation is listed twice"
    acknowledged = {answer.invocation_id for answer in book.acknowledged.values()}
    assert len(acknowledged) == len(book.acknowledged), "two requests share an invocation"
    missing = acknowledged - set(ids)
    _only_the_last_are_lost(load, kind, missing, kills)
    marks = await load.marks(kind)
    records = await load.records(sorted(acknowledged - missing))
    for n, answer in book.acknowledged.items():
        record = records.get(answer.invocation_id)
        if record is None:
            assert answer.invocation_id in missing
            continue
        _record_fits(kind, n, record, answer.value, marks)


async def _none_waits(load: Load, kind: str) -> bool:
    counts = await load.counted(kind)
    return counts["queued"] + counts["running"] == 0


def _only_the_last_are_lost(load: Load, kind: str, missing: set[str], kills: int) -> None:
    """A kill takes what ended last: what was told before something that is known is known too."""
    book = load.books[kind]
    for numbers in book.by_worker.values():
        lost = [book.acknowledged[n].invocation_id in missing for n in numbers]
        gaps = sum(now and not before for before, now in zip([False, *lost], lost, strict=False))
        assert gaps <= kills, (kind, numbers, lost)


def _record_fits(kind: str, n: int, record: dict[str, Any], value: Any, marks: dict[int, int]) -> None:
    assert record["status"] == "ok", record
    payload, result = json.loads(record["payload"]), json.loads(record["result"])
    assert (payload["n"], result["n"]) == (n, n)
    assert value is None or result == value, "what was answered is not what is recorded"
    assert result["mark"] == marks[record["version"]], (
        "the record names another version than the one that ran"
    )
    assert record["attempts"] >= 1
    if kind != "async":
        assert record["attempts"] == 1
