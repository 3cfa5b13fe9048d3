"""The judge: rules before look-ups, one look-up a connection, and words that help."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest

from stoker.egress.addresses import Address
from stoker.egress.head import Head
from stoker.egress.judge import Judge, Refusal, Unreachable
from stoker.egress.protocol import Bounds
from stoker.model.egress import DEFAULT_RULES, parse_rule


class Bench:
    """A judge with names of the test's own."""

    def __init__(self, *, public: bool = True, ranges: tuple[str, ...] = (), own: str = "") -> None:
        bounds = Bounds(public, ranges, 1, 1, 1, 1, 1, 1)
        self.judge = Judge(bounds, lambda address: str(address) != own)
        self.names: dict[str, list[str]] = {}
        self.asked: list[str] = []

    async def look_up(self, host: str, port: int) -> Sequence[Address]:
        self.asked.append(host)
        return [ipaddress.ip_address(text) for text in self.names.get(host, [])]

    async def judged(self, host: str, port: int, *rules: str) -> list[str]:
        parsed = tuple(map(parse_rule, rules)) if rules else DEFAULT_RULES
        found = await self.judge.addresses(Head(host, port, None), parsed, self.look_up)
        return [str(address) for address in found]


async def test_a_name_is_looked_up_once_and_its_addresses_are_the_answer() -> None:
    bench = Bench()
    bench.names["a.example"] = ["1.1.1.1", "2606:4700::1"]

    assert await bench.judged("a.example", 443) == ["1.1.1.1", "2606:4700::1"]
    assert bench.asked == ["a.example"]


async def test_a_name_that_no_rule_allows_is_not_looked_up() -> None:
    bench = Bench()

    with pytest.raises(Refusal, match=r'no rule allows it \(b\.example:443\); add "a\.example:443"'):
        await bench.judged("a.example", 443, "b.example:443")

    assert bench.asked == []


async def test_without_rules_nothing_is_reached() -> None:
    bench = Bench()

    with pytest.raises(Refusal, match=r"no rule allows it \(nothing\)"):
        await bench.judge.addresses(Head("a.example", 443, None), (), bench.look_up)

    assert bench.asked == []


async def test_where_the_operator_lets_nothing_out_nothing_is_looked_up() -> None:
    bench = Bench(public=False)

    with pytest.raises(Refusal, match="--egress none"):
        await bench.judged("a.example", 443)

    assert bench.asked == []


async def test_a_private_address_is_told_with_what_would_allow_it() -> None:
    bench = Bench()
    bench.names["db.example"] = ["10.0.0.5"]

    with pytest.raises(Refusal, match=r"10\.0\.0\.5 is private.*--egress-allow-range 10\.0\.0\.5/32"):
        await bench.judged("db.example", 443)


async def test_of_many_addresses_only_those_that_may_be_reached_are_left() -> None:
    bench = Bench(ranges=("10.0.0.0/8",), own="1.1.1.2")
    bench.names["a.example"] = [
        "127.0.0.1",
        "169.254.169.254",
        "1.1.1.2",
        "10.0.0.1",
        "192.168.0.1",
        "1.1.1.1",
    ]

    assert await bench.judged("a.example", 80) == ["10.0.0.1", "1.1.1.1"]


async def test_an_address_of_this_machine_is_refused_also_in_an_allowed_range() -> None:
    bench = Bench(ranges=("10.0.0.0/8",), own="10.0.0.1")

    with pytest.raises(Refusal, match="an address of this machine"):
        await bench.judged("10.0.0.1", 80)


async def test_a_kernel_that_does_not_answer_opens_nothing() -> None:
    def fails(address: Address) -> bool:
        raise OSError

    bench = Bench()
    bench.judge = Judge(Bounds(True, (), 1, 1, 1, 1, 1, 1), fails)

    with pytest.raises(Refusal):
        await bench.judged("1.1.1.1", 80)


async def test_an_address_is_not_looked_up() -> None:
    bench = Bench()

    assert await bench.judged("1.1.1.1", 443) == ["1.1.1.1"]
    assert bench.asked == []


async def test_a_name_without_addresses_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        await Bench().judged("a.example", 443)
