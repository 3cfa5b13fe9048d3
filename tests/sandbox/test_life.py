"""From boot to end: what a caller can rely on, and that nothing is ever left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.model.errors import PlatformError
from stoker.model.launch import Code
from stoker.sandbox.engine import SandboxGone
from stoker.sandbox.spawn import owner_of, start_supervisor
from tests.sandbox.conftest import FOLDER, LIMITS, cgroups_of, guests

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


async def test_code_appears_in_a_running_sandbox_when_it_is_given_to_a_function(runtime, site, no_leftovers):
    engine = await start_supervisor(os.path.basename(runtime), runtime, site, print)
    async with guests(engine, site) as boot:
        guest = await boot(limits=None)

        before = await guest.run("import os; answer = os.listdir('/code')")
        await guest.sandbox.assign(Code(site.code_root / FOLDER, writable=False), LIMITS)
        after = await guest.run("import os; os.chdir('/code'); answer = [sorted(os.listdir()), open('main.txt').read()]")

    await engine.close()
    assert before == []
    assert after == [["inner", "main.txt"], "hello"]
    assert guest.sandbox.code_root == "/code"


async def test_a_sandbox_is_given_to_one_function_only(boot, site):
    guest = await boot()

    with pytest.raises(PlatformError):
        await guest.sandbox.assign(Code(site.code_root / FOLDER, writable=False), LIMITS)
    answer = await guest.run("answer = open('/code/main.txt').read()")

    assert answer == "hello"


@pytest.mark.parametrize(
    ("source", "code", "number"),
    [
        ("import os; os._exit(0)", 0, None),
        ("import os; os._exit(3)", 3, None),
        ("import os; os.abort()", None, signal.SIGABRT),
        ("import os; os.kill(os.getpid(), 9)", None, signal.SIGKILL),
    ],
)
async def test_an_end_tells_the_exit_code_or_the_signal(boot, source, code, number):
    guest = await boot()

    answer = await guest.run(source)
    end = await guest.sandbox.ended()

    assert answer is None
    assert (end.code, end.signal) == (code, number)
    assert not end.killed_from_outside
    assert not end.out_of_memory


async def test_a_kill_takes_daemonised_grandchildren_with_it_and_may_be_repeated(boot):
    guest = await boot()
    assert await guest.run(DAEMON) == "started"

    for _ in range(3):
        guest.sandbox.kill()
    ends = await asyncio.gather(*(guest.sandbox.ended() for _ in range(3)))
    guest.sandbox.kill()

    assert set(ends) == {ends[0]}
    assert (ends[0].signal, ends[0].killed_from_outside) == (9, True)
    assert _processes_of_uid(guest) == []


async def test_what_is_asked_of_a_dead_sandbox_is_answered(boot, site):
    guest = await boot(limits=None)
    guest.sandbox.kill()
    end = await guest.sandbox.ended()

    usage = await guest.sandbox.usage()
    with pytest.raises(SandboxGone):
        await guest.sandbox.assign(Code(site.code_root / FOLDER, writable=False), LIMITS)

    assert usage == end


async def test_killed_while_its_code_is_copied_a_sandbox_ends_and_leaves_nothing(engine, boot, site):
    big = site.code_root / ("b" * 64)
    big.mkdir()
    for number in range(2000):
        (big / str(number)).write_bytes(b"x" * 4096)
    guest = await boot(limits=None)

    assigned = asyncio.create_task(guest.sandbox.assign(Code(big, writable=True), LIMITS))
    await guest.sandbox.usage()  # Answered in order, so the copying has begun.
    guest.sandbox.kill()
    with pytest.raises(PlatformError):
        await assigned
    await guest.sandbox.ended()


async def test_a_big_copy_holds_no_other_sandbox_up(boot, site):
    big = site.code_root / ("b" * 64)
    big.mkdir()
    (big / "big").write_bytes(b"x" * (128 << 20))
    slow, other = await boot(limits=None), await boot(limits=None)

    copied = asyncio.create_task(slow.sandbox.assign(Code(big, writable=True), LIMITS))
    await other.sandbox.assign(Code(site.code_root / FOLDER, writable=False), LIMITS)
    first = not copied.done()
    await copied
    size = await slow.run("import os; answer = os.stat('/code/big').st_size")

    assert first
    assert size == 128 << 20


async def test_code_from_elsewhere_or_absurd_limits_are_refused_before_the_supervisor_sees_them(boot, tmp_path):
    guest = await boot(limits=None)

    with pytest.raises(PlatformError):
        await guest.sandbox.assign(Code(tmp_path, writable=False), LIMITS)
    with pytest.raises(PlatformError):
        await guest.sandbox.assign(None, replace(LIMITS, memory_bytes=-1))
    await guest.sandbox.assign(None, LIMITS)

    assert await guest.run("answer = 'lives'") == "lives"


async def test_a_program_that_is_not_there_is_a_fault_of_the_platform(crun, site, no_leftovers):
    broken = replace(site.plans[0], argv=("/no/such/program",))
    engine = await start_supervisor("crun", crun, replace(site, plans=(broken,)), print)

    with pytest.raises(PlatformError) as refused:
        await engine.boot(broken, urgent=True)
    await engine.close()

    assert "/no/such/program" in str(refused.value.__cause__)


async def test_a_caller_that_stops_waiting_for_a_boot_leaves_no_sandbox(crun, site, no_leftovers):
    engine = await start_supervisor("crun", crun, site, print)
    handles = len(os.listdir("/proc/self/fd"))

    boots = [asyncio.create_task(engine.boot(site.plans[0], urgent=True)) for _ in range(4)]
    await asyncio.wait(boots, timeout=0)
    for boot in boots:
        boot.cancel()
    await asyncio.gather(*boots, return_exceptions=True)
    async with guests(engine, site) as booter:
        await booter()  # Answered after the cancelled ones.
    left = len(os.listdir("/proc/self/fd"))
    await engine.close()

    assert left == handles


async def test_many_sandboxes_leave_no_descriptor_mount_cgroup_or_zombie(crun, site, no_leftovers):
    engine = await start_supervisor("crun", crun, site, print)
    async with guests(engine, site) as boot:
        await boot()
    assert await _eventually(lambda: _left_by(engine, site)["cgroups"] == [])
    before = _left_by(engine, site)

    for _ in range(6):
        async with guests(engine, site) as boot:
            await asyncio.gather(*(boot(writable=number % 2 == 0) for number in range(5)))
    after = await _settled(engine, site, before)
    await engine.close()

    assert after == before


async def test_closing_kills_all_and_leaves_nothing(crun, site, no_leftovers):
    mounts = Path("/proc/self/mountinfo").read_text()
    engine = await start_supervisor("crun", crun, site, print)
    boots = [await engine.boot(site.plans[0], urgent=True) for _ in range(3)]

    await engine.close()
    await engine.close()
    ends = [await sandbox.ended() for sandbox in boots]
    await engine.ended()
    with pytest.raises(PlatformError):
        await engine.boot(site.plans[0], urgent=True)

    for sandbox in boots:
        sandbox.close_descriptors()
    assert {end.signal for end in ends} == {9}
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not any(Path(f"/proc/{sandbox.pid}").exists() for sandbox in boots)


@pytest.mark.parametrize("which", ["outer", "init"])
async def test_if_the_supervisor_is_killed_every_sandbox_is_and_the_engine_says_so(crun, site, which):
    engine = await start_supervisor("crun", crun, site, print)
    async with guests(engine, site) as boot:
        guest = await boot()
        assert await guest.run(DAEMON) == "started"

        os.kill(_supervisors(engine)[which], signal.SIGKILL)
        await engine.ended()
        end = await guest.sandbox.ended()
        await _gone(guest)

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
spin = "import os\\nfor _ in range(2):\\n  if os.fork() == 0: os.setsid()\\nos.write(1, b'.')\\nwhile True: pass"
plan = LaunchPlan("python", "", tuple(map(Path, layers)), ("/usr/bin/python3", "-ISc", spin), (), (), 0)
async def main():
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
async def read(handle):
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(handle, lambda: ready.done() or ready.set_result(None))
    await ready
    loop.remove_reader(handle)
    return os.read(handle, 1)
uvloop.run(main())
"""


@pytest.mark.parametrize("drop", ["keep", "drop"])
async def test_minus_nine_on_the_gateway_leaves_no_spinning_process_and_no_cgroup(crun, site, drop):
    layers = [str(layer) for layer in site.plans[0].layers]
    gateway = subprocess.Popen(
        [sys.executable, "-c", GATEWAY, str(site.data), crun, drop, *layers], stdout=subprocess.PIPE, text=True
    )
    assert gateway.stdout is not None
    pids = [int(word) for word in gateway.stdout.readline().split()]
    spinning = [pid for pid in map(int, _pids()) if _cgroup_owner(pid) == owner_of(site.data)]
    watched = [os.pidfd_open(pid) for pid in spinning]

    gateway.kill()
    gateway.wait()
    gateway.stdout.close()

    assert len(pids) == 3
    assert len(spinning) == 12
    assert all([await _readable(handle, within_s=1.0) for handle in watched])
    assert await _eventually(lambda: cgroups_of(site) == [])


async def test_two_servers_do_not_touch_each_others_sandboxes(crun, site, tmp_path):
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
    "packet", [b"x", b"{}", b'{"is": "Kill", "sandbox": "../../etc"}', b'{"is": "Boot", "tag": 1, "plan": "python"}']
)
async def test_a_malformed_message_ends_the_supervisor_and_all_it_runs(crun, site, packet, no_leftovers):
    engine = await start_supervisor("crun", crun, site, print)
    async with guests(engine, site) as boot:
        guest = await boot()

        engine._control.send(packet)
        await engine.ended()
        end = await guest.sandbox.ended()

    await engine.close()
    assert end.signal == 9


async def test_the_supervisor_keeps_itself_small(engine, boot):
    for _ in range(3):
        await boot(writable=True)

    lines = Path(f"/proc/{_supervisors(engine)['init']}/status").read_text().splitlines()

    resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    assert resident < 20_000


def _supervisors(engine) -> dict[str, int]:
    outer = engine._supervisor.pid
    init = int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])
    return {"outer": outer, "init": init}


def _left_by(engine, site) -> dict[str, object]:
    init = _supervisors(engine)["init"]
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "of the supervisor": len(os.listdir(f"/proc/{init}/fd")),
        "mounts": len(Path(f"/proc/{init}/mountinfo").read_text().splitlines()),
        "children": Path(f"/proc/{init}/task/{init}/children").read_text(),
        "cgroups": [path for group in cgroups_of(site) for path in group.iterdir() if path.is_dir()],
    }


async def _settled(engine, site, wanted) -> dict[str, object]:
    await _eventually(lambda: _left_by(engine, site) == wanted)
    return _left_by(engine, site)


async def _eventually(holds, within_s: float = 5.0) -> bool:
    """Ask again and again; what is cleared away behind the scenes sends no word."""
    try:
        async with asyncio.timeout(within_s):
            while not holds():
                await asyncio.sleep(0.01)
    except TimeoutError:
        return False
    return True


async def _readable(handle: int, within_s: float) -> bool:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(handle, lambda: ready.done() or ready.set_result(None))
    try:
        async with asyncio.timeout(within_s):
            await ready
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(handle)
        os.close(handle)
    return True


async def _gone(guest) -> None:
    assert await _eventually(lambda: _processes_of_uid(guest) == [])


def _processes_of_uid(guest) -> list[str]:
    """Return the living processes of a sandbox: no other has its uid."""
    uid = 1_000_000 + 1000
    found = []
    for pid in _pids():
        try:
            if Path(f"/proc/{pid}").stat().st_uid == uid and guest.sandbox.pid is not None:
                found.append(pid)
        except FileNotFoundError:
            continue
    return found


def _pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _cgroup_owner(pid: int) -> str | None:
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    _, found, rest = text.partition("/stoker-")
    return rest[:12] if found else None
