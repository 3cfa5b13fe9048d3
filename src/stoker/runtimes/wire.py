"""The wire: the frames between the host and the program inside an instance.

Owns the bytes and nothing else: bytes in, events out, no socket in sight. Does not know what a call
is for, nor which ids are in flight; a frame whose id is not is for the caller to ignore, so that a
late or doubled answer can forge nothing.

    frame = u32 big-endian length of what follows | u8 kind | 16-byte call id | body

    host to instance   LOAD    zero id   JSON {handler, root, env, function_name, function_version,
                                         memory_mb, per_instance, result_bytes_max}
                       INVOKE  id        u32 big-endian timeout_ms, then the payload as JSON text
                       AHEAD   id        as INVOKE, for a call whose turn comes after those sent before it
                       REVOKE  id        empty: do not run this call if it has not begun
    instance to host   HELLO   zero id   JSON {runtime, version}: booted, waits to be given away
                       LOADED  zero id   empty: the load has ended, well or not
                       RESULT  id        the result as JSON text
                       ERROR   id        JSON {code, error, error_type, stack}
                       LOG     id        bytes that the call printed, where calls share an instance
                       REVOKED id        empty: the call had not begun and never will
                       LEAVING zero id   the ids of the calls that have begun, one behind the other: no other
                                         will begin, as the process ends once these are told

Where one call at a time runs in an instance, others may be sent AHEAD: they wait in there, in order. When one
of these begins, the shim writes its 16-byte id to the output of the process: what stands before it there was
printed by the call before.

What comes from an instance was written by a stranger: its RESULT is text that claims to be JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

from stoker.model.errors import Fault, StokerError
from stoker.model.outcome import Failure

LOAD: Final = 0x01
INVOKE: Final = 0x02
REVOKE: Final = 0x03
AHEAD: Final = 0x04
HELLO: Final = 0x11
LOADED: Final = 0x12
RESULT: Final = 0x13
ERROR: Final = 0x14
LOG: Final = 0x15
REVOKED: Final = 0x16
LEAVING: Final = 0x17

ID_BYTES: Final = 16
ZERO_ID: Final = bytes(ID_BYTES)
FRAME_SLACK_BYTES: Final = 256 * 1024
"""How far a frame may exceed the largest result: an ERROR with its stack fits in it."""
TEXT_CHARS_MAX: Final = 16_384
NAME_CHARS_MAX: Final = 256
"""Of a message or a stack, and of the name of a type, as the shims cut them."""
ERROR_BYTES_MAX: Final = 512 * 1024
"""Of an ERROR: both texts, each character escaped as two halves, fit in it."""

_HEAD = Struct(">IB16s")
_INVOKE_HEAD = Struct(">IB16sI")
_LENGTH = Struct(">I")
_OVERHEAD = 1 + ID_BYTES
_BODY_AT = 4 + _OVERHEAD

CODES_OF_AN_INSTANCE: Final = frozenset(
    {"function.error", "function.load_failed", "function.result_invalid", "function.result_too_large"}
)
"""All that an instance may say about itself; the other ends of a call only the host can tell."""


class WireError(StokerError):
    """The other side broke the protocol: the instance cannot be used any more."""

    code, fault = "platform.error", Fault.FUNCTION


@dataclass(frozen=True, slots=True)
class Hello:
    """What an instance says once it has booted."""

    runtime: str
    version: str


Frame = tuple[int, bytes, bytes]
"""(kind, call id, body)."""


class FrameReader:
    """Cuts a stream of bytes into frames.

    After a WireError the reader is of no use: the stream has no next frame that can be found.
    """

    __slots__ = ("_held", "_length_max", "_missing")

    def __init__(self, *, frame_bytes_max: int) -> None:
        self._length_max = frame_bytes_max
        self._held = bytearray()
        """What came of a frame so far; not as a list, as one byte at a time would fill the memory with it."""
        self._missing = 0  # bytes without which looking again is useless: a large frame is joined once

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes, in order; WireError for one that breaks a bound."""
        if self._missing > 0:
            self._held += data
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = bytes(self._held)
            self._held = bytearray()
        frames: list[Frame] = []
        at = 0
        left = len(data)
        while left >= 4:
            (length,) = _LENGTH.unpack_from(data, at)
            if length > self._length_max or length < _OVERHEAD:
                raise WireError(f"a frame of {length} bytes, not {_OVERHEAD} to {self._length_max}")
            if left < 4 + length:
                self._missing = 4 + length - left
                break
            end = at + 4 + length
            frames.append((data[at + 4], data[at + 5 : at + _BODY_AT], data[at + _BODY_AT : end]))
            at = end
            left -= 4 + length
        else:
            self._missing = 4 - left if left else 0
        if left:
            self._held += data[at:] if at else data
        return frames


def encode_frame(kind: int, call_id: bytes, body: bytes) -> bytes:
    """Return one frame of any kind."""
    return _HEAD.pack(_OVERHEAD + len(body), kind, call_id) + body


def encode_invoke(call_id: bytes, timeout_ms: int, payload: bytes, *, kind: int = INVOKE) -> bytes:
    """Return the frame of one call, INVOKE or AHEAD; `payload` is JSON text and goes out as it is."""
    return _INVOKE_HEAD.pack(_OVERHEAD + 4 + len(payload), kind, call_id, timeout_ms) + payload


def encode_load(
    *,
    handler: str,
    root: str,
    env: Mapping[str, str],
    function_name: str,
    function_version: str,
    memory_mb: int,
    per_instance: int,
    result_bytes_max: int,
) -> bytes:
    """Return the frame that gives an instance to a function; `root` is a path as the instance sees it."""
    order: dict[str, Any] = {
        "handler": handler,
        "root": root,
        "env": dict(env),
        "function_name": function_name,
        "function_version": function_version,
        "memory_mb": memory_mb,
        "per_instance": per_instance,
        "result_bytes_max": result_bytes_max,
    }
    return encode_frame(LOAD, ZERO_ID, json.dumps(order, separators=(",", ":")).encode())


def decode_hello(body: bytes) -> Hello:
    """Return what a HELLO says; WireError if it says something else."""
    value = _object(body)
    runtime, version = value.get("runtime"), value.get("version")
    if not isinstance(runtime, str) or not isinstance(version, str):
        raise WireError("a HELLO without runtime and version")
    return Hello(runtime, version)


def decode_leaving(body: bytes) -> frozenset[bytes]:
    """Return the ids that a LEAVING tells; WireError if it is not made of whole ones."""
    if len(body) % ID_BYTES:
        raise WireError("a LEAVING with a part of an id")
    return frozenset(body[at : at + ID_BYTES] for at in range(0, len(body), ID_BYTES))


def decode_error(body: bytes) -> Failure:
    """Return the failure that an ERROR tells; WireError if it is not one an instance may tell.

    Its texts are cut: they are kept for who asks later, and a shim cuts them no longer than this itself.
    """
    if len(body) > ERROR_BYTES_MAX:
        raise WireError(f"an ERROR of {len(body)} bytes")
    value = _object(body)
    code, error = value.get("code"), value.get("error")
    error_type, stack = value.get("error_type"), value.get("stack")
    if not isinstance(code, str) or code not in CODES_OF_AN_INSTANCE or not isinstance(error, str):
        raise WireError("an ERROR without a code and a message that an instance may give")
    return Failure(
        code=code,
        error=_text(error, TEXT_CHARS_MAX),
        error_type=_text(error_type, NAME_CHARS_MAX) if isinstance(error_type, str) else None,
        stack=_text(stack, TEXT_CHARS_MAX) if isinstance(stack, str) and stack else None,
    )


def _text(value: str, chars_max: int) -> str:
    # JSON may spell half of a surrogate pair, which no UTF-8 answer could carry.
    return value[:chars_max].encode("utf-8", "replace").decode()


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as problem:  # UnicodeDecodeError is a ValueError
        raise WireError("a frame that is no JSON") from problem
    if not isinstance(value, dict):
        raise WireError("a frame that is no JSON object")
    return value
