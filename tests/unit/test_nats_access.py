"""`DATA/nats.json`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stoker.app.nats_access import NatsAccess, remove


def test_a_new_data_directory_gets_a_password_and_the_file_tells_where_the_server_is(tmp_path: Path) -> None:
    access = NatsAccess(tmp_path / "nats.json", new_password=lambda: "secret")

    access.write("nats://127.0.0.1:4333")

    assert json.loads((tmp_path / "nats.json").read_text()) == {
        "url": "nats://127.0.0.1:4333",
        "user": "client",
        "password": "secret",
    }
    assert (tmp_path / "nats.json").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["nats.json"]


def test_password_and_port_are_those_of_the_last_start(tmp_path: Path) -> None:
    NatsAccess(tmp_path / "nats.json", new_password=lambda: "first").write("nats://127.0.0.1:4333")

    again = NatsAccess(tmp_path / "nats.json", new_password=lambda: "second")

    assert (again.credentials.password, again.port) == ("first", 4333)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"password": 7, "url": 7}', b'{"url": "nats://x:99999"}']
)
def test_a_file_that_is_none_of_ours_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "nats.json").write_bytes(content)

    access = NatsAccess(tmp_path / "nats.json", new_password=lambda: "secret")

    assert (access.credentials.password, access.port) == ("secret", 0)


def test_two_directories_have_two_passwords(tmp_path: Path) -> None:
    passwords = {NatsAccess(tmp_path / name).credentials.password for name in ("a", "b")}

    assert len(passwords) == 2
    assert min(map(len, passwords)) >= 32


def test_a_file_that_opens_nothing_any_more_is_removed_and_none_is_no_fault(tmp_path: Path) -> None:
    NatsAccess(tmp_path / "nats.json").write("nats://127.0.0.1:4333")

    remove(tmp_path / "nats.json")
    remove(tmp_path / "nats.json")

    assert not list(tmp_path.iterdir())
