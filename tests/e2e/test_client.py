"""`stoker.client` against a real server: what the transport in memory cannot show."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import msgspec
import pytest

import stoker.client as sdk
from stoker.client.types import AssetItem, Code, FunctionCreate
from tests.e2e.conftest import Client

COUNTS = b"exports.handler = async (event) => { console.log('ran'); return { got: event }; };"


class Cutter:
    """Passes requests on to a server, and cuts the first connections when their answer comes."""

    def __init__(self, url: str, cuts: int) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(
                target=self._pass, args=(here, self.connections <= self._cuts), daemon=True
            ).start()

    def _pass(self, here: socket.socket, cuts: bool) -> None:
        with here, socket.create_connection(self._target) as there:
            up = threading.Thread(target=_copy, args=(here, there), daemon=True)
            up.start()
            if cuts:
                there.recv(1)  # the server has answered, and nobody hears it
            else:
                _copy(there, here)
            here.shutdown(socket.SHUT_RDWR)
            up.join()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        return


@contextmanager
def cutting(url: str, cuts: int) -> Iterator[Cutter]:
    cutter = Cutter(url, cuts)
    yield cutter
    cutter.close()


@pytest.fixture
def ours(client: Client) -> Iterator[sdk.Client]:
    """The client under test, beside the one of the other tests."""
    with sdk.Client(client.url, client.token) as found:
        yield found


@pytest.fixture
def counts(ours: sdk.Client, client: Client) -> str:
    """A function whose records tell how often it ran."""
    code = Code(
        collection_topic=client.collection, handler="index.handler", assets=[AssetItem.of("index.js", COUNTS)]
    )
    ours.functions.create(
        FunctionCreate(name="counts", compute_asset=code, monitor_config={"store_payload": True})
    )
    return f"{client.collection}/counts"


def test_sixty_threads_share_a_client_and_each_keeps_its_connection(client: Client, ours: sdk.Client) -> None:
    sleeps = b"exports.handler = (event) => new Promise((done) => setTimeout(done, 300, event));"
    code = Code(
        collection_topic=client.collection, handler="index.handler", assets=[AssetItem.of("index.js", sleeps)]
    )
    ours.functions.create(
        FunctionCreate(name="sleeps", compute_asset=code, monitor_config={}, concurrency={"per_instance": 60})
    )
    with cutting(client.url, 0) as cutter, sdk.Client(cutter.url, client.token) as through:
        together = threading.Barrier(60)

        def call(number: int) -> object:
            together.wait()
            return through.invoke(f"{client.collection}/sleeps", number)

        with ThreadPoolExecutor(60) as threads:
            first = list(threads.map(call, range(60)))
            second = list(threads.map(call, range(60)))

    assert first == second == list(range(60))
    assert cutter.connections <= 60


@pytest.mark.parametrize("cuts", [1, 2])
def test_a_lost_connection_runs_nothing_twice(
    client: Client, ours: sdk.Client, counts: str, cuts: int
) -> None:
    with cutting(client.url, cuts) as cutter, sdk.Client(cutter.url, client.token) as through:
        result = through.invoke(counts, {"n": 1})

    assert result == {"got": {"n": 1}}
    assert cutter.connections == cuts + 1
    assert len(list(ours.invocations.list(counts))) == 1


def test_an_async_call_over_a_lost_connection_is_accepted_once(
    client: Client, ours: sdk.Client, counts: str
) -> None:
    with cutting(client.url, 1) as cutter, sdk.Client(cutter.url, client.token) as through:
        invocation_id = through.submit(counts, 7)

    assert ours.invocations.wait(invocation_id).value == {"got": 7}
    assert [record.invocation_id for record in ours.invocations.list(counts)] == [invocation_id]


def test_a_connection_that_is_always_lost_is_an_error_that_says_so(client: Client, counts: str) -> None:
    with (
        cutting(client.url, 99) as cutter,
        sdk.Client(cutter.url, client.token, patience=sdk.Patience(retries=2, pause_s=0.01)) as through,
        pytest.raises(sdk.ServerUnreachable) as caught,
    ):
        through.invoke(counts)

    assert caught.value.code == "client.connection_lost"
    assert cutter.connections == 3


def test_what_a_function_answers_has_its_type(ours: sdk.Client, counts: str) -> None:
    class Got(msgspec.Struct):
        got: list[int]

    assert ours.invoke(counts, [1, 2], returns=Got).got == [1, 2]
    assert ours.invoke(counts, msgspec.Raw(b'"text"')) == {"got": "text"}


def test_pages_are_followed_to_the_end(client: Client, ours: sdk.Client, counts: str) -> None:
    for number in range(5):
        client.invoke("counts", number)

    everything = [record.invocation_id for record in ours.invocations.list(counts)]

    assert len(everything) == 5
    assert everything == sorted(everything, reverse=True)
    assert [one.invocation_id for one in ours.invocations.list(counts, limit=3)] == everything[:3]


def test_what_there_is_can_be_asked_for(client: Client, ours: sdk.Client, counts: str) -> None:
    ours.invoke(counts)

    assert {runtime.name for runtime in ours.runtimes()} >= {"nodejs", "python"}
    assert any(machine.annotations["namespace"] == client.collection for machine in ours.machines())
    assert [service.stats.requests for service in ours.services() if service.name == "counts"][-1] >= 1
    assert client.collection in {collection.topic for collection in ours.collections.list()}


def test_a_collection_is_made_changed_and_deleted(ours: sdk.Client, client: Client) -> None:
    made = ours.collections.create(f"{client.collection} of mine", description="first")
    ours.collections.change(made.topic, description="second")

    assert ours.collections.get(made.name).description == "second"
    ours.collections.delete(made.topic)
    with pytest.raises(sdk.NotFound):
        ours.collections.get(made.topic)


def test_a_change_on_what_somebody_else_changed_first_is_a_conflict(ours: sdk.Client, counts: str) -> None:
    function = ours.functions.get(counts)
    ours.functions.change(counts, {"description": "theirs"}, if_match=function.etag)

    with pytest.raises(sdk.VersionConflict):
        ours.functions.change(counts, {"description": "ours"}, if_match=function.etag)
    with pytest.raises(sdk.VersionConflict):
        ours.functions.delete(counts, if_match=function.etag)


async def test_the_async_client_follows_a_function_while_it_is_called(client: Client, counts: str) -> None:
    async with sdk.AsyncClient(client.url, client.token) as ours:

        async def first_line() -> str:
            async for line in ours.invocations.follow(counts):
                return line.line
            raise AssertionError("it ended")

        following = asyncio.create_task(first_line())
        while not following.done():  # what is printed before it follows is not seen
            await ours.invoke(counts)

        assert await following == "ran"
