"""Whether a sandbox keeps its function apart: looked at from inside and from outside.

A guest tries what a hostile function would, in ways that do no harm where they are let. Does not know limits.
"""

from __future__ import annotations

import os
import platform
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stoker.app.doctor.finding import Check, Finding
from stoker.app.doctor.guest import Guest, NoAnswer

AREA = "isolation"
REPORT = "report this with the kernel's version; run no code of strangers here"
NAMESPACES = ("pid", "mnt", "ipc", "uts", "net", "cgroup", "user")
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_FILTERED = 2
_CALLS = {
    "mount": (165, 40, "0, 0, 0, 0, 0"),
    "unshare": (272, 97, "0x10000000"),
    "setns": (308, 268, "3, 0"),
    "ptrace": (101, 117, "0, 0, 0, 0"),
    "bpf": (321, 280, "0, 0, 0"),
    "keyctl": (250, 219, "0, -3, 0, 0, 0"),
    "io_uring": (425, 425, "8, 0"),
    "userfaultfd": (323, 282, "1"),
    "perf_event": (298, 241, "0, 0, -1, -1, 0"),
}
"""What a function has no business with: its numbers on x86_64 and aarch64, and arguments that do no harm."""
_COLUMNS = {"x86_64": 0, "aarch64": 1}
_CALLING = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    "Return the errno, 0 if it was let: tried in a child, so that nothing stays."
    child = os.fork()
    if child == 0:
        done = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in arguments])
        os._exit(ctypes.get_errno() & 0xFF if done < 0 else 0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""
_SEES = """
import os, socket
def refused(action, *arguments):
    "Return the errno, 0 if it was let."
    try:
        found = action(*arguments)
    except OSError as error:
        return error.errno
    if isinstance(found, int):
        os.close(found)
    return 0
def setuid():
    child = os.fork()
    if child == 0:
        try:
            os.setuid(0)
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
def reach(family, kind, address):
    with socket.socket(family, kind) as one:
        one.settimeout(2)
        return refused(one.connect, address)
def loopback():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        socket.create_connection(listening.getsockname(), 2).close()
root = os.stat("/")
answer = {
    "status": dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line),
    "setuid": setuid(),
    "read_only": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
    "files": {path: refused(os.open, path, os.O_WRONLY) for path in ("/etc/passwd", "/bin/sh")},
    "folders": {path: refused(os.open, path, os.O_WRONLY | os.O_TMPFILE) for path in ("/", "/etc", "/usr")},
    "root": [root.st_dev, root.st_ino],
    "canary": refused(os.open, CANARY, os.O_RDONLY),
    "pids": sum(name.isdigit() for name in os.listdir("/proc")),
    "interfaces": [line.split(":")[0].strip() for line in open("/proc/net/dev")][2:],
    "outside": reach(socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 9)),
    "host": reach(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", PORT)),
    "abstract": reach(socket.AF_UNIX, socket.SOCK_STREAM, ABSTRACT),
    "loopback": refused(loopback),
}
"""
"""What a function sees and reaches. Nothing is sent to 192.0.2.1, which is nobody's: a datagram socket that
is connected only asks the kernel for a way. No file is written to, none is made that has a name."""
_PIDS_MAX = 4
"""A shell, its child, the runtime, one more."""


@dataclass(frozen=True, slots=True)
class Lures:
    """What lies on the host for a guest to find."""

    canary: Path
    port: int
    """Of loopback, where the doctor listens."""
    abstract: str
    """The name of a local socket that the doctor listens on."""


@contextmanager
def lures(folder: Path) -> Iterator[Lures]:
    """Lay them out until the end."""
    canary = folder / "canary"
    canary.write_text("seen\n")
    name = f"\0stoker-doctor-{secrets.token_hex(6)}"
    with socket.create_server(("127.0.0.1", 0)) as inet, socket.socket(socket.AF_UNIX) as local:
        local.bind(name)
        local.listen()
        yield Lures(canary, inet.getsockname()[1], name)
    canary.unlink()


async def isolation(guest: Guest, lures: Lures, hint: str | None) -> list[Finding]:
    """Return what keeps a guest apart. `hint`: what to do where nothing is meant to."""
    names = f"CANARY = {str(lures.canary)!r}\nPORT = {lures.port}\nABSTRACT = {lures.abstract!r}\n"
    seen = await guest.run(names + _SEES)
    if not isinstance(seen, dict) or "status" not in seen:
        raise NoAnswer(f"the guest could not look: {seen}")
    return [
        namespaces(guest.sandbox.pid, hint),
        privileges(seen, hint),
        await system_calls(guest, seen, hint),
        root_file_system(seen, hint),
        host_files(seen, hint),
        host_processes(seen, hint),
        network(seen, hint),
    ]


def namespaces(pid: int | None, hint: str | None) -> Finding:
    """Compare the namespaces of a process, which may be none of ours, with our own."""
    check = Check(AREA, "namespaces", hint or "a kernel with all namespaces, user namespaces allowed")
    if pid is None:
        return check.untried("the sandbox ended too soon")
    shared = []
    for kind in NAMESPACES:
        try:
            if os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}"):
                shared.append(kind)
        except OSError as error:
            return check.untried(f"/proc/{pid}/ns/{kind}: {error.strerror}")
    return check.judged(
        [f"shares the host's: {', '.join(shared)}"] if shared else [],
        f"{len(NAMESPACES)} of its own: {', '.join(NAMESPACES)}",
    )


def privileges(seen: dict[str, Any], hint: str | None) -> Finding:
    """Judge user and capabilities."""
    status = seen["status"]
    faults = []
    if any(int(status[name], 16) for name in _CAPABILITIES):
        faults.append("it has capabilities")
    if int(status["NoNewPrivs"]) != 1:
        faults.append("new privileges can be had")
    if seen["setuid"] == 0:
        faults.append("it may become root")
    if int(status["Uid"].split()[0]) == 0:
        faults.append("it is root")
    check = Check(AREA, "privileges", hint or REPORT)
    return check.judged(faults, "no capability, no new privileges, no way to root")


async def system_calls(guest: Guest, seen: dict[str, Any], hint: str | None) -> Finding:
    """Try calls that a function has no business with."""
    check = Check(AREA, "system calls", hint or "crun or runc built with seccomp, as `crun --version` shows")
    column = _COLUMNS.get(platform.machine())
    if column is None:
        return check.untried(f"their numbers on {platform.machine()} are not known here", REPORT)
    tries = ", ".join(f"{name!r}: call({call[column]}, {call[2]})" for name, call in _CALLS.items())
    answer = await guest.run(f"{_CALLING}\nanswer = {{{tries}}}")
    if not isinstance(answer, dict) or "mount" not in answer:
        return check.untried(f"the guest could not try: {answer}")
    let = [name for name, number in answer.items() if number != 1]  # EPERM
    faults = [f"let through: {', '.join(let)}"] if let else []
    if int(seen["status"].get("Seccomp", 0)) != _FILTERED:
        faults.append("no seccomp filter")
    return check.judged(faults, f"denied: {', '.join(answer)}")


def root_file_system(seen: dict[str, Any], hint: str | None) -> Finding:
    """Judge what may be written to."""
    tries: dict[str, int] = {**seen["files"], **seen["folders"]}
    faults = [f"{path} can be written to" for path, number in tries.items() if number == 0]
    if not seen["read_only"]:
        faults.append("it is not mounted read-only")
    check = Check(AREA, "root files", hint or REPORT)
    return check.judged(faults, f"read-only; tried {', '.join(tries)}")


def host_files(seen: dict[str, Any], hint: str | None) -> Finding:
    """Judge whether the host's files are there."""
    here = os.stat("/")
    faults = ["its root is the host's"] if seen["root"] == [here.st_dev, here.st_ino] else []
    if seen["canary"] == 0:
        faults.append("a file of the data directory can be read")
    elif seen["canary"] != 2:  # ENOENT
        faults.append("the data directory is there")
    return Check(AREA, "host files", hint or REPORT).judged(faults, "none are there")


def host_processes(seen: dict[str, Any], hint: str | None) -> Finding:
    """Judge how many processes it sees."""
    faults = [f"it sees {seen['pids']} processes"] if seen["pids"] > _PIDS_MAX else []
    return Check(AREA, "host processes", hint or REPORT).judged(faults, "it sees its own alone")


def network(seen: dict[str, Any], hint: str | None) -> Finding:
    """Judge what it reaches."""
    faults = []
    if seen["interfaces"] != ["lo"]:
        faults.append(f"interfaces: {', '.join(seen['interfaces'])}")
    if seen["outside"] == 0:
        faults.append("there is a way out")
    if seen["host"] == 0:
        faults.append("it reaches the host's loopback")
    if seen["abstract"] == 0:
        faults.append("it reaches local sockets of the host")
    if seen["loopback"] != 0:
        faults.append("its own loopback does not work")
    check = Check(AREA, "network", hint or REPORT)
    return check.judged(faults, "its own loopback alone; no way out, none to the host")
