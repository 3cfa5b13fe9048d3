"""Tunnels of egress: where they may lead, and where their names stand inside a sandbox."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.edge.http import bodies
from stoker.model.egress import is_address, parse_rule, parse_tunnel
from stoker.model.function import CodeVersion
from stoker.sandbox import names
from stoker.testing.functions import a_function
from stoker.worker.handover import rules_of, tunnels_of

EXTRA = get_args(bodies.TunnelTarget)[1].extra_json_schema
TARGETS = st.from_regex(re.compile(EXTRA["pattern"]), fullmatch=True).filter(lambda text: len(text) <= 254)
LOOPBACK = re.compile(EXTRA["not"]["pattern"])


@given(TARGETS)
def test_what_the_description_calls_a_tunnel_is_one_and_a_rule_too(text: str) -> None:
    if LOOPBACK.match(text):
        with pytest.raises(ValueError, match="leads to a name"):
            parse_tunnel(text)
        return

    tunnel = parse_tunnel(text)

    assert not is_address(tunnel.host)
    assert parse_rule(str(tunnel)) == parse_tunnel(str(tunnel)) == tunnel


@given(st.text("ab.:*[]0123456789-_ \n\t#", max_size=30))
def test_a_tunnel_names_one_host_that_a_hosts_file_can_hold(text: str) -> None:
    try:
        tunnel = parse_tunnel(text)
    except ValueError:
        return

    assert re.fullmatch(r"[a-z0-9_.-]{1,253}:[0-9]{1,5}", str(tunnel))


@pytest.mark.parametrize(
    "text",
    [
        *("", "db", "db:", "db:0", "db:65536", "*:1", "*.db:1", "10.0.0.1:1", "[::1]:1", "127.1:80"),
        *("localhost:1", "LocalHost.:1", "a.localhost:1", "d b:1", "db:1 ", "db#:1"),
    ],
)
def test_what_is_no_tunnel_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_tunnel(text)


def test_each_host_has_an_address_of_its_own_and_its_ports_share_it() -> None:
    tunnels = ("db.internal:5432", "cache:6379", "db.internal:5433")

    places = names.places(tunnels)

    assert [place[1:] for place in places] == [(5432, tunnels[0]), (6379, tunnels[1]), (5433, tunnels[2])]
    assert places[0][0] == places[2][0] != places[1][0]
    assert all(ipaddress.ip_address(place[0]).is_loopback for place in places)


def test_a_hosts_file_names_the_loopback_and_each_host_once(tmp_path: Path) -> None:
    path = tmp_path / "hosts"

    names.write_hosts(str(path), ("db.internal:5432", "db.internal:5433", "cache:6379"))

    assert path.read_text().split() == [
        *("127.0.0.1", "localhost", "::1", "localhost", "ip6-localhost"),
        *("127.0.1.1", "db.internal", "127.0.1.2", "cache"),
    ]


def a_version(**network: object) -> CodeVersion:
    return replace(a_function().code, network=network)


def test_a_version_may_reach_where_its_tunnels_lead_beside_what_it_lists_or_the_web() -> None:
    assert rules_of(a_version(tunnels=["DB.internal:5432"])) == ("*:80", "*:443", "db.internal:5432")
    assert rules_of(a_version(tunnels=["db.internal:5432"], egress=[])) == ("db.internal:5432",)
    assert rules_of(a_version(tunnels=[], egress=["a.test:1"])) == ("a.test:1",)


def test_a_tunnel_that_does_not_parse_any_more_leads_nowhere() -> None:
    assert tunnels_of(a_version(tunnels=["localhost:1", "db.internal:5432"])) == ("db.internal:5432",)
