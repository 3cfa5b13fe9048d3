"""The route of machines: what is shown of an instance, who sees it, and which filters there are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from stoker.edge.http.access import Access
from stoker.edge.http.app import Door
from stoker.edge.http.machines import MachineRoutes
from stoker.model.machine import Machine
from stoker.testing.catalog import ACCOUNT
from stoker.testing.functions import a_function
from stoker.testing.site import Site

MACHINES = "/compute/machines"
STATS = {"pids": {"current": 3, "limit": 75}}


def a_machine(number: int, **function: Any) -> Machine:
    account = function.pop("account", ACCOUNT)
    return Machine(
        id=f"{number:012x}",
        number=number,
        pid=1000 + number,
        function=replace(a_function(**function), account=account),
        runtime_version="24.19.0",
        created_ms=1_700_000_000_123,
        memory_bytes=512 << 20,
        isolation="crun",
    )


class FakeMachines:
    def __init__(self) -> None:
        self.there: list[Machine] = []
        self.ended: set[str] = set()

    def machines(self) -> list[Machine]:
        return list(self.there)

    async def machine_stats(self, machine: str) -> dict[str, Any] | None:
        return None if machine in self.ended else STATS


class MachineSite(Site):
    def __init__(self) -> None:
        self.machines = FakeMachines()
        super().__init__({})

    def _doors(self, access: Access) -> Sequence[Door]:
        return (
            *super()._doors(access),
            MachineRoutes(self.bench.fold, access, self.machines, node="host-1"),
        )

    async def ids(self, query: str = "") -> list[int]:
        answer = await self.client.get(MACHINES + query)
        assert answer.status_code == 200, answer.text
        return [int(one["id"], 16) for one in answer.json()["body"]["results"]]


@pytest.fixture
async def site() -> AsyncIterator[MachineSite]:
    site = MachineSite()
    async with site.client:
        yield site


async def test_a_machine_is_shown_with_everything_that_the_contract_names(site: MachineSite) -> None:
    site.machines.there = [a_machine(1)]

    answer = await site.client.get(MACHINES)

    assert answer.status_code == 200
    assert answer.json() == {
        "body": {
            "results": [
                {
                    "id": "000000000001",
                    "pid": 1001,
                    "status": "running",
                    "runtime": "nodejs",
                    "runtime_version": "24.19.0",
                    "memory": "512.00 MB",
                    "rootfs": "nodejs-24",
                    "created": "2023-11-14T22:13:20.123Z",
                    "annotations": {
                        "account": "default",
                        "machine": "000000000001",
                        "mem": "512.00 MB",
                        "namespace": "tools",
                        "service": "3970185486",
                        "service.handler": "index.handler",
                        "service.version": "1",
                        "runtime.version": "24.19.0",
                        "isolation": "crun",
                        "node": "host-1",
                    },
                    "owner": "default",
                    "stats": {"CgroupStats": STATS, "Interfaces": []},
                    "type": "Compute Function",
                }
            ],
            "results_total": 1,
        }
    }


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", [1, 2, 3]),
        ("?machine=000000000002", [2]),
        ("?machine=*", [1, 2, 3]),
        ("?machine=nobody", []),
        ("?runtime=python", [3]),
        ("?runtime=*&machine=*", [1, 2, 3]),
        ("?runtime=cobol", []),
        ("?namespace=tools", [1, 2, 3]),
        ("?namespace=ms.compute.tools.collection", [1, 2, 3]),
        ("?namespace=*", [1, 2, 3]),
        ("?namespace=elsewhere", []),
        ("?service=3970185486", [1, 3]),
        ("?service=my-function", [1, 3]),
        ("?service=ms.compute.tools.function.3970185486", [1, 3]),
        ("?service=*", [1, 2, 3]),
        ("?service=unknown", []),
        ("?service=my-function&runtime=nodejs", [1]),
        ("?status=running", [1, 2, 3]),
        ("?status=*", [1, 2, 3]),
        ("?status=paused", []),
        ("?status=stopped", []),
    ],
)
async def test_filters_leave_what_fits_all_of_them(site: MachineSite, query: str, found: list[int]) -> None:
    asset = {"collection_topic": "tools", "handler": "index.handler"}
    body = {"name": "my-function", "monitor_config": {}, "compute_asset": asset}
    assert (await site.client.post("/compute/functions", json=body)).status_code == 201
    site.machines.there = [a_machine(1), a_machine(2, name="other"), a_machine(3, runtime="python")]

    assert await site.ids(query) == found


async def test_a_namespace_may_be_named_by_the_collections_name(site: MachineSite) -> None:
    created = await site.client.post("/compute/collections", json={"name": "my tools"})
    topic = created.json()["body"]["subject"].split(".")[2]
    site.machines.there = [a_machine(1), a_machine(2)]
    function = replace(site.machines.there[1].function, collection_topic=topic)
    site.machines.there[1] = replace(site.machines.there[1], function=function)

    assert await site.ids("?namespace=my%20tools") == [2]


@pytest.mark.parametrize("status", ["", "Running", "running ", "gone"])
async def test_any_other_status_is_refused_and_the_known_ones_are_named(
    site: MachineSite, status: str
) -> None:
    answer = await site.client.get(MACHINES, params={"status": status})

    assert answer.status_code == 400
    assert answer.json()["code"] == "request.invalid"
    assert answer.json()["error"] == "status is one of running, paused, stopped, *"


async def test_machines_of_another_account_are_not_there(site: MachineSite) -> None:
    site.machines.there = [a_machine(1), a_machine(2, account="other")]

    own = (await site.client.get(MACHINES, headers={"Authorization": "Bearer reader"})).json()["body"]
    stranger = (
        await site.client.get(f"{MACHINES}?machine={1:012x}", headers={"Authorization": "Bearer visitor"})
    ).json()["body"]

    assert ([one["pid"] for one in own["results"]], own["results_total"]) == ([1001], 1)
    assert stranger == {"results": [], "results_total": 0}


async def test_a_platform_administrator_sees_machines_of_all_accounts(site: MachineSite) -> None:
    site.machines.there = [a_machine(1), a_machine(2, account="other")]

    assert await site.ids() == [1, 2]


@pytest.mark.parametrize(
    ("token", "status"),
    [("reader", 200), ("writer", 200), ("caller", 403), ("nobody", 403), ("unknown", 401)],
)
async def test_who_may_read_functions_may_read_machines(site: MachineSite, token: str, status: int) -> None:
    answer = await site.client.get(MACHINES, headers={"Authorization": f"Bearer {token}"})

    assert answer.status_code == status


async def test_a_machine_that_ends_meanwhile_is_left_out_and_not_counted(site: MachineSite) -> None:
    site.machines.there = [a_machine(1), a_machine(2)]
    site.machines.ended = {f"{1:012x}"}

    body = (await site.client.get(MACHINES)).json()["body"]

    assert [one["pid"] for one in body["results"]] == [1002]
    assert body["results_total"] == 1


async def test_a_list_is_walked_page_by_page(site: MachineSite) -> None:
    site.machines.there = [a_machine(number) for number in (1, 4, 5, 9, 12)]

    walked, query = [], "?limit=2"
    for _ in range(3):
        body = (await site.client.get(MACHINES + query)).json()["body"]
        walked.append([int(one["id"], 16) for one in body["results"]])
        site.machines.there = [one for one in site.machines.there if one.number != 4]  # gone in between
        query = f"?limit=2&cursor={body.get('next_cursor')}"

    assert walked == [[1, 4], [5, 9], [12]]
    assert "next_cursor" not in body


async def test_another_verb_is_refused(site: MachineSite) -> None:
    answer = await site.client.post(MACHINES, json={})

    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
