"""What the embedded server is told, and how it is restarted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from stoker.backbone.embedded import RESTART_DELAY_MS_MAX, EmbeddedServer, restart_delay_ms
from stoker.backbone.server_config import Credentials, ServerConfig

OWN = Credentials("user", "secret")


def test_a_server_that_lived_is_restarted_at_once_and_one_that_keeps_dying_ever_later() -> None:
    delays = [restart_delay_ms(deaths) for deaths in range(12)]

    assert delays[:2] == [0, 0]
    assert delays[1:] == sorted(delays[1:])
    assert delays[2] > 0
    assert delays[-1] == RESTART_DELAY_MS_MAX


def test_every_write_is_synced_before_it_is_acknowledged() -> None:
    config = json.loads(ServerConfig(Path("/data/nats"), 4222, OWN).text())

    assert config["jetstream"]["sync_interval"] == "always"


def test_the_server_listens_on_loopback_with_a_password_only() -> None:
    config = json.loads(ServerConfig(Path("/data/nats"), 4222, OWN).text())

    assert config["host"] == "127.0.0.1"
    assert config["authorization"]["users"] == [{"user": "user", "password": "secret"}]


def test_trusted_clients_may_call_functions_and_discover_them_and_hear_the_answers_only() -> None:
    client = Credentials("client", "other")

    config = json.loads(ServerConfig(Path("/data/nats"), 4222, OWN, client).text())

    assert config["authorization"]["users"][1] == {
        "user": "client",
        "password": "other",
        "permissions": {
            "publish": ["ms.compute.*.function.*", "accounts.*.ms.compute.*.function.*", "$SRV.>"],
            "subscribe": ["_INBOX.>"],
        },
    }


def test_a_password_is_in_no_repr() -> None:
    assert "secret" not in repr(ServerConfig(Path("/data/nats"), 4222, OWN, OWN))


def test_a_directory_with_odd_characters_stands_in_the_configuration_as_it_is() -> None:
    directory = Path('/data/täst "quoted" $HOME')

    config = json.loads(ServerConfig(directory, 4222, OWN).text())

    assert config["jetstream"]["store_dir"] == str(directory)


async def test_the_server_is_started_from_the_main_thread_only(tmp_path: Path) -> None:
    # PDEATHSIG fires when the thread that spawned ends: from a pool's thread the server would die with it.
    server = EmbeddedServer(tmp_path / "nats")

    with pytest.raises(RuntimeError, match="main thread"):
        await asyncio.to_thread(lambda: asyncio.run(server.start()))
