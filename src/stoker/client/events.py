"""Server-sent events, line by line. Does not know what they are about."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event."""

    name: str
    data: str


@dataclass(slots=True)
class EventLines:
    """Makes events of the lines they come in."""

    _name: str = "message"
    _data: list[str] = field(default_factory=list)

    def take(self, line: str) -> ServerEvent | None:
        """Take a line without its end in; return the event that it completes."""
        if not line:
            event = ServerEvent(self._name, "\n".join(self._data)) if self._data else None
            self._name, self._data = "message", []
            return event
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        return None
