"""Trusted clients of NATS, as they are outside: they read `DATA/nats.json`, call functions and find them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

from stoker.backbone.embedded import EmbeddedServer
from stoker.backbone.errors import BackboneMissing
from stoker.backbone.program import find_nats_server
from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import descendants

ECHO = "exports.handler = async (event) => event;"
THROW = "exports.handler = () => { throw new TypeError('no\\nway'); };"
SLOW = "exports.handler = () => new Promise((done) => setTimeout(() => done('finished'), 700));"
CALL_S_MAX = 30
"""A guard against a hang."""


def access(data: Path) -> dict[str, str]:
    content: dict[str, str] = json.loads((data / "nats.json").read_text())
    return content


@asynccontextmanager
async def connected(data: Path) -> AsyncIterator[NatsClient]:
    """Connect as anybody would who has the file."""
    found = access(data)

    async def ignore(error: Exception) -> None:
        """Connections are cut in here on purpose."""

    async with asyncio.timeout(CALL_S_MAX):
        client = await nats.connect(
            found["url"],
            user=found["user"],
            password=found["password"],
            error_cb=ignore,
            reconnect_time_wait=0.02,
            max_reconnect_attempts=-1,
        )
    try:
        yield client
    finally:
        await client.close()


def nats_server_of(server: ServerProcess) -> int:
    """Return the process id of a server's own nats-server."""
    (found,) = (
        pid
        for pid in descendants(server.process.pid)
        if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"nats-server")
    )
    return found


def subject_of(client: Client, name: str) -> str:
    answer = client.http.get(f"/compute/functions/{client.collection}/{name}")
    subject: str = answer.json()["body"]["subject"]
    return subject


async def call(client: NatsClient, subject: str, payload: object, **headers: str) -> Msg:
    data = b"" if payload is None else json.dumps(payload).encode()
    return await client.request(subject, data, timeout=CALL_S_MAX, headers=headers or None)


async def call_through_restarts(client: NatsClient, subject: str, payload: object) -> Msg:
    """Call as a client does that tries again where its request was lost."""
    async with asyncio.timeout(CALL_S_MAX):
        while True:
            try:
                return await client.request(subject, json.dumps(payload).encode(), timeout=1)
            except nats.errors.Error:
                await asyncio.sleep(0.02)


def error_of(answer: Msg) -> tuple[str, dict[str, Any]]:
    assert answer.headers is not None
    return answer.headers["Nats-Service-Error-Code"], json.loads(answer.data)


@pytest.fixture
def running(isolated: None, data: Path) -> Iterator[list[ServerProcess]]:
    """A list: what a test puts into it is ended after it."""
    started: list[ServerProcess] = []
    yield started
    for one in started:
        one.kill()


def start(running: list[ServerProcess], data: Path, *options: str) -> ServerProcess:
    running.append(ServerProcess(data, *options))
    return running[-1].wait_ready()


# -- calls -------------------------------------------------------------------------------------------


def test_the_file_is_for_the_owner_of_the_token_alone(server: ServerProcess) -> None:
    file, token = (server.data / name for name in ("nats.json", "token"))

    assert file.stat().st_mode & 0o777 == 0o600
    assert (file.stat().st_uid, file.stat().st_gid) == (token.stat().st_uid, token.stat().st_gid)
    assert sorted(access(server.data)) == ["password", "url", "user"]


async def test_a_request_on_a_functions_subject_is_answered_with_its_result(
    server: ServerProcess, client: Client
) -> None:
    subject = subject_of(client, client.function("echo", ECHO))

    async with connected(server.data) as trusted:
        answer = await call(trusted, subject, {"a": [1, "ü"]})
        nothing = await call(trusted, subject, None)

    assert json.loads(answer.data) == {"a": [1, "ü"]}
    assert nothing.data == b"null"


async def test_a_call_has_a_record_that_says_where_it_came_from(
    server: ServerProcess, client: Client
) -> None:
    source = "exports.handler = (event) => { console.log('said', event); return 1; };"
    subject = subject_of(client, client.function("talk", source))

    async with connected(server.data) as trusted:
        answer = await call(trusted, subject, "this")

    assert answer.headers is not None
    invocation = answer.headers["X-Invocation-Id"]
    record = client.http.get(f"/compute/invocations/{invocation}").json()["body"]
    assert (record["function"], record["status"], record["caller"]) == (subject, "ok", "nats")
    assert client.http.get(f"/compute/invocations/{invocation}/log").text == "said this\n"


async def test_a_failure_is_told_as_over_http(server: ServerProcess, client: Client) -> None:
    name = client.function("throws", THROW)
    over_http = client.invoke(name)

    async with connected(server.data) as trusted:
        answer = await call(trusted, subject_of(client, name), {})

    status, body = error_of(answer)
    assert answer.headers is not None
    assert status == str(over_http.status_code) == "500"
    assert body.pop("invocation_id") == answer.headers["X-Invocation-Id"]
    expected = over_http.json()
    del expected["invocation_id"]
    assert body == expected
    assert answer.headers["Nats-Service-Error"] == "no way"


async def test_what_is_refused_over_http_is_refused_alike(server: ServerProcess, client: Client) -> None:
    schema = {"input": {"type": "object"}}
    name = client.function("picky", ECHO, schema=schema, timeout=200)
    subject = subject_of(client, name)
    absent = subject.rsplit(".", 1)[0] + ".1"

    async with connected(server.data) as trusted:
        violation = error_of(await call(trusted, subject, 7))
        unknown = error_of(await call(trusted, absent, {}))
        of_nobody = error_of(await call(trusted, f"accounts.nobody.{subject}", {}))
        no_json = error_of(await trusted.request(subject, b"{", timeout=CALL_S_MAX))
        no_type = error_of(await call(trusted, subject, {}, **{"X-Invocation-Type": "Soon"}))

    assert violation == ("400", client.invoke(name, 7).json())
    assert (unknown[0], unknown[1]["code"]) == ("404", "not_found")
    assert of_nobody == unknown
    assert (no_json[0], no_json[1]["field"]) == ("400", "/payload")
    assert (no_type[0], no_type[1]["code"]) == ("400", "request.invalid")


async def test_a_call_past_its_timeout_answers_504(server: ServerProcess, client: Client) -> None:
    name = client.function("spins", "exports.handler = () => { for (;;) {} };", timeout=200)

    async with connected(server.data) as trusted:
        status, body = error_of(await call(trusted, subject_of(client, name), {}))

    assert (status, body["code"]) == ("504", "function.timeout")


async def test_many_calls_at_once_get_each_its_own_answer(server: ServerProcess, client: Client) -> None:
    subject = subject_of(client, client.function("echo", ECHO))

    async with connected(server.data) as trusted:
        answers = await asyncio.gather(*(call(trusted, subject, number) for number in range(300)))

    assert [json.loads(answer.data) for answer in answers] == list(range(300))


async def test_an_async_call_is_accepted_and_found_by_its_id(server: ServerProcess, client: Client) -> None:
    subject = subject_of(client, client.function("echo", ECHO, monitor_config={"store_payload": True}))

    async with connected(server.data) as trusted:
        answer = await call(trusted, subject, {"a": 1}, **{"X-Invocation-Type": "Async"})

    invocation = json.loads(answer.data)["invocation_id"]
    assert answer.headers == {"X-Invocation-Id": invocation}
    record = client.http.get(f"/compute/invocations/{invocation}?wait=30000").json()["body"]
    assert (record["status"], record["caller"], record["result"]) == ("ok", "nats", '{"a":1}')


async def test_a_key_that_is_sent_again_answers_the_first_outcome(
    server: ServerProcess, client: Client
) -> None:
    source = "let calls = 0; exports.handler = () => { calls += 1; return calls; };"
    subject = subject_of(client, client.function("counts", source, concurrency={"max_instances": 1}))

    async with connected(server.data) as trusted:
        first, again = [await call(trusted, subject, {}, **{"Idempotency-Key": "k"}) for _ in range(2)]
        other = error_of(await call(trusted, subject, {"b": 1}, **{"Idempotency-Key": "k"}))
        without = await call(trusted, subject, {})

    assert (first.data, again.data, without.data) == (b"1", b"1", b"2")
    assert first.headers == again.headers
    assert (other[0], other[1]["code"]) == ("409", "idempotency.conflict")


async def test_messages_that_nobody_waits_for_run_nothing(server: ServerProcess, client: Client) -> None:
    source = "let calls = 0; exports.handler = () => { calls += 1; return calls; };"
    subject = subject_of(client, client.function("counts", source, concurrency={"max_instances": 1}))

    async with connected(server.data) as trusted:
        for _ in range(5):
            await trusted.publish(subject, b"{}")
        answer = await call(trusted, subject, {})

    assert answer.data == b"1"


# -- restarts ----------------------------------------------------------------------------------------


async def test_calls_go_on_after_nats_was_killed_and_after_the_server_was_started_again(
    running: list[ServerProcess], data: Path
) -> None:
    server = start(running, data)
    with server.client() as client:
        subject = subject_of(client, client.function("echo", ECHO))
    before = access(data)

    async with connected(data) as trusted:
        assert (await call(trusted, subject, 1)).data == b"1"
        os.kill(nats_server_of(server), signal.SIGKILL)
        assert (await call_through_restarts(trusted, subject, 2)).data == b"2"

        assert await asyncio.to_thread(server.stop) == 0
        await asyncio.to_thread(start, running, data)
        assert (await call_through_restarts(trusted, subject, 3)).data == b"3"

    assert access(data) == before


async def test_a_data_directory_without_the_file_gets_one_at_the_next_start(
    running: list[ServerProcess], data: Path
) -> None:
    first = start(running, data)
    with first.client() as client:
        subject = subject_of(client, client.function("echo", ECHO))
    assert first.stop() == 0
    before = access(data)
    (data / "nats.json").unlink()

    start(running, data)

    assert access(data)["password"] != before["password"]
    async with connected(data) as trusted:
        assert (await call(trusted, subject, 1)).data == b"1"


async def test_a_call_over_nats_is_finished_and_answered_before_the_server_ends(
    running: list[ServerProcess], data: Path
) -> None:
    server = start(running, data)
    with server.client() as client:
        subject = subject_of(client, client.function("slow", SLOW))
    async with connected(data) as trusted:
        await call(trusted, subject, {})  # an instance is there
        running_call = asyncio.ensure_future(call(trusted, subject, {}))
        # what is sent behind it is answered: the server has it
        assert error_of(await call(trusted, subject.rsplit(".", 1)[0] + ".1", {}))[0] == "404"

        ended = asyncio.ensure_future(asyncio.to_thread(server.stop))

        assert (await running_call).data == b'"finished"'
        assert await ended == 0


# -- discovery ---------------------------------------------------------------------------------------


async def discovered(client: NatsClient, subject: str, *, last: str) -> list[dict[str, Any]]:
    """Ask, and return the answers up to that of a service called `last`, which is asked behind the others."""
    inbox = client.new_inbox()
    answers: list[dict[str, Any]] = []
    subscription = await client.subscribe(inbox)
    await client.publish(subject, b"", reply=inbox)
    await client.publish(f"$SRV.PING.{last}", b"", reply=inbox)
    while True:
        answer = json.loads((await subscription.next_msg(timeout=CALL_S_MAX)).data)
        if answer["name"] == last:
            return answers
        answers.append(answer)


async def test_functions_are_found_by_the_clients_of_nats_services(
    server: ServerProcess, client: Client
) -> None:
    name = client.function(f"found by {client.collection}", ECHO, description="gives back")
    last = client.function(f"last-{client.collection}", ECHO)
    for number in range(3):
        client.invoke(name, number)
    service = name.replace(" ", "_")

    async with connected(server.data) as trusted:
        everybody = [ServicePing.from_dict(one) for one in await discovered(trusted, "$SRV.PING", last=last)]
        (ping,) = await discovered(trusted, f"$SRV.PING.{service}", last=last)
        (info,) = await discovered(trusted, f"$SRV.INFO.{service}", last=last)
        (stats,) = await discovered(trusted, f"$SRV.STATS.{service}.{ping['id']}", last=last)
        endpoint = ServiceInfo.from_dict(info).endpoints[0]
        called = await call(trusted, endpoint.subject, 5)

    assert service in [one.name for one in everybody]
    assert (info["name"], info["version"], info["description"]) == (service, "1.0.0", "gives back")
    assert info["metadata"]["function"] == name
    assert called.data == b"5"
    counted = ServiceStats.from_dict(stats).endpoints[0]
    assert (counted.num_requests, counted.num_errors) == (3, 0)
    assert counted.average_processing_time > 0


# -- a NATS of the operator's own --------------------------------------------------------------------


def leave_behind(file: Path) -> None:
    """Make a data directory in which an embedded server was once."""
    file.parent.mkdir(mode=0o700)
    file.write_text("of an earlier life")


async def test_with_a_nats_of_the_operators_own_there_is_no_file_and_whom_it_lets_in_may_call(
    running: list[ServerProcess], data: Path, tmp_path: Path
) -> None:
    try:
        find_nats_server()
    except BackboneMissing as missing:
        pytest.skip(missing.message)
    operators = EmbeddedServer(tmp_path / "nats")
    await operators.start()
    try:
        own = operators.credentials
        url = operators.url.replace("//", f"//{own.user}:{own.password}@")
        leave_behind(data / "nats.json")

        server = await asyncio.to_thread(start, running, data, "--nats", url)

        assert not (data / "nats.json").exists()
        with server.client() as client:
            subject = subject_of(client, await asyncio.to_thread(client.function, "echo", ECHO))
        theirs = await nats.connect(url)
        assert (await call(theirs, subject, 1)).data == b"1"
        await theirs.close()
        assert await asyncio.to_thread(server.stop) == 0
    finally:
        await operators.stop()
