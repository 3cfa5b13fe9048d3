"""What every storey of the tests shares: a missing tool skips on a laptop and fails in CI."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does: no test may fail for that.
settings.register_profile("stoker", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("stoker")


# A shell starts what runs behind it with these ignored, and what a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `tests/faults` asks for."""
    group = parser.getgroup("faults")
    group.addoption("--long", action="store_true", help="let every fault strike again and again")
    group.addoption("--seed", type=int, default=4, help="what decides when faults strike")


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """Return a function from a tool's name to its path. Without it the test skips; in CI it fails."""

    def require(name: str) -> str:
        path = shutil.which(name)
        if path is not None:
            return path
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed, and CI must not skip what needs it")
        pytest.skip(f"{name} is not installed")

    return require
