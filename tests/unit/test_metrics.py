"""Metrics: their text as Prometheus' own parser reads it, the phases of calls, and who has a row of its own."""

from __future__ import annotations

import math
import os

from prometheus_client.parser import text_string_to_metric_families

from stoker.telemetry.busiest import Busiest, Followed, Row
from stoker.telemetry.exposition import Family, Sample, counter, gauge, render
from stoker.telemetry.metrics import PHASE_MS, Phases
from stoker.telemetry.process import open_files, use_of


def values(*families: Family) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return what Prometheus reads: values by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(render(families))
        for sample in family.samples
    }


# -- the text ------------------------------------------------------------------------------------


def test_what_is_written_is_what_prometheus_reads() -> None:
    read = values(
        counter("calls_total", "Calls.", Sample(3, {"reason": "ok"}), Sample(1.25, {"reason": "error"})),
        gauge("depth", "How deep.", Sample(10**15)),
    )

    assert read == {
        ("calls_total", (("reason", "ok"),)): 3,
        ("calls_total", (("reason", "error"),)): 1.25,
        ("depth", ()): 10**15,
    }


def test_a_label_may_hold_anything() -> None:
    hostile = 'a"} 7\nother_total{x="\\n\t日本'

    read = values(counter("calls_total", 'Help\nwith \\ and "quotes"', Sample(1, {"function": hostile})))

    assert read == {("calls_total", (("function", hostile),)): 1}


def test_half_a_surrogate_pair_does_not_cost_the_answer() -> None:
    text = render([gauge("depth", "", Sample(1, {"function": "c/\ud83d"}))])

    assert b'depth{function="c/?"} 1' in text.encode()


def test_a_metric_without_values_still_tells_its_kind() -> None:
    (family,) = text_string_to_metric_families(render([counter("calls_total", "Calls.")]))

    assert (family.type, family.documentation, family.samples) == ("counter", "Calls.", [])


# -- phases --------------------------------------------------------------------------------------


def phases_read(phases: Phases) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return values(phases.family("phase_seconds", "Phases."))


def test_a_phase_is_counted_in_every_bucket_that_it_fits_in() -> None:
    phases = Phases()

    phases.ended(queue_ms=0.1, init_ms=3.0, run_ms=900_000.1)

    read = phases_read(phases)
    queue = [read["phase_seconds_bucket", (("le", le), ("phase", "queue"))] for le in ("0.0001", "0.00025")]
    init = [read["phase_seconds_bucket", (("le", le), ("phase", "init"))] for le in ("0.0025", "0.005")]
    run = [read["phase_seconds_bucket", (("le", le), ("phase", "run"))] for le in ("900", "+Inf")]
    assert (queue, init, run) == ([1, 1], [0, 1], [0, 1])  # a bound belongs to its bucket
    assert math.isclose(read["phase_seconds_sum", (("phase", "init"),)], 0.003)
    assert read["phase_seconds_count", (("phase", "run"),)] == 1


def test_a_warm_call_has_no_init_and_one_that_never_began_has_no_run() -> None:
    phases = Phases()

    phases.ended(queue_ms=0.0, init_ms=0.0, run_ms=0.2)
    phases.ended(queue_ms=5_000.0, init_ms=0.0, run_ms=0.0)

    read = phases_read(phases)
    counts = {phase: read["phase_seconds_count", (("phase", phase),)] for phase in ("queue", "init", "run")}
    assert counts == {"queue": 2, "init": 0, "run": 1}


def test_bounds_rise_and_reach_from_a_warm_call_to_the_longest_timeout() -> None:
    assert list(PHASE_MS) == sorted(set(PHASE_MS))
    assert PHASE_MS[0] <= 0.1
    assert PHASE_MS[-1] == 900_000


# -- the busiest ---------------------------------------------------------------------------------


def one(name: str, calls: float, *, gone: bool = False) -> Followed:
    return Followed(name, None if gone else {"function": name}, calls, {"ok": calls})


def shown(rows: list[Row]) -> dict[str, float]:
    """Return the calls of each row, by name; of the rest under `other`."""
    return {
        "other" if row.labels is None else row.labels["function"]: row.counts.get("ok", 0.0) for row in rows
    }


def test_as_long_as_there_is_room_each_has_a_row() -> None:
    busiest = Busiest(2)

    assert shown(busiest.rows([one("a", 3), one("b", 0)])) == {"a": 3, "b": 0, "other": 0}
    assert shown(busiest.rows([one("a", 4), one("b", 5)])) == {"a": 4, "b": 5, "other": 0}


def test_those_without_a_row_are_counted_together() -> None:
    busiest = Busiest(1)

    rows = shown(busiest.rows([one("a", 3), one("b", 2), one("c", 2)]))

    assert rows == {"a": 3, "other": 4}


def test_one_that_becomes_much_busier_takes_the_place_of_the_least_busy() -> None:
    busiest = Busiest(2)
    busiest.rows([one("a", 50), one("b", 10), one("c", 0)])

    busiest.rows([one("a", 50), one("b", 10), one("c", 40)])
    rows = shown(busiest.rows([one("a", 50), one("b", 11), one("c", 47)]))

    # c's first 40 calls were counted with the rest, and stay there: no row ever shrinks
    assert rows == {"a": 50, "c": 7, "other": 41}


def test_one_that_is_hardly_busier_does_not() -> None:
    busiest = Busiest(1)
    busiest.rows([one("a", 10), one("b", 0)])

    busiest.rows([one("a", 10), one("b", 15)])

    assert shown(busiest.rows([one("a", 10), one("b", 15)])) == {"a": 10, "other": 15}


def test_no_row_ever_shrinks_and_each_call_is_in_one_whoever_comes_and_goes() -> None:
    busiest = Busiest(2)
    calls = dict.fromkeys("abcd", 0.0)
    last: dict[str, float] = {}
    ended = 0.0  # what rows had that are there no more

    for step, busy in enumerate("aaabbbcccdddaabbccdd"):
        calls[busy] += 10 * (step + 1)
        rows = shown(busiest.rows([one(name, count) for name, count in calls.items()]))
        ended += sum(count for name, count in last.items() if name not in rows)
        for name, count in rows.items():
            assert count >= last.get(name, 0.0)
        assert sum(rows.values()) + ended == sum(calls.values())
        last = rows


def test_what_is_gone_gives_its_row_to_another_and_goes_on_with_the_rest() -> None:
    busiest = Busiest(1)
    busiest.rows([one("a", 10), one("b", 0)])

    busiest.rows([one("a", 12, gone=True), one("b", 1)])
    rows = shown(busiest.rows([one("a", 13, gone=True), one("b", 5)]))

    assert rows == {"b": 4, "other": 2 + 1 + 1}


# -- processes -----------------------------------------------------------------------------------


def test_a_process_shows_what_it_uses() -> None:
    use = use_of(os.getpid())

    assert use is not None
    assert 1 << 20 < use.resident_bytes < 1 << 40
    assert 0 < use.cpu_s < 1e6


def test_a_process_that_is_not_there_shows_nothing() -> None:
    assert use_of(2**22 + 1) is None  # beyond what the kernel gives


def test_a_file_that_is_opened_is_counted() -> None:
    before = open_files()

    with open(os.devnull, encoding="ascii"):
        assert open_files() == before + 1
