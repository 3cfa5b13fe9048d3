"""The store's guard: it tells a new store from one that was lost, cut short or damaged.

Owns what is kept outside NATS for that: the lock of the data directory, `store.json` and the
high-water marks. Does not know what the events and blobs mean.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from stoker.backbone.errors import DataDirectoryInUse, StoreDamaged
from stoker.backbone.jetstream import JetStream, StreamSpec
from stoker.backbone.mark import HighWaterMark, MarkUnreadable
from stoker.backbone.store_files import StoreFiles
from stoker.model.errors import PlatformError

FORMAT = 1
_OWNER = "stoker.store"
"""The stream's metadata entry that holds the id of the store it belongs to."""
WAY_OUT = (
    "To go on, move the data directory aside; then restore it from a backup (stoker restore FILE --data DIR),"
    " or start empty."
)
CHECKS_AT_ONCE = 8


class ReadableBlobs(Protocol):
    """What the check of the blobs needs of the blob store."""

    @property
    def stream(self) -> str: ...
    async def list(self, account: str | None = None) -> set[tuple[str, str]]: ...
    async def check(self, account: str, digest: str) -> int: ...
    def subject(self, account: str, digest: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """What `store.json` says."""

    store_id: str
    embedded: bool
    streams: tuple[str, ...] = ()
    """Streams that were made, and so must be there."""

    def text(self) -> str:
        """Return the file's content."""
        return (
            json.dumps(
                {
                    "format": FORMAT,
                    "store": self.store_id,
                    "backbone": "embedded" if self.embedded else "external",
                    "streams": list(self.streams),
                },
                indent=2,
            )
            + "\n"
        )


class StoreGuard:
    """Opened before nats-server is started, closed after it has ended. Use `StoreGuard.open`."""

    def __init__(self, data_dir: Path, *, embedded: bool) -> None:
        self._data_dir = data_dir
        self._files = StoreFiles(data_dir / "nats")
        self._lock = -1
        self._identity = Identity(store_id=uuid4().hex, embedded=embedded)
        self.mark = HighWaterMark(self._mark_path, self._identity.store_id)
        """Of the streams that have none of their own."""
        self._stream_marks: dict[str, HighWaterMark] = {}
        self.is_new = False
        """There was no store here before."""

    @classmethod
    def open(cls, data_dir: Path, *, embedded: bool = True) -> StoreGuard:
        """Lock the data directory and look at what is in it, before any server runs on it.

        Raises DataDirectoryInUse, and StoreDamaged where something is missing that must be there. Blocks
        for some milliseconds; to be called before serving.
        """
        guard = cls(data_dir.absolute(), embedded=embedded)
        guard._take_lock()
        try:
            guard._look()
        except BaseException:
            guard._release_lock()
            raise
        return guard

    @property
    def store_id(self) -> str:
        """The id of this store, for as long as it lives."""
        return self._identity.store_id

    async def close(self) -> None:
        """Put the marks on disk and give the data directory free. Harmless when repeated."""
        for mark in (self.mark, *self._stream_marks.values()):
            await mark.close()
        self._release_lock()

    async def open_stream(self, jetstream: JetStream, spec: StreamSpec) -> HighWaterMark:
        """Return once the stream is there and is ours; it is made only if it never was before.

        Returns the high-water mark to hold it against, which the guard closes. Raises StoreDamaged if the
        stream has vanished or belongs to another store, or its mark is gone.
        """
        known = spec.name in self._identity.streams
        spec = replace(spec, metadata={**spec.metadata, _OWNER: self.store_id})
        info = await jetstream.ensure_stream(spec, create=not known)
        if info is None:
            raise self.damaged(self._files.of_stream(spec.name), "holds no readable stream", spec.name)
        owner = (info["config"].get("metadata") or {}).get(_OWNER)
        if owner != self.store_id:
            # Another gateway of the same cluster made it: its store is ours from now on.
            if self._identity.embedded or self._identity.streams or not owner:
                raise self.damaged(
                    self._files.of_stream(spec.name), f"belongs to another store ({owner})", spec.name
                )
            await self._join(owner)
        # A new mark comes before the note that the stream exists: what is noted has its mark.
        mark = self._stream_mark(spec.name, create=not known) if spec.marked else self.mark
        if not known:
            self._write(replace(self._identity, streams=(*self._identity.streams, spec.name)))
        return mark

    def damaged_event(self, stream: str, sequence: int, what: str, *, affected: int) -> StoreDamaged:
        """Return the error for an event that is missing or bad; it names the block where that can be told."""
        return self.damaged(
            self._files.block_with_sequence(stream, sequence), f"{what} ({affected} in all)", stream
        )

    def damaged(self, path: Path, what: str, stream: str) -> StoreDamaged:
        """Return the error that names the place and the way out."""
        place = str(path) if self._identity.embedded else f"the stream {stream} of the NATS servers"
        return StoreDamaged(f"the store is damaged: {place} {what}. {WAY_OUT}", hint=WAY_OUT)

    async def verify(
        self,
        blobs: ReadableBlobs,
        referenced: Iterable[tuple[str, str]],
        *,
        bytes_max: int,
        on_damage: Callable[[str, str, str], None],
    ) -> asyncio.Task[None]:
        """Return when every referenced (account, digest) is known to be there, and is read up to `bytes_max`.

        Raises StoreDamaged if one is not. The rest is read by the returned task, which gives `on_damage` the
        account, the digest and what is wrong; the caller owns it.
        """
        wanted = sorted(set(referenced))
        missing = sorted(set(wanted) - await blobs.list()) if wanted else []
        if missing:
            raise self.damaged(
                self._files.of_stream(blobs.stream),
                f"lacks {len(missing)} of {len(wanted)} blobs, the first is {missing[0][1]}",
                blobs.stream,
            )
        queue = iter(wanted)
        bad = await _check(blobs, queue, bytes_max=bytes_max)
        if bad:
            (account, digest), error = min(bad.items())
            raise self.damaged(
                self._files.block_with_subject(blobs.stream, blobs.subject(account, digest)),
                f"holds bad blobs, {len(bad)} of {len(wanted)}: {error}",
                blobs.stream,
            )

        async def rest() -> None:
            for account, digest in queue:
                for error in (await _check(blobs, iter([(account, digest)]), bytes_max=1)).values():
                    on_damage(account, digest, error)

        return asyncio.create_task(rest(), name="blob-check")

    @property
    def _identity_path(self) -> Path:
        return self._data_dir / "store.json"

    @property
    def _mark_path(self) -> Path:
        return self._data_dir / "store.mark"

    def _stream_mark(self, stream: str, *, create: bool) -> HighWaterMark:
        mark = self._stream_marks.get(stream)
        if mark is None:
            mark = HighWaterMark(self._stream_mark_path(stream), self.store_id)
            if create:
                mark.create()
            else:
                self._open_mark(mark)
            self._stream_marks[stream] = mark
        return mark

    def _stream_mark_path(self, stream: str) -> Path:
        return self._data_dir / f"{stream.lower()}.mark"

    def _open_mark(self, mark: HighWaterMark) -> None:
        try:
            mark.open()
        except FileNotFoundError:
            raise self.damaged(mark.path, "is gone", "") from None
        except MarkUnreadable:
            raise self.damaged(mark.path, "is damaged", "") from None

    def _take_lock(self) -> None:
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            self._release_lock()
            raise DataDirectoryInUse(
                f"the data directory {self._data_dir} is used by another server (pid {pid})"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _release_lock(self) -> None:
        # The file stays: one that is removed could be locked by two, each with its own.
        descriptor, self._lock = self._lock, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _look(self) -> None:
        try:
            text = self._identity_path.read_text()
        except FileNotFoundError:
            for path in (self._files.store, self._mark_path):
                if path.exists():
                    raise self.damaged(
                        self._identity_path, f"is gone, though {path} shows that there was a store", ""
                    ) from None
            self.is_new = True
            self.mark.create()
            self._write(self._identity)
            return
        self._identity = self._parse(text)
        self.mark = HighWaterMark(self._mark_path, self.store_id)
        self._open_mark(self.mark)
        if self._identity.embedded:
            for stream in self._identity.streams:
                self._look_at(stream)

    def _look_at(self, stream: str) -> None:
        marked = self._stream_mark_path(stream).exists()
        mark = self._stream_mark(stream, create=False) if marked else self.mark
        fault = self._files.fault_of(stream, acknowledged=mark.sequence)
        if fault is not None:
            count = f" ({mark.sequence} events were acknowledged)" if mark.sequence else ""
            raise self.damaged(fault[0], fault[1] + count, stream)

    def _parse(self, text: str) -> Identity:
        try:
            content = json.loads(text)
            found = Identity(
                store_id=str(content["store"]),
                embedded=content["backbone"] == "embedded",
                streams=tuple(content["streams"]),
            )
            version = int(content["format"])
        except (ValueError, KeyError, TypeError):
            raise self.damaged(self._identity_path, "is damaged", "") from None
        if version != FORMAT:
            raise StoreDamaged(
                f"{self._identity_path} has format {version}; this stoker knows format {FORMAT}. "
                "Use the stoker that wrote it."
            )
        if found.embedded != self._identity.embedded:
            here, there = ("embedded", "external") if found.embedded else ("external", "embedded")
            raise StoreDamaged(
                f"the data directory {self._data_dir} belongs to a store on the {here} NATS server and "
                f"cannot be used with the {there} one. Start as before (with or without --nats), or use "
                "another --data."
            )
        return found

    async def _join(self, store_id: str) -> None:
        await self.mark.close()
        self.mark = HighWaterMark(self._mark_path, store_id)
        self.mark.create()
        self._write(replace(self._identity, store_id=store_id))

    def _write(self, identity: Identity) -> None:
        """Replace `store.json`, on disk before we go on: what it says must not be behind what is there."""
        scratch = self._identity_path.with_suffix(".json.new")
        with scratch.open("w") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(identity.text())
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(self._identity_path)
        folder = os.open(self._data_dir, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._identity = identity


async def _check(
    blobs: ReadableBlobs, queue: Iterator[tuple[str, str]], *, bytes_max: int
) -> dict[tuple[str, str], str]:
    """Read blobs of the queue until `bytes_max` are read, some at a time; return what is wrong with which."""
    bad: dict[tuple[str, str], str] = {}
    left = bytes_max

    async def worker() -> None:
        nonlocal left
        while left > 0:
            wanted = next(queue, None)
            if wanted is None:
                return
            try:
                left -= await blobs.check(*wanted)
            except PlatformError as error:
                bad[wanted] = error.message

    async with asyncio.TaskGroup() as group:
        for _ in range(CHECKS_AT_ONCE):
            group.create_task(worker())
    return bad
