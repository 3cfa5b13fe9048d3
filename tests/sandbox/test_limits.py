"""Limits bite, end what goes past them with the right figures, and leave neighbours alone."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.model.limits import MIB
from stoker.sandbox.engine import Site
from stoker.sandbox.spawn import start_supervisor
from stoker.sandbox.supervised import SupervisedEngine
from tests.sandbox.conftest import LIMITS, Boot, guests

SMALL = replace(LIMITS, memory_bytes=64 * MIB)
EAT = "import os\nkept = [os.urandom(1 << 20) for _ in range(400)]; answer = len(kept)"


async def test_memory_ends_the_whole_sandbox_and_says_so(
    runtime: str, site: Site, no_leftovers: None
) -> None:
    engine = await start_supervisor(os.path.basename(runtime), runtime, site, print)
    async with guests(engine, site) as boot:
        guest = await boot(limits=SMALL)

        answer = await guest.run(EAT)
        end = await guest.sandbox.ended()

    await engine.close()
    assert answer is None
    assert end.out_of_memory
    assert not end.processes_limit_hit
    assert 60 * MIB <= end.memory_peak_bytes <= 64 * MIB


async def test_a_child_that_eats_the_memory_takes_its_sandbox_with_it(boot: Boot) -> None:
    guest = await boot(limits=SMALL)

    answer = await guest.run(f"""
import subprocess, sys
subprocess.run(["/usr/bin/python3", "-ISc", {EAT!r}])
answer = "survived"
import time; time.sleep(60)
""")
    end = await guest.sandbox.ended()

    assert answer is None
    assert end.out_of_memory


async def test_what_fits_into_the_memory_is_left_alone(boot: Boot) -> None:
    guest = await boot(limits=SMALL)

    answer = await guest.run(EAT.replace("400", "30"))
    usage = await guest.sandbox.usage()

    assert answer == 30
    assert 30 * MIB <= usage.memory_peak_bytes <= 64 * MIB
    assert not usage.processes_limit_hit


async def test_the_peak_of_the_memory_is_seen_at_any_time_and_stays_after_the_end(boot: Boot) -> None:
    guest = await boot(limits=SMALL)
    before = guest.sandbox.memory_peak()
    await guest.run(EAT.replace("400", "30") + "; del kept")
    grown = guest.sandbox.memory_peak()

    await guest.run(EAT)
    await guest.sandbox.ended()

    assert 0 < before < 30 * MIB <= grown <= 64 * MIB
    assert 60 * MIB <= guest.sandbox.memory_peak() <= 64 * MIB


async def test_the_figures_are_those_of_the_sandbox_and_in_force(boot: Boot) -> None:
    guest = await boot(limits=replace(SMALL, processes=10))
    spin = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"
    await guest.run(spin + EAT.replace("400", "20"))

    stats = await guest.sandbox.stats()

    assert stats is not None
    used, memory = stats["cpu"]["usage"], stats["memory"]["usage"]
    assert used["total"] >= 200_000_000
    assert used["user"] > 0
    assert set(stats["cpu"]["throttling"]) == {"periods", "throttledPeriods", "throttledTime"}
    assert memory["limit"] == 64 * MIB
    assert 20 * MIB <= memory["usage"] <= memory["max"] <= 64 * MIB
    assert sum(stats["memory"]["raw"].values()) > 20 * MIB
    assert 1 <= stats["pids"]["current"] < stats["pids"]["limit"] <= 10 + 5
    assert isinstance(stats["blkio"]["ioServiceBytesRecursive"], list)


async def test_what_has_ended_has_no_figures(boot: Boot) -> None:
    guest = await boot()
    guest.sandbox.kill()
    killed = await guest.sandbox.stats()
    await guest.sandbox.ended()

    assert (killed, await guest.sandbox.stats()) == (None, None)


async def test_forking_without_end_is_refused_at_the_limit_and_counted(
    runtime: str, site: Site, no_leftovers: None
) -> None:
    engine = await start_supervisor(os.path.basename(runtime), runtime, site, print)
    async with guests(engine, site) as boot:
        guest = await boot(limits=replace(LIMITS, processes=10))

        made = await guest.run("""
import os, signal
children = []
try:
    for _ in range(500):
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
except BlockingIOError as error:
    answer = [len(children), error.errno]
""")
        usage = await guest.sandbox.usage()
        guest.sandbox.kill()
        end = await guest.sandbox.ended()

    await engine.close()
    assert made == [10, errno.EAGAIN]
    assert usage.processes_limit_hit
    assert end.processes_limit_hit
    assert not end.out_of_memory


async def test_threads_count_as_processes(boot: Boot) -> None:
    guest = await boot(limits=replace(LIMITS, processes=5))

    made = await guest.run("""
import threading
stop, made = threading.Event(), 0
try:
    for _ in range(100):
        threading.Thread(target=stop.wait).start()
        made += 1
except RuntimeError:
    answer = made
stop.set()
""")

    assert made == 5


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
async def test_a_full_tmp_is_an_error_of_the_function_and_no_more(boot: Boot, place: str) -> None:
    guest = await boot()

    answer = await guest.run(f"""
with open("{place}/big", "wb", 0) as file:
    while True:
        file.write(b"x" * (1 << 20))
""")
    files = await guest.run("""
import os
os.system("rm -f /tmp/big")
for number in range(1_000_000):
    open(f"/tmp/{number}", "x").close()
""")

    assert answer == ["OSError", errno.ENOSPC]
    assert files == ["OSError", errno.ENOSPC]


async def test_a_writable_folder_is_a_private_bounded_copy(boot: Boot, site: Site) -> None:
    one, other = await boot(writable=True), await boot(writable=True)

    seen = await one.run("""
import os
os.chdir("/code")
answer = [open("main.txt").read(), open("inner/more.txt").read(), os.stat("main.txt").st_uid]
open("main.txt", "w").write("changed"); open("inner/new.txt", "w").write("x"); os.remove("inner/more.txt")
""")
    unchanged = await other.run(
        "import os; answer = [open('/code/main.txt').read(), os.listdir('/code/inner')]"
    )
    full = await one.run("""
with open("/code/big", "wb", 0) as file:
    while True:
        file.write(b"x" * (1 << 20))
""")

    assert seen == ["hello", "more", 1000]
    assert unchanged == ["hello", ["more.txt"]]
    assert full == ["OSError", errno.ENOSPC]
    assert (site.code_root / ("c" * 64) / "main.txt").read_text() == "hello"


async def test_output_that_nobody_takes_stops_the_printing_program_alone(boot: Boot) -> None:
    loud, other = await boot(), await boot()

    loud.tell("import sys\nwhile True: sys.stdout.write('x' * 65536)")
    answer = await other.run("answer = 'well'")
    loud.sandbox.kill()
    end = await loud.sandbox.ended()

    assert answer == "well"
    assert end.signal == 9


async def test_a_function_gets_cpu_by_its_weight_while_others_want_it_too(boot: Boot) -> None:
    heavy = [await boot(limits=replace(LIMITS, cpu_millis=1000)) for _ in range(os.cpu_count() or 1)]
    light = [await boot(limits=replace(LIMITS, cpu_millis=100)) for _ in range(os.cpu_count() or 1)]
    spin = f"""
import time
until = {time.time() + 1.2}
while time.time() < until: pass
answer = time.process_time()
"""

    used = await asyncio.gather(*(guest.run(spin) for guest in (*heavy, *light)))

    # Weights of ten to one; three to one is far from chance and far from what a busy machine blurs.
    assert sum(used[: len(heavy)]) > 3 * sum(used[len(heavy) :])


async def test_a_spare_boots_at_the_lowest_weight_and_can_be_hurried(
    engine: SupervisedEngine, boot: Boot
) -> None:
    spare = await boot(limits=None, urgent=False)
    urgent = await boot(limits=None, urgent=True)

    weights = [_cpu_weight(guest.sandbox.id) for guest in (spare, urgent)]
    await engine.hurry(spare.sandbox)
    await spare.sandbox.usage()

    assert weights == ["least", "a core"]
    assert _cpu_weight(spare.sandbox.id) == "a core"


def _cpu_weight(sandbox: str) -> str:
    """Return the name of a weight in force: cgroups of versions 1 and 2 count in different units."""
    root = Path("/sys/fs/cgroup")
    for file in (
        *root.glob(f"stoker-*/{sandbox}/cpu.weight"),
        *root.glob(f"*/stoker-*/{sandbox}/cpu.shares"),
    ):
        least, core = (1, 100) if file.name == "cpu.weight" else (2, 1024)
        return {least: "least", core: "a core"}.get(int(file.read_text()), file.read_text())
    pytest.fail("the sandbox has no CPU weight")
