"""`./dev`: what it installs, when, and what it says where it may not.

A stand-in for Python writes down how it is called; there is no network and no real installation.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_PROGRAMS = (
    *("bash", "cat", "chmod", "cp", "dirname", "flock", "grep", "id", "mkdir", "mv", "readlink", "rm"),
    *("sed", "sha256sum", "tail", "tee"),
)

_PYTHON = """#!/bin/bash
echo "$*" >>"$CALLS"
case "$*" in
    *version_info*) echo "${PYTHON_IS:-3.11.2 True}" ;;
    *ensurepip*) exit ${ENSUREPIP_MISSING:-0} ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
        printf '#!/bin/bash\\necho "$$ $*"\\n' >"$3/bin/stoker" && chmod +x "$3/bin/stoker" ;;
    *"pip install"*) echo "  Downloading idna-3.20-py3-none-any.whl (69 kB)"
        echo "words of pip"
        exit ${PIP_FAILS:-0} ;;
esac
"""


class Checkout:
    """A checkout with nothing installed, on a machine with nothing but what is stood in for."""

    def __init__(self, place: Path) -> None:
        self.root = place / "check out"
        self._calls = place / "calls"
        self._bin = place / "bin"

    def make(self) -> None:
        """Put the files there."""
        self.root.mkdir()
        self._bin.mkdir()
        for name in ("dev", "pyproject.toml", "requirements.txt", "requirements-dev.txt"):
            shutil.copy(ROOT / name, self.root)
        for name in _PROGRAMS:
            (self._bin / name).symlink_to(str(shutil.which(name)))
        self.stand_in("python3", _PYTHON)
        self.stand_in("crun", "")

    def stand_in(self, name: str, script: str) -> None:
        """Put a program onto the PATH."""
        path = self._bin / name
        path.unlink(missing_ok=True)
        path.write_text(script or "#!/bin/bash\n")
        path.chmod(0o755)

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Start `./dev ARGUMENTS`."""
        return subprocess.Popen(
            [self.root / "dev", *arguments],
            env={"PATH": str(self._bin), "CALLS": str(self._calls), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        """Return the exit code of `./dev ARGUMENTS`, its output, and what it said on standard error."""
        process = self.start(*arguments, **environ)
        output, said = process.communicate(timeout=30)
        return process.returncode, output, said

    def calls(self) -> list[str]:
        """Return how Python was called since this was last asked."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.write_text("")
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path)
    made.make()
    return made


def test_the_first_run_installs_the_lock_and_becomes_the_command(checkout: Checkout) -> None:
    process = checkout.start("stoker", "list", "--json")
    output, said = process.communicate(timeout=30)

    assert output == f"{process.pid} list --json\n"
    assert "idna-3.20 (69 kB)" in said
    assert "words of pip" not in said
    pip = [call for call in checkout.calls() if "pip install" in call]
    assert ["--require-hashes" in call for call in pip] == [True, False]
    assert pip[0].endswith(f"-r {checkout.root}/requirements.txt")


def test_the_second_run_starts_nothing_but_the_command(checkout: Checkout) -> None:
    checkout.run("stoker")
    checkout.calls()

    code, output, said = checkout.run("serve", "--listen", "127.0.0.1:0")

    assert (code, output.split(maxsplit=1)[1], said) == (0, "serve --listen 127.0.0.1:0\n", "")
    assert checkout.calls() == []


def test_another_lock_is_installed_into_the_same_environment(checkout: Checkout) -> None:
    checkout.run("stoker")
    checkout.calls()
    with (checkout.root / "requirements.txt").open("a") as lock:
        lock.write("# another\n")

    code, _, _ = checkout.run("stoker")

    calls = checkout.calls()
    assert code == 0
    assert any("--require-hashes" in call for call in calls)
    assert not any("-m venv" in call for call in calls)


def test_an_install_that_did_not_end_well_shows_why_and_is_begun_anew(checkout: Checkout) -> None:
    code, _, said = checkout.run("stoker", PIP_FAILS="1")
    assert code == 3
    assert "words of pip" in said
    checkout.calls()

    code, _, _ = checkout.run("stoker")

    assert code == 0
    assert any("-m venv" in call for call in checkout.calls())


def test_a_checkout_that_was_moved_is_installed_anew(checkout: Checkout) -> None:
    checkout.run("stoker")
    checkout.calls()
    checkout.root = checkout.root.rename(checkout.root.with_name("elsewhere"))

    code, _, _ = checkout.run("stoker")

    assert code == 0
    assert any("-m venv" in call for call in checkout.calls())


def test_two_at_once_install_once(checkout: Checkout) -> None:
    both = [checkout.start("stoker"), checkout.start("stoker")]

    for process in both:
        process.communicate(timeout=30)

    assert [process.returncode for process in both] == [0, 0]
    assert len([call for call in checkout.calls() if "-m venv" in call]) == 1


def test_an_ordinary_user_is_told_the_one_command_to_type(checkout: Checkout) -> None:
    checkout.stand_in("id", "#!/bin/bash\necho 1000")
    checkout.stand_in("apt-get", "#!/bin/bash\necho apt-get >>$CALLS")
    (checkout.root.parent / "bin" / "crun").unlink()

    code, output, said = checkout.run("serve", ENSUREPIP_MISSING="1")

    assert (code, output) == (3, "")
    assert said == "dev: please type: sudo apt-get install -y python3-venv crun\n"
    assert "apt-get" not in checkout.calls()


def test_without_isolation_no_oci_runtime_is_asked_for(checkout: Checkout) -> None:
    (checkout.root.parent / "bin" / "crun").unlink()

    code, output, _ = checkout.run("serve", "--isolation", "process")

    assert code == 0
    assert output.endswith("serve --isolation process\n")


def test_a_python_that_is_too_old_is_named(checkout: Checkout) -> None:
    code, _, said = checkout.run("stoker", PYTHON_IS="3.9.2 False")

    assert code == 3
    assert "python3 is 3.9.2, and stoker needs 3.11 or newer" in said


def test_an_unknown_command_is_answered_with_those_there_are(checkout: Checkout) -> None:
    code, output, said = checkout.run("sreve")

    assert (code, output) == (2, "")
    assert "./dev serve" in said
    assert not (checkout.root / ".venv").exists()
