"""What trusted clients may do on a real server, and the door through its restarts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from uuid import uuid4

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from stoker.backbone.connection import INBOX_PREFIX, Connection, Message
from stoker.backbone.embedded import EmbeddedServer
from stoker.backbone.responder import Responder
from stoker.backbone.server_config import Credentials
from stoker.edge.errors import ErrorAnswers
from stoker.edge.nats.door import NatsDoor
from stoker.invocation.invoker import Invoker
from stoker.model.limits import Limits
from stoker.testing.invocation import FakeExecutor, Recorded, an_outcome
from stoker.testing.invocation_bench import InvocationBench
from stoker.testing.worker import Notes

TRUSTED = Credentials("client", "secret")
SUBJECT = "ms.compute.my-namespace.function.3970185486"


class Log(Notes):
    """Of the edge."""

    error = Notes.warning


class TrustedClient:
    """A client of nats-py, and the errors that it was told."""

    def __init__(self) -> None:
        self.nats = Client()
        self.errors: asyncio.Queue[Exception] = asyncio.Queue()

    async def open(self, server: EmbeddedServer) -> None:
        await self.nats.connect(
            server.url,
            user=TRUSTED.user,
            password=TRUSTED.password,
            error_cb=self.errors.put,
            reconnect_time_wait=0.01,  # type: ignore[arg-type]
            max_reconnect_attempts=-1,
        )

    async def refused(self, action: Awaitable[object]) -> str:
        """Do what must be refused and return why."""
        await action
        await self.nats.flush()
        async with asyncio.timeout(10):
            return str(await self.errors.get())

    async def call(self, data: bytes) -> Msg:
        """Call the function as soon as somebody serves it."""
        async with asyncio.timeout(20):
            while True:
                try:
                    return await self.nats.request(SUBJECT, data, timeout=10)
                except (nats.errors.NoRespondersError, nats.errors.ConnectionReconnectingError):
                    await asyncio.sleep(0.01)


@pytest.fixture
async def server(nats_server_program: Path, tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "nats", client=TRUSTED)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(server: EmbeddedServer) -> AsyncIterator[TrustedClient]:
    client = TrustedClient()
    await client.open(server)
    yield client
    await client.nats.close()


@pytest.fixture
async def connection(server: EmbeddedServer) -> AsyncIterator[Connection]:
    async with Connection.to_embedded(server) as connection:
        yield connection


@pytest.fixture
async def bus(connection: Connection) -> AsyncIterator[Responder]:
    bus = Responder(connection)
    await bus.open()
    yield bus
    await bus.close()


class EchoExecutor(FakeExecutor):
    """Ends each call with its payload."""

    def submit(self, call: object) -> None:
        super().submit(call)  # type: ignore[arg-type]
        self.calls[-1].end(an_outcome(self.calls[-1].payload))


@pytest.fixture
async def door(bus: Responder) -> NatsDoor:
    """An open door with one function, which answers what it was given."""
    stored = InvocationBench()
    catalog = stored.catalog
    await catalog.create()
    invoker = Invoker(catalog.catalog, EchoExecutor(), Recorded(), Limits(), clock=lambda: 0.0)
    errors = ErrorAnswers(Log())
    door = NatsDoor(catalog.fold, invoker, stored.asynchronous, stored.keyed, errors, bus, Log())
    await door.open()
    return door


# -- permissions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subject",
    [
        ">",
        "*.>",
        "_INBOX_stoker.>",
        "$JS.API.>",
        "$JS.EVENT.>",
        "$SRV.>",
        "$SYS.>",
        "accounts.>",
        "ms.compute.>",
        SUBJECT,
    ],
)
async def test_a_trusted_client_hears_its_answers_and_nothing_else(
    client: TrustedClient, subject: str
) -> None:
    told = await client.refused(client.nats.subscribe(subject))

    assert "permissions violation for subscription" in told.lower()


async def test_a_trusted_client_does_not_take_requests_of_others_by_their_queue(
    client: TrustedClient,
) -> None:
    told = await client.refused(client.nats.subscribe("ms.compute.*.function.*", queue="stoker"))

    assert "permissions violation for subscription" in told.lower()


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.PURGE.CATALOG",
        "$JS.ACK.CATALOG.x",
        "$SYS.REQ.SERVER.PING",
        "accounts.default.catalog.function.tools.1",
        "accounts.default.invocation.x",
        "_INBOX.somebody",
        f"{INBOX_PREFIX}.x.1",
        "ms.compute.tools.collection",
        "ms.compute.tools.function.1.more",
    ],
)
async def test_a_trusted_client_calls_functions_and_sends_nothing_else(
    client: TrustedClient, subject: str
) -> None:
    told = await client.refused(client.nats.publish(subject, b"x"))

    assert "permissions violation for publish" in told.lower()


@pytest.mark.parametrize("subject", [SUBJECT, f"accounts.acme.{SUBJECT}", "$SRV.PING", "$SRV.INFO.a.b"])
async def test_a_trusted_client_may_ask_functions_and_discovery(client: TrustedClient, subject: str) -> None:
    with pytest.raises(nats.errors.NoRespondersError):
        await client.nats.request(subject, b"", timeout=10)

    assert client.errors.empty()


async def test_nobody_listens_to_the_inboxes_of_the_server(connection: Connection) -> None:
    assert connection.new_inbox().startswith(f"{INBOX_PREFIX}.")
    assert connection._answers.inbox.startswith(f"{INBOX_PREFIX}.")
    assert not f"{INBOX_PREFIX}.x".startswith("_INBOX.")


async def test_a_wrong_password_is_turned_away(server: EmbeddedServer) -> None:
    stranger = Connection([server.url], credentials=Credentials("client", "wrong"))

    with pytest.raises(Exception, match="no NATS server answers"):
        await stranger.open(wait_ms=200)


async def test_without_trusted_clients_there_is_no_user_for_them(
    nats_server_program: Path, tmp_path: Path
) -> None:
    server = EmbeddedServer(tmp_path / "other")
    await server.start()
    stranger = Connection([server.url], credentials=TRUSTED)

    with pytest.raises(Exception, match="no NATS server answers"):
        await stranger.open(wait_ms=200)
    await server.stop()


# -- the port ----------------------------------------------------------------------------------------


async def test_a_server_that_is_started_again_is_where_it_was(
    nats_server_program: Path, tmp_path: Path
) -> None:
    first = EmbeddedServer(tmp_path / "nats")
    await first.start()
    port = int(first.url.rsplit(":", 1)[1])
    await first.stop()

    again = EmbeddedServer(tmp_path / "nats", port=port)
    await again.start()

    assert again.url == first.url
    await again.stop()


async def test_a_port_that_somebody_else_has_by_now_is_given_up(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    taken = int(server.url.rsplit(":", 1)[1])
    other = EmbeddedServer(tmp_path / "other", port=taken)

    await other.start()

    assert other.url != server.url
    assert other.pid is not None
    await other.stop()


# -- the door ----------------------------------------------------------------------------------------


async def test_a_request_is_answered_at_the_clients_inbox(door: NatsDoor, client: TrustedClient) -> None:
    answer = await client.call(b'{"a": 1.0}')

    assert answer.data == b'{"a": 1.0}'
    assert list(answer.headers or {}) == ["X-Invocation-Id"]


async def test_an_error_of_any_wording_arrives(door: NatsDoor, client: TrustedClient) -> None:
    answer = await client.call(b'"\x00')

    assert answer.headers is not None
    assert answer.headers["Nats-Service-Error-Code"] == "400"
    assert answer.headers["Nats-Service-Error"]


async def test_the_largest_payload_comes_and_goes(door: NatsDoor, client: TrustedClient) -> None:
    payload = b'"' + b"a" * (Limits().payload_bytes_max - 2) + b'"'

    assert (await client.call(payload)).data == payload


async def test_calls_are_answered_after_the_server_was_killed_and_after_that(
    door: NatsDoor, client: TrustedClient, server: EmbeddedServer
) -> None:
    for number in range(3):
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)

        async with asyncio.timeout(20):
            answer = await calling(client, str(number).encode())

        assert answer.data == str(number).encode()


async def calling(client: TrustedClient, data: bytes) -> Msg:
    """Call as a client does whose connection may be cut under it."""
    while True:
        try:
            async with asyncio.timeout(0.5):
                return await client.call(data)
        except (TimeoutError, nats.errors.TimeoutError):
            continue


async def test_calls_are_answered_after_the_connection_was_closed_for_good(
    door: NatsDoor, connection: Connection, client: TrustedClient
) -> None:
    # The client library then forgets what it had subscribed to.
    back = asyncio.Event()
    connection.on_reconnect(back.set)

    await connection._client._process_err("'maximum connections exceeded'")
    await back.wait()

    assert (await client.call(b"1")).data == b"1"


class Tally:
    """Counts messages here and there, and tells when there were so many."""

    def __init__(self, expected: int) -> None:
        self.here = self.there = 0
        self.all = asyncio.Event()
        self._expected = expected

    async def count_here(self, message: Msg) -> None:
        self.here += 1
        self._look()

    def count_there(self, message: Msg) -> None:
        self.there += 1
        self._look()

    def _look(self) -> None:
        if self.here + self.there >= self._expected:
            self.all.set()


async def test_of_two_servers_one_answers(
    door: NatsDoor, server: EmbeddedServer, client: TrustedClient
) -> None:
    async with Connection.to_embedded(server) as other:
        tally = Tally(40)
        await Responder(other).serve("ms.compute.*.function.*", tally.count_there, queue="stoker")
        await other.request(Message("$JS.API.INFO"))  # the subscription is there
        inbox = f"_INBOX.{uuid4().hex}"
        await client.nats.subscribe(inbox, cb=tally.count_here)

        for _ in range(40):
            await client.nats.publish(SUBJECT, b"1", reply=inbox)
        async with asyncio.timeout(10):
            await tally.all.wait()

        assert tally.here + tally.there == 40
        assert tally.here
        assert tally.there


async def test_answers_that_wait_are_sent_before_the_end(
    server: EmbeddedServer, client: TrustedClient
) -> None:
    connection = Connection.to_embedded(server)
    await connection.open()
    bus = Responder(connection)
    await bus.open()
    inbox = f"_INBOX.{uuid4().hex}"
    answers = await client.nats.subscribe(inbox)
    await client.nats.flush()

    for number in range(100):
        bus.answer(inbox, str(number).encode(), {})
    await bus.close()
    await bus.close()
    await connection.close()

    received = [int((await answers.next_msg(timeout=10)).data) for _ in range(100)]
    assert received == list(range(100))
