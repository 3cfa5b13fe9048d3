"""Starting the supervisor: the one moment at which the gateway has to be root.

Owns the command line, the clean environment and what the supervisor is told once. Does not know what
happens on the socket afterwards.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from stoker.egress.protocol import Bounds
from stoker.sandbox.engine import Notice, Site
from stoker.sandbox.protocol import PlanSetup, Setup
from stoker.sandbox.supervised import SupervisedEngine

_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from stoker.sandbox.birth import main
sys.exit(main(int(sys.argv[2]), int(sys.argv[3])))
"""
_OF_OPENSSL = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where the machine's certificate authorities are, if not in the usual place."""
_CLEAN_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


async def start_supervisor(name: str, binary: str, site: Site, notice: Notice) -> SupervisedEngine:
    """Start a supervisor that runs the OCI runtime `binary`; return the engine over it.

    The caller must be root and may give that up afterwards. IsolationUnavailable if it cannot work here.
    """
    ours, supervisor = _spawn()
    engine = SupervisedEngine(name, ours, supervisor, site, notice)
    await engine.open(setup_of(name, binary, site))
    return engine


def _spawn() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        source = str(Path(__file__).parents[2])
        supervisor = subprocess.Popen(
            [
                *(sys.executable, "-ISX", "utf8", "-c", _PROGRAM),
                *(source, str(theirs.fileno()), str(os.getpid())),
            ],
            env=_CLEAN_ENV | {name: os.environ[name] for name in _OF_OPENSSL if name in os.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            cwd="/",
            start_new_session=True,
        )
    return ours, supervisor


def setup_of(name: str, binary: str, site: Site) -> Setup:
    """Return what a supervisor is told once."""
    plans = {
        plan.runtime: PlanSetup(
            tuple(str(layer.resolve()) for layer in plan.layers), plan.argv, plan.env, plan.own_threads
        )
        for plan in site.plans
    }
    code_root = str(site.code_root.resolve())
    return Setup(
        name,
        os.path.realpath(binary),
        owner_of(site.data),
        code_root,
        site.limits.tmp_bytes_max,
        plans,
        bounds_of(site),
    )


def bounds_of(site: Site) -> Bounds:
    """Return what the egress broker is held to."""
    limits = site.limits
    return Bounds(
        public=site.egress.public,
        ranges=site.egress.ranges,
        connections_max=limits.egress_connections_max,
        account_connections_max=limits.egress_account_connections_max,
        bytes_max=limits.egress_bytes_max,
        account_bytes_max=limits.egress_account_bytes_max,
        idle_ms_max=limits.egress_idle_ms_max,
        connect_ms_max=limits.egress_connect_ms_max,
        authorities=site.authorities,
    )


def owner_of(data: Path) -> str:
    """Return the hash that tells this data directory's cgroups from those of any other."""
    return hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:12]
