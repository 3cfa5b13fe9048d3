"""The OCI configuration of one sandbox, as a value.

Owns what a program sees: namespaces, user, mounts, limits at boot, masked files. Everything in it is
ours: no user chooses a root file system, working directory, mount or annotation (old runtimes have
holes there). Does not know how the configuration is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stoker.sandbox import seccomp

UID_BASE = 1_000_000
UIDS = 65_536
"""Host uids a sandbox slot owns, from UID_BASE on; no two living sandboxes share one."""
USER = 1000
"""Of the program, inside; no capability whatever."""
HOSTNAME = "fn"
CODE = "/code"

BOOT_MEMORY_BYTES = 4 << 30
"""Before a sandbox is given to a function; the runtime's own boot never comes near it."""
BOOT_PROCESSES = 512
BOOT_CPU_SHARES = 1024
"""While the OCI runtime sets up: it holds locks of the kernel that others wait for. A spare gets the
lowest weight right after."""
OOM_SCORE = 500
"""Sandboxes go before the server, NATS and the supervisor when the whole machine is out of memory."""
FILES_MAX = 1024
TMP_FILES_MAX = 16_384
SHM_BYTES_MAX = 16 << 20

_NAMESPACES = ("pid", "mount", "ipc", "uts", "network", "cgroup", "user")
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/bootconfig",
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/diskstats",
    "/proc/driver",
    "/proc/fb",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/modules",
    "/proc/partitions",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/softirqs",
    "/proc/swaps",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/version",
    "/proc/vmallocinfo",
    "/sys/firmware",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Berth:
    """Where one sandbox lies on the host."""

    rootfs: str
    code: str
    """Directory bound at /code; what is mounted on it later shows inside."""
    cgroup: str
    """Path within every hierarchy."""
    slot: int


def host_uid(slot: int, uid: int = USER) -> int:
    """Return the host's uid (and gid) of a sandbox's `uid`."""
    return UID_BASE + slot * UIDS + uid


def oci_config(
    argv: tuple[str, ...],
    env: tuple[tuple[str, str], ...],
    berth: Berth,
    *,
    tmp_bytes_max: int,
    swap_limit: bool,
) -> dict[str, Any]:
    """Return config.json. `swap_limit`: whether this machine can account for swap."""
    memory = {"limit": BOOT_MEMORY_BYTES}
    if swap_limit:
        memory["swap"] = BOOT_MEMORY_BYTES
    ids = [{"containerID": 0, "hostID": host_uid(berth.slot, 0), "size": UIDS}]
    nothing: list[str] = []
    kinds = ("bounding", "effective", "inheritable", "permitted", "ambient")
    return {
        "ociVersion": "1.0.2",
        "root": {"path": berth.rootfs, "readonly": True},
        "hostname": HOSTNAME,
        "process": {
            "terminal": False,
            "user": {"uid": USER, "gid": USER, "umask": 0o022},
            "cwd": CODE,
            "noNewPrivileges": True,
            "args": list(argv),
            "env": [f"{name}={value}" for name, value in env],
            "capabilities": {kind: nothing for kind in kinds},
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "hard": FILES_MAX, "soft": FILES_MAX},
                {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
            ],
            "oomScoreAdj": OOM_SCORE,
        },
        "mounts": _mounts(berth.code, tmp_bytes_max),
        "linux": {
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "rootfsPropagation": "rslave",
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
            "uidMappings": ids,
            "gidMappings": ids,
            "cgroupsPath": berth.cgroup,
            "resources": {
                "memory": memory,
                "pids": {"limit": BOOT_PROCESSES},
                "cpu": {"shares": BOOT_CPU_SHARES},
            },
            "seccomp": seccomp.profile(),
        },
    }


def _mounts(code: str, tmp_bytes_max: int) -> list[dict[str, Any]]:
    safe = ["nosuid", "nodev"]
    return [
        _mount("/proc", "proc", "proc", [*safe, "noexec"]),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "noexec", "strictatime", "mode=755", "size=64k"]),
        _mount("/dev/shm", "tmpfs", "shm", [*safe, "noexec", "mode=1777", f"size={SHM_BYTES_MAX}"]),
        _mount(
            "/tmp",
            "tmpfs",
            "tmpfs",
            [*safe, "mode=1777", f"size={tmp_bytes_max}", f"nr_inodes={TMP_FILES_MAX}"],
        ),
        # A slave of the host's mount: what the supervisor mounts there at `assign` shows up inside.
        _mount(CODE, "bind", code, ["rbind", "rslave", "ro", *safe]),
    ]


def _mount(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": options}
