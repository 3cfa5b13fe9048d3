"""A client that means harm, without a token and with one: what it can hold, break or find out.

Each test looks at what the kernel says of the server's processes and files, or at the bytes that came back.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import descendants, wait_until

MIB = 1 << 20
ECHO = "exports.handler = (event) => event;"
pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture(scope="module")
def open_door(isolated: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of this file's own, with room for a hundred connections."""
    data = tmp_path_factory.mktemp("door") / "data"
    data.mkdir(mode=0o700)
    data.parent.chmod(0o755)
    settings = data / "server.toml"
    settings.write_text("[limits]\nconnections_max = 100\n")
    settings.chmod(0o600)
    running = ServerProcess(data).wait_ready()
    yield running
    code = running.stop()
    assert code == 0, "".join(running.stderr)


@pytest.fixture
def door(open_door: ServerProcess) -> Iterator[Client]:
    """A client with the administrator's token."""
    with open_door.client() as client:
        yield client


def resident_bytes(pid: int) -> int:
    """Return what a process holds in memory."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def files_of(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname is not None
    sock = socket.create_connection((parts.hostname, parts.port or 80), timeout=20)
    return sock


def answer_of(sock: socket.socket) -> tuple[int, bytes]:
    """Read to the end of the connection; return status and body."""
    received = b""
    try:
        while piece := sock.recv(65_536):
            received += piece
    except ConnectionResetError:
        pass
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


def ask(client: Client, head: str, body: bytes = b"", *, token: bool = True) -> tuple[int, bytes]:
    """Send a head as it is given, with the host and the token; return status and body."""
    lines = head + "\r\nHost: x\r\nConnection: close\r\n"
    if token:
        lines += f"Authorization: Bearer {client.token}\r\n"
    with connect(client.url) as sock:
        sock.sendall(lines.encode("latin-1") + b"\r\n" + body)
        return answer_of(sock)


# -- without a token -----------------------------------------------------------------------------------


def test_a_stranger_cannot_make_the_server_hold_large_bodies(open_door: ServerProcess) -> None:
    before = resident_bytes(open_door.process.pid)
    statuses = []

    with ExitStack() as stack:
        for path in ("/compute/functions/c/f/invoke", "/compute/functions"):
            for _ in range(10):
                sock = stack.enter_context(connect(open_door.url))
                sock.sendall(
                    f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {60 * MIB}\r\n\r\n".encode()
                )
                with suppress(OSError):  # it hung up on us, as it may
                    sock.sendall(bytes(15 * MIB))
                statuses.append(sock.recv(12))

        assert statuses == [b"HTTP/1.1 401"] * 20
        assert resident_bytes(open_door.process.pid) - before < 50 * MIB


def test_a_stranger_who_sends_in_chunks_is_refused_at_the_head(door: Client) -> None:
    with connect(door.url) as sock:
        sock.sendall(
            b"POST /compute/functions/c/f/invoke HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

        assert sock.recv(12) == b"HTTP/1.1 401"


def test_strangers_who_connect_and_say_nothing_take_no_place_from_others(
    open_door: ServerProcess, door: Client
) -> None:
    before = files_of(open_door.process.pid)
    name = door.function("kept-out", "exports.handler = () => process.exit(1);")

    with ExitStack() as stack:
        mute = [stack.enter_context(connect(open_door.url)) for _ in range(300)]
        for sock in mute[::3]:
            sock.sendall(b"POST /compute/functions HTTP/1.1\r\nHost: x\r\nX-Slow:")
        codes = [door.invoke(name, {}).json()["code"] for _ in range(3)]

        assert codes == ["function.exited"] * 3  # each needs a new instance, and so descriptors
        assert files_of(open_door.process.pid) <= before + 130
    wait_until(lambda: files_of(open_door.process.pid) <= before + 10)


UNREADABLE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX\x00: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n",
]


@pytest.mark.parametrize("sent", UNREADABLE, ids=range(len(UNREADABLE)))
def test_what_is_not_plainly_http_is_refused_in_json_and_ends_the_connection(
    door: Client, sent: bytes
) -> None:
    with connect(door.url) as sock:
        sock.sendall(sent)
        status, body = answer_of(sock)  # to the end: the server closed it

    assert status == 400
    assert json.loads(body)["code"] == "request.invalid"


def test_a_request_hidden_in_the_body_of_another_is_no_request(door: Client) -> None:
    hidden = (
        b"GET /compute/functions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + door.token.encode()
        + b"\r\n\r\n"
    )

    for head in (
        "Upgrade: websocket\r\nConnection: Upgrade, close",
        "Expect: 100-nothing\r\nConnection: close",
    ):
        with connect(door.url) as sock:
            sock.sendall(
                f"POST /nowhere HTTP/1.1\r\nHost: x\r\n{head}\r\nContent-Length: {len(hidden)}\r\n\r\n".encode()
            )
            sock.sendall(hidden)
            received = b"".join(iter(lambda: sock.recv(65_536), b""))

        assert received.count(b"HTTP/1.1 ") == 1
        assert b"results" not in received


# -- with a token: paths, bodies, names ----------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/compute/functions/{c}/%2e%2e/{f}",
        "/compute/functions/../functions/{c}/{f}",
        "//compute/functions/{c}/{f}",
        "/compute/functions/{c}/{f}/",
        "/compute/functions/{c}%2f{f}",
        "/compute/functions/{c}/{f}%00",
        "/compute/functions/{c}/{f}%20",
        "/compute/functions/%ff/%fe",
        "/compute/functions/{c}/%u0041",
        "/compute/functions/{c}/{f};a=b",
        "/compute/functions/{c}/" + "%" * 5000,
        "/compute/invocations/../../etc/passwd/log",
        "/compute/invocations/%2e%2e%2f%2e%2e%2ftoken/log",
        "/compute/invocations/" + "0" * 32,
        "/compute/invocations/" + "ab" * 5000 + "/log",
        "*",
    ],
)
def test_no_spelling_of_a_path_leads_anywhere_else(door: Client, path: str) -> None:
    name = door.function(f"spelled-{abs(hash(path))}", ECHO)

    status, body = ask(door, f"GET {path.format(c=door.collection, f=name)} HTTP/1.1")

    assert status == 404
    assert json.loads(body)["code"] == "not_found"


def test_the_invocation_of_one_call_is_not_found_by_a_guess(door: Client) -> None:
    name = door.function("guessed", ECHO)
    first, second = (door.invoke(name, {}).headers["x-invocation-id"] for _ in range(2))
    guesses = [first[:-1] + digit for digit in "0123456789abcdef" if digit != first[-1]]

    assert first != second
    assert first[14:] != second[14:]  # 74 bits of chance beside the time
    for guess in [*guesses, "", "%20", first + "0", first + "%2f.."]:
        assert door.http.get(f"/compute/invocations/{guess}").status_code == 404


def body_of(**changes: object) -> dict[str, Any]:
    asset = {"collection_topic": "bodies", "handler": "index.handler"}
    return {"name": "b", "compute_asset": asset, "monitor_config": {}, **changes}


BOMBS = {
    "arrays": b"[" * 5_000_000,
    "objects": b'{"a":' * 1_000_000,
    "a name of digits": b'{"name":' + b"9" * 5_000_000 + b"}",
    "infinity": b'{"name":1e400}',
    "no text": b'{"name":"\xff"}',
    "half a character": b'{"name":"\\ud800"}',
    "nothing": b"",
    "null": b"null",
    "a text": b'"x"',
    "not a number": b'{"name":NaN}',
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_json_that_is_a_bomb_or_none_is_refused_by_create_and_by_invoke(door: Client, bomb: bytes) -> None:
    name = door.function(f"bombed-{len(bomb)}-{bomb[-4:].hex()}", ECHO)

    for path in ("/compute/functions", f"/compute/functions/{door.collection}/{name}/invoke"):
        answer = door.http.post(path, content=bomb)

        assert (answer.status_code, answer.json()["code"]) == (400, "request.invalid")


@pytest.mark.parametrize(
    "payload",
    [
        "[" * 100_000 + "]" * 100_000,
        "9" * 1_000_000,
        "1e999",
        "NaN",
        "-Infinity",
        "{'a':1}",
        "[1,]",
        "\ufeff1",
        "1 2",
    ],
    ids=lambda payload: payload[:10],
)
def test_a_payload_that_is_a_bomb_or_no_json_runs_nothing(door: Client, payload: str) -> None:
    name = door.function(f"never-{abs(hash(payload))}", "exports.handler = () => process.exit(1);")

    answer = door.http.post(
        f"/compute/functions/{door.collection}/{name}/invoke",
        json={"payload": payload, "invocation_type": "RequestResponse"},
    )

    assert (answer.status_code, answer.json()["field"]) == (400, "/payload")


def test_keys_of_javascripts_own_stay_ordinary_keys(door: Client) -> None:
    source = "exports.handler = (e) => [({}).polluted ?? null, Object.keys(e), e];"
    name = door.function("polluted", source)
    payload = {"__proto__": {"polluted": 1}, "constructor": {"prototype": {"polluted": 1}}, "toString": 1}

    polluted, keys, back = door.result(name, payload)

    assert polluted is None
    assert (sorted(keys), back) == (sorted(payload), payload)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "a/b"}, "/name"),
        ({"name": "a\nb"}, "/name"),
        ({"name": "\x1b[2J"}, "/name"),
        ({"name": "\x00"}, "/name"),
        ({"name": "x" * 129}, "/name"),
        ({"size": "9" * 100_000 + "MB"}, "/size"),
        ({"size": "-1MB"}, "/size"),
        ({"retry": {"attempts": 10**30}}, "/retry/attempts"),
        ({"concurrency": {"max_instances": -1}}, "/concurrency/max_instances"),
        ({"concurrency": {"min_instances": 10**9}}, "/concurrency/min_instances"),
        ({"monitor_config": {"ttl": -1}}, "/monitor_config/ttl"),
        ({"schema": {"input": {"$ref": "file:///etc/passwd"}}}, "/schema/input/$ref"),
        ({"schema": {"input": {"$ref": "http://127.0.0.1/x"}}}, "/schema/input/$ref"),
        ({"schema": {"input": {"pattern": "(a+)+\\1"}}}, "/schema/input/pattern"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hostile_fields_are_refused_by_name(door: Client, changes: dict[str, Any], field: str) -> None:
    answer = door.http.post("/compute/functions", json=body_of(**changes))

    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert len(answer.content) < 2000


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("collection_topic", "../etc"),
        ("collection_topic", "a.b.>"),
        ("collection_topic", "*"),
        ("collection_topic", "x" * 65),
        ("handler", "../../etc/passwd.handler"),
        ("handler", "a\x00.handler"),
        ("handler", "/proc/self/environ"),
        ("handler", "." * 600),
        ("timeout", 0),
        ("timeout", 10**18),
        ("env_vars", ["=x"]),
        ("env_vars", ["A\x00=x"]),
        ("env_vars", ["A B=x"]),
        ("env_vars", ["no value"]),
        ("network", {"egress": ["127.0.0.1"]}),
        ("network", {"egress": ["a" * 300 + ":1"]}),
        ("secrets", ["../x"]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_hostile_fields_of_the_code_are_refused_by_name(door: Client, key: str, value: object) -> None:
    asset = {"collection_topic": "bodies", "handler": "index.handler", key: value}

    answer = door.http.post("/compute/functions", json=body_of(compute_asset=asset))

    assert answer.status_code == 400
    assert answer.json()["field"].startswith(f"/compute_asset/{key}")


# -- code that is an attack ----------------------------------------------------------------------------


def zipped(*members: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in members:
            archive.writestr(info, content)
    return made.getvalue()


def special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def tarred(name: str, kind: bytes, target: str = "", mode: int = 0o644) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = kind, target, mode
        archive.addfile(info)
    return made.getvalue()


def bomb_of(size_bytes: int) -> bytes:
    return zipped(("bomb", bytes(size_bytes)))


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "parent": lambda: zipped(("../../evil", b"x")),
    "absolute": lambda: zipped(("/tmp/evil", b"x")),
    "link out": lambda: zipped((special("link", stat.S_IFLNK | 0o777), b"../../etc/passwd")),
    "link to root": lambda: zipped((special("link", stat.S_IFLNK | 0o777), b"/proc/self/root")),
    "through a link": lambda: zipped((special("d", stat.S_IFLNK | 0o777), b"."), ("d/../../evil", b"x")),
    "setuid": lambda: zipped((special("s", stat.S_IFREG | 0o4755), b"x")),
    "device": lambda: tarred("dev", tarfile.CHRTYPE),
    "fifo": lambda: tarred("fifo", tarfile.FIFOTYPE),
    "hard link": lambda: tarred("hard", tarfile.LNKTYPE, "/etc/shadow"),
    "tar setuid": lambda: tarred("s", tarfile.REGTYPE, mode=0o4755),
    "tar parent": lambda: tarred("../evil", tarfile.REGTYPE),
    "long name": lambda: zipped(("x" * 300, b"x")),
    "control": lambda: zipped(("a\nb", b"x")),
    "many": lambda: zipped(*((f"f{n}", b"") for n in range(10_001))),
    "bomb": lambda: bomb_of(300 * MIB),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_that_is_an_attack_is_refused_and_leaves_nothing(
    open_door: ServerProcess, door: Client, kind: str
) -> None:
    before = resident_bytes(open_door.process.pid)

    answer = archived(door, "attack", ARCHIVES[kind]())

    assert answer[0] in (400, 413), answer
    assert answer[1]["field"].startswith("/compute_asset/assets/1/")
    assert resident_bytes(open_door.process.pid) - before < 100 * MIB
    assert not Path("/tmp/evil").exists()
    assert not [path for path in open_door.data.rglob("*") if path.name in ("evil", "bomb", "hard", "fifo")]
    assert not list((open_door.data / "code").glob(".*"))


def archived(client: Client, name: str, content: bytes, **rest: Any) -> tuple[int, dict[str, Any]]:
    """Create a function of one file and an archive beside it."""
    assets = [
        {
            "asset_name": "index.js",
            "asset_type": "file",
            "asset_value": base64.b64encode(ECHO.encode()).decode(),
        },
        {"asset_name": "a", "asset_type": "archive", "asset_value": base64.b64encode(content).decode()},
    ]
    answer = client.create(name, {}, assets=assets, **rest)
    return answer.status_code, answer.json()


def test_names_of_files_that_the_sandbox_mounts_over_reach_nothing_of_the_host(door: Client) -> None:
    names = ("dev/null", "dev/console", "proc/self/exe", "proc/1/root", "sys/x", "run/x", "tmp/x")
    links = [
        (special(f"l{n}", stat.S_IFLNK | 0o777), target)
        for n, target in enumerate((b"dev/null", b"proc/self/exe"))
    ]
    source = (
        "const fs=require('fs');exports.handler=()=>['l0','l1'].map((p)=>fs.readFileSync('/code/'+p,'utf8'));"
    )

    status, body = archived(
        door,
        "mounted-over",
        zipped(*((name, b"mine") for name in names), *links, ("index.js", source.encode())),
    )

    assert status == 201, body
    assert door.result("mounted-over") == ["mine", "mine"]
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


# -- the server itself ---------------------------------------------------------------------------------


def test_the_process_that_speaks_to_strangers_has_no_privilege_and_no_more_files_than_it_needs(
    open_door: ServerProcess,
) -> None:
    pid = open_door.process.pid
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    store = [one for one in descendants(pid) if "nats-server" in Path(f"/proc/{one}/comm").read_text()]

    for process in (pid, *store):
        own = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        uids, gids = (set(map(int, own[kind].split())) for kind in ("Uid", "Gid"))
        assert len(uids) == len(gids) == 1
        assert 0 not in uids | gids
        assert {int(own[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
        assert own["Groups"].split() == []
        assert own["NoNewPrivs"].strip() == "1"
    assert len(store) == 1
    assert status["Seccomp"].strip() in ("0", "2")
    opened = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            opened.add(os.readlink(entry))
    figures = re.compile(r"/sys/fs/cgroup/.*stoker-\w+/\w+/memory\.(max_usage_in_bytes|peak|current)")
    files = {path for path in opened if path.startswith("/") and path != "/dev/null"}
    files = {path for path in files if not figures.fullmatch(path)}  # what its own sandboxes have used
    assert all(Path(path).is_relative_to(open_door.data.resolve()) for path in files), files


def test_nothing_in_the_data_directory_is_open_to_another_user(open_door: ServerProcess) -> None:
    data = open_door.data

    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    for path in data.iterdir():
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o022 == 0, path
        assert path.is_dir() or mode & 0o077 == 0, path
    assert stat.S_IMODE((data / "nats").stat().st_mode) == 0o700


def test_every_line_of_the_log_is_one_event_and_none_holds_a_secret(
    open_door: ServerProcess, door: Client
) -> None:
    ask(door, 'GET /\x85{"event":"forged"} HTTP/1.1')
    ask(door, f"GET /healthz?{door.token} HTTP/1.1\r\nX-Evil: \x1b[2J")

    for line in open_door.stderr:
        assert set(json.loads(line)) >= {"event", "level", "time"}
        assert line.rstrip("\n").isprintable()
        assert door.token not in line
