"""The wire's bytes, on the host's side and on that of the Python shim; the Node.js one has its own storey."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.runtimes import wire
from stoker.runtimes.shim import shim
from stoker.runtimes.wire import FrameReader, WireError

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden" / "wire.json").read_text())
CALL = bytes.fromhex("0123456789abcdef0123456789abcdef")
FRAMES = st.lists(
    st.tuples(st.integers(0, 255), st.binary(min_size=16, max_size=16), st.binary(max_size=200)), max_size=8
)


def golden(name: str) -> bytes:
    (found,) = [bytes.fromhex(entry["frame"]) for entry in GOLDEN if entry["name"] == name]
    return found


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda entry: entry["name"])
def test_every_codec_in_python_agrees_with_the_golden_bytes(entry: dict[str, Any]) -> None:
    raw = bytes.fromhex(entry["frame"])
    parts = (entry["kind"], bytes.fromhex(entry["id"]), bytes.fromhex(entry["body"]))

    read = [FrameReader(frame_bytes_max=1000).feed(raw), shim.Reader().feed(raw)]
    written = [wire.encode_frame(*parts), shim.frame(*parts)]

    assert read == [[parts], [parts]]
    assert written == [raw, raw]


def test_kinds_are_the_golden_ones_everywhere() -> None:
    kinds = {entry["name"]: entry["kind"] for entry in GOLDEN}

    assert {name: getattr(wire, name) for name in kinds} == kinds
    assert {name: getattr(shim, name) for name in kinds} == kinds


def test_a_call_goes_out_as_the_golden_bytes() -> None:
    assert wire.encode_invoke(CALL, 30_000, '{"n":1,"s":"ü"}'.encode()) == golden("INVOKE")


def test_a_load_goes_out_as_the_golden_bytes() -> None:
    frame = wire.encode_load(
        handler="index.handler",
        root="/code",
        env={"KEY": "välue"},
        function_name="echo",
        function_version="7",
        memory_mb=512,
        per_instance=1,
        result_bytes_max=6 * 1024 * 1024,
    )

    assert frame == golden("LOAD")


def test_a_hello_is_read() -> None:
    ((_, _, body),) = FrameReader(frame_bytes_max=1000).feed(golden("HELLO"))

    assert wire.decode_hello(body) == wire.Hello("nodejs", "24.19.0")


def test_an_error_is_read_as_a_failure() -> None:
    ((_, _, body),) = FrameReader(frame_bytes_max=1000).feed(golden("ERROR"))

    failure = wire.decode_error(body)

    assert (failure.code, failure.error, failure.error_type) == ("function.error", "no", "Odd")
    assert failure.stack == "at handler (/code/index.js:1:1)"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"code":"platform.lost","error":"forged"}',
        b'{"code":"function.timeout","error":"forged"}',
        b'{"code":["function.error"],"error":"x"}',
        b'{"code":"function.error"}',
        b'{"code":"function.error","error":5}',
    ],
)
def test_an_error_that_no_instance_may_tell_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode_error(body)


def test_half_a_surrogate_pair_in_an_error_becomes_text_that_can_be_answered() -> None:
    failure = wire.decode_error(b'{"code":"function.error","error":"\\ud83d!","error_type":7,"stack":""}')

    assert failure.error.encode() == b"?!"
    assert (failure.error_type, failure.stack) == (None, None)


@pytest.mark.parametrize("body", [b"{}", b'{"runtime":"nodejs"}', b'{"runtime":1,"version":"2"}', b"x"])
def test_a_hello_that_says_nothing_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode_hello(body)


@given(frames=FRAMES, cuts=st.lists(st.integers(0, 2000), max_size=12))
def test_frames_come_out_the_same_however_the_stream_is_cut(
    frames: list[wire.Frame], cuts: list[int]
) -> None:
    stream = b"".join(wire.encode_frame(*frame) for frame in frames)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]

    for reader in (FrameReader(frame_bytes_max=1000), shim.Reader()):
        out = [frame for start, end in pairwise(edges) for frame in reader.feed(stream[start:end])]

        assert out == frames


@pytest.mark.parametrize("length", [0, 16, 1001, 0xFFFFFFFF])
def test_a_frame_past_a_bound_is_refused_as_soon_as_its_length_is_known(length: int) -> None:
    reader = FrameReader(frame_bytes_max=1000)

    with pytest.raises(WireError):
        reader.feed(length.to_bytes(4, "big"))


def test_a_frame_of_exactly_the_bound_is_accepted() -> None:
    body = bytes(1000 - 17)

    frames = FrameReader(frame_bytes_max=1000).feed(wire.encode_frame(wire.RESULT, CALL, body))

    assert frames == [(wire.RESULT, CALL, body)]


def test_a_large_frame_in_many_parts_is_put_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = FrameReader(frame_bytes_max=10_000_000)
    stream = wire.encode_frame(wire.RESULT, CALL, bytes(5_000_000))
    looks = 0
    real = wire._LENGTH

    class Counting:
        def unpack_from(self, data: bytes, at: int) -> tuple[Any, ...]:
            nonlocal looks
            looks += 1
            return real.unpack_from(data, at)

    monkeypatch.setattr(wire, "_LENGTH", Counting())
    for at in range(0, len(stream), 1000):
        frames = reader.feed(stream[at : at + 1000])

    assert len(frames) == 1
    assert looks == 2  # once to learn how much is missing, once with all of it: more would copy each time
