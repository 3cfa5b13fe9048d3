"""Rules of egress: how hosts are spelled, which rules there are, and what each allows."""

from __future__ import annotations

import ipaddress
import re
import string
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stoker.edge.http import bodies
from stoker.model.egress import Rule, authority_of, host_of, is_address, parse_rule, port_of, rule_for

PATTERN = re.compile(get_args(bodies.EgressRule)[1].extra_json_schema["pattern"])
LABELS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,20}", fullmatch=True)
NAMES = st.builds(
    lambda labels, last: ".".join([*labels, last]),
    st.lists(LABELS, max_size=3),
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,10}", fullmatch=True),
)
PORTS = st.integers(1, 65535)
SPELLINGS = st.text(string.ascii_letters + string.digits + ".:[]*-_%/@ \\\n\0", max_size=40)


@given(NAMES, PORTS)
def test_a_rule_of_a_name_allows_that_name_at_that_port_alone(name: str, port: int) -> None:
    rule = parse_rule(f"{name}:{port}")

    host = host_of(name.upper() + ".")

    assert rule.allows(host, port)
    assert not rule.allows(host, port % 65535 + 1)
    assert not rule.allows(f"x.{host}", port)
    assert not rule.allows(f"x{host}", port)


@given(NAMES, LABELS, PORTS)
def test_a_wildcard_allows_what_is_beneath_and_not_the_name_itself(name: str, label: str, port: int) -> None:
    rule = parse_rule(f"*.{name}:{port}")

    assert rule.allows(host_of(f"{label}.{name}"), port)
    assert rule.allows(host_of(f"{label}.{label}.{name}"), port)
    assert not rule.allows(host_of(name), port)
    assert not rule.allows(host_of(f"x{label}{name}"), port)


@given(st.ip_addresses(), PORTS)
def test_an_address_has_one_canonical_form(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    written = str(address) if address.version == 4 else f"[{address.exploded.upper()}]"

    rule = parse_rule(f"{written}:{port}")

    assert is_address(host_of(written))
    assert rule.allows(host_of(written), port)
    assert parse_rule("*:1").allows(host_of(written), 1)
    assert parse_rule(str(rule)) == rule


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_the_one_that_it_maps(address: ipaddress.IPv4Address) -> None:
    assert host_of(f"[::ffff:{address}]") == str(address)


@given(SPELLINGS)
@example("127.1")
@example("0x7f.0.0.1")
@example("0177.0.0.1")
@example("2130706433")
@example("0x7f000001")
@example("127.0.0.1.")
@example("127.000.000.001")
@example("[fe80::1%eth0]")
@example("\uff11\uff12\uff17.0.0.1")
@example("a..b")
def test_whatever_is_a_host_is_a_name_or_an_address_that_no_resolver_reads_otherwise(text: str) -> None:
    try:
        host = host_of(text)
    except ValueError:
        return

    if is_address(host):
        assert host == str(ipaddress.ip_address(host))
    else:
        assert re.fullmatch(r"(?:[a-z0-9_][a-z0-9_-]*\.)*[a-z_][a-z0-9_-]*", host)
    assert host_of(f"[{host}]" if ":" in host else host) == host


@given(SPELLINGS, PORTS)
def test_a_rule_reads_as_it_is_written_out_again(host: str, port: int) -> None:
    try:
        rule = parse_rule(f"{host}:{port}")
    except ValueError:
        return

    assert parse_rule(str(rule)) == rule


@given(st.from_regex(PATTERN, fullmatch=True).filter(lambda text: len(text) <= 254))
def test_what_the_description_calls_a_rule_is_one(text: str) -> None:
    assert parse_rule(text).port > 0


@pytest.mark.parametrize("text", ["", "0", "65536", "-1", "+1", " 1", "1 ", "0x50", "\uff18\uff10", "000080"])
def test_a_port_is_a_number_in_its_range(text: str) -> None:
    with pytest.raises(ValueError, match="port"):
        port_of(text)


def test_a_wildcard_of_a_name_allows_no_address() -> None:
    assert not Rule("*.1", 80).allows("10.0.0.1", 80)
    with pytest.raises(ValueError, match="subdomains"):
        parse_rule("*.10.0.0.1:80")


def test_the_first_rule_that_allows_is_found() -> None:
    rules = (parse_rule("a.example:443"), parse_rule("*.example:443"))

    assert rule_for(rules, "b.example", 443) is rules[1]
    assert rule_for(rules, "b.example", 80) is None
    assert rule_for((), "b.example", 443) is None


def test_an_address_with_colons_stands_in_brackets() -> None:
    assert authority_of("2001:db8::1", 443) == "[2001:db8::1]:443"
    assert authority_of("a.example", 80) == "a.example:80"
