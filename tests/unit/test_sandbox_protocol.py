"""Messages between gateway and supervisor: what is well formed passes unchanged, nothing else passes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.egress.protocol import Bounds
from stoker.model.packet import Malformed, encode
from stoker.sandbox.protocol import (
    Assign,
    Boot,
    Booted,
    Brokered,
    Count,
    Counted,
    Done,
    Ended,
    Failed,
    Hurry,
    Kill,
    Note,
    PlanSetup,
    Ready,
    Refused,
    Report,
    Request,
    Setup,
    Usage,
    Used,
    report,
    request,
    setup,
)

SANDBOX = "0123456789ab"
ASSIGN = Assign(3, SANDBOX, "f" * 64, True, 1 << 28, 500, 64, ("db.internal:5432",))
REQUESTS: list[Request] = [
    Boot(1, "nodejs", True),
    ASSIGN,
    Assign(4, SANDBOX, None, False, 1 << 20, 1, 0, ()),
    Usage(5, SANDBOX),
    Count(6, SANDBOX),
    Hurry(SANDBOX),
    Kill(SANDBOX),
]
REPORTS: list[Report] = [
    Ready(),
    Refused("no cgroups"),
    Booted(1, SANDBOX),
    Done(2),
    Failed(3, "because\nof this"),
    Used(4, 1 << 20, True),
    Counted(5, {"cpu": {"usage": {"total": (1 << 64) - 1}}, "blkio": {"x": [{"op": "Read", "value": 0}]}}),
    Counted(6, {}),
    Ended(SANDBOX, None, 9, True, True, False, 1 << 20),
    Ended(SANDBOX, 0, None, False, False, False, 0),
    Brokered(),
    Note("sandbox.leftover", "busy"),
]
PLAN = PlanSetup(("/a", "/b"), ("/bin/sh", "-c", "x"), (("PATH", "/usr/bin"), ("EMPTY", "")), 4)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
BOUNDS = Bounds(True, ("10.0.0.0/8", "fd00::/8"), 256, 1024, 1 << 30, 1 << 36, 300_000, 10_000)
SETUP = Setup("crun", "/usr/bin/crun", "0123456789ab", "/data/code", 1 << 26, {"python": PLAN}, BOUNDS)


@pytest.mark.parametrize("message", REQUESTS, ids=repr)
def test_a_request_is_read_as_it_was_written(message: Request) -> None:
    packet = encode(message)

    assert request(packet) == message


@pytest.mark.parametrize("message", REPORTS, ids=repr)
def test_a_report_is_read_as_it_was_written(message: Report) -> None:
    packet = encode(message)

    assert report(packet) == message


def test_a_setup_is_read_as_it_was_written() -> None:
    packet = encode(SETUP)

    assert setup(packet) == SETUP


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sandbox", "../../../etc"),
        ("sandbox", SANDBOX + "\n"),
        ("sandbox", SANDBOX.upper()),
        ("folder", "../" + "f" * 61),
        ("folder", "f" * 64 + "\n"),
        ("folder", "F" * 64),
        ("folder", "f" * 63),
        ("folder", ""),
        ("writable", 1),
        ("writable", None),
        ("memory_bytes", 0),
        ("memory_bytes", -1),
        ("memory_bytes", 1 << 60),
        ("memory_bytes", 1.5e8),
        ("memory_bytes", True),
        ("memory_bytes", "1000000000"),
        ("cpu_millis", 0),
        ("processes", -1),
        ("processes", 10**9),
        ("tag", 0),
        ("tag", 1 << 60),
    ],
)
def test_a_field_out_of_bounds_is_refused(field: str, value: Any) -> None:
    fields = json.loads(encode(ASSIGN))
    fields[field] = value

    with pytest.raises(Malformed):
        request(json.dumps(fields).encode())


@pytest.mark.parametrize("change", ["more", "less", "kind", "report"])
def test_unknown_missing_and_foreign_fields_are_refused(change: str) -> None:
    fields = json.loads(encode(ASSIGN))
    if change == "more":
        fields["argv"] = ["/bin/sh"]
    elif change == "less":
        del fields["writable"]
    else:
        fields["is"] = {"kind": "Exec", "report": "Done"}[change]

    with pytest.raises(Malformed):
        request(json.dumps(fields).encode())


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_other_packet_is_malformed_and_no_other_error(packet: bytes) -> None:
    with pytest.raises(Malformed):
        request(packet)


@pytest.mark.parametrize(
    "figures",
    [
        [],
        {"a": -1},
        {"a": 1 << 64},
        {"a": 1.5},
        {"a": True},
        {"a": None},
        {"a": "/sys/fs/cgroup"},
        {"../a": 1},
        {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}},
    ],
)
def test_figures_that_are_no_tree_of_counts_are_refused(figures: Any) -> None:
    packet = encode(Counted(5, {}))
    fields = {**json.loads(packet), "figures": figures}

    with pytest.raises(Malformed):
        report(json.dumps(fields).encode())


def test_nesting_without_end_is_malformed() -> None:
    packet = b"[" * 100_000

    with pytest.raises(Malformed):
        request(packet)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("runtime", "docker"),
        ("binary", "crun"),
        ("owner", "../x"),
        ("code_root", "code"),
        ("tmp_bytes_max", 0),
        ("plans", {"../x": {}}),
        ("plans", {"x": {"layers": ["relative"], "argv": ["a"], "env": [], "own_threads": 0}}),
        ("plans", {"x": {"layers": ["/a"], "argv": [], "env": [], "own_threads": 0}}),
        ("plans", {"x": {"layers": ["/a"], "argv": ["a\0b"], "env": [], "own_threads": 0}}),
        ("plans", {"x": {"layers": ["/a"], "argv": ["a"], "env": [["A=B", ""]], "own_threads": 0}}),
        ("plans", {"x": {"layers": ["/a"], "argv": ["a"], "env": [], "own_threads": -1}}),
        ("plans", {"x": {"layers": ["/a"], "argv": ["a"], "env": []}}),
        ("plans", []),
    ],
)
def test_a_setup_out_of_bounds_is_refused(field: str, value: Any) -> None:
    fields = json.loads(encode(SETUP))
    fields[field] = value

    with pytest.raises(Malformed):
        setup(json.dumps(fields).encode())
