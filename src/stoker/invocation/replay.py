"""Replay: an invocation that has ended is run once more at once, as a new one that names it.

Does not know how the old one is found, nor how the new one is answered.
"""

from __future__ import annotations

import asyncio

from stoker.catalog.fold import Entry
from stoker.catalog.principal import Principal
from stoker.invocation.invoker import Invoker
from stoker.model.call import Call, text_of
from stoker.model.errors import InvalidRequest, StokerError
from stoker.model.outcome import Outcome
from stoker.model.record import Record


async def replayed(
    invoker: Invoker, principal: Principal, entry: Entry, record: Record, *, version: int | None = None
) -> tuple[str, Outcome]:
    """Return id and outcome of a new RequestResponse call with the payload of `record`.

    If the caller is cancelled, so is the call. Raises InvalidRequest if no payload was kept, and as
    `Invoker.invoke`.
    """
    ended: asyncio.Future[tuple[str, Outcome | StokerError]] = asyncio.get_running_loop().create_future()

    def end(call: Call, outcome: Outcome | StokerError) -> None:
        if not ended.done():
            ended.set_result((text_of(call.id), outcome))

    call = invoker.invoke(
        principal, entry, payload_of(record), end, version=version, replay_of=record.invocation_id
    )
    try:
        invocation_id, outcome = await ended
    except asyncio.CancelledError:
        call.cancel_now()
        raise
    if not isinstance(outcome, Outcome):
        raise outcome
    return invocation_id, outcome


def payload_of(record: Record) -> bytes:
    """Return the payload that a record kept. Raises InvalidRequest if it kept none."""
    if record.payload is None:
        raise InvalidRequest(
            "the invocation's payload was not kept, so it cannot be run again",
            hint="set monitor_config.store_payload on the function",
        )
    return record.payload.encode()
