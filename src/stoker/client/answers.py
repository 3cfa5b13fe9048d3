"""What an invocation answers. Does not know how it was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from stoker.client.asks import Answer, body_text


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """The answer of a call that ended well."""

    invocation_id: str
    text: str
    """The result as JSON text."""

    @property
    def value(self) -> Any:
        """The result as a value."""
        return msgspec.json.decode(self.text)


def call_answer(answer: Answer) -> CallAnswer:
    """Read the answer of an invoke."""
    return CallAnswer(answer.headers.get("x-invocation-id", ""), body_text(answer))
