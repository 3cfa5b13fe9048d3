"""Names and links in a function's folder: nothing is made or reached outside it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.model.errors import InvalidRequest
from stoker.model.limits import Limits
from stoker.testing.archives import member, tgz_of
from stoker.worker.code_tree import BadPath, CodeTree, build, relative_path

LIMITS = Limits()
VALUE, NAME = "/compute_asset/assets/0/asset_value", "/compute_asset/assets/0/asset_name"


def unpacked(place: Path, *items: tuple[str, str, bytes]) -> Path:
    root = place / "root"
    build(items, root, place / "spool", limits=LIMITS)
    return root


def links_of(*links: tuple[str, str]) -> bytes:
    return tgz_of(*(member(name, kind=b"2", target=target) for name, target in links))


@pytest.mark.parametrize(
    ("name", "path"),
    [("index.js", "index.js"), ("./index.js", "index.js"), ("././a//b/./c.py", "a/b/c.py"), ("...", "...")],
)
def test_a_good_name_is_a_path_below_the_root(name: str, path: str) -> None:
    assert relative_path(name) == path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/index.js", "absolute"),
        ("../x", "'..'"),
        ("a/../b", "'..'"),
        ("a/..", "'..'"),
        ("a\0b", "control"),
        ("a\x1b[31m", "control"),
        ("a\x7f", "control"),
        ("a\x85", "control"),
        ("x" * 256, "too long"),
        ("ü" * 128, "too long"),
        ("x" * 200 + ("/" + "x" * 200) * 5, "too long"),
        ("d/" * 150 + "x", "too long"),
        ("\ud800", "UTF-8"),
    ],
)
def test_a_bad_name_of_an_item_is_refused_with_its_field(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        unpacked(tmp_path, (name, "file", b"x"))

    assert caught.value.field == NAME
    assert reason in caught.value.message
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".", "./", "a/", "a/."])
def test_a_name_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        unpacked(tmp_path, (name, "file", b"x"))

    assert caught.value.field == NAME


def test_255_bytes_of_a_part_and_1024_of_a_path_are_allowed(tmp_path: Path) -> None:
    name = "/".join(["x" * 255] * 4)
    assert len(name) == 1023

    root = unpacked(tmp_path, (name, "file", b"x"))

    assert (root / name).read_bytes() == b"x"


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [("a", "a/b", "has to be a directory"), ("a/b", "a", "has to be a file"), ("a", "a/b/c", "directory")],
)
def test_a_file_where_a_directory_is_needed_is_refused_with_the_field_of_the_later(
    tmp_path: Path, first: str, second: str, reason: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        unpacked(tmp_path, (first, "file", b"1"), (second, "file", b"2"))

    assert caught.value.field == "/compute_asset/assets/1/asset_name"
    assert reason in caught.value.message


def test_links_that_stay_inside_are_kept_as_they_are(tmp_path: Path) -> None:
    content = tgz_of(
        member("node_modules/tsc/bin/tsc.js", b"#!", mode=0o755),
        member("node_modules/.bin/tsc", kind=b"2", target="../tsc/bin/tsc.js"),
        member("here", kind=b"2", target="."),
        member("dangling", kind=b"2", target="not/there"),
        member("a/b/up", kind=b"2", target="../../"),
        member("through", kind=b"2", target="a/b/up/node_modules/.bin/tsc"),
    )

    root = unpacked(tmp_path, ("x", "archive", content))

    assert os.readlink(root / "node_modules/.bin/tsc") == "../tsc/bin/tsc.js"
    assert (root / "through").read_bytes() == b"#!"
    assert (root / "dangling").is_symlink()


@pytest.mark.parametrize(
    "links",
    [
        [("a", "/etc/passwd")],
        [("a", "..")],
        [("d/a", "../../x")],
        [("a", "")],
        [("a", "b\x01c")],
        [("a", "x" * 2000)],
        [("a", "b"), ("b", "a")],
        [("a", "a")],
        [("a", "a/x")],
        # Lexically inside, really outside: `a` is the root, so `..` after it is above.
        [("d/a", ".."), ("b", "d/a/../x")],
        [("up/x", "../"), ("e/f/g", "../../up/x/../../y")],
    ],
)
def test_links_that_leave_the_root_or_lead_in_a_circle_are_refused(
    tmp_path: Path, links: list[tuple[str, str]]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        unpacked(tmp_path, ("x", "archive", links_of(*links)))

    assert caught.value.field == VALUE
    assert os.listdir(tmp_path) == []


def test_links_named_like_devices_are_links_in_the_folder_and_no_more(tmp_path: Path) -> None:
    for name in ("dev", "dev/null", "dev/console", "proc"):
        with pytest.raises(InvalidRequest):
            unpacked(tmp_path, ("x", "archive", links_of((name, "/proc/self/fd"))))

    assert os.listdir(tmp_path) == []


def test_nothing_is_written_through_a_link_of_an_earlier_entry_or_item(tmp_path: Path) -> None:
    one = tgz_of(member("a", kind=b"2", target="b"), member("a/x", b"1"))
    outside = tmp_path / "outside"
    outside.mkdir()

    with pytest.raises(InvalidRequest, match="has to be a directory"):
        unpacked(tmp_path, ("x", "archive", one))
    with pytest.raises(InvalidRequest, match="has to be a directory"):
        unpacked(tmp_path, ("x", "archive", links_of(("a", "../outside"))), ("a/x", "file", b"1"))

    assert os.listdir(outside) == []


def test_a_file_after_a_link_of_the_same_name_replaces_the_link(tmp_path: Path) -> None:
    content = tgz_of(member("target", b"old"), member("a", kind=b"2", target="target"), member("a", b"new"))

    root = unpacked(tmp_path, ("x", "archive", content))

    assert (root / "target").read_bytes() == b"old"
    assert not (root / "a").is_symlink()


def test_links_that_multiply_through_each_other_are_refused_in_bounded_work(tmp_path: Path) -> None:
    doubling = [(f"l{n}", f"l{n + 1}/" * 20) for n in range(39)]
    wide = [(f"w{n}", "l0/" * 30) for n in range(2000)]

    with pytest.raises(InvalidRequest, match=r"circle|too many"):
        unpacked(tmp_path, ("x", "archive", links_of(*doubling, *wide)))


parts = st.sampled_from(["a", "b", "c", "..", ".", "", "…", "x" * 255, "x" * 256, "\0", "\n", "-", " "])
paths = st.lists(parts, min_size=1, max_size=8).map("/".join)


@given(paths)
def test_a_name_is_either_refused_or_a_plain_path_below_the_root(name: str) -> None:
    try:
        path = relative_path(name)
    except BadPath:
        return

    assert not path.startswith("/")
    assert not {"..", "."} & set(path.split("/"))
    assert os.path.normpath("/code/" + path).startswith("/code")
    assert os.path.normpath("/code/" + name) == os.path.normpath("/code/" + path)


names = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
targets = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=6).map("/".join)


@settings(max_examples=300)
@given(st.dictionaries(names, targets, min_size=1, max_size=6), st.sets(names, max_size=4))
def test_whatever_links_are_kept_the_kernel_finds_none_that_leaves_the_root(
    links: dict[str, str], files: set[str]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        base = os.path.realpath(place)
        tree = CodeTree(Path(base, "spool"), limits=LIMITS)
        try:
            for name in sorted(files):
                tree.add(0, name, "file", b"x")
            tree.add(1, "links", "archive", links_of(*links.items()))
            tree.check()
        except InvalidRequest:
            return
        root = Path(base, "root")
        tree.write(root)

        for directory, _, _ in os.walk(root):
            for name in os.listdir(directory):
                real = os.path.realpath(os.path.join(directory, name))
                assert real == str(root) or real.startswith(f"{root}/")
