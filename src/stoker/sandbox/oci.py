"""Running crun, runc or runsc: command lines, the descriptors they pass on, and what they leave behind.

Owns the quirks of those programs. Does not wait for anything: the supervisor hears of their end. Standard
library only.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from dataclasses import dataclass

from stoker.sandbox import bundle
from stoker.sandbox.layers import STATE, Folders
from stoker.sandbox.protocol import PlanSetup

_CLEAN_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What Python or the supervisor ignores, an exec would hand on to the functions as ignored."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A runtime that has been started and has not returned yet."""

    pid: int
    wire: int
    """The host's end of the program's standard input. The caller closes it."""
    output: int
    """Read end of the pipe that is the program's standard output and error. The caller closes it."""


class OciRuntime:
    """One of the programs that carry out the OCI runtime specification."""

    def __init__(self, name: str, binary: str, folders: Folders, *, tmp_bytes_max: int, swap: bool) -> None:
        self._name = name
        self._binary = binary
        self._folders = folders
        self._tmp_bytes_max = tmp_bytes_max
        self._swap = swap

    def launch(self, sandbox: str, name: str, plan: PlanSetup, cgroup: str, slot: int) -> Launch:
        """Start a sandbox of a plan; the runtime's process ends once the program runs."""
        berth = bundle.Berth(self._folders.root(name), self._folders.code(sandbox), cgroup, slot)
        config = bundle.oci_config(
            plan.argv, plan.env, berth, tmp_bytes_max=self._tmp_bytes_max, swap_limit=self._swap
        )
        path = self._folders.bundle(sandbox)
        with open(f"{path}/config.json", "w", encoding="utf-8") as file:
            json.dump(config, file)
        wire, inner = _stream_pair()
        output, end = os.pipe()
        try:
            # So that the program may open /dev/stdout and /proc/self/fd/1 by name.
            os.fchown(end, bundle.host_uid(slot), bundle.host_uid(slot))
            pid = self._spawn(sandbox, inner, end)
        except BaseException:
            os.close(wire)
            os.close(output)
            raise
        finally:
            os.close(inner)
            os.close(end)
        return Launch(pid, wire, output)

    def _spawn(self, sandbox: str, stdin: int, output: int) -> int:
        path = self._folders.bundle(sandbox)
        # Inherited as the least that the program, which has no privilege, can set for itself.
        _write_oom_score(bundle.OOM_SCORE)
        try:
            return os.posix_spawn(
                self._binary,
                self._command(sandbox, "run", "--detach", "--pid-file", f"{path}/pid", "--bundle", path),
                _CLEAN_ENV,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, stdin, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsigdef=_DEFAULT_SIGNALS,
                setsigmask=(),
                setsid=True,
            )
        finally:
            _write_oom_score(0)

    def first_process(self, sandbox: str) -> int:
        """Return the pid that a runtime has written for its sandbox; OSError or ValueError if it has not."""
        with open(f"{self._folders.bundle(sandbox)}/pid", encoding="ascii") as file:
            return int(file.read())

    def complaint(self, sandbox: str) -> str:
        """Return the last line of what the runtime logged, for an operator."""
        try:
            with open(self._log(sandbox), encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            lines = []
        return lines[-1] if lines else f"{self._name} gave no reason"

    def _log(self, sandbox: str) -> str:
        return f"{self._folders.bundle(sandbox)}/log"

    def _command(self, sandbox: str, *words: str) -> list[str]:
        platform = ["--platform", "ptrace", "--network", "none"] if self._name == "runsc" else []
        return [self._name, "--root", STATE, "--log", self._log(sandbox), *platform, *words, sandbox]


def _stream_pair() -> tuple[int, int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return ours.detach(), theirs.detach()


def _write_oom_score(score: int) -> None:
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(score))
