"""The client of a stoker server, in Python: `Client`, and `AsyncClient` for asyncio and trio.

    from stoker.client import Client

    with Client() as client:
        print(client.invoke("demo/hello", {"name": "Ada"}))

Knows the API as its reference describes it, and nothing of the server's code.
"""

from stoker.client._async.client import AsyncClient
from stoker.client._sync.client import Client
from stoker.client.answers import CallAnswer
from stoker.client.errors import (
    AlreadyEnded,
    Conflict,
    Forbidden,
    FunctionBusy,
    FunctionFailed,
    FunctionTimeout,
    IdempotencyConflict,
    InputRejected,
    InvocationLost,
    InvocationStopped,
    LimitReached,
    NameTaken,
    NoCapacity,
    NotEmpty,
    NotFound,
    OutOfMemory,
    OutputRejected,
    PlatformFailed,
    QuotaExceeded,
    RequestRefused,
    SecretInUse,
    ServerUnreachable,
    StokerError,
    StorageFull,
    TooLarge,
    Unauthenticated,
    UnexpectedAnswer,
    VersionConflict,
)
from stoker.client.names import InvalidName
from stoker.client.retry import NO_PATIENCE, Patience

__all__ = [
    "NO_PATIENCE",
    "AlreadyEnded",
    "AsyncClient",
    "CallAnswer",
    "Client",
    "Conflict",
    "Forbidden",
    "FunctionBusy",
    "FunctionFailed",
    "FunctionTimeout",
    "IdempotencyConflict",
    "InputRejected",
    "InvalidName",
    "InvocationLost",
    "InvocationStopped",
    "LimitReached",
    "NameTaken",
    "NoCapacity",
    "NotEmpty",
    "NotFound",
    "OutOfMemory",
    "OutputRejected",
    "Patience",
    "PlatformFailed",
    "QuotaExceeded",
    "RequestRefused",
    "SecretInUse",
    "ServerUnreachable",
    "StokerError",
    "StorageFull",
    "TooLarge",
    "Unauthenticated",
    "UnexpectedAnswer",
    "VersionConflict",
]
