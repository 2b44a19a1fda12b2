"""The difference between two keyed tables, and its law.

For all tables a and d:  patched(a, diff(a, d)) == d   and   not diff(d, d).
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

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


def diff(actual: Mapping[K, V], desired: Mapping[K, V]) -> Changes[K, V]:
    """The changes that make `actual` equal to `desired`."""
    change = {k: v for k, v in desired.items() if k in actual and actual[k] != v}
    return Changes(
        add={k: v for k, v in desired.items() if k not in actual},
        change=change,
        was={k: actual[k] for k in change},
        remove={k: v for k, v in actual.items() if k not in desired},
    )


def patched(actual: Mapping[K, V], changes: Changes[K, V]) -> dict[K, V]:
    """What is there after the changes were applied."""
    there = dict(actual)  # a copy need not hash every key again
    for key in changes.remove:
        there.pop(key, None)
    there.update(changes.put)
    return there
