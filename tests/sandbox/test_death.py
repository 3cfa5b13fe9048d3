"""What dies with what: the gateway, the supervisor, the sandboxes; and what is left then."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.model.errors import PlatformError
from stoker.sandbox.engine import Site
from stoker.sandbox.protocol import Booted
from stoker.sandbox.spawn import start_supervisor
from tests.sandbox.conftest import DAEMON, cgroups_of, guests
from tests.sandbox.observation import (
    end_of,
    eventually,
    kill_minus_nine,
    next_numbers,
    processes_of,
    say_go,
    start_python,
    supervisors_of,
)


@pytest.mark.parametrize("which", ["outer", "init"])
async def test_if_the_supervisor_is_killed_every_sandbox_is_and_the_engine_says_so(
    crun: str, site: Site, which: str
) -> None:
    engine = await start_supervisor("crun", crun, site, print)
    async with guests(engine, site) as boot:
        guest = await boot()
        assert await guest.run(DAEMON) == "started"

        os.kill(supervisors_of(engine)[which], signal.SIGKILL)
        await engine.ended()
        end = await guest.sandbox.ended()
        assert await eventually(lambda: processes_of(site) == [])

    await engine.close()
    assert (end.signal, end.killed_from_outside) == (9, True)
    next_one = await start_supervisor("crun", crun, site, print)
    await next_one.close()
    assert cgroups_of(site) == []  # The next start clears what the killed one could not.


GATEWAY = """
import asyncio, os, sys, uvloop
from pathlib import Path
from stoker.model.launch import LaunchPlan
from stoker.model.limits import Limits
from stoker.sandbox import kernel
from stoker.sandbox.engine import Site
from stoker.sandbox.spawn import start_supervisor
data, crun, drop, *layers = sys.argv[1:]
spin = '''
import os
for _ in range(2):
    if os.fork() == 0: os.setsid()
os.write(1, b".")
while True: pass
'''
argv = ("/usr/bin/python3", "-ISc", spin)
plan = LaunchPlan("python", "", tuple(map(Path, layers)), argv, (), (), 0)
async def main() -> None:
    site = Site(Path(data), Path(data) / "code", (plan,), Limits())
    engine = await start_supervisor("crun", crun, site, print)
    if drop == "drop":
        os.setgroups([]); os.setresgid(65500, 65500, 65500); os.setresuid(65500, 65500, 65500)
        kernel.hide_memory()
    made = [await engine.boot(plan, urgent=True) for _ in range(3)]
    for sandbox in made:
        for _ in range(4):
            await read(sandbox.output)
    print(*[sandbox.pid for sandbox in made], flush=True)
    await asyncio.Event().wait()
async def read(handle) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(handle, lambda: ready.done() or ready.set_result(None))
    await ready
    loop.remove_reader(handle)
    return os.read(handle, 1)
uvloop.run(main())
"""


@pytest.mark.parametrize("drop", ["keep", "drop"])
async def test_minus_nine_on_the_gateway_leaves_no_spinning_process_and_no_cgroup(
    crun: str, site: Site, drop: str
) -> None:
    layers = [str(layer) for layer in site.plans[0].layers]
    gateway = start_python(GATEWAY, str(site.data), crun, drop, *layers)
    booted = next_numbers(gateway)
    spinning = processes_of(site)
    watched = [os.pidfd_open(pid) for pid in spinning]

    kill_minus_nine(gateway)

    assert set(booted) <= set(spinning)
    assert len(spinning) == 12
    for pidfd in watched:
        await end_of(pidfd)
    assert await eventually(lambda: cgroups_of(site) == [])


DYING = """
import asyncio, os, signal, sys, uvloop
from pathlib import Path
from stoker.model.launch import LaunchPlan
from stoker.model.limits import Limits
from stoker.sandbox.engine import Site
from stoker.sandbox.spawn import start_supervisor
data, crun, *layers = sys.argv[1:]
argv = ("/usr/bin/python3", "-ISc", "while True: pass")
plan = LaunchPlan("python", "", tuple(map(Path, layers)), argv, (), (), 0)
async def main():
    site = Site(Path(data), Path(data) / "code", (plan,), Limits())
    engine = await start_supervisor("crun", crun, site, print)
    print(engine._supervisor.pid, flush=True)
    sys.stdin.readline()
    boots = [asyncio.create_task(engine.boot(plan, urgent=True)) for _ in range(5)]
    await asyncio.wait(boots, return_when=asyncio.FIRST_COMPLETED)
    os.kill(os.getpid(), signal.SIGKILL)
uvloop.run(main())
"""


async def test_minus_nine_while_sandboxes_are_being_started_leaves_nothing(crun: str, site: Site) -> None:
    gateway = start_python(DYING, str(site.data), crun, *(str(layer) for layer in site.plans[0].layers))
    supervisor = os.pidfd_open(next_numbers(gateway)[0])

    say_go(gateway)
    await end_of(supervisor)
    kill_minus_nine(gateway)

    assert cgroups_of(site) == []
    assert processes_of(site) == []


async def test_two_servers_do_not_touch_each_others_sandboxes(crun: str, site: Site, tmp_path: Path) -> None:
    other_site = replace(site, data=tmp_path / "other")
    engine = await start_supervisor("crun", crun, site, print)
    async with guests(engine, site) as boot:
        guest = await boot()

        other = await start_supervisor("crun", crun, other_site, print)
        async with guests(other, other_site) as boot_other:
            await boot_other()
        await other.close()
        answer = await guest.run("answer = 'lives'")

    await engine.close()
    assert answer == "lives"
    assert cgroups_of(other_site) == []


@pytest.mark.parametrize(
    "packet",
    [b"x", b"{}", b'{"is": "Kill", "sandbox": "../../etc"}', b'{"is": "Boot", "tag": 1, "plan": "python"}'],
)
async def test_a_malformed_message_ends_the_supervisor_and_all_it_runs(
    crun: str, site: Site, packet: bytes, no_leftovers: None
) -> None:
    engine = await start_supervisor("crun", crun, site, print)
    async with guests(engine, site) as boot:
        guest = await boot()

        engine._control.send(packet)
        await engine.ended()
        end = await guest.sandbox.ended()

    await engine.close()
    assert end.signal == 9


@pytest.mark.parametrize("room", [0, 1])
async def test_a_gateway_out_of_descriptors_loses_that_sandbox_and_no_other(
    crun: str, site: Site, no_leftovers: None, room: int
) -> None:
    engine = await start_supervisor("crun", crun, site, print)
    async with guests(engine, site) as boot:
        guest = await boot()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(map(int, os.listdir("/proc/self/fd")))
        taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(highest)]  # every gap below it

        resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, hard))
        for handle in taken[len(taken) - room :]:
            os.close(handle)
        try:
            with pytest.raises(PlatformError):
                await engine.boot(site.plans[0], urgent=True)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for handle in taken[: len(taken) - room]:
                os.close(handle)

        assert await guest.run("answer = 42") is not None
        assert await eventually(
            lambda: len({Path(f"/proc/{pid}/cgroup").read_text() for pid in processes_of(site)}) == 1
        )
        await boot()
    await engine.close()


async def test_a_fault_in_taking_an_answer_ends_the_engine_and_leaves_nobody_waiting(
    crun: str, site: Site, no_leftovers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await start_supervisor("crun", crun, site, print)
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))

    def fail(said: Booted, handles: list[int]) -> None:
        for handle in handles:
            os.close(handle)
        raise LookupError

    monkeypatch.setattr(engine, "_booted", fail)
    with pytest.raises(PlatformError):
        await engine.boot(site.plans[0], urgent=True)
    await engine.ended()

    await engine.close()
    assert len(faults) == 1
