"""Servers with small limits, and what a test needs to try a number just below and just above."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import pytest

from stoker.model.limits import Limits
from tests.e2e.conftest import Client, ServerProcess


@dataclass(frozen=True, slots=True)
class Place:
    """A server, and the limits that it was started with."""

    client: Client
    limits: Limits


@contextmanager
def limited(tmp_path_factory: pytest.TempPathFactory, limits: Limits) -> Iterator[ServerProcess]:
    """Run a server whose file sets every limit that differs from its default."""
    data = tmp_path_factory.mktemp("limited") / "data"
    data.mkdir(mode=0o700)
    data.parent.chmod(0o755)
    defaults = asdict(Limits())
    lines = [f"{name} = {value}" for name, value in asdict(limits).items() if value != defaults[name]]
    (data / "server.toml").write_text("\n".join(["[limits]", *lines, ""]))
    running = ServerProcess(data).wait_ready()
    yield running
    assert running.stop() == 0, "".join(running.stderr)
