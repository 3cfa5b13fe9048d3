"""From boot to end: what a caller can rely on, and that nothing is ever left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.model.errors import PlatformError
from stoker.model.launch import Code
from stoker.sandbox.engine import SandboxGone, Site
from stoker.sandbox.protocol import Booted
from stoker.sandbox.spawn import start_supervisor
from stoker.sandbox.supervised import SupervisedEngine
from tests.sandbox.conftest import DAEMON, FOLDER, LIMITS, Boot, cgroups_of, guests
from tests.sandbox.observation import (
    eventually,
    mounts_of,
    owner_of_process,
    processes_of,
    resident_kib,
    supervisors_of,
)


async def test_code_appears_in_a_running_sandbox_when_it_is_given_to_a_function(
    runtime: str, site: Site, no_leftovers: None
) -> None:
    engine = await start_supervisor(os.path.basename(runtime), runtime, site, print)
    async with guests(engine, site) as boot:
        guest = await boot(limits=None)

        before = await guest.run("import os; answer = os.listdir('/code')")
        await guest.sandbox.assign(Code(site.code_root / FOLDER, writable=False), LIMITS)
        after = await guest.run(
            "import os; os.chdir('/code'); answer = [sorted(os.listdir()), open('main.txt').read()]"
        )

    await engine.close()
    assert before == []
    assert after == [["inner", "main.txt"], "hello"]
    assert guest.sandbox.code_root == "/code"


async def test_a_sandbox_is_given_to_one_function_only(boot: Boot, site: Site) -> None:
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
async def test_an_end_tells_the_exit_code_or_the_signal(
    boot: Boot, source: str, code: int | None, number: int | None
) -> None:
    guest = await boot()

    answer = await guest.run(source)
    end = await guest.sandbox.ended()

    assert answer is None
    assert (end.code, end.signal) == (code, number)
    assert not end.killed_from_outside
    assert not end.out_of_memory


async def test_a_kill_takes_daemonised_grandchildren_with_it_and_may_be_repeated(
    boot: Boot, site: Site
) -> None:
    guest = await boot()
    assert await guest.run(DAEMON) == "started"
    assert len(processes_of(site)) == 5  # A shell, the guest, and three that left its group.

    for _ in range(3):
        guest.sandbox.kill()
    ends = await asyncio.gather(*(guest.sandbox.ended() for _ in range(3)))
    guest.sandbox.kill()

    assert set(ends) == {ends[0]}
    assert (ends[0].signal, ends[0].killed_from_outside) == (9, True)
    assert processes_of(site) == []


async def test_what_is_asked_of_a_dead_sandbox_is_answered(boot: Boot, site: Site) -> None:
    guest = await boot(limits=None)
    guest.sandbox.kill()
    end = await guest.sandbox.ended()

    usage = await guest.sandbox.usage()
    with pytest.raises(SandboxGone):
        await guest.sandbox.assign(Code(site.code_root / FOLDER, writable=False), LIMITS)

    assert usage == end


async def test_killed_while_its_code_is_copied_a_sandbox_ends_and_leaves_nothing(
    engine: SupervisedEngine, boot: Boot, site: Site
) -> None:
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


async def test_a_big_copy_holds_no_other_sandbox_up(boot: Boot, site: Site) -> None:
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


async def test_code_from_elsewhere_or_absurd_limits_are_refused_before_the_supervisor_sees_them(
    boot: Boot, tmp_path: Path
) -> None:
    guest = await boot(limits=None)

    with pytest.raises(PlatformError):
        await guest.sandbox.assign(Code(tmp_path, writable=False), LIMITS)
    with pytest.raises(PlatformError):
        await guest.sandbox.assign(None, replace(LIMITS, memory_bytes=-1))
    await guest.sandbox.assign(None, LIMITS)

    assert await guest.run("answer = 'lives'") == "lives"


async def test_a_program_that_is_not_there_is_a_fault_of_the_platform(
    crun: str, site: Site, no_leftovers: None
) -> None:
    broken = replace(site.plans[0], argv=("/no/such/program",))
    engine = await start_supervisor("crun", crun, replace(site, plans=(broken,)), print)

    with pytest.raises(PlatformError) as refused:
        await engine.boot(broken, urgent=True)
    await engine.close()

    assert "/no/such/program" in str(refused.value.__cause__)


async def test_a_caller_that_stops_waiting_for_a_boot_leaves_no_sandbox(
    crun: str, site: Site, no_leftovers: None
) -> None:
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


async def test_a_caller_cancelled_just_when_its_sandbox_is_there_leaves_none(
    crun: str, site: Site, no_leftovers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await start_supervisor("crun", crun, site, print)
    handles = len(os.listdir("/proc/self/fd"))
    boot = asyncio.create_task(engine.boot(site.plans[0], urgent=True))
    booted = engine._booted

    def cancel_then(said: Booted, received: list[int]) -> None:
        # The answer is in the future, and its task has not run since.
        booted(said, received)
        boot.cancel()

    monkeypatch.setattr(engine, "_booted", cancel_then)
    await asyncio.gather(boot, return_exceptions=True)
    gone = await eventually(lambda: not engine._sandboxes)
    left = len(os.listdir("/proc/self/fd"))
    await engine.close()

    assert boot.cancelled()
    assert gone
    assert left == handles


async def test_many_sandboxes_leave_no_descriptor_mount_cgroup_or_zombie(
    crun: str, site: Site, no_leftovers: None
) -> None:
    engine = await start_supervisor("crun", crun, site, print)
    async with guests(engine, site) as boot:
        await boot()
    assert await eventually(lambda: _left_by(engine, site)["cgroups"] == [])
    before = _left_by(engine, site)

    for _ in range(6):
        async with guests(engine, site) as boot:
            await asyncio.gather(*(boot(writable=number % 2 == 0) for number in range(5)))
    await eventually(lambda: _left_by(engine, site) == before)
    after = _left_by(engine, site)
    await engine.close()

    assert after == before


async def test_closing_kills_all_and_leaves_nothing(crun: str, site: Site, no_leftovers: None) -> None:
    mounts = mounts_of()
    engine = await start_supervisor("crun", crun, site, print)
    boots = [await engine.boot(site.plans[0], urgent=True) for _ in range(3)]
    pids = [sandbox.pid for sandbox in boots]

    await engine.close()
    await engine.close()
    ends = [await sandbox.ended() for sandbox in boots]
    await engine.ended()
    with pytest.raises(PlatformError):
        await engine.boot(site.plans[0], urgent=True)

    for sandbox in boots:
        sandbox.wire.close()
        os.close(sandbox.output)
    assert {end.signal for end in ends} == {9}
    assert mounts_of() == mounts
    assert not any(pid is None or owner_of_process(pid) is not None for pid in pids)


async def test_the_supervisor_keeps_itself_small(engine: SupervisedEngine, boot: Boot) -> None:
    for _ in range(3):
        await boot(writable=True)

    resident = resident_kib(supervisors_of(engine)["init"])

    assert resident < 20_000


def _left_by(engine: SupervisedEngine, site: Site) -> dict[str, object]:
    init = supervisors_of(engine)["init"]
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "of the supervisor": len(os.listdir(f"/proc/{init}/fd")),
        "mounts": len(mounts_of(init)),
        "processes": processes_of(site),
        "cgroups": [path for group in cgroups_of(site) for path in group.iterdir() if path.is_dir()],
    }
