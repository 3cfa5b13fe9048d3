"""Plain processes: the same protocol, without isolation and without leftovers."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.model.errors import PlatformError
from stoker.sandbox.engine import Site
from stoker.sandbox.process import FOLDER, ProcessEngine
from tests.sandbox.conftest import Boot
from tests.sandbox.observation import end_of, group_of, kill_minus_nine, next_numbers, pids, start_python


@pytest.fixture
async def engine(site: Site) -> AsyncIterator[ProcessEngine]:
    """An engine of plain processes, in the place of crun's."""
    made = ProcessEngine(site)
    made.open()
    yield made
    await made.close()


async def test_the_code_is_where_the_sandbox_says(boot: Boot, site: Site) -> None:
    guest = await boot()

    answer = await guest.run(f"""
import os
os.chdir({guest.sandbox.code_root!r})
answer = [open("main.txt").read(), open("inner/more.txt").read(), oct(os.stat("main.txt").st_mode)]
""")

    assert answer == ["hello", "more", "0o100444"]
    assert Path(guest.sandbox.code_root).parent.parent == site.data / FOLDER


async def test_what_a_function_writes_to_its_folder_reaches_no_other(boot: Boot, site: Site) -> None:
    one, other = await boot(writable=True), await boot(writable=True)

    await one.run(f"open({one.sandbox.code_root + '/main.txt'!r}, 'w').write('changed')")
    answer = await other.run(f"answer = open({other.sandbox.code_root + '/main.txt'!r}).read()")

    assert answer == "hello"
    assert (site.code_root / ("c" * 64) / "main.txt").read_text() == "hello"


async def test_a_process_has_its_output_its_environment_and_few_descriptors(boot: Boot) -> None:
    guest = await boot()

    answer = await guest.run("""
import os
os.write(1, b"out "); os.write(2, b"err")
answer = [sorted(os.environ), sorted(int(n) for n in os.listdir("/proc/self/fd"))[:4], os.environ["TMPDIR"]]
""")

    assert guest.printed() == "out err"
    assert set(answer[0]) <= {"HOME", "LANG", "PATH", "PWD", "SHLVL", "TMPDIR", "TZ", "_", "OLDPWD"}
    assert answer[1] == [0, 1, 2, 3]
    assert answer[2] == str(Path(guest.sandbox.code_root).parent / "tmp")


@pytest.mark.parametrize(
    ("source", "code", "number"),
    [("import os; os._exit(3)", 3, None), ("import os; os.abort()", None, signal.SIGABRT)],
)
async def test_an_end_tells_the_exit_code_or_the_signal(
    boot: Boot, source: str, code: int | None, number: int | None
) -> None:
    guest = await boot()

    await guest.run(source)
    end = await guest.sandbox.ended()

    assert (end.code, end.signal, end.killed_from_outside) == (code, number, False)
    assert end.memory_peak_bytes > 0


async def test_the_figures_of_a_process_are_the_kernels_and_without_limits(boot: Boot) -> None:
    guest = await boot()
    await guest.run("kept = bytearray(30 << 20)")

    stats = await guest.sandbox.stats()
    peak = guest.sandbox.memory_peak()
    guest.sandbox.kill()
    end = await guest.sandbox.ended()

    assert stats is not None
    assert 30 << 20 <= stats["memory"]["usage"]["usage"] <= stats["memory"]["usage"]["max"] <= peak
    assert stats["memory"]["usage"]["limit"] == 0
    assert stats["pids"]["current"] >= 1
    assert stats["cpu"]["usage"]["total"] >= stats["cpu"]["usage"]["user"]
    assert guest.sandbox.memory_peak() == end.memory_peak_bytes > 0
    assert await guest.sandbox.stats() is None


async def test_a_kill_takes_the_group_and_its_folder(boot: Boot) -> None:
    guest = await boot()
    child = await guest.run("""
import os, signal
answer = os.fork()
if answer == 0:
    signal.pause()
""")
    pidfd = os.pidfd_open(child)

    guest.sandbox.kill()
    guest.sandbox.kill()
    end = await guest.sandbox.ended()
    await end_of(pidfd)

    assert (end.signal, end.killed_from_outside) == (9, True)
    assert await guest.sandbox.usage() == end
    assert not Path(guest.sandbox.code_root).parent.exists()


async def test_a_program_that_is_not_there_is_a_fault_of_the_platform(site: Site) -> None:
    broken = replace(site.plans[0], process_argv=("/no/such/program",))
    engine = ProcessEngine(replace(site, plans=(broken,)))
    engine.open()

    with pytest.raises(PlatformError):
        await engine.boot(broken, urgent=True)

    await engine.close()
    assert not (site.data / FOLDER).exists()


async def test_closing_ends_all_and_what_a_killed_server_left_is_removed_at_the_next_start(
    site: Site,
) -> None:
    (site.data / FOLDER / "old" / "code").mkdir(parents=True)
    (site.data / FOLDER / "old" / "code").chmod(0o555)
    engine = ProcessEngine(site)
    engine.open()
    left = os.listdir(site.data / FOLDER)

    sandbox = await engine.boot(site.plans[0], urgent=True)
    await engine.close()
    await engine.ended()
    end = await sandbox.ended()

    sandbox.wire.close()
    os.close(sandbox.output)
    assert left == []
    assert end.signal == 9


GATEWAY = """
import asyncio, os, sys
from pathlib import Path
from stoker.model.launch import LaunchPlan
from stoker.model.limits import Limits
from stoker.sandbox.engine import Site
from stoker.sandbox.process import ProcessEngine
spin = "import os\\nos.fork()\\nos.write(1, b'.')\\nwhile True: pass"
shell = ("/bin/sh", "-c", '"$@"; exit $?', "sh")
plan = LaunchPlan("python", "", (), (), (), (*shell, sys.executable, "-c", spin), 0)
async def main() -> None:
    engine = ProcessEngine(Site(Path(sys.argv[1]), Path(sys.argv[1]), (plan,), Limits()))
    engine.open()
    ended = await engine.boot(plan, urgent=True)
    ended.kill()
    await ended.ended()
    made = [await engine.boot(plan, urgent=True) for _ in range(2)]
    for sandbox in made:
        os.set_blocking(sandbox.output, True)
        os.read(sandbox.output, 1), os.read(sandbox.output, 1)
    print(*[sandbox.pid for sandbox in made], flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_minus_nine_on_the_server_ends_spinning_processes_too(site: Site) -> None:
    server = start_python(GATEWAY, str(site.data))
    groups = next_numbers(server)
    members = [pid for pid in pids() if group_of(pid) in groups]
    watched = [os.pidfd_open(pid) for pid in members]

    kill_minus_nine(server)

    assert len(members) == 6
    for pidfd in watched:
        await end_of(pidfd)
