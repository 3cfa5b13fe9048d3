"""The Node.js shim's codec against the golden bytes of the wire."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from stoker.runtimes import nodejs

GOLDEN = Path(__file__).parents[1] / "unit" / "golden" / "wire.json"

# Reads each frame whole, then all of them byte by byte and cut in the middle; writes each one again.
CHECK = """
const { Reader, encodeFrame, kinds } = require(process.argv[1])
const golden = JSON.parse(require('fs').readFileSync(process.argv[2], 'utf8'))
const all = Buffer.concat(golden.map((entry) => Buffer.from(entry.frame, 'hex')))
function read(step) {
  const out = []
  const reader = new Reader((kind, frame) => out.push([kind, frame.toString('hex')]))
  for (let at = 0; at < all.length; at += step) {
    const part = all.subarray(at, at + step)
    reader.feed(part, part.length)
  }
  return out
}
const written = golden.map(({ kind, id, body }) =>
  encodeFrame(kind, Buffer.from(id, 'hex'), Buffer.from(body, 'hex')).toString('hex'))
console.log(JSON.stringify({ read: [all.length, 1, 7, 50].map(read), written, kinds }))
"""


def test_the_codec_of_the_node_shim_agrees_with_the_golden_bytes() -> None:
    node, _ = nodejs.program()
    golden = json.loads(GOLDEN.read_text())

    done = subprocess.run(
        [node, "-e", CHECK, nodejs.SHIM, GOLDEN], capture_output=True, text=True, check=True, timeout=60
    )
    told = json.loads(done.stdout)

    frames = [[entry["kind"], entry["frame"]] for entry in golden]
    assert told["read"] == [frames] * 4
    assert told["written"] == [entry["frame"] for entry in golden]
    assert told["kinds"] == {entry["name"]: entry["kind"] for entry in golden}
