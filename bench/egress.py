"""What the way out costs: requests of functions through the broker, and the same requests without it.

`reached` runs this file as a program in a network namespace of its own, which that makes the host of two
servers: one as ever, and one with `--isolation process`, whose functions connect by themselves. What they
reach is in another namespace, so that no address of the machine is touched.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compute import Stoker, function_path, running
from exchange import Connection, post
from program import CannotMeasure, Program
from results import Reached, spread

HERE, OUTSIDE, PORT = "10.77.0.1", "10.77.0.2", 80
URL = f"http://{OUTSIDE}/"
ROUNDS = 12
REQUESTS = 40  # of a round, each kind
AT_ONCE = 200
FILL_MS = 3000
TAKES_S_MAX = 180.0

SOURCES = {
    # urllib makes a connection for each request, fetch keeps one
    "new": (
        "python",
        "main.py",
        f"""
import time, urllib.request
def handler(event):
    taken = []
    for _ in range(event['count']):
        began = time.perf_counter()
        with urllib.request.urlopen('{URL}', timeout=20) as answer:
            assert answer.read() == b'ok'
        taken.append((time.perf_counter() - began) * 1000)
    return taken
""",
    ),
    "standing": (
        "nodejs",
        "index.js",
        f"""
exports.handler = async ({{ count }}) => {{
  const taken = [];
  for (let i = 0; i < count; i++) {{
    const began = performance.now();
    const answer = await fetch('{URL}');
    if (await answer.text() !== 'ok') throw new Error('not ok');
    taken.push(performance.now() - began);
  }}
  return taken;
}};
""",
    ),
    "at_once": (
        "nodejs",
        "index.js",
        f"""
exports.handler = async ({{ count }}) => {{
  const began = performance.now();
  const get = async () => (await fetch('{URL}', {{ headers: {{ connection: 'close' }} }})).text();
  const answers = await Promise.all(Array.from({{ length: count }}, get));
  if (answers.some((answer) => answer !== 'ok')) throw new Error('not ok');
  return [performance.now() - began];
}};
""",
    ),
}


def reached(
    *, stoker: Sequence[str], serve_options: Sequence[str], data_parent: Path, log: Path
) -> dict[str, Reached]:
    """Run this program, and return what it found. Raises CannotMeasure."""
    order = {
        "stoker": list(stoker),
        "serve_options": list(serve_options),
        "data_parent": str(data_parent),
        "log": str(log),
    }
    command = ["unshare", "--net", "--", sys.executable, str(Path(__file__)), json.dumps(order)]
    with Program(command, environ=os.environ, log=log) as program:
        taken = json.loads(program.line(within_s=TAKES_S_MAX))
    return {kind: Reached(spread(ways["direct"]), spread(ways["brokered"])) for kind, ways in taken.items()}


def main(order: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Return milliseconds, by kind of request and by way. Raises CannotMeasure."""
    taken: dict[str, dict[str, list[float]]] = {kind: {} for kind in SOURCES}
    parent, log = Path(order["data_parent"]), Path(order["log"])
    serve, options = [*order["stoker"], "serve"], order["serve_options"]
    with (
        _outside(),
        running(serve, [*options, "--isolation", "process"], data_parent=parent, log=log) as direct,
        running(
            serve,
            [*options, "--egress-allow-range", f"{OUTSIDE}/32"],
            data_parent=parent,
            log=log,
            rest_ms=FILL_MS,
        ) as brokered,
    ):
        ways = {"direct": direct, "brokered": brokered}
        paths = {
            (way, kind): _create(server, *source)
            for way, server in ways.items()
            for kind, source in SOURCES.items()
        }
        for number in range(ROUNDS + 1):
            for kind in SOURCES:
                count = AT_ONCE if kind == "at_once" else REQUESTS
                for way in sorted(ways, reverse=number % 2 == 1):
                    found = _call(ways[way], paths[way, kind], count)
                    if number:  # the first of all loads code and makes connections
                        taken[kind].setdefault(way, []).extend(found)
    return taken


@contextmanager
def _outside() -> Iterator[None]:
    program = [sys.executable, str(Path(__file__).parent / "peers" / "outside.py"), OUTSIDE, str(PORT)]
    with subprocess.Popen(
        ["unshare", "--net", "--", *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            if child.stdout.readline() != "started\n":
                raise CannotMeasure("the program that functions are to reach does not start")
            inside = ["nsenter", f"--net=/proc/{child.pid}/ns/net", "--"]
            _ip("link", "set", "lo", "up")
            _ip("link", "add", "way", "type", "veth", "peer", "name", "way", "netns", str(child.pid))
            _ip("addr", "add", f"{HERE}/24", "dev", "way")
            _ip("link", "set", "way", "up")
            _ip("addr", "add", f"{OUTSIDE}/24", "dev", "way", under=inside)
            _ip("link", "set", "way", "up", under=inside)
            child.stdin.write("\n")
            child.stdin.flush()
            if child.stdout.readline() != "listening\n":
                raise CannotMeasure("the program that functions are to reach does not listen")
            yield
        finally:
            child.terminate()


def _ip(*arguments: str, under: list[str] | None = None) -> None:
    done = subprocess.run([*(under or []), "ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotMeasure(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _create(server: Stoker, runtime: str, file: str, source: str) -> str:
    asset = {
        "asset_name": file,
        "asset_type": "file",
        "asset_value": base64.b64encode(source.encode()).decode(),
    }
    body = {
        "name": f"reach-{os.urandom(4).hex()}",
        "compute_asset": {
            "collection_topic": "bench",
            "handler": f"{Path(file).stem}.handler",
            "runtime": runtime,
            "timeout": 60_000,
            "network": {"egress": [f"{OUTSIDE}:{PORT}"]},
            "assets": [asset],
        },
        "monitor_config": {},
    }
    with Connection(server.port) as connection:
        return function_path(
            connection, post("/compute/functions", json.dumps(body).encode(), token=server.token)
        )


def _call(server: Stoker, path: str, count: int) -> list[float]:
    with Connection(server.port) as connection:
        answer = connection.ask(server.invoke(path, {"count": count}))
    if answer.status != 200:
        raise CannotMeasure(f"a call answers {answer.status} {answer.body[:300]!r}")
    found: list[float] = json.loads(answer.json()["body"])
    return found


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))), flush=True)
