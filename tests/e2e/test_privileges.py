"""Giving root up, as a process of its own: what it can still do, and what never again.

Each test runs a script as root. The script gives root up, tries things and prints what came of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stoker.app.privileges import UID_MAX, UID_MIN, identity_of

_PRELUDE = """
import json, os, subprocess, sys
from pathlib import Path
from stoker.app.privileges import RootKept, drop_root

def tried(action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        return type(error).__name__
    return "allowed"

data = Path(sys.argv[1])
"""


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("giving root up can only be tested as root, and CI must not skip it")
        pytest.skip("giving root up can only be tested as root")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everybody may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="stoker-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder).resolve()


def run(script: str, *arguments: Path, environ: dict[str, str] | None = None) -> Any:
    """Run the script as root and return the JSON that it printed."""
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE + textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def closed_folder(place: Path) -> Path:
    """Return a folder that only root may enter, with a data directory and something private in it."""
    closed = place / "home"
    (closed / "share" / "data").mkdir(parents=True)
    closed.chmod(0o700)
    (closed / "private").write_text("for root's eyes")
    (closed / "private").chmod(0o644)
    return closed


def test_root_is_gone_with_its_capabilities_groups_and_every_way_back(place: Path) -> None:
    data = place / "data"
    data.mkdir()

    seen = run(
        """
        identity = drop_root(data, [])
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        print(json.dumps({
            "asked": [identity.uid, identity.gid],
            "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
            "left": [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")],
            "no_new_privs": int(status["NoNewPrivs"]),
            "seteuid": tried(os.seteuid, 0),
            "setuid": tried(os.setuid, 0),
            "setgroups": tried(os.setgroups, [0]),
            "shadow": tried(open, "/etc/shadow"),
            "device": tried(os.mknod, data / "device", 0o020600, os.makedev(1, 3)),
            "memory_of_another": tried(open, f"/proc/{os.getppid()}/mem"),
        }))
        """,
        data,
    )

    uid, gid = seen.pop("asked")
    assert UID_MIN <= uid <= UID_MAX
    assert seen == {
        "ids": [[uid] * 3, [gid] * 3, []],
        "left": [0, 0, 0, 0],
        "no_new_privs": 1,
        "seteuid": "PermissionError",
        "setuid": "PermissionError",
        "setgroups": "PermissionError",
        "shadow": "PermissionError",
        "device": "PermissionError",
        "memory_of_another": "PermissionError",
    }


def test_a_data_directory_in_a_folder_that_only_root_may_enter_stays_usable_and_nothing_else_of_it(
    place: Path,
) -> None:
    closed = closed_folder(place)
    data = closed / "share" / "data"
    (data / "old").write_text("kept")

    seen = run(
        """
        private = data.parent.parent / "private"
        assert private.read_text()
        drop_root(data, [])
        (data / "new").write_text("stored")
        print(json.dumps({
            "old": (data / "old").read_text(),
            "private": tried(private.read_text),
            "list": tried(os.listdir, private.parent),
            "write_beside": tried((data.parent / "x").write_text, "x"),
            "mode": (data / "new").stat().st_mode & 0o777,
        }))
        """,
        data,
    )

    assert seen == {
        "old": "kept",
        "private": "FileNotFoundError",
        "list": "PermissionError",
        "write_beside": "OSError",  # a read-only file system
        "mode": 0o600,
    }
    assert (data / "new").read_text() == "stored"
    assert (closed / "private").read_text() == "for root's eyes"
    assert str(closed) not in Path("/proc/self/mountinfo").read_text()


def test_programs_and_modules_of_the_environment_are_found_afterwards(place: Path) -> None:
    data = place / "data"
    data.mkdir()

    seen = run(
        """
        drop_root(data, [])
        import sqlite3, wave, nats  # never imported before
        nats_server = Path(sys.prefix) / "bin" / "nats-server"
        version = [str(nats_server), "--version"]
        child = [sys.executable, "-c", "import os, email, starlette; print(os.getuid())"]
        print(json.dumps({
            "nats": subprocess.run(version, capture_output=True, text=True).stdout,
            "python": subprocess.run(child, capture_output=True, text=True).stdout,
            "uid": os.getuid(),
        }))
        """,
        data,
    )

    assert seen["nats"].startswith("nats-server: v")
    assert int(seen["python"]) == seen["uid"]


def test_modules_behind_a_link_and_two_closed_folders_stay_importable(place: Path) -> None:
    closed = closed_folder(place)
    modules = closed / "deep" / "modules"
    modules.mkdir(parents=True)
    modules.parent.chmod(0o700)
    (modules / "early_module.py").write_text("")
    (modules / "late_module.py").write_text("answer = 42")
    (closed / "link").symlink_to("deep/modules")

    seen = run(
        """
        import early_module
        drop_root(data, [])
        import late_module
        print(json.dumps([late_module.answer, late_module.__file__]))
        """,
        closed / "share" / "data",
        environ={"PYTHONPATH": str(closed / "link")},
    )

    assert seen == [42, str(closed / "link" / "late_module.py")]


def test_something_needed_that_cannot_be_read_is_named_with_the_command_to_type(place: Path) -> None:
    data, needed = place / "data", place / "run times"
    data.mkdir()
    needed.mkdir(mode=0o700)

    seen = run(
        """
        try:
            drop_root(data, [Path(sys.argv[2])])
        except RootKept as error:
            print(json.dumps([error.message, error.hint]))
        """,
        data,
        needed,
    )

    assert seen == [f"{needed} cannot be read without root", f"chmod -R go+rX '{needed}'"]


def test_the_owner_of_the_data_directory_is_who_the_server_becomes(place: Path) -> None:
    data = place / "data"
    data.mkdir()
    (data / "made-by-root").write_text("")
    os.chown(data, 12345, 23456)

    seen = run(
        """
        identity = drop_root(data, [])
        print(json.dumps([identity.uid, identity.gid]))
        """,
        data,
    )

    assert seen == [12345, 23456]
    made = (data / "made-by-root").stat()
    assert (made.st_uid, made.st_gid) == (12345, 23456)


def test_handing_the_data_over_touches_nothing_outside_of_it(place: Path) -> None:
    # who owns the directory may have put names of root's files into it, to be given them
    data, outside = place / "data", place / "outside"
    (data / "store").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").write_text("")
    (outside / "twin").write_text("")
    (data / "store" / "soft").symlink_to(outside / "file")
    (data / "store" / "folder").symlink_to(outside)
    (data / "store" / "hard").hardlink_to(outside / "twin")

    seen = run("print(json.dumps(drop_root(data, []).uid))", data)

    assert [os.lstat(path).st_uid for path in (outside, outside / "file", outside / "twin")] == [0, 0, 0]
    assert os.lstat(data / "store").st_uid == seen
    assert os.lstat(data / "store" / "soft").st_uid == seen


def test_root_is_not_given_up_while_another_thread_would_keep_it(place: Path) -> None:
    data = place / "data"
    data.mkdir()

    seen = run(
        """
        import threading
        done = threading.Event()
        threading.Thread(target=done.wait).start()
        try:
            drop_root(data, [])
        except RootKept as error:
            print(json.dumps([error.message, os.geteuid()]))
        done.set()
        """,
        data,
    )

    assert seen == ["root can be given up by one thread alone; others are running", 0]


def test_who_was_not_root_stays_who_they_are(place: Path) -> None:
    data = place / "data"
    data.mkdir()

    seen = run("os.setuid(12345) or print(json.dumps([drop_root(data, []), os.getuid()]))", data)

    assert seen == [None, 12345]


def test_two_data_directories_have_two_users_and_each_always_the_same(place: Path) -> None:
    (place / "one").mkdir()
    (place / "two").mkdir()

    one, two, again = (identity_of(place / name) for name in ("one", "two", "one/../one"))

    assert one == again
    assert one != two
