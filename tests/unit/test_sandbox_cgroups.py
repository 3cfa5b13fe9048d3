"""Control groups as files: which hierarchies there are, and what is written to and read from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.sandbox import cgroups_v1
from stoker.sandbox.birth import cgroups_of
from stoker.sandbox.cgroups import CgroupsUnusable, Figures, Mount, mounts_of
from stoker.sandbox.cgroups_v1 import CgroupsV1
from stoker.sandbox.cgroups_v2 import CgroupsV2, weight_of

NAME = "stoker-0123456789ab"
HYBRID = """\
30 24 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/my\\040memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
35 24 0:28 / /elsewhere rw,relatime - cgroup cgroup rw,memory
"""
UNIFIED = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_hierarchies_are_read_from_the_mounts_each_once() -> None:
    assert mounts_of(HYBRID) == [
        Mount("/sys/fs/cgroup/cpu,cpuacct", 1, ("cpu", "cpuacct")),
        Mount("/sys/fs/cgroup/my memory", 1, ("memory",)),
        Mount("/sys/fs/cgroup/systemd", 1, ("name=systemd",)),
        Mount("/sys/fs/cgroup/unified", 2, ()),
    ]


def test_version_1_counts_where_it_has_the_memory_controller() -> None:
    assert isinstance(cgroups_of(mounts_of(HYBRID), NAME), CgroupsV1)
    assert isinstance(cgroups_of(mounts_of(UNIFIED), NAME), CgroupsV2)


def test_a_machine_without_cgroups_is_refused() -> None:
    with pytest.raises(CgroupsUnusable):
        cgroups_of([], NAME)


@pytest.mark.parametrize(("shares", "weight"), [(0, 1), (2, 1), (1024, 100), (2048, 200), (262_144, 10_000)])
def test_shares_become_weights_with_a_core_at_what_any_other_group_has(shares: int, weight: int) -> None:
    assert weight_of(shares) == weight


@pytest.fixture
def unified(tmp_path: Path) -> Path:
    """A folder with the files of a cgroup2 mount and of one sandbox in it."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("memory pids\n")
    group = tmp_path / NAME / "aa"
    group.mkdir(parents=True)
    for folder in (group.parent, group):
        for name in ("cgroup.subtree_control", "cpu.weight", "memory.oom.group", "memory.swap.max"):
            (folder / name).write_text("")
    for name, text in {
        "memory.max": "max",
        "pids.max": "512",
        "pids.current": "3\n",
        "pids.events": "max 0\n",
        "memory.peak": "1048576\n",
        "memory.events": "low 0\nhigh 0\nmax 4\noom 1\noom_kill 0\noom_group_kill 0\n",
        "cgroup.procs": "12\n34\n",
    }.items():
        (group / name).write_text(text)
    return tmp_path


def test_version_2_hands_the_controllers_down_and_weighs_the_parent(unified: Path) -> None:
    CgroupsV2(str(unified), NAME).prepare(cores=2)

    assert (unified / "cgroup.subtree_control").read_text().startswith("+memory +pids +cpu")
    assert (unified / NAME / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    assert (unified / NAME / "cpu.weight").read_text() == "200"


def test_version_2_leaves_a_root_alone_that_hands_all_down_already(unified: Path) -> None:
    (unified / "cgroup.subtree_control").write_text("cpu io memory pids\n")

    CgroupsV2(str(unified), NAME).prepare(cores=2)

    assert (unified / "cgroup.subtree_control").read_text() == "cpu io memory pids\n"


def test_version_2_without_a_controller_says_which(unified: Path) -> None:
    (unified / "cgroup.controllers").write_text("memory\n")

    with pytest.raises(CgroupsUnusable, match="pids, cpu"):
        CgroupsV2(str(unified), NAME).prepare(cores=2)


def test_version_2_writes_every_limit(unified: Path) -> None:
    CgroupsV2(str(unified), NAME).limit("aa", memory_bytes=1 << 27, shares=512, processes=68)

    group = unified / NAME / "aa"
    written = {
        name: (group / name).read_text()
        for name in ("memory.max", "memory.swap.max", "memory.oom.group", "cpu.weight")
    }
    assert written == {
        "memory.max": str(1 << 27),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cpu.weight": "50",
    }
    assert (group / "pids.max").read_text().startswith("71")


def test_version_2_reads_what_was_counted(unified: Path) -> None:
    groups = CgroupsV2(str(unified), NAME)
    (unified / NAME / "aa" / "memory.events").write_text("oom 1\noom_kill 2\noom_group_kill 1\n")
    (unified / NAME / "aa" / "pids.events").write_text("max 7\n")

    assert groups.figures("aa") == Figures(1 << 20, processes_limit_hit=True, out_of_memory=True)
    assert groups.members("aa") == [12, 34]
    assert groups.children() == ["aa"]
    assert groups.path("aa") == f"/{NAME}/aa"


def test_version_2_tells_the_limit_as_the_peak_of_an_end_for_want_of_memory_where_none_is_counted(
    unified: Path,
) -> None:
    group = unified / NAME / "aa"
    (group / "memory.peak").unlink()
    (group / "memory.current").write_text("4096\n")
    (group / "memory.max").write_text(f"{1 << 27}\n")
    groups = CgroupsV2(str(unified), NAME)
    before = groups.figures("aa").memory_peak_bytes

    (group / "memory.events").write_text("oom_kill 1\n")

    assert before == 4096
    assert groups.figures("aa").memory_peak_bytes == 1 << 27
    assert groups.memory_file("aa") == str(group / "memory.current")


def test_version_2_counts_in_the_shape_of_oci_runtimes(unified: Path) -> None:
    group = unified / NAME / "aa"
    for name, text in {
        "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\n",
        "memory.stat": "anon 11\nfile 22\nunknown_to_us 33\n",
        "memory.current": "1000\n",
        "memory.max": "134217728\n",
        "memory.events": "low 0\nmax 4\n",
        "io.stat": "8:16 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=0 dios=0\n",
    }.items():
        (group / name).write_text(text)

    assert CgroupsV2(str(unified), NAME).stats("aa") == {
        "cpu": {
            "usage": {"total": 30_000, "user": 20_000, "kernel": 10_000},
            "throttling": {"periods": 5, "throttledPeriods": 2, "throttledTime": 7_000},
        },
        "memory": {
            "usage": {"usage": 1000, "limit": 1 << 27, "max": 1 << 20, "failcnt": 4},
            "cache": 22,
            "raw": {"anon": 11, "file": 22},
        },
        "pids": {"current": 3, "limit": 512},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major": 8, "minor": 16, "op": "Read", "value": 100},
                {"major": 8, "minor": 16, "op": "Write", "value": 200},
            ]
        },
    }


def test_version_2_counts_without_limits_and_without_the_io_controller(unified: Path) -> None:
    group = unified / NAME / "aa"
    for name in ("cpu.stat", "memory.stat"):
        (group / name).write_text("")
    (group / "memory.current").write_text("1000\n")
    (group / "pids.max").write_text("max\n")

    stats = CgroupsV2(str(unified), NAME).stats("aa")

    assert stats["memory"]["usage"]["limit"] == 0
    assert stats["pids"]["limit"] == 0
    assert stats["blkio"] == {"ioServiceBytesRecursive": []}


def test_version_1_counts_in_the_shape_of_oci_runtimes(tmp_path: Path) -> None:
    group = tmp_path / NAME / "aa"
    group.mkdir(parents=True)
    for name, text in {
        "cpuacct.usage": "30\n",
        "cpuacct.usage_user": "20\n",
        "cpuacct.usage_sys": "10\n",
        "cpu.stat": "nr_periods 5\nnr_throttled 2\nthrottled_time 7\n",
        "memory.stat": "cache 22\nrss 11\ntotal_cache 33\n",
        "memory.usage_in_bytes": "1000\n",
        "memory.limit_in_bytes": "134217728\n",
        "memory.max_usage_in_bytes": "2000\n",
        "memory.failcnt": "4\n",
        "pids.current": "3\n",
        "pids.max": "67\n",
        "blkio.throttle.io_service_bytes_recursive": "8:16 Read 100\n8:16 Write 200\nTotal 300\n",
    }.items():
        (group / name).write_text(text)
    mounts = [Mount(str(tmp_path), 1, ("memory", "pids", "cpu", "cpuacct", "blkio"))]

    everything = CgroupsV1(mounts, NAME).stats("aa")
    least = CgroupsV1([Mount(str(tmp_path), 1, ("memory", "pids", "cpu"))], NAME).stats("aa")

    assert everything == {
        "cpu": {
            "usage": {"total": 30, "user": 20, "kernel": 10},
            "throttling": {"periods": 5, "throttledPeriods": 2, "throttledTime": 7},
        },
        "memory": {
            "usage": {"usage": 1000, "limit": 1 << 27, "max": 2000, "failcnt": 4},
            "cache": 22,
            "raw": {"cache": 22, "rss": 11},
        },
        "pids": {"current": 3, "limit": 67},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major": 8, "minor": 16, "op": "Read", "value": 100},
                {"major": 8, "minor": 16, "op": "Write", "value": 200},
            ]
        },
    }
    assert least["cpu"]["usage"] == {"total": 0, "user": 0, "kernel": 0}
    assert least["blkio"] == {"ioServiceBytesRecursive": []}


def test_a_group_that_is_gone_has_counted_nothing(tmp_path: Path) -> None:
    nothing = Figures(0, processes_limit_hit=False, out_of_memory=False)
    mounts = [Mount(str(tmp_path), 1, ("memory", "pids", "cpu"))]

    for groups in (CgroupsV1(mounts, NAME), CgroupsV2(str(tmp_path), NAME)):
        assert groups.figures("aa") == nothing
        assert groups.members("aa") == []
        assert groups.children() == []
        assert groups.remove("aa")
        assert groups.close()


def test_a_group_that_is_in_use_is_not_removed_and_says_so(tmp_path: Path) -> None:
    mounts = [Mount(str(tmp_path / point), 1, (point,)) for point in ("memory", "pids")]
    for point in ("memory", "pids"):
        (tmp_path / point / NAME / "aa").mkdir(parents=True)
    (tmp_path / "memory" / NAME / "aa" / "inner").mkdir()
    groups = CgroupsV1(mounts, NAME)

    assert not groups.remove("aa")
    assert groups.children() == ["aa"]
    assert not groups.close()


@pytest.mark.parametrize("memory_bytes", [1 << 27, 1 << 33])
def test_version_1_keeps_memory_below_memory_and_swap_at_every_step(
    tmp_path: Path, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = tmp_path / NAME / "aa"
    point.mkdir(parents=True)
    (tmp_path / "memory.memsw.limit_in_bytes").write_text("")
    (point / "memory.memsw.limit_in_bytes").write_text(f"{1 << 32}\n")
    (point / "pids.current").write_text("2\n")
    groups = CgroupsV1([Mount(str(tmp_path), 1, ("memory", "pids", "cpu"))], NAME)
    written: list[tuple[str, int | str]] = []
    monkeypatch.setattr(cgroups_v1, "write", lambda path, value: written.append((Path(path).name, value)))

    groups.limit("aa", memory_bytes=memory_bytes, shares=512, processes=64)

    memory = [("memory.limit_in_bytes", memory_bytes), ("memory.memsw.limit_in_bytes", memory_bytes)]
    assert written[:2] == (memory if memory_bytes < 1 << 32 else memory[::-1])
    assert written[2:] == [("cpu.shares", 512), ("pids.max", 66)]


def test_version_1_without_a_controller_says_which(tmp_path: Path) -> None:
    groups = CgroupsV1([Mount(str(tmp_path), 1, ("memory",))], NAME)

    with pytest.raises(CgroupsUnusable, match="pids, cpu"):
        groups.prepare(cores=2)
