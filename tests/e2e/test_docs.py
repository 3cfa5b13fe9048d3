"""The manual: its commands print what it shows, its links lead somewhere, its tables say what the code says."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from stoker.app.settings import NAMES
from stoker.edge.errors import STATUS_OF_CODE
from stoker.model.limits import Limits, bounds_of, unit_of
from stoker.model.outcome import END_REASON_OF_CODE
from tests.e2e import pages
from tests.e2e.conftest import READY_S_MAX, ServerProcess, a_server

DOCS = pages.DOCS
PAGES = sorted(page for page in DOCS.glob("*.md") if pages.steps_of(page))
OF_THE_ADMINISTRATOR = {"accounts", "backup", "nats"}
"""Pages about what only account `default` has; each of the others runs in an account of its own."""
SCRIPTS = Path(sys.executable).parent


def environment(home: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(home), "PATH": f"{SCRIPTS}:{os.defpath}", "LANG": "C.UTF-8", **more}


def check(steps: list[pages.Step], ran: list[pages.Ran]) -> None:
    """Fail at the first command that did not do what its page shows."""
    for step, came in zip(steps, ran, strict=False):
        told = f"line {step.line}: $ {step.command}\nexit code {came.exit_code}\n{came.printed}"
        assert pages.alike(step.shown, came.printed), f"{told}\nthe page shows:\n{step.shown}"
        assert step.fails or came.exit_code == 0, told
    assert len(ran) == len(steps), f"the shell ended at line {steps[len(ran)].line}"


@pytest.fixture
def home() -> Iterator[Path]:
    """A home directory of nobody else's."""
    with tempfile.TemporaryDirectory(prefix="stoker-docs-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def server(isolated: None) -> Iterator[ServerProcess]:
    """A server of these tests' own: the pages of the administrator show all that account `default` has."""
    with a_server() as running:
        yield running


# -- the commands --------------------------------------------------------------------------------


@pytest.fixture
def started(isolated: None, home: Path) -> Iterator[str]:
    """The server of the quickstart, started as its first command says; its address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    # outside of CI `./dev` would install into the checkout while other tests run from it
    command = ["./dev", "serve"] if os.environ.get("CI") else [str(SCRIPTS / "stoker"), "serve"]
    server = subprocess.Popen(
        command,
        cwd=pages.ROOT,
        env=environment(home, STOKER_LISTEN=address),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    watchdog = threading.Timer(READY_S_MAX, server.kill)
    watchdog.start()
    try:
        line = server.stdout.readline()
        assert pages.alike("stoker is ready on http://127.0.0.1:8080", line), line
        yield address
    finally:
        watchdog.cancel()
        server.terminate()
        assert server.wait(60) == 0
        server.stdout.close()


def test_the_quickstart_does_what_it_says(started: str, home: Path) -> None:
    first, *steps = pages.steps_of(DOCS / "quickstart.md")
    assert first.command == "./dev serve"
    assert pages.alike(first.shown, f"stoker is ready on http://{started}")
    checkout = home / "checkout"  # a place in which a command of the page may go wrong
    checkout.mkdir()
    (checkout / ".venv").symlink_to(Path(sys.prefix))
    environ = environment(home, STOKER_URL=f"http://{started}")
    environ["PATH"] = os.defpath  # the page itself says where `stoker` is

    ran = pages.run(steps, folder=checkout, environ=environ)

    check(steps, ran)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem != "quickstart"], ids=lambda page: page.stem
)
def test_every_command_of_a_page_prints_what_the_page_shows(
    server: ServerProcess, home: Path, page: Path
) -> None:
    steps = pages.steps_of(page)
    with server.client() as client:
        token = client.token
        if page.stem not in OF_THE_ADMINISTRATOR:
            made = client.http.post("/accounts", json={"name": f"docs-{page.stem}"})
            assert made.status_code == 201, made.text
            token = made.json()["body"]["token"]

    environ = environment(home, STOKER_URL=server.url, STOKER_TOKEN=token, STOKER_DATA=str(server.data))
    ran = pages.run(steps, folder=home, environ=environ)

    check(steps, ran)


# -- how commands are compared -------------------------------------------------------------------


def test_what_differs_each_time_is_not_compared_and_all_else_is() -> None:
    shown = "ID                                    RAN\n01a215e8-6019-7da7-a19a-6505f30f9164  4.5 ms  ok"

    assert pages.alike(shown, "ID  RAN\n01a3ffff-0000-7000-8000-000000000000  12 ms   ok\n")
    assert not pages.alike(shown, "ID  RAN\n01a3ffff-0000-7000-8000-000000000000  12 ms   error\n")
    assert not pages.alike(shown, "ID  RAN\n")
    assert not pages.alike("", "something")


def test_three_points_stand_for_any_lines() -> None:
    assert pages.alike("first\n...\nlast", "first\na\nb\nlast")
    assert pages.alike("first\n...\nlast", "first\nlast")
    assert not pages.alike("first\n...\nlast", "first\na")


def test_commands_share_a_shell_and_each_has_its_own_output(home: Path) -> None:
    page = home / "page.md"
    page.write_text(
        "```console\n$ X=1; cd /\n$ cat <<EOF\n> a\n>\n> $X\n> EOF\na\n\n1\n$ printf 'no end'\n$ false\n```\n"
    )
    steps = pages.steps_of(page)

    ran = pages.run(steps, folder=home, environ={"PATH": os.defpath})

    assert [step.line for step in steps] == [2, 3, 11, 12]
    assert [(one.printed.rstrip("\n"), one.exit_code) for one in ran] == [
        ("", 0),
        ("a\n\n1", 0),
        ("no end", 0),
        ("", 1),
    ]


# -- what the pages say --------------------------------------------------------------------------


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are made for readers."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors_of(found), target


def test_the_manual_lists_every_page() -> None:
    index = (DOCS / "README.md").read_text()

    for page in DOCS.glob("*.md"):
        assert page.stem == "README" or f"({page.name})" in index, page.name


def table_of(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table after a heading."""
    text = (DOCS / page).read_text().partition(f"\n{heading}\n")[2]
    rows = re.search(r"^\|[-|]+\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    assert rows is not None, heading
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[1].splitlines()]


def test_the_reference_of_limits_says_what_they_are() -> None:
    assert table_of("configuration.md", "## Limits") == limits_told()


def limits_told() -> list[list[str]]:
    """Return the rows that the reference has to have."""
    source = (pages.ROOT / "src/stoker/model/limits.py").read_text()
    says = dict(re.findall(r'^    (\w+): int = .*\n    """((?:.|\n)*?)"""', source, re.MULTILINE))
    return [
        [
            f"`{field.name}`",
            f"{field.default:,}",
            unit_of(field.name),
            "{:,} to {:,}".format(*bounds_of(field.name)),
            " ".join(says[field.name].split()).rstrip("."),
        ]
        for field in fields(Limits)
    ]


def test_the_reference_of_settings_has_every_one() -> None:
    rows = table_of("configuration.md", "## Settings")

    assert [row[:3] for row in rows] == [
        [
            f"`--{name.replace('_', '-')}`",
            f"`STOKER_{name.upper()}`",
            "-" if name == "config" else f"`{name}`",
        ]
        for name in NAMES
    ]


def test_the_reference_of_the_api_has_every_code() -> None:
    text = (DOCS / "api.md").read_text()
    for code in STATUS_OF_CODE.keys() | END_REASON_OF_CODE.keys():
        assert f"`{code}`" in text or code.startswith("quota."), code


# -- the unit ------------------------------------------------------------------------------------


def test_the_unit_is_one_that_systemd_takes(home: Path) -> None:
    unit = (pages.ROOT / "deploy/systemd/stoker.service").read_text()
    assert (pages.ROOT / "deploy/systemd/stoker.service").name in (DOCS / "service.md").read_text()
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("there is no systemd-analyze here")
    program = re.search(r"^ExecStart=(\S+) serve$", unit, re.MULTILINE)
    assert program is not None
    tried = home / "stoker.service"
    tried.write_text(unit.replace(program[1], str(SCRIPTS / "stoker")))

    done = subprocess.run(
        [tool, "verify", str(tried)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "stoker.service" not in done.stderr, done.stderr


def test_every_setting_that_the_unit_gives_is_one() -> None:
    unit = (pages.ROOT / "deploy/systemd/stoker.service").read_text()

    for name in re.findall(r"STOKER_(\w+)=", unit):
        assert name.lower() in NAMES
