"""Delivery: a stretch of a stream, pushed to a receiver in order.

Owns the consumer that lives as long as one delivery, its flow control and its silence; and the short way,
without one. Does not know what the messages mean, nor whether one may be missing.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson
from nats.aio.msg import Msg

from stoker.backbone.jetstream import JetStream, time_ms_of

HEARTBEAT_MS = 500
SILENCE_MS_MAX = 1_500
"""Without a message or heartbeat for so long the consumer is gone, with its server: make another one."""
FETCHED_MAX = 2_000
"""Longer stretches are delivered. A consumer costs 50 ms, mostly for what it sends past the end of a short
one, but after some thousand messages it is the quicker way."""
FETCHED_BYTES_MAX = 4 * 1024 * 1024
LEFTOVER_MS = 5_000
"""A consumer whose deletion was lost is removed by the server after so long."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """One message as it comes."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    sequence: int
    time_ms: int
    pending: int
    """How many the stream has after it."""


class Receiver(ABC):
    """Takes messages until it has ended."""

    def __init__(self, *, position: int) -> None:
        self.position = position
        """The sequence up to which all is handled."""
        self.failure: Exception | None = None
        """What whoever is given the messages has raised."""
        self.ended = asyncio.Event()
        self._beat_position = -1

    @abstractmethod
    def take(self, message: Delivered) -> None:
        """Handle one message: move `position`, set `ended` after the last one. It may come again."""

    def begin(self) -> None:
        """Start another round."""
        self.ended.clear()
        self._beat_position = -1

    def heartbeat(self) -> None:
        """Note that the server has nothing to send; the second time without progress ends the round."""
        if self._beat_position == self.position:
            self.ended.set()
        self._beat_position = self.position


async def deliver(jetstream: JetStream, stream: str, receiver: Receiver) -> None:
    """Give the receiver what comes after its position, until it has ended or nothing comes any more.

    Raises the receiver's failure. Else look at its position: silence may be the end, or a restart.
    """
    connection = jetstream.connection
    inbox = connection.new_inbox()

    async def on_message(message: Msg) -> None:
        headers = message.headers or {}
        if headers.get("Status") != "100":
            receiver.take(_pushed(message))
            return
        reply = message.reply or headers.get("Nats-Consumer-Stalled")
        if reply:  # flow control: the server goes on once we have handled what it sent so far
            await connection.tell(reply)
        else:
            receiver.heartbeat()

    receiver.begin()
    subscription = await connection.subscribe(inbox, on_message)
    name = uuid4().hex
    try:
        consumer = await jetstream.api(
            f"CONSUMER.CREATE.{stream}.{name}",
            {"stream_name": stream, "config": _consumer(name, inbox, receiver.position + 1)},
        )
        if consumer.get("num_pending") == 0 and consumer.get("delivered", {}).get("consumer_seq") == 0:
            return
        await _until_silent(receiver)
    finally:
        await subscription.unsubscribe()
        await connection.tell(f"$JS.API.CONSUMER.DELETE.{stream}.{name}")
    if receiver.failure is not None:
        raise receiver.failure


async def fetch(jetstream: JetStream, stream: str, receiver: Receiver, count: int) -> None:
    """Do as `deliver` for at most `count` of the next messages."""
    connection = jetstream.connection
    inbox = connection.new_inbox()

    async def on_message(message: Msg) -> None:
        headers = message.headers or {}
        if "Status" in headers:  # the end of them, or none is left
            receiver.ended.set()
        else:
            receiver.take(_fetched(message, headers))

    receiver.begin()
    subscription = await connection.subscribe(inbox, on_message)
    try:
        wanted = {"seq": receiver.position + 1, "batch": count, "max_bytes": FETCHED_BYTES_MAX}
        await connection.tell(f"$JS.API.DIRECT.GET.{stream}", orjson.dumps(wanted), reply=inbox)
        await _until_silent(receiver)
    finally:
        await subscription.unsubscribe()
    if receiver.failure is not None:
        raise receiver.failure


async def _until_silent(receiver: Receiver) -> None:
    while not receiver.ended.is_set():
        before = receiver.position
        with suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_MS_MAX / 1000):
                await receiver.ended.wait()
        if receiver.position == before:
            break


def _fetched(message: Msg, headers: Mapping[str, str]) -> Delivered:
    return Delivered(
        subject=headers["Nats-Subject"],
        data=message.data,
        headers=headers,
        sequence=int(headers["Nats-Sequence"]),
        time_ms=time_ms_of(headers["Nats-Time-Stamp"]),
        pending=int(headers["Nats-Num-Pending"]),
    )


def _pushed(message: Msg) -> Delivered:
    """Return the message with its place, which its reply subject holds.

    `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<time ns>.<pending>`; servers
    with a domain put that and a hash before the stream.
    """
    tokens = message.reply.split(".")
    first = 2 if len(tokens) == 9 else 4
    return Delivered(
        subject=message.subject,
        data=message.data,
        headers=message.headers or {},
        sequence=int(tokens[first + 3]),
        time_ms=int(tokens[first + 5]) // 1_000_000,
        pending=int(tokens[first + 6]),
    )


def _consumer(name: str, inbox: str, first_sequence: int) -> dict[str, Any]:
    """Return the settings of a consumer that pushes from a sequence on, and is gone when we are."""
    return {
        "name": name,
        "deliver_subject": inbox,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": first_sequence,
        "ack_policy": "none",
        "max_deliver": 1,
        "mem_storage": True,
        "num_replicas": 1,
        "flow_control": True,
        "idle_heartbeat": HEARTBEAT_MS * 1_000_000,
        "inactive_threshold": LEFTOVER_MS * 1_000_000,
    }
