"""Where a client finds its server and its token."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.client.place import find_place


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with a token."""
    folder = tmp_path / "stoker"
    folder.mkdir()
    (folder / "token").write_text("stk_of_this_machine\n")
    return folder


def test_what_is_given_comes_before_the_environment_and_that_before_the_default(data: Path) -> None:
    environ = {
        "STOKER_URL": "http://localhost:1/",
        "STOKER_TOKEN": "stk_env",
        "XDG_DATA_HOME": str(data.parent),
    }

    given = find_place("http://localhost:2", "stk_given", environ)
    from_environ = find_place(None, None, environ)
    default = find_place(None, None, {"XDG_DATA_HOME": str(data.parent)})

    assert (given.url, given.token) == ("http://localhost:2", "stk_given")
    assert (from_environ.url, from_environ.token) == ("http://localhost:1", "stk_env")
    assert (default.url, default.token) == ("http://127.0.0.1:8080", "stk_of_this_machine")


def test_the_data_directory_of_the_same_environment_is_looked_into(data: Path) -> None:
    assert find_place(None, None, {"STOKER_DATA": str(data)}).token == "stk_of_this_machine"


@pytest.mark.parametrize(
    "url", ["http://10.0.0.7:8080", "https://stoker.example", "http://127.0.0.1.example:80"]
)
def test_the_token_of_this_machine_is_sent_to_no_other(url: str, data: Path) -> None:
    place = find_place(url, None, {"STOKER_DATA": str(data)})

    assert place.token is None
    assert not place.is_local
    assert place.missing == "STOKER_TOKEN is not set"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "http://127.8.8.8"]
)
def test_this_machine_is_known_by_its_loopback(url: str, data: Path) -> None:
    assert find_place(url, None, {"STOKER_DATA": str(data)}).token == "stk_of_this_machine"


def test_where_there_is_no_token_the_place_says_where_it_was_looked_for(tmp_path: Path) -> None:
    place = find_place(None, None, {"STOKER_DATA": str(tmp_path)})

    assert place.token is None
    assert place.missing == f"STOKER_TOKEN is not set, and there is no {tmp_path}/token"


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "x"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not the URL of a server"):
        find_place(url, None, {})


def test_no_repr_shows_the_token() -> None:
    assert "stk_secret" not in repr(find_place(None, "stk_secret", {}))
