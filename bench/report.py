"""The report: results as a table for eyes, or as one JSON document.

Does not know how a figure is taken, nor what its target is.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from load import THREADS
from peer import FUNCTIONS_FRAMEWORK, framework_version
from results import Results, Verdict, Warm, lines, median
from session import Plan

COLUMNS = 80
NAME_COLUMNS = 20
CELL_COLUMNS = 20
CELLS_A_ROW = 3  # as many as 80 columns hold


def table(results: Results, plan: Plan) -> str:
    """Return the whole report, 80 columns wide but for what a server itself said."""
    machine = results.machine
    text = [
        f"stoker bench: {machine.cores} cores, kernel {machine.kernel}, load {machine.load_average:.1f}",
        f"{machine.processor[:78]}",
        f"Node {machine.node}, Python {machine.python}, {FUNCTIONS_FRAMEWORK} {framework_version()}, "
        f"fdatasync {machine.fdatasync_ms:.2f} ms",
    ]
    if results.warm:
        text += [
            "",
            f"Warm calls of an echo, medians of {plan.rounds} rounds of {plan.seconds} s; "
            "req/s, p50 and p99 in ms.",
            "Every payload is random, every answer compared.",
            *_warm(results),
        ]
    if results.generator:
        text += ["", *_generator(results)]
    text += ["", f"{'':34} {'measured':19} {'target':11} verdict"]
    for line in lines(results, plan.parts):
        text.append(f"{line.what:34} {line.shown:19} {line.target:11} {line.verdict.value}".rstrip())
    for what, sandboxed in (("of it", False), ("instances, not counted", True)):
        parts = [process for process in results.idle if process.sandboxed == sandboxed]
        if parts:
            shown = ", ".join(f"{process.name} {process.pss_bytes / 1e6:.0f}" for process in parts)
            text.append(textwrap.fill(f"  {what}, MB: {shown}", COLUMNS, subsequent_indent="    "))
    if results.saturated:
        text += ["", f"The generator was at its limit in: {', '.join(results.saturated)}"]
    if results.complaints:
        text += ["", "Not measured, or wrong:", *(f"  {complaint}" for complaint in results.complaints)]
    return "\n".join(text)


def _warm(results: Results) -> list[str]:
    names = list(dict.fromkeys(name for name, _ in results.warm))
    counts = list(dict.fromkeys(count for _, count in results.warm))
    text = []
    for at in range(0, len(counts), CELLS_A_ROW):
        row = counts[at : at + CELLS_A_ROW]
        text.append(_row("", (f"{count} conn." for count in row)))
        text += [_row(name, (_cell(results.warm.get((name, count), [])) for count in row)) for name in names]
        text.append("CPU a call, us")
        text += [_row(name, (_cpu(results.warm.get((name, count), [])) for count in row)) for name in names]
    return text


def _row(name: str, cells: Iterable[str]) -> str:
    return f"{name:{NAME_COLUMNS}}" + "".join(f"{cell:>{CELL_COLUMNS}}" for cell in cells)


def _cpu(rounds: Sequence[Warm]) -> str:
    return f"{median(rounds, lambda w: w.server_cpu_us):.0f}" if rounds else "-"


def _cell(rounds: Sequence[Warm]) -> str:
    if not rounds:
        return "-"
    requests = median(rounds, lambda w: w.cell.requests_per_s)
    p50, p99 = median(rounds, lambda w: w.cell.p50_ms), median(rounds, lambda w: w.cell.p99_ms)
    return f"{requests:,.0f} {_ms(p50):>5} {_ms(p99):>5}"


def _ms(value: float) -> str:
    """Return three digits that count."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _generator(results: Results) -> list[str]:
    reached = ", ".join(
        f"{cell.requests_per_s:,.0f} req/s at {count}" for count, cell in results.generator.items()
    )
    busiest = max(
        (round_.cell.generator_cores for rounds in results.warm.values() for round_ in rounds), default=0.0
    )
    return [
        f"Load generator (wrk, {THREADS} thread) against a server that does nothing:",
        f"{reached};",
        f"in the cells above it used at most {busiest * 100:.0f} % of a core",
    ]


def document(results: Results, plan: Plan) -> dict[str, Any]:
    """Return the same, and every round, as JSON values."""
    warm: dict[str, dict[str, Any]] = {}
    for (name, count), found in results.warm.items():
        warm.setdefault(name, {})[str(count)] = {
            "requests_per_s": median(found, lambda w: w.cell.requests_per_s),
            "p50_ms": median(found, lambda w: w.cell.p50_ms),
            "p99_ms": median(found, lambda w: w.cell.p99_ms),
            "server_cpu_us": median(found, lambda w: w.server_cpu_us),
            "rounds": [asdict(round_.cell) | {"server_cpu_us": round_.server_cpu_us} for round_ in found],
        }
    return {
        "machine": asdict(results.machine) | {"functions_framework": framework_version()},
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "warm": warm,
        "generator": {str(count): asdict(cell) for count, cell in results.generator.items()},
        "first_answer": {runtime: asdict(found) for runtime, found in results.first_answer.items()},
        "create": asdict(results.create) if results.create else None,
        "ready": asdict(results.ready) if results.ready else None,
        "records_kept": results.kept,
        "async_accept": asdict(results.accept) if results.accept else None,
        "async_accepts_per_s": results.accepts_per_s,
        "look_up": asdict(results.looked_up) if results.looked_up else None,
        "list": asdict(results.listed) if results.listed else None,
        "backlog": [asdict(found) for found in results.backlog] if results.backlog else None,
        "functions": asdict(results.many) if results.many else None,
        "egress": {kind: asdict(found) for kind, found in results.reached.items()},
        "idle_memory": [asdict(process) for process in results.idle],
        "targets": [
            {"what": line.what, "value": line.value, "target": line.target, "verdict": line.verdict.value}
            for line in lines(results, plan.parts)
            if line.verdict is not Verdict.NO_TARGET
        ],
        "ratios": {line.what: line.value for line in lines(results, plan.parts) if "/" in line.what},
        "saturated": results.saturated,
        "complaints": results.complaints,
    }
