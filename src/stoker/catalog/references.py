"""References: how many versions and stored objects need a content.

Owns the counts, and what they say of contents that became unused. Does not know what refers, nor where
contents lie.
"""

from __future__ import annotations

from collections.abc import Iterable

Content = tuple[str, str]
"""(account, digest): where a content is stored."""


class References:
    """The counts of all contents of all accounts."""

    def __init__(self) -> None:
        self._counts: dict[Content, int] = {}
        """Never 0."""
        self._loosened: set[Content] = set()

    def add(self, account: str, digests: Iterable[str]) -> None:
        """Count one more reference to each."""
        for digest in digests:
            content = (account, digest)
            self._counts[content] = self._counts.get(content, 0) + 1

    def remove(self, account: str, digests: Iterable[str]) -> None:
        """Count one reference less to each."""
        for digest in digests:
            content = (account, digest)
            self._counts[content] -= 1
            if not self._counts[content]:
                del self._counts[content]
                self._loosened.add(content)

    def all(self) -> set[Content]:
        """Return every content that something refers to."""
        return set(self._counts)

    def __contains__(self, content: Content) -> bool:
        return content in self._counts

    def take_loosened(self) -> set[Content]:
        """Return, once, what nothing refers to since the last time though something did."""
        loosened = {content for content in self._loosened if content not in self._counts}
        self._loosened = set()
        return loosened
