"""Whether what is acknowledged is on the disk: the data directory's file system, nats-server, free space.

Asks the kernel itself which pages of a file are not written yet (`cachestat`, Linux 6.5). Does not know
sandboxes.
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stoker.app.doctor.finding import Check, Finding
from stoker.backbone.connection import Connection, Message
from stoker.backbone.disk import RESERVE_BYTES, DiskReserve
from stoker.backbone.embedded import EmbeddedServer
from stoker.backbone.jetstream import JetStream, StreamSpec
from stoker.model.limits import MIB

AREA = "durability"
_WRITES = 20
_IN_MEMORY = ("tmpfs", "ramfs")
_CARELESS = ("nobarrier", "barrier=0", "volatile")
"""Mount options with which an fsync does not reach the disk."""
_CACHESTAT = 451
"""Of every architecture."""
_CONFIG = "sync_interval"


@dataclass(frozen=True, slots=True)
class FileSystem:
    """What a directory lies on."""

    kind: str
    options: tuple[str, ...]


def file_system_of(folder: Path, mountinfo: str) -> FileSystem | None:
    """Return what `folder`, a real path, lies on, by the text of /proc/self/mountinfo."""
    found: tuple[int, FileSystem] | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, of_all) = left.split(" "), right.split(" ", 2)
        point = Path(fields[4].encode().decode("unicode_escape"))
        if folder.is_relative_to(point) and (found is None or len(point.parts) >= found[0]):
            options = (*fields[5].split(","), *of_all.split(","))
            found = len(point.parts), FileSystem(kind, options)
    return found[1] if found else None


def unwritten_pages(paths: Iterable[Path]) -> int | None:
    """Return how many pages of files are not on their disk yet; None if this kernel does not tell."""
    total = 0
    for path in paths:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            pages = _unwritten(handle)
        finally:
            os.close(handle)
        if pages is None:
            return None
        total += pages
    return total


def _unwritten(handle: int) -> int | None:
    whole = (ctypes.c_uint64 * 2)(0, 0)
    counts = (ctypes.c_uint64 * 5)()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    if libc.syscall(ctypes.c_long(_CACHESTAT), handle, ctypes.byref(whole), ctypes.byref(counts), 0) != 0:
        return None
    return int(counts[1]) + int(counts[2])  # dirty, and on its way


def disk_writes(folder: Path) -> Finding:
    """Write to a file in `folder` and have it stored, a few times; `folder` is where the data will be."""
    check = Check(AREA, "fsync", "--data DIR on a local disk with a journal, such as ext4 or xfs")
    system = file_system_of(folder.resolve(), Path("/proc/self/mountinfo").read_text())
    kind = system.kind if system else "an unknown file system"
    path, took_s, left = folder / "written", [], 0
    try:
        handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return check.weak(f"{kind} refuses: {error.strerror}")
    try:
        for _ in range(_WRITES):
            os.write(handle, bytes(4096))
            began = time.perf_counter()
            os.fdatasync(handle)
            took_s.append(time.perf_counter() - began)
            left += _unwritten(handle) or 0
    except OSError as error:
        return check.weak(f"{kind} refuses: {error.strerror}")
    finally:
        os.close(handle)
        path.unlink()
    said = f"{kind}: one fdatasync takes {statistics.median(took_s) * 1000:.2f} ms"
    faults = []
    if kind in _IN_MEMORY:
        faults.append("it is in memory, and gone with the power")
    if system and (careless := set(_CARELESS).intersection(system.options)):
        faults.append(f"mounted with {', '.join(sorted(careless))}")
    if left:
        faults.append("pages are left unwritten after it")
    return check.judged([f"{said}, but {fault}" for fault in faults], said)


async def store_writes(folder: Path) -> Finding:
    """Start the embedded server in `folder`, and look at what is on the disk when it acknowledges."""
    check = Check(
        AREA, "nats-server", "pip install --force-reinstall stoker: its nats-server is not as it came"
    )
    told = _tells_unwritten(folder)
    server = EmbeddedServer(folder / "nats")
    took_s, left = [], 0
    await server.start()
    try:
        in_force = _config_of(server.pid)
        async with Connection.to_embedded(server, name="stoker doctor") as connection:
            stream = JetStream(connection)
            await stream.ensure_stream(StreamSpec("DOCTOR", ("doctor.>",)), create=True)
            for number in range(_WRITES):
                began = time.perf_counter()
                await stream.publish(Message(f"doctor.{number}", bytes(1024)))
                took_s.append(time.perf_counter() - began)
                if told:
                    left += unwritten_pages((folder / "nats").rglob("*.blk")) or 0
    finally:
        await server.stop()
    faults = []
    if in_force != "always":
        faults.append(f"{_CONFIG} is {in_force}, not always")
    if left:
        faults.append("it acknowledged what was not on the disk yet")
    seen = "acknowledges what is on the disk" if told else f"{_CONFIG} is always"
    return check.judged(faults, f"{seen}; a write in {statistics.median(took_s) * 1000:.2f} ms")


def _tells_unwritten(folder: Path) -> bool:
    """Whether the kernel tells a page that is not written yet from one that is."""
    path = folder / "unwritten"
    with path.open("wb", buffering=0) as stream:
        stream.write(bytes(4096))
        before = _unwritten(stream.fileno())
        os.fdatasync(stream.fileno())
        after = _unwritten(stream.fileno())
    path.unlink()
    return bool(before) and after == 0


def _config_of(pid: int | None) -> str:
    """Return how often a running server syncs, by the file that it was started with."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    settings = json.loads(Path(words[words.index("-c") + 1]).read_text())
    return str(settings.get("jetstream", {}).get(_CONFIG, "the default"))


def free_space(folder: Path) -> Finding:
    """Look at the space that is free, and at the reserve that is kept of it."""
    check = Check(AREA, "free disk", "free some space, or --data DIR on another disk")
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    said = f"{free / (1 << 30):.1f} GiB; {RESERVE_BYTES // MIB} MiB are kept in reserve"
    return (
        check.weak(f"{said}, so nothing new is accepted")
        if DiskReserve(folder).touched
        else check.holds(said)
    )
