"""The commands as a whole: help, reference page, completion, exit codes of wrong usage."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.cli import take_payload
from stoker.cli.completion import SHELLS, script, subparsers_of
from stoker.cli.history import STATUSES
from stoker.cli.parser import make_parser
from stoker.cli.reference import page
from stoker.model.record import STATUSES as STATUSES_OF_RECORDS

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "init", "deploy", "invoke", "dev", "list", "show", "delete", "versions", "rollback", "logs", "invocations",
    "replay", "dead-letters", "tokens", "accounts", "secrets", "limits", "serve", "completion", "doctor", "top",
    "backup", "restore",
)  # fmt: skip


def test_the_reference_page_is_current() -> None:
    written = (ROOT / "docs" / "reference" / "cli.md").read_text()

    assert written == page(), "python -m stoker.cli.reference > docs/reference/cli.md"


def test_the_commands_are_those_of_the_contract() -> None:
    assert set(subparsers_of(make_parser())) == set(COMMANDS)


def test_every_command_takes_json_and_says_what_it_does() -> None:
    for name, command in subparsers_of(make_parser()).items():
        for one in subparsers_of(command).values() or [command]:
            options = {text for action in one._actions for text in action.option_strings}
            expected = {"serve": set(), "doctor": {"--json"}}.get(name, {"--json", "--url", "--token"})
            assert expected <= options, name
            assert one.description, name
            assert all(action.help for action in one._actions), name


def test_help_loads_neither_the_client_nor_the_server() -> None:
    program = (
        "import sys; sys.argv = ['stoker', '--help']\n"
        "from stoker.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ['httpx', 'msgspec', 'asyncio', 'ssl', 'watchfiles', 'dataclasses', 'stoker.client', 'stoker.app']\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "invoke" in done.stdout
    assert done.stderr.strip() == "[]"


def test_help_fits_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = make_parser()

    for one in (parser, *subparsers_of(parser).values()):
        assert max(map(len, one.format_help().splitlines())) <= 80


def test_statuses_that_may_be_typed_are_those_that_records_have() -> None:
    assert set(STATUSES) == set(STATUSES_OF_RECORDS)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_is_told_every_command(shell: str) -> None:
    text = script(make_parser(), shell)

    assert all(command in text for command in COMMANDS)
    assert "-l scope" in text if shell == "fish" else "--scope" in text


def complete(*words: str) -> list[str]:
    """Return what bash would offer for a line that ends in the last word."""
    asked = " ".join(f"'{word}'" for word in words)
    program = (
        f"{script(make_parser(), 'bash')}\nstoker() {{ echo demo/hello; }}\n"
        f"COMP_WORDS=(stoker {asked}); COMP_CWORD={len(words)}; _stoker; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_verbs_options_and_functions() -> None:
    assert complete("de") == ["deploy", "dev", "delete", "dead-letters"]
    assert complete("tokens", "") == ["list", "create", "delete", "--help"]
    assert "--scope" in complete("tokens", "create", "--s")
    assert complete("invoke", "demo") == ["demo/hello"]
    assert "--follow" in complete("logs", "demo/hello", "--")
    assert complete("completion", "f") == ["fish"]


@pytest.mark.parametrize(
    "typed",
    [
        ["invoke", "demo/a", '{"x":1}', "--async", "--json"],
        ["invoke", "demo/a", "--async", "--json", '{"x":1}'],
        ["invoke", "--json", "demo/a", "--async", '{"x":1}'],
    ],
)
def test_the_payload_of_invoke_may_come_behind_options(typed: list[str]) -> None:
    arguments, left = make_parser().parse_known_args(typed)

    assert all(take_payload(arguments, text) for text in left)
    assert (arguments.name, arguments.payload, arguments.submit, arguments.json) == (
        "demo/a",
        '{"x":1}',
        True,
        True,
    )


def test_nothing_else_is_taken_for_a_payload() -> None:
    arguments, left = make_parser().parse_known_args(["invoke", "demo/a", "{}", "--json", "more"])
    others, more = make_parser().parse_known_args(["invocations", "demo/a", "--json", "more"])

    assert [take_payload(arguments, text) for text in left] == [False]
    assert [take_payload(others, text) for text in more] == [False]
