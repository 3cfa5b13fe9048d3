"""A stoker server under measure: how it is started, and the few calls of its API that the bench makes.

Does not know what is measured.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exchange import Connection, post
from program import CannotMeasure, Program

READY_S = 60.0
READY_LINE = "stoker is ready on http://127.0.0.1:"

MESSAGE = {
    "type": "object",
    "properties": {"message": {"type": "string", "maxLength": 100}},
    "required": ["message"],
    "additionalProperties": False,
}
# the stamp makes every function one whose code was never seen
CODE = {
    "nodejs": ("index.js", "// {stamp}\nexports.handler = async (event) => event;\n"),
    "python": ("main.py", "# {stamp}\ndef handler(event, context):\n    return event\n"),
}


@dataclass(frozen=True, slots=True)
class Stoker:
    """A running server, and the administrator's token."""

    pid: int
    port: int
    token: str
    ready_ms: float  # from its start to the ready line

    def invoke(self, path: str, value: object, *, kind: str = "RequestResponse") -> bytes:
        """Return the request that calls a function with a value, as the API has it: as JSON text."""
        body = {"payload": _json(value).decode(), "invocation_type": kind}
        return post(f"{path}/invoke", _json(body), token=self.token)

    def new_function(self, runtime: str, *, monitor_config: dict[str, Any] | None = None) -> bytes:
        """Return the request that creates an echo with code of its own and a schema both ways."""
        file, code = CODE[runtime]
        stamp = secrets.token_hex(8)
        body = {
            "name": f"echo-{stamp}",
            "compute_asset": {
                "collection_topic": "bench",
                "handler": f"{Path(file).stem}.handler",
                "runtime": runtime,
                "assets": [
                    {
                        "asset_name": file,
                        "asset_type": "file",
                        "asset_value": base64.b64encode(code.format(stamp=stamp).encode()).decode(),
                    }
                ],
            },
            "monitor_config": monitor_config or {},
            "schema": {"input": MESSAGE, "output": MESSAGE},
        }
        return post("/compute/functions", _json(body), token=self.token)

    def create(
        self, connection: Connection, runtime: str, *, monitor_config: dict[str, Any] | None = None
    ) -> str:
        """Create an echo, and return its path. Raises CannotMeasure."""
        return function_path(connection, self.new_function(runtime, monitor_config=monitor_config))

    def delete(self, connection: Connection, path: str) -> None:
        """Delete a function. Raises CannotMeasure."""
        answer = connection.ask(post(path, b"", token=self.token, method="DELETE"))
        if answer.status != 200:
            raise CannotMeasure(f"DELETE answers {answer.status} {answer.body[:300]!r}")


def function_path(connection: Connection, request: bytes) -> str:
    """Send a request that creates a function, and return the function's path. Raises CannotMeasure."""
    answer = connection.ask(request)
    if answer.status != 201:
        raise CannotMeasure(f"create answers {answer.status} {answer.body[:300]!r}")
    asset = answer.json()["body"]["compute_asset"]
    return f"/compute/functions/{asset['collection_topic']}/{asset['service']}"


def echoed(answer: Any) -> Any:
    """Return the value that an invoke's answer carries: the JSON text in its body."""
    return json.loads(answer["body"])


@contextmanager
def running(
    serve: Sequence[str], options: Sequence[str], *, data_parent: Path, log: Path, rest_ms: int = 0
) -> Iterator[Stoker]:
    """Start a server on an empty data directory, and stop it and remove the directory at the end.

    `rest_ms` pass between the ready line and the block. Raises CannotMeasure.
    """
    with data_directory(data_parent) as data, started(serve, options, data=data, log=log) as server:
        time.sleep(rest_ms / 1000)
        yield server


@contextmanager
def data_directory(data_parent: Path) -> Iterator[Path]:
    """Give a place for a data directory, and remove it at the end."""
    directory = Path(tempfile.mkdtemp(prefix="stoker-bench-", dir=data_parent))
    try:
        directory.chmod(0o755)  # the server may give root up, and has to reach its own directory in it
        yield directory / "data"
    finally:
        shutil.rmtree(directory)


@contextmanager
def started(serve: Sequence[str], options: Sequence[str], *, data: Path, log: Path) -> Iterator[Stoker]:
    """Start a server on a data directory, and stop it at the end. Raises CannotMeasure."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("STOKER_")}
    arguments = [*serve, "--listen", "127.0.0.1:0", "--data", str(data), *options]
    with Program(arguments, environ=environ, log=log) as program:
        line = program.line(within_s=READY_S)
        ready_ms = (time.perf_counter() - program.started_s) * 1000
        if not line.startswith(READY_LINE):
            raise CannotMeasure(f"the server says {line!r} and not that it is ready")
        token = (data / "token").read_text().strip()
        yield Stoker(program.pid, int(line.removeprefix(READY_LINE).rstrip("/")), token, ready_ms)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
