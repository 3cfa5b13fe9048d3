"""Death: what the end of an instance means for the calls that it ran.

Pure. Source: the contract's table *What can end a call*. Does not know what killed the instance, only
how its sandbox ended.
"""

from __future__ import annotations

import signal

from stoker.model.launch import Exit
from stoker.model.limits import Limits
from stoker.model.outcome import Failure


def failure_of(how: Exit, limits: Limits) -> Failure:
    """Return what the death of an instance means for the call that it ran."""
    if how.out_of_memory:
        return Failure("function.out_of_memory", "the function used more memory than its size allows")
    if how.processes_limit_hit:
        return too_many_processes(Failure("function.exited", "the function ended"), limits)
    if how.killed_from_outside:
        return lost("the instance died under the call")
    if how.signal is not None:
        return Failure("function.exited", f"the function was ended by {_signal_name(how.signal)}")
    if how.code is not None:
        return Failure("function.exited", f"the function exited with code {how.code} before it answered")
    return lost("the instance died under the call")


def too_many_processes(said: Failure, limits: Limits) -> Failure:
    """Return the failure of a call that failed as `said`, and whose instance hit its limit."""
    return Failure(
        "function.too_many_processes",
        f"the limit of {limits.processes_max} processes and threads was hit: {said.error}",
        said.error_type,
        said.stack,
    )


def result_too_large(size_bytes: int, limits: Limits) -> Failure:
    """Return the failure of a call whose result is larger than it may be."""
    told = f"the result is {size_bytes} bytes of JSON; the most is {limits.result_bytes_max}"
    return Failure("function.result_too_large", told)


def lost(text: str) -> Failure:
    """Return the failure of a call whose instance was taken from it."""
    return Failure("platform.lost", text)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
