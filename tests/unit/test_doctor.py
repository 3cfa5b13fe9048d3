"""How the doctor judges what it saw, and how it shows it. Whether it sees right is tried in tests/e2e."""

from __future__ import annotations

import argparse
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.app.doctor import durability, ending, isolation, machine
from stoker.app.doctor.examination import place_for
from stoker.app.doctor.finding import Check, Finding, State
from stoker.app.doctor.machine import Moment
from stoker.backbone.disk import DiskReserve
from stoker.cli import doctor
from stoker.cli.screen import Screen
from stoker.cli.session import Session
from stoker.model.limits import Limits

GOOD: dict[str, Any] = {
    "status": {
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16 + "\n"),
        "NoNewPrivs": "1\n",
        "Seccomp": "2\n",
        "Uid": "1000\t1000\t1000\t1000\n",
    },
    "setuid": 1,
    "read_only": True,
    "files": {"/etc/passwd": 30},
    "folders": {"/usr": 30},
    "root": [0, 0],
    "canary": 2,
    "pids": 3,
    "interfaces": ["lo"],
    "outside": 101,
    "host": 111,
    "abstract": 111,
    "loopback": 0,
}
"""What a guest sees in a good sandbox."""
JUDGES = (
    isolation.privileges,
    isolation.root_file_system,
    isolation.host_files,
    isolation.host_processes,
    isolation.network,
)


def test_nothing_is_weak_of_a_good_sandbox() -> None:
    assert {judge(GOOD, None).state for judge in JUDGES} == {State.OK}


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        ({"status": {**GOOD["status"], "CapBnd": "0000000000000400\n"}}, "privileges"),
        ({"status": {**GOOD["status"], "NoNewPrivs": "0\n"}}, "privileges"),
        ({"status": {**GOOD["status"], "Uid": "0\t0\t0\t0\n"}}, "privileges"),
        ({"setuid": 0}, "privileges"),
        ({"read_only": False}, "root files"),
        ({"files": {"/etc/passwd": 0}}, "root files"),
        ({"folders": {"/usr": 0}}, "root files"),
        ({"root": [os.stat("/").st_dev, os.stat("/").st_ino]}, "host files"),
        ({"canary": 0}, "host files"),
        ({"canary": 13}, "host files"),
        ({"pids": 80}, "host processes"),
        ({"interfaces": ["lo", "eth0"]}, "network"),
        ({"outside": 0}, "network"),
        ({"host": 0}, "network"),
        ({"abstract": 0}, "network"),
        ({"loopback": 101}, "network"),
    ],
)
def test_each_weakness_is_seen_and_its_line_says_what_to_do(seen: dict[str, Any], name: str) -> None:
    found = [judge({**GOOD, **seen}, None) for judge in JUDGES]

    weak = [finding for finding in found if finding.state is not State.OK]
    assert [(finding.name, finding.state) for finding in weak] == [(name, State.WEAK)]
    assert weak[0].hint


def test_a_process_in_our_own_namespaces_has_none_of_its_own() -> None:
    finding = isolation.namespaces(os.getpid(), None)

    assert finding.state is State.WEAK
    assert "pid" in finding.found


class Answering:
    """A guest that gives one answer."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def run(self, source: str) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "filtered", "state"),
    [
        ({"mount": 1, "bpf": 1}, "2", State.OK),
        ({"mount": 1, "bpf": 0}, "2", State.WEAK),
        ({"mount": 14, "bpf": 1}, "2", State.WEAK),
        ({"mount": 1, "bpf": 1}, "0", State.WEAK),
        ({"error": "OSError", "errno": 11}, "2", State.UNTRIED),
        (None, "2", State.UNTRIED),
    ],
)
async def test_a_system_call_is_denied_only_by_the_error_of_a_filter(
    answer: Any, filtered: str, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    guest: Any = Answering(answer)

    finding = await isolation.system_calls(guest, {"status": {"Seccomp": f"{filtered}\n"}}, None)

    assert finding.state is state


async def test_on_an_unknown_processor_system_calls_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "vax")
    guest: Any = Answering({})

    assert (await isolation.system_calls(guest, GOOD, None)).state is State.UNTRIED


def test_of_our_children_only_a_supervisor_is_taken_for_one() -> None:
    assert ending.supervisor_among({os.getpid(), 1 << 30}) is None


# -- durability and machine --------------------------------------------------------------------------

MOUNTS = """\
20 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw,nobarrier
21 20 0:5 / /mem rw - tmpfs tmpfs rw
22 20 0:6 / /with\\040blank rw - xfs /dev/sdb rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/home/data", "ext4"), ("/mem/data", "tmpfs"), ("/memory", "ext4"), ("/with blank/x", "xfs")],
)
def test_a_folder_lies_on_the_innermost_mount(folder: str, kind: str) -> None:
    found = durability.file_system_of(Path(folder), MOUNTS)

    assert found is not None
    assert found.kind == kind
    assert ("nobarrier" in found.options) is (kind == "ext4")


def test_a_disk_is_told_with_the_time_of_a_write_and_left_as_it_was(tmp_path: Path) -> None:
    finding = durability.disk_writes(tmp_path)

    assert " ms" in finding.found
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_in_memory_is_weak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durability, "file_system_of", lambda *_: durability.FileSystem("tmpfs", ()))

    finding = durability.disk_writes(tmp_path)

    assert finding.state is State.WEAK
    assert "gone with the power" in finding.found


def test_a_full_disk_is_weak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert durability.free_space(tmp_path).state is State.OK
    monkeypatch.setattr(DiskReserve, "touched", property(lambda self: True))

    assert durability.free_space(tmp_path).state is State.WEAK


def test_a_clock_that_jumps_or_is_in_the_past_is_weak() -> None:
    began = Moment.now()

    assert (
        machine.clock(began, replace(began, wall_s=began.wall_s + 5, monotonic_s=began.monotonic_s + 5)).state
        is State.OK
    )
    assert machine.clock(began, replace(began, wall_s=began.wall_s + 60)).state is State.WEAK
    assert machine.clock(Moment(0, 0), Moment(1, 1)).state is State.WEAK


def test_too_few_open_files_are_weak(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, state in ((65_536, State.OK), (4_096, State.WEAK)):
        monkeypatch.setattr(machine, "raise_open_files", lambda files=files: files)
        assert machine.open_files(Limits()).state is state


def test_the_folder_is_beside_the_data_directory_as_a_server_looks_through_its_own(tmp_path: Path) -> None:
    data = tmp_path / "data"
    before = place_for(data / "deeper")
    data.mkdir()

    assert before == place_for(data) == tmp_path


# -- the screen --------------------------------------------------------------------------------------

CHECK = Check("limits", "memory", "do this " * 20)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_fit_eighty_columns_and_what_to_do_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    screen = Screen(json=False, out=out, environ={"NO_COLOR": "1"})
    findings = [CHECK.holds("word " * 40), CHECK.weak("weaker"), CHECK.untried("unknown")]

    before = None
    for finding in findings:
        doctor._show(screen, finding, before)
        before = finding

    lines = out.getvalue().splitlines()
    assert lines[0] == "limits"
    assert max(map(len, lines)) <= 80
    assert sum("> do this" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("findings", "code", "said"),
    [
        ([CHECK.holds("x")], 0, "all 1 checks hold"),
        ([CHECK.holds("x"), CHECK.weak("y")], 1, "1 of 2 checks hold, 1 are weak"),
        ([CHECK.untried("y")], 1, "0 of 1 checks hold, 1 could not be tried"),
    ],
)
def test_the_exit_code_is_one_if_anything_is_weak_or_not_known(
    findings: list[Finding], code: int, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def found(settings: object, tell: Any, progress: object) -> None:
        for finding in findings:
            tell(finding)

    monkeypatch.setattr("stoker.app.doctor.examination.examine", found)
    out = io.StringIO()
    arguments = argparse.Namespace(data=str(tmp_path), isolation=None, config=None)

    assert doctor.run(Session(arguments, Screen(json=False, out=out))) == code
    assert out.getvalue().splitlines()[-1] == said


def test_where_nothing_can_be_written_it_says_so_and_ends_with_three(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def found(settings: object, tell: object, progress: object) -> None:
        raise OSError(28, "No space left on device", "/there")

    monkeypatch.setattr("stoker.app.doctor.examination.examine", found)
    err = io.StringIO()
    arguments = argparse.Namespace(data=str(tmp_path), isolation=None, config=None)

    assert doctor.run(Session(arguments, Screen(json=False, err=err))) == 3
    assert err.getvalue() == "stoker: nothing can be tried: /there: No space left on device\n"
