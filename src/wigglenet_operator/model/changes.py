"""The difference between two state tables, and its law.

For all tables a and d:  patched(a, diff(a, d)) == d   and   not diff(d, d).
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
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


class Parts(Mapping[K, V]):
    """A state table in parts, by name. An unchanged part stays the same object, and is neither compared nor copied."""

    __slots__ = ("_part_of", "parts")

    def __init__(self, parts: Mapping[str, Mapping[K, V]], part_of: Callable[[K], str]) -> None:
        """`part_of` gives the part of a key; the same function for all tables that are compared."""
        self.parts: Mapping[str, Mapping[K, V]] = {name: part for name, part in parts.items() if part}
        """No part is empty; may be empty."""
        self._part_of = part_of

    @classmethod
    def of(cls, items: Iterable[tuple[K, V]], part_of: Callable[[K], str]) -> "Parts[K, V]":
        """The items, each in its part."""
        parts: defaultdict[str, dict[K, V]] = defaultdict(dict)
        for key, value in items:
            parts[part_of(key)][key] = value
        return cls(parts, part_of)

    def __getitem__(self, key: K) -> V:
        """KeyError if no part has the key."""
        return self.parts[self._part_of(key)][key]

    def __iter__(self) -> Iterator[K]:
        """The keys of one part after the other."""
        for part in self.parts.values():
            yield from part

    def __len__(self) -> int:
        """The number of keys in all parts."""
        return sum(map(len, self.parts.values()))

    def __eq__(self, other: object) -> bool:
        """Whether both have the same entries; `other` may be any mapping."""
        return self.parts == other.parts if isinstance(other, Parts) else super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]  # as of every other mapping

    def patched(self, changes: Changes[K, V]) -> "Parts[K, V]":
        """The table after the changes; only the parts that change are copied."""
        removed = Parts.of(changes.remove.items(), self._part_of).parts
        put = Parts.of(changes.put.items(), self._part_of).parts
        there = dict(self.parts)
        for name in removed.keys() | put.keys():
            there[name] = _patched(there.get(name, {}), removed.get(name, {}), put.get(name, {}))
        return Parts(there, self._part_of)


def common_parts(actual: Mapping[K, V], desired: Mapping[K, V]) -> Iterator[tuple[str, Mapping[K, V], Mapping[K, V]]]:
    """Name and both versions of each part; two plain mappings, or one that is, are one part without a name."""
    if not (isinstance(actual, Parts) and isinstance(desired, Parts)):
        yield "", actual, desired
        return
    for name in dict.fromkeys([*desired.parts, *actual.parts]):
        yield name, actual.parts.get(name, {}), desired.parts.get(name, {})


def joined(changes: Iterable[Changes[K, V]]) -> Changes[K, V]:
    """The changes of several parts of a state table as one."""
    found = [each for each in changes if each]
    if len(found) <= 1:
        return found[0] if found else NO_CHANGES
    return Changes(
        add={key: value for each in found for key, value in each.add.items()},
        change={key: value for each in found for key, value in each.change.items()},
        was={key: value for each in found for key, value in each.was.items()},
        remove={key: value for each in found for key, value in each.remove.items()},
    )


def diff(actual: Mapping[K, V], desired: Mapping[K, V]) -> Changes[K, V]:
    """The changes that make `actual` equal to `desired`."""
    if actual is desired:
        return NO_CHANGES
    if isinstance(actual, Parts) and isinstance(desired, Parts):
        return joined(diff(one, other) for _, one, other in common_parts(actual, desired))
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


def patched(actual: Mapping[K, V], changes: Changes[K, V]) -> Mapping[K, V]:
    """The state table after the changes."""
    return actual.patched(changes) if isinstance(actual, Parts) else _patched(actual, changes.remove, changes.put)


def _patched(actual: Mapping[K, V], remove: Iterable[K], put: Mapping[K, V]) -> dict[K, V]:
    there = dict(actual)  # a copy does not hash every key again
    for key in remove:
        there.pop(key, None)
    there.update(put)
    return there
