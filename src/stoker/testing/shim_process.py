"""A shim as a plain process of this machine, driven over its wire by a test.

Blocks: one thread, one frame at a time. Knows no sandbox; what it loads lies in a folder of the test's.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stoker.model.launch import LaunchPlan
from stoker.model.outcome import Failure
from stoker.runtimes import wire

WAIT_S = 20.0
"""How long a test waits for a frame before it fails."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended, as its frame says: a result or a failure."""

    call_id: bytes
    result: bytes | None
    failure: Failure | None

    @property
    def value(self) -> Any:
        """The result as a value; fails the test if the call failed."""
        assert self.result is not None, self.failure
        return json.loads(self.result)

    @property
    def error(self) -> Failure:
        """The failure; fails the test if the call did not fail."""
        assert self.failure is not None, self.result
        return self.failure


class ShimProcess:
    """One instance without a sandbox. Leaving the context ends every process of it."""

    def __init__(self, plan: LaunchPlan, root: Path) -> None:
        self.plan = plan
        self.root = root
        self.hello: wire.Hello | None = None
        self.logs: dict[bytes, bytes] = {}
        self.begun_at_leave: frozenset[bytes] | None = None
        self._pending: list[wire.Frame] = []
        self._reader = wire.FrameReader(frame_bytes_max=64 * 1024 * 1024)

    def __enter__(self) -> Self:
        self._host, inside = socket.socketpair()
        self._host.settimeout(WAIT_S)
        self._log, log_end = os.pipe()
        with inside:
            self._process = subprocess.Popen(
                self.plan.process_argv,
                stdin=inside.fileno(),
                stdout=log_end,
                stderr=log_end,
                env=dict(self.plan.env),
                cwd="/",
                start_new_session=True,
            )
        os.close(log_end)
        kind, _, body = self.frame()
        assert kind == wire.HELLO
        self.hello = wire.decode_hello(body)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._host.close()
        with suppress(ProcessLookupError):  # it has ended already
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._log)

    def load(self, handler: str, *, env: dict[str, str] | None = None, **order: Any) -> None:
        """Give the instance to the function in its folder, and wait until it has loaded."""
        self.send_load(handler, env=env, **order)
        kind, call_id, body = self.frame()
        assert (kind, call_id, body) == (wire.LOADED, wire.ZERO_ID, b"")

    def send_load(self, handler: str, *, env: dict[str, str] | None = None, **order: Any) -> None:
        """Send the LOAD and do not wait."""
        self._host.sendall(self._load_frame(handler, env, order))

    def send_load_and_invoke(self, handler: str, payloads: list[bytes], **order: Any) -> list[bytes]:
        """Send the LOAD and calls in one piece; return the ids of the calls."""
        ids = [uuid.uuid4().bytes for _ in payloads]
        calls = [wire.encode_invoke(n, 30_000, payload) for n, payload in zip(ids, payloads, strict=True)]
        self._host.sendall(self._load_frame(handler, None, order) + b"".join(calls))
        return ids

    def _load_frame(self, handler: str, env: dict[str, str] | None, order: dict[str, Any]) -> bytes:
        given: dict[str, Any] = {"function_name": "echo", "function_version": "7", "memory_mb": 512}
        given |= {"per_instance": 1, "result_bytes_max": 6 * 1024 * 1024} | order
        return wire.encode_load(handler=handler, root=str(self.root), env=env or {}, **given)

    def invoke(self, event: Any = None, *, timeout_ms: int = 30_000) -> Answer:
        """Return how a call ended."""
        call_id = self.send_invoke(json.dumps(event).encode(), timeout_ms=timeout_ms)
        answer = self.answer()
        assert answer.call_id == call_id
        return answer

    def send_invoke(self, payload: bytes, *, timeout_ms: int = 30_000) -> bytes:
        """Send a call and return its id."""
        call_id = uuid.uuid4().bytes
        self._host.sendall(wire.encode_invoke(call_id, timeout_ms, payload))
        return call_id

    def answer(self) -> Answer:
        """Return the next RESULT or ERROR; a LOG before it goes to `logs`, a LEAVING to `begun_at_leave`."""
        while True:
            kind, call_id, body = self.frame()
            if kind == wire.LOG:
                self.logs[call_id] = self.logs.get(call_id, b"") + body
            elif kind == wire.LEAVING:
                self.begun_at_leave = wire.decode_leaving(body)
            elif kind == wire.RESULT:
                return Answer(call_id, body, None)
            elif kind == wire.ERROR:
                return Answer(call_id, None, wire.decode_error(body))
            else:
                raise AssertionError(f"a frame of kind {kind:#x}")

    def frame(self) -> wire.Frame:
        """Return the next frame; EOFError if the instance has closed the wire."""
        while not self._pending:
            data = self._host.recv(1 << 20)
            if not data:
                raise EOFError("the instance is gone")
            self._pending = self._reader.feed(data)
        return self._pending.pop(0)

    def printed(self) -> str:
        """Return what has been printed since the last time. What precedes an answer is all there."""
        parts: list[bytes] = []
        while select.select([self._log], [], [], 0)[0]:
            part = os.read(self._log, 65536)
            if not part:
                break
            parts.append(part)
        return b"".join(parts).decode()

    def wait_for_print(self) -> str:
        """Wait until something is printed and return what it is."""
        assert select.select([self._log], [], [], WAIT_S)[0], "nothing was printed"
        return os.read(self._log, 65536).decode()

    def printed_to_the_end(self) -> str:
        """Read what is printed until the processes are gone."""
        parts: list[bytes] = []
        while part := os.read(self._log, 65536):
            parts.append(part)
        return b"".join(parts).decode()

    def exit_code(self) -> int:
        """Wait for the end of the process and return its code; 128 + n for signal n."""
        return self._process.wait(WAIT_S)

    def hang_up(self) -> None:
        """Close the host's end of the wire."""
        self._host.close()
