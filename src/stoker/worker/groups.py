"""The groups of this machine: one for each version of a function that is called, and the retired ones.

Owns which of them serves a call. Does not know how instances are started or ended.
"""

from __future__ import annotations

from collections.abc import Iterator

from stoker.model.function import Function
from stoker.worker.group import Group

Identity = tuple[str, str, str]
"""Account, collection topic and service of a function."""
Key = tuple[str, str, str, int]
"""The same and a version of its code."""


def identity_of(function: Function) -> Identity:
    """Return what a function is told by."""
    return (function.account, function.collection_topic, function.service)


def key_of(function: Function) -> Key:
    """Return what a version of a function is told by."""
    return (function.account, function.collection_topic, function.service, function.code.version)


class Groups:
    """Each group once: among `living` while it takes calls, else among `retired` until it is done."""

    def __init__(self) -> None:
        self.living: dict[Key, Group] = {}
        self.retired: set[Group] = set()

    def __iter__(self) -> Iterator[Group]:
        return iter([*self.living.values(), *self.retired])

    def of(self, identity: Identity) -> list[Group]:
        """Return every group of a function, of whatever version, the retired ones too."""
        return [group for group in self if identity_of(group.function) == identity]

    def retire(self, group: Group) -> None:
        """Have a living group take no more calls."""
        group.retired = True
        del self.living[key_of(group.function)]
        self.retired.add(group)

    def drop_if_done(self, group: Group) -> None:
        """Forget a retired group that has nothing left."""
        if group.retired and not group.size and not group.waiting:
            self.retired.discard(group)

    def tidy(self) -> None:
        """Forget every group that has nothing and is to keep nothing."""
        for key, group in list(self.living.items()):
            if not group.size and not group.waiting and not group.instances_min:
                del self.living[key]
        for group in list(self.retired):
            self.drop_if_done(group)
