"""The root file systems and shims as they are built here: complete, neutral, and they run."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stoker.model.launch import LaunchPlan
from stoker.runtimes import rootfs, wire
from stoker.runtimes.launch_plans import ensure

Plans = tuple[LaunchPlan, LaunchPlan]
UMOUNT_AND_RUN = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
both = pytest.mark.parametrize("index", [0, 1], ids=["nodejs", "python"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runtimes")


@pytest.fixture(scope="module")
def plans(base: Path) -> Plans:
    return ensure(base, lambda line: None)


@pytest.fixture
def enter(require_tool: Callable[[str], str]) -> Callable[..., Any]:
    """Return a function that runs a command inside a root file system and returns the JSON it prints."""
    chroot = require_tool("chroot")
    if os.geteuid() != 0:
        pytest.skip("only root may chroot")

    def enter(root: Path, *command: str) -> Any:
        done = subprocess.run([chroot, root, *command], capture_output=True, text=True, check=True, env={})
        return json.loads(done.stdout)

    return enter


def test_what_is_there_is_not_built_again(plans: Plans, base: Path) -> None:
    told: list[str] = []

    again = ensure(base, told.append)

    assert again == plans
    assert told == []


def test_a_build_that_fails_leaves_nothing_and_one_that_was_killed_is_cleaned_up(tmp_path: Path) -> None:
    (tmp_path / ".building-of-a-killed-one").mkdir()

    def fail(root: Path) -> None:
        (root / "half").write_text("")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        rootfs.build(tmp_path / "runtime", fail)

    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


def test_a_replaced_program_calls_for_another_directory(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("one")
    before = rootfs.key("nodejs-1", sources=[program, tmp_path / "missing"])

    program.write_text("another")

    assert rootfs.key("nodejs-1", sources=[program]) != before


def test_only_what_no_plan_needs_is_removed_as_stale(tmp_path: Path) -> None:
    for name in ("old", "current"):
        (tmp_path / name).mkdir()

    rootfs.remove_stale(tmp_path, keep=[tmp_path / "current"])

    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", "current"]


@both
def test_everybody_may_read_and_nobody_else_may_write(index: int, plans: Plans) -> None:
    for layer in plans[index].layers:
        for folder, _, files in os.walk(layer):
            for path in (Path(folder), *(Path(folder, name) for name in files)):
                mode = stat.S_IMODE(path.lstat().st_mode)
                wanted = {0o1777} if path == layer / "tmp" else {0o755, 0o644}
                assert path.is_symlink() or mode in wanted, path


@both
def test_no_place_of_this_machine_is_named_in_it(index: int, plans: Plans) -> None:
    own = {Path(sys.base_prefix), Path(__file__).parents[2], plans[index].layers[0].parent} - {Path("/usr")}

    for layer in plans[index].layers:
        for path in layer.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 50_000_000:
                content = path.read_bytes()
                assert not [place for place in own if bytes(place) in content], path


@both
def test_links_stay_inside_it(index: int, plans: Plans) -> None:
    root = plans[index].layers[1]

    for path in root.rglob("*"):
        if path.is_symlink():
            target = os.readlink(path)
            assert (root / target.lstrip("/") if target.startswith("/") else path.parent / target).exists(), (
                path
            )


def test_python_runs_in_its_root_with_its_library_and_no_packages(plans: Plans, enter: Any) -> None:
    script = """
import sys, json, ssl, sqlite3, ctypes, zoneinfo, decimal, hashlib, asyncio, sysconfig, os
certificates = ssl.create_default_context().get_ca_certs()
print(json.dumps({
    "version": ".".join(map(str, sys.version_info[:3])), "sys": sys.version.split()[0],
    "prefix": sys.prefix, "path": sys.path, "file": asyncio.run.__code__.co_filename,
    "zone": str(zoneinfo.ZoneInfo("Europe/Berlin")), "certificates": len(certificates) > 10,
    "shell": os.popen("echo hi").read(), "modules": os.listdir(sys.path[1]),
}))"""
    plan = plans[1]
    name = "python" + ".".join(plan.version.split(".")[:2])

    told = enter(plan.layers[1], f"/usr/bin/{name}", "-I", "-S", "-c", script)

    modules = told.pop("modules")
    assert "json" in modules
    assert not {"site-packages", "dist-packages", "test", "idlelib", "tkinter", "ensurepip"} & set(modules)
    assert told.pop("certificates") is rootfs.CERTIFICATES.exists()
    zip_name = f"/usr/lib/{name.replace('.', '')}.zip"
    assert told == {
        "version": plan.version,
        "sys": plan.version,
        "prefix": "/usr",
        "path": [zip_name, f"/usr/lib/{name}", f"/usr/lib/{name}/lib-dynload"],
        "file": f"/usr/lib/{name}/asyncio/runners.py",
        "zone": "Europe/Berlin",
        "shell": "hi\n",
    }


def test_every_module_of_the_standard_library_can_be_imported(plans: Plans, enter: Any) -> None:
    script = """
import sys, json, importlib, os, warnings
warnings.simplefilter("ignore")
failed = []
for folder in sys.path[1:]:
    for entry in os.listdir(folder):
        name = entry.split(".")[0]
        if name.startswith("__") or name in ("antigravity", "this", "lib-dynload", "LICENSE"):
            continue
        if name in ("nis", "turtle"):
            continue
        try:
            importlib.import_module(name)
        except Exception as problem:
            failed.append([name, repr(problem)])
print(json.dumps(failed))"""
    name = "python" + ".".join(plans[1].version.split(".")[:2])

    assert enter(plans[1].layers[1], f"/usr/bin/{name}", "-I", "-S", "-c", script) == []


def test_node_runs_in_its_root(plans: Plans, enter: Any) -> None:
    script = "console.log(JSON.stringify([process.versions.node, require('crypto').randomUUID().length]))"

    assert enter(plans[0].layers[1], "/usr/bin/node", "-e", script) == [plans[0].version, 36]


@both
def test_an_instance_answers_under_an_oci_runtime(
    index: int, plans: Plans, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    # crun refuses a host with both versions of cgroups unless it sees one only. Limits are not tried here.
    alone = [require_tool("unshare"), "--mount", "sh", "-c", UMOUNT_AND_RUN, "sh"]
    crun = [*alone, require_tool("crun"), "--root", str(tmp_path / "state"), "--cgroup-manager", "disabled"]
    plan = plans[index]
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.js").write_text("exports.handler = (e) => [e, process.pid > 1]")
    (tmp_path / "code" / "main.py").write_text("import os\ndef handler(e): return [e, os.getpid() > 1]")
    (tmp_path / "config.json").write_text(json.dumps(oci_configuration(plan, tmp_path)))
    orders = wire.encode_load(
        handler="main.handler",
        root="/code",
        env={},
        function_name="f",
        function_version="1",
        memory_mb=512,
        per_instance=1,
        result_bytes_max=1000,
    ) + wire.encode_invoke(bytes(15) + b"\1", 1000, b"5")
    host, inside = socket.socketpair()
    reader = wire.FrameReader(frame_bytes_max=1_000_000)
    name = f"stoker-test-{os.getpid()}-{index}"

    frames: list[wire.Frame] = []
    with host:
        with inside:
            run = [*crun, "run", "--detach", "--bundle", str(tmp_path), name]
            subprocess.run(run, stdin=inside.fileno(), check=True, timeout=60)
        try:
            host.settimeout(30)
            host.sendall(orders)
            while len(frames) < 3:
                data = host.recv(65536)
                assert data, "the instance is gone"
                frames += reader.feed(data)
        finally:
            subprocess.run([*crun, "delete", "--force", name], check=True, timeout=60)

    assert [kind for kind, _, _ in frames] == [wire.HELLO, wire.LOADED, wire.RESULT]
    assert wire.decode_hello(frames[0][2]) == wire.Hello(plan.runtime, plan.version)
    assert json.loads(frames[2][2]) == [5, True]


def oci_configuration(plan: LaunchPlan, folder: Path) -> dict[str, Any]:
    """Return a container of the plan: its root with the shim's folder bound into it."""
    shim, root = plan.layers
    readable = ["bind", "ro"]
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
        {"destination": "/code", "type": "bind", "source": str(folder / "code"), "options": readable},
        {
            "destination": "/opt/stoker",
            "type": "bind",
            "source": str(shim / "opt/stoker"),
            "options": readable,
        },
    ]
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": True},
        "process": {
            "user": {"uid": 1000, "gid": 1000},
            "cwd": "/code",
            "noNewPrivileges": True,
            "args": list(plan.argv),
            "env": [f"{name}={value}" for name, value in plan.env],
        },
        "mounts": mounts,
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]},
    }
