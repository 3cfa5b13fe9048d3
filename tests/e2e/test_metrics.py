"""`GET /metrics` from outside: what is counted of real calls, who may read it, and the dashboard that lives by it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import Expr

from tests.e2e.conftest import Client, ServerProcess, a_server
from tests.e2e.processes import wait_until

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/stoker.json").read_text())
PAGE = (ROOT / "docs/metrics.md").read_text()

PYTHON = """
import time
def handler(event):
    if event == "throw":
        raise ValueError("no")
    time.sleep(event or 0)
    return event
"""


@pytest.fixture(scope="module")
def server(isolated: None) -> Iterator[ServerProcess]:
    """A server of these tests' own: only the busiest hundred functions are counted by name."""
    with a_server() as running:
        yield running


def read(client: Client) -> dict[str, Metric]:
    answer = client.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        sample.name: family
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def full_name(family: Metric) -> str:
    """Return a metric's name as it is written; the parser takes the ending of a counter off."""
    return family.name + ("_total" if family.type == "counter" else "")


def value(client: Client, name: str, **labels: str) -> float:
    """Return the sum of the samples of a name that have these labels."""
    return sum(
        sample.value
        for sample in read(client)[name].samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


# -- what is counted -----------------------------------------------------------------------------


def test_calls_are_counted_by_function_and_end_reason(client: Client) -> None:
    name = client.function("counted", PYTHON, runtime="python", timeout=300)
    function = f"{client.collection}/{name}"
    before = {
        reason: value(client, "stoker_invocations_total", reason=reason) for reason in ("ok", "timeout")
    }

    for payload in (0, 0, "throw", 5):
        client.invoke(name, payload)

    def count(reason: str) -> float:
        return value(
            client, "stoker_function_invocations_total", account="default", function=function, reason=reason
        )

    assert [count(reason) for reason in ("ok", "error", "timeout", "memory")] == [2, 1, 1, 0]
    assert value(client, "stoker_invocations_total", reason="ok") == before["ok"] + 2
    assert value(client, "stoker_invocations_total", reason="timeout") == before["timeout"] + 1
    assert value(client, "stoker_function_run_seconds_total", function=function) >= 0.3


def test_a_function_that_was_never_called_starts_at_zero_so_that_its_first_call_is_seen(
    client: Client,
) -> None:
    name = client.function("fresh", PYTHON, runtime="python")

    labels = {"function": f"{client.collection}/{name}", "reason": "ok"}
    family = read(client)["stoker_function_invocations_total"]
    assert [sample.value for sample in family.samples if labels.items() <= sample.labels.items()] == [0]


def test_phases_are_measured(client: Client) -> None:
    def counts() -> list[float]:
        name = "stoker_invocation_phase_seconds_count"
        return [value(client, name, phase=phase) for phase in ("queue", "init", "run")]

    name = client.function("phased", PYTHON, runtime="python")
    before = counts()

    client.result(name, 0)  # a first call: an instance is given to the function
    client.result(name, 0)

    assert [after - was for after, was in zip(counts(), before, strict=True)] == [2, 1, 2]


def test_async_work_shows_its_retries_its_dead_letters_and_its_ends(client: Client) -> None:
    name = client.function("poison", PYTHON, runtime="python", retry={"attempts": 2, "backoff_ms": 10})
    names = ("stoker_retries_total", "stoker_dead_letters_total")
    before = [value(client, one) for one in names]
    ended = {"type": "Async", "reason": "error"}
    ended_before = value(client, "stoker_accepted_ended_total", **ended)

    accepted = client.http.post(
        f"/compute/functions/{client.collection}/{name}/invoke",
        json={"payload": '"throw"', "invocation_type": "Async"},
    )

    invocation = json.loads(accepted.json()["body"])["invocation_id"]
    record = client.http.get(f"/compute/invocations/{invocation}", params={"wait": 30_000}).json()["body"]
    assert (record["status"], record["attempts"]) == ("error", 2)
    wait_until(lambda: value(client, "stoker_accepted_ended_total", **ended) == ended_before + 1)
    assert [value(client, one) - was for one, was in zip(names, before, strict=True)] == [1, 1]
    assert value(client, "stoker_function_invocations_total", function=f"{client.collection}/{name}") == 2


def test_a_backlog_shows_its_depth_and_its_age(client: Client) -> None:
    name = client.function("busy", PYTHON, runtime="python", concurrency={"max_instances": 1})
    for _ in range(8):
        answer = client.http.post(
            f"/compute/functions/{client.collection}/{name}/invoke",
            json={"payload": "1.5", "invocation_type": "Async"},
        )
        assert answer.status_code == 200

    assert value(client, "stoker_queue_depth") >= 5
    wait_until(lambda: value(client, "stoker_queue_running") >= 1)
    wait_until(lambda: value(client, "stoker_queue_oldest_seconds") > 0.2)
    client.http.delete(f"/compute/functions/{client.collection}/{name}")  # nobody waits for the rest


def test_the_store_and_the_pool_show_that_they_work(client: Client) -> None:
    name = client.function("stored", PYTHON, runtime="python")
    writes = value(client, "stoker_backbone_writes_total")
    started = value(client, "stoker_instances_started_total")

    client.result(name, 0)

    wait_until(lambda: value(client, "stoker_backbone_writes_total") > writes)  # its record
    wait_until(lambda: value(client, "stoker_records_unstored") == 0)
    wait_until(lambda: value(client, "stoker_view_lag_messages") == 0)
    assert value(client, "stoker_instances_started_total") == started + 1
    assert value(client, "stoker_instances_serving") >= 1
    assert value(client, "stoker_sandbox_boots_total", runtime="python") >= 1
    assert value(client, "stoker_backbone_connected") == 1
    assert value(client, "stoker_storage_full") == 0
    assert value(client, "stoker_process_resident_bytes", process="nats") > 1 << 20


# -- who may read it -----------------------------------------------------------------------------


def test_without_a_token_nothing_is_told(client: Client) -> None:
    for headers in ({"authorization": ""}, {"authorization": "Bearer wrong"}):
        answer = client.http.get("/metrics", headers=headers)

        assert answer.status_code == 401
        assert answer.json()["code"].startswith("auth.")
        assert "stoker_" not in answer.text


# -- the dashboard -------------------------------------------------------------------------------


def queries() -> Iterator[tuple[str, str]]:
    """Yield title and expression of every query of the dashboard."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def parsed(expression: str) -> Expr:
    """Return a query as Prometheus would get it from Grafana."""
    for variable, text in {
        "__rate_interval": "1m",
        "__range": "1h",
        "account": ".*",
        "function": ".*",
    }.items():
        expression = expression.replace(f"${variable}", text)
    assert "$" not in expression
    return promql_parser.parse(expression)


def parts_of(node: Any) -> Iterator[Any]:
    """Yield a query and everything in it."""
    yield node
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        if (child := getattr(node, name, None)) is not None and not isinstance(child, str | float):
            yield from parts_of(child)
    for child in getattr(node, "args", None) or ():
        yield from parts_of(child)


def labels_of(metrics: dict[str, Metric], name: str) -> dict[str, set[str]]:
    """Return the labels that samples of a name have, with their values."""
    found: dict[str, set[str]] = {}
    for sample in metrics[name].samples:
        if sample.name == name:
            for label, text in sample.labels.items():
                found.setdefault(label, set()).add(text)
    return found


@pytest.fixture(scope="module")
def metrics(server: ServerProcess) -> dict[str, Metric]:
    """What a server answers that has served a call."""
    with server.client() as client:
        client.collection = "test-dashboard"
        client.result(client.function("shown", PYTHON, runtime="python"), 0)
        return read(client)


@pytest.mark.parametrize(("title", "expression"), list(queries()))
def test_every_query_of_the_dashboard_asks_for_what_there_is(
    metrics: dict[str, Metric], title: str, expression: str
) -> None:
    query = parsed(expression)

    selectors = [part for part in parts_of(query) if isinstance(part, promql_parser.VectorSelector)]
    assert selectors, title
    labels: dict[str, set[str]] = {}
    for selector in selectors:
        name = selector.name
        assert name in metrics, f"{title}: there is no {name}"
        labels |= labels_of(metrics, str(name))
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels, f"{title}: {name} has no label {matcher.name}"
            if "~" not in str(matcher.op) and ".*" not in matcher.value:
                assert matcher.value in labels[matcher.name], (
                    f"{title}: {matcher.name} is never {matcher.value}"
                )
    for part in parts_of(query):
        for label in getattr(getattr(part, "modifier", None), "labels", None) or ():
            assert label in labels, f"{title}: nothing has the label {label}"


def test_the_dashboard_names_a_data_source_that_is_chosen_when_it_is_imported() -> None:
    for panel in DASHBOARD["panels"]:
        for part in (panel, *panel.get("targets", [])):
            assert part.get("datasource", {"uid": "${datasource}"})["uid"] == "${datasource}"
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"


def test_panels_have_room_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"], panel["title"]


def test_every_metric_is_on_the_dashboard(metrics: dict[str, Metric]) -> None:
    text = " ".join(expression for _, expression in queries())

    for name in {full_name(family) for family in metrics.values()}:
        assert re.search(rf"\b{name}(_bucket|_sum|_count)?\b", text), name


# -- the page ------------------------------------------------------------------------------------


def test_the_page_of_metrics_tells_of_every_one_what_the_server_tells(metrics: dict[str, Metric]) -> None:
    rows = re.findall(r"^\| `(stoker_\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", PAGE, re.MULTILINE)

    told = {name: (kind, set(re.findall(r"`(\w+)`", labels)), says) for name, kind, labels, says in rows}
    assert told == {
        full_name(family): (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
            family.documentation,
        )
        for family in metrics.values()
    }


def test_every_alert_of_the_page_asks_for_what_there_is(metrics: dict[str, Metric]) -> None:
    alerts = re.findall(r"^ +expr: (.+)$", PAGE, re.MULTILINE)

    assert len(alerts) >= 6
    for alert in alerts:
        for part in parts_of(parsed(alert)):
            if isinstance(part, promql_parser.VectorSelector):
                assert part.name in metrics, alert
