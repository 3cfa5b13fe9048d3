"""What ordinary programs of Node.js and Python need works inside: the allow list is no narrower than that."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import replace

import pytest

from stoker.model.launch import LaunchPlan
from stoker.sandbox.engine import Site
from stoker.sandbox.spawn import start_supervisor
from tests.sandbox.conftest import LIMITS, Boot

NODE = """
const fs = require('fs'), net = require('net'), os = require('os'), path = require('path');
const { Worker } = require('worker_threads'), { spawn, execFileSync } = require('child_process');
const once = (emitter, name) =>
  new Promise((done, fail) => { emitter.once(name, done); emitter.once('error', fail); });
const REPLY = "require('worker_threads').parentPort.postMessage(6 * 7)";
const checks = {
  worker: async () => once(new Worker(REPLY, { eval: true }), 'message'),
  spawn: async () => once(spawn('/bin/sh', ['-c', 'exit 7']), 'exit'),
  exec: async () => execFileSync(process.execPath, ['-p', '6*7']).toString().trim(),
  watch: async () => {
    fs.mkdirSync('/tmp/watched');
    const seen = once(fs.watch('/tmp/watched'), 'change');
    fs.writeFileSync('/tmp/watched/a', 'x');
    return await seen;
  },
  copy: async () => {
    fs.copyFileSync('/etc/passwd', '/tmp/copy');
    return fs.statSync('/tmp/copy').size > 0;
  },
  files: async () => (await fs.promises.readdir('/usr')).length > 0,
  dns: async () => require('dns').promises.lookup('example.com').then(() => 'found', (e) => e.code),
  crypto: async () => require('crypto').pbkdf2Sync('a', 'b', 1000, 16, 'sha256').length,
  zlib: async () => require('zlib').gunzipSync(require('zlib').gzipSync('a')).toString(),
  server: async () => {
    const server = net.createServer((socket) => socket.end('hi')).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const [data] = [await once(net.connect(server.address().port, '127.0.0.1'), 'data')];
    server.close();
    return data.toString();
  },
  outside: async () => once(net.connect(80, '1.1.1.1'), 'connect').then(() => 'reached', (e) => e.code),
  cpus: async () => os.cpus().length > 0,
  hostname: async () => os.hostname(),
  wasm: async () => new WebAssembly.Memory({ initial: 1 }).buffer.byteLength,
  tmp: async () => fs.mkdtempSync(path.join(os.tmpdir(), 'x')).startsWith('/tmp/'),
};
(async () => {
  const results = {};
  for (const [name, check] of Object.entries(checks)) {
    results[name] = await check().catch((error) => `${error.code} ${error.message}`);
  }
  new net.Socket({ fd: 3 }).write(JSON.stringify(results) + '\\n', () => process.exit(0));
})();
"""


async def test_node_runs_fully(
    crun: str, site: Site, plans: Mapping[str, LaunchPlan], no_leftovers: None
) -> None:
    plan = replace(plans["nodejs"], argv=(*plans["nodejs"].argv[:5], "-e", NODE))
    engine = await start_supervisor("crun", crun, replace(site, plans=(plan,)), print)
    sandbox = await engine.boot(plan, urgent=True)
    reader, writer = await asyncio.open_unix_connection(sock=sandbox.wire)
    await sandbox.assign(None, LIMITS)

    line = await reader.readline()
    end = await sandbox.ended()
    printed = os.read(sandbox.output, 65536).decode()

    writer.close()
    os.close(sandbox.output)
    await engine.close()
    assert line, printed
    results = json.loads(line)
    assert results == {
        "worker": 42,
        "spawn": 7,
        "exec": "42",
        "watch": "rename",
        "copy": True,
        "files": True,
        "dns": "EAI_AGAIN",
        "crypto": 16,
        "zlib": "a",
        "server": "hi",
        "outside": "ENETUNREACH",
        "cpus": True,
        "hostname": "fn",
        "wasm": 65536,
        "tmp": True,
    }
    assert (end.code, printed) == (0, "")


PYTHON = {
    "threads": """
import concurrent.futures
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    answer = sum(pool.map(int, "1234"))
""",
    "subprocess": """
import subprocess
answer = subprocess.run(["/bin/sh", "-c", "echo hi"], capture_output=True).stdout.decode()
""",
    "asyncio": """
import asyncio
async def main() -> None:
    child = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 7")
    server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), "/tmp/socket")
    server.close()
    return await child.wait()
answer = asyncio.run(main())
""",
    "multiprocessing": """
import multiprocessing
lock, value = multiprocessing.Lock(), multiprocessing.Value("i", 0)
def work() -> None:
    with lock: value.value += 1
workers = [multiprocessing.get_context("fork").Process(target=work) for _ in range(3)]
[w.start() for w in workers]; [w.join() for w in workers]
answer = value.value
""",
    "sqlite": """
import sqlite3
answer = sqlite3.connect("/tmp/a.db").execute("select 6 * 7").fetchone()[0]
""",
    "memory": "import mmap; answer = len(mmap.mmap(-1, 8192))",
    "entropy": """
import secrets, ssl, uuid
answer = [len(secrets.token_bytes(8)), len(str(uuid.uuid4())), ssl.RAND_status()]
""",
    "time": "import time, zoneinfo; time.sleep(0.001); answer = time.tzname[0]",
    "tempfile": """
import shutil, tempfile
folder = tempfile.mkdtemp(); shutil.copy("/etc/passwd", folder); shutil.rmtree(folder)
answer = folder[:5]
""",
    "named pipe": """
import os, stat
os.mkfifo("/tmp/fifo")
answer = stat.S_ISFIFO(os.stat("/tmp/fifo").st_mode)
""",
    "signals": """
import signal
hit = []
signal.signal(signal.SIGALRM, lambda *a: hit.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.pause()
answer = hit
""",
    "standard output by name": """
open("/dev/stdout", "w").close()
answer = open("/proc/self/fd/1", "w").write("x")
""",
    "ctypes": "import ctypes; answer = ctypes.CDLL(None).abs(-3)",
}


@pytest.mark.parametrize("what", sorted(PYTHON))
async def test_python_runs_fully(boot: Boot, what: str) -> None:
    guest = await boot()

    answer = await guest.run(PYTHON[what])

    assert (
        answer
        == {
            "threads": 10,
            "subprocess": "hi\n",
            "asyncio": 7,
            "multiprocessing": 3,
            "sqlite": 42,
            "memory": 8192,
            "entropy": [8, 36, True],
            "time": "UTC",
            "tempfile": "/tmp/",
            "named pipe": True,
            "signals": [1],
            "standard output by name": 1,
            "ctypes": 3,
        }[what]
    )
