"""`stoker init`: a function that is ready to be deployed, with types and schemas.

Does not know the server.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from stoker.cli.defaults import COLLECTION, FILE, RUNTIMES
from stoker.cli.failures import WrongUsage
from stoker.cli.session import Session

_TOML = """\
name = "{name}"
collection = "{collection}"
description = "Greets whoever is named"
runtime = "{runtime}"
handler = "{handler}"
timeout = 10000            # milliseconds
size = "small"             # 256 MB; medium, large, xlarge, or such as "384MB"
# exclude = ["tests"]      # what lies here and is not to be deployed
# secrets = ["API_KEY"]    # `stoker secrets set API_KEY`; an environment variable of that name

[schema]                   # what does not fit is refused before it runs, or after
input = "schemas/input.json"
output = "schemas/output.json"

[env]
GREETING = "Hello"

[monitor]
store_payload = true       # records keep payload and result, so that a call can be replayed
"""

_INPUT = """\
{
  "type": "object",
  "properties": {
    "name": { "type": "string", "minLength": 1, "description": "Who is greeted" }
  },
  "required": ["name"],
  "additionalProperties": false,
  "examples": [{ "name": "Ada" }]
}
"""

_OUTPUT = """\
{
  "type": "object",
  "properties": {
    "message": { "type": "string" }
  },
  "required": ["message"],
  "additionalProperties": false
}
"""

_PYTHON = """\
import os
from typing import Any, TypedDict


class Input(TypedDict):
    name: str


class Output(TypedDict):
    message: str


def handler(event: Input, context: Any) -> Output:
    print("greeting", event["name"])
    return {"message": f"{os.environ['GREETING']}, {event['name']}!"}
"""

_NODEJS = """\
type Input = { name: string };
type Output = { message: string };

export async function handler(event: Input): Promise<Output> {
  console.log("greeting", event.name);
  return { message: `${process.env.GREETING}, ${event.name}!` };
}
"""

_HANDLERS = {"python": ("main.handler", "main.py", _PYTHON), "nodejs": ("index.handler", "index.ts", _NODEJS)}


def add_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "init",
        parents=[common],
        help="make a function that is ready to be deployed",
        description="Write a handler, schemas and stoker.toml into DIR, and overwrite nothing.",
    )
    parser.add_argument(
        "dir", nargs="?", default=".", metavar="DIR", help="the folder, the current one if not given"
    )
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default="nodejs", help="nodejs (TypeScript) if not given"
    )
    parser.add_argument("--name", help="the function's name, the folder's if not given")
    parser.add_argument("--collection", default=COLLECTION, help=f"its collection, {COLLECTION} if not given")
    parser.set_defaults(run=run)


def run(session: Session) -> int:
    """Write the files, and say what to do next."""
    arguments = session.arguments
    folder = Path(arguments.dir)
    name = arguments.name or re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-") or "hello"
    files = scaffold(name, arguments.collection, arguments.runtime)
    there = [file for file in files if (folder / file).exists()]
    if there:
        raise WrongUsage(
            f"{folder / there[0]} is there already", hint="`stoker init DIR` makes it in another folder"
        )
    try:
        for file, text in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text)
    except OSError as error:
        raise WrongUsage(f"{error.filename}: {error.strerror}") from None
    screen = session.screen
    if screen.json:
        screen.document(
            {"function": f"{arguments.collection}/{name}", "dir": str(folder), "files": list(files)}
        )
        return 0
    for file in files:
        screen.line(f"wrote {folder / file}")
    change = "" if folder == Path() else f"cd {folder} && "
    screen.line(f"next: {screen.bold_out(change + 'stoker deploy && stoker invoke')}")
    return 0


def scaffold(name: str, collection: str, runtime: str) -> dict[str, str]:
    """Return the files of a new function by name."""
    for given in (name, collection):
        if not re.fullmatch(r"[^/\"\\\x00-\x1f\x7f]{1,128}", given):
            raise WrongUsage(f"{given!r} is no name: 1 to 128 characters without / and quotes")
    handler, file, source = _HANDLERS[runtime]
    toml = _TOML.format(name=name, collection=collection, runtime=runtime, handler=handler)
    return {file: source, "schemas/input.json": _INPUT, "schemas/output.json": _OUTPUT, FILE: toml}
