"""The ASGI bridge over real sockets: scope, bodies, streams, back-pressure, mistakes; and TLS."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stoker.model.limits import Limits

if TYPE_CHECKING:
    from tests.integration.http.conftest import Calls, StartEdge

WAIT_S = 15.0


async def show(request: Request) -> Response:
    body = await request.body()
    return JSONResponse(
        {
            "path": request.scope["path"],
            "raw_path": request.scope["raw_path"].decode(),
            "query": dict(request.query_params),
            "scheme": request.url.scheme,
            "length": len(body),
            "x": request.headers.get("x-test"),
            "client": request.scope["client"][0],
        }
    )


SHOW = Starlette(routes=[Route("/show/{name}", show, methods=["GET", "POST"])])


def test_an_application_sees_the_request(start_edge: StartEdge) -> None:
    client = start_edge(app=SHOW).connect()

    client.send(
        b"POST /show/a%20b?q=1%202 HTTP/1.1\r\nHost: test\r\nX-TEST: yes \r\nContent-Length: 3\r\n\r\nabc"
    )
    seen = json.loads(client.answer().body)

    assert seen == {
        "path": "/show/a b",
        "raw_path": "/show/a%20b",
        "query": {"q": "1 2"},
        "scheme": "http",
        "length": 3,
        "x": "yes",
        "client": "127.0.0.1",
    }


def test_the_absolute_form_of_a_target_is_understood(start_edge: StartEdge) -> None:
    client = start_edge(app=SHOW).connect()

    client.send(b"GET http://test/show/a?q=/b HTTP/1.1\r\nHost: test\r\n\r\n")

    assert json.loads(client.answer().body)["raw_path"] == "/show/a"


def test_head_is_answered_without_a_body(start_edge: StartEdge) -> None:
    client = start_edge(app=SHOW).connect()

    head = client.get("/show/a", method="HEAD")
    after = client.get("/show/a")

    assert int(head.headers["content-length"]) == len(after.body)
    assert after.status == 200


def test_an_error_answered_to_head_has_no_body_either(start_edge: StartEdge) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("a mistake")

    client = start_edge(app=app).connect()

    assert client.get("/", method="HEAD").status == 500
    assert client.get("/").status == 500


def test_another_verb_on_the_invoke_path_is_the_applications(start_edge: StartEdge) -> None:
    client = start_edge(app=SHOW).connect()

    assert client.get("/compute/functions/c/f/invoke").status == 404


def test_a_large_upload_is_read_no_faster_than_the_application_takes_it(start_edge: StartEdge) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def take(request: Request) -> Response:
        begun.set()
        await anyio.to_thread.run_sync(go_on.wait)
        return JSONResponse(sum([len(chunk) async for chunk in request.stream()]))

    edge = start_edge(app=Starlette(routes=[Route("/", take, methods=["POST"])]))
    client = edge.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 60000000\r\n\r\n")
    assert begun.wait(WAIT_S)

    client.sock.settimeout(1)
    sent = 0
    try:
        while sent < 60_000_000:
            sent += client.sock.send(bytes(100_000))
    except TimeoutError:
        pass  # nobody reads
    go_on.set()
    client.sock.settimeout(WAIT_S)
    client.send(bytes(60_000_000 - sent))

    assert sent < 30_000_000  # what the kernel holds
    assert client.answer().body == b"60000000"


def test_a_stream_arrives_piece_by_piece_before_it_ends(start_edge: StartEdge) -> None:
    seen = threading.Event()

    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await anyio.to_thread.run_sync(seen.wait)
        yield b"data: 2\n\n"

    async def stream(request: Request) -> Response:
        return StreamingResponse(events(), media_type="text/event-stream")

    client = start_edge(app=Starlette(routes=[Route("/", stream)])).connect()
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    lines = list(iter(client.file.readline, b"\r\n"))
    first = client.chunk()
    seen.set()

    assert b"Transfer-Encoding: chunked\r\n" in lines
    assert first == b"data: 1\n\n"
    assert client.chunk() == b"data: 2\n\n"
    assert client.chunk() == b""


def test_a_stream_to_http_1_0_ends_with_the_connection(start_edge: StartEdge) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async def stream(request: Request) -> Response:
        return StreamingResponse(pieces())

    client = start_edge(app=Starlette(routes=[Route("/", stream)])).connect()
    client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    answer = client.answer()

    assert answer.body == b"onetwo"
    assert answer.headers["connection"] == "close"
    assert "transfer-encoding" not in answer.headers


def test_a_stream_waits_for_a_client_that_does_not_read(start_edge: StartEdge) -> None:
    sent: list[int] = []

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(400):
            sent.append(1)
            yield bytes(100_000)

    async def stream(request: Request) -> Response:
        return StreamingResponse(pieces())

    edge = start_edge(app=Starlette(routes=[Route("/", stream)]))
    client, other = edge.connect(receive_bytes=4_096), edge.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    client.file.readline()
    for _ in range(1_000):  # more turns of the loop than the stream would need
        other.get("/nowhere")
    waiting_at = len(sent)
    while client.file.readline() != b"\r\n":
        pass

    assert waiting_at < 200
    assert sum(len(piece) for piece in iter(client.chunk, b"")) == 40_000_000


def test_an_event_stream_ends_when_its_client_leaves(start_edge: StartEdge) -> None:
    ended = threading.Event()

    async def events() -> AsyncIterator[bytes]:
        try:
            yield b"data: 1\n\n"
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def stream(request: Request) -> Response:
        return StreamingResponse(events())

    client = start_edge(app=Starlette(routes=[Route("/", stream)])).connect()
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    client.file.readline()
    client.close()

    assert ended.wait(WAIT_S)


def test_a_half_closed_client_gets_an_event_stream_to_its_end(start_edge: StartEdge) -> None:
    probed = threading.Event()

    async def events() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await anyio.to_thread.run_sync(probed.wait)
        yield b"data: 2\n\n"

    async def stream(request: Request) -> Response:
        return StreamingResponse(events())

    client = start_edge(app=Starlette(routes=[Route("/", stream)])).connect()
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    while client.file.readline() != b"\r\n":
        pass
    first = client.chunk()
    client.sock.shutdown(1)
    probe = client.file.read(2)  # leading zeros of the next chunk's size
    probed.set()
    size = probe + client.file.readline()

    assert (first, probe) == (b"data: 1\n\n", b"00")
    assert client.file.read(int(size, 16) + 2) == b"data: 2\n\n\r\n"
    assert client.chunk() == b""
    assert client.is_closed()


def test_an_upload_cut_short_is_a_disconnect(start_edge: StartEdge) -> None:
    seen: list[str] = []
    told = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while not seen or seen[-1] != "http.disconnect":
            seen.append((await receive())["type"])
        told.set()

    edge = start_edge(app=app)
    client = edge.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nabc")
    client.close()

    assert told.wait(WAIT_S)
    assert seen == ["http.request", "http.disconnect"]
    assert edge.log.events == []


def test_a_half_closed_client_gets_the_applications_answer(start_edge: StartEdge) -> None:
    go_on = threading.Event()

    async def wait(request: Request) -> Response:
        await anyio.to_thread.run_sync(go_on.wait)
        return PlainTextResponse("answer")

    client = start_edge(app=Starlette(routes=[Route("/", wait)])).connect()
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    client.sock.shutdown(1)
    probe = client.file.read(1)
    go_on.set()

    assert client.answer(already=probe).body == b"answer"
    assert client.is_closed()


def test_an_application_that_waits_hears_that_its_client_left(start_edge: StartEdge) -> None:
    heard = threading.Event()
    begun = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200})  # nobody is there: does nothing
        await send({"type": "http.response.body", "body": b"late"})
        heard.set()

    client = start_edge(app=app).connect()
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    assert begun.wait(WAIT_S)
    client.close()

    assert heard.wait(WAIT_S)


def test_an_answer_before_the_body_is_read_ends_the_connection(start_edge: StartEdge) -> None:
    async def refuse(request: Request) -> Response:
        return PlainTextResponse("no", 401)

    client = start_edge(app=Starlette(routes=[Route("/", refuse, methods=["POST"])])).connect()
    client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 20000000\r\n\r\n")
    answer = client.answer()
    client.send(bytes(20_000_000))

    assert (answer.status, answer.headers["connection"]) == (401, "close")
    assert client.is_closed()


def test_continue_is_asked_for_when_the_application_wants_the_body(start_edge: StartEdge) -> None:
    client = start_edge(app=SHOW).connect()

    client.send(b"POST /show/a HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    asked = client.answer()
    client.send(b"abc")

    assert asked.status == 100
    assert json.loads(client.answer().body)["length"] == 3


def test_a_chunked_upload_past_the_limit_is_refused_while_the_application_reads(
    start_edge: StartEdge,
) -> None:
    client = start_edge(app=SHOW, limits=Limits(request_bytes_max=1_000)).connect()

    client.send(b"POST /show/a HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    client.send(b"3e8\r\n" + bytes(1_000) + b"\r\n")
    answer = client.answer()

    assert (answer.status, json.loads(answer.body)["code"]) == (413, "too_large")
    assert client.is_closed()


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("secret")


async def says_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def breaks_a_line(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"x-name", b"a\r\nSet-Cookie: b")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"secret"})


async def promises_more(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", b"99")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"secret"})


@pytest.mark.parametrize("app", [raises, says_nothing, breaks_a_line, promises_more])
def test_a_mistake_of_the_application_is_a_500_that_hides_why(start_edge: StartEdge, app: Any) -> None:
    edge = start_edge(app=app)
    client = edge.connect()

    answer = client.get("/")
    body = json.loads(answer.body)

    assert (answer.status, body["code"]) == (500, "platform.error")
    assert b"secret" not in answer.body
    assert [event["id"] for event in edge.log.events] == [body["id"]]


def test_an_answer_that_breaks_off_is_not_taken_for_whole(start_edge: StartEdge) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise ValueError("a mistake")

    client = start_edge(app=app).connect()
    client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    received = b""
    try:
        while piece := client.sock.recv(65_536):
            received += piece
    except ConnectionResetError:
        pass

    assert not received.endswith(b"0\r\n\r\n")


def test_an_application_is_cancelled_when_the_server_does_not_wait_for_it(start_edge: StartEdge) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    edge = start_edge(app=app)
    edge.connect().send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    assert begun.wait(WAIT_S)
    edge.stopping(drain_ms=20)()

    assert cancelled.is_set()


def test_both_paths_work_over_tls(
    start_edge: StartEdge, calls: Calls, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        f"{require_tool('openssl')} req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost -keyout {key} -out {cert}".split(),
        check=True,
        capture_output=True,
    )
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(cert, key)
    edge = start_edge(app=SHOW, invoke=calls, tls=server_side)

    client = edge.connect(tls=ssl.create_default_context(cafile=str(cert)))
    client.send(client.invoke(b"{}"))
    calls.next().respond(200, b"x" * 3_000_000)
    lean, other = client.answer(), client.get("/show/a")
    client.send(client.invoke(b"{}"))
    exchange = calls.next()
    client.close()

    assert len(lean.body) == 3_000_000
    assert json.loads(other.body)["scheme"] == "https"
    assert calls.left.acquire(timeout=WAIT_S)
    assert not exchange.open
