"""Origins: who calls from inside an instance, while what runs there, and how deep."""

from __future__ import annotations

import pytest

from stoker.catalog.principal import Principal
from stoker.edge.http.origin import Origin
from stoker.model.call import DEPTH_MAX, Call, CallIds, Parent
from stoker.model.errors import Forbidden, Unauthenticated
from stoker.testing.functions import a_function

IDS = CallIds()


def a_call(depth: int = 0) -> Call:
    call = Call(IDS.next(), a_function(), b"{}", queued_at=0.0, ended=lambda call, outcome: None)
    call.parent = Parent("0" * 32, depth) if depth else None
    return call


def test_what_calls_is_the_call_that_runs_as_it_may_invoke_and_nothing_else() -> None:
    call = a_call()

    principal = Origin("acme", lambda: [call]).principal(None)

    assert (principal.account, principal.token_id) == ("acme", f"invocation:{call.text}")
    assert principal.may("functions:invoke")
    assert not any(principal.may(scope) for scope in ("functions:read", "records:read", "functions:write"))
    assert principal.parent == Parent(call.text, 1)


def test_each_request_is_the_one_of_the_call_that_runs_then() -> None:
    running = [a_call()]
    origin = Origin("acme", lambda: running)
    first = origin.principal(None)
    running[:] = [a_call()]

    assert origin.principal(None).token_id == f"invocation:{running[0].text}" != first.token_id


@pytest.mark.parametrize("named", [None, b"0" * 32])
def test_when_no_call_runs_nobody_calls_whatever_token_is_shown(named: bytes | None) -> None:
    origin = Origin("acme", list)

    with pytest.raises(Unauthenticated, match="no call runs in this instance any more"):
        origin.principal(named)
    with pytest.raises(Unauthenticated, match="no call runs in this instance any more"):
        origin.within(Principal("acme", "t", frozenset()), named)


def test_a_token_of_its_own_may_what_it_may_and_is_within_the_call_all_the_same() -> None:
    call = a_call(depth=3)
    own = Principal("acme", "token-1", frozenset({"records:read"}), collection="tools")

    found = Origin("acme", lambda: [call]).within(own, None)

    assert (found.token_id, found.scopes, found.collection) == ("token-1", own.scopes, "tools")
    assert found.parent == Parent(call.text, 4)


def test_of_several_calls_the_one_that_began_last_calls_as_deep_as_the_deepest() -> None:
    first, last = a_call(depth=7), a_call(depth=2)
    origin = Origin("acme", lambda: [first, last])

    assert origin.principal(None).parent == Parent(last.text, 8)
    assert origin.principal(first.text.upper().encode()).parent == Parent(first.text, 8)
    assert origin.principal(last.text.encode()).parent == Parent(last.text, 3)


@pytest.mark.parametrize("named", [b"", b"me", b"\xff", a_call().text.encode()])
def test_a_header_that_names_no_call_of_the_instance_is_refused(named: bytes) -> None:
    with pytest.raises(Forbidden, match="X-Parent-Invocation"):
        Origin("acme", lambda: [a_call()]).principal(named)


def test_a_call_may_be_sixteen_deep_and_no_deeper() -> None:
    deep, deepest = a_call(DEPTH_MAX - 1), a_call(DEPTH_MAX)

    found = Origin("acme", lambda: [deep]).principal(None).parent

    assert found is not None
    assert found.depth == DEPTH_MAX == 16
    with pytest.raises(Forbidden, match="16 invocations deep"):
        Origin("acme", lambda: [deepest]).principal(None)
