"""Secret: a text that does not show itself: not printed, not formatted, not pickled, not compared.

Does not know how it is kept.
"""

from __future__ import annotations

from typing import NoReturn


class Secret:
    """One value; `reveal` is the only way to it."""

    __slots__ = ("_text",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for who hands it to a function."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("a secret is not compared")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")
