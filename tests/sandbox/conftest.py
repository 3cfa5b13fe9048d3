"""What the tests of real sandboxes share: root file systems, engines, and a guest that does as it is told."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from stoker.model.launch import Code, InstanceLimits, LaunchPlan
from stoker.model.limits import MIB, Limits
from stoker.runtimes import launch_plans
from stoker.sandbox.engine import Engine, Sandbox, Site
from stoker.sandbox.spawn import owner_of, start_supervisor
from stoker.sandbox.supervised import SupervisedEngine

LIMITS = InstanceLimits(memory_bytes=256 * MIB, cpu_millis=1000, processes=64)
FOLDER = "c" * 64
DAEMON = """
import os
read, write = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, b"x")
            while True: pass
        os._exit(0)
for _ in range(3):
    os.read(read, 1)
answer = "started"
"""
"""Code for a guest: three daemonised grandchildren that spin."""
PROGRAM = """
import json, os, socket
os.set_inheritable(3, False)
wire = socket.socket(fileno=3)
wire.sendall(b"\\n")
with wire.makefile("rwb") as stream:
    for line in stream:
        names = {}
        try:
            exec(json.loads(line), names)
            answer = names.get("answer")
        except BaseException as error:
            answer = [type(error).__name__, getattr(error, "errno", None)]
        stream.write(json.dumps(answer).encode() + b"\\n")
        stream.flush()
"""


@dataclass
class Guest:
    """A Python program in a sandbox that executes what it is sent and answers the variable `answer`."""

    sandbox: Sandbox
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def run(self, source: str) -> Any:
        """Execute, and return the answer; [name, errno] of an exception; None if it ended over it."""
        self.tell(source)
        return json.loads(await self.reader.readline() or "null")

    def tell(self, source: str) -> None:
        """Execute, and do not wait for an answer."""
        self.writer.write(json.dumps(source).encode() + b"\n")

    def printed(self) -> str:
        """Return what it has written to its standard output and error."""
        try:
            return os.read(self.sandbox.output, 1 << 20).decode()
        except BlockingIOError:
            return ""

    def close(self) -> None:
        """Kill it and give its descriptors back."""
        self.sandbox.kill()
        self.writer.close()
        os.close(self.sandbox.output)


Boot = Callable[..., Awaitable[Guest]]


@pytest.fixture(scope="session")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, LaunchPlan]:
    """The real root file systems with a guest in the place of the shims, by name."""
    made = launch_plans.ensure(tmp_path_factory.mktemp("runtimes"), lambda line: None)
    node, python = made
    program = next(word for word in python.argv if word.startswith("/usr/bin/python"))
    shell = ("/bin/sh", "-c", '"$@" 3<&0 </dev/null; exit $?', "sh")
    guest = replace(
        python,
        argv=(*shell, program, "-ISc", PROGRAM),
        process_argv=(*shell, program, "-ISc", PROGRAM),
        own_threads=0,
    )
    return {"python": guest, "nodejs": node}


@pytest.fixture
def site(tmp_path: Path, plans: Mapping[str, LaunchPlan]) -> Site:
    """A data directory with one code folder in it."""
    folder = tmp_path / "code" / FOLDER
    (folder / "inner").mkdir(parents=True)
    (folder / "main.txt").write_text("hello")
    (folder / "inner" / "more.txt").write_text("more")
    return Site(tmp_path, tmp_path / "code", (plans["python"],), Limits())


@pytest.fixture(params=["crun", "runc"])
def runtime(request: pytest.FixtureRequest, require_tool: Callable[[str], str]) -> str:
    """Each OCI runtime in turn."""
    name: str = request.param
    return require_tool(name)


@pytest.fixture
def crun(require_tool: Callable[[str], str]) -> str:
    """The preferred OCI runtime."""
    return require_tool("crun")


@pytest.fixture
async def engine(crun: str, site: Site) -> AsyncIterator[SupervisedEngine]:
    """An engine over crun."""
    made = await start_supervisor("crun", crun, site, _fail_on_notice)
    yield made
    await made.close()


@pytest.fixture
async def boot(engine: Engine, site: Site) -> AsyncIterator[Boot]:
    """A function that boots a guest and gives it to a function; all are gone after the test."""
    async with guests(engine, site) as booter:
        yield booter


@pytest.fixture
def no_leftovers(site: Site) -> Iterator[None]:
    """After the test no cgroup of the site is left."""
    yield
    assert cgroups_of(site) == []


def cgroups_of(site: Site) -> list[Path]:
    """Return the cgroup directories that carry the site's hash."""
    name = f"stoker-{owner_of(site.data)}"
    return [path for path in (*Path("/sys/fs/cgroup").glob(name), *Path("/sys/fs/cgroup").glob(f"*/{name}"))]


def _fail_on_notice(event: str, fields: Mapping[str, object]) -> None:
    raise AssertionError(f"{event} {fields}")


class guests:
    """An async context: a function that boots guests on an engine, and their end."""

    def __init__(self, engine: Engine, site: Site) -> None:
        self._engine = engine
        self._site = site
        self._made: list[Guest] = []

    async def __aenter__(self) -> Boot:
        return self._boot

    async def __aexit__(self, *exception: object) -> None:
        for guest in self._made:
            guest.close()
        for guest in self._made:
            await guest.sandbox.ended()

    async def _boot(
        self,
        *,
        limits: InstanceLimits | None = LIMITS,
        writable: bool = False,
        folder: str | None = FOLDER,
        urgent: bool = True,
    ) -> Guest:
        sandbox = await self._engine.boot(self._site.plans[0], urgent=urgent)
        reader, writer = await asyncio.open_unix_connection(sock=sandbox.wire)
        guest = Guest(sandbox, reader, writer)
        self._made.append(guest)
        assert await reader.readline() == b"\n"
        if limits is not None:
            code = None if folder is None else Code(self._site.code_root / folder, writable)
            await sandbox.assign(code, limits)
        return guest
