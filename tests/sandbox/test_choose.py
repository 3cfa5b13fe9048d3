"""The engine that a server gets is one that was seen to stop a program at its limits."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.sandbox.choose import open_engine
from stoker.sandbox.engine import IsolationUnavailable, Site
from tests.sandbox.conftest import cgroups_of, guests


class Events:
    """Keeps what an operator would read."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, event: str, fields: object) -> None:
        self.seen.append(event)


@pytest.mark.parametrize("name", ["auto", "crun", "runc"])
async def test_a_runtime_that_works_is_taken(
    require_tool: Callable[[str], str], site: Site, name: str, no_leftovers: None
) -> None:
    require_tool("crun" if name == "auto" else name)

    engine = await open_engine(name, site, Events())
    async with guests(engine, site) as boot:
        answer = await (await boot()).run("answer = 'lives'")

    await engine.close()
    assert answer == "lives"
    assert engine.name == ("crun" if name == "auto" else name)


async def test_auto_goes_on_to_the_next_when_the_first_does_not_work(
    require_tool: Callable[[str], str], site: Site, tmp_path: Path, no_leftovers: None
) -> None:
    runc = require_tool("runc")
    broken = tmp_path / "crun"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(stat.S_IRWXU)
    events = Events()

    engine = await open_engine("auto", site, events, which={"crun": str(broken), "runc": runc}.get)

    await engine.close()
    assert engine.name == "runc"
    assert events.seen == ["sandbox.engine_unusable"]


async def test_a_runtime_that_runs_without_limits_is_not_believed(
    crun: str, site: Site, tmp_path: Path, no_leftovers: None
) -> None:
    # Takes the program out of its cgroups, so that every limit is written and none is in force.
    lax = tmp_path / "crun"
    lax.write_text(f"""#!/bin/sh
for word in "$@"; do [ "$last" = --pid-file ] && file=$word; last=$word; done
{crun} "$@" || exit
cd /sys/fs/cgroup
if [ -f cgroup.procs ]; then out=cgroup.procs; else out="memory/cgroup.procs pids/cgroup.procs"; fi
for procs in $out; do cat "$file" > $procs || exit; done
""")
    lax.chmod(stat.S_IRWXU)

    with pytest.raises(IsolationUnavailable) as refused:
        await open_engine("crun", site, Events(), which=lambda name: str(lax))

    assert refused.value.message == "crun does not limit memory and processes here."
    assert refused.value.hint == "./dev serve --isolation process"


@pytest.mark.parametrize(
    ("isolation", "command"), [("auto", "apt-get install -y crun"), ("runc", "apt-get install -y runc")]
)
async def test_where_no_runtime_is_installed_the_command_to_install_one_is_named(
    site: Site, isolation: str, command: str
) -> None:
    with pytest.raises(IsolationUnavailable) as refused:
        await open_engine(isolation, site, Events(), which=lambda name: None, user=lambda: 0)

    assert refused.value.hint == command
    assert cgroups_of(site) == []


async def test_an_ordinary_user_is_told_to_start_it_as_root(site: Site) -> None:
    with pytest.raises(IsolationUnavailable) as refused:
        await open_engine("auto", site, Events(), user=lambda: 1000)

    assert refused.value.hint == "sudo ./dev serve"


async def test_without_isolation_there_is_a_plain_process(site: Site) -> None:
    engine = await open_engine("process", site, Events(), user=lambda: 1000)
    async with guests(engine, site) as boot:
        guest = await boot()
        owner = await guest.run("import os; answer = os.getuid()")

    await engine.close()
    assert engine.name == "process"
    assert owner == os.getuid()
