"""The OCI configuration as a value: closed by default, and nothing of the host in it but our own folders."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stoker.sandbox import bundle, seccomp


def config(slot: int = 3, *, swap_limit: bool = True) -> dict[str, Any]:
    return bundle.oci_config(
        ("/bin/sh", "-c", "x"),
        (("PATH", "/usr/bin"), ("EMPTY", "")),
        bundle.Berth("/run/r/python", "/run/c/aa", "/stoker-x/aa", slot),
        tmp_bytes_max=64 << 20,
        swap_limit=swap_limit,
    )


def test_a_program_is_an_ordinary_user_without_any_privilege() -> None:
    process = config()["process"]

    assert process["user"] == {"uid": 1000, "gid": 1000, "umask": 0o022}
    assert process["noNewPrivileges"] is True
    assert set(map(len, process["capabilities"].values())) == {0}
    assert len(process["capabilities"]) == 5
    assert process["env"] == ["PATH=/usr/bin", "EMPTY="]
    assert process["cwd"] == "/code"


def test_every_namespace_is_its_own() -> None:
    kinds = {namespace["type"] for namespace in config()["linux"]["namespaces"]}

    assert kinds == {"pid", "mount", "ipc", "uts", "network", "cgroup", "user"}
    assert all(set(namespace) == {"type"} for namespace in config()["linux"]["namespaces"])


def test_no_two_slots_share_an_id_of_the_host() -> None:
    ranges = []
    for slot in (0, 1, 4095):
        linux = config(slot)["linux"]
        assert linux["uidMappings"] == linux["gidMappings"]
        mapping = linux["uidMappings"][0]
        assert mapping["containerID"] == 0
        ranges.append(range(mapping["hostID"], mapping["hostID"] + mapping["size"]))

    assert ranges[0].stop == ranges[1].start
    assert ranges[0].start >= 1_000_000
    assert ranges[2].stop < 2**32
    assert bundle.host_uid(1) in ranges[1]


def test_no_mount_is_writable_but_bounded_memory() -> None:
    mounts = {mount["destination"]: mount for mount in config()["mounts"]}

    assert config()["root"] == {"path": "/run/r/python", "readonly": True}
    assert set(mounts) == {"/proc", "/dev", "/dev/shm", "/tmp", "/code"}
    for place in ("/dev", "/dev/shm", "/tmp"):
        assert mounts[place]["type"] == "tmpfs"
        assert any(option.startswith("size=") for option in mounts[place]["options"])
        assert "nosuid" in mounts[place]["options"]
    assert {"ro", "nosuid", "nodev", "rslave"} <= set(mounts["/code"]["options"])
    assert [option for option in mounts["/tmp"]["options"] if option.startswith(("size", "nr_"))] == [
        f"size={64 << 20}",
        "nr_inodes=16384",
    ]


@pytest.mark.parametrize("swap_limit", [True, False])
def test_swap_is_limited_only_where_the_machine_can(swap_limit: bool) -> None:
    memory = config(swap_limit=swap_limit)["linux"]["resources"]["memory"]

    assert memory["limit"] == 4 << 30
    assert memory.get("swap") == (4 << 30 if swap_limit else None)


def test_the_configuration_is_json() -> None:
    assert json.loads(json.dumps(config())) == config()


def test_system_calls_are_denied_unless_they_are_named() -> None:
    profile = seccomp.profile()

    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    assert "architectures" not in profile
    assert {rule["action"] for rule in profile["syscalls"]} == {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"}


@pytest.mark.parametrize(
    "name",
    [
        "mount",
        "umount2",
        "pivot_root",
        "unshare",
        "setns",
        "chroot",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "bpf",
        "keyctl",
        "add_key",
        "request_key",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "init_module",
        "kexec_load",
        "reboot",
        "swapon",
        "open_by_handle_at",
        "name_to_handle_at",
        "fsopen",
        "open_tree",
        "move_mount",
        "mount_setattr",
        "pidfd_getfd",
        "personality",
        "clone",
        "clone3",
        "socket",
        "socketpair",
        "ioctl",
        "mknod",
        "mknodat",
    ],
)
def test_a_dangerous_call_is_in_no_unconditional_rule(name: str) -> None:
    rules = [rule for rule in seccomp.profile()["syscalls"] if name in rule["names"]]

    assert name not in seccomp.plain_calls()
    assert all("args" in rule or rule["action"] == "SCMP_ACT_ERRNO" for rule in rules)


def test_every_argument_is_compared_under_a_mask() -> None:
    # The kernel reads 32 bits of these, a plain comparison all 64: what differs above would slip through.
    arguments = [argument for rule in seccomp.profile()["syscalls"] for argument in rule.get("args", [])]

    assert {argument["op"] for argument in arguments} == {"SCMP_CMP_MASKED_EQ"}
    assert all(argument["value"] <= 0xFFFFFFFF for argument in arguments)


def test_no_call_is_named_twice() -> None:
    names = seccomp.plain_calls()

    assert len(names) == len(set(names))
