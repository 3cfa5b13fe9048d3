"""A world for one server: a network namespace that is its host, and another with all that it might reach.

No address of the machine under the tests is touched, and none of the real world is asked. The servers of the
outer namespace run in threads of this process: a socket belongs to the namespace it was made in.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import ssl
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from stoker.sandbox import kernel

PUBLIC, SECOND = "93.184.216.34", "93.184.216.35"
PUBLIC_6 = "2606:2800:220:1::34"
PRIVATE, SHARED = "10.9.9.9", "100.64.9.9"
METADATA = "169.254.169.254"
HOST, GATEWAY = "10.77.0.1", "10.77.0.2"
HOST_PUBLIC = "93.184.217.1"
"""An address of the host itself that looks as public as any."""
SERVED = (PUBLIC, SECOND, PRIVATE, SHARED, METADATA)
NAMES = {
    "public.test": [PUBLIC],
    "second.test": [SECOND],
    "sub.public.test": [PUBLIC],
    "private.test": [PRIVATE],
    "db.internal": [PRIVATE],
    "shared.test": [SHARED],
    "metadata.test": [METADATA],
    "loopback.test": ["127.0.0.1"],
    "host.test": [HOST_PUBLIC],
    "mixed.test": [METADATA, PUBLIC],
    "six.test": [PUBLIC_6],
    "mapped.test": ["::ffff:169.254.169.254"],
}
_Made = TypeVar("_Made")


@dataclass
class World:
    """Where the server stands, and what was asked of everything else."""

    host: int
    """A descriptor of the host's network namespace."""
    outside: int
    resolv_conf: Path
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Of all HTTP servers: the address asked, the request line and the Host."""
    queries: Counter[str] = field(default_factory=Counter)
    """Names that were looked up, once for each type asked for."""
    rebind_to: list[str] = field(default_factory=list)
    """What `rebind.test` is, one answer after the other; the last one stays."""
    listening: list[socket.socket] = field(default_factory=list)

    def listen(self, address: str, port: int) -> socket.socket:
        """Return a listening socket of the outside."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def make() -> socket.socket:
            made = socket.socket(family, socket.SOCK_STREAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address, port))
            made.listen(512)
            return made

        made = within(self.outside, make)
        self.listening.append(made)
        return made

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a server is started under, to look names up here."""
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return ("unshare", "--mount", "sh", "-c", script, str(self.resolv_conf))


def within(namespace: int, make: Callable[[], _Made]) -> _Made:
    """Return what `make` makes in a network namespace; only a thread of its own ever enters it."""
    made: list[_Made] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            kernel.setns(namespace, kernel.CLONE_NEWNET)
            made.append(make())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def _new_namespace() -> int:
    made: list[int] = []

    def work() -> None:
        kernel.unshare(kernel.CLONE_NEWNET)
        made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return made[0]


def _ip(namespace: int, *commands: str) -> None:
    def run() -> None:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)

    within(namespace, run)


@contextmanager
def make_world(folder: Path) -> Iterator[World]:
    """Make the two namespaces and the servers; this thread is on the host until it ends."""
    with ExitStack() as undo:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, before)
        host, outside = _new_namespace(), _new_namespace()
        undo.callback(os.close, host)
        undo.callback(os.close, outside)
        _ip(
            host,
            "link set lo up",
            f"link add way type veth peer name way netns /proc/{os.getpid()}/fd/{outside}",
            f"addr add {HOST}/24 dev way",
            "addr add fd77::1/64 dev way nodad",
            f"addr add {HOST_PUBLIC}/32 dev lo",
            "link set way up",
        )
        _ip(
            outside,
            "link set lo up",
            f"addr add {GATEWAY}/24 dev way",
            "addr add fd77::2/64 dev way nodad",
            *(f"addr add {address}/32 dev lo" for address in SERVED),
            f"addr add {PUBLIC_6}/128 dev lo nodad",
            "link set way up",
        )
        _ip(host, f"route add default via {GATEWAY}", "-6 route add default via fd77::2")
        resolv_conf = folder / "resolv.conf"
        resolv_conf.write_text(f"nameserver {GATEWAY}\noptions timeout:2 attempts:1\n")
        world = World(host, outside, resolv_conf)
        for address in (*SERVED, PUBLIC_6):
            _serve_http(world, world.listen(address, 80), address, undo)
        _serve_names(world, undo)
        kernel.setns(host, kernel.CLONE_NEWNET)
        undo.callback(kernel.setns, before, kernel.CLONE_NEWNET)
        undo.callback(_close_all, world.listening)
        yield world


def _close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _serve_http(world: World, listening: socket.socket, address: str, undo: ExitStack) -> None:
    serve_http(world, listening, address, undo, None)


def serve_http(
    world: World,
    listening: socket.socket,
    address: str,
    undo: ExitStack,
    tls: ssl.SSLContext | None,
) -> None:
    """Answer every request with the address that was reached; `/to?URL` redirects."""

    class Answers(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def setup(self) -> None:
            if tls is not None:  # in the connection's own thread: whoever says nothing holds nobody up
                self.request.settimeout(self.timeout)
                self.request = tls.wrap_socket(self.request, server_side=True)
            super().setup()

        def do_GET(self) -> None:
            world.requests.append((address, self.requestline, self.headers["Host"]))
            if self.path.startswith("/to?"):
                self.send_response(302)
                self.send_header("Location", self.path[4:])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = int(self.headers.get("Content-Length", "0"))
            body = self.rfile.read(size) or f"this is {address}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def finish(self) -> None:
            super().finish()
            self.request.close()

        def log_message(self, *_: Any) -> None:
            return

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    server = Server((address, 0), Answers, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    undo.callback(server.server_close)
    undo.callback(thread.join)
    undo.callback(server.shutdown)


def serve_headers(listening: socket.socket, undo: ExitStack, tls: ssl.SSLContext | None) -> None:
    """Answer every request with what was sent, as JSON: its headers by name, `request` and `body_bytes`.

    At `/quiet` only whether there was an `authorization`.
    """

    class Answers(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def setup(self) -> None:
            if tls is not None:
                self.request.settimeout(self.timeout)
                self.request = tls.wrap_socket(self.request, server_side=True)
            super().setup()

        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length", "0"))
            body = self.rfile.read(size)
            if self.headers.get("Transfer-Encoding") == "chunked":
                while count := int(self.rfile.readline(), 16):
                    body += self.rfile.read(count)
                    self.rfile.readline()
                self.rfile.readline()
            sent: dict[str, Any] = {name.lower(): value for name, value in self.headers.items()}
            sent |= {"request": self.requestline, "body_bytes": len(body)}
            if self.path == "/quiet":
                sent = {"authorization": "authorization" in sent}
            answer = json.dumps(sent).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def finish(self) -> None:
            super().finish()
            self.request.close()

        def log_message(self, *_: Any) -> None:
            return

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: Any) -> None:
            return  # a client that does not trust us goes in the middle of the handshake

    server = Server(listening.getsockname()[:2], Answers, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    undo.callback(server.server_close)
    undo.callback(thread.join)
    undo.callback(server.shutdown)


def _serve_names(world: World, undo: ExitStack) -> None:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((GATEWAY, 53))
        return made

    asked = within(world.outside, make)

    def serve() -> None:
        while True:
            packet, whence = asked.recvfrom(4096)
            if not packet:
                asked.close()
                return
            try:
                answer = _answer(world, packet)
            except (IndexError, ValueError, struct.error):
                continue  # no question of a resolver
            asked.sendto(answer, whence)

    thread = threading.Thread(target=serve)
    thread.start()

    def end() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
            ending.sendto(b"", (GATEWAY, 53))

    def stop() -> None:
        within(world.outside, end)
        thread.join()

    undo.callback(stop)


def _answer(world: World, packet: bytes) -> bytes:
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode())
        at += 1 + packet[at]
    name = ".".join(labels).lower()
    kind = struct.unpack_from("!H", packet, at + 1)[0]
    world.queries[name] += 1
    found = NAMES.get(name)
    if name == "rebind.test":
        found = [world.rebind_to[0]]
        if kind == 1 and len(world.rebind_to) > 1:
            world.rebind_to.pop(0)
    records = b""
    count = 0
    for address in found or ():
        if kind == (28 if ":" in address else 1):
            data = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
            records += b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(data)) + data
            count += 1
    code = 0x8180 if found is not None else 0x8183
    return packet[:2] + struct.pack("!HHHHH", code, 1, count, 0, 0) + packet[12 : at + 5] + records
