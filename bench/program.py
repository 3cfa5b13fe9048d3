"""A started program, and its end.

Owns the child processes of a run: each ends with the block that started it, by its own pid, whatever
ends the block. Does not know what the programs are.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

STOP_S = 40.0  # stoker drains for 30 s at most
POLL_S = 0.02


class CannotMeasure(Exception):
    """A figure could not be taken; the message says why."""


class Program:
    """A child process; a context manager that stops it (SIGTERM, then SIGKILL)."""

    def __init__(self, command: Sequence[str], *, environ: Mapping[str, str], log: Path) -> None:
        self._command = list(command)
        self._environ = dict(environ)
        self._log = log
        self._child: subprocess.Popen[bytes] | None = None
        self.started_s = 0.0

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self.started_s = time.perf_counter()
            try:
                # a session of its own: Ctrl-C comes to us alone, and we stop the programs in order
                self._child = subprocess.Popen(
                    self._command,
                    env=self._environ,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise CannotMeasure(f"{self._command[0]} does not start: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        child = self._running()
        try:
            child.terminate()
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise CannotMeasure(f"{self._command[0]} did not stop within {STOP_S:.0f} s") from error
        finally:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()

    @property
    def pid(self) -> int:
        return self._running().pid

    def line(self, *, within_s: float) -> str:
        """Return the next line of standard output. Raises CannotMeasure if it ends or none comes in time."""
        child = self._running()
        assert child.stdout is not None
        descriptor, text = child.stdout.fileno(), b""
        deadline = time.monotonic() + within_s
        while not text.endswith(b"\n"):
            readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise CannotMeasure(
                    f"{self._command[0]} said nothing within {within_s:.0f} s{self._last_words()}"
                )
            byte = os.read(descriptor, 1)  # what follows the line stays for the next call
            if not byte:
                raise CannotMeasure(f"{self._command[0]} ended ({child.wait()}){self._last_words()}")
            text += byte
        return text.decode(errors="replace").rstrip()

    def accepts(self, port: int, *, within_s: float) -> None:
        """Wait until the port of the loopback accepts a connection. Raises CannotMeasure."""
        child = self._running()
        deadline = time.monotonic() + within_s
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if child.poll() is not None:
                    raise CannotMeasure(
                        f"{self._command[0]} ended ({child.returncode}){self._last_words()}"
                    ) from None
                if time.monotonic() > deadline:
                    raise CannotMeasure(f"{self._command[0]} does not listen{self._last_words()}") from None
                time.sleep(POLL_S)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise RuntimeError("the program was not started")
        return self._child

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-5:]
        return "".join(f"\n    {line[:200]}" for line in lines)
