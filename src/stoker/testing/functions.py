"""Functions for tests: a complete one, with what the test cares about changed.

Knows no store; for the catalog's fakes see `catalog`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stoker.model.function import Asset, CodeVersion, Concurrency, Function

CODE = CodeVersion(
    version=1,
    runtime="nodejs",
    handler="index.handler",
    assets=(Asset("index.js", "file", "0" * 64, 3),),
    timeout_ms=30_000,
    read_only_fs=True,
)
FUNCTION = Function(
    account="default",
    collection_topic="tools",
    service="3970185486",
    name="my-function",
    created_name="my-function",
    code=CODE,
)


def a_function(
    *,
    per_instance: int = 1,
    max_instances: int | None = None,
    min_instances: int = 0,
    name: str | None = None,
    **code: Any,
) -> Function:
    """Return a function; what is not a field of its own here is one of its code version."""
    return replace(
        FUNCTION,
        name=name or FUNCTION.name,
        created_name=name or FUNCTION.created_name,
        service=FUNCTION.service if name is None else str(sum(name.encode())),
        concurrency=Concurrency(per_instance, max_instances, min_instances),
        code=replace(CODE, **code),
    )
