"""Following: who is told what the calls of which function print.

Owns the followers and hands them to the groups. Does not know how output comes in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from stoker.worker.groups import Groups, Identity
from stoker.worker.tail import Followers, Tap


class Following:
    """The followers of every function. `on_error` is told what a follower raised."""

    def __init__(self, groups: Groups, on_error: Callable[[Exception], None]) -> None:
        self._groups = groups
        self._on_error = on_error
        self._followers: dict[Identity, Followers] = {}

    def of(self, identity: Identity) -> Tap | None:
        """Return what tells all followers of a function; None if there are none."""
        return self._followers.get(identity)

    def follow(self, identity: Identity, tap: Tap) -> Callable[[], None]:
        """Have `tap` told from now on; return what ends that, which may be called again."""
        followers = self._followers.get(identity)
        if followers is None:
            followers = self._followers[identity] = Followers(self._on_error)
            self._hand_out(identity, followers)
        own: Tap = partial(tap)  # a value of its own: one may follow twice
        followers.add(own)

        def unfollow() -> None:
            followers.remove(own)
            if not followers and self._followers.get(identity) is followers:
                del self._followers[identity]
                self._hand_out(identity, None)

        return unfollow

    def _hand_out(self, identity: Identity, tap: Tap | None) -> None:
        for group in self._groups.of(identity):
            group.tap = tap
            for instance in group.instances:
                instance.follow(tap)
