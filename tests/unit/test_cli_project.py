"""A function's folder: stoker.toml, its files, and the bundle they make."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from stoker.cli.bundle import ARCHIVE, FILES_MAX, bundle
from stoker.cli.failures import WrongUsage
from stoker.cli.project import Typed, read_project
from stoker.cli.scaffold import scaffold

TOML = 'name = "hello"\ncollection = "demo"\nruntime = "python"\n'


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / name.replace("__", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def refusal(folder: Path, typed: Typed | None = None) -> str:
    with pytest.raises(WrongUsage) as caught:
        read_project(folder, typed)
    return f"{caught.value.message} | {caught.value.hint}"


def test_a_project_has_what_its_file_says_and_defaults_for_the_rest(tmp_path: Path) -> None:
    write(
        tmp_path, stoker__toml=TOML + "timeout = 5\n[env]\nA = 'x=y'\n[network]\negress = []\n", main__py="1"
    )

    project = read_project(tmp_path)

    assert (project.name, project.collection, project.runtime, project.handler) == (
        "hello",
        "demo",
        "python",
        "main.handler",
    )
    assert (project.timeout_ms, project.env, project.network) == (5, {"A": "x=y"}, {"egress": []})
    assert project.files == {"main.py": tmp_path / "main.py"}


def test_options_come_before_the_file(tmp_path: Path) -> None:
    write(tmp_path, stoker__toml=TOML, main__py="1", other__py="2")

    project = read_project(tmp_path, Typed("x", "y", "nodejs", "a.b", (f"index.js={tmp_path / 'other.py'}",)))

    assert (project.name, project.collection, project.runtime, project.handler) == ("x", "y", "nodejs", "a.b")
    assert project.files == {"index.js": tmp_path / "other.py"}


def test_without_a_file_the_options_are_enough(tmp_path: Path) -> None:
    write(tmp_path, main__py="1")

    project = read_project(tmp_path, Typed("x", "y", files=(str(tmp_path / "main.py"),)))

    assert (project.runtime, project.handler) == ("python", "main.handler")
    assert list(project.files) == ["main.py"]


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("nam = 'x'\n", "stoker.toml: 'nam' is not known | known are name, collection"),
        ("name = 7\n", "stoker.toml: name is a text"),
        ("name = 'x'\n", "stoker.toml: collection is missing"),
        ("collection = 'x'\ntimeout = '5 s'\n", "timeout is a whole number of milliseconds"),
        ("collection = 'x'\ntimeout = true\n", "timeout is a whole number of milliseconds"),
        ("collection = 'x'\nruntime = 'ruby'\n", "runtime: 'ruby' is none of nodejs, python"),
        ("collection = 'x'\n[env]\nA = 1\n", "env.A is a text: write it in quotes"),
        ("collection = 'x'\n[schema]\nin = 'a'\n", "schema.in is not known | known are input, output"),
        ("collection = 'x'\n[schema]\ninput = 'no.json'\n", "schema.input: there is no"),
        ("name = \n", "stoker.toml: Invalid value (at line 1"),
    ],
)
def test_what_is_wrong_with_the_file_is_named(tmp_path: Path, toml: str, said: str) -> None:
    write(tmp_path, stoker__toml=toml, main__py="1")

    assert said in refusal(tmp_path)


def test_a_folder_without_a_file_says_what_to_do(tmp_path: Path) -> None:
    assert "there is no" in refusal(tmp_path)
    assert "`stoker init` makes one" in refusal(tmp_path)


def test_a_folder_without_code_says_so(tmp_path: Path) -> None:
    assert "there is no code in" in refusal(write(tmp_path, stoker__toml=TOML))


def test_a_file_that_was_typed_has_to_be_there(tmp_path: Path) -> None:
    assert "--file a.py=no.py: there is no no.py" in refusal(tmp_path, Typed("x", "y", files=("a.py=no.py",)))


def test_a_schema_that_is_no_json_is_refused_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, stoker__toml=TOML + "[schema]\ninput = 'in.json'\n", main__py="1")
    (tmp_path / "in.json").write_text('{\n  "a" 1\n}')

    with pytest.raises(WrongUsage, match=r"in\.json:2:7: Expecting ':' delimiter"):
        read_project(tmp_path).schema()


def test_files_that_are_no_code_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, stoker__toml=TOML + "exclude = ['tests', '*.md']\n[schema]\ninput = 's/in.json'\n")
    for name in (
        "main.py", "lib/a.py", "tests/test_a.py", "lib/x.md", "s/in.json", ".env", ".git/config", "main.pyc",
        "__pycache__/main.cpython-311.pyc", "node_modules/.pnpm/a.js", "node_modules/a/.x", "lib/.DS_Store",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")

    found = list(read_project(tmp_path).files)

    assert found == ["lib/a.py", "main.py", "node_modules/.pnpm/a.js", "node_modules/a/.x"]


@pytest.mark.parametrize("runtime", ["python", "nodejs"])
def test_what_init_writes_is_a_project(tmp_path: Path, runtime: str) -> None:
    files = scaffold("hello", "demo", runtime)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    project = read_project(tmp_path)

    assert (project.name, project.runtime, project.size) == ("hello", runtime, "small")
    assert set(project.schema() or ()) == {"input", "output"}
    assert len(project.files) == 1


# -- the bundle --------------------------------------------------------------------------------------


def test_few_files_go_one_by_one(tmp_path: Path) -> None:
    write(tmp_path, a__py="1", b__py="2")

    found = bundle({"a.py": tmp_path / "a.py", "b.py": tmp_path / "b.py"})

    assert (found.contents, found.is_archive) == ({"a.py": b"1", "b.py": b"2"}, False)


def test_many_files_go_as_an_archive_that_is_the_same_each_time(tmp_path: Path) -> None:
    files = {}
    for number in range(FILES_MAX + 1):
        files[f"f{number}.py"] = tmp_path / f"f{number}.py"
        files[f"f{number}.py"].write_text(str(number))

    first = bundle(files)
    for file in files.values():
        os.utime(file, (1, 1))
    second = bundle(files)

    assert first.is_archive
    assert first.contents == second.contents
    with tarfile.open(fileobj=io.BytesIO(first.contents[ARCHIVE])) as tar:
        assert tar.getnames() == list(files)
        member = tar.extractfile("f7.py")
        assert member is not None
        assert member.read() == b"7"


def test_links_and_modes_are_kept_in_an_archive(tmp_path: Path) -> None:
    write(tmp_path, run__sh="#!/bin/sh")
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "link").symlink_to("run.sh")

    found = bundle({"link": tmp_path / "link", "run.sh": tmp_path / "run.sh"})

    with tarfile.open(fileobj=io.BytesIO(found.contents[ARCHIVE])) as tar:
        assert tar.getmember("link").linkname == "run.sh"
        assert tar.getmember("run.sh").mode == 0o755


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match=r"a\.py: No such file"):
        bundle({"a.py": tmp_path / "a.py"})
