"""Settings: what the operator asked for, read once.

Order: option, environment, file; an unknown key is an error that names it. Source: the operating
contract. Does not know what a setting does.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from stoker.catalog.issuer import ALGORITHMS, Trust
from stoker.model.errors import Fault, StokerError
from stoker.model.limits import Limits, fault_of

_LOOPBACK = ("http://127.0.0.1:", "http://localhost:", "http://[::1]:")
ISOLATIONS = ("auto", "crun", "runc", "runsc", "process")


class WrongSetting(StokerError):
    """An option, variable or key of the file is wrong; the message names it."""

    code, fault = "request.invalid", Fault.CALLER


@dataclass(frozen=True, slots=True)
class JwtSettings:
    """The issuer whose tokens are taken beside ours."""

    trust: Trust
    jwks: str
    """Where its public keys are: a path, or a URL."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server is started with."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    isolation: str = "auto"
    nats: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    secrets_key: Path | None = None
    jwt: JwtSettings | None = None
    pool_nodejs: int = 4
    pool_python: int = 4
    egress: str = "public"
    egress_allow_range: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def __repr__(self) -> str:
        return f"Settings(data={self.data}, listen={self.host}:{self.port}, isolation={self.isolation})"


NAMES = (
    "listen",
    "data",
    "token",
    "isolation",
    "nats",
    "tls_cert",
    "tls_key",
    "secrets_key",
    "jwt_issuer",
    "jwt_audience",
    "jwt_jwks",
    "jwt_algorithm",
    "pool",
    "egress",
    "egress_allow_range",
    "config",
)
_LIMITS = {field.name for field in fields(Limits)}


def read_settings(options: Mapping[str, Any], environ: Mapping[str, str], home: Path) -> Settings:
    """Return the settings; `options` holds those that were typed, by their names in `NAMES`.

    Raises WrongSetting.
    """
    typed = {
        key: (f"--{key.replace('_', '-')}", value) for key, value in options.items() if value is not None
    }
    given = {
        name: (f"STOKER_{name.upper()}", environ[f"STOKER_{name.upper()}"])
        for name in NAMES
        if environ.get(f"STOKER_{name.upper()}")
    }
    chosen: dict[str, tuple[str, Any]] = {**given, **typed}
    if "config" not in chosen:
        path = _data_directory(chosen.get("data"), environ, home) / "server.toml"
        stored, limits = _read_file(path) if path.exists() else ({}, {})
        if "data" in stored:
            raise WrongSetting(f"{path}: data cannot be set by a file that lies in it")
    else:
        stored, limits = _read_file(Path(_text(*chosen["config"])))
    chosen = {**stored, **chosen}
    data = _data_directory(chosen.get("data"), environ, home)
    host, port = _listen(*chosen.get("listen", ("--listen", "127.0.0.1:8080")))
    pool_nodejs, pool_python = _pool(*chosen.get("pool", ("--pool", "4,4")))
    cert, key = _path(chosen.get("tls_cert")), _path(chosen.get("tls_key"))
    if (cert is None) != (key is None):
        raise WrongSetting("--tls-cert and --tls-key come together")
    return Settings(
        data=data,
        host=host,
        port=port,
        token=_token(chosen.get("token")),
        isolation=_word(chosen.get("isolation"), "auto", ISOLATIONS),
        nats=_nats(chosen.get("nats")),
        tls_cert=cert,
        tls_key=key,
        secrets_key=_path(chosen.get("secrets_key")),
        jwt=_jwt(chosen),
        pool_nodejs=pool_nodejs,
        pool_python=pool_python,
        egress=_word(chosen.get("egress"), "public", ("public", "none")),
        egress_allow_range=_ranges(chosen.get("egress_allow_range")),
        limits=Limits(**limits),
    )


def _data_directory(chosen: tuple[str, Any] | None, environ: Mapping[str, str], home: Path) -> Path:
    if chosen is not None:
        return Path(_text(*chosen)).absolute()
    base = environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else home / ".local" / "share") / "stoker"


def _read_file(path: Path) -> tuple[dict[str, tuple[str, Any]], dict[str, int]]:
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WrongSetting(f"{path}: {error}") from None
    settings: dict[str, tuple[str, Any]] = {}
    limits: dict[str, int] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name == "limits" and isinstance(value, dict):
            for limit, number in value.items():
                if limit not in _LIMITS:
                    raise WrongSetting(f"{path}: limits.{limit} is not known")
                if not isinstance(number, int) or isinstance(number, bool):
                    raise WrongSetting(f"{path}: limits.{limit} is a whole number")
                limits[limit] = number
            fault = fault_of(Limits(**limits))
            if fault is not None:
                raise WrongSetting(f"{path}: limits.{fault}")
        elif name in NAMES and name != "config":
            settings[name] = (f"{path}: {key}", value)
        else:
            raise WrongSetting(f"{path}: {key} is not known")
    return settings, limits


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise WrongSetting(f"{where}: it is a text, and not an empty one")
    return value


def _listen(where: str, value: Any) -> tuple[str, int]:
    host, colon, port = _text(where, value).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
    if not colon or not host or not is_port:
        raise WrongSetting(f"{where}: {value!r} is not HOST:PORT")
    return host, int(port)


def _pool(where: str, value: Any) -> tuple[int, int]:
    parts = [str(part) for part in value] if isinstance(value, list) else _text(where, value).split(",")
    if len(parts) != 2 or not all(re.fullmatch(r" *[0-9]{1,5} *", part) for part in parts):
        raise WrongSetting(f"{where}: {value!r} is not NODE,PYTHON, as 4,4")
    node, python = (int(part) for part in parts)
    if node > 256 or python > 256:
        raise WrongSetting(f"{where}: each number is from 0 to 256")
    return node, python


def _token(chosen: tuple[str, Any] | None) -> str | None:
    if chosen is None:
        return None
    token = _text(*chosen)
    if not 8 <= len(token) <= 1024 or not all(0x21 <= ord(char) < 0x7F for char in token):
        raise WrongSetting(f"{chosen[0]}: a token is 8 to 1024 printable ASCII characters without blanks")
    return token


def _word(chosen: tuple[str, Any] | None, default: str, words: tuple[str, ...]) -> str:
    if chosen is None:
        return default
    if chosen[1] not in words:
        raise WrongSetting(f"{chosen[0]}: {chosen[1]!r} is not one of {', '.join(words)}")
    return str(chosen[1])


def _path(chosen: tuple[str, Any] | None) -> Path | None:
    return None if chosen is None else Path(_text(*chosen)).absolute()


def _jwt(chosen: Mapping[str, tuple[str, Any]]) -> JwtSettings | None:
    given = {name: chosen[name] for name in ("jwt_issuer", "jwt_audience", "jwt_jwks") if name in chosen}
    algorithm = _word(chosen.get("jwt_algorithm"), "RS256", ALGORITHMS)
    if not given and "jwt_algorithm" not in chosen:
        return None
    if len(given) < 3:
        raise WrongSetting("--jwt-issuer, --jwt-audience and --jwt-jwks come together")
    issuer, audience, jwks = (_text(*one) for one in given.values())
    if jwks.startswith("http://") and not jwks.startswith(_LOOPBACK):
        raise WrongSetting(f"{given['jwt_jwks'][0]}: keys come by https, or from this machine")
    return JwtSettings(Trust(issuer, audience, algorithm), jwks)


def _nats(chosen: tuple[str, Any] | None) -> tuple[str, ...]:
    if chosen is None:
        return ()
    urls = tuple(url.strip() for url in _text(*chosen).split(","))
    for url in urls:
        if not url.startswith(("nats://", "tls://")):
            raise WrongSetting(f"{chosen[0]}: {url!r} does not begin with nats:// or tls://")
    return urls


def _ranges(chosen: tuple[str, Any] | None) -> tuple[str, ...]:
    if chosen is None:
        return ()
    value = chosen[1]
    texts = value if isinstance(value, list) else _text(*chosen).split(",")
    try:
        return tuple(str(ipaddress.ip_network(str(text).strip(), strict=True)) for text in texts)
    except ValueError as error:
        raise WrongSetting(f"{chosen[0]}: {error}") from None
