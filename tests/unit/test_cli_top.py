"""`stoker top`: what is made of two samples of a server, and how it is shown in 24 lines of 80 columns."""

from __future__ import annotations

import io
from typing import Any

import pytest

from stoker.cli.exposition import parse, value_of
from stoker.cli.load import Load, Sample, load_between, quantile_ms, sample_of
from stoker.cli.screen import Screen
from stoker.cli.top import head, picture, rows
from stoker.client.types import Machine, Service, ServiceStats
from stoker.telemetry.exposition import Sample as Measured
from stoker.telemetry.exposition import counter, render
from stoker.telemetry.metrics import Phases

MIB = 1 << 20


def service(name: str, requests: int, errors: int = 0, average_ms: float = 2.0) -> Service:
    return Service(
        id=name,
        name=name,
        version="1.0.0",
        endpoints=[{"subject": f"ms.compute.shop.function.id-of-{name}"}],
        metadata={"account": "default", "collection": "shop", "function": name},
        stats=ServiceStats(requests=requests, errors=errors, average_processing_ms=average_ms),
    )


def machine(name: str, memory: int = 10 * MIB, owner: str = "default") -> Machine:
    return Machine(
        id="m",
        pid=1,
        status="running",
        runtime="python",
        runtime_version="3",
        memory="",
        created="",
        annotations={"namespace": "shop", "service": f"id-of-{name}"},
        owner=owner,
        stats={"CgroupStats": {"memory": {"usage": {"usage": memory}}}},
    )


def metrics(calls: int, run_s: float, phases: Phases | None = None) -> str:
    labels = {"account": "other", "function": "shop/theirs"}
    return render(
        [
            counter(
                "stoker_function_invocations_total",
                "",
                Measured(calls - 1, {**labels, "reason": "ok"}),
                Measured(1, {**labels, "reason": "error"}),
            ),
            counter("stoker_function_run_seconds_total", "", Measured(run_s, labels)),
            (phases or Phases()).family("stoker_invocation_phase_seconds", ""),
        ]
    )


def between(before: Sample, now: Sample) -> dict[str, Any]:
    return {row.function: row for row in load_between(before, now).functions}


# -- the arithmetic ----------------------------------------------------------------------------------


def test_calls_a_second_are_what_came_in_the_meantime() -> None:
    before = sample_of(10.0, [service("a", 100, 4)], [], None)
    now = sample_of(12.0, [service("a", 150, 6)], [], None)

    row = between(before, now)["shop/a"]

    assert (row.calls_per_second, row.errors_per_second) == (25.0, 1.0)
    assert (row.calls, row.errors) == (150, 6)


def test_the_busiest_function_comes_first() -> None:
    before = sample_of(0, [service("a", 900), service("b", 5), service("c", 10)], [], None)
    now = sample_of(1, [service("a", 900), service("b", 8), service("c", 12)], [], None)

    assert list(between(before, now)) == ["shop/b", "shop/c", "shop/a"]


def test_the_latency_is_that_of_the_meantime_not_of_all_calls() -> None:
    before = sample_of(0, [service("a", 100, average_ms=1.0)], [], None)
    now = sample_of(1, [service("a", 200, average_ms=5.5)], [], None)

    row = between(before, now)["shop/a"]

    assert row.average_ms == pytest.approx(10.0)


def test_a_latency_that_is_an_error_of_rounding_is_not_shown() -> None:
    before = sample_of(0, [service("a", 10_000_000, average_ms=1.0)], [], None)
    now = sample_of(1, [service("a", 10_000_100, average_ms=1.001)], [], None)

    assert between(before, now)["shop/a"].average_ms is None


def test_a_server_that_was_started_again_is_counted_from_nothing() -> None:
    before = sample_of(0, [service("a", 1000)], [], None)
    now = sample_of(1, [service("a", 7)], [], None)

    assert between(before, now)["shop/a"].calls_per_second == 7


def test_instances_and_their_memory_belong_to_the_function_by_its_present_name() -> None:
    machines = [machine("a", 10 * MIB), machine("a", 5 * MIB), machine("b", 1 * MIB, owner="other")]
    now = sample_of(1, [service("a", 0)], machines, None)

    load = load_between(now, now)

    assert {(row.account, row.function, row.instances, row.memory_bytes) for row in load.functions} == {
        ("default", "shop/a", 2, 15 * MIB),
        ("other", "shop/id-of-b", 1, 1 * MIB),
    }
    assert (load.instances, load.memory_bytes) == (3, 16 * MIB)


def test_an_administrator_sees_functions_of_other_accounts_and_the_server() -> None:
    phases = Phases()
    before = sample_of(0, [], [], metrics(11, 1.0, phases))
    for _ in range(10):
        phases.ended(0, 0, 2.0)
    now = sample_of(1, [], [], metrics(21, 1.05, phases))

    load = load_between(before, now)

    [row] = load.functions
    assert (row.account, row.function, row.calls_per_second, row.errors) == ("other", "shop/theirs", 10, 1)
    assert row.average_ms == pytest.approx(5.0)
    assert load.server is not None
    assert load.server.run_p50_ms == pytest.approx(1.75)  # in the middle of 1 to 2.5


def test_who_may_see_no_metrics_sees_no_server() -> None:
    now = sample_of(1, [service("a", 1)], [], None)

    assert load_between(now, now).server is None


@pytest.mark.parametrize(
    ("buckets", "share", "ms"),
    [
        ([], 0.5, None),
        ([(1, 0), (float("inf"), 0)], 0.5, None),
        ([(1, 10), (2, 10)], 0.5, 0.5),
        ([(1, 0), (2, 10)], 0.99, 1.99),
        ([(1, 5), (2, 10)], 0.5, 1.0),
        ([(1, 0), (2, 0), (float("inf"), 4)], 0.5, 2),
    ],
)
def test_a_quantile_lies_within_its_bucket(
    buckets: list[tuple[float, float]], share: float, ms: float | None
) -> None:
    assert quantile_ms(buckets, share) == (None if ms is None else pytest.approx(ms))


def test_what_the_server_renders_is_read_back() -> None:
    hard = {"name": 'a "b" \\ c\nd, e="f"} 7'}
    text = render([counter("one_total", "help", Measured(1.5, hard), Measured(2, {"name": "x"}))])

    series = parse(text + "nonsense\n{} x\none_total nan?\n")

    assert series == {"one_total": [(hard, 1.5), ({"name": "x"}, 2.0)]}
    assert value_of(series, "one_total") == 3.5
    assert value_of(series, "one_total", name="x") == 2
    assert value_of(series, "none") == 0


# -- the screen --------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    return Screen(json=False, out=Terminal(), environ={"NO_COLOR": "1"})


def many(count: int) -> Load:
    def services(more: int) -> list[Service]:
        return [
            service(f"function-{number}-{'long' * 20}", number * 10_000_000 + more, more)
            for number in range(count)
        ]

    machines = [machine("x", 1 << 30)] * 300
    before = sample_of(0, services(0), [], metrics(2, 0))
    return load_between(before, sample_of(1, services(99_999), machines, metrics(50_000, 1.0)))


def test_many_functions_with_great_numbers_fit_the_terminal(screen: Screen) -> None:
    load = many(100)

    above = head(load, "http://127.0.0.1:8080", "12:00:00")
    lines = [*above, "", *rows(load, screen.height - len(above) - 1, screen)]

    assert len(lines) == 24
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "and 86 more"


def test_a_table_that_is_printed_is_not_cut() -> None:
    load = many(100)

    lines = rows(load, None, Screen(json=False, out=io.StringIO()))

    assert len(lines) == 1 + len(load.functions)
    assert any("long" * 20 in line for line in lines)


def test_a_picture_covers_the_last_one_and_never_scrolls() -> None:
    drawn = picture([f"line {number}" for number in range(50)], 24)

    assert drawn.startswith("\x1b[H")
    assert drawn.endswith("\x1b[J")
    assert drawn.count("\n") == 23


def test_an_empty_server_says_so(screen: Screen) -> None:
    now = sample_of(1, [], [], None)

    assert rows(load_between(now, now), 10, screen)[-1] == "no functions yet"
