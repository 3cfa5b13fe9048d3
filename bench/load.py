"""Load: wrk run once against one echo, and what it saw.

Owns the command line of wrk and the reading of what echo.lua prints. Does not know which server it is.
"""

from __future__ import annotations

import os
import resource
import secrets
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from exchange import Exchange
from program import CannotMeasure

SCRIPT = Path(__file__).with_name("echo.lua")
THREADS = 1  # the cores are the server's; README says what that thread can do


@dataclass(frozen=True, slots=True)
class Cell:
    """One server under one number of connections, once."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    answers: int
    wrong: int  # answers that no outstanding payload gives, or of another status than 200
    errors: int  # connections refused or broken, and answers that took over 2 s
    first_wrong: str
    generator_cores: float  # CPU time of wrk by the time it ran


def run_wrk(exchange: Exchange, *, connections: int, seconds: int) -> Cell:
    """Load the echo for so many seconds. Raises CannotMeasure if wrk is missing or fails."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise CannotMeasure("wrk is missing: apt-get install -y wrk")
    command = [wrk, f"-t{THREADS}", f"-c{connections}", f"-d{seconds}s", "-s", str(SCRIPT)]
    parts = {
        "BENCH_HEAD": exchange.head,
        "BENCH_TAIL": exchange.tail,
        "BENCH_ANSWER_HEAD": exchange.answer_head,
        "BENCH_ANSWER_TAIL": exchange.answer_tail,
        "BENCH_SEED": str(secrets.randbelow(2**31)).encode(),
    }
    before = _children_cpu_s()
    # the token travels in the environment: a command line is readable to every user
    ended = subprocess.run(
        [*command, f"http://127.0.0.1:{exchange.port}"],
        env={**os.environb, **{name.encode(): value for name, value in parts.items()}},
        capture_output=True,
        check=False,
        start_new_session=True,
    )
    cpu_s = _children_cpu_s() - before
    if ended.returncode != 0:
        raise CannotMeasure(
            f"wrk ended with {ended.returncode}: {ended.stderr.decode(errors='replace')[:300]}"
        )
    return read_facts(ended.stdout.decode(errors="replace"), cpu_s)


def read_facts(text: str, cpu_s: float) -> Cell:
    """Return what the lines of echo.lua's `done` say. Raises CannotMeasure if nothing was answered."""
    sums: Counter[str] = Counter()
    latencies: Counter[int] = Counter()
    seconds, first_wrong = 0.0, ""
    for line in text.splitlines():
        mark, _, fact = line.partition(" ")
        name, _, value = fact.partition(" ")
        if mark != "bench":
            continue
        if name == "seconds":
            seconds = float(value)
        elif name == "first_wrong":
            first_wrong = first_wrong or value
        elif name == "latency":
            tenth_us, count = value.split()
            latencies[int(tenth_us)] += int(count)
        else:
            sums[name] += int(value)
    if seconds <= 0 or not latencies:
        seen = f"{sums['wrong']} wrong answers, {sums['errors']} errors; the first: {first_wrong or 'none'}"
        raise CannotMeasure(f"no call was answered rightly ({seen})")
    return Cell(
        requests_per_s=sums["answers"] / seconds,
        p50_ms=percentile_ms(latencies, 0.50),
        p99_ms=percentile_ms(latencies, 0.99),
        answers=sums["answers"],
        wrong=sums["wrong"],
        errors=sums["errors"],
        first_wrong=first_wrong,
        generator_cores=cpu_s / seconds,
    )


def percentile_ms(latencies: Counter[int], share: float) -> float:
    """Return the latency that this share of the calls did not exceed; counted are tenths of a microsecond."""
    rank = share * latencies.total()
    for tenth_us in sorted(latencies):
        rank -= latencies[tenth_us]
        if rank <= 0:
            return tenth_us / 10_000
    raise ValueError("no latency was counted")


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
