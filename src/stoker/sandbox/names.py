"""Names: the hosts of tunnels as a sandbox resolves them, each to a loopback address of its own.

Owns the hosts file of a sandbox that has tunnels, and how it gets in: mounted over the root's own, which all
sandboxes of a runtime share, from inside the sandbox's mount namespace. That is entered only while nothing
but our own shim has run there. Does not know who listens. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from stoker.sandbox import kernel

HOSTS = "/etc/hosts"
_LOCAL = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n"
_NETWORK = "127.0.1"
"""Its addresses are every loopback's, and no program listens there unasked."""


def places(tunnels: Sequence[str]) -> list[tuple[str, int, str]]:
    """Return (address, port, tunnel) of each tunnel `host:port`; those of one host share its address."""
    addresses: dict[str, str] = {}
    found = []
    for tunnel in tunnels:
        host, _, port = tunnel.rpartition(":")
        address = addresses.setdefault(host, f"{_NETWORK}.{len(addresses) + 1}")
        found.append((address, int(port), tunnel))
    return found


def write_hosts(path: str, tunnels: Sequence[str]) -> None:
    """Write the hosts file of a sandbox; OSError if that fails."""
    hosts = {tunnel.rpartition(":")[0]: address for address, _, tunnel in places(tunnels)}
    lines = (f"{address}\t{host}\n" for host, address in hosts.items())
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(_LOCAL + "".join(lines))


class Namespaces:
    """The supervisor's own mount namespace, to come back to."""

    def __init__(self) -> None:
        self._own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def show_hosts(self, path: str, pidfd: int) -> None:
        """Let a sandbox see a file of ours as its hosts file; OSError if this kernel will not.

        The process behind `pidfd` is its first one, and no code of a user has run there yet.
        """
        copy = kernel.detached_mount(path)
        try:
            kernel.setns(pidfd, kernel.CLONE_NEWNS)
            try:
                kernel.attach_mount(copy, HOSTS)
            finally:
                self._return()
        finally:
            os.close(copy)

    def _return(self) -> None:
        try:
            kernel.setns(self._own, kernel.CLONE_NEWNS)
        except OSError:
            os._exit(70)  # never go on as root among the files of a sandbox
