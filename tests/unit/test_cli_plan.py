"""What a deploy sends, and what it says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from stoker.cli.bundle import ARCHIVE, Bundle
from stoker.cli.plan import Change, Deployed, creation, plan, present, wanted
from stoker.cli.project import Project
from stoker.client.types import AssetItem, Code, Function

PROJECT = Project(Path(), "hello", "demo", "python", "main.handler", {})
CODE = Bundle({"main.py": b"a\nb\n"}, 1, False)


def deployed(**code: object) -> Deployed:
    """Return what a server has of the function as it is created."""
    asset = Code(
        handler="main.handler", runtime="python", timeout=30000, assets=[AssetItem.of("main.py", b"a\nb\n")]
    )
    function = Function(
        name="hello",
        subject="ms.compute.demo.function.1",
        compute_asset=msgspec.structs.replace(asset, **code),
    )
    return present(function)


def test_what_is_there_already_is_not_sent_again() -> None:
    assert plan(PROJECT, wanted(PROJECT, CODE), deployed()).is_empty


def test_only_what_differs_is_sent() -> None:
    project = replace(PROJECT, timeout_ms=5000, size="small", env={"A": "1"})

    found = plan(project, wanted(project, CODE), deployed())

    assert found.code == {"timeout": 5000, "env_vars": ["A=1"]}
    assert found.settings == {"size": "small"}
    assert found.changes == (
        Change("timeout", "30000 → 5000"),
        Change("env_vars", "+A"),
        Change("size", "default → small"),
    )


def test_a_change_of_one_file_sends_all_and_names_that_one() -> None:
    code = Bundle({"main.py": b"a\nc\nd\n", "new.py": b"123"}, 2, False)

    found = plan(PROJECT, wanted(PROJECT, code), deployed())

    assert [item.asset_name for item in found.code["assets"]] == ["main.py", "new.py"]
    assert found.changes == (Change("~ main.py", "+2 -1 lines"), Change("+ new.py", "3 B"))


def test_a_file_that_is_gone_is_named() -> None:
    found = plan(PROJECT, wanted(PROJECT, Bundle({"x.py": b""}, 1, False)), deployed())

    assert [change.what for change in found.changes] == ["- main.py", "+ x.py"]


def test_what_is_not_said_any_more_goes_back_to_its_default() -> None:
    found = plan(PROJECT, wanted(PROJECT, CODE), deployed(env_vars=["A=1"], secrets=["S"], timeout=1))

    assert found.code == {"timeout": 30000, "env_vars": None, "secrets": None}


def test_values_of_variables_are_not_shown() -> None:
    project = replace(PROJECT, env={"TOKEN": "new-value", "SAME": "x"})

    found = plan(project, wanted(project, CODE), deployed(env_vars=["TOKEN=old-value", "SAME=x", "GONE=1"]))

    assert found.changes == (Change("env_vars", "-GONE ~TOKEN"),)


def test_an_archive_is_linked_to_where_it_was_put() -> None:
    found = plan(PROJECT, wanted(PROJECT, Bundle({ARCHIVE: b"\x1f\x8b\0"}, 300, True)), deployed())

    (item,) = found.code["assets"]
    assert (item.asset_type, item.link, item.content) == ("archive", True, b"deploy/demo/hello")


def test_a_creation_is_what_a_deploy_wants() -> None:
    project = replace(PROJECT, description="Adds", monitor={"ttl": 0}, timeout_ms=5)

    function = creation(project, wanted(project, CODE))

    assert (function.name, function.description, function.monitor_config) == ("hello", "Adds", {"ttl": 0})
    code = function.compute_asset
    assert (code.collection_topic, code.runtime, code.handler, code.timeout) == (
        "demo",
        "python",
        "main.handler",
        5,
    )
    assert [item.content for item in code.assets or ()] == [b"a\nb\n"]
