"""Open files: instances find theirs, however many clients there are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stoker.app.open_files import FILES_OF_AN_INSTANCE, FILES_OF_THE_REST, connections_max_of
from stoker.model.limits import Limits


@pytest.mark.parametrize(
    ("files", "connections"),
    [
        (65_536, 4_096),
        (FILES_OF_THE_REST + FILES_OF_AN_INSTANCE * 256 + 1000, 1000),
        (1024, 256),
        (100, 25),
    ],
)
def test_clients_get_what_instances_leave_and_a_quarter_at_least(files: int, connections: int) -> None:
    assert connections_max_of(files, Limits()) == connections


def test_the_limit_that_a_service_manager_starts_with_is_raised_to_what_is_allowed() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512));"
        "from stoker.app.open_files import raise_open_files;"
        "print(raise_open_files(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["512", "512", "512"]
