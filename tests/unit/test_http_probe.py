"""The probe, on a loop whose time the test turns and a socket whose state it sets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from stoker.edge.http.probe import FIRST_GAP_S, Probe

TCP_CLOSE_WAIT, TCP_CLOSE = 8, 7


class Timer:
    def __init__(self, at_s: float, action: Callable[[], None]) -> None:
        self.at_s = at_s
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class Loop:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, action: Callable[[], None]) -> Timer:
        timer = Timer(self.now_s + delay_s, action)
        self.timers.append(timer)
        return timer

    def run_until(self, until_s: float) -> None:
        while due := [t for t in self.timers if t.action is not None and t.at_s <= until_s]:
            timer = min(due, key=lambda t: t.at_s)
            self.timers.remove(timer)
            self.now_s = timer.at_s
            if timer.action is not None:
                timer.action()
        self.now_s = until_s


class Transport:
    """Is its own socket, too."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.state = TCP_CLOSE_WAIT
        self.written = b""
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def get_extra_info(self, name: str) -> Transport:
        return self

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return bytes([self.state])


def probing() -> tuple[Loop, Transport, Probe]:
    loop, transport = Loop(), Transport()
    probe = Probe(cast(asyncio.AbstractEventLoop, loop), cast(asyncio.Transport, transport), b"HTTP/1.1 ")
    probe.start()
    return loop, transport, probe


def test_a_reset_is_seen_before_another_byte_is_spent() -> None:
    loop, transport, _ = probing()

    transport.state = TCP_CLOSE
    loop.run_until(FIRST_GAP_S / 2)

    assert transport.aborted
    assert transport.written == b"H"


def test_a_client_that_stays_is_sent_no_more_than_there_is() -> None:
    loop, transport, probe = probing()

    loop.run_until(3_600)

    assert not transport.aborted
    assert transport.written == b"HTTP/1.1 "
    assert probe.stop() == 9


def test_a_reset_is_still_seen_when_all_bytes_are_spent() -> None:
    loop, transport, _ = probing()
    loop.run_until(3_600)

    transport.state = TCP_CLOSE
    loop.run_until(3_602)

    assert transport.aborted


def test_a_stopped_probe_sends_and_looks_no_more() -> None:
    loop, transport, probe = probing()

    sent = probe.stop()
    transport.state = TCP_CLOSE
    loop.run_until(3_600)

    assert (sent, transport.written, transport.aborted) == (1, b"H", False)
