"""Large random values from few choices of Hypothesis, which spends 0.1 ms on each that it makes, and a Node is thirty.

Hypothesis draws bytes, one choice however many they are, and each byte decides something, as in libFuzzer's
FuzzedDataProvider. It shrinks them towards zero, so the first option is the simplest.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy as Strategy

T = TypeVar("T")


class Choices:
    """Decisions by bytes, in order; without a byte left, the first option."""

    def __init__(self, data: bytes) -> None:
        self._left = iter(data)

    def _byte(self) -> int:
        return next(self._left, 0)

    def one(self, options: Sequence[T]) -> T:
        """One of the options, each as likely as any other; two bytes where there are many."""
        number = self._byte() if len(options) <= 1 << 6 else self._byte() << 8 | self._byte()
        return options[number % len(options)]

    def subset(self, options: Sequence[T]) -> list[T]:
        """Those of at most eight options whose bit is set in one byte."""
        assert len(options) <= 8
        bits = self._byte()
        return [option for number, option in enumerate(options) if bits >> number & 1]

    def some(self, make: Callable[[], T], *, most: int) -> list[T]:
        """From none to so many."""
        return [make() for _ in range(self._byte() % (most + 1))]


def chosen(make: Callable[[Choices], T], *, size: int) -> Strategy[T]:
    """Values that are made by choices; `size` is how many bytes they take at most."""
    return st.binary(min_size=size, max_size=size).map(lambda data: make(Choices(data)))
