"""The difference between two keyed tables, and its law.

For all tables a and d:  patched(a, diff(a, d)) == d   and   not diff(d, d).
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes(Generic[K, V]):
    """What to write; falsy when there is nothing to write. `add`, `change` and `remove` have no key in common."""

    add: Mapping[K, V]
    change: Mapping[K, V]
    """The new values."""
    was: Mapping[K, V]
    """The old values of what is changed, by the same keys: so that no more need be written than is different."""
    remove: Mapping[K, V]
    """The old values: a kernel wants to be told what it is to forget."""

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.add or self.change or self.remove)

    @property
    def put(self) -> Mapping[K, V]:
        """All that must be as given afterwards: added and changed."""
        return {**self.add, **self.change}


NO_CHANGES: Changes[Any, Any] = Changes(add={}, change={}, was={}, remove={})


def diff(actual: Mapping[K, V], desired: Mapping[K, V]) -> Changes[K, V]:
    """The changes that make `actual` equal to `desired`."""
    if actual is desired:
        return NO_CHANGES
    add: dict[K, V] = {}
    change: dict[K, V] = {}
    was: dict[K, V] = {}
    missing: Any = object()
    for key, value in desired.items():
        have = actual.get(key, missing)
        if have is value:
            continue
        if have is missing:
            add[key] = value
        elif have != value:
            change[key], was[key] = value, have
    nothing_to_remove = len(actual) == len(desired) - len(add)  # then all keys of `actual` were found
    remove = {} if nothing_to_remove else {k: v for k, v in actual.items() if k not in desired}
    return Changes(add=add, change=change, was=was, remove=remove)


def patched(actual: Mapping[K, V], changes: Changes[K, V]) -> dict[K, V]:
    """What is there after the changes were applied."""
    there = dict(actual)  # a copy need not hash every key again
    for key in changes.remove:
        there.pop(key, None)
    there.update(changes.put)
    return there
