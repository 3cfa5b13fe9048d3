"""The route of machines: the sandbox instances that serve functions, with what they use.

Does not know how a sandbox is made, nor where its figures come from. Source: the compute API contract,
*Collections, runtimes, machines, services*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stoker.catalog.fold import Fold
from stoker.catalog.principal import Principal
from stoker.edge.http import api
from stoker.edge.http.access import Access
from stoker.edge.http.answers import MachineAnswer
from stoker.edge.http.functions import answer
from stoker.edge.http.listing import page_of
from stoker.edge.http.scopes import GuardedRoute
from stoker.model.errors import InvalidRequest
from stoker.model.function import Function
from stoker.model.limits import MIB
from stoker.model.machine import Machine

ANY = "*"
RUNNING = "running"
STATUSES = (RUNNING, "paused", "stopped", ANY)
TYPE = "Compute Function"


class Machines(Protocol):
    """Where functions run."""

    def machines(self) -> list[Machine]:
        """Return the machines of all accounts, the oldest first."""
        ...

    async def machine_stats(self, machine: str) -> dict[str, Any] | None:
        """Return what a machine has used, None if it has ended."""
        ...


class MachineRoutes:
    """Machines of the caller's account; of all for an administrator. `node` is the name of this host."""

    def __init__(self, fold: Fold, access: Access, machines: Machines, *, node: str) -> None:
        self._fold = fold
        self._access = access
        self._machines = machines
        self._node = node

    def routes(self) -> list[Route]:
        """Return every route."""
        return [GuardedRoute("GET", "/compute/machines", self.list_all)]

    async def list_all(self, request: Request) -> Response:
        """`GET /compute/machines`: those that fit all filters that are given.

        One that ends while the list is made is left out, as if it had ended before.
        """
        found = self._found(request, self._access.allowed(request))
        page, rest = page_of(request, found, lambda machine: machine.number)
        results = []
        for machine in page:
            stats = await self._machines.machine_stats(machine.id)
            if stats is not None:
                results.append(self._answer(machine, stats))
        total = len(found) - (len(page) - len(results))
        return answer({"body": {"results": results, **rest, "results_total": total}})

    def _found(self, request: Request, principal: Principal) -> Sequence[Machine]:
        query = request.query_params
        status = query.get("status", ANY)
        if status not in STATUSES:
            raise InvalidRequest(f"status is one of {', '.join(STATUSES)}", hint=f"?status={RUNNING}")
        if status not in (RUNNING, ANY):
            return []  # a sandbox runs, or it is gone
        machine_id, runtime, service = query.get("machine"), query.get("runtime"), query.get("service")
        namespace = query.get("namespace")
        return [
            machine
            for machine in self._machines.machines()
            if _sees(principal, machine.function)
            and _fits(machine_id, machine.id)
            and _fits(runtime, machine.function.code.runtime)
            and _fits(self._topic(machine.function.account, namespace), machine.function.collection_topic)
            and _fits(service, *_names_of(machine.function))
        ]

    def _topic(self, account: str, namespace: str | None) -> str | None:
        collection = None if namespace is None else self._fold.collection(account, namespace)
        return namespace if collection is None else collection.topic

    def _answer(self, machine: Machine, stats: dict[str, Any]) -> MachineAnswer:
        function = machine.function
        code = function.code
        memory = f"{machine.memory_bytes / MIB:.2f} MB"
        account = self._fold.tenants.name_of(function.account)
        return {
            "id": machine.id,
            "pid": machine.pid,
            "status": RUNNING,
            "runtime": code.runtime,
            "runtime_version": machine.runtime_version,
            "memory": memory,
            "rootfs": f"{code.runtime}-{machine.runtime_version.partition('.')[0]}",
            "created": api.rfc3339(machine.created_ms),
            "annotations": {
                "account": account,
                "machine": machine.id,
                "mem": memory,
                "namespace": function.collection_topic,
                "service": function.service,
                "service.handler": code.handler,
                "service.version": str(code.version),
                "runtime.version": machine.runtime_version,
                "isolation": machine.isolation,
                "node": self._node,
            },
            "owner": account,
            "stats": {"CgroupStats": stats, "Interfaces": []},
            "type": TYPE,
        }


def _sees(principal: Principal, function: Function) -> bool:
    if principal.collection is None and principal.may("accounts:write"):
        return True
    return principal.account == function.account and principal.sees(function.collection_topic)


def _names_of(function: Function) -> tuple[str, str, str]:
    return function.service, function.subject, function.name


def _fits(wanted: str | None, *values: str) -> bool:
    return wanted is None or wanted == ANY or wanted in values
