"""What a hostile function sees and reaches: nothing of the host, of the platform or of its neighbours."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from stoker.model.errors import PlatformError
from stoker.model.launch import Code
from stoker.sandbox.engine import Site
from tests.sandbox.conftest import LIMITS, Boot
from tests.sandbox.observation import owner_of_process

SYSCALL = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number: int | None, *arguments) -> None:
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in arguments])
    return ctypes.get_errno() if result < 0 else result
"""


async def test_a_function_finds_its_three_streams_and_one_socket_however_many_the_server_has_open(
    boot: Boot,
) -> None:
    inheritable = [os.dup(0) for _ in range(50)]
    for handle in inheritable:
        os.set_inheritable(handle, True)
    guest = await boot()

    names = await guest.run("""
import os
answer = {name: os.readlink(f"/proc/self/fd/{name}").split(":")[0]
          for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}
""")

    for handle in inheritable:
        os.close(handle)
    assert names == {"0": "/dev/null", "1": "pipe", "2": "pipe", "3": "socket"}


async def test_nothing_of_the_host_or_of_the_platform_is_to_be_read_inside(boot: Boot, site: Site) -> None:
    guest = await boot()

    seen = await guest.run("""
import os
answer = [open(f"/proc/self/{name}").read() for name in ("mountinfo", "mounts", "cgroup", "environ")]
answer.append(repr(dict(os.environ)))
answer.append(os.uname().nodename)
""")

    text = "\n".join(seen)
    for secret in (str(site.data), "/home", "/root", "stoker-", site.data.name):
        assert secret not in text
    assert seen[-1] == "fn"


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/drop_caches",
        "/proc/self/uid_map",
        "/proc/sysrq-trigger",
        "/sys/kernel/x",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory.max",
        "/etc/passwd",
        "/usr/bin/sh",
        "/code/main.txt",
        "/code/new",
        "/dev/new",
        "/opt/new",
    ],
)
async def test_a_function_writes_nowhere_outside_its_tmp(boot: Boot, path: str) -> None:
    guest = await boot()

    answer = await guest.run(f"open({path!r}, 'wb', 0).write(b'1'); answer = 'written'")

    assert answer != "written"


async def test_a_function_cannot_make_the_kernel_kill_the_server_before_it(boot: Boot) -> None:
    guest = await boot()

    score = await guest.run("answer = int(open('/proc/self/oom_score_adj').read())")
    lower = await guest.run("open('/proc/self/oom_score_adj', 'wb', 0).write(b'499'); answer = 'written'")
    minus = await guest.run("open('/proc/self/oom_score_adj', 'wb', 0).write(b'-1'); answer = 'written'")

    assert score == 500
    assert minus == ["PermissionError", errno.EACCES]
    # A root without CAP_SYS_RESOURCE, as in some virtual machines, cannot set a least score above 0.
    if _has_capability(24):
        assert lower == ["PermissionError", errno.EACCES]


def _has_capability(number: int) -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(line.split()[1] for line in lines if line.startswith("CapEff"))
    return bool(int(effective, 16) >> number & 1)


async def test_tmp_and_shared_memory_are_there_and_empty(boot: Boot) -> None:
    guest = await boot()

    answer = await guest.run("""
import os
answer = [os.listdir("/tmp"), os.listdir("/dev/shm")]
open("/tmp/a", "w").write("x"); open("/dev/shm/a", "w").write("x")
""")

    assert answer == [[], []]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("mount", "call(165, 0, 0, 0, 0, 0)"),
        ("umount2", "call(166, 0, 0)"),
        ("unshare user", "call(272, 0x10000000)"),
        ("setns", "call(308, 3, 0)"),
        ("clone user", "call(56, 0x10000000 | 17, 0, 0, 0, 0)"),
        ("clone net", "call(56, 0x40000000 | 17, 0, 0, 0, 0)"),
        ("clone pid above an upper half", "call(56, (1 << 40) | 0x20000000 | 17, 0, 0, 0, 0)"),
        ("ptrace", "call(101, 0, 0, 0, 0)"),
        ("process_vm_readv", "call(310, 1, 0, 0, 0, 0, 0)"),
        ("bpf", "call(321, 0, 0, 0)"),
        ("keyctl", "call(250, 0, 0, 0, 0, 0)"),
        ("add_key", "call(248, 0, 0, 0, 0, 0)"),
        ("io_uring_setup", "call(425, 8, 0)"),
        ("userfaultfd", "call(323, 0)"),
        ("perf_event_open", "call(298, 0, 0, -1, -1, 0)"),
        ("open_tree", "call(428, -100, 0, 0)"),
        ("fsopen", "call(430, 0, 0)"),
        ("move_mount", "call(429, 0, 0, 0, 0, 0)"),
        ("pivot_root", "call(155, 0, 0)"),
        ("chroot", "call(161, 0)"),
        ("kexec_load", "call(246, 0, 0, 0, 0)"),
        ("init_module", "call(175, 0, 0, 0)"),
        ("reboot", "call(169, 0, 0, 0, 0)"),
        ("swapon", "call(167, 0, 0)"),
        ("settimeofday", "call(164, 0, 0)"),
        ("sethostname", "call(170, 0, 0)"),
        ("pidfd_getfd", "call(438, 3, 0, 0)"),
        ("open_by_handle_at", "call(304, 0, 0, 0)"),
        ("fanotify_init", "call(300, 0, 0)"),
        ("personality", "call(135, 0x0040000)"),
        ("AF_NETLINK", "call(41, 16, 3, 0)"),
        ("AF_PACKET", "call(41, 17, 3, 0)"),
        ("AF_ALG", "call(41, 38, 5, 0)"),
        ("AF_VSOCK", "call(41, 40, 1, 0)"),
        ("AF_NETLINK above an upper half", "call(41, (1 << 32) | 16, 3, 0)"),
        ("SCTP", "call(41, 2, 1, 132)"),
        ("TIOCSTI", "call(16, 0, 0x5412, 0)"),
        ("TIOCSTI above an upper half", "call(16, 0, (1 << 32) | 0x5412, 0)"),
        ("a device node", "call(133, 0, 0o020666, 0x103)"),
    ],
)
async def test_a_dangerous_system_call_is_denied(boot: Boot, name: str, call: str) -> None:
    guest = await boot()

    answer = await guest.run(f"{SYSCALL}\nanswer = {call}")

    assert answer == errno.EPERM, name


async def test_clone3_is_as_if_the_kernel_had_none(boot: Boot) -> None:
    guest = await boot()

    answer = await guest.run(f"{SYSCALL}\nanswer = call(435, 0, 0)")

    assert answer == errno.ENOSYS


async def test_a_call_through_another_architecture_ends_the_process(boot: Boot) -> None:
    guest = await boot()

    answer = await guest.run("""
import ctypes, mmap, os
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, 20 (getpid of 32 bit); int 0x80; ret
child = os.fork()
if child == 0:
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    os._exit(0)
answer = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
""")

    assert answer == -31  # SIGSYS


async def test_a_function_has_no_capability_and_no_way_up(boot: Boot) -> None:
    guest = await boot()

    status = await guest.run("""
answer = dict(line.rstrip("\\n").split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
""")
    setuid = await guest.run("import os; os.setuid(0)")
    chown = await guest.run("import os; open('/tmp/f', 'w'); os.chown('/tmp/f', 0, 0)")

    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"] == status["Gid"] == "1000\t1000\t1000\t1000"
    assert status["Groups"].strip() == ""
    assert setuid == chown == ["PermissionError", errno.EPERM]


async def test_signal_handlers_umask_and_working_directory_are_fresh(boot: Boot) -> None:
    guest = await boot()

    answer = await guest.run("""
import os, subprocess
status = dict(line.rstrip("\\n").split(":\\t", 1) for line in open("/proc/1/status") if ":\\t" in line)
# The C library keeps 32 and 33 to itself: what the server's own parent did to them cannot be undone.
answer = [int(status["SigIgn"], 16) & 0x7FFFFFFF, int(status["SigBlk"], 16), os.umask(0), os.getcwd()]
""")

    assert answer == [0, 0, 0o022, "/code"]


async def test_the_runtimes_program_cannot_be_overwritten(boot: Boot) -> None:
    guest = await boot()

    answers = [
        await guest.run(f"import os; os.open({path!r}, os.O_{flags}); answer = 'opened'")
        for path in ("/proc/self/exe", "/proc/1/exe", "/usr/bin/sh")
        for flags in ("WRONLY", "RDWR | os.O_TRUNC")
    ]

    assert "opened" not in answers


async def test_a_function_sees_no_processes_files_or_sockets_of_another(boot: Boot) -> None:
    one, other = await boot(), await boot()
    await one.run("""
import os, socket
open("/tmp/mine", "w").write("x"); open("/dev/shm/mine", "w").write("x")
listening = socket.socket(socket.AF_UNIX); listening.bind("\\0mine"); listening.listen()
import builtins; builtins.kept = listening
os.system("cat <&3 &")
""")

    files = await other.run("import os; answer = os.listdir('/tmp') + os.listdir('/dev/shm')")
    pids = await other.run("import os; answer = sorted(int(p) for p in os.listdir('/proc') if p.isdigit())")
    reached = await other.run("import socket; socket.socket(socket.AF_UNIX).connect('\\0mine'); answer = 1")

    assert files == []
    assert pids == [1, 2]
    assert reached == ["ConnectionRefusedError", errno.ECONNREFUSED]


async def test_two_sandboxes_share_no_uid_of_the_host(boot: Boot) -> None:
    one, other = await boot(), await boot()

    uids = {owner_of_process(guest.sandbox.pid or 0) for guest in (one, other)}

    assert uids == {1_001_000, 1_001_000 + 65_536}


async def test_nothing_goes_out_and_names_fail_cleanly(boot: Boot) -> None:
    guest = await boot()

    loopback = await guest.run("""
import socket
listening = socket.create_server(("127.0.0.1", 0))
socket.create_connection(listening.getsockname(), 2).close()
answer = "reached"
""")
    outside = await guest.run("import socket; socket.create_connection(('1.1.1.1', 53), 2); answer = 1")
    name = await guest.run("import socket; socket.getaddrinfo('example.com', 80); answer = 1")
    interfaces = await guest.run("answer = [l.split(':')[0].strip() for l in open('/proc/net/dev')][2:]")

    assert loopback == "reached"
    assert outside == ["OSError", errno.ENETUNREACH]
    assert name[0] == "gaierror"
    assert interfaces == ["lo"]


async def test_links_named_like_devices_in_the_code_create_nothing_on_the_host(
    boot: Boot, site: Site
) -> None:
    folder = site.code_root / ("d" * 64)
    folder.mkdir()
    trap = site.data / "trap"
    for name in ("dev", "proc", "console", "null"):
        (folder / name).symlink_to(trap)

    for writable in (False, True):
        guest = await boot(folder="d" * 64, writable=writable)
        answer = await guest.run("import os; answer = sorted(os.listdir('/code'))")
        assert answer == ["console", "dev", "null", "proc"]

    assert not trap.exists()


async def test_a_link_in_the_place_of_a_code_folder_is_not_followed(boot: Boot, site: Site) -> None:
    (site.code_root / ("e" * 64)).symlink_to("/etc")

    for writable in (False, True):
        guest = await boot(limits=None)
        with pytest.raises(PlatformError):
            await guest.sandbox.assign(Code(site.code_root / ("e" * 64), writable), LIMITS)
        assert (await guest.sandbox.ended()).signal == 9
