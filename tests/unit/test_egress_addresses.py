"""Addresses: which are never reached, which need the operator's word, and in whatever form they come."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.egress.addresses import Address, Network, refusal_of
from stoker.egress.routes import leads_out

EVERYTHING = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


def refused(text: str, *, public: bool = True, ranges: tuple[Network, ...] = ()) -> str | None:
    return refusal_of(ipaddress.ip_address(text), public=public, ranges=ranges)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("169.254.169.254", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("2002:a9fe:a9fe::1", "link-local"),
        ("fe80::1", "link-local"),
        ("168.63.129.16", "a metadata service"),
        ("100.100.100.200", "a metadata service"),
        ("192.0.0.192", "a metadata service"),
        ("fd00:ec2::254", "a metadata service"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
    ],
)
def test_some_addresses_are_never_reached(text: str, kind: str) -> None:
    assert refused(text) == kind
    assert refused(text, ranges=EVERYTHING) == kind


@pytest.mark.parametrize(
    "text",
    [
        *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255"),
        *("fd12::1", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1"),
    ],
)
def test_private_addresses_need_the_word_of_the_operator(text: str) -> None:
    assert refused(text) == "private"
    assert refused(text, ranges=EVERYTHING) is None


@pytest.mark.parametrize(
    "text",
    [
        *("192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "240.0.0.1", "192.88.99.1"),
        *("2001:db8::1", "2001::1", "100::1", "64:ff9b:1::a00:1", "4000::1", "::1.2.3.4", "5f00::1"),
    ],
)
def test_what_is_of_no_use_in_public_is_not_reached(text: str) -> None:
    assert refused(text) == "reserved"


@pytest.mark.parametrize(
    "text",
    [
        *("93.184.216.34", "1.1.1.1", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.0"),
        *("11.0.0.1", "223.255.255.255", "2606:4700::1", "64:ff9b::101:101", "2002:101:101::1"),
    ],
)
def test_public_addresses_are_reached_unless_the_operator_says_no(text: str) -> None:
    assert refused(text) is None
    assert refused(text, public=False) == "public"
    assert refused(text, public=False, ranges=EVERYTHING) is None


def test_a_range_opens_what_is_in_it_and_nothing_else() -> None:
    ranges = (ipaddress.ip_network("10.1.0.0/16"),)

    assert refused("10.1.2.3", ranges=ranges) is None
    assert refused("10.2.2.3", ranges=ranges) == "private"
    assert refused("::ffff:10.2.2.3", ranges=ranges) == "private"


@given(st.ip_addresses(v=4))
def test_no_form_of_an_address_is_reached_where_the_address_is_not(address: ipaddress.IPv4Address) -> None:
    plain = refusal_of(address, public=True, ranges=())
    forms: list[Address] = [
        ipaddress.IPv6Address(f"::ffff:{address}"),
        ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | int(address)),
        ipaddress.IPv6Address((0x2002 << 112) | (int(address) << 80) | 1),
    ]

    for form in forms:
        assert (refusal_of(form, public=True, ranges=()) is None) == (plain is None), form


@given(st.ip_addresses(v=6))
def test_what_python_knows_as_special_is_refused(address: ipaddress.IPv6Address) -> None:
    if address.is_private or address.is_multicast or address.is_link_local or address.is_loopback:
        assert refusal_of(address, public=True, ranges=()) is not None


@given(st.ip_addresses(v=4))
def test_what_python_knows_as_special_is_refused_in_version_4(address: ipaddress.IPv4Address) -> None:
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert refusal_of(address, public=True, ranges=()) is not None


@pytest.mark.parametrize("text", ["127.0.0.1", "127.1.2.3", "0.0.0.0", "224.0.0.1", "::1", "ff02::1"])
def test_the_kernel_tells_what_does_not_leave_this_machine(text: str) -> None:
    assert not leads_out(ipaddress.ip_address(text))
