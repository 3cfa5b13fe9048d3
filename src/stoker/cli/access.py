"""`stoker tokens`, `accounts`, `secrets`, `limits`: who may do what."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from typing import Any

from stoker.cli.failures import WrongUsage
from stoker.cli.screen import time_text
from stoker.cli.session import Session, json_of

SCOPES = (
    "functions:read", "functions:write", "functions:invoke", "records:read", "secrets:write", "tokens:write",
    "accounts:write",
)  # fmt: skip
LIMITS = ("functions", "code_bytes", "concurrent_invocations", "invocations_per_minute", "record_bytes")
_DURATION = re.compile(r"(?P<count>\d+)(?P<unit>[smhd])\Z")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_parsers(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    _add_tokens(_noun(commands, "tokens", "who may do what with a token of this account"), common)
    _add_accounts(_noun(commands, "accounts", "isolated name spaces; for administrators"), common)
    _add_secrets(_noun(commands, "secrets", "values for functions that nobody can read back"), common)
    parser = commands.add_parser(
        "limits",
        parents=[common],
        help="the quotas of this account, and what is used of them",
        description="Show the quotas of this account, and what is used of each.",
    )
    parser.set_defaults(run=limits)


def _noun(commands: Any, noun: str, text: str) -> Any:
    parser = commands.add_parser(noun, help=text, description=f"{noun.capitalize()}: {text}.")
    return parser.add_subparsers(dest="verb", metavar="VERB", required=True)


def _verb(
    verbs: Any, common: argparse.ArgumentParser, verb: str, text: str, run: Any
) -> argparse.ArgumentParser:
    description = text[0].upper() + text[1:] + "."
    parser: argparse.ArgumentParser = verbs.add_parser(
        verb, parents=[common], help=text, description=description
    )
    parser.set_defaults(run=run)
    return parser


def _add_tokens(verbs: Any, common: argparse.ArgumentParser) -> None:
    _verb(verbs, common, "list", "list the tokens of this account", list_tokens)
    parser = _verb(verbs, common, "create", "make a token, and show it this once", create_token)
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
    parser = _verb(verbs, common, "delete", "revoke a token, at once", delete_token)
    parser.add_argument("name", metavar="NAME", help="its id, or a name that is unique")


def _add_accounts(verbs: Any, common: argparse.ArgumentParser) -> None:
    _verb(verbs, common, "list", "list all accounts", list_accounts)
    parser = _verb(
        verbs, common, "create", "make an account, and show its first token this once", create_account
    )
    parser.add_argument("name", metavar="NAME", help="its name")
    _add_limit(parser)
    parser = _verb(verbs, common, "limits", "give an account other quotas", set_limits)
    parser.add_argument("name", metavar="NAME", help="its name")
    _add_limit(parser)
    parser = _verb(verbs, common, "delete", "erase an account with all it had", delete_account)
    parser.add_argument("name", metavar="NAME", help="its name")


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit", action="append", default=[], metavar="QUOTA=N",
        help="may be repeated, what is not named has no quota: " + ", ".join(LIMITS),
    )  # fmt: skip


def _add_secrets(verbs: Any, common: argparse.ArgumentParser) -> None:
    _verb(verbs, common, "list", "list the names of secrets", list_secrets)
    parser = _verb(verbs, common, "set", "keep a value under a name", set_secret)
    parser.add_argument("name", metavar="NAME", help="the name of the variable that functions find it in")
    parser.add_argument(
        "value", nargs="?", metavar="VALUE",
        help="- for standard input; asked for if not given, to be in no history and no list of processes",
    )  # fmt: skip
    parser = _verb(verbs, common, "delete", "forget a secret", delete_secret)
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
    return _show_token(session, json_of(token), token.token, f"token {token.id}")


def _show_token(session: Session, document: Any, token: str, what: str) -> int:
    """Print a token alone on standard output, so that it can be kept by a `>`."""
    screen = session.screen
    if screen.json:
        screen.document(document)
        return 0
    screen.note(f"{what} is made; this is its text, shown this once:")
    screen.line(token)
    return 0


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
    return _done(session, {"id": token_id, "action": "deleted"}, f"token {token_id} opens nothing any more")


def seconds_of(text: str | None) -> int | None:
    """Return how long something lasts, as it was typed. Raises WrongUsage."""
    if text is None:
        return None
    found = _DURATION.match(text)
    if found is None:
        raise WrongUsage(f"{text!r} is no duration", hint="such as 30m, 12h, 90d")
    return int(found["count"]) * _UNIT_S[found["unit"]]


# -- accounts ----------------------------------------------------------------------------------------


def list_accounts(session: Session) -> int:
    """`stoker accounts list`."""
    with session.client() as client:
        accounts = client.accounts.list()
    if session.screen.json:
        session.screen.document(json_of(accounts))
        return 0
    rows = [(account.name, _limits_text(account.limits)) for account in accounts]
    session.screen.table(("ACCOUNT", "QUOTAS"), rows, empty="no accounts")
    return 0


def _limits_text(limits: Mapping[str, int | None] | None) -> str:
    return (
        ", ".join(f"{name} {count:,}" for name, count in (limits or {}).items() if count is not None)
        or "none"
    )


def create_account(session: Session) -> int:
    """`stoker accounts create`."""
    limits = limits_of(session.arguments.limit)
    with session.client() as client:
        account = client.accounts.create(session.arguments.name, limits=limits or None)
    return _show_token(session, json_of(account), account.token, f"account {account.name}, with a token,")


def set_limits(session: Session) -> int:
    """`stoker accounts limits`."""
    name, limits = session.arguments.name, limits_of(session.arguments.limit)
    with session.client() as client:
        client.accounts.set_limits(name, limits)
    return _done(session, {"name": name, "limits": limits}, f"account {name}: quotas {_limits_text(limits)}")


def limits_of(entries: list[str]) -> dict[str, int]:
    """Return quotas that were typed as `QUOTA=N`. Raises WrongUsage."""
    found = {}
    for entry in entries:
        name, equals, number = entry.partition("=")
        if name not in LIMITS:
            raise WrongUsage(f"--limit {entry}: {name!r} is no quota", hint="one of " + ", ".join(LIMITS))
        if not equals or not number.replace("_", "").isdigit():
            raise WrongUsage(f"--limit {entry}: it is written {name}=N")
        found[name] = int(number)
    return found


def delete_account(session: Session) -> int:
    """`stoker accounts delete`."""
    name = session.arguments.name
    with session.client() as client:
        client.accounts.delete(name)
    return _done(session, {"name": name, "action": "deleted"}, f"account {name} and all it had is erased")


# -- secrets -----------------------------------------------------------------------------------------


def list_secrets(session: Session) -> int:
    """`stoker secrets list`."""
    with session.client() as client:
        secrets = client.secrets.list()
    if session.screen.json:
        session.screen.document(json_of(secrets))
        return 0
    session.screen.table(("SECRET",), [(secret.name,) for secret in secrets], empty="no secrets")
    return 0


def set_secret(session: Session) -> int:
    """`stoker secrets set`."""
    name = session.arguments.name
    value = _value(session, name)
    with session.client() as client:
        client.secrets.set(name, value)
    return _done(
        session,
        {"name": name, "action": "set"},
        f"secret {name} is set; functions that list it have it within 5 s",
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
    return _done(session, {"name": name, "action": "deleted"}, f"secret {name} is forgotten")


# -- limits ------------------------------------------------------------------------------------------


def limits(session: Session) -> int:
    """`stoker limits`."""
    with session.client() as client:
        quotas = client.accounts.quotas()
    if session.screen.json:
        session.screen.document(json_of(quotas))
        return 0
    rows = [
        (name, f"{quota.used:,}", "none" if quota.limit is None else f"{quota.limit:,}")
        for name, quota in quotas.items()
    ]
    session.screen.table(("QUOTA", "USED", "LIMIT"), rows, empty="no quotas")
    return 0


def _done(session: Session, document: Any, text: str) -> int:
    if session.screen.json:
        session.screen.document(document)
    else:
        session.screen.line(text)
    return 0
