"""Records of a store that was restored: older than the stream they are in."""

from __future__ import annotations

from pathlib import Path

import pytest

from stoker.backbone.ledger import Write
from stoker.model.call import CallIds, text_of
from stoker.model.errors import NotFound
from stoker.model.record import Record, created_ms_of
from stoker.records import formats
from stoker.records.records import SCAN_MESSAGES
from stoker.testing.catalog import ACCOUNT
from stoker.testing.records import RecordsBench

DAY_MS = 86_400_000


def a_record() -> Record:
    call_id = CallIds().next()
    created_ms = created_ms_of(call_id)
    return Record(invocation_id=text_of(call_id), function="f", version=1, status="ok", created_ms=created_ms)


async def store(bench: RecordsBench, record: Record, expires_ms: int) -> None:
    pack = formats.pack_of([formats.text_of_record(record)], expires_ms)
    await bench.ledger.write([Write(formats.pack_subject(ACCOUNT), pack)])


@pytest.mark.parametrize(("begun_ms", "is_found"), [(10 * DAY_MS, True), (0, False)])
async def test_an_old_record_is_looked_for_in_all_of_a_restored_stream(
    tmp_path: Path, begun_ms: int, *, is_found: bool
) -> None:
    bench = RecordsBench(tmp_path)
    wanted = a_record()
    expires_ms = bench.now_ms() + 30 * DAY_MS
    bench.ahead_ms = 10 * DAY_MS  # when it was restored
    bench.ledger.begun_ms = begun_ms and wanted.created_ms + begun_ms
    for _ in range(SCAN_MESSAGES):
        await store(bench, a_record(), expires_ms)
    await store(bench, wanted, expires_ms)

    if is_found:
        assert await bench.records.find(ACCOUNT, wanted.invocation_id) == wanted
    else:  # of a stream that is older than the record it is known that it cannot be so late
        with pytest.raises(NotFound):
            await bench.records.find(ACCOUNT, wanted.invocation_id)
