"""Values by what they were read from: of two listings in a row nearly everything is the same, and parsing it is the cost."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

R = TypeVar("R", bound=Hashable)
V = TypeVar("V")


class Memo(Generic[R, V]):
    """Remembers what the listing before had, and no more."""

    def __init__(self, parse: Callable[[R], V]) -> None:
        self._parse = parse
        self._before: dict[R, V] = {}
        self._now: dict[R, V] = {}

    def begin(self) -> None:
        """A listing begins: forget what the one before did not have."""
        self._before, self._now = self._now, {}

    def __call__(self, raw: R) -> V:
        """What `raw` says; whatever `parse` raises."""
        value = self._before[raw] if raw in self._before else self._parse(raw)
        self._now[raw] = value
        return value
