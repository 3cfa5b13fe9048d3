"""Settings: where a value comes from, and which ones are refused by their name."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from stoker.app.settings import NAMES, JwtSettings, Settings, WrongSetting, read_settings
from stoker.catalog.issuer import Trust
from stoker.model.limits import DAY_MS, KIB, MIB, Limits, bounds_of, fault_of, unit_of


def read(
    tmp_path: Path, options: dict[str, Any] | None = None, environ: dict[str, str] | None = None
) -> Settings:
    return read_settings(options or {}, environ or {}, tmp_path)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_any_setting_the_contracts_defaults_hold(tmp_path: Path) -> None:
    settings = read(tmp_path)

    assert settings == Settings(data=tmp_path / ".local/share/stoker")
    assert (settings.host, settings.port, settings.isolation) == ("127.0.0.1", 8080, "auto")
    assert (settings.pool_nodejs, settings.pool_python, settings.egress) == (4, 4, "public")
    assert (settings.token, settings.nats, settings.egress_allow_range) == (None, (), ())


def test_an_option_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "s.toml", 'listen = "0.0.0.0:1"\npool = "1,1"\nisolation = "runc"\n')
    environ = {"STOKER_CONFIG": str(file), "STOKER_LISTEN": "0.0.0.0:2", "STOKER_POOL": "2,2"}

    settings = read(tmp_path, {"listen": "0.0.0.0:3", "pool": None}, environ)

    assert (settings.port, settings.pool_nodejs, settings.isolation) == (3, 2, "runc")


def test_every_setting_can_come_from_each_of_the_three(tmp_path: Path) -> None:
    values = {
        "listen": "[::1]:0",
        "data": str(tmp_path / "elsewhere"),
        "token": "a-long-token",
        "isolation": "process",
        "nats": "nats://a:4222,tls://b",
        "tls_cert": "/c.pem",
        "tls_key": "/k.pem",
        "secrets_key": "/s.key",
        "jwt_issuer": "https://issuer.example",
        "jwt_audience": "stoker",
        "jwt_jwks": "https://issuer.example/jwks.json",
        "jwt_algorithm": "ES256",
        "pool": "0,7",
        "egress": "none",
        "egress_allow_range": "10.0.0.0/8, FD00:0::/8",
    }
    lines = "".join(f'{key.replace("_", "-")} = "{value}"\n' for key, value in values.items())
    file = write(tmp_path / "s.toml", lines)

    by_option = read(tmp_path, values)
    by_environment = read(tmp_path, environ={f"STOKER_{key.upper()}": value for key, value in values.items()})
    by_file = read(tmp_path, {"config": str(file)})

    assert set(values) == set(NAMES) - {"config"}
    assert by_option == by_environment == by_file
    assert (by_option.host, by_option.port, by_option.token) == ("::1", 0, "a-long-token")
    assert by_option.data == tmp_path / "elsewhere"
    assert by_option.nats == ("nats://a:4222", "tls://b")
    assert by_option.egress_allow_range == ("10.0.0.0/8", "fd00::/8")


def test_the_data_directory_follows_the_specification_of_base_directories(tmp_path: Path) -> None:
    absolute = read(tmp_path, environ={"XDG_DATA_HOME": "/srv"})
    relative = read(tmp_path, environ={"XDG_DATA_HOME": "srv"})

    assert absolute.data == Path("/srv/stoker")
    assert relative.data == tmp_path / ".local/share/stoker"


def test_the_file_in_the_data_directory_is_read_without_being_named(tmp_path: Path) -> None:
    write(tmp_path / "d/server.toml", 'egress-allow-range = ["10.0.0.0/8"]\npool = [1, 2]\n')

    settings = read(tmp_path, {"data": str(tmp_path / "d")})

    assert settings.egress_allow_range == ("10.0.0.0/8",)
    assert (settings.pool_nodejs, settings.pool_python) == (1, 2)


def test_a_file_that_is_named_takes_the_place_of_the_one_in_the_data_directory(tmp_path: Path) -> None:
    write(tmp_path / "d/server.toml", 'isolation = "runc"\n')
    other = write(tmp_path / "other.toml", "")

    settings = read(tmp_path, {"data": str(tmp_path / "d"), "config": str(other)})

    assert settings.isolation == "auto"


def test_limits_are_set_by_their_names(tmp_path: Path) -> None:
    file = write(tmp_path / "s.toml", "[limits]\nwait_ms_max = 100\nresult_bytes_max = 1_000\n")

    limits = read(tmp_path, {"config": str(file)}).limits

    assert (limits.wait_ms_max, limits.result_bytes_max, limits.instances_max) == (100, 1000, 256)


NAMES_OF_LIMITS = [one.name for one in fields(Limits)]


def limits_file(tmp_path: Path, **limits: int) -> dict[str, Any]:
    lines = "".join(f"{name} = {value}\n" for name, value in limits.items())
    return {"config": str(write(tmp_path / "s.toml", f"[limits]\n{lines}"))}


@pytest.mark.parametrize("name", NAMES_OF_LIMITS)
def test_no_limit_is_below_its_least_or_above_its_most(tmp_path: Path, name: str) -> None:
    least, most = bounds_of(name)

    for wrong in (-1, 0, least - 1, most + 1, 10**30):
        with pytest.raises(WrongSetting, match=rf"limits\.{name} is from {least} to {most}, not {wrong}"):
            read(tmp_path, limits_file(tmp_path, **{name: wrong}))


@pytest.mark.parametrize("name", NAMES_OF_LIMITS)
def test_a_limit_may_be_its_least_and_its_most_as_far_as_the_others_allow_it(name: str) -> None:
    for value in bounds_of(name):
        fault = fault_of(replace(Limits(), **{name: value}))

        assert fault is None or " is from " not in fault


@pytest.mark.parametrize(
    ("limits", "fault"),
    [
        ({"timeout_ms_min": 30_000}, None),
        ({"timeout_ms_min": 30_001}, "timeout_ms_min (30001) is more than timeout_ms_default (30000)"),
        ({"timeout_ms_max": 30_000}, None),
        ({"timeout_ms_max": 29_999}, "timeout_ms_default (30000) is more than timeout_ms_max (29999)"),
        ({"request_bytes_max": 6 * MIB}, None),
        ({"request_bytes_max": 6 * MIB - 1}, "payload_bytes_max (6291456) is more than request_bytes_max"),
        ({"request_bytes_max": MIB, "payload_bytes_max": MIB}, None),
        ({"request_bytes_max": MIB - 1, "payload_bytes_max": 1}, "async_payload_bytes_max (1048576) is more"),
        ({"ttl_ms_max": 7 * DAY_MS}, None),
        ({"ttl_ms_max": 7 * DAY_MS - 1}, "ttl_ms_max (604799999) is less than what records are kept for"),
        ({"record_bytes_max": 12 * MIB + 256 * KIB}, None),
        ({"record_bytes_max": 12 * MIB + 256 * KIB - 1}, "record_bytes_max (12845055) is less than payload"),
    ],
)
def test_limits_that_make_no_sense_beside_each_other_are_refused_by_name(
    tmp_path: Path, limits: dict[str, int], fault: str | None
) -> None:
    options = limits_file(tmp_path, **limits)

    if fault is None:
        assert read(tmp_path, options).limits == replace(Limits(), **limits)
        return
    with pytest.raises(WrongSetting) as refused:
        read(tmp_path, options)
    assert f"limits.{fault}" in refused.value.message


def test_the_contracts_sizes_are_the_defaults() -> None:
    limits = Limits()

    assert (limits.request_bytes_max, limits.code_bytes_max) == (64 * MIB, 256 * MIB)
    assert (limits.code_files_max, limits.processes_max) == (10_000, 64)
    assert (limits.payload_bytes_max, limits.async_payload_bytes_max) == (6 * MIB, MIB)
    assert (limits.result_bytes_max, limits.log_bytes_max) == (6 * MIB, 256 * KIB)
    assert (limits.timeout_ms_min, limits.timeout_ms_default, limits.timeout_ms_max) == (1, 30_000, 900_000)
    assert (limits.ttl_ms_max, limits.tmp_bytes_max) == (365 * DAY_MS, 64 * MIB)
    assert (limits.record_bytes_max, limits.wait_ms_max) == (5 * 1024 * MIB, 5_000)
    assert (limits.name_chars_max, limits.topic_chars_max) == (128, 64)
    assert (limits.record_wait_ms_max, limits.idempotency_ms_max) == (60_000, DAY_MS)


def test_the_readme_lists_every_limit_with_its_default_unit_and_bounds() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| (\w+) \| ([\d,]+) to ([\d,]+) \|", readme, re.MULTILINE)

    listed = {
        name: (_number(default), unit, _number(least), _number(most))
        for name, default, unit, least, most in rows
    }

    assert listed == {
        one.name: (one.default, unit_of(one.name), *bounds_of(one.name)) for one in fields(Limits)
    }
    assert len(rows) == len(listed)


def _number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("listen", "8080"),
        ("listen", ":8080"),
        ("listen", "localhost:"),
        ("listen", "localhost:http"),
        ("listen", "localhost:65536"),
        ("listen", "localhost:-1"),
        ("listen", "localhost:0000000100000"),
        ("listen", "localhost:٨٠"),
        ("listen", ""),
        ("data", ""),
        ("token", "short"),
        ("token", "with a blank"),
        ("token", "ümläuteüü"),
        ("token", "line\nbreak-in-it"),
        ("token", "x" * 1025),
        ("token", ""),
        ("isolation", "docker"),
        ("isolation", "CRUN"),
        ("nats", "localhost:4222"),
        ("nats", "http://localhost"),
        ("nats", "nats://a,,nats://b"),
        ("nats", ""),
        ("pool", "4"),
        ("pool", "4,4,4"),
        ("pool", "-1,4"),
        ("pool", "4,257"),
        ("pool", "4.5,4"),
        ("pool", "1_0,4"),
        ("pool", "four,4"),
        ("pool", ""),
        ("egress", "all"),
        ("egress_allow_range", "10.0.0.1/8"),
        ("egress_allow_range", "everything"),
        ("egress_allow_range", "10.0.0.0/8,"),
        ("egress_allow_range", ""),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_it_was_given_with(
    tmp_path: Path, name: str, value: str
) -> None:
    option = f"--{name.replace('_', '-')}"

    with pytest.raises(WrongSetting) as by_option:
        read(tmp_path, {name: value})
    assert option in by_option.value.message

    if value:  # an empty variable is one that is not set
        with pytest.raises(WrongSetting) as by_environment:
            read(tmp_path, environ={f"STOKER_{name.upper()}": value})
        assert f"STOKER_{name.upper()}" in by_environment.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ports = 1", "ports is not known"),
        ("limit = 1", "limit is not known"),
        ("limits = 1", "limits is not known"),
        ("[limits]\nwait_ms = 1", "limits.wait_ms is not known"),
        ("[limits]\nwait_ms_max = -1", "limits.wait_ms_max"),
        ("[limits]\nwait_ms_max = 0", "limits.wait_ms_max"),
        ("[limits]\nwait_ms_max = 1.5", "limits.wait_ms_max"),
        ("[limits]\nwait_ms_max = true", "limits.wait_ms_max"),
        ('[limits]\nwait_ms_max = "1s"', "limits.wait_ms_max"),
        ('config = "x"', "config is not known"),
        ("listen = 8080", "listen"),
        ("data = 3", "data"),
        ("pool = [4]", "pool"),
        ("pool = [4, true]", "pool"),
        ("pool = [4.7, 4]", "pool"),
        ("egress-allow-range = [8]", "egress-allow-range"),
        ("isolation = [1]", "isolation"),
        ("token = 12345678", "token"),
        ("listen", "s.toml"),
        ("listen = 'a:1'\nlisten = 'b:1'", "s.toml"),
    ],
)
def test_what_a_file_says_wrongly_is_refused_by_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    file = write(tmp_path / "s.toml", text)

    with pytest.raises(WrongSetting) as refused:
        read(tmp_path, {"config": str(file)})

    assert says in refused.value.message
    assert str(file) in refused.value.message


def test_a_file_that_is_named_and_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongSetting, match=r"none\.toml"):
        read(tmp_path, {"config": str(tmp_path / "none.toml")})


def test_a_file_in_the_data_directory_cannot_move_it(tmp_path: Path) -> None:
    write(tmp_path / "d/server.toml", 'data = "/elsewhere"\n')

    with pytest.raises(WrongSetting, match="data cannot be set"):
        read(tmp_path, {"data": str(tmp_path / "d")})


@pytest.mark.parametrize("given", ["tls_cert", "tls_key"])
def test_a_certificate_and_its_key_come_together(tmp_path: Path, given: str) -> None:
    with pytest.raises(WrongSetting, match="together"):
        read(tmp_path, {given: "/x.pem"})


def test_the_token_is_in_no_repr(tmp_path: Path) -> None:
    settings = read(tmp_path, {"token": "hunter2-hunter2"})

    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)


def test_a_refused_token_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(WrongSetting) as refused:
        read(tmp_path, {"token": "hunter 2 hunter"})

    assert "hunter" not in refused.value.message


JWT = {"jwt_issuer": "https://i", "jwt_audience": "stoker", "jwt_jwks": "/jwks.json"}


def test_an_issuer_is_trusted_with_the_algorithm_that_is_pinned(tmp_path: Path) -> None:
    assert read(tmp_path).jwt is None
    given = read(tmp_path, JWT).jwt
    assert given == JwtSettings(Trust("https://i", "stoker", "RS256"), "/jwks.json")
    for url in ("https://i/jwks", "http://127.0.0.1:1/jwks"):
        assert read(tmp_path, {**JWT, "jwt_jwks": url}).jwt == replace(given, jwks=url)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"jwt_issuer": None}, "come together"),
        ({"jwt_audience": None}, "come together"),
        ({"jwt_jwks": None}, "come together"),
        ({**dict.fromkeys(JWT), "jwt_algorithm": "RS256"}, "come together"),
        ({"jwt_algorithm": "HS256"}, "--jwt-algorithm"),
        ({"jwt_algorithm": "none"}, "--jwt-algorithm"),
        ({"jwt_issuer": ""}, "--jwt-issuer"),
        ({"jwt_jwks": "http://issuer.example/jwks"}, "--jwt-jwks"),
    ],
)
def test_an_issuer_that_could_not_be_trusted_is_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(WrongSetting, match=told):
        read(tmp_path, {**JWT, **changes})
