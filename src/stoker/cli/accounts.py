"""`stoker accounts`, `limits`: isolated name spaces with their quotas."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from stoker.cli.failures import WrongUsage
from stoker.cli.nouns import add_noun, add_verb, show_done, show_token
from stoker.cli.session import Session, json_of

LIMITS = ("functions", "code_bytes", "concurrent_invocations", "invocations_per_minute", "record_bytes")


def add_parsers(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands."""
    _add_accounts(add_noun(commands, "accounts", "isolated name spaces; for administrators"), common)
    parser = commands.add_parser(
        "limits",
        parents=[common],
        help="the quotas of this account, and what is used of them",
        description="Show the quotas of this account, and what is used of each.",
    )
    parser.set_defaults(run=limits)


def _add_accounts(verbs: Any, common: argparse.ArgumentParser) -> None:
    add_verb(verbs, common, "list", "list all accounts", list_accounts)
    parser = add_verb(
        verbs, common, "create", "make an account, and show its first token this once", create_account
    )
    parser.add_argument("name", metavar="NAME", help="its name")
    _add_limit(parser)
    parser = add_verb(verbs, common, "limits", "give an account other quotas", set_limits)
    parser.add_argument("name", metavar="NAME", help="its name")
    _add_limit(parser)
    parser = add_verb(verbs, common, "delete", "erase an account with all it had", delete_account)
    parser.add_argument("name", metavar="NAME", help="its name")


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit", action="append", default=[], metavar="QUOTA=N",
        help="may be repeated, what is not named has no quota: " + ", ".join(LIMITS),
    )  # fmt: skip


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


def _limits_text(limits: Mapping[str, int | None]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in limits.items() if count is not None) or "none"


def create_account(session: Session) -> int:
    """`stoker accounts create`."""
    limits = limits_of(session.arguments.limit)
    with session.client() as client:
        account = client.accounts.create(session.arguments.name, limits=limits or None)
    return show_token(session, json_of(account), account.token, f"account {account.name}, with a token,")


def set_limits(session: Session) -> int:
    """`stoker accounts limits`."""
    name, limits = session.arguments.name, limits_of(session.arguments.limit)
    with session.client() as client:
        account = client.accounts.set_limits(name, limits)
    return show_done(session, json_of(account), f"account {name}: quotas {_limits_text(limits)}")


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
    return show_done(session, {"name": name, "action": "deleted"}, f"account {name} and all it had is erased")


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
