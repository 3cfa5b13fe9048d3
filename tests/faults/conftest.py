"""Faults: how long a run is, and servers that are broken and started again on the same data."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import ServerProcess, data, isolated
from tests.faults.breaking import kill_everything

__all__ = ["data", "isolated"]


class Broken:
    """One server at one address, that may be ended and started again."""

    def __init__(self, data: Path) -> None:
        self.data = data
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._listen = f"127.0.0.1:{free.getsockname()[1]}"
        self.starts: list[ServerProcess] = []

    @property
    def process(self) -> ServerProcess:
        """The server that runs, or ran last."""
        return self.starts[-1]

    @property
    def pid(self) -> int:
        """Of the process that speaks to clients."""
        return self.process.process.pid

    def start(self) -> ServerProcess:
        """Start it and wait until functions can run."""
        self.starts.append(ServerProcess(self.data, "--listen", self._listen))
        return self.starts[-1].wait_ready()

    def kill(self) -> None:
        """End every process of it at once, as a power cut would."""
        kill_everything(self.pid)
        self.process.stop()

    @property
    def log(self) -> str:
        """What all its starts wrote to standard error."""
        return "".join(line for start in self.starts for line in start.stderr)


@pytest.fixture
def server(isolated: None, data: Path) -> Iterator[Broken]:
    """A server that runs; after the test it is stopped as an operator would, which has to end well."""
    broken = Broken(data)
    broken.start()
    yield broken
    code = broken.process.stop()
    assert code == 0, broken.log


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """How often a fault strikes in one test."""
    return 12 if request.config.getoption("--long") else 1


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """What decides when and what; `--seed` repeats a run, as far as the machine does."""
    return random.Random(request.config.getoption("--seed"))
