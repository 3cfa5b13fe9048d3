"""`stoker tokens`, `secrets`: who may do what."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any

from stoker.cli.failures import WrongUsage
from stoker.cli.nouns import add_noun, add_verb, show_done, show_token
from stoker.cli.screen import time_text
from stoker.cli.session import Session, json_of

if TYPE_CHECKING:
    from stoker.client.types import Inject

SCOPES = (
    "functions:read", "functions:write", "functions:invoke", "records:read", "secrets:write", "tokens:write",
    "accounts:write",
)  # fmt: skip
_DURATION = re.compile(r"(?P<count>\d+)(?P<unit>[smhd])\Z")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_parsers(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    _add_tokens(add_noun(commands, "tokens", "who may do what with a token of this account"), common)
    _add_secrets(add_noun(commands, "secrets", "values for functions that nobody can read back"), common)


def _add_tokens(verbs: Any, common: argparse.ArgumentParser) -> None:
    add_verb(verbs, common, "list", "list the tokens of this account", list_tokens)
    parser = add_verb(verbs, common, "create", "make a token, and show it this once", create_token)
    parser.add_argument("name", metavar="NAME", help="what it is for")
    parser.add_argument(
        "--scope", action="append", default=[], required=True, choices=SCOPES, metavar="SCOPE",
        help="what it may do; may be repeated: " + ", ".join(SCOPES),
    )  # fmt: skip
    parser.add_argument("--collection", help="only in this collection")
    parser.add_argument("--calls-per-minute", type=int, metavar="N", help="no more calls than that")
    parser.add_argument(
        "--expires-in", metavar="TIME", help="such as 30m, 12h, 90d; it never expires if not given"
    )
    parser = add_verb(verbs, common, "delete", "revoke a token, at once", delete_token)
    parser.add_argument("name", metavar="NAME", help="its id, or a name that is unique")


def _add_secrets(verbs: Any, common: argparse.ArgumentParser) -> None:
    add_verb(verbs, common, "list", "list the names of secrets", list_secrets)
    parser = add_verb(verbs, common, "set", "keep a value under a name", set_secret)
    parser.add_argument("name", metavar="NAME", help="the name of the variable that functions find it in")
    parser.add_argument(
        "value", nargs="?", metavar="VALUE",
        help="- for standard input; asked for if not given, to be in no history and no list of processes",
    )  # fmt: skip
    parser.add_argument(
        "--inject-host",
        action="append",
        metavar="HOST",
        help="put it into requests to this host, and give functions a placeholder; may be repeated",
    )
    parser.add_argument("--inject-header", metavar="HEADER", help="the header it goes into; Authorization")
    parser.add_argument("--inject-format", metavar="TEXT", help="with {} where the value goes; 'Bearer {}'")
    parser = add_verb(verbs, common, "delete", "forget a secret", delete_secret)
    parser.add_argument("name", metavar="NAME", help="its name")


# -- tokens ------------------------------------------------------------------------------------------


def list_tokens(session: Session) -> int:
    """`stoker tokens list`."""
    with session.client() as client:
        tokens = client.tokens.list()
    if session.screen.json:
        session.screen.document(json_of(tokens))
        return 0
    rows = [
        (
            token.id,
            token.name,
            time_text(token.expires, session.now) or "never",
            token.collection or "",
            " ".join(token.scopes),
        )
        for token in tokens
    ]
    session.screen.table(("ID", "NAME", "EXPIRES", "COLLECTION", "SCOPES"), rows, empty="no tokens")
    return 0


def create_token(session: Session) -> int:
    """`stoker tokens create`."""
    arguments = session.arguments
    with session.client() as client:
        token = client.tokens.create(
            arguments.name,
            arguments.scope,
            collection=arguments.collection,
            calls_per_minute=arguments.calls_per_minute,
            expires_in_s=seconds_of(arguments.expires_in),
        )
    return show_token(session, json_of(token), token.token, f"token {token.id}")


def delete_token(session: Session) -> int:
    """`stoker tokens delete`."""
    wanted = session.arguments.name
    with session.client() as client:
        tokens = client.tokens.list()
        ids = [token.id for token in tokens if token.id == wanted] or [
            token.id for token in tokens if token.name == wanted
        ]
        if len(ids) > 1:
            raise WrongUsage(
                f"there are {len(ids)} tokens {wanted!r}", hint="name one by its id: " + ", ".join(ids)
            )
        token_id = ids[0] if ids else wanted  # the server says that there is none
        client.tokens.delete(token_id)
    return show_done(
        session, {"id": token_id, "action": "deleted"}, f"token {token_id} opens nothing any more"
    )


def seconds_of(text: str | None) -> int | None:
    """Return how long something lasts, as it was typed. Raises WrongUsage."""
    if text is None:
        return None
    found = _DURATION.match(text)
    if found is None:
        raise WrongUsage(f"{text!r} is no duration", hint="such as 30m, 12h, 90d")
    return int(found["count"]) * _UNIT_S[found["unit"]]


# -- accounts ----------------------------------------------------------------------------------------


# -- secrets -----------------------------------------------------------------------------------------


def list_secrets(session: Session) -> int:
    """`stoker secrets list`."""
    with session.client() as client:
        secrets = client.secrets.list()
    if session.screen.json:
        session.screen.document(json_of(secrets))
        return 0
    rows = [(secret.name, time_text(secret.modified, session.now)) for secret in secrets]
    session.screen.table(("SECRET", "SET"), rows, empty="no secrets")
    return 0


def set_secret(session: Session) -> int:
    """`stoker secrets set`."""
    name = session.arguments.name
    inject = _inject(session)
    value = _value(session, name)
    with session.client() as client:
        client.secrets.set(name, value, inject=inject)
    told = "functions that list it have it within 5 s"
    if inject is not None:
        told = f"it goes into {inject.header} of requests to {', '.join(inject.hosts)}"
    return show_done(session, {"name": name, "action": "set"}, f"secret {name} is set; {told}")


def _inject(session: Session) -> Inject | None:
    from stoker.client.types import Inject

    arguments = session.arguments
    if not arguments.inject_host:
        if arguments.inject_header or arguments.inject_format:
            raise WrongUsage("--inject-header and --inject-format need --inject-host")
        return None
    return Inject(
        hosts=arguments.inject_host,
        header=arguments.inject_header or "Authorization",
        format=arguments.inject_format or ("{}" if arguments.inject_header else "Bearer {}"),
    )


def _value(session: Session, name: str) -> str:
    typed: str | None = session.arguments.value
    if typed is not None and typed != "-":
        return typed
    if typed is None and sys.stdin.isatty():
        from getpass import getpass

        return getpass(f"value of {name}: ")
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise WrongUsage("the value is not UTF-8") from None


def delete_secret(session: Session) -> int:
    """`stoker secrets delete`."""
    name = session.arguments.name
    with session.client() as client:
        client.secrets.delete(name)
    return show_done(session, {"name": name, "action": "deleted"}, f"secret {name} is forgotten")


# -- limits ------------------------------------------------------------------------------------------
