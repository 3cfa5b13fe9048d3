"""`stoker serve`: reads the options and becomes the server."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

OPTIONS: tuple[tuple[str, str, str], ...] = (
    ("--listen", "HOST:PORT", "where to listen, 127.0.0.1:8080 if not given; port 0 picks a free one"),
    ("--data", "DIR", "the data directory"),
    ("--token", "TOKEN", "the administrator's token of account default"),
    ("--isolation", "NAME", "auto, crun, runc, runsc or process"),
    ("--nats", "URLS", "NATS servers to use in place of the embedded one"),
    ("--tls-cert", "FILE", "certificate chain, PEM"),
    ("--tls-key", "FILE", "its private key, PEM"),
    ("--secrets-key", "FILE", "the key that seals secrets, DATA/secrets.key if not given"),
    ("--jwt-issuer", "NAME", "take tokens of this issuer too: the claim iss"),
    ("--jwt-audience", "NAME", "if they are for this audience: the claim aud"),
    ("--jwt-jwks", "FILE or URL", "where the issuer's public keys are, a JSON Web Key Set"),
    ("--jwt-algorithm", "NAME", "the only algorithm that its tokens may be signed with, RS256 if not given"),
    ("--pool", "NODE,PYTHON", "booted spare instances of each runtime, 4,4 if not given"),
    ("--egress", "WHAT", "public or none"),
    ("--config", "FILE", "settings in TOML; DATA/server.toml if there is one"),
)


def add_parser(commands: Any) -> None:
    """Add the command to the parser's sub-commands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve", help="start the server", description="Start the server, with everything embedded."
    )
    for option, shape, text in OPTIONS:
        parser.add_argument(option, metavar=shape, help=text)
    parser.add_argument(
        "--egress-allow-range", metavar="CIDR", action="append", help="a private range functions may reach"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until asked to stop; return the exit code."""
    from stoker.app.serve import serve
    from stoker.app.settings import WrongSetting, read_settings

    options = {key: value for key, value in vars(arguments).items() if key not in ("run", "command")}
    try:
        settings = read_settings(options, os.environ, Path.home())
    except WrongSetting as error:
        print(f"stoker: {error.message}", file=sys.stderr)
        return 2
    return serve(settings)
