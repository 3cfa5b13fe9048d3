"""The locks: what they pin is what the project declares, with hashes and without a host."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.txt", "requirements-dev.txt")

_PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^\s;]+)( ; .+)? \\$")
_HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def read_lock(name: str) -> dict[str, tuple[str, int]]:
    """Return the version and the number of hashes of each package; a line of any other kind is refused."""
    pins: dict[str, tuple[str, int]] = {}
    last = ""
    for line in (ROOT / name).read_text().splitlines():
        if pin := _PIN.match(line):
            last = pin["name"]
            pins[last] = (pin["version"], 0)
        elif _HASH.match(line):
            version, hashes = pins[last]
            pins[last] = (version, hashes + 1)
        else:
            assert line.startswith("#"), f"{name}: {line}"
    return pins


def declared(project: dict[str, Any], group: str) -> list[Requirement]:
    """Return what a dependency group asks for, with the groups it includes."""
    found: list[Requirement] = []
    for item in project["dependency-groups"][group]:
        found += [Requirement(item)] if isinstance(item, str) else declared(project, item["include-group"])
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_every_package_with_hashes_and_names_no_host(name: str) -> None:
    pins = read_lock(name)

    assert pins
    assert [package for package, (_, hashes) in pins.items() if hashes == 0] == []
    assert "://" not in (ROOT / name).read_text()


@pytest.mark.parametrize(("name", "group"), [("requirements.txt", "build"), ("requirements-dev.txt", "dev")])
def test_a_lock_satisfies_what_the_project_declares(name: str, group: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [Requirement(text) for text in project["project"]["dependencies"]] + declared(project, group)

    pins = read_lock(name)

    unmet = [
        str(need)
        for need in wanted
        if (pin := pins.get(canonicalize_name(need.name))) is None or not need.specifier.contains(pin[0])
    ]
    assert unmet == []


def test_the_tools_are_locked_beside_the_very_versions_that_are_shipped() -> None:
    shipped, developed = read_lock("requirements.txt"), read_lock("requirements-dev.txt")

    assert {name: developed.get(name) for name in shipped} == shipped
