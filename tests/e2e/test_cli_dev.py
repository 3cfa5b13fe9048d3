"""`stoker dev`: a save is new code, a fault is shown at its line and the old code goes on, calls are seen live."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest

from tests.e2e.conftest import STOKER, Client

GUARD_S_MAX = 60
"""Against a hang; what is waited for is an event, not a time."""
SOURCES = {
    "python": (
        "main.py",
        "def handler(event, context):\n    print('saw', event)\n    return %s\n",
        "return ((\n",
    ),
    "nodejs": (
        "index.js",
        "exports.handler = (event) => {\n  console.log('saw', event);\n  return %s;\n};\n",
        "const a = ;\n",
    ),
}


class Dev:
    """The command, following, with what it says one document a line."""

    def __init__(self, url: str, token: str, folder: Path) -> None:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("STOKER_")}
        self.process = subprocess.Popen(
            [str(STOKER), "dev", str(folder), "--json"],
            env={**environ, "STOKER_URL": url, "STOKER_TOKEN": token},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._events: Queue[dict[str, Any]] = Queue()
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(json.loads(line))

    def event(self, kind: str) -> dict[str, Any]:
        """Return the next event of a kind; others are passed over."""
        while True:
            event = self._events.get(timeout=GUARD_S_MAX)
            if event["event"] == kind:
                return event

    def event_now(self, kind: str) -> dict[str, Any] | None:
        """Return the next event of a kind that is there already."""
        while not self._events.empty():
            event = self._events.get()
            if event["event"] == kind:
                return event
        return None

    def stop(self) -> int:
        """End it as Ctrl-C does; return its exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(GUARD_S_MAX)
        assert self.process.stderr is not None
        assert self.process.stderr.read() == ""
        return code


@pytest.fixture
def running() -> Iterator[list[Dev]]:
    """A list: what a test puts into it is ended after it."""
    found: list[Dev] = []
    yield found
    for dev in found:
        dev.process.kill()
        dev.process.wait()
        for pipe in (dev.process.stdout, dev.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.mark.parametrize("runtime", sorted(SOURCES))
def test_saves_faults_calls_and_logs_are_seen_live(
    client: Client, tmp_path: Path, running: list[Dev], runtime: str
) -> None:
    file, source, broken = SOURCES[runtime]
    (tmp_path / "stoker.toml").write_text(
        f'name = "live"\ncollection = "{client.collection}"\nruntime = "{runtime}"\n'
    )
    (tmp_path / file).write_text(source % 1)
    running.append(dev := Dev(client.url, client.token, tmp_path))

    assert dev.event("deployed")["version"] == 1
    assert client.result("live") == 1

    (tmp_path / file).write_text(source % 2)
    deployed = dev.event("deployed")
    assert (deployed["version"], deployed["changes"][0]["what"]) == (2, f"~ {file}")
    assert client.result("live") == 2

    (tmp_path / file).write_text(source % 3 + broken)
    fault = dev.event("syntax")
    assert (fault["file"], fault["line"]) == (file, (source % 3).count("\n") + 1)
    assert client.result("live", "still") == 2

    (tmp_path / file).write_text(source % 4)
    assert dev.event("deployed")["version"] == 3
    assert client.result("live", "fresh") == 4

    (tmp_path / "stoker.toml").write_text("nam = 1\n")
    assert "'nam' is not known" in dev.event("wrong")["error"]
    assert dev.stop() == 0


def test_calls_and_lines_are_seen_while_they_happen(
    client: Client, tmp_path: Path, running: list[Dev]
) -> None:
    file, source, _ = SOURCES["python"]
    (tmp_path / "stoker.toml").write_text(
        f'name = "seen"\ncollection = "{client.collection}"\nruntime = "python"\n'
    )
    (tmp_path / file).write_text(source % "event['x']")
    running.append(dev := Dev(client.url, client.token, tmp_path))
    dev.event("deployed")

    client.invoke("seen", {"x": 1})
    client.invoke("seen", {"y": 1})
    calls = [dev.event("call"), dev.event("call")]
    while not (line := dev.event_now("log")):  # what is printed before it follows is not seen
        client.invoke("seen", {"x": 2})

    assert [(call["status"], call["version"], call.get("error_type")) for call in calls] == [
        ("ok", 1, None),
        ("error", 1, "KeyError"),
    ]
    assert line["line"].startswith("saw {'x'")
    assert dev.stop() == 0


def test_a_folder_without_a_function_or_a_server_that_is_away_ends_it(tmp_path: Path) -> None:
    environ = {**os.environ, "STOKER_URL": "http://127.0.0.1:1"}

    def dev() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(STOKER), "dev", str(tmp_path)],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    without = dev()
    (tmp_path / "stoker.toml").write_text('name = "x"\ncollection = "y"\nruntime = "python"\n')
    (tmp_path / "main.py").write_text("1")
    away = dev()

    assert (without.returncode, away.returncode) == (2, 3)
    assert "there is no" in without.stderr
    assert "cannot be reached" in away.stderr
