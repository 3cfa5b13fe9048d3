"""The blob store: content under its SHA-256, per account, stored once.

Owns chunks and manifests. Does not know what refers to a blob; who deletes must know that nothing does.

A blob of one chunk is one message, `accounts.<account>.blob.<sha256>.manifest`, with the content in it. A
larger one is chunks `....0`, `....1`, ... and then the manifest, empty, which says how many: without it there
is no blob. Every subject takes one message only.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from hashlib import sha256
from pathlib import Path
from weakref import WeakValueDictionary

from stoker.backbone.connection import Message
from stoker.backbone.erasure import Erasure
from stoker.backbone.errors import BlobDamaged, BlobMissing
from stoker.backbone.guard import StoreGuard
from stoker.backbone.jetstream import Ack, JetStream, Refused, Stored, StreamSpec

CHUNK_BYTES = 512 * 1024
WINDOW = 8
"""Chunks in flight: 4 MiB (findings: eight direct gets at a time give 336 MB/s)."""
IN_THREAD_BYTES = 256 * 1024
"""Content above this is hashed in a thread: 0.2 ms of the event loop is what a call takes in all."""
ROUNDS_MAX = 8
ROUND_S = 0.02
"""What a store waits for a delete of another process to end, a little longer each time."""
SIZE, CHUNKS = "Stoker-Size", "Stoker-Chunks"

_ACCOUNT = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class BlobStore:
    """Content by digest. Call `open` first."""

    def __init__(
        self,
        jetstream: JetStream,
        guard: StoreGuard,
        *,
        spool_dir: Path,
        stream: str = "BLOBS",
        replicas: int = 1,
    ) -> None:
        self._jetstream = jetstream
        self._guard = guard
        self._spool_dir = spool_dir
        self._spec = StreamSpec(stream, ("accounts.*.blob.>",), replicas=replicas, write_once=True)
        self._erasure = Erasure(jetstream, stream)
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self._spec.name

    async def open(self) -> None:
        """Make the stream and the spool directory if they never were.

        Raises StoreDamaged if the stream has vanished.
        """
        self._spool_dir.mkdir(mode=0o700, exist_ok=True)
        await self._guard.open_stream(self._jetstream, self._spec)

    async def put(self, account: str, content: bytes) -> str:
        """Return the digest once the content is stored for good. Cheap if it is already.

        Raises StorageFull, Unavailable.
        """
        digest = await _digest_of(content)

        async def read(start: int) -> bytes:
            return content[start : start + CHUNK_BYTES]

        await self._store(account, digest, len(content), read)
        return digest

    async def put_stream(self, account: str, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
        """Return (digest, size) once all that `chunks` yields is stored for good.

        Holds some chunks in memory, the rest in an unnamed file of the spool directory. Raises as `put`, and
        what `chunks` raises; nothing is stored then.
        """
        hashed, size, buffer = sha256(), 0, bytearray()
        with tempfile.TemporaryFile(dir=self._spool_dir, buffering=0) as spool:
            descriptor = spool.fileno()

            def spill(content: bytes, start: int) -> None:
                hashed.update(content)
                view = memoryview(content)
                while view:
                    written = os.pwrite(descriptor, view, start)
                    view, start = view[written:], start + written

            async for chunk in chunks:
                buffer += chunk
                if len(buffer) > CHUNK_BYTES:
                    await asyncio.to_thread(spill, bytes(buffer), size)
                    size += len(buffer)
                    buffer.clear()
            if not size:
                content = bytes(buffer)
                return await self.put(account, content), len(content)
            await asyncio.to_thread(spill, bytes(buffer), size)
            size += len(buffer)

            async def read(start: int) -> bytes:
                return await asyncio.to_thread(os.pread, descriptor, CHUNK_BYTES, start)

            digest = hashed.hexdigest()
            await self._store(account, digest, size, read)
        return digest, size

    async def get(self, account: str, digest: str) -> bytes:
        """Return the content, which fits its digest. Raises BlobMissing, BlobDamaged, Unavailable."""
        manifest = await self._manifest(account, digest)
        _, chunks = _described(manifest, digest)
        if not chunks:
            content = manifest.data
        else:
            parts: list[bytes] = [b""] * chunks

            async def fetch(number: int) -> None:
                parts[number] = await self._chunk(account, digest, number, chunks)

            await _windowed(fetch, range(chunks))
            content = b"".join(parts)
        if await _digest_of(content) != digest:
            raise BlobDamaged(f"blob {digest} is stored with another content")
        return content

    async def read(self, account: str, digest: str) -> AsyncIterator[bytes]:
        """Yield the content in pieces of CHUNK_BYTES at most. Raises as `get`, also after the last."""
        manifest = await self._manifest(account, digest)
        _, chunks = _described(manifest, digest)
        if not chunks:
            yield await self.get(account, digest)
            return
        hashed = sha256()
        for number in range(chunks):
            piece = await self._chunk(account, digest, number, chunks)
            await asyncio.to_thread(hashed.update, piece)
            yield piece
        if hashed.hexdigest() != digest:
            raise BlobDamaged(f"blob {digest} is stored with another content")

    async def check(self, account: str, digest: str) -> int:
        """Return the size in bytes, once all of the content is read and fits its digest. Raises as `get`."""
        return len(await self.get(account, digest))

    async def exists(self, account: str, digest: str) -> bool:
        """Tell whether a blob is stored under the digest."""
        return bool(await self._subjects(_subject(account, digest, "manifest")))

    async def list(self, account: str | None = None) -> set[tuple[str, str]]:
        """Return (account, digest) of all blobs, or of one account's."""
        found = await self._subjects(f"accounts.{_account(account) if account else '*'}.blob.*.manifest")
        return {(tokens[1], tokens[3]) for tokens in (subject.split(".") for subject in found)}

    async def delete(self, account: str, digest: str) -> None:
        """Return once the blob is gone, off the disk too but for what `Erasure` leaves for later. Harmless if
        there is none.

        The manifest goes first: what is half deleted when the power goes is no blob any more.
        """
        async with self._alone(account, digest):
            await self._purge(account, digest)

    def subject(self, account: str, digest: str) -> str:
        """Return the subject that all subjects of a blob begin with."""
        return f"accounts.{_account(account)}.blob.{_digest(digest)}"

    async def _store(
        self, account: str, digest: str, size: int, read: Callable[[int], Awaitable[bytes]]
    ) -> None:
        store = self._store_small if size <= CHUNK_BYTES else self._store_large
        async with self._alone(account, digest):
            # A delete of another process may come between our writes; within this one it cannot.
            for attempt in range(1, ROUNDS_MAX + 1):
                if await store(account, digest, size, read):
                    return
                await asyncio.sleep(ROUND_S * attempt)
            # Without its manifest it is no blob: half of one must not look like a whole one.
            await self._jetstream.api(
                f"STREAM.PURGE.{self.stream}", {"filter": _subject(account, digest, "manifest")}
            )
        raise BlobMissing(f"blob {digest} was deleted while it was stored", retry_after_s=1)

    async def _store_small(
        self, account: str, digest: str, size: int, read: Callable[[int], Awaitable[bytes]]
    ) -> bool:
        """Store it as one message; tell whether it is stored."""
        subject, content = _subject(account, digest, "manifest"), await read(0)
        if await self._publish(subject, content, {SIZE: str(size), CHUNKS: "0"}):
            return True
        stored = await self._jetstream.last_of(self.stream, subject)
        if stored is not None and stored.data == content:
            return True
        await self._purge(account, digest)  # what is there is damaged, and we have it whole
        return False

    async def _store_large(
        self, account: str, digest: str, size: int, read: Callable[[int], Awaitable[bytes]]
    ) -> bool:
        """Store the chunks that are not there yet, then the manifest; tell whether all of it is there."""
        chunks = -(-size // CHUNK_BYTES)
        whole = {_subject(account, digest, name) for name in (*map(str, range(chunks)), "manifest")}
        stored = await self._subjects(f"{self.subject(account, digest)}.>")
        if stored >= whole:
            return True

        async def write(number: int) -> None:
            subject = _subject(account, digest, str(number))
            if subject not in stored:
                await self._publish(subject, await read(number * CHUNK_BYTES), {})

        await _windowed(write, range(chunks))
        manifest = {SIZE: str(size), CHUNKS: str(chunks)}
        await self._publish(_subject(account, digest, "manifest"), b"", manifest)
        return await self._subjects(f"{self.subject(account, digest)}.>") >= whole

    async def _publish(self, subject: str, content: bytes, headers: dict[str, str]) -> Ack | None:
        """Store one message; None if the subject has one already.

        No message id: the subject itself takes only one, and an id would make the server forget a content
        that is stored again within two minutes of its deletion.
        """
        try:
            return await self._jetstream.publish(
                Message(subject, content, {"Nats-Expected-Stream": self.stream, **headers})
            )
        except Refused as refusal:
            if refusal.subject_taken:
                return None
            raise

    async def _manifest(self, account: str, digest: str) -> Stored:
        manifest = await self._jetstream.last_of(self.stream, _subject(account, digest, "manifest"))
        if manifest is None:
            raise BlobMissing(f"blob {digest} is not stored")
        return manifest

    async def _chunk(self, account: str, digest: str, number: int, chunks: int) -> bytes:
        stored = await self._jetstream.last_of(self.stream, _subject(account, digest, str(number)))
        if stored is None:
            raise BlobMissing(f"blob {digest} lacks chunk {number} of {chunks}")
        return stored.data

    async def _purge(self, account: str, digest: str) -> None:
        for last in ("manifest", ">"):
            pattern = f"{self.subject(account, digest)}.{last}"
            for subject in sorted(await self._subjects(pattern)):
                stored = await self._jetstream.last_of(self.stream, subject)
                if stored is not None:
                    await self._erasure.erase([stored.sequence])  # a purge leaves the bytes on the disk
            await self._jetstream.api(f"STREAM.PURGE.{self.stream}", {"filter": pattern})

    async def _subjects(self, pattern: str) -> set[str]:
        """Return the subjects of stored messages; the server gives them page by page."""
        found: set[str] = set()
        while True:
            info = await self._jetstream.api(
                f"STREAM.INFO.{self.stream}", {"subjects_filter": pattern, "offset": len(found)}
            )
            page = info["state"].get("subjects") or {}
            found |= page.keys()
            if not page or len(found) >= info.get("total", 0):
                return found

    def _alone(self, account: str, digest: str) -> asyncio.Lock:
        key = (account, digest)
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock


async def _windowed(work: Callable[[int], Awaitable[None]], numbers: Iterable[int]) -> None:
    """Do `work` for all numbers, some at a time; the first error ends it."""
    queue = iter(numbers)

    async def worker() -> None:
        for number in queue:  # shared: each takes the next one
            await work(number)

    tasks = [asyncio.create_task(worker(), name="blob-window") for _ in range(WINDOW)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _described(manifest: Stored, digest: str) -> tuple[int, int]:
    """Return (size, chunks) as the manifest says."""
    try:
        size, chunks = int(manifest.headers[SIZE]), int(manifest.headers[CHUNKS])
    except (KeyError, ValueError):
        raise BlobDamaged(f"blob {digest} has a manifest that cannot be read") from None
    if chunks != (0 if size <= CHUNK_BYTES else -(-size // CHUNK_BYTES)):
        raise BlobDamaged(f"blob {digest} has a manifest that contradicts itself")
    return size, chunks


async def _digest_of(content: bytes) -> str:
    if len(content) <= IN_THREAD_BYTES:
        return sha256(content).hexdigest()
    return (await asyncio.to_thread(sha256, content)).hexdigest()


def _subject(account: str, digest: str, last: str) -> str:
    return f"accounts.{_account(account)}.blob.{_digest(digest)}.{last}"


def _account(account: str) -> str:
    if not _ACCOUNT.match(account):
        raise ValueError(f"{account!r} cannot stand in a subject")
    return account


def _digest(digest: str) -> str:
    if not _DIGEST.match(digest):
        raise ValueError(f"{digest!r} is no SHA-256 in hexadecimal")
    return digest
