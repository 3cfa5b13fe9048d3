"""A guest: a program in a sandbox that does what the doctor sends it, and tells what came of it.

Owns the talk over the wire. Does not know what is tried.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from stoker.model.errors import PlatformError
from stoker.model.launch import InstanceLimits, LaunchPlan
from stoker.model.limits import MIB
from stoker.runtimes import python, rootfs
from stoker.sandbox.engine import Engine, Sandbox

ANSWER_S_MAX = 20.0
LIMITS = InstanceLimits(memory_bytes=64 * MIB, cpu_millis=1000, processes=8)
RUNTIME = "doctor"
_PROGRAM = """
import json, os, socket
os.set_inheritable(3, False)
wire = socket.socket(fileno=3)
wire.sendall(b"\\n")
with wire.makefile("rwb") as stream:
    for line in stream:
        names = {}
        try:
            exec(json.loads(line), names)
            answer = names.get("answer")
        except BaseException as error:
            answer = {"error": type(error).__name__, "errno": getattr(error, "errno", None)}
        stream.write(json.dumps(answer).encode() + b"\\n")
        stream.flush()
"""


class NoAnswer(PlatformError):
    """The guest did not do what it was sent, and did not say why."""


def guest_plan(plan: LaunchPlan) -> LaunchPlan:
    """Return the plan of a guest, on the file system of the Python runtime."""
    words = ("-I", "-S", "-c", _PROGRAM)
    inside = next(word for word in plan.argv if word.startswith("/usr/bin/python"))
    return replace(
        plan,
        runtime=RUNTIME,
        argv=rootfs.under_shell(inside, *words),
        process_argv=rootfs.under_shell(str(python.program()), *words),
        own_threads=0,
    )


@dataclass(frozen=True, slots=True)
class Guest:
    """One guest."""

    sandbox: Sandbox
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    async def run(self, source: str) -> Any:
        """Execute Python, and return its variable `answer`; None if the guest ended over it."""
        self._writer.write(json.dumps(source).encode() + b"\n")
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                line = await self._reader.readline()
        except TimeoutError:
            raise NoAnswer(f"the sandbox did not answer in {ANSWER_S_MAX:.0f} s") from None
        except ConnectionError:
            return None
        return json.loads(line or "null")


@asynccontextmanager
async def guest(engine: Engine, plan: LaunchPlan, limits: InstanceLimits = LIMITS) -> AsyncIterator[Guest]:
    """Boot a guest and put limits in force; it is gone at the end."""
    sandbox = await engine.boot(plan, urgent=True)
    reader, writer = await asyncio.open_unix_connection(sock=sandbox.wire)
    try:
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                if await reader.readline() != b"\n":
                    raise NoAnswer("the program in the sandbox did not start")
        except TimeoutError:
            raise NoAnswer("the program in the sandbox did not start in time") from None
        await sandbox.assign(None, limits)
        yield Guest(sandbox, reader, writer)
    finally:
        sandbox.kill()
        writer.close()
        os.close(sandbox.output)
        await sandbox.ended()
