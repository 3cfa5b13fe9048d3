"""Tunnels: names that resolve inside a sandbox and lead through the broker, for clients of any protocol."""

from __future__ import annotations

import base64
import importlib.metadata
import io
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e import world as w
from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import wait_until
from tests.e2e.test_egress import broker_of
from tests.e2e.world import World, make_world, within

BOTH = pytest.mark.parametrize("runtime", ["nodejs", "python"])
TALK = {
    "nodejs": """
const net = require('node:net');
exports.handler = ({ host, port, say }) => new Promise((resolve) => {
  const parts = [];
  const socket = net.connect(port, host, () => socket.end(say));
  socket.on('data', (data) => parts.push(data));
  socket.on('end', () => resolve(['', Buffer.concat(parts).toString()]));
  socket.on('error', (error) => resolve([error.code, '']));
});
""",
    "python": """
import errno, socket
def handler(event):
    try:
        with socket.create_connection((event['host'], event['port']), 20) as sock:
            sock.sendall(event['say'].encode())
            sock.shutdown(socket.SHUT_WR)
            answer = b''
            while (more := sock.recv(65536)):
                answer += more
        return ['', answer.decode()]
    except socket.gaierror:
        return ['ENOTFOUND', '']
    except OSError as error:
        return [errno.errorcode.get(error.errno, ''), '']
""",
}
"""Says all it has to say, then reads to the end."""


@pytest.fixture(scope="module")
def world(isolated: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with make_world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="module")
def outside(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server on the host of the world, whose functions may reach one private address."""
    folder = tmp_path_factory.mktemp("server")
    options = ("--egress-allow-range", f"{w.PRIVATE}/32")
    server = ServerProcess(folder / "data", *options, under=world.prefix).wait_ready()
    yield server
    assert server.stop() == 0, "".join(server.stderr)


@pytest.fixture
def client(outside: ServerProcess) -> Iterator[Client]:
    with outside.client() as made:
        yield made


@pytest.fixture(scope="module")
def echoes(world: World) -> None:
    """Servers that answer with their address and what they were told, once they were told all."""
    for address, port in ((w.PUBLIC, 7000), (w.SECOND, 7000), (w.PRIVATE, 7001), (w.PUBLIC_6, 7000)):
        threading.Thread(target=_echo, args=(world.listen(address, port), address), daemon=True).start()


def _echo(listening: socket.socket, address: str) -> None:
    while True:
        try:
            accepted, _ = listening.accept()
        except OSError:
            return
        with accepted:
            said = b""
            while more := accepted.recv(65536):
                said += more
            accepted.sendall(f"{address} heard {said.decode()}".encode())


def talks(client: Client, runtime: str, name: str, *tunnels: str, **network: object) -> str:
    return client.function(
        f"{name}-{runtime}",
        TALK[runtime],
        runtime=runtime,
        timeout=60_000,
        network={"tunnels": list(tunnels), **network},
    )


def talk(client: Client, name: str, host: str, port: int, say: str = "hello") -> tuple[str, str, str]:
    """Return what went wrong, what was answered, and the log of the call."""
    answer = client.invoke(name, {"host": host, "port": port, "say": say})
    assert answer.status_code == 200, answer.text
    problem, text = json.loads(answer.json()["body"])
    return problem, text, client.log(answer)


@BOTH
def test_each_name_leads_to_its_own_host_also_where_their_ports_are_the_same(
    client: Client, echoes: None, runtime: str
) -> None:
    name = talks(client, runtime, "both", "public.test:7000", "Second.Test.:7000", "db.internal:7001")

    assert talk(client, name, "public.test", 7000)[:2] == ("", f"{w.PUBLIC} heard hello")
    assert talk(client, name, "second.test", 7000)[:2] == ("", f"{w.SECOND} heard hello")
    assert talk(client, name, "db.internal", 7001)[:2] == ("", f"{w.PRIVATE} heard hello")


def test_a_lot_passes_and_each_side_may_end_first(client: Client, echoes: None) -> None:
    name = talks(client, "python", "lots", "public.test:7000")
    said = "0123456789" * 100_000

    problem, text, _ = talk(client, name, "public.test", 7000, said)

    assert (problem, text) == ("", f"{w.PUBLIC} heard {said}")


def test_a_name_leads_to_an_address_of_version_6(client: Client, echoes: None) -> None:
    name = talks(client, "nodejs", "six", "six.test:7000")

    assert talk(client, name, "six.test", 7000)[:2] == ("", f"{w.PUBLIC_6} heard hello")


@BOTH
@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("shared.test", f"{w.SHARED} is private; the operator can allow it"),
        ("metadata.test", f"{w.METADATA} is link-local"),
        ("loopback.test", "is loopback"),
        ("host.test", "an address of this machine"),
    ],
)
def test_what_no_rule_lets_a_function_reach_no_tunnel_does(
    client: Client, runtime: str, host: str, why: str
) -> None:
    name = talks(client, runtime, host.partition(".")[0], f"{host}:80")

    problem, text, log = talk(client, name, host, 80)

    assert (problem, text) == ("ECONNRESET", "")
    assert f"refused to connect to {host}:80: " in log
    assert why in log


def test_a_name_that_is_not_listed_is_not_known_inside(client: Client, world: World, echoes: None) -> None:
    name = talks(client, "python", "unlisted", "public.test:7000")
    plain = client.function("plain", TALK["python"], runtime="python")
    world.queries.clear()

    assert talk(client, name, "second.test", 7000)[0] == "ENOTFOUND"
    assert talk(client, plain, "public.test", 7000)[0] == "ENOTFOUND"
    assert not world.queries


def test_a_port_that_is_not_listed_does_not_listen(client: Client, echoes: None) -> None:
    name = talks(client, "python", "port", "public.test:7000")

    assert talk(client, name, "public.test", 7002)[0] == "ECONNREFUSED"


def test_a_name_is_resolved_for_each_connection_and_what_was_judged_is_what_is_reached(
    client: Client, world: World
) -> None:
    name = talks(client, "python", "rebinds", "rebind.test:7000")
    world.rebind_to[:] = [w.PUBLIC, w.METADATA]

    first = talk(client, name, "rebind.test", 7000)
    second = talk(client, name, "rebind.test", 7000)

    assert first[:2] == ("", f"{w.PUBLIC} heard hello")
    assert second[0] == "ECONNRESET"
    assert f"{w.METADATA} is link-local" in second[2]


def test_a_tunnel_leaves_the_rest_of_the_way_out_as_it_is(client: Client) -> None:
    fetch = "exports.handler = async ({ url }) => (await fetch(url)).status;"
    usual = client.function("usual", fetch, network={"tunnels": ["db.internal:80"]})
    closed = client.function("closed", fetch, network={"tunnels": ["db.internal:80"], "egress": []})

    assert client.result(usual, {"url": "http://public.test/"}) == 200
    assert client.result(closed, {"url": "http://db.internal/"}) == 200
    assert client.invoke(closed, {"url": "http://public.test/"}).status_code == 500


def test_a_version_without_tunnels_has_none(client: Client, echoes: None) -> None:
    name = talks(client, "python", "versions", "public.test:7000")
    assert talk(client, name, "public.test", 7000)[0] == ""
    asset = client.http.get(f"/compute/functions/{client.collection}/{name}").json()["body"]["compute_asset"]
    assert asset["network"] == {"tunnels": ["public.test:7000"]}

    changed = client.http.patch(
        f"/compute/compute-assets/{client.collection}/{name}", json={"network": {"egress": []}}
    )

    assert changed.status_code == 200, changed.text
    assert talk(client, name, "public.test", 7000)[0] == "ENOTFOUND"


def test_a_function_cannot_change_what_names_mean(client: Client) -> None:
    source = """
import os
def handler(event):
    said = []
    for name in ('/etc/hosts', '/etc/hosts.new'):
        try:
            open(name, 'w')
        except OSError as error:
            said.append(error.strerror)
    try:
        os.unlink('/etc/hosts')
    except OSError as error:
        said.append(error.strerror)
    return said, open('/etc/hosts').read()
"""
    name = client.function(
        "hosts", source, runtime="python", network={"tunnels": ["db.internal:5432", "db.internal:5433"]}
    )

    said, hosts = client.result(name)

    assert len(said) == 3
    assert hosts.splitlines()[2:] == ["127.0.1.1\tdb.internal"]


def test_another_broker_serves_the_tunnels_of_instances_that_stand(
    client: Client, outside: ServerProcess, echoes: None
) -> None:
    name = talks(client, "python", "survives", "public.test:7000")
    assert talk(client, name, "public.test", 7000)[0] == ""
    first = broker_of(outside)
    assert first is not None

    os.kill(first, signal.SIGKILL)
    wait_until(lambda: broker_of(outside) not in (None, first))

    assert talk(client, name, "public.test", 7000)[:2] == ("", f"{w.PUBLIC} heard hello")


@pytest.mark.parametrize(
    ("tunnels", "field", "words"),
    [
        ("db.internal:5432", "/compute_asset/network/tunnels", ""),
        ([7], "/compute_asset/network/tunnels/0", ""),
        (["db.internal"], "/compute_asset/network/tunnels/0", "HOST:PORT"),
        (["db.internal:5432", "*.internal:1"], "/compute_asset/network/tunnels/1", "HOST:PORT"),
        (["10.0.0.1:5432"], "/compute_asset/network/tunnels/0", "a name"),
        (["localhost:5432"], "/compute_asset/network/tunnels/0", "a name"),
        (["db.internal:0"], "/compute_asset/network/tunnels/0", "HOST:PORT"),
        (["db.internal:5432", "DB.internal.:5432"], "/compute_asset/network/tunnels/1", "listed twice"),
        ([f"db{number}.internal:1" for number in range(21)], "/compute_asset/network/tunnels", "at most 20"),
    ],
)
def test_a_tunnel_that_is_none_is_refused_by_its_field(
    client: Client, tunnels: object, field: str, words: str
) -> None:
    answer = client.create("wrong", {"index.js": "exports.handler = () => 1;"}, network={"tunnels": tunnels})

    assert answer.status_code == 400, answer.text
    assert answer.json()["field"] == field
    assert words in answer.json()["error"]


def test_as_many_tunnels_as_a_function_may_have_stand(client: Client, echoes: None) -> None:
    tunnels = [f"name{number}.test:7000" for number in range(19)]
    name = talks(client, "python", "twenty", *tunnels, "public.test:7000")

    assert talk(client, name, "public.test", 7000)[:2] == ("", f"{w.PUBLIC} heard hello")


# -- real servers, real clients ----------------------------------------------------------------------


def program(name: str, *places: str) -> str:
    """Return the path of a program that a test needs; the test is skipped without it, and fails in CI."""
    found = shutil.which(name) or next(
        (str(path) for place in places for path in Path("/").glob(f"{place}/{name}")), None
    )
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed")
    return found


def as_user(name: str) -> list[str]:
    """Return what a command is started under to run as a user, in its group alone."""
    user = pwd.getpwnam(name)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def handed_over(path: Path, user: str) -> None:
    """Give a folder or file of a test to a user, who may go through all that lead to it."""
    for parent in path.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o711)
    found = pwd.getpwnam(user)
    os.chown(path, found.pw_uid, found.pw_gid)


@contextmanager
def served(world: World, folder: Path, user: str, *command: str) -> Iterator[None]:
    """Run a server of the outside, as a user, in a folder of its own."""
    child = within(
        world.outside,
        lambda: subprocess.Popen(
            [*as_user(user), *command],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ),
    )
    try:
        yield
    finally:
        child.terminate()
        said, _ = child.communicate(timeout=60)
    assert child.returncode == 0, said


def packed(source: str, *distributions: str) -> list[dict[str, str]]:
    """Return an archive of a function and of libraries of the tests' own environment."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for distribution in distributions:
            for file in importlib.metadata.files(distribution) or ():
                if file.suffix != ".pyc" and ".." not in file.parts:
                    archive.write(str(file.locate()), str(file))
        archive.writestr("main.py", source)
    value = base64.b64encode(content.getvalue()).decode()
    return [{"asset_name": "code.zip", "asset_type": "archive", "asset_value": value}]


def answers_at(world: World, address: str, port: int) -> bool:
    def connect() -> bool:
        try:
            socket.create_connection((address, port), 1).close()
        except OSError:
            return False
        return True

    return within(world.outside, connect)


POSTGRES = """
import pg8000.dbapi
def handler(event):
    connection = pg8000.dbapi.connect(
        user='app', password='secret', host='db.internal', port=5432, database='postgres', timeout=30
    )
    with connection:
        cursor = connection.cursor()
        cursor.execute('create table if not exists orders (id int primary key, note text)')
        cursor.execute('insert into orders values (%s, %s)', (event['id'], event['note']))
        connection.commit()
        cursor.execute('select note from orders order by id')
        return [row[0] for row in cursor.fetchall()]
"""


def test_a_client_of_postgres_works_unchanged(client: Client, world: World, tmp_path: Path) -> None:
    postgres = program("postgres", "usr/lib/postgresql/*/bin")
    folder = tmp_path / "postgres"
    folder.mkdir(0o700)
    password = folder / "password"
    password.write_text("secret")
    handed_over(password, "postgres")
    handed_over(folder, "postgres")
    subprocess.run(
        [
            *as_user("postgres"),
            str(Path(postgres).parent / "initdb"),
            *("-D", "data", "-U", "app", "-A", "scram-sha-256", "--pwfile", "password", "--no-sync"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (folder / "data" / "pg_hba.conf").write_text("host all all 0.0.0.0/0 scram-sha-256\n")
    settings = {"listen_addresses": w.PRIVATE, "port": "5432", "unix_socket_directories": "", "fsync": "off"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with served(world, folder, "postgres", postgres, "-D", "data", *options):
        wait_until(lambda: answers_at(world, w.PRIVATE, 5432))
        assets = packed(POSTGRES, "pg8000", "scramp", "asn1crypto", "python-dateutil")
        created = client.create(
            "postgres", {}, runtime="python", assets=assets, network={"tunnels": ["db.internal:5432"]}
        )
        assert created.status_code == 201, created.text

        assert client.result("postgres", {"id": 1, "note": "first"}) == ["first"]
        assert client.result("postgres", {"id": 2, "note": "second"}) == ["first", "second"]


REDIS = {
    "python": """
import redis
def handler(event):
    store = redis.Redis(host='db.internal', port=6379)
    with store.pipeline() as pipeline:
        pipeline.rpush('list', event['value'])
        pipeline.lrange('list', 0, -1)
        return [one.decode() for one in pipeline.execute()[1]]
""",
    "nodejs": """
const net = require('node:net');
const command = (...words) =>
  `*${words.length}\\r\\n` + words.map((word) => `$${Buffer.byteLength(word)}\\r\\n${word}\\r\\n`).join('');
exports.handler = ({ value }) => new Promise((resolve, reject) => {
  let said = '';
  const socket = net.connect(6379, 'db.internal');
  socket.write(command('RPUSH', 'list', value) + command('LRANGE', 'list', '0', '-1') + command('QUIT'));
  socket.on('data', (data) => { said += data; });
  socket.on('end', () => resolve(said.split('\\r\\n').filter((line) => line && !/^[:*$+]/.test(line))));
  socket.on('error', reject);
});
""",
}
"""In Python the maintained client; in JavaScript the protocol by hand, as no client comes with Node."""


def test_clients_of_redis_work_unchanged(client: Client, world: World, tmp_path: Path) -> None:
    server = program("redis-server")
    folder = tmp_path / "redis"
    folder.mkdir()
    handed_over(folder, "nobody")
    options = ("--bind", w.PRIVATE, "--port", "6379", "--save", "", "--protected-mode", "no")
    with served(world, folder, "nobody", server, *options):
        wait_until(lambda: answers_at(world, w.PRIVATE, 6379))
        network = {"tunnels": ["db.internal:6379"]}
        assets = packed(REDIS["python"], "redis")
        created = client.create("redis-py", {}, runtime="python", assets=assets, network=network)
        assert created.status_code == 201, created.text
        client.function("redis-js", REDIS["nodejs"], network=network)

        assert client.result("redis-py", {"value": "one"}) == ["one"]
        assert client.result("redis-js", {"value": "two"}) == ["one", "two"]
        assert client.result("redis-py", {"value": "three"}) == ["one", "two", "three"]
