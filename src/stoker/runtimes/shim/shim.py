"""What runs inside a Python instance: finds the wire on descriptor 3 and runs a function's calls.

Standard library only, one file; the frames are those of `stoker.runtimes.wire`. Knows neither who
calls nor what bounds it. One call at a time runs in the main thread; where a function shares its
instance among calls, coroutines share one event loop and plain handlers run in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import importlib
import importlib.util
import inspect
import io
import json
import json.encoder
import os
import random
import re
import site
import socket
import struct
import sys
import threading
import time
import uuid
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

WIRE_FD = 3
LOAD, INVOKE, REVOKE, AHEAD = 0x01, 0x02, 0x03, 0x04
HELLO, LOADED, RESULT, ERROR, LOG, REVOKED, LEAVING = 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17
ZERO_ID = bytes(16)
LOG_FRAME_BYTES = 65536
OUTPUT_FD = 1
STALE_S = 0.002
"""A call that waited longer in here may have been revoked meanwhile: the wire is read first."""
MESSAGE_CHARS_MAX = 16384
STACK_LINES_MAX = 50
STACK_CHARS_MAX = 16384
NAME_CHARS_MAX = 256
NESTING_MAX = 5000
"""How deep JSON may nest; about 1.5 MB of the C stack."""
SHELL_VARIABLES = ("PWD", "OLDPWD", "SHLVL", "_")

# A user's `import` must not pay for these. What a machine lacks is left out.
PREIMPORTED = (
    "_strptime abc argparse asyncio.subprocess base64 binascii bisect calendar collections.abc"
    " concurrent.futures.thread configparser contextlib copy csv ctypes dataclasses datetime decimal"
    " email email.message email.mime.multipart email.mime.text email.parser encodings.idna"
    " encodings.utf_8_sig enum fractions functools glob gzip hashlib heapq hmac html html.parser"
    " http.client http.cookies importlib.metadata importlib.resources io itertools json logging"
    " logging.handlers math mimetypes operator pathlib pickle platform pprint queue random re secrets"
    " select shlex shutil signal smtplib sqlite3 ssl statistics string subprocess tempfile textwrap"
    " threading time traceback types typing unicodedata urllib.error urllib.parse urllib.request uuid"
    " warnings weakref xml.etree.ElementTree zipfile zlib zoneinfo"
)

NEVER_SHADOWED = (
    "__main__ _collections_abc abc builtins codecs encodings genericpath importlib io os posixpath site stat"
    " sys zipimport"
)
"""What Python has imported before a script's own folder counts."""

# Taken at boot: a handler may replace what it likes.
_parse = json.JSONDecoder().decode
_make_encoder: Any = json.encoder.c_make_encoder  # type: ignore[attr-defined]
_encode_string = json.encoder.encode_basestring
_stdlib = os.path.dirname(os.__file__) + "/"
_own_file = (lambda: None).__code__.co_filename
_exit = os._exit
_write = os.write
_monotonic = time.monotonic
_set_recursion_limit, _get_recursion_limit = sys.setrecursionlimit, sys.getrecursionlimit


class Reader:
    """Cuts the bytes of the wire into (kind, call id, body)."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._missing = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes, bytes]]:
        if self._missing > 0:
            self._chunks.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = b"".join(self._chunks)
            self._chunks.clear()
        frames = []
        at, left = 0, len(data)
        self._missing = 0
        while left >= 4:
            size = 4 + int.from_bytes(data[at : at + 4], "big")
            if left < size:
                self._missing = size - left
                break
            frames.append((data[at + 4], data[at + 5 : at + 21], data[at + 21 : at + size]))
            at += size
            left -= size
        if left:
            self._missing = self._missing or 4 - left
            self._chunks.append(data[at:] if at else data)
        return frames


def frame(kind: int, call_id: bytes, body: bytes) -> bytes:
    """Return one frame."""
    return struct.pack(">IB16s", 17 + len(body), kind, call_id) + body


class LoadFailed(Exception):
    """The function's module or handler cannot be had; the message says why."""

    def __init__(self, message: str, error_type: str = "LoadFailed", stack: str = "") -> None:
        super().__init__(message)
        self.error_type = error_type
        self.stack = stack


class ResultInvalid(Exception):
    """What the handler returned is no JSON."""


class Handler(NamedTuple):
    """A function's handler and how it wants to be called."""

    call: Any
    parameters: int
    is_async: bool


class Context:
    """What a handler gets beside the event."""

    def __init__(self, order: dict[str, Any], call_id: bytes, timeout_ms: int) -> None:
        self.aws_request_id = str(_UUID(bytes=call_id))
        self.function_name = order["function_name"]
        self.function_version = order["function_version"]
        self.memory_limit_in_mb = order["memory_mb"]
        self._deadline = _monotonic() + timeout_ms / 1000

    def get_remaining_time_in_millis(self) -> int:
        """Return how long the call may still run; never below 0."""
        return max(0, int((self._deadline - _monotonic()) * 1000))


_UUID = uuid.UUID


# --- JSON ---------------------------------------------------------------------------------------


def decode_event(body: bytes) -> Any:
    """Return the payload of an INVOKE as a value."""
    text = str(body[4:], "utf-8")
    try:
        return _parse(text)
    except RecursionError:
        return _with_deep_stack(_parse, text)


def encode_result(value: Any) -> bytes:
    """Return `value` as JSON text in UTF-8; ResultInvalid if it is none."""
    try:
        try:
            text = _dump(value)
        except RecursionError:
            text = _with_deep_stack(_dump, value)
    except RecursionError:
        raise ResultInvalid(f"the result nests deeper than {NESTING_MAX} levels") from None
    except Exception as problem:
        raise ResultInvalid(f"the result is not JSON: {_message(problem)}") from problem
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: only an escape can carry it
        return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text).encode()


def _dump(value: Any) -> str:
    if type(value) is str:
        return _encode_string(value)
    return "".join(_make_encoder({}, _refuse, _encode_string, None, ":", ",", False, False, False)(value, 0))


def _refuse(value: Any) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _with_deep_stack(work: Any, argument: Any) -> Any:
    before = _get_recursion_limit()
    _set_recursion_limit(NESTING_MAX)
    try:
        return work(argument)
    finally:
        _set_recursion_limit(before)


# --- errors -------------------------------------------------------------------------------------


def _message(problem: BaseException) -> str:
    try:
        text = str(problem)
    except Exception:  # the user's own __str__
        text = ""
    return text or type(problem).__name__


def user_stack(traceback: TracebackType | None, root: str) -> str:
    """Return the user's frames, innermost last, with paths as the sandbox has them."""
    lines: list[str] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        name = code.co_filename
        if name != _own_file and not name.startswith("<frozen ") and not name.startswith(_stdlib):
            lines.append(f'File "{inside(name, root)}", line {traceback.tb_lineno}, in {code.co_name}')
        traceback = traceback.tb_next
    return "\n".join(lines[-STACK_LINES_MAX:])


def inside(text: str, root: str) -> str:
    """Return `text` with the function's folder called /code, whatever it is called here."""
    return text.replace(root + "/", "/code/") if root != "/code" else text


def error_body(code: str, error: str, error_type: str | None, stack: str) -> bytes:
    """Return the body of an ERROR; ASCII, so that any text is valid."""
    value = {
        "code": code,
        "error": error[:MESSAGE_CHARS_MAX],
        "error_type": error_type and error_type[:NAME_CHARS_MAX],
        "stack": stack[-STACK_CHARS_MAX:] or None,
    }
    return _dump_ascii(value).encode()


_dump_ascii = json.JSONEncoder().encode


# --- loading ------------------------------------------------------------------------------------


def load_handler(handler: str, root: str) -> Handler:
    """Import the module that `handler` names and return what it names in it; LoadFailed if there is none."""
    path, exports = _locate(handler, root)
    shown = os.path.relpath(path, root)
    sys.path[:0] = [root] if os.path.dirname(path) == root else [root, os.path.dirname(path)]
    _forget_shadowed(root)
    try:
        module = _import(path, os.path.relpath(path, root)[:-3])
    except SyntaxError as problem:
        # The file that cannot be read need not be the handler's own.
        place = inside(problem.filename or shown, root)
        stack = user_stack(problem.__traceback__, root)
        own = f'File "{place}", line {problem.lineno}'
        message = f"{place.removeprefix('/code/')}, line {problem.lineno}: {problem.msg}"
        raise LoadFailed(message, type(problem).__name__, f"{stack}\n{own}" if stack else own) from None
    except SystemExit:
        raise
    except BaseException as problem:
        stack = user_stack(problem.__traceback__, root)
        raise LoadFailed(inside(_message(problem), root), type(problem).__name__, stack) from None
    value: Any = module
    for depth, name in enumerate(exports):
        if not hasattr(value, name):
            has = [n for n in vars(value) if not n.startswith("_")] if hasattr(value, "__dict__") else []
            tells = f"it has {', '.join(sorted(has)[:20])}" if has else "it has nothing"
            owner = ".".join([shown, *exports[:depth]])
            raise LoadFailed(f"{owner} does not export '{name}' ({tells})")
        value = getattr(value, name)
    if not callable(value):
        kind = type(value).__name__
        raise LoadFailed(f"{shown} exports '{'.'.join(exports)}', but it is of type {kind}, not a function")
    is_async = inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__)
    return Handler(value, _parameters(value), is_async)


def _locate(handler: str, root: str) -> tuple[str, list[str]]:
    folder, _, last = handler.strip("/").rpartition("/")
    parts = last.split(".")
    if len(parts) < 2 or not all(parts) or ".." in folder.split("/"):
        raise LoadFailed(f"the handler '{handler}' is not of the form 'main.handler' or 'src/main.handler'")
    for length in range(len(parts) - 1, 0, -1):  # the longest name of a file that exists wins
        path = os.path.normpath(os.path.join(root, folder, ".".join(parts[:length]) + ".py"))
        if os.path.isfile(path):
            return path, parts[length:]
    wanted = os.path.join(folder, ".".join(parts[:-1])) + ".py"
    raise LoadFailed(f"the handler '{handler}' needs the file {wanted}, which is not there")


def _import(path: str, name: str) -> ModuleType:
    name = name.replace("/", ".") if "." not in name else "handler"
    if name in sys.modules or name.partition(".")[0] in sys.stdlib_module_names:
        name = f"handler_{name.replace('.', '_')}"  # its folder or file is called as a module in use
    parent = name.rpartition(".")[0]
    if parent:
        importlib.import_module(parent)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _forget_shadowed(root: str) -> None:
    # A user's queue.py comes before the standard one, as it would had nothing been imported at boot.
    for entry in os.listdir(root):
        name = entry.removesuffix(".py")
        if name not in sys.modules or name in NEVER_SHADOWED.split():
            continue
        if name != entry or os.path.isfile(os.path.join(root, entry, "__init__.py")):
            for known in [m for m in sys.modules if m == name or m.startswith(name + ".")]:
                del sys.modules[known]


def _parameters(handler: Any) -> int:
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):  # builtins may have none
        return 2
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    return min(2, sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters))


# --- running ------------------------------------------------------------------------------------


class CallStream(io.RawIOBase):
    """Where calls share an instance: what a call prints goes out as LOG with its id, else to `fd`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: Any) -> int:
        call = _call.get()
        if call is None:
            return os.write(self._fd, data)
        return call.log(bytes(data))


class SharedCall:
    """One of several calls in flight."""

    def __init__(self, instance: Instance, call_id: bytes, body: bytes) -> None:
        self.id = call_id
        self.body = body
        self._instance = instance
        self._pending = bytearray()
        self._lock = threading.Lock()

    def log(self, data: bytes) -> int:
        """Keep what was printed until there is a whole line of it."""
        with self._lock:
            self._pending += data
            if b"\n" in data or len(self._pending) >= LOG_FRAME_BYTES:
                self._send()
        return len(data)

    def flush(self) -> None:
        """Send what no newline has sent yet."""
        with self._lock:
            self._send()

    def _send(self) -> None:
        for at in range(0, len(self._pending), LOG_FRAME_BYTES):
            self._instance.send(LOG, self.id, bytes(self._pending[at : at + LOG_FRAME_BYTES]))
        self._pending.clear()


_call: contextvars.ContextVar[SharedCall | None] = contextvars.ContextVar("stoker_call", default=None)


class Instance:
    """Everything between LOAD and the end of the process."""

    def __init__(self, wire: socket.socket, base_env: dict[str, str]) -> None:
        self._wire = wire
        self._reader = Reader()
        self._base_env = base_env
        self._order: dict[str, Any] = {}
        self._root = "/code"
        self._handler: Handler | None = None
        self._failure: LoadFailed | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._forked = False
        self._outputs = (sys.stdout, sys.stderr)  # the user may put others in their place
        self._ahead: OrderedDict[bytes, tuple[float, bool, bytes]] = OrderedDict()

    def send(self, kind: int, call_id: bytes, body: bytes) -> None:
        """Write one frame whole; from any thread."""
        if self._forked:
            _exit(0)  # a fork that returned from its handler
        with self._lock:
            self._wire.sendall(frame(kind, call_id, body))

    def disown(self) -> None:
        """Let go of the wire, in a process that a handler has forked: it can neither answer nor listen."""
        self._forked = True
        self._wire.close()

    def run(self) -> None:
        """Serve the wire until the host closes it."""
        receive, feed = self._wire.recv, self._reader.feed
        ahead = self._ahead
        while data := receive(65536):
            frames = feed(data)
            for at, (kind, call_id, body) in enumerate(frames):
                if kind == LOAD:
                    self.load(body)
                    if self._order["per_instance"] > 1:
                        return self._run_shared(frames[at + 1 :])
                else:
                    self._line_up(kind, call_id, body)
            while ahead:
                call_id, (since, marked, body) = ahead.popitem(last=False)
                if _monotonic() - since > STALE_S and self._was_revoked(call_id, marked, body):
                    continue
                if marked:  # what stands before it in the output was printed by the call before
                    _write(OUTPUT_FD, call_id)
                self._serve(call_id, body)

    def load(self, body: bytes) -> None:
        """Become the function that a LOAD names."""
        self._order = order = json.loads(body)
        self._root = root = os.path.normpath(order["root"])
        os.chdir(root)  # again: the folder at boot may have been another one
        os.environ.clear()
        os.environ.update(self._base_env)
        os.environ.update(order["env"])
        time.tzset()
        random.seed()
        if order["per_instance"] > 1:
            sys.stdout = io.TextIOWrapper(CallStream(1), "utf-8", "replace", write_through=True)
            sys.stderr = io.TextIOWrapper(CallStream(2), "utf-8", "replace", write_through=True)
        try:
            self._handler = load_handler(order["handler"], root)
        except LoadFailed as failure:
            self._failure = failure
        except SystemExit as leaving:
            self._leave(leaving)
        self._flush()
        self.send(LOADED, ZERO_ID, b"")

    # One call at a time: those that come before their turn wait here, in order.

    def _line_up(self, kind: int, call_id: bytes, body: bytes) -> None:
        if kind in (INVOKE, AHEAD):
            self._ahead[call_id] = (_monotonic(), kind == AHEAD, body)
        elif kind == REVOKE and self._ahead.pop(call_id, None) is not None:
            self.send(REVOKED, call_id, b"")

    def _was_revoked(self, call_id: bytes, marked: bool, body: bytes) -> bool:
        """Read what the host has said meanwhile, before a call begins that has waited for long."""
        self._ahead[call_id] = (0.0, marked, body)
        self._ahead.move_to_end(call_id, last=False)
        try:
            data = self._wire.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            data = b""
        else:
            if not data:
                _exit(0)
        for kind, other, more in self._reader.feed(data) if data else ():
            self._line_up(kind, other, more)
        return self._ahead.pop(call_id, None) is None

    def _serve(self, call_id: bytes, body: bytes) -> None:
        kind, answer = self._answer(call_id, body)
        self._flush()
        self.send(kind, call_id, answer)

    def _answer(self, call_id: bytes, body: bytes) -> tuple[int, bytes]:
        handler = self._handler
        if handler is None:
            return self._load_failed()
        try:
            value = self._start(handler, call_id, body)
            if hasattr(type(value), "__await__"):
                value = self._event_loop().run_until_complete(_awaited(value))
        except SystemExit as leaving:
            self._leave(leaving)
        except BaseException as problem:
            return self._failed(problem)
        return self._succeeded(value)

    def _start(self, handler: Handler, call_id: bytes, body: bytes) -> Any:
        event = decode_event(body)
        if handler.parameters == 2:
            timeout_ms = int.from_bytes(body[:4], "big")
            return handler.call(event, Context(self._order, call_id, timeout_ms))
        return handler.call(event) if handler.parameters else handler.call()

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        # Kept between calls, so that what a handler leaves running goes on when the next one runs.
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop

    def _succeeded(self, value: Any) -> tuple[int, bytes]:
        try:
            result = encode_result(value)
        except ResultInvalid as problem:
            kind = type(problem.__cause__ or problem).__name__
            return ERROR, error_body("function.result_invalid", str(problem), kind, "")
        most = self._order["result_bytes_max"]
        if len(result) > most:
            message = f"the result is {len(result)} bytes of JSON; the most is {most}"
            return ERROR, error_body("function.result_too_large", message, None, "")
        return RESULT, result

    def _failed(self, problem: BaseException) -> tuple[int, bytes]:
        stack = user_stack(problem.__traceback__, self._root)
        return ERROR, error_body("function.error", _message(problem), type(problem).__name__, stack)

    def _load_failed(self) -> tuple[int, bytes]:
        why = self._failure or LoadFailed("the instance was given to no function")
        return ERROR, error_body("function.load_failed", str(why), why.error_type, why.stack)

    def _flush(self) -> None:
        for stream in {id(s): s for s in (*self._outputs, sys.stdout, sys.stderr)}.values():
            with contextlib.suppress(Exception):  # one of the user's own, or one that the user closed
                stream.flush()

    def _leave(self, leaving: SystemExit) -> Any:
        # Not by the interpreter's own way out, which waits for threads that the user left behind.
        code = leaving.code
        if code is not None and not isinstance(code, int):
            self._flush()
            print(code, file=sys.stderr)
            code = 1
        self._flush()
        _exit((code or 0) & 0xFF)

    # Several calls at a time.

    def _run_shared(self, first: list[tuple[int, bytes, bytes]]) -> None:
        loop = self._event_loop()
        tasks: set[asyncio.Task[None]] = set()
        threads = ThreadPoolExecutor(self._order["per_instance"], "handler")

        def begin(frames: list[tuple[int, bytes, bytes]]) -> None:
            for kind, call_id, body in frames:
                if kind == INVOKE:
                    call = SharedCall(self, call_id, body)
                    context = contextvars.copy_context()
                    context.run(_call.set, call)
                    task = loop.create_task(self._serve_shared(call, threads), context=context)
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)

        def readable() -> None:
            data = self._wire.recv(65536)
            if not data:
                _exit(0)
            begin(self._reader.feed(data))

        loop.add_reader(self._wire.fileno(), readable)
        begin(first)
        loop.run_forever()

    async def _serve_shared(self, call: SharedCall, threads: ThreadPoolExecutor) -> None:
        kind, answer = await self._answer_shared(call, threads)
        call.flush()
        self.send(kind, call.id, answer)

    async def _answer_shared(self, call: SharedCall, threads: ThreadPoolExecutor) -> tuple[int, bytes]:
        handler = self._handler
        if handler is None:
            return self._load_failed()
        try:
            if handler.is_async:
                value = self._start(handler, call.id, call.body)
            else:
                inner = contextvars.copy_context()
                work = threads.submit(inner.run, self._caught, handler, call)
                value, problem = await asyncio.wrap_future(work)
                if problem is not None:
                    raise problem
            if hasattr(type(value), "__await__"):
                value = await value
        except SystemExit as leaving:
            call.flush()
            self._leave(leaving)
        except BaseException as problem:
            return self._failed(problem)
        return self._succeeded(value)

    def _caught(self, handler: Handler, call: SharedCall) -> tuple[Any, BaseException | None]:
        try:
            return self._start(handler, call.id, call.body), None
        except BaseException as problem:  # as a value: a future refuses to carry StopIteration
            return None, problem


async def _awaited(value: Any) -> Any:
    return await value


# --- booting ------------------------------------------------------------------------------------


def boot() -> Instance:
    """Get ready for any function: take the wire, import what is usual, settle memory."""
    os.closerange(WIRE_FD + 1, 65536)
    os.set_inheritable(WIRE_FD, False)
    os.set_blocking(WIRE_FD, True)
    wire = socket.socket(fileno=WIRE_FD)
    for name in SHELL_VARIABLES:
        os.environ.pop(name, None)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="replace")  # type: ignore[union-attr]
    sys.dont_write_bytecode = True
    for name in PREIMPORTED.split():
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    site.setquit()  # `site` itself did not run: it would look for packages on the host's paths
    site.sethelper()
    sys.argv[:] = [""]
    gc.collect()
    gc.freeze()
    return Instance(wire, dict(os.environ))


def main() -> None:
    """Boot, say so, and serve."""
    instance = boot()
    os.register_at_fork(after_in_child=instance.disown)
    version = ".".join(map(str, sys.version_info[:3]))
    instance.send(HELLO, ZERO_ID, _dump_ascii({"runtime": "python", "version": version}).encode())
    instance.run()
    _exit(0)


if __name__ == "__main__":
    main()
