"""`stoker doctor` as a process: on this machine, on one without isolation, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stoker.sandbox.spawn import owner_of
from tests.e2e.conftest import STOKER, ServerProcess

ISOLATION = (
    "engine", "runtimes", "server", "namespaces", "privileges", "system calls", "root files", "host files",
    "host processes", "network", "end",
)  # fmt: skip
LIMITS = ("memory", "processes", "/tmp", "CPU weight")
NOT_ISOLATED = ("runtimes", "server")
"""What holds without isolation too."""


def start(data: Path, *words: str) -> subprocess.Popen[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("STOKER_")}
    return subprocess.Popen(
        [str(STOKER), "doctor", "--data", str(data), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ,
        text=True,
    )


def examined(data: Path, *words: str) -> tuple[int, str]:
    doctor = start(data, *words)
    out, err = doctor.communicate(timeout=120)
    assert "Traceback" not in err
    return doctor.returncode, out


def checks(data: Path, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    code, out = examined(data, "--json", *words)
    document = json.loads(out)
    found = {check["name"]: check for check in document["checks"]}
    states = {check["state"] for check in found.values()}
    assert document["ok"] is (states == {"ok"}) is (code == 0)
    assert all((check["hint"] is None) is (check["state"] == "ok") for check in found.values())
    return code, found


def states(found: dict[str, dict[str, Any]], names: tuple[str, ...]) -> dict[str, str]:
    return {name: found[name]["state"] for name in names}


def cgroups_of(folder: Path) -> list[Path]:
    """Return the control groups of an engine that works in a folder."""
    name = f"stoker-{owner_of(folder)}"
    return [path for pattern in (name, f"*/{name}") for path in Path("/sys/fs/cgroup").glob(pattern)]


def test_beside_a_server_everything_holds_and_nothing_is_left(isolated: None, server: ServerProcess) -> None:
    beside, within = (set(os.listdir(folder)) for folder in (server.data.parent, server.data))

    code, found = checks(server.data)

    assert set(states(found, ISOLATION + LIMITS).values()) == {"ok"}, found
    assert " ms" in found["fsync"]["found"]
    assert found["nats-server"]["state"] == "ok"
    assert code == 0 or {check["area"] for check in found.values() if check["hint"]} <= {
        "machine",
        "durability",
    }
    assert set(os.listdir(server.data.parent)) == beside
    assert set(os.listdir(server.data)) >= within
    assert not list(server.data.glob(".stoker-doctor*"))
    with server.client() as client:
        assert client.http.get("/readyz").status_code == 200


def test_without_isolation_every_line_says_so_and_what_to_do(data: Path) -> None:
    code, found = checks(data, "--isolation", "process")

    weak = tuple(name for name in ISOLATION + LIMITS if name not in NOT_ISOLATED)
    assert code == 1
    assert set(states(found, weak).values()) == {"weak"}, found
    assert set(states(found, NOT_ISOLATED).values()) == {"ok"}
    assert "plain processes" in found["engine"]["found"]
    assert "without --isolation process" in found["namespaces"]["hint"]
    assert not data.exists()
    assert list(data.parent.iterdir()) == []


def test_people_see_a_table_with_a_sum(data: Path) -> None:
    code, out = examined(data, "--isolation", "process")

    lines = out.splitlines()
    assert code == 1
    assert [line for line in lines if line in ("isolation", "limits", "durability", "machine")] == [
        "isolation",
        "limits",
        "durability",
        "machine",
    ]
    assert "checks hold" in lines[-1]
    assert any(line.startswith("  WEAK    memory         it took 128 MiB") for line in lines)
    assert max(map(len, lines)) <= 80
    assert "\x1b[" not in out


@pytest.mark.skipif(shutil.which("runsc") is not None, reason="runsc is installed")
def test_without_an_engine_the_rest_is_examined(isolated: None, data: Path) -> None:
    code, found = checks(data, "--isolation", "runsc")

    assert code == 1
    assert found["engine"]["state"] == "weak"
    assert "runsc is missing" in found["engine"]["found"]
    assert set(states(found, (*ISOLATION[3:], *LIMITS)).values()) == {"untried"}
    assert found["nats-server"]["state"] == "ok"


def test_a_wrong_option_is_refused(data: Path) -> None:
    doctor = start(data, "--isolation", "none")
    out, err = doctor.communicate(timeout=60)

    assert (doctor.returncode, out) == (2, "")
    assert "--isolation" in err


def test_one_that_is_ended_leaves_nothing(isolated: None, data: Path) -> None:
    doctor = start(data)
    assert doctor.stdout is not None
    for line in doctor.stdout:
        if "runtimes" in line:
            break
    [folder] = data.parent.iterdir()
    groups = cgroups_of(folder)
    children = Path(f"/proc/{doctor.pid}/task/{doctor.pid}/children").read_text().split()

    doctor.send_signal(signal.SIGTERM)
    doctor.communicate(timeout=60)

    assert doctor.returncode == 143
    assert children
    assert groups
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert list(data.parent.iterdir()) == []
    assert cgroups_of(folder) == []
