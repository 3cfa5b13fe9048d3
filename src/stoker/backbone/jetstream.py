"""JetStream's requests and refusals: what is stored is acknowledged, what is not is an error of the model.

Owns the server's error numbers and the streams' settings. Does not know what is stored.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any
from uuid import uuid4

import orjson
from nats.aio.msg import Msg

from stoker.backbone.connection import RECONNECT_WAIT_MS, Connection, Message
from stoker.backbone.disk import RESERVE_BYTES, DiskReserve
from stoker.model.errors import PlatformError, StorageFull, Unavailable

BATCH_COUNT_MAX = 1_000
"""The server's own limit for one atomic batch."""
REPLICAS_MAX = 3
"""More servers hold no more copies: a majority of three survives one loss, and each copy costs a write."""


class Code(IntEnum):
    """The server's error numbers that we decide by."""

    TEMPORARILY_UNAVAILABLE = 10008
    NOT_ENABLED_FOR_ACCOUNT = 10039
    NO_LEADER = 10009
    NOT_ENABLED = 10076
    INSUFFICIENT_RESOURCES = 10023
    MEMORY_EXCEEDED = 10028
    STORAGE_EXCEEDED = 10047
    WRONG_LAST_SEQUENCE = 10071
    NO_MESSAGE = 10037
    SEQUENCE_NOT_FOUND = 10043
    DELETE_FAILED = 10057
    STREAM_NOT_FOUND = 10059
    STORE_FAILED = 10077
    SUBJECT_IN_PROCESS = 10164
    BATCH_INCOMPLETE = 10176
    BATCH_HAS_DUPLICATE = 10201


_LATER = {
    Code.TEMPORARILY_UNAVAILABLE,
    Code.NO_LEADER,
    Code.NOT_ENABLED,
    Code.NOT_ENABLED_FOR_ACCOUNT,
    Code.BATCH_INCOMPLETE,
    Code.SUBJECT_IN_PROCESS,
}
"""A server that starts, or has no leader, or has forgotten the first part of a batch, or a cluster that has
not agreed yet on what was written to the subject before: try again."""
_FULL = {Code.INSUFFICIENT_RESOURCES, Code.MEMORY_EXCEEDED, Code.STORAGE_EXCEEDED}


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GONE = {"no message found", "stream store EOF"}


class Refused(PlatformError):
    """The server's own error; for this room only, which knows what each number means."""

    def __init__(self, err_code: int, description: str) -> None:
        super().__init__(f"nats-server refuses: {description} ({err_code})")
        self.err_code = err_code
        self.description = description

    @property
    def subject_taken(self) -> bool:
        """A write-once subject has its message already."""
        return self.err_code == Code.STORE_FAILED and "per subject" in self.description

    @property
    def gone_already(self) -> bool:
        """A message that was to be deleted is not there."""
        return self.err_code == Code.SEQUENCE_NOT_FOUND or (
            self.err_code == Code.DELETE_FAILED and self.description in _GONE
        )


@dataclass(frozen=True, slots=True)
class Ack:
    """The stream has stored a message, or all messages of a batch."""

    sequence: int
    """Of the last one."""
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """One message as the stream has it."""

    subject: str
    sequence: int
    time_ms: int
    """When it was stored, in milliseconds since the epoch."""
    headers: Mapping[str, str]
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What a stream is made of; it drops nothing by itself."""

    name: str
    subjects: tuple[str, ...]
    replicas: int = 1
    write_once: bool = False
    """A subject takes one message, a second one is refused."""
    marked: bool = False
    """It has a high-water mark of its own."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return the server's configuration of the stream."""
        settings: dict[str, Any] = {
            "name": self.name,
            "subjects": list(self.subjects),
            "retention": "limits",
            "storage": "file",
            "discard": "new",  # a limit that is reached refuses; it never drops what was acknowledged
            "num_replicas": self.replicas,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msg_size": -1,
            "max_msgs_per_subject": -1,
            "allow_direct": True,
            "allow_msg_ttl": True,
            "allow_rollup_hdrs": True,
            "allow_atomic": True,
            "metadata": dict(self.metadata),
        }
        if self.write_once:
            settings |= {"max_msgs_per_subject": 1, "discard_new_per_subject": True}
        return settings


class JetStream:
    """Publishing with an acknowledgement, reading by sequence or subject, and JetStream's own API."""

    def __init__(
        self,
        connection: Connection,
        *,
        disk_reserve_bytes: int = RESERVE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.connection = connection
        self._clock = clock
        server = connection.server  # of other servers' disks we know nothing
        self._disk = DiskReserve(server.directory, reserve_bytes=disk_reserve_bytes) if server else None
        self._full = False
        self.writes = 0
        """Messages and batches that were acknowledged so far."""
        self.write_s = 0.0
        """What these took in all, in seconds."""
        self.writes_failed = 0
        """Those of which it is not known whether they are stored."""

    @property
    def healthy(self) -> bool:
        """Tell whether something can be stored just now."""
        return self.unhealthy_reason is None

    @property
    def unhealthy_reason(self) -> str | None:
        """Why nothing can be stored just now, for `/readyz`; None if it can."""
        if self.connection.connected and self._disk is not None:
            self._full = self._disk.touched
        return self.connection.unhealthy_reason or ("the disk is full" if self._full else None)

    @property
    def replicas(self) -> int:
        """How many copies a new stream should have: one a server, at most REPLICAS_MAX."""
        return min(REPLICAS_MAX, self.connection.cluster_size)

    async def publish(self, message: Message, *, reserve: bool = False) -> Ack:
        """Return once the stream has stored it. Give it a message id: it may be sent more than once.

        `reserve` lets it use the disk's reserve. Raises Unavailable, StorageFull, TooLarge, and Refused
        with the server's own number.
        """
        return await self._store(lambda: [message], reserve)

    async def publish_batch(self, messages: Sequence[Message], *, reserve: bool = False) -> Ack:
        """Return once the stream has stored all of them, one after the other; else it has none.

        At most BATCH_COUNT_MAX; each needs a message id. Raises as `publish` does.
        """
        if not 2 <= len(messages) <= BATCH_COUNT_MAX:
            raise ValueError(f"a batch has 2 to {BATCH_COUNT_MAX} messages, not {len(messages)}")

        def batch() -> list[Message]:
            # An id for each attempt: the leftovers of an earlier one must not be completed by this one.
            batch_id = uuid4().hex
            count = len(messages)
            return [
                Message(
                    message.subject,
                    message.data,
                    {
                        **message.headers,
                        "Nats-Batch-Id": batch_id,
                        "Nats-Batch-Sequence": str(number),
                        **({"Nats-Batch-Commit": "1"} if number == count else {}),
                    },
                )
                for number, message in enumerate(messages, 1)
            ]

        return await self._store(batch, reserve)

    async def api(self, verb: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call JetStream's own API, for instance `STREAM.INFO.NAME`. Raises Unavailable, Refused."""
        request = Message(f"$JS.API.{verb}", orjson.dumps(body) if body else b"")
        return await self._call(lambda: [request])

    async def ensure_stream(self, spec: StreamSpec, *, create: bool) -> dict[str, Any] | None:
        """Return the stream's info, having made it if there is none and `create` allows; else None."""
        try:
            return await self.api(f"STREAM.INFO.{spec.name}")
        except Refused as refusal:
            if refusal.err_code != Code.STREAM_NOT_FOUND:
                raise
        return await self.api(f"STREAM.CREATE.{spec.name}", spec.settings()) if create else None

    async def last_of(self, stream: str, subject: str) -> Stored | None:
        """Return the last message of a subject, None if there is none. One round trip where it exists.

        A replica that lags may not have it yet, so absence is what the leader says.
        """
        answer = await self.connection.request(Message(f"$JS.API.DIRECT.GET.{stream}.{subject}"))
        if (answer.headers or {}).get("Status") is None:
            return _stored(answer)
        return await self.get(stream, {"last_by_subj": subject})

    async def at(self, stream: str, sequence: int) -> Stored | None:
        """Return the message at a sequence, None if there is none; absence is what the leader says."""
        answer = await self.connection.request(
            Message(f"$JS.API.DIRECT.GET.{stream}", orjson.dumps({"seq": sequence}))
        )
        if (answer.headers or {}).get("Status") is None:
            return _stored(answer)
        return await self.get(stream, {"seq": sequence})

    async def get(self, stream: str, which: Mapping[str, Any]) -> Stored | None:
        """Return the message that `which` names, from the leader, None if there is none.

        `seq`, `last_by_subj`, or `next_by_subj` with a `seq` or a `start_time` (RFC 3339).
        """
        try:
            message = (await self.api(f"STREAM.MSG.GET.{stream}", which))["message"]
        except Refused as refusal:
            if refusal.err_code == Code.NO_MESSAGE:
                return None
            raise
        return Stored(
            subject=message["subject"],
            sequence=message["seq"],
            time_ms=time_ms_of(message["time"]),
            headers=_headers(message.get("hdrs", "")),
            data=_decoded(message.get("data", "")),
        )

    def require_room(self, *, reserve: bool = False) -> None:
        """Raise StorageFull while our own server's disk has nothing left but the reserve.

        With `reserve` that may be used too, but for a last part.
        """
        if self._disk is not None:
            self._full = self._disk.touched
            if self._full and not (reserve and not self._disk.used):
                raise StorageFull("the disk is full: nothing new can be stored")

    async def _store(self, make: Callable[[], list[Message]], reserve: bool) -> Ack:
        self.require_room(reserve=reserve)
        began = self._clock()
        try:
            answer = await self._call(make)
        except Unavailable:
            self.writes_failed += 1
            if self.connection.connected and self.connection.server is not None:
                # It answers pings but no write: a disk error made it give up the stream.
                self.connection.server.restart("a write was not answered")
            raise
        self._full = False
        self.writes += 1
        self.write_s += self._clock() - began
        return Ack(sequence=answer["seq"], duplicate=answer.get("duplicate", False))

    async def _call(self, make: Callable[[], list[Message]]) -> dict[str, Any]:
        """Return the JSON answer; an error in it is raised, after further attempts if it may pass."""
        deadline = self.connection.deadline()
        while True:
            received = await self.connection.attempt(make(), deadline=deadline)
            if received is None:
                continue
            answer: dict[str, Any] = orjson.loads(received.data)
            error = answer.get("error")
            if error is None:
                return answer
            err_code, description = error.get("err_code", 0), error.get("description", "")
            if err_code in _FULL or "no space left" in description:
                self._full = True
                raise StorageFull("the disk is full: nothing new can be stored")
            if err_code not in _LATER:
                raise Refused(err_code, description)
            await asyncio.sleep(RECONNECT_WAIT_MS / 1000)


def _stored(message: Msg) -> Stored:
    headers = message.headers or {}
    return Stored(
        subject=headers["Nats-Subject"],
        sequence=int(headers["Nats-Sequence"]),
        time_ms=time_ms_of(headers["Nats-Time-Stamp"]),
        headers=headers,
        data=message.data,
    )


def _headers(encoded: str) -> dict[str, str]:
    lines = _decoded(encoded).decode(errors="replace").split("\r\n")[1:]
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


def _decoded(encoded: str) -> bytes:
    return base64.b64decode(encoded)


def time_ms_of(timestamp: str) -> int:
    """Return the server's timestamp in milliseconds since the epoch.

    In whole numbers: a float would lose one now and then, and be another time than the consumer's.
    """
    return (datetime.fromisoformat(timestamp) - _EPOCH) // timedelta(milliseconds=1)
