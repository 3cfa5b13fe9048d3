"""References: how many versions, stored objects and secrets need a content.

Owns the counts, what they say of contents that became unused, and how much an account has. Does not know
what refers, nor where contents lie.
"""

from __future__ import annotations

from collections.abc import Iterable

Content = tuple[str, str]
"""(account, digest): where a content is stored."""
Sized = tuple[str, int]
"""(digest, bytes): what a reference counts as; 0 bytes for what is no code."""


class References:
    """The counts of all contents of all accounts."""

    def __init__(self) -> None:
        self._counts: dict[Content, int] = {}
        """Never 0."""
        self._loosened: set[Content] = set()
        self._bytes: dict[str, int] = {}

    def add(self, account: str, contents: Iterable[Sized]) -> None:
        """Count one more reference to each."""
        for digest, size_bytes in contents:
            content = (account, digest)
            count = self._counts.get(content, 0)
            self._counts[content] = count + 1
            if not count:
                self._bytes[account] = self._bytes.get(account, 0) + size_bytes

    def remove(self, account: str, contents: Iterable[Sized]) -> None:
        """Count one reference less to each."""
        for digest, size_bytes in contents:
            content = (account, digest)
            self._counts[content] -= 1
            if not self._counts[content]:
                del self._counts[content]
                self._bytes[account] -= size_bytes
                self._loosened.add(content)

    def bytes_of(self, account: str) -> int:
        """Return what an account's contents take, each once."""
        return self._bytes.get(account, 0)

    def bytes_more(self, account: str, contents: Iterable[Sized]) -> int:
        """Return what they would take beyond that."""
        return sum(size for digest, size in set(contents) if (account, digest) not in self._counts)

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
