"""The command line as a process against a real server: each command once working, once refused."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.conftest import STOKER, Client, ServerProcess

ANSI = "\x1b["
NO_ID = "00000000-0000-7000-8000-000000000000"


class Typed:
    """What a person types in a folder; the answer is checked against the exit code."""

    def __init__(self, url: str, token: str, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            **{key: value for key, value in os.environ.items() if not key.startswith("STOKER_")},
            "STOKER_URL": url,
            "STOKER_TOKEN": token,
        }

    def __call__(
        self, *words: str, code: int = 0, stdin: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(STOKER), *words],
            cwd=self.folder,
            env={**self.environ, **environ},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        assert ANSI not in done.stdout + done.stderr
        return done

    def out(self, *words: str, **rest: Any) -> str:
        return self(*words, **rest).stdout

    def json(self, *words: str, **rest: Any) -> Any:
        """Run it with --json: there is one document on standard output, and nothing else."""
        return json.loads(self(*words, "--json", **rest).stdout)


@pytest.fixture
def stoker(client: Client, tmp_path: Path) -> Typed:
    """A person in an empty folder, with the administrator's token."""
    return Typed(client.url, client.token, tmp_path)


@pytest.fixture
def echo(client: Client) -> str:
    """A function that prints and returns what it gets, and fails where it is told to; its records keep all."""
    source = (
        "exports.handler = async (event) => { console.log('got', JSON.stringify(event));"
        " if (event && event.fail) throw new TypeError(event.fail); return { got: event }; };"
    )
    client.function("echo", source, monitor_config={"store_payload": True}, retry={"attempts": 1})
    return f"{client.collection}/echo"


# -- from nothing to an answer -----------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["python", "nodejs"])
def test_init_deploy_invoke_in_an_empty_folder(stoker: Typed, client: Client, runtime: str) -> None:
    written = stoker.out("init", "--runtime", runtime, "--collection", client.collection)
    deployed = stoker.out("deploy")
    called = stoker("invoke")

    assert "wrote stoker.toml" in written
    assert "stoker deploy && stoker invoke" in written
    assert "created, version 1" in deployed
    assert json.loads(called.stdout) == {"message": "Hello, Ada!"}
    assert called.stderr == "greeting Ada\n"


def test_init_overwrites_nothing(stoker: Typed) -> None:
    (stoker.folder / "stoker.toml").write_text("mine")

    refused = stoker("init", code=2)

    assert "stoker.toml is there already" in refused.stderr
    assert [file.name for file in stoker.folder.iterdir()] == ["stoker.toml"]


def test_a_deploy_makes_a_version_only_where_something_differs(stoker: Typed, client: Client) -> None:
    stoker("init", "--runtime", "python", "--collection", client.collection, "--name", "greet")
    first = stoker.json("deploy")
    again = stoker.out("deploy")
    toml = stoker.folder / "stoker.toml"
    toml.write_text(toml.read_text().replace('"Hello"', '"Hi"').replace("timeout = 10000", "timeout = 5000"))
    (stoker.folder / "extra.txt").write_text("more")
    changed = stoker.out("deploy")
    settings = toml.read_text().replace('"Greets whoever is named"', '"Greets"')
    toml.write_text(settings)
    described = stoker.out("deploy")

    assert (first["action"], first["version"]) == ("created", 1)
    assert again == f"{client.collection}/greet is up to date, version 1\n"
    assert changed.splitlines() == [
        f"{client.collection}/greet version 1 → 2",
        "  + extra.txt  4 B",
        "  timeout      10000 → 5000",
        "  env_vars     ~GREETING",
    ]
    assert "updated, still version 2" in described
    assert json.loads(stoker.out("invoke")) == {"message": "Hi, Ada!"}
    assert (
        client.http.get(f"/compute/functions/{client.collection}/greet").json()["body"]["description"]
        == "Greets"
    )


def test_a_deploy_of_single_files_needs_no_toml(stoker: Typed, client: Client) -> None:
    (stoker.folder / "a.py").write_text("def handler(event, context):\n    return 7\n")
    words = ("deploy", "--file", "main.py=a.py", "--name", "seven", "--collection", client.collection)

    assert "created, version 1 (python, main.handler)" in stoker.out(*words)
    assert stoker.out("invoke", f"{client.collection}/seven") == "7\n"


def test_many_files_are_deployed_as_an_archive(stoker: Typed, client: Client) -> None:
    stoker("init", "--collection", client.collection, "--name", "many")
    for number in range(250):
        (stoker.folder / f"part{number}.js").write_text(f"module.exports = {number};")
    (stoker.folder / "index.ts").write_text(
        "import part from './part249.js'; export const handler = () => ({ message: String(part) });"
    )

    assert "code.tar.gz" in stoker.out("deploy")
    assert json.loads(stoker.out("invoke")) == {"message": "249"}
    assert "up to date" in stoker.out("deploy")


def test_a_deploy_that_the_server_refuses_names_the_field(stoker: Typed, client: Client) -> None:
    stoker("init", "--runtime", "python", "--collection", client.collection, "--name", "wrong")
    toml = stoker.folder / "stoker.toml"
    toml.write_text(toml.read_text().replace("timeout = 10000", "timeout = 0"))

    refused = stoker("deploy", code=3)

    assert "at /compute_asset/timeout" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("", "`stoker init` makes one"),
        ("nam = 1", "'nam' is not known"),
        ("collection = 'a/b'\n", "written collection/name"),
    ],
    ids=["none", "unknown", "slash"],
)
def test_a_folder_that_cannot_be_meant_is_wrong_usage(stoker: Typed, toml: str, said: str) -> None:
    (stoker.folder / "main.py").write_text("1")
    if toml:
        (stoker.folder / "stoker.toml").write_text(toml)

    assert said in stoker("deploy", code=2).stderr


# -- calls -------------------------------------------------------------------------------------------


def test_a_call_prints_its_result_and_beside_it_what_the_function_printed(stoker: Typed, echo: str) -> None:
    (stoker.folder / "in.json").write_text('{"b": 2}')

    typed = stoker("invoke", echo, '{"a": 1.0}')

    assert typed.stdout == '{"got":{"a":1}}\n'
    assert typed.stderr == 'got {"a":1}\n'
    assert stoker.out("invoke", echo, "-", stdin='"text"') == '{"got":"text"}\n'
    assert stoker.out("invoke", echo, "@in.json") == '{"got":{"b":2}}\n'
    assert stoker.out("invoke", echo) == '{"got":null}\n'
    document = stoker.json("invoke", echo, "[1]")
    assert (document["status"], document["result"], document["log"]) == ("ok", {"got": [1]}, "got [1]\n")


def test_a_function_that_fails_is_exit_code_1_with_its_stack(stoker: Typed, echo: str) -> None:
    failed = stoker("invoke", echo, '{"fail": "no luck"}', code=1)
    document = stoker.json("invoke", echo, '{"fail": "no luck"}', code=1)

    assert failed.stdout == ""
    assert "stoker: TypeError: no luck" in failed.stderr
    assert "index.js:1" in failed.stderr
    assert (document["code"], document["error"], document["error_type"]) == (
        "function.error",
        "no luck",
        "TypeError",
    )
    assert document["log"].startswith("got")


def test_a_payload_that_is_no_json_is_wrong_usage(stoker: Typed, echo: str) -> None:
    assert "the payload is no JSON" in stoker("invoke", echo, "{", code=2).stderr
    assert "nowhere.json: No such file" in stoker("invoke", echo, "@nowhere.json", code=2).stderr
    assert "--wait goes with --async" in stoker("invoke", echo, "--wait", code=2).stderr


def test_an_async_call_prints_its_id_or_waits_for_its_end(stoker: Typed, echo: str) -> None:
    accepted = stoker.out("invoke", echo, "1", "--async").strip()
    ended = stoker("invoke", echo, "2", "--async", "--wait")
    failed = stoker("invoke", echo, '{"fail": "late"}', "--async", "--wait", code=1)

    assert re.fullmatch(r"[0-9a-f-]{36}", accepted)
    assert ended.stdout == '{"got":2}\n'
    assert "TypeError: late" in failed.stderr
    assert stoker.json("invoke", echo, "3", "--async", "--wait")["status"] == "ok"


def test_a_key_runs_a_call_once(stoker: Typed, echo: str) -> None:
    key = uuid4().hex

    first = stoker.json("invoke", echo, "1", "--key", key)
    again = stoker.json("invoke", echo, "1", "--key", key)
    refused = stoker.json("invoke", echo, "2", "--key", key, code=3)

    assert first["invocation_id"] == again["invocation_id"]
    assert refused["code"] == "idempotency.conflict"


# -- functions ---------------------------------------------------------------------------------------


def test_functions_are_listed_shown_rolled_back_and_deleted(stoker: Typed, client: Client) -> None:
    stoker("init", "--runtime", "python", "--collection", client.collection, "--name", "one")
    stoker("deploy")
    (stoker.folder / "main.py").write_text("def handler(event, context):\n    return {'message': 'second'}\n")
    stoker("deploy")
    name = f"{client.collection}/one"

    listed = stoker.out("list", "--collection", client.collection)
    names = stoker.out("list", "--names").splitlines()
    shown = stoker.out("show", name)
    versions = stoker.out("versions")
    rolled = stoker.out("rollback", name, "1")
    called = stoker.out("invoke", name, '{"name": "Bo"}')
    deleted = stoker.out("delete", name)

    assert listed.splitlines()[0].split() == ["FUNCTION", "RUNTIME", "MODIFIED", "DESCRIPTION"]
    assert listed.splitlines()[1].startswith(name)
    assert name in names
    assert "python, main.handler" in shown
    assert "main.py" in shown
    assert [line.split()[0] for line in versions.splitlines()] == ["VERSION", "2", "1"]
    assert rolled == f"{name} is version 3 now, which equals version 1\n"
    assert json.loads(called) == {"message": "Hello, Bo!"}
    assert deleted == f"{name} is deleted\n"
    assert "no such function" in stoker("show", name, code=3).stderr


def test_a_file_of_a_function_is_shown_as_it_is(stoker: Typed, echo: str) -> None:
    assert stoker.out("show", echo, "--file", "index.js").startswith("exports.handler")
    assert "it has index.js" in stoker("show", echo, "--file", "no.js", code=2).stderr


def test_a_bare_name_will_do_if_it_is_unique(stoker: Typed, client: Client) -> None:
    name = f"only-{uuid4().hex[:8]}"
    client.function(name, "exports.handler = () => 1;")

    assert stoker.out("invoke", name) == "1\n"
    assert stoker.json("show", name)["name"] == name
    assert "there is no function 'nobody-has-it'" in stoker("invoke", "nobody-has-it", code=3).stderr


@pytest.mark.parametrize("words", [("delete",), ("versions",), ("show",), ("logs",), ("dead-letters",)])
def test_what_is_not_there_is_exit_code_3(stoker: Typed, client: Client, words: tuple[str, ...]) -> None:
    refused = stoker(*words, f"{client.collection}/nothing", code=3)
    document = stoker.json(*words, f"{client.collection}/nothing", code=3)

    assert refused.stdout == ""
    assert document["code"] == "not_found"


def test_a_rollback_to_no_version_is_refused(stoker: Typed, echo: str) -> None:
    assert "version" in stoker("rollback", echo, "9", code=3).stderr
    assert "invalid int value" in stoker("rollback", echo, "x", code=2).stderr


def test_a_command_without_a_name_needs_a_folder_with_one(stoker: Typed) -> None:
    for command in ("show", "versions", "logs", "dead-letters", "invoke"):
        assert "which function?" in stoker(command, code=2).stderr


# -- what happened -----------------------------------------------------------------------------------


def test_invocations_are_listed_filtered_and_shown(stoker: Typed, echo: str) -> None:
    stoker("invoke", echo, "1")
    stoker("invoke", echo, '{"fail": "x"}', code=1)

    listed = stoker.out("invocations", echo)
    failed = stoker.json("invocations", echo, "--status", "error", "--since", "1h")
    none = stoker("invocations", echo, "--until", "1h")
    invocation_id = failed[0]["invocation_id"]
    shown = stoker("invocations", invocation_id)

    assert listed.splitlines()[0].split() == ["ID", "STATUS", "STARTED", "RUN", "VERSION"]
    assert [line.split()[1] for line in listed.splitlines()[1:]] == ["error", "ok"]
    assert max(map(len, listed.splitlines())) <= 80
    assert len(failed) == 1
    assert (none.stdout, none.stderr) == ("", "no calls that fit, or their records are gone\n")
    assert '{"fail": "x"}' in shown.stdout
    assert "TypeError: x" in shown.stderr


def test_invocations_refuse_what_cannot_be_meant(stoker: Typed, echo: str) -> None:
    assert "'soon' is no time" in stoker("invocations", echo, "--since", "soon", code=2).stderr
    assert "invalid choice: 'bad'" in stoker("invocations", echo, "--status", "bad", code=2).stderr
    assert "--limit" in stoker("invocations", echo, "--limit", "-1", code=2).stderr
    assert stoker.json("invocations", NO_ID, code=3)["code"] == "not_found"


def test_logs_of_the_latest_calls_and_of_one(stoker: Typed, echo: str) -> None:
    stoker("invoke", echo, "1")
    document = stoker.json("invoke", echo, "2")

    lines = stoker.out("logs", echo).splitlines()
    one = stoker.out("logs", "--invocation", document["invocation_id"])

    assert [line for line in lines if line.startswith("got")] == ["got 1", "got 2"]
    assert one == "got 2\n"
    assert [item["log"] for item in stoker.json("logs", echo)] == ["got 1\n", "got 2\n"]
    assert stoker.json("logs", "--invocation", NO_ID, code=3)["code"] == "not_found"


@pytest.fixture
def following(stoker: Typed, echo: str) -> Iterator[subprocess.Popen[str]]:
    """`stoker logs -f --json`, as a process."""
    with subprocess.Popen(
        [str(STOKER), "logs", echo, "-f", "--json"],
        env={**stoker.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def test_logs_are_followed_while_they_are_printed(
    stoker: Typed, echo: str, client: Client, following: subprocess.Popen[str]
) -> None:
    assert following.stdout is not None
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.append(following.stdout.readline()))  # type: ignore[union-attr]
    reader.start()

    while not seen:  # what is printed before the server follows is not seen
        client.invoke("echo", "now")

    reader.join()
    assert json.loads(seen[0])["line"] == 'got "now"'
    following.send_signal(signal.SIGINT)
    assert following.wait(30) == 0


def test_a_replay_runs_a_call_again(stoker: Typed, echo: str) -> None:
    first = stoker.json("invoke", echo, '{"n": 1}')
    later = stoker.json("invoke", echo, '{"n": 2}', "--async", "--wait")["invocation_id"]

    again = stoker.json("replay", first["invocation_id"])
    again_later = stoker.json("replay", later, "--wait")

    assert again["result"] == {"got": {"n": 1}}
    assert again["invocation_id"] != first["invocation_id"]
    assert again_later["replay_of"] == later
    assert json.loads(again_later["result"]) == {"got": {"n": 2}}
    assert stoker.json("replay", NO_ID, code=3)["code"] == "not_found"


def test_dead_letters_are_listed_redriven_and_given_up(stoker: Typed, echo: str) -> None:
    ids = []
    for reason in ("one", "two"):
        document = stoker.json("invoke", echo, json.dumps({"fail": reason}), "--async", "--wait", code=1)
        ids.append(document["invocation_id"])

    listed = stoker.out("dead-letters", echo)
    redriven = stoker.out("dead-letters", echo, "--redrive", ids[0]).strip()
    given_up = stoker.out("dead-letters", echo, "--delete", ids[1])

    assert [line.split()[0] for line in listed.splitlines()] == ["ID", ids[1], ids[0]]
    assert "function.error: one" in listed
    assert stoker.json("invocations", redriven)["replay_of"] == ids[0]
    assert given_up == f"{ids[1]} is given up\n"
    assert stoker.json("dead-letters", echo, "--delete", ids[1], code=3)["code"] == "not_found"


# -- who may do what ---------------------------------------------------------------------------------


def test_a_token_is_made_used_listed_and_revoked(stoker: Typed, client: Client, echo: str) -> None:
    name = f"ci-{uuid4().hex[:8]}"
    made = stoker("tokens", "create", name, "--scope", "functions:invoke", "--collection", client.collection,
                  "--expires-in", "1h", "--calls-per-minute", "60")  # fmt: skip
    token = made.stdout.strip()

    called = stoker.out("invoke", echo, "1", STOKER_TOKEN=token)
    forbidden = stoker.json("delete", echo, code=3, STOKER_TOKEN=token)
    listed = stoker.out("tokens", "list")
    stoker("tokens", "delete", name)
    revoked = stoker("invoke", echo, "1", code=3, STOKER_TOKEN=token)

    assert called == '{"got":1}\n'
    assert forbidden["code"] == "auth.forbidden"
    assert name in listed
    assert token not in listed
    assert "the token is not known here" in revoked.stderr
    assert "hint: STOKER_TOKEN or --token gives one that this server knows" in revoked.stderr
    assert name not in stoker.out("tokens", "list")


def test_tokens_refuse_what_cannot_be_meant(stoker: Typed) -> None:
    assert "--scope" in stoker("tokens", "create", "x", code=2).stderr
    assert "invalid choice: 'all'" in stoker("tokens", "create", "x", "--scope", "all", code=2).stderr
    wrong = ("tokens", "create", "x", "--scope", "functions:read", "--expires-in", "long")
    assert "'long' is no duration" in stoker(*wrong, code=2).stderr
    assert stoker.json("tokens", "delete", "nobody", code=3)["code"] == "not_found"


def test_an_account_is_made_limited_and_erased(stoker: Typed) -> None:
    name = f"acme-{uuid4().hex[:8]}"
    token = stoker.out("accounts", "create", name, "--limit", "functions=1").strip()

    limits = stoker.json("limits", STOKER_TOKEN=token)
    changed = stoker.out("accounts", "limits", name, "--limit", "functions=2", "--limit", "code_bytes=1000")
    listed = stoker.out("accounts", "list")
    erased = stoker.out("accounts", "delete", name)

    assert limits["functions"] == {"limit": 1, "used": 0}
    assert changed == f"account {name}: quotas functions 2, code_bytes 1,000\n"
    assert [name, "functions", "2,", "code_bytes", "1,000"] in [line.split() for line in listed.splitlines()]
    assert "erased" in erased
    assert stoker.json("limits", code=3, STOKER_TOKEN=token)["code"] == "auth.invalid"
    assert stoker.json("accounts", "delete", name, code=3)["code"] == "not_found"
    assert "'many' is no quota" in stoker("accounts", "create", name, "--limit", "many=1", code=2).stderr


def test_a_secret_reaches_the_function_that_lists_it(stoker: Typed, client: Client) -> None:
    name = f"KEY_{uuid4().hex[:8].upper()}"
    stoker("secrets", "set", name, "-", stdin="open sesame\n")
    source = f"exports.handler = () => process.env.{name};"
    client.function("keeper", source, secrets=[name])

    assert stoker.out("invoke", f"{client.collection}/keeper") == '"open sesame"\n'
    assert name in stoker.out("secrets", "list")
    assert "open sesame" not in stoker.out("secrets", "list", "--json")
    assert stoker.json("secrets", "delete", name, code=3)["code"] == "secret.in_use"
    stoker("delete", f"{client.collection}/keeper")
    assert "is forgotten" in stoker.out("secrets", "delete", name)
    assert stoker.json("secrets", "set", "1x", "v", code=3)["code"] == "request.invalid"


def test_limits_are_shown(stoker: Typed) -> None:
    lines = stoker.out("limits").splitlines()

    assert lines[0].split() == ["QUOTA", "USED", "LIMIT"]
    assert lines[1].split()[0] == "functions"


# -- a server that cannot be used --------------------------------------------------------------------


def test_a_server_that_is_not_there_is_exit_code_3_with_what_to_do(stoker: Typed) -> None:
    gone = stoker("list", code=3, STOKER_URL="http://127.0.0.1:1")
    document = stoker.json("list", code=3, STOKER_URL="http://127.0.0.1:1")

    assert "http://127.0.0.1:1 cannot be reached" in gone.stderr
    assert "is the server running there?" in gone.stderr
    assert document["code"] == "client.unreachable"


@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
def test_no_proxy_sees_what_goes_to_this_machine(stoker: Typed, name: str) -> None:
    assert stoker.out("limits", **{name: "http://127.0.0.1:1"}).startswith("QUOTA")


def test_a_terminal_that_lacks_a_sign_is_no_fault(stoker: Typed, client: Client) -> None:
    stoker("init", "--collection", client.collection, "--name", "signs")
    stoker("deploy")
    toml = stoker.folder / "stoker.toml"
    toml.write_text(toml.read_text().replace("timeout = 10000", "timeout = 5000"))

    assert "10000 ? 5000" in stoker.out("deploy", PYTHONIOENCODING="ascii")


def test_a_url_that_is_none_is_wrong_usage(stoker: Typed) -> None:
    assert (
        "'localhost:8080' is not the URL of a server"
        in stoker("list", "--url", "localhost:8080", code=2).stderr
    )


def test_the_token_of_the_same_machine_is_found(stoker: Typed, server: ServerProcess) -> None:
    assert stoker.json("limits", STOKER_TOKEN="", STOKER_DATA=str(server.data))
    nowhere = stoker("limits", code=3, STOKER_TOKEN="", STOKER_DATA=str(stoker.folder))
    assert f"there is no {stoker.folder}/token" in nowhere.stderr


def test_a_reader_that_goes_away_is_no_fault(stoker: Typed) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{STOKER} completion bash | true; echo ${{PIPESTATUS[0]}}"],
        env=stoker.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")


def test_completion_is_a_script_of_the_shell(stoker: Typed) -> None:
    script = stoker.out("completion", "bash")

    subprocess.run(["bash", "-n"], input=script, text=True, check=True, capture_output=True)
    assert "invalid choice" in stoker("completion", "tcsh", code=2).stderr
