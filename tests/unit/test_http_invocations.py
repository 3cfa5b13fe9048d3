"""The routes of invocations: each with every kind of token, when it works and when it must be refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from stoker.app.calls import Calls
from stoker.app.record_keeping import RecordKeeping
from stoker.edge.history import History
from stoker.edge.http.access import Access
from stoker.edge.http.app import Door
from stoker.edge.http.invocations import InvocationRoutes
from stoker.model.call import Call, text_of
from stoker.model.function import Function
from stoker.model.outcome import Outcome
from stoker.model.record import Keeping, Record
from stoker.testing.catalog import ACCOUNT
from stoker.testing.invocation import FakeExecutor, a_failure, an_outcome
from stoker.testing.records import RecordsBench
from stoker.testing.site import STRANGER, Site

FUNCTION = "/compute/functions/my-namespace/my-function"
LETTERS = f"{FUNCTION}/dead-letters"
ALL = "/compute/invocations"
UNKNOWN = "0190163d-8694-739b-aea5-966c26f8ad91"
AUDITOR = "auditor"
"""A token that may read records and do nothing else."""
NEVER = Keeping(0, store_payload=True)


class InvocationSite(Site):
    """The routes over record keeping in memory, an executor that runs nothing, and one function."""

    function: Function

    def __init__(self, folder: Path) -> None:
        self.keeping = RecordsBench(folder)
        self.executor = FakeExecutor()
        super().__init__({})
        self._add_token(ACCOUNT, AUDITOR, ["records:read"])

    def _doors(self, access: Access) -> Sequence[Door]:
        keeping = self.keeping
        self.calls = Calls(
            self.bench.catalog,
            self.bench.fold,
            self.executor,
            cast(RecordKeeping, keeping),
            self.limits,
            lambda call, outcome: None,
            now_ms=keeping.now_ms,
        )
        history = History(self.calls.live, keeping.records)
        routes = InvocationRoutes(
            self.bench.fold, access, history, keeping.records, keeping.store, self.calls, self.limits
        )
        return (routes,)

    async def open(self) -> None:
        await self.keeping.open()
        self.function = await self.bench.create(monitor_config={"store_payload": True})

    async def close(self) -> None:
        await self.client.aclose()
        await self.calls.close()
        await self.keeping.close()

    async def ask(
        self, path: str, method: str = "GET", *, token: str | None = "admin", **rest: Any
    ) -> httpx.Response:
        request = self.client.build_request(method, path, **rest)
        del request.headers["authorization"]
        if token is not None:
            request.headers["authorization"] = f"Bearer {token}"
        return await self.client.send(request)

    async def ended(self, **record: Any) -> Record:
        return await self.keeping.ended(self.function.subject, **record)

    async def queued(self) -> str:
        """Accept one that waits for its turn, as there is no room."""
        self.executor.places = 0
        accepted = await self.keeping.accept(self.function.subject)
        self.calls.queue.take(accepted, b"{}")
        return accepted.record.invocation_id

    async def running(self) -> str:
        """Accept one that runs."""
        accepted = await self.keeping.accept(self.function.subject)
        self.calls.queue.take(accepted, b"{}")
        self.executor.begin(self.call(accepted.record.invocation_id))
        return accepted.record.invocation_id

    def call(self, invocation_id: str) -> Call:
        (call,) = [call for call in self.executor.calls if text_of(call.id) == invocation_id]
        return call

    async def started(self, asking: asyncio.Task[httpx.Response]) -> Call:
        """Return the call that a request in flight has begun."""
        known = len(self.executor.calls)
        while len(self.executor.calls) == known:
            assert not asking.done(), asking.result().text
            await asyncio.sleep(0)
        return self.executor.calls[-1]

    async def cancelled(self, asking: asyncio.Task[httpx.Response]) -> Call:
        """Return the call that a request in flight has asked the executor to cancel."""
        while not self.executor.cancelled:
            assert not asking.done(), asking.result().text
            await asyncio.sleep(0)
        return self.executor.cancelled.pop()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[InvocationSite]:
    site = InvocationSite(tmp_path)
    await site.open()
    yield site
    await site.close()


def body_of(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["body"]


def ids_of(answer: httpx.Response) -> list[str]:
    return [record["invocation_id"] for record in body_of(answer)["results"]]


def refusal_of(answer: httpx.Response) -> tuple[int, str]:
    assert isinstance(answer.json()["error"], str)
    return answer.status_code, answer.json()["code"]


def accepted_id(answer: httpx.Response) -> str:
    """Return the id that an Async invoke answers, as JSON text and in the header."""
    invocation_id: str = json.loads(body_of(answer))["invocation_id"]
    assert answer.headers["x-invocation-id"] == invocation_id
    return invocation_id


# -- who may what --------------------------------------------------------------------------------------

READ = {"admin": 200, AUDITOR: 200, "caller": 403, "reader": 403, "nobody": 403}
INVOKE = {"admin": 200, AUDITOR: 403, "caller": 200, "reader": 403, "nobody": 403}
WRITE = {"admin": 200, "writer": 200, AUDITOR: 403, "caller": 403, "nobody": 403}
ROUTES = [
    ("GET", ALL, READ),
    ("GET", ALL + "/{id}", READ),
    ("GET", ALL + "/{id}/log", READ),
    ("POST", ALL + "/{id}/cancel", INVOKE),
    ("POST", ALL + "/{id}/replay", INVOKE),
    ("GET", LETTERS, READ),
    ("POST", LETTERS + "/{id}/redrive", INVOKE),
    ("DELETE", LETTERS + "/{id}", WRITE),
]
NAMES = [f"{method} {path.replace(FUNCTION, '...')}" for method, path, _ in ROUTES]


@pytest.mark.parametrize(("method", "path", "allowed"), ROUTES, ids=NAMES)
async def test_every_route_is_for_the_tokens_that_the_contract_says(
    site: InvocationSite, method: str, path: str, allowed: dict[str, int]
) -> None:
    dead = await site.ended(dead=True, status="error", payload="{}")
    for token, status in sorted(allowed.items(), key=lambda pair: -pair[1]):  # who may not goes first
        invocation_id = await site.running() if path.endswith("/cancel") else dead.invocation_id
        asking = asyncio.ensure_future(site.ask(path.format(id=invocation_id), method, token=token))
        if path.endswith("/cancel") and status == 200:
            (await site.cancelled(asking)).end(a_failure("invocation.cancelled"))
        answer = await asking
        assert answer.status_code == status, (token, answer.text)
        if status == 403:
            assert answer.json()["code"] == "auth.forbidden"
        if method == "DELETE" or path.endswith("/redrive"):
            dead = dead if status == 403 else await site.ended(dead=True, status="error", payload="{}")


@pytest.mark.parametrize(("method", "path", "allowed"), ROUTES, ids=NAMES)
async def test_without_a_token_there_is_nothing_and_another_account_sees_nothing(
    site: InvocationSite, method: str, path: str, allowed: dict[str, int]
) -> None:
    dead = await site.ended(dead=True, status="error")
    path = path.format(id=dead.invocation_id)

    missing = await site.ask(path, method, token=None)
    guessed = await site.ask(path, method, token="guess")
    stranger = await site.ask(path, method, token=STRANGER)

    assert refusal_of(missing) == (401, "auth.missing")
    assert refusal_of(guessed) == (401, "auth.invalid")
    assert missing.headers["www-authenticate"]
    if path == ALL:
        assert ids_of(stranger) == []
    else:
        assert refusal_of(stranger) == (404, "not_found")
    assert ids_of(await site.ask(LETTERS)) == [dead.invocation_id]


@pytest.mark.parametrize(("method", "path", "allowed"), ROUTES, ids=NAMES)
@pytest.mark.parametrize("invocation_id", [UNKNOWN, "x", "*", "%3E", "%2e", "a%2Fb"])
async def test_what_is_not_there_is_404_and_costs_nobody_anything(
    site: InvocationSite, method: str, path: str, allowed: dict[str, int], invocation_id: str
) -> None:
    dead = await site.ended(dead=True, status="error")
    if "{id}" not in path:
        path = path.replace("my-function", "none")
        if path == ALL:
            path += "?function=my-namespace/none"

    answer = await site.ask(path.format(id=invocation_id), method)

    assert refusal_of(answer) == (404, "not_found")
    assert ids_of(await site.ask(LETTERS)) == [dead.invocation_id]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", ALL, "GET, HEAD"),
        ("DELETE", ALL + "/" + UNKNOWN, "GET, HEAD"),
        ("POST", ALL + "/" + UNKNOWN + "/log", "GET, HEAD"),
        ("GET", ALL + "/" + UNKNOWN + "/cancel", "POST"),
        ("GET", ALL + "/" + UNKNOWN + "/replay", "POST"),
        ("POST", LETTERS, "GET, HEAD"),
        ("GET", LETTERS + "/" + UNKNOWN, "DELETE"),
        ("GET", LETTERS + "/" + UNKNOWN + "/redrive", "POST"),
    ],
)
async def test_another_verb_is_405_and_says_which_there_are(
    site: InvocationSite, method: str, path: str, allow: str
) -> None:
    answer = await site.ask(path, method)

    assert refusal_of(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allow


async def test_who_made_a_call_may_look_it_up_but_not_its_log_nor_the_list(site: InvocationSite) -> None:
    own, others = await site.ended(caller="caller"), await site.ended(caller="admin")

    assert body_of(await site.ask(f"{ALL}/{own.invocation_id}", token="caller"))["caller"] == "caller"
    assert refusal_of(await site.ask(f"{ALL}/{others.invocation_id}", token="caller"))[0] == 403
    assert refusal_of(await site.ask(f"{ALL}/{own.invocation_id}/log", token="caller"))[0] == 403
    assert refusal_of(await site.ask(f"{ALL}?limit=1", token="caller"))[0] == 403


async def test_what_a_token_may_not_see_is_refused_before_what_it_asked_wrongly(site: InvocationSite) -> None:
    one = f"{ALL}/{(await site.ended()).invocation_id}"

    assert refusal_of(await site.ask(f"{ALL}/{UNKNOWN}?wait=x", token="nobody"))[0] == 404
    assert refusal_of(await site.ask(f"{one}?wait=x", token="nobody"))[0] == 403
    assert refusal_of(await site.ask(f"{one}?wait=x"))[0] == 400
    assert refusal_of(await site.ask(f"{ALL}?status=x", token="nobody"))[0] == 403
    assert refusal_of(await site.ask(f"{one}/replay", "POST", token="nobody", content=b"{"))[0] == 403


# -- one -----------------------------------------------------------------------------------------------


async def test_a_record_is_answered_in_the_envelope_however_its_id_is_written(site: InvocationSite) -> None:
    ended = await site.ended(result="1", payload="{}")
    await site.keeping.searched()

    answers = [
        body_of(await site.ask(f"{ALL}/{text}"))
        for text in (ended.invocation_id, ended.invocation_id.upper(), ended.invocation_id.replace("-", ""))
    ]

    assert answers[0]["status"] == "ok"
    assert answers == [answers[0]] * 3


@pytest.mark.parametrize("wait", ["60001", "-1", "1.5", "", "x", "1e3", "٣", "9" * 20])
async def test_a_wait_that_makes_no_sense_or_is_too_long_is_refused(site: InvocationSite, wait: str) -> None:
    one = f"{ALL}/{(await site.ended()).invocation_id}"

    assert refusal_of(await site.ask(one, params={"wait": wait})) == (400, "request.invalid")


@pytest.mark.parametrize("wait", ["0", "60000"])
async def test_what_has_ended_is_answered_at_once(site: InvocationSite, wait: str) -> None:
    ended = await site.ended()

    answer = await site.ask(f"{ALL}/{ended.invocation_id}?wait={wait}")

    assert body_of(answer)["status"] == "ok"


async def test_a_wait_is_answered_as_soon_as_the_invocation_has_ended(site: InvocationSite) -> None:
    one = await site.running()
    asking = [asyncio.ensure_future(site.ask(f"{ALL}/{one}?wait=60000")) for _ in range(5)]
    now = body_of(await site.ask(f"{ALL}/{one}?wait=0"))

    site.executor.end(site.call(one), an_outcome(b"7"))

    assert (now["status"], now["attempts"], now["ended"]) == ("running", 1, None)
    for answer in await asyncio.gather(*asking):
        assert (body_of(answer)["status"], body_of(answer)["result"]) == ("ok", "7")


async def test_a_log_is_plain_text(site: InvocationSite) -> None:
    ended = await site.ended(log="grüß\n<b>Gott</b>\n", log_bytes=20, log_cut_bytes=1)

    answer = await site.ask(f"{ALL}/{ended.invocation_id}/log")

    assert answer.content == "grüß\n<b>Gott</b>\n\n[stoker: 1 more bytes were cut]\n".encode()
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


# -- the list ------------------------------------------------------------------------------------------


async def test_without_a_limit_a_list_is_everything_newest_first(site: InvocationSite) -> None:
    made = [await site.ended() for _ in range(3)]

    answer = await site.ask(ALL)

    assert ids_of(answer) == sorted((one.invocation_id for one in made), reverse=True)
    assert set(body_of(answer)) == {"results", "results_total"}
    assert body_of(answer)["results_total"] == 3
    assert answer.headers["content-type"] == "application/json"
    assert "payload" not in body_of(answer)["results"][0]


async def test_an_empty_list_is_a_list(site: InvocationSite) -> None:
    assert body_of(await site.ask(ALL)) == {"results": [], "results_total": 0}
    assert body_of(await site.ask(f"{ALL}?limit=5")) == {"results": [], "results_total": 0}


async def test_pages_lead_from_one_to_the_next_and_count_the_whole(site: InvocationSite) -> None:
    made = [await site.ended() for _ in range(5)]
    found: list[str] = []
    query = "limit=2"
    while True:
        answer = await site.ask(f"{ALL}?{query}")
        found += ids_of(answer)
        assert body_of(answer)["results_total"] == 5
        if "next_cursor" not in body_of(answer):
            break
        query = f"limit=2&cursor={body_of(answer)['next_cursor']}"

    assert found == sorted((one.invocation_id for one in made), reverse=True)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=10001",
        "limit=x",
        "limit=",
        "limit=-1",
        "cursor=",
        "cursor=zz",
        "cursor=%ff",
        "status=",
        "status=done",
        "since=2026-01-01",
        "since=2026-01-01T00:00:00",
        "until=yesterday",
        "function=",
        "function=echo",
    ],
)
async def test_a_filter_that_makes_no_sense_is_refused_and_never_ignored(
    site: InvocationSite, query: str
) -> None:
    answer = await site.ask(f"{ALL}?{query}")

    assert refusal_of(answer) == (400, "request.invalid")
    assert query.split("=")[0] in answer.json()["error"]
    assert answer.json()["hint"]


@pytest.mark.parametrize("query", ["limit=1", "limit=10000"])
async def test_a_limit_within_its_bounds_is_taken(site: InvocationSite, query: str) -> None:
    await site.ended()

    assert len(ids_of(await site.ask(f"{ALL}?{query}"))) == 1


async def test_a_function_is_named_by_subject_or_by_collection_and_name(site: InvocationSite) -> None:
    ours = await site.ended()
    theirs = await site.keeping.ended("ms.compute.gone.function.7")

    async def listed(function: str) -> list[str]:
        return ids_of(await site.ask(ALL, params={"function": function}))

    assert await listed(site.function.subject) == [ours.invocation_id]
    assert await listed("my-namespace/my-function") == [ours.invocation_id]
    assert await listed("ms.compute.gone.function.7") == [theirs.invocation_id]
    assert await listed("ms.compute.gone.function.8") == []


async def test_a_function_whose_name_has_to_be_escaped_is_found_by_it(site: InvocationSite) -> None:
    spaced = await site.bench.create(name="a b%2F?&=ü")
    one = await site.keeping.ended(spaced.subject)

    assert ids_of(await site.ask(ALL, params={"function": "my-namespace/a b%2F?&=ü"})) == [one.invocation_id]


async def test_a_status_and_a_time_are_filters_too(site: InvocationSite) -> None:
    failed, waits = await site.ended(status="error"), await site.queued()
    await site.ended()

    assert ids_of(await site.ask(f"{ALL}?status=error")) == [failed.invocation_id]
    assert ids_of(await site.ask(f"{ALL}?status=queued")) == [waits]
    assert set(ids_of(await site.ask(f"{ALL}?status=error,queued"))) == {waits, failed.invocation_id}
    assert ids_of(await site.ask(f"{ALL}?until=2026-01-01T00:00:00Z")) == []
    assert len(ids_of(await site.ask(f"{ALL}?since=2026-01-01T00:00:00+00:00"))) == 3


# -- cancel --------------------------------------------------------------------------------------------


async def test_one_that_waits_is_cancelled_before_it_begins(site: InvocationSite) -> None:
    one = await site.queued()

    answer = await site.ask(f"{ALL}/{one}/cancel", "POST")

    assert (answer.status_code, answer.json()) == (200, {"message": "success"})
    record = body_of(await site.ask(f"{ALL}/{one}"))
    assert (record["status"], record["code"], record["attempts"]) == ("cancelled", "invocation.cancelled", 0)
    assert site.executor.calls == []
    assert ids_of(await site.ask(LETTERS)) == []


async def test_one_that_runs_is_cancelled_and_answered_once_it_has_ended(site: InvocationSite) -> None:
    one = await site.running()
    asking = asyncio.ensure_future(site.ask(f"{ALL}/{one}/cancel", "POST"))
    await site.cancelled(asking)
    early = asking.done()

    site.executor.end(site.call(one), a_failure("invocation.cancelled"))

    assert not early
    assert (await asking).status_code == 200
    assert body_of(await site.ask(f"{ALL}/{one}"))["status"] == "cancelled"


async def test_one_that_ended_otherwise_before_it_could_be_cancelled_is_409(site: InvocationSite) -> None:
    one = await site.running()
    asking = asyncio.ensure_future(site.ask(f"{ALL}/{one}/cancel", "POST"))
    await site.cancelled(asking)

    site.executor.end(site.call(one), an_outcome(b"1"))

    assert refusal_of(await asking) == (409, "invocation.ended")
    assert body_of(await site.ask(f"{ALL}/{one}"))["status"] == "ok"


async def test_one_that_has_ended_is_409_and_keeps_its_end(site: InvocationSite) -> None:
    ended = await site.ended(status="error")

    for _ in range(2):
        answer = await site.ask(f"{ALL}/{ended.invocation_id}/cancel", "POST")
        assert refusal_of(answer) == (409, "invocation.ended")
    assert body_of(await site.ask(f"{ALL}/{ended.invocation_id}"))["status"] == "error"


async def test_one_that_a_start_has_not_taken_up_yet_cannot_be_cancelled_just_now(
    site: InvocationSite,
) -> None:
    accepted = await site.keeping.accept(site.function.subject)
    await site.keeping.searched()

    answer = await site.ask(f"{ALL}/{accepted.record.invocation_id}/cancel", "POST")

    assert refusal_of(answer) == (503, "no_capacity")
    assert answer.headers["retry-after"]


# -- replay --------------------------------------------------------------------------------------------


async def test_a_replay_of_a_sync_call_answers_like_an_invoke(site: InvocationSite) -> None:
    ended = await site.ended(invocation_type="RequestResponse", payload='{"n":1}')
    asking = asyncio.ensure_future(site.ask(f"{ALL}/{ended.invocation_id}/replay", "POST"))
    call = await site.started(asking)
    call.end(an_outcome(b'{"r": 2}'))

    answer = await asking

    assert body_of(answer) == '{"r": 2}'
    assert answer.headers["x-invocation-id"] == text_of(call.id)
    assert call.payload == b'{"n":1}'
    record = body_of(await site.ask(f"{ALL}/{text_of(call.id)}"))
    assert (record["replay_of"], record["invocation_type"]) == (ended.invocation_id, "RequestResponse")


@pytest.mark.parametrize(
    ("outcome", "status"), [(a_failure("function.error"), 500), (a_failure("function.timeout"), 504)]
)
async def test_a_replay_that_fails_answers_like_an_invoke_that_does(
    site: InvocationSite, outcome: Outcome, status: int
) -> None:
    ended = await site.ended(invocation_type="RequestResponse", payload="{}")
    asking = asyncio.ensure_future(site.ask(f"{ALL}/{ended.invocation_id}/replay", "POST"))
    call = await site.started(asking)
    call.end(outcome)

    answer = await asking

    assert answer.status_code == status
    assert answer.json()["invocation_id"] == answer.headers["x-invocation-id"] == text_of(call.id)


async def test_a_replay_of_an_async_one_is_accepted_like_one(site: InvocationSite) -> None:
    ended = await site.ended(payload='{"n":1}', status="error")

    answer = await site.ask(f"{ALL}/{ended.invocation_id}/replay", "POST", json={"version": 1})

    new = accepted_id(answer)
    assert site.call(new).payload == b'{"n":1}'
    site.executor.end(site.call(new), an_outcome(b"1"))
    record = body_of(await site.ask(f"{ALL}/{new}?wait=60000"))
    assert (record["replay_of"], record["invocation_type"]) == (ended.invocation_id, "Async")


@pytest.mark.parametrize("kind", ["Async", "RequestResponse"])
async def test_a_replay_with_a_payload_that_does_not_fit_any_more_has_a_record_that_says_so(
    site: InvocationSite, kind: str
) -> None:
    picky = await site.bench.create(name="picky", schema={"input": {"type": "array"}})
    ended = await site.keeping.ended(picky.subject, invocation_type=kind, payload="{}")

    answer = await site.ask(f"{ALL}/{ended.invocation_id}/replay", "POST")

    if kind == "Async":
        new = accepted_id(answer)
    else:
        assert refusal_of(answer) == (400, "schema.input")
        new = answer.headers["x-invocation-id"]
        assert answer.json()["invocation_id"] == new
    record = body_of(await site.ask(f"{ALL}/{new}?wait=60000"))
    assert (record["status"], record["code"], record["attempts"]) == ("input_schema", "schema.input", 0)
    assert (record["replay_of"], record["started"]) == (ended.invocation_id, None)
    assert site.executor.calls == []


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"version":2}', 404),
        (b'{"version":0}', 404),
        (b'{"version":-1}', 404),
        (b'{"version":"1"}', 400),
        (b'{"version":true}', 400),
        (b'{"version":1.5}', 400),
        (b"[]", 400),
        (b"{", 400),
        (b"\xff", 400),
    ],
)
@pytest.mark.parametrize("kind", ["Async", "RequestResponse"])
async def test_a_replay_of_a_version_that_is_none_runs_nothing(
    site: InvocationSite, kind: str, content: bytes, status: int
) -> None:
    ended = await site.ended(invocation_type=kind, payload="{}")

    answer = await site.ask(f"{ALL}/{ended.invocation_id}/replay", "POST", content=content)

    assert answer.status_code == status, answer.text
    assert site.executor.calls == []
    assert ids_of(await site.ask(ALL)) == [ended.invocation_id]


async def test_strict_refuses_what_a_replay_does_not_know(site: InvocationSite) -> None:
    ended = await site.ended(payload="{}")
    path = f"{ALL}/{ended.invocation_id}/replay"

    refused = await site.ask(f"{path}?strict=true", "POST", json={"payload": 1})
    ignored = await site.ask(path, "POST", json={"payload": 1})

    assert (refused.status_code, refused.json()["field"]) == (400, "/payload")
    assert ignored.status_code == 200


async def test_one_whose_payload_was_not_kept_cannot_be_run_again(site: InvocationSite) -> None:
    accepted = await site.keeping.accept(site.function.subject)
    ended = await site.keeping.end(accepted, keeping=Keeping(60_000, store_payload=False))

    answer = await site.ask(f"{ALL}/{ended.invocation_id}/replay", "POST")

    assert refusal_of(answer) == (400, "request.invalid")
    assert "store_payload" in answer.json()["hint"]


async def test_a_dead_letter_has_the_payload_that_its_record_did_not_keep(site: InvocationSite) -> None:
    accepted = await site.keeping.accept(site.function.subject, payload='{"n":5}')
    lean = Keeping(60_000, store_payload=False)
    ended = await site.keeping.end(accepted, keeping=lean, dead=True, status="error")

    new = accepted_id(await site.ask(f"{ALL}/{ended.invocation_id}/replay", "POST"))

    assert site.call(new).payload == b'{"n":5}'
    assert ids_of(await site.ask(LETTERS)) == [ended.invocation_id]


async def test_one_that_has_not_ended_is_not_replayed(site: InvocationSite) -> None:
    one = await site.running()

    assert refusal_of(await site.ask(f"{ALL}/{one}/replay", "POST")) == (400, "request.invalid")


async def test_one_of_a_function_that_is_gone_can_be_looked_at_but_not_replayed(site: InvocationSite) -> None:
    ended = await site.ended(payload="{}")
    await site.bench.catalog.delete_function(ACCOUNT, site.bench.entry())

    assert body_of(await site.ask(f"{ALL}/{ended.invocation_id}"))["status"] == "ok"
    assert refusal_of(await site.ask(f"{ALL}/{ended.invocation_id}/replay", "POST")) == (404, "not_found")
    assert ids_of(await site.ask(ALL, params={"function": site.function.subject})) == [ended.invocation_id]


async def test_a_server_that_stops_replays_nothing(site: InvocationSite) -> None:
    ended = [await site.ended(invocation_type=kind, payload="{}") for kind in ("Async", "RequestResponse")]
    await site.calls.drain(1000)

    for one in ended:
        answer = await site.ask(f"{ALL}/{one.invocation_id}/replay", "POST")
        assert refusal_of(answer) == (503, "no_capacity")
    assert site.executor.calls == []


# -- dead letters --------------------------------------------------------------------------------------


async def test_dead_letters_are_listed_the_latest_first_and_in_pages(site: InvocationSite) -> None:
    letters = [(await site.ended(dead=True, status="error")).invocation_id for _ in range(3)]
    await site.ended(status="error")

    whole = await site.ask(LETTERS)
    first = await site.ask(f"{LETTERS}?limit=2")
    rest = await site.ask(f"{LETTERS}?limit=2&cursor={body_of(first)['next_cursor']}")

    assert ids_of(whole) == letters[::-1]
    assert body_of(whole)["results_total"] == 3
    assert ids_of(first) + ids_of(rest) == letters[::-1]
    assert body_of(whole)["results"][0]["status"] == "error"
    assert refusal_of(await site.ask(f"{LETTERS}?limit=0"))[0] == 400


async def test_a_redriven_letter_is_gone_and_runs_as_a_new_invocation(site: InvocationSite) -> None:
    dead = await site.ended(dead=True, status="error", payload='{"n":1}')

    new = accepted_id(await site.ask(f"{LETTERS}/{dead.invocation_id.upper()}/redrive", "POST"))

    assert ids_of(await site.ask(LETTERS)) == []
    assert refusal_of(await site.ask(f"{LETTERS}/{dead.invocation_id}/redrive", "POST"))[0] == 404
    assert site.call(new).payload == b'{"n":1}'
    assert body_of(await site.ask(f"{ALL}/{new}"))["replay_of"] == dead.invocation_id
    assert body_of(await site.ask(f"{ALL}/{dead.invocation_id}"))["status"] == "error"


async def test_of_many_who_redrive_a_letter_at_once_one_does(site: InvocationSite) -> None:
    dead = await site.ended(dead=True, status="error", payload="{}")

    answers = await asyncio.gather(
        *(site.ask(f"{LETTERS}/{dead.invocation_id}/redrive", "POST") for _ in range(10))
    )

    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {404, 409}
    assert len(site.executor.calls) == 1


async def test_a_deleted_letter_is_gone_and_its_record_stays(site: InvocationSite) -> None:
    dead = await site.ended(dead=True, status="error", payload="{}")

    answer = await site.ask(f"{LETTERS}/{dead.invocation_id}", "DELETE")

    assert (answer.status_code, answer.json()) == (200, {"message": "success"})
    assert ids_of(await site.ask(LETTERS)) == []
    assert refusal_of(await site.ask(f"{LETTERS}/{dead.invocation_id}", "DELETE"))[0] == 404
    assert refusal_of(await site.ask(f"{LETTERS}/{dead.invocation_id}/redrive", "POST"))[0] == 404
    assert body_of(await site.ask(f"{ALL}/{dead.invocation_id}"))["status"] == "error"


async def test_a_letter_belongs_to_its_function(site: InvocationSite) -> None:
    await site.bench.create(name="other")
    dead = await site.ended(dead=True, status="error", payload="{}")
    other = LETTERS.replace("my-function", "other")

    assert ids_of(await site.ask(other)) == []
    assert refusal_of(await site.ask(f"{other}/{dead.invocation_id}/redrive", "POST"))[0] == 404
    assert refusal_of(await site.ask(f"{other}/{dead.invocation_id}", "DELETE"))[0] == 404
    assert ids_of(await site.ask(LETTERS)) == [dead.invocation_id]


async def test_a_letter_outlives_the_record_of_a_function_that_keeps_none(site: InvocationSite) -> None:
    accepted = await site.keeping.accept(site.function.subject, payload='{"n":1}')
    await site.keeping.end(accepted, keeping=NEVER, dead=True, status="error")
    one = accepted.record.invocation_id

    assert refusal_of(await site.ask(f"{ALL}/{one}"))[0] == 404
    assert ids_of(await site.ask(LETTERS)) == [one]
    assert site.call(accepted_id(await site.ask(f"{LETTERS}/{one}/redrive", "POST"))).payload == b'{"n":1}'
