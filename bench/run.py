"""./dev bench: how fast and how lean stoker is, beside its peers in the same run.

Owns the command line and the exit code: 0 when all that was asked for was measured, whatever the
verdicts; 1 when something could not be measured or was answered wrongly; 130 when interrupted.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from machine import this_machine
from peer import node_version
from report import document, table
from results import Results
from session import PARTS, Plan, Session

CHECKOUT = Path(__file__).resolve().parents[1]
BUILD = CHECKOUT / "build" / "bench"
LOG = BUILD / "servers.log"  # what the measured servers say on standard error

USUAL = {"rounds": 5, "seconds": 2, "connections": "1,16,64", "functions": 30, "creates": 100, "starts": 5}
USUAL |= {"stored": 100_000, "backlog": 100_000, "many": 2_000}
QUICK = {"rounds": 2, "seconds": 1, "connections": "1,16", "functions": 8, "creates": 30, "starts": 2}
QUICK |= {"stored": 10_000, "backlog": 5_000, "many": 200}


def parse(arguments: Sequence[str]) -> tuple[Plan, bool]:
    """Return the plan, and whether the report is to be JSON; --quick only gives other defaults."""
    parser = argparse.ArgumentParser(prog="./dev bench", description="How fast, how lean, beside the peers.")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--quick", action="store_true", help="a first impression in under a minute")
    parser.add_argument(
        "--only", metavar="PARTS", type=_parts, default=PARTS, help=f"some of {','.join(PARTS)}"
    )
    parser.add_argument("--no-peers", action="store_true", help="stoker alone")
    for name, what in (
        ("rounds", "rounds of the warm calls"),
        ("seconds", "length of one cell of a round"),
        ("functions", "first answers timed, each runtime"),
        ("creates", "creates timed"),
        ("starts", "starts timed until ready"),
        ("stored", "records stored before any is looked up"),
        ("backlog", "Async calls that wait while first answers of others are timed"),
        ("many", "functions of a server that has many"),
    ):
        parser.add_argument(f"--{name}", metavar="N", type=_positive, help=_usual(name, what))
    parser.add_argument(
        "--connections", metavar="N,N", type=_numbers, help=_usual("connections", "of the load")
    )
    parser.add_argument("--stoker", metavar="COMMAND", help="what is measured; ./dev of this checkout")
    parser.add_argument(
        "--serve-options", metavar="OPTIONS", default="", help="more options for every server"
    )
    parser.add_argument("--data-parent", metavar="DIR", type=Path, help="on the disk to measure; /var/tmp")
    typed = vars(parser.parse_args(arguments))
    given = {name: value for name, value in typed.items() if value is not None}
    chosen = {**USUAL, **(QUICK if typed["quick"] else {}), **given}
    plan = Plan(
        parts=chosen["only"],
        peers=not chosen["no_peers"],
        rounds=chosen["rounds"],
        seconds=chosen["seconds"],
        connections=_numbers(chosen["connections"]) if "connections" not in given else given["connections"],
        functions=chosen["functions"],
        creates=chosen["creates"],
        starts=chosen["starts"],
        stored=chosen["stored"],
        backlog=chosen["backlog"],
        many=chosen["many"],
        stoker=tuple(shlex.split(chosen.get("stoker", shlex.quote(str(CHECKOUT / "dev"))))),
        serve_options=tuple(shlex.split(chosen["serve_options"])),
        data_parent=chosen.get("data_parent", Path("/var/tmp")),
    )
    return plan, bool(typed["json"])


def _usual(name: str, what: str) -> str:
    return f"{what}; {USUAL[name]}, quick {QUICK[name]}"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(number) for number in text.split(","))


def _parts(text: str) -> tuple[str, ...]:
    for part in (parts := tuple(text.split(","))):
        if part not in PARTS:
            raise argparse.ArgumentTypeError(f"{part} is none of {', '.join(PARTS)}")
    return parts


def tell(text: str) -> None:
    """Show progress; standard output is the report's."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Measure, print the report, and return the exit code."""
    plan, as_json = parse(arguments)
    # a polite kill stops the servers too, as Ctrl-C does
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    BUILD.mkdir(parents=True, exist_ok=True)
    LOG.write_bytes(b"")
    began = time.monotonic()
    results = Results(this_machine(node_version(), plan.data_parent))
    try:
        Session(plan, results, peers_directory=BUILD / "peers", log=LOG, tell=tell).run()
    except KeyboardInterrupt:
        tell("interrupted; what was started is stopped")
        return 130
    tell(f"took {time.monotonic() - began:.0f} s; what the servers said is in {LOG.relative_to(CHECKOUT)}")
    print(json.dumps(document(results, plan)) if as_json else table(results, plan))
    return 1 if results.complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
