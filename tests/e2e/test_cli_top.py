"""`stoker top` against a real server: on a terminal, without one, as documents; and when it is refused."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import STOKER, Client
from tests.e2e.test_cli import Typed

SOURCE = "exports.handler = async (event) => event;"
SHOWN_MAX = 400_000
"""A hundred screens."""
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


@pytest.fixture
def stoker(client: Client, tmp_path: Path) -> Typed:
    return Typed(client.url, client.token, tmp_path)


@pytest.fixture
def called(client: Client) -> str:
    """A function with an instance and a few calls."""
    client.function("busy", SOURCE)
    for _ in range(3):
        client.result("busy", 1)
    return f"{client.collection}/busy"


def row_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    [row] = [row for row in document["functions"] if row["function"] == name]
    return dict(row)


def test_documents_follow_each_other_one_a_line(stoker: Typed, called: str) -> None:
    out = stoker.out("top", "--json", "--count", "2")

    documents = [json.loads(line) for line in out.splitlines()]
    assert len(documents) == 2
    for document in documents:
        row = row_of(document, called)
        assert (row["calls"], row["errors"], row["instances"]) == (3, 0, 1)
        assert row["memory_bytes"] > 1 << 20
        assert document["server"]["instances_max"] == 256
        assert document["at"]


def test_without_a_terminal_one_table_is_printed(stoker: Typed, called: str) -> None:
    lines = stoker.out("top").splitlines()

    assert lines[0].startswith("stoker top  http://")
    assert lines[4].startswith("server     gateway ")
    [row] = [line.split() for line in lines if line.startswith(called)]
    assert row[-1] == "3"


def test_a_token_that_sees_no_metrics_sees_its_functions(stoker: Typed, client: Client, called: str) -> None:
    made = client.http.post("/tokens", json={"name": "viewer", "scopes": ["functions:read"]})
    token = made.json()["body"]["token"]

    document = stoker.json("top", "--count", "1", STOKER_TOKEN=token)
    lines = stoker.out("top", STOKER_TOKEN=token)

    assert document["server"] is None
    assert row_of(document, called)["calls"] == 3
    assert "server     gateway" not in lines


def test_what_is_wrong_is_said_before_anything_is_drawn(stoker: Typed, client: Client) -> None:
    made = client.http.post("/tokens", json={"name": "caller", "scopes": ["functions:invoke"]})

    refused = stoker("top", code=3, STOKER_TOKEN=made.json()["body"]["token"])
    away = stoker("top", code=3, STOKER_URL="http://127.0.0.1:9")
    wrong = stoker("top", "--count", "0", code=2)

    assert "functions:read" in refused.stderr
    assert "cannot be reached" in away.stderr
    assert "--count" in wrong.stderr
    assert refused.stdout == away.stdout == ""


class Seat:
    """A terminal of 24 lines and 80 columns, and `stoker top` on it."""

    def __init__(self, stoker: Typed) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._modes = termios.tcgetattr(theirs)
        self._theirs = theirs
        self.shown = ""
        environ = {key: value for key, value in stoker.environ.items() if key not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [str(STOKER), "top"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environ, "TERM": "xterm"},
            start_new_session=True,
        )

    def until(self, text: str) -> None:
        """Read until something is shown."""
        while text not in self.shown:
            assert select.select([self._ours], [], [], 60)[0], f"nothing new is drawn, and no {text}"
            assert len(self.shown) < SHOWN_MAX, f"much is drawn, and no {text}"
            self.shown += os.read(self._ours, 65_536).decode(errors="replace")

    def press(self, key: str) -> int:
        """Press a key, and return the exit code."""
        os.write(self._ours, key.encode())
        return self.process.wait(30)

    @property
    def restored(self) -> bool:
        """Whether the terminal is as it was found."""
        return termios.tcgetattr(self._theirs) == self._modes

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._theirs)
        os.close(self._ours)


@contextmanager
def calling(client: Client, name: str) -> Iterator[None]:
    """Call a function again and again, from a thread."""
    ended = threading.Event()

    def call() -> None:
        with Client(client.url, client.token, client.collection) as own:
            while not ended.is_set():
                own.result(name, 1)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("way", ["q", "SIGTERM"])
def test_on_a_terminal_it_draws_until_it_is_left_and_gives_the_terminal_back(
    stoker: Typed, client: Client, called: str, way: str
) -> None:
    seat = Seat(stoker)
    try:
        with calling(client, "busy"):  # so that it stands at the top, whatever else the server has
            seat.until(called)
        changed = not seat.restored
        if way == "q":
            code = seat.press("xq")
        else:
            seat.process.terminate()
            code = seat.process.wait(30)
        seat.until(LEAVE)

        assert changed
        assert code == 0
        assert seat.restored
        assert seat.shown.startswith(ENTER)
        assert "Traceback" not in seat.shown
    finally:
        seat.close()
