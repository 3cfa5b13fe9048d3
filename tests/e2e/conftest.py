"""A real server as a process, and a small client that speaks to it as a user's would."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

STOKER = Path(sys.executable).with_name("stoker")
READY_S_MAX = 60.0
"""A guard against a hang, not a promise: the first start of a checkout builds file systems."""
STOP_S_MAX = 70.0
"""A guard as well. A server that hangs ends itself before that, and says where it stood."""


@dataclass
class Client:
    """One account's view of a server."""

    url: str
    token: str
    collection: str = "tests"
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=60,
            # a bound on idle connections closes some that another thread was just given
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def create(
        self, name: str, files: dict[str, str | bytes], *, runtime: str = "nodejs", **rest: Any
    ) -> httpx.Response:
        """Create a function of these files; what belongs to `compute_asset` may stand beside the rest."""
        asset: dict[str, Any] = {
            "collection_topic": self.collection,
            "runtime": runtime,
            "handler": "index.handler" if runtime == "nodejs" else "main.handler",
            "assets": [
                {
                    "asset_name": file,
                    "asset_type": "file",
                    "asset_value": base64.b64encode(
                        content.encode() if isinstance(content, str) else content
                    ).decode(),
                }
                for file, content in files.items()
            ],
        }
        for key in ("handler", "timeout", "read_only_fs", "env_vars", "secrets", "network", "assets"):
            if key in rest:
                asset[key] = rest.pop(key)
        body = {"name": name, "monitor_config": {}, "compute_asset": asset, **rest}
        return self.http.post("/compute/functions", json=body)

    def function(self, name: str, source: str, *, runtime: str = "nodejs", **rest: Any) -> str:
        """Create a function of one file and return its name; it must be accepted."""
        answer = self.create(
            name, {"index.js" if runtime == "nodejs" else "main.py": source}, runtime=runtime, **rest
        )
        assert answer.status_code == 201, answer.text
        return name

    def invoke(self, name: str, payload: object = None, **rest: Any) -> httpx.Response:
        """Call a function and return the answer as it is."""
        return self.http.post(
            f"/compute/functions/{self.collection}/{name}/invoke",
            json={"payload": json.dumps(payload), "invocation_type": "RequestResponse"},
            **rest,
        )

    def result(self, name: str, payload: object = None) -> Any:
        """Call a function that must succeed and return its result as a value."""
        answer = self.invoke(name, payload)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.json()["body"])

    def log(self, answer: httpx.Response) -> str:
        """Return what a call printed."""
        log = self.http.get(f"/compute/invocations/{answer.headers['x-invocation-id']}/log")
        assert log.status_code == 200, log.text
        return log.text


class ServerProcess:
    """`stoker serve` on a data directory, until it is stopped."""

    def __init__(
        self, data: Path, *options: str, env: dict[str, str] | None = None, under: tuple[str, ...] = ()
    ) -> None:
        self.data = data
        self.process = subprocess.Popen(
            [*under, str(STOKER), "serve", "--listen", "127.0.0.1:0", "--data", str(data), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**{k: v for k, v in os.environ.items() if not k.startswith("STOKER_")}, **(env or {})},
            text=True,
        )
        self.stderr: list[str] = []
        self._reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._reader.start()
        self.url = ""

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.stderr.append(line)

    def wait_ready(self) -> ServerProcess:
        """Return once the ready line was printed; the test fails with the log if it never is."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(READY_S_MAX, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()
        watchdog.cancel()
        if not line.startswith("stoker is ready on "):
            self.process.kill()
            self.stop()
            pytest.fail(
                f"the server did not get ready (exit {self.process.returncode}):\n{''.join(self.stderr)}"
            )
        self.url = line.split()[-1]
        return self

    def client(self, token: str | None = None) -> Client:
        """Return a client with the administrator's token."""
        return Client(self.url, token or (self.data / "token").read_text().strip())

    def stop(self) -> int:
        """Stop it as a service manager would; return the exit code. It ends by itself within STOP_S_MAX."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()  # a server that is left behind would harm the tests that follow
            self.process.wait()
            self._reader.join(10)
            pytest.fail(f"the server did not stop:\n{''.join(self.stderr)}")
        self._reader.join(10)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return code

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.stop()


@pytest.fixture(scope="session")
def isolated() -> None:
    """Skip what needs real isolation where there is none; fail in CI."""
    reason = None
    if os.geteuid() != 0:
        reason = "isolation needs root"
    elif shutil.which("crun") is None and shutil.which("runc") is None:
        reason = "no OCI runtime is installed"
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory of the test's own, below a folder that only its owner may enter."""
    with tempfile.TemporaryDirectory(prefix="stoker-test-") as folder:
        yield Path(folder) / "data"


@contextmanager
def a_server() -> Iterator[ServerProcess]:
    """A server from its start to its end."""
    with tempfile.TemporaryDirectory(prefix="stoker-test-") as folder:
        running = ServerProcess(Path(folder) / "data").wait_ready()
        yield running
        code = running.stop()
        assert code == 0, "".join(running.stderr)


@pytest.fixture(scope="session")
def server(isolated: None) -> Iterator[ServerProcess]:
    """One server for all tests that do not harm it, and that what others did on it does not matter to."""
    with a_server() as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    """A client whose collection is the test's own."""
    found = server.client()
    found.collection = f"test-{uuid4().hex[:12]}"
    yield found
    found.http.close()
