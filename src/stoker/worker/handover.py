"""Handover: how a spare becomes an instance of a function: code, limits, secrets, the frame that loads it.

Does not know why a function needs an instance, nor what becomes of it.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from stoker.model.egress import DEFAULT_RULES, RULES_MAX, TUNNELS_MAX, Rule, parse_rule, parse_tunnel
from stoker.model.errors import PlatformError
from stoker.model.function import Asset, CodeVersion, Function
from stoker.model.injection import Injected
from stoker.model.launch import Code, InstanceLimits
from stoker.model.limits import MIB, Limits
from stoker.model.secret import Secret
from stoker.runtimes import wire
from stoker.sandbox.engine import SandboxGone, WayOut
from stoker.worker.instance import Instance
from stoker.worker.spares import Spares

SPARES_TRIED_MAX = 3
"""A spare may die before it gets its code, or while it boots; so many in a row are no accident."""


class CodeFolders(Protocol):
    """Where the code of a function lies unpacked."""

    async def folder(self, assets: tuple[Asset, ...], fetch: Callable[[str], Awaitable[bytes]]) -> Path: ...


class Contents(Protocol):
    """Where the content of assets comes from."""

    async def get(self, account: str, digest: str) -> bytes: ...


class Secrets(Protocol):
    """Where the secrets of functions come from."""

    async def of(self, function: Function) -> Mapping[str, Secret]:
        """Return the values that a function lists, by name. Raises StokerError if one is not to be had."""
        ...

    def injects(self, function: Function) -> bool:
        """Tell whether some of them go into its requests."""
        ...

    async def injected(self, function: Function, host: str, port: int) -> Sequence[Injected]:
        """Return what goes into a request to a host and port. Raises StokerError."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """An instance that is one of a function but for the frame that loads it."""

    instance: Instance
    secrets: Mapping[str, Secret]


class Handover:
    """Gives spares to functions."""

    def __init__(
        self,
        folders: CodeFolders,
        contents: Contents,
        secrets: Secrets,
        limits: Limits,
        cpu_millis: Callable[[int], int],
        inward: Callable[[Instance, socket.socket], None],
        told: Callable[[Instance, str, str], None],
    ) -> None:
        self._inward = inward
        self._told = told
        self._folders = folders
        self._contents = contents
        self._secrets = secrets
        self._limits = limits
        self._cpu_millis = cpu_millis

    async def prepare(self, function: Function, spare: Instance | None, spares: Spares) -> Prepared:
        """Return an instance that has the function's code and limits; `spare` is tried before others.

        One that dies meanwhile is replaced. Waits for the code's content and for boots; raises StokerError,
        and then nothing of what it took is left over.
        """
        try:
            folder = await self._folder(function)
            secrets = await self._secrets.of(function) if function.code.secrets else {}
        except BaseException:
            if spare is not None:
                spares.give_back(spare)
            raise
        code = Code(folder, writable=not function.code.read_only_fs)
        cpu_millis = self._cpu_millis(function.memory_bytes)
        tunnels = tunnels_of(function.code)
        limits = InstanceLimits(function.memory_bytes, cpu_millis, self._limits.processes_max)
        for left in reversed(range(SPARES_TRIED_MAX)):
            try:
                instance, spare = spare or await spares.take(), None
            except PlatformError:  # somebody's boot failed
                if not left:
                    raise
                continue
            try:
                await instance.sandbox.assign(code, limits, tunnels)
            except SandboxGone:
                instance.kill()
            except BaseException:
                instance.kill()
                raise
            else:
                if not instance.dead:
                    return Prepared(instance, secrets)
        raise PlatformError("the instances of the runtime died before they got the function's code")

    def load(self, prepared: Prepared, function: Function, init_ms: float) -> None:
        """Have a prepared instance load the function; calls may follow at once.

        A secret comes before an environment variable of the same name.
        """
        code, instance = function.code, prepared.instance
        env = dict(instance.sandbox.environment)
        env.update(item.partition("=")[::2] for item in code.env_vars or ())
        env.update((name, secret.reveal()) for name, secret in prepared.secrets.items())
        frame = wire.encode_load(
            handler=code.handler,
            root=instance.sandbox.code_root,
            env=env,
            function_name=function.name,
            function_version=str(code.version),
            memory_mb=function.memory_bytes // MIB,
            per_instance=function.concurrency.per_instance,
            result_bytes_max=self._limits.result_bytes_max,
        )
        instance.sandbox.reach(
            WayOut(
                account=function.account,
                rules=rules_of(code),
                active=instance.networked,
                refused=instance.note,
                injects=self._secrets.injects(function),
                headers=partial(self._secrets.injected, function),
                injected=partial(self._told, instance),
                inward=partial(self._inward, instance),
            )
        )
        instance.load(function, frame, init_ms)

    async def _folder(self, function: Function) -> Path:
        async def fetch(digest: str) -> bytes:
            return await self._contents.get(function.account, digest)

        return await self._folders.folder(function.code.assets, fetch)


def rules_of(code: CodeVersion) -> tuple[str, ...]:
    """Return what a version may reach: what it lists, or else the web, and where its tunnels lead.

    A rule that parsed when it was stored and does not any more allows nothing.
    """
    listed = (code.network or {}).get("egress")
    rules = DEFAULT_RULES if listed is None else _parsed(listed[:RULES_MAX], parse_rule)
    return (*map(str, rules), *tunnels_of(code))


def tunnels_of(code: CodeVersion) -> tuple[str, ...]:
    """Return where a version's tunnels lead, `host:port` each; without those that do not parse any more."""
    listed = (code.network or {}).get("tunnels") or ()
    return tuple(map(str, _parsed(listed[:TUNNELS_MAX], parse_tunnel)))


def _parsed(texts: Sequence[str], parse: Callable[[str], Rule]) -> list[Rule]:
    found = []
    for text in texts:
        with suppress(ValueError):
            found.append(parse(text))
    return found
