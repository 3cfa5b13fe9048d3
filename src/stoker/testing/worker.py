"""A pool over the fake engine, on the loop's own clock, and the ends of the calls that it was given."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from stoker.model.call import Call
from stoker.model.errors import StokerError
from stoker.model.function import Asset, Function
from stoker.model.injection import Injected
from stoker.model.launch import LaunchPlan
from stoker.model.limits import Limits
from stoker.model.outcome import Outcome
from stoker.model.secret import Secret
from stoker.testing.clock import settled
from stoker.testing.sandbox import FakeEngine, FakeSandbox, Script, echo
from stoker.worker.eviction import Pressure
from stoker.worker.pool import Pool

PLAN = LaunchPlan("nodejs", "24", (), ("node",), (), ("node",), own_threads=11)
AMPLE = Pressure(available_bytes=800, total_bytes=1000)


class FakeFolders:
    """Code that is always unpacked already, unless the test says otherwise."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def folder(self, assets: tuple[Asset, ...], fetch: Callable[[str], Awaitable[bytes]]) -> Path:
        """Return a folder that nobody looks into."""
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return Path("/folders") / assets[0].digest


class FakeContents:
    """No content: what is unpacked already is not fetched."""

    async def get(self, account: str, digest: str) -> bytes:
        """Return nothing."""
        return b""


class FakeSecrets:
    """Secrets by name, those of all accounts the same."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.error: Exception | None = None
        self.going_out: list[Injected] = []

    async def of(self, function: Function) -> Mapping[str, Secret]:
        """Return those that the function lists."""
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return {name: Secret(self.values[name]) for name in function.code.secrets or ()}

    def injects(self, function: Function) -> bool:
        """Tell whether `going_out` has any."""
        return bool(self.going_out)

    async def injected(self, function: Function, host: str, port: int) -> Sequence[Injected]:
        """Return those that the test has put into `going_out`."""
        return self.going_out


class Notes:
    """The operator's log, as a list of (event, fields)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def warning(self, event: str, **fields: object) -> object:
        """Note an event."""
        self.events.append((event, fields))
        return None

    info = warning


class PoolBench:
    """An open pool. Its calls end in `ends`, in the order of their ends."""

    def __init__(
        self, script: Script = echo, *, spares: int = 4, limits: Limits | None = None, cores: int = 2
    ) -> None:
        self.engine = FakeEngine(script)
        self.folders = FakeFolders()
        self.secrets = FakeSecrets()
        self.notes = Notes()
        self.pressure = AMPLE
        self.ends: list[tuple[Call, Outcome | StokerError]] = []
        self.loop = asyncio.get_running_loop()
        self.problems: list[dict[str, object]] = []
        """What the loop's exception handler was told."""
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.pool = Pool(
            self.engine,
            {"nodejs": PLAN},
            self.folders,
            FakeContents(),
            self.secrets,
            limits or Limits(),
            spares={"nodejs": spares},
            cpu_millis=lambda _: 200,
            pressure=lambda: self.pressure,
            cores=cores,
            notes=self.notes,
            clock=self.loop.time,
            now_ms=lambda: int(self.loop.time() * 1000),
        )
        self._ids = 0

    async def __aenter__(self) -> Self:
        await self.pool.open()
        await settled()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.pool.close()
        await self.engine.close()
        gc.collect()  # a task that failed and that nobody asked is told of when it is collected
        if problem is None:
            assert self.problems == [], "the loop was told of what the test does not expect"

    def submit(
        self,
        function: Function,
        payload: bytes = b"1",
        *,
        patient: bool = False,
        began: Callable[[], None] | None = None,
    ) -> Call:
        """Give the pool a call."""
        self._ids += 1
        call = Call(
            self._ids.to_bytes(16, "big"),
            function,
            payload,
            queued_at=self.loop.time(),
            ended=lambda call, outcome: self.ends.append((call, outcome)),
            patient=patient,
            began=began,
        )
        self.pool.submit(call)
        return call

    async def run(self, function: Function, payload: bytes = b"1") -> Outcome:
        """Return how a call ended, once everything has come to rest; it must have run."""
        call = self.submit(function, payload)
        await settled()
        return self.outcome(call)

    def end(self, call: Call) -> Outcome | StokerError:
        """Return the one end of a call; fails the test if there is none, or more than one."""
        ends = [outcome for one, outcome in self.ends if one is call]
        assert len(ends) == 1, f"the call has {len(ends)} ends"
        return ends[0]

    def outcome(self, call: Call) -> Outcome:
        """Return the end of a call that ran."""
        end = self.end(call)
        assert isinstance(end, Outcome), repr(end)
        return end

    def code(self, call: Call) -> str | None:
        """Return the code that a call ended with; None for a good end."""
        end = self.end(call)
        if isinstance(end, StokerError):
            return end.code
        return end.failure.code if end.failure else None

    @property
    def serving(self) -> list[FakeSandbox]:
        """The living sandboxes that belong to a function."""
        return [sandbox for sandbox in self.engine.living if sandbox.assigned is not None]

    @property
    def started(self) -> list[FakeSandbox]:
        """All sandboxes that ever belonged to a function, also the ended ones."""
        return [sandbox for sandbox in self.engine.sandboxes if sandbox.assigned is not None]
