"""Functions that mean harm: what they see, reach, leave behind, and can do to the server at the other end.

Every way out is tried for real from inside, and looked at in the kernel from outside.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import Client, ServerProcess
from tests.e2e.processes import descendants, wait_until

BOTH = pytest.mark.parametrize("runtime", ["nodejs", "python"])
MIB = 1 << 20
IDENTITY = {"nodejs": "exports.handler = (event) => event;", "python": "def handler(event): return event"}


def owner_of(server: ServerProcess) -> str:
    """Return the hash that the names of a server's cgroups carry."""
    return hashlib.sha256(os.fsencode(server.data.resolve())).hexdigest()[:12]


def supervisors_of(server: ServerProcess) -> list[int]:
    """Return the two processes of the supervisor, and the egress broker that it has forked."""
    return [
        pid
        for pid in descendants(server.process.pid)
        if b"stoker.sandbox.birth" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def sandbox_groups(server: ServerProcess) -> set[str]:
    """Return the sandboxes that have a cgroup, of either version."""
    name = f"stoker-{owner_of(server)}"
    roots = Path("/sys/fs/cgroup")
    parents = [*roots.glob(name), *roots.glob(f"*/{name}")]
    return {entry.name for parent in parents for entry in parent.iterdir() if entry.is_dir()}


def marked(mark: str) -> list[int]:
    """Return the processes of the machine with a word in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in entry.read_bytes() and int(entry.parent.name) != os.getpid():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


# -- what they see -------------------------------------------------------------------------------------

SEARCH = {
    "nodejs": """
const fs = require('node:fs');
const SKIPPED = /^\\/proc\\/(self|thread-self|\\d+\\/(task|map_files|cwd|root|mem|pagemap|clear_refs|fd\\/))|^\\/dev/;
exports.handler = ({ needles, parts }) => {
  const words = needles.map((needle) => Buffer.from(needle));
  const found = [];
  let looked = 0;
  const look = (path) => {
    if (SKIPPED.test(path)) return;
    let kind;
    try { kind = fs.lstatSync(path); } catch { return; }
    if (kind.isSymbolicLink()) {
      let target = '';
      try { target = fs.readlinkSync(path); } catch { return; }
      for (const needle of needles) if (target.includes(needle)) found.push([path, needle]);
    } else if (kind.isDirectory()) {
      let names = [];
      try { names = fs.readdirSync(path); } catch { return; }
      for (const name of names) look(path === '/' ? '/' + name : path + '/' + name);
    } else if (kind.isFile()) {
      let content;
      try { content = fs.readFileSync(path); } catch { return; }
      looked++;
      for (const word of words) if (content.includes(word)) found.push([path, String(word)]);
    }
  };
  parts.forEach(look);
  const shown = JSON.stringify([process.env, process.argv, process.execPath, process.config, require('node:os').hostname()]);
  for (const needle of needles) if (shown.includes(needle)) found.push(['process', needle]);
  return { found, looked };
};
""",
    "python": """
import os, re, socket, stat, sys, sysconfig
SKIPPED = re.compile(r'/proc/(self|thread-self|\\d+/(task|map_files|cwd|root|mem|pagemap|clear_refs|fd/))|/dev')
def handler(event):
    words = [needle.encode() for needle in event['needles']]
    found, looked = [], 0
    def look(path):
        nonlocal looked
        if SKIPPED.match(path):
            return
        try:
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                found.extend([path, n] for n in event['needles'] if n in os.readlink(path))
            elif stat.S_ISDIR(mode):
                for name in os.listdir(path):
                    look(os.path.join(path, name))
            elif stat.S_ISREG(mode):
                with open(path, 'rb') as file:
                    content = file.read()
                looked += 1
                found.extend([path, word.decode()] for word in words if word in content)
        except OSError:
            return
    for part in event['parts']:
        look(part)
    shown = repr([dict(os.environ), sys.argv, sys.path, sys.flags, sys.executable, sys.prefix, socket.gethostname(),
                  sysconfig.get_config_vars(), sysconfig.get_paths(), sorted(sys.modules)])
    found.extend(['process', needle] for needle in event['needles'] if needle in shown)
    return {'found': found, 'looked': looked}
""",
}


@BOTH
def test_nothing_inside_names_a_place_a_name_or_a_secret_of_the_host(
    server: ServerProcess, client: Client, runtime: str
) -> None:
    name = client.function("searches", SEARCH[runtime], runtime=runtime, size="1GB", timeout=60_000)
    needles = {
        str(server.data),
        server.data.parent.name,
        client.token,
        owner_of(server),
        str(Path(__file__).parents[2]),
        sys.prefix,
        *([] if sys.base_prefix == "/usr" else [sys.base_prefix]),
        *([] if len(socket.gethostname()) < 4 else [socket.gethostname()]),
    }

    seen = client.result(name, {"needles": sorted(needles), "parts": ["/"]})

    assert seen["found"] == []
    assert seen["looked"] > 200


LOOK = """
import os
def handler(event):
    texts = {}
    for path in event['read']:
        try:
            with open(path) as file:
                texts[path] = file.read()
        except OSError as error:
            texts[path] = type(error).__name__
    return {
        'texts': texts,
        'pids': sorted(int(name) for name in os.listdir('/proc') if name.isdigit()),
        'descriptors': sorted(name for name in os.listdir('/proc/self/fd') if os.path.lexists(f'/proc/self/fd/{name}')),
        'ids': [os.getresuid(), os.getresgid(), os.getgroups()],
    }
"""
MASKED = (
    "/proc/cmdline",
    "/proc/version",
    "/proc/kallsyms",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/diskstats",
)


def test_a_function_sees_its_own_processes_files_and_mounts_and_no_others(client: Client) -> None:
    name = client.function("looks", LOOK, runtime="python")

    seen = client.result(
        name, {"read": ["/proc/self/mountinfo", "/proc/1/cgroup", "/proc/net/unix", "/proc/net/dev", *MASKED]}
    )

    texts = seen["texts"]
    assert seen["pids"] == [1, 2]
    assert seen["ids"] == [[1000] * 3, [1000] * 3, []]
    assert seen["descriptors"] == ["0", "1", "2", "3"]
    assert all(texts[path] in ("", "FileNotFoundError") for path in MASKED)
    assert all(line.endswith(":/") for line in texts["/proc/1/cgroup"].split())
    assert len(texts["/proc/net/unix"].splitlines()) == 1
    assert [line.split()[0] for line in texts["/proc/net/dev"].splitlines()[2:]] == ["lo:"]
    sources = {line.split(" - ")[1].split()[1] for line in texts["/proc/self/mountinfo"].splitlines()}
    assert sources <= {"overlay", "proc", "tmpfs", "shm", "devtmpfs", "udev", "none"}


# -- what they reach -----------------------------------------------------------------------------------

# name: number, arguments; each must be refused with EPERM.
REFUSED = {
    "mount": (165, "/tmp", "/tmp", 0, 4096, 0),
    "umount2": (166, "/tmp", 2),
    "pivot_root": (155, "/tmp", "/tmp"),
    "chroot": (161, "/tmp"),
    "open_tree": (428, -100, "/", 1),
    "move_mount": (429, -100, "/", -100, "/tmp", 0),
    "fsopen": (430, "tmpfs", 0),
    "fspick": (433, -100, "/", 0),
    "mount_setattr": (442, -100, "/", 0, 0, 0),
    "unshare user": (272, 0x10000000),
    "unshare net": (272, 0x40000000),
    "setns": (308, 3, 0),
    "clone into a user namespace": (56, 0x10000000 | 17, 0, 0, 0, 0),
    "the same with a bit above": (56, (1 << 40) | 0x10000000 | 17, 0, 0, 0, 0),
    "ptrace attach": (101, 16, 1, 0, 0),
    "ptrace traceme": (101, 0, 0, 0, 0),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "process_vm_writev": (311, 1, 0, 0, 0, 0, 0),
    "pidfd_getfd": (438, 3, 0, 0),
    "kcmp": (312, 1, 1, 0, 0, 0),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "userfaultfd": (323, 1),
    "io_uring_setup": (425, 8, 0),
    "io_setup": (206, 1, 0),
    "add_key": (248, "user", "x", "y", 1, -3),
    "keyctl": (250, 0, -3, 0),
    "request_key": (249, "user", "x", 0, -3),
    "personality": (135, 0x0040000),
    "modify_ldt": (154, 0, 0, 0),
    "vmsplice": (278, 1, 0, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0),
    "finit_module": (313, 3, 0, 0),
    "reboot": (169, 0xFEE1DEAD, 672274793, 0, 0),
    "swapon": (167, "/tmp/x", 0),
    "sync of all disks": (162,),
    "syslog": (103, 10, 0, 0),
    "acct": (163, 0),
    "quotactl": (179, 0, 0, 0, 0),
    "clock_settime": (227, 0, 0),
    "sethostname": (170, "x", 1),
    "iopl": (172, 3),
    "fanotify_init": (300, 0, 0),
    "name_to_handle_at": (303, -100, "/code", 0, 0, 0),
    "open_by_handle_at": (304, -100, 0, 0),
    "a device": (133, "/tmp/device", 0o20666, 0x103),
    "a device with a bit above": (133, "/tmp/device", (1 << 32) | 0o20666, 0x103),
    "TIOCSTI": (16, 0, 0x5412, "x"),
    "TIOCSTI with a bit above": (16, 0, (1 << 32) | 0x5412, "x"),
    "setuid": (105, 0),
    "setgid": (106, 0),
    "setgroups": (116, 0, 0),
    "AF_NETLINK": (41, 16, 3, 0),
    "AF_NETLINK with a bit above": (41, (1 << 32) | 16, 3, 0),
    "AF_VSOCK": (41, 40, 1, 0),
    "AF_PACKET": (41, 17, 3, 0),
    "AF_ALG": (41, 38, 5, 0),
    "AF_XDP": (41, 44, 3, 0),
    "raw socket": (41, 2, 3, 1),
    "SCTP": (41, 2, 1, 132),
    "MPTCP": (41, 2, 1, 262),
    "out-of-band byte on the wire": (44, 3, "x", 1, 1, 0, 0),
    "a call without a name": (1000,),
}
SYSCALLS = """
import ctypes, errno, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def made(number, *arguments):
    ctypes.set_errno(0)
    taken = [ctypes.c_char_p(a.encode()) if isinstance(a, str) else ctypes.c_long(a) for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *taken)
    return errno.errorcode[ctypes.get_errno()] if result == -1 else 'allowed'
def in_child(action):
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1] & 0x7F
def machine_code(code):
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    return ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
def oom_score():
    handle = os.open('/proc/self/oom_score_adj', os.O_WRONLY)
    try:
        os.write(handle, b'-1000')
        return 'allowed'
    except OSError as error:
        return errno.errorcode[error.errno]
    finally:
        os.close(handle)
def status():
    with open('/proc/self/status') as lines:
        return {name: text.strip() for name, _, text in (line.partition(':') for line in lines)}
def handler(event):
    return {
        'refused': {name: made(*call) for name, call in event.items()},
        'clone3': made(435, 0, 88),
        'by int 0x80': in_child(lambda: machine_code(bytes.fromhex('b814000000cd80c3'))),
        'x32': in_child(lambda: made(0x40000000 + 39)),
        'oom score': oom_score(),
        'status': status(),
    }
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of the calls are those of x86_64")
def test_no_system_call_leads_out_and_no_privilege_can_be_had(client: Client) -> None:
    name = client.function("calls-out", SYSCALLS, runtime="python")

    seen = client.result(name, REFUSED)

    assert {call: said for call, said in seen["refused"].items() if said != "EPERM"} == {}
    assert seen["clone3"] == "ENOSYS"
    assert (seen["by int 0x80"], seen["x32"]) == (31, 31)  # SIGSYS
    assert seen["oom score"] == "EACCES"
    status = seen["status"]
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


CONNECT = {
    "nodejs": """
const net = require('node:net');
const tried = (target) => new Promise((done) => {
  const socket = net.connect(target);
  socket.on('connect', () => { socket.destroy(); done('connected'); });
  socket.on('error', (problem) => done(problem.code));
  setTimeout(() => { socket.destroy(); done('silence'); }, 2000).unref();
});
exports.handler = async ({ hosts, abstract }) => {
  const said = {};
  for (const [host, port] of hosts) said[`${host} ${port}`] = await tried({ host, port });
  said.abstract = await tried({ path: '\\0' + abstract });
  return said;
};
""",
    "python": """
import socket
def tried(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        try:
            sock.connect(address)
            return 'connected'
        except TimeoutError:
            return 'silence'
        except OSError as error:
            return error.strerror
def handler(event):
    said = {}
    for host, port in event['hosts']:
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        said[f'{host} {port}'] = tried(family, (host, port))
    said['abstract'] = tried(socket.AF_UNIX, '\\0' + event['abstract'])
    return said
""",
}
REFUSALS = {"ECONNREFUSED", "ENETUNREACH", "Connection refused", "Network is unreachable"}


@BOTH
def test_no_network_is_reached_not_even_that_of_the_host_itself(
    server: ServerProcess, client: Client, runtime: str
) -> None:
    name = client.function("connects", CONNECT[runtime], runtime=runtime)
    api = urlsplit(server.url).port
    ports = {api, *_listening(descendants(server.process.pid))}
    assert len(ports) >= 2  # the API's and the store's
    hosts = [[host, port] for host in ("127.0.0.1", "::1", "0.0.0.0") for port in sorted(filter(None, ports))]
    hosts += [["169.254.169.254", 80], ["1.1.1.1", 443], ["10.0.0.1", 80], ["2606:4700:4700::1111", 443]]

    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(f"\0hostile-{runtime}-{os.getpid()}")
        listener.listen()
        said = client.result(name, {"hosts": hosts, "abstract": f"hostile-{runtime}-{os.getpid()}"})

    assert len(said) == len(hosts) + 1
    assert {target: word for target, word in said.items() if word not in REFUSALS} == {}


def _listening(pids: list[int]) -> set[int]:
    """Return the TCP ports that processes listen on."""
    inodes = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
            except OSError:
                continue
            if found is not None:
                inodes.add(found[1])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and row[9] in inodes}


# -- what they write and leave -------------------------------------------------------------------------

WRITE = """
import os
def handler(event):
    written = []
    for folder, folders, files in os.walk('/'):
        if folder == '/proc':
            folders[:] = ['self', 'sys', '1']
        if folder.startswith('/proc/') and folder.count('/') > 3:
            folders.clear()
        try:
            place = os.path.join(folder, 'left-behind')
            with open(place, 'w') as file:
                file.write('x')
            written.append(folder)
        except OSError:
            pass
        if not folder.startswith(('/proc', '/dev')):
            for file in files[:50]:
                if file == 'left-behind':
                    continue
                try:
                    os.close(os.open(os.path.join(folder, file), os.O_WRONLY))
                    written.append(os.path.join(folder, file))
                except OSError:
                    pass
    return sorted(written)
"""


@pytest.mark.parametrize("read_only_fs", [True, False])
def test_only_its_own_temporary_places_and_a_private_folder_can_be_written(
    server: ServerProcess, client: Client, read_only_fs: bool
) -> None:
    name = client.function("writes", WRITE, runtime="python", read_only_fs=read_only_fs)

    written = client.result(name)

    own = [] if read_only_fs else ["/code", "/code/main.py"]
    assert written == sorted([*own, "/dev/shm", "/tmp"])
    assert list(server.data.rglob("left-behind")) == []
    with client.http.stream("GET", f"/compute/functions/{client.collection}/{name}") as answer:
        assert answer.status_code == 200


LEAVE = """
import ctypes, mmap, os, socket, sys, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def handler(event):
    places = ['/tmp/left', '/dev/shm/left', '/code/left']
    if event['do'] == 'leave':
        for place in places:
            with open(place, 'w') as file:
                file.write('x')
        listener = socket.socket(socket.AF_UNIX)
        listener.bind('\\0left')
        listener.listen()
        globals()['kept'] = listener
        subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', event['mark']], start_new_session=True)
        return [libc.shmget(4711, 4096, 0o1666), libc.mq_open(b'/left', 0o102, 0o666, None)]
    with socket.socket(socket.AF_UNIX) as sock:
        reached = sock.connect_ex('\\0left')
    return {
        'files': [place for place in places if os.path.exists(place)],
        'shared memory': libc.shmget(4711, 0, 0),
        'queue': libc.mq_open(b'/left', 0),
        'socket': os.strerror(reached),
        'processes': sum(name.isdigit() for name in os.listdir('/proc')),
    }
"""


def test_nothing_is_left_for_another_function(client: Client) -> None:
    mark = f"left-{os.getpid()}"
    leaver = client.function("leaves", LEAVE, runtime="python", read_only_fs=False)
    finder = client.function("finds", LEAVE, runtime="python", read_only_fs=False)

    left = client.result(leaver, {"do": "leave", "mark": mark})
    found = client.result(finder, {"do": "find"})

    assert all(handle >= 0 for handle in left)
    assert len(marked(mark)) == 1
    assert found == {
        "files": [],
        "shared memory": -1,
        "queue": -1,
        "socket": "Connection refused",
        "processes": 2,
    }
    client.http.delete(f"/compute/functions/{client.collection}/{leaver}")
    wait_until(lambda: marked(mark) == [])


DAEMONS = {
    "nodejs": """
const { spawn } = require('node:child_process');
const script = 'trap "" TERM HUP INT QUIT USR1 USR2 TSTP; if [ $2 = 1 ]; then kill -STOP $$; fi; while :; do read x < /dev/zero; done';
exports.handler = (event) => {
  for (let n = 0; n < 6; n++) {
    spawn('/bin/sh', ['-c', script, 'sh', event.mark, String(n % 2)], { detached: true, stdio: 'ignore' }).unref();
  }
  if (event.end === 'spin') for (;;) {}
  if (event.end === 'stop') process.kill(process.pid, 'SIGSTOP');
  if (event.end === 'exit') process.exit(4);
};
""",
    "python": """
import os, signal, subprocess, sys
PROGRAM = '''
import os, signal, sys, time
for number in range(1, 65):
    if number not in (9, 19, 32, 33):
        try:
            signal.signal(number, signal.SIG_IGN)
        except OSError:
            pass
os.closerange(0, 64)
if sys.argv[2] == "1":
    os.kill(os.getpid(), signal.SIGSTOP)
while True:
    time.sleep(600)
'''
def handler(event):
    for number in range(6):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execv(sys.executable, [sys.executable, '-c', PROGRAM, event['mark'], str(number % 2)])
            os._exit(0)
        os.wait()
    if event['end'] == 'spin':
        while True: pass
    if event['end'] == 'stop':
        os.kill(os.getpid(), signal.SIGSTOP)
    if event['end'] == 'exit':
        os._exit(4)
""",
}


@BOTH
@pytest.mark.parametrize(
    ("end", "code"),
    [("spin", "function.timeout"), ("stop", "function.timeout"), ("exit", "function.exited")],
)
def test_no_daemon_outlives_its_instance(client: Client, runtime: str, end: str, code: str) -> None:
    mark = f"daemon-{runtime}-{end}-{os.getpid()}"
    name = client.function("daemons", DAEMONS[runtime], runtime=runtime, timeout=1500)
    seen: list[int] = []

    with _watching(lambda: seen.append(len(marked(mark)))):
        answer = client.invoke(name, {"end": end, "mark": mark})

    assert answer.json()["code"] == code
    assert end == "exit" or max(seen) >= 6
    wait_until(lambda: marked(mark) == [])


@contextmanager
def _watching(look: Any) -> Iterator[None]:
    """Look again and again, in a thread, as long as the block lasts."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# -- what they take ------------------------------------------------------------------------------------

TAKE = """
import fcntl, os, socket
def full(action):
    count = 0
    try:
        while count < 1_000_000:
            action(count)
            count += 1
    except OSError as error:
        return [count, os.strerror(error.errno)]
    return [count, 'no end']
def handler(event):
    kept = []
    if event == 'descriptors':
        return full(lambda n: kept.append(os.open('/dev/null', os.O_RDONLY)))
    if event == 'inodes':
        return full(lambda n: os.close(os.open(f'/tmp/{n}', os.O_CREAT | os.O_WRONLY)))
    if event == 'tmp':
        with open('/tmp/full', 'wb', 0) as file:
            return full(lambda n: file.write(bytes(1 << 20)))
    if event == 'shm':
        with open('/dev/shm/full', 'wb', 0) as file:
            return full(lambda n: file.write(bytes(1 << 20)))
    if event == 'code':
        with open('/code/full', 'wb', 0) as file:
            return full(lambda n: file.write(bytes(1 << 20)))
    def stuff(n):
        pair = socket.socketpair()
        kept.append(pair)
        pair[0].setblocking(False)
        try:
            while True:
                pair[0].send(bytes(65536))
        except BlockingIOError:
            return
    return full(stuff)
"""


@pytest.mark.parametrize(
    ("what", "at_most", "says"),
    [
        ("descriptors", 1024, "Too many open files"),
        ("inodes", 16_384, "No space left on device"),
        ("tmp", 64, "No space left on device"),
        ("shm", 16, "No space left on device"),
        ("code", 80, "No space left on device"),
    ],
)
def test_everything_that_can_be_taken_has_an_end(client: Client, what: str, at_most: int, says: str) -> None:
    name = client.function("takes", TAKE, runtime="python", size="512MB", read_only_fs=False)

    count, said = client.result(name, what)

    assert 0 < count <= at_most
    assert said == says


def test_what_is_stuffed_into_sockets_counts_as_memory(client: Client) -> None:
    name = client.function("stuffs", TAKE, runtime="python", size="128MB")

    answer = client.invoke(name, "sockets")

    assert answer.json()["code"] == "function.out_of_memory"


# -- what they say to the server -----------------------------------------------------------------------

WIRE = {
    "nodejs": """
const fs = require('node:fs');
const frame = (kind, id, body) => {
  const head = Buffer.alloc(21);
  head.writeUInt32BE(17 + body.length, 0);
  head[4] = kind;
  id.copy(head, 5);
  return Buffer.concat([head, body]);
};
const send = (data) => { for (let at = 0; at < data.length;) { try { at += fs.writeSync(3, data, at); } catch (e) { if (e.code !== 'EAGAIN') throw e; } } };
const later = () => new Promise((done) => setTimeout(done, 3000));
exports.handler = async (event, context) => {
  const own = Buffer.from(context.awsRequestId.replaceAll('-', ''), 'hex');
  const other = Buffer.alloc(16, 7);
  const text = (value) => Buffer.from(value);
  const say = {
    twice: () => send(Buffer.concat([frame(0x13, own, text('"forged"')), frame(0x13, own, text('"again"'))])),
    others: () => { for (let n = 0; n < 300; n++) send(frame(0x13, other, text('"forged"'))); },
    hello: () => send(Buffer.concat([frame(0x11, Buffer.alloc(16), text('{"runtime":"x","version":"y"}')), frame(0x12, other, text('')), frame(0x16, own, text('')), frame(1, other, text('{}')), frame(0x99, own, text('x'))])),
    huge: () => send(Buffer.from('ffffffff00', 'hex')),
    short: () => send(Buffer.from('0000000300000000', 'hex')),
    flood: () => send(Buffer.concat(Array(3000).fill(frame(0x99, other, text(''))))),
    'no json': () => send(frame(0x13, own, text('{"a":'))),
    'no text': () => send(frame(0x13, own, Buffer.from('22ff22', 'hex'))),
    'line breaks': () => send(frame(0x13, own, text('1\\r\\n\\r\\nHTTP/1.1 200 OK\\r\\n'))),
    deep: () => send(frame(0x13, own, text('['.repeat(1000000) + ']'.repeat(1000000)))),
    large: () => send(frame(0x13, own, text('"' + 'x'.repeat(6 * 1024 * 1024) + '"'))),
    'large error': () => send(frame(0x14, own, text(JSON.stringify({ code: 'function.error', error: 'x'.repeat(6000000) })))),
    'forged code': () => send(frame(0x14, own, text('{"code":"platform.lost","error":"not me"}'))),
    'torn error': () => send(frame(0x14, own, Buffer.from('ff7b', 'hex'))),
    closed: () => fs.closeSync(3),
    fine: () => {},
  }[event];
  say();
  if (['twice', 'others', 'hello', 'fine'].includes(event)) return 'real';
  await later();
  return 'late';
};
""",
    "python": """
import os, socket, struct, time, uuid
def frame(kind, call_id, body):
    return struct.pack('>IB16s', 17 + len(body), kind, call_id) + body
def handler(event, context):
    own, other, wire = uuid.UUID(context.aws_request_id).bytes, b'o' * 16, socket.socket(fileno=os.dup(3))
    said = {
        'twice': frame(0x13, own, b'"forged"') + frame(0x13, own, b'"again"'),
        'others': frame(0x13, other, b'"forged"') * 300,
        'hello': frame(0x11, bytes(16), b'{"runtime":"x","version":"y"}') + frame(0x12, other, b'')
            + frame(0x16, own, b'') + frame(1, other, b'{}') + frame(0x99, own, b'x'),
        'huge': b'\\xff\\xff\\xff\\xff\\0',
        'short': b'\\0\\0\\0\\3\\0\\0\\0\\0',
        'flood': frame(0x99, other, b'') * 3000,
        'no json': frame(0x13, own, b'{"a":'),
        'no text': frame(0x13, own, b'"\\xff"'),
        'line breaks': frame(0x13, own, b'1\\r\\n\\r\\nHTTP/1.1 200 OK\\r\\n'),
        'deep': frame(0x13, own, b'[' * 1_000_000 + b']' * 1_000_000),
        'large': frame(0x13, own, b'"' + b'x' * 6 * 1024 * 1024 + b'"'),
        'large error': frame(0x14, own, b'{"code":"function.error","error":"' + b'x' * 6_000_000 + b'"}'),
        'forged code': frame(0x14, own, b'{"code":"platform.lost","error":"not me"}'),
        'torn error': frame(0x14, own, b'\\xff{'),
    }.get(event, b'')
    wire.sendall(said)
    if event == 'closed':
        wire.shutdown(socket.SHUT_RDWR)
    if event in ('twice', 'others', 'hello', 'fine'):
        return 'real'
    time.sleep(3)
""",
}


@BOTH
@pytest.mark.parametrize(
    ("what", "status", "said"),
    [
        ("twice", 200, '"forged"'),  # its own answer, and the first one counts
        ("others", 200, '"real"'),
        ("hello", 200, '"real"'),
        ("huge", 500, "function.exited"),
        ("short", 500, "function.exited"),
        ("flood", 500, "function.exited"),
        ("no json", 500, "function.result_invalid"),
        ("no text", 500, "function.result_invalid"),
        ("line breaks", 500, "function.result_invalid"),
        ("deep", 500, "function.result_invalid"),
        ("large", 500, "function.result_too_large"),
        ("large error", 500, "function.error"),
        ("forged code", 500, "function.error"),
        ("torn error", 500, "function.error"),
        ("closed", 500, "function.exited"),
    ],
)
def test_a_function_at_its_own_wire_forges_nothing_and_breaks_only_itself(
    client: Client, runtime: str, what: str, status: int, said: str
) -> None:
    name = client.function("forges", WIRE[runtime], runtime=runtime)
    bystander = client.function("bystander", IDENTITY[runtime], runtime=runtime)

    answer = client.invoke(name, what)

    body = answer.json()
    assert (answer.status_code, body.get("body") or body.get("code")) == (status, said)
    assert len(answer.content) < 100_000
    assert client.result(bystander, {"still": "here"}) == {"still": "here"}
    other = client.function("another", WIRE[runtime], runtime=runtime)
    assert client.result(other, "fine") == "real"


def test_what_failing_functions_say_does_not_pile_up_in_the_server(
    server: ServerProcess, client: Client
) -> None:
    name = client.function("wordy", WIRE["python"].replace("time.sleep(3)", "pass"), runtime="python")
    client.invoke(name, "large error")
    before = _resident_bytes(server.process.pid)

    for _ in range(30):
        assert client.invoke(name, "large error").status_code == 500

    assert _resident_bytes(server.process.pid) - before < 60 * MIB  # said were 180


def _resident_bytes(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


PRINT = """
import fcntl, os, time
def handler(event):
    if event['do'] == 'steal':  # reads its own output, and is quicker than the server
        for number in range(3):
            if os.fork() == 0:
                end = time.monotonic() + 4
                if number:
                    handle = os.open('/proc/self/fd/1', os.O_RDONLY | os.O_NONBLOCK)
                    while time.monotonic() < end:
                        try:
                            os.read(handle, 65536)
                        except BlockingIOError:
                            pass
                while time.monotonic() < end:
                    os.write(1, b'x' * 4096)
                os._exit(0)
        time.sleep(0.1)
    if event['do'] == 'bytes':  # every byte a packet of its own, from a process that outlives the call
        fcntl.fcntl(1, 1031, 1 << 20)
        for number in range(4):
            if os.fork() == 0:
                os.setsid()
                handle = os.open('/proc/self/fd/1', os.O_WRONLY | (os.O_DIRECT if number % 2 else 0))
                end = time.monotonic() + 3
                while time.monotonic() < end:
                    os.write(handle, b'x')
                os._exit(0)
        time.sleep(0.1)
    if event['do'] == 'stuck':  # shuts the pipe's own reader out by filling it, then dies
        os.set_blocking(1, False)
        try:
            while True:
                os.write(1, b'x' * 65536)
        except BlockingIOError:
            os._exit(5)
    return event['n']
"""


@pytest.mark.parametrize("what", ["steal", "bytes"])
def test_every_call_ends_and_others_go_on_whatever_a_function_does_to_its_output(
    server: ServerProcess, client: Client, what: str
) -> None:
    name = client.function("prints", PRINT, runtime="python", concurrency={"max_instances": 1})
    bystander = client.function("bystander", IDENTITY["nodejs"])
    client.result(name, {"do": what, "n": -1})

    for number in range(150):
        assert client.result(name, {"do": "go on", "n": number}) == number
        assert client.result(bystander, number) == number

    assert not [line for line in server.stderr if "Output" in line]


def test_a_function_that_dies_with_a_full_pipe_is_told_as_any_other(client: Client) -> None:
    name = client.function("stuck", PRINT, runtime="python")

    answer = client.invoke(name, {"do": "stuck", "n": 0})

    assert answer.json()["code"] == "function.exited"
    assert "code 5" in answer.json()["error"]


FIRST_PROCESS = """
import os, subprocess, time
def handler(event):
    for line in open('/proc/1/maps'):
        if ' r-xp ' in line and ('libc' in line or line.rstrip().endswith('/sh')):
            low, high = (int(word, 16) for word in line.split()[0].split('-'))
            handle = os.open('/proc/1/mem', os.O_RDWR)
            os.pwrite(handle, b'\\xcc' * (high - low), low)
    subprocess.run(['/bin/sh', '-c', '(:&)'])  # an orphan wakes it
    time.sleep(20)
"""


def test_a_function_that_breaks_its_first_process_cannot_blame_the_platform(client: Client) -> None:
    name = client.function("blames", FIRST_PROCESS, runtime="python", timeout=20_000)

    answer = client.invoke(name)

    assert (answer.status_code, answer.json()["code"]) == (500, "function.exited")


# -- what remains of them ------------------------------------------------------------------------------


def _kept(server: ServerProcess) -> dict[str, int]:
    """Return what could leak, as the kernel counts it."""
    pids = descendants(server.process.pid)
    zombies = [pid for pid in pids if ") Z " in Path(f"/proc/{pid}/stat").read_text()]
    counted = {"zombies": len(zombies), "processes": len(pids), "groups": len(sandbox_groups(server))}
    for role, pid in zip(
        ("gateway", "outer", "init", "broker"), (server.process.pid, *supervisors_of(server)), strict=True
    ):
        counted[f"descriptors of {role}"] = len(os.listdir(f"/proc/{pid}/fd"))
        counted[f"mounts of {role}"] = len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    return counted


def test_a_hundred_violent_ends_leave_no_descriptor_mount_group_process_or_zombie(
    data: Path, isolated: None
) -> None:
    server = ServerProcess(data).wait_ready()
    try:
        with server.client() as client:
            name = client.function("dies", DAEMONS["python"], runtime="python", timeout=300)

            def all_spares() -> bool:
                figures = client.http.get("/readyz").json()["instances"]
                wanted = {"serving": 0, "spare_python": 4, "spare_nodejs": 4}
                return {name: figures[name] for name in wanted} == wanted

            wait_until(all_spares)
            before = _kept(server)
            ends = [("exit", "spin", "exit", "stop", "exit")[n % 5] for n in range(25)]
            threads = [threading.Thread(target=_call_all, args=(server, name, ends)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            # An instance that came when its call had been served already serves on: it goes with the function.
            assert client.http.delete(f"/compute/functions/{client.collection}/{name}").status_code == 200
            wait_until(all_spares)

            wait_until(lambda: _no_more(before, _kept(server)))
    finally:
        assert server.stop() == 0, "".join(server.stderr)


def _call_all(server: ServerProcess, name: str, ends: list[str]) -> None:
    with server.client() as client:
        for end in ends:
            client.invoke(name, {"end": end, "mark": "dies"})


def _no_more(before: dict[str, int], now: dict[str, int]) -> bool:
    slack = {"descriptors of gateway": 6}  # connections of clients that have just left
    return not [what for what, count in before.items() if now[what] > count + slack.get(what, 0)]


# -- what they are called ------------------------------------------------------------------------------

POISON = "\u202e\u2066é' \"$(touch /tmp/poison)`id`;--%00%n{0}${x}\\n<script>"


@BOTH
def test_poison_in_names_variables_and_handlers_stays_text(
    server: ServerProcess, client: Client, runtime: str
) -> None:
    source = {
        "nodejs": "exports.handler = (e, c) => [c.functionName, process.env.POISON, process.env.LD_PRELOAD];",
        "python": "import os\ndef handler(e, c): return [c.function_name, os.environ['POISON'], os.environ['LD_PRELOAD']]",
    }[runtime]
    files: dict[str, str | bytes] = {
        f"{POISON[:20]}.{'js' if runtime == 'nodejs' else 'py'}".replace("/", ""): source
    }
    handler = next(iter(files)).rpartition(".")[0]
    variables = [
        f"POISON={POISON}\x1b[2J\nnext: line",
        "LD_PRELOAD=/code/evil.so",
        "PYTHONPATH=/tmp",
        "NODE_OPTIONS=--x",
    ]

    name = POISON.replace("/", "")
    created = client.create(name, files, runtime=runtime, handler=f"{handler}.handler", env_vars=variables)
    assert created.status_code == 201, created.text
    service = created.json()["body"]["compute_asset"]["service"]
    result = client.result(service)

    assert result == [name, variables[0].partition("=")[2], "/code/evil.so"]
    for line in server.stderr:
        json.loads(line)
        assert line.rstrip("\n").isprintable()


@BOTH
def test_what_a_function_prints_or_throws_cannot_break_a_line_of_the_log_or_an_answer(
    server: ServerProcess, client: Client, runtime: str
) -> None:
    evil = '\\r\\nHTTP/1.1 200 OK\\r\\n\\r\\n{"event":"forged"}\\u0000\\u001b[2J\\ud800'
    source = {
        "nodejs": f"exports.handler = () => {{ console.log('{evil}'); const e = new Error('{evil}'); e.name = '{evil}'; throw e; }};",
        "python": f"def handler(e):\n    print('{evil}')\n    raise type('{evil[:40]}', (Exception,), {{}})('{evil}')",
    }[runtime]
    name = client.function("evil", source, runtime=runtime)

    answer = client.invoke(name)

    assert (answer.status_code, answer.json()["code"]) == (500, "function.error")
    assert "forged" in answer.json()["error"]
    assert "forged" in client.log(answer)
    assert not [line for line in server.stderr if "forged" in line]
    for line in server.stderr:
        json.loads(line)
