"""How much the API server is asked: a burst has a bound, and what every agent hears at once is not answered at once."""

import random
from collections.abc import Callable

SPREAD_PER_NODE, MOST_SPREAD_SECONDS = 0.03, 30.0
"""N agents write in N times as long, so that the API server has some 30 writes a second of them."""


class Budget:
    """Seconds that may be spent: one more each second up to a bound; who overdraws waits for them."""

    def __init__(self, most: float, clock: Callable[[], float]) -> None:
        self._left = self._most = most
        self._clock, self._counted = clock, clock()

    def spend(self, seconds: float) -> float:
        """How long to wait before what has this price is done; 0 if there was enough."""
        self._left = self._refilled() - seconds
        return max(-self._left, 0.0)

    def afford(self, seconds: float) -> bool:
        """Whether there is enough; then it is spent."""
        self._left = self._refilled()
        enough = self._left >= seconds
        self._left -= seconds if enough else 0.0
        return enough

    def _refilled(self) -> float:
        before, self._counted = self._counted, self._clock()
        return min(self._left + self._counted - before, self._most)


def spread(nodes: int) -> float:
    """Seconds, at random, for one of so many agents to wait."""
    return random.uniform(0, min(nodes * SPREAD_PER_NODE, MOST_SPREAD_SECONDS))  # noqa: S311 - spreads requests, keeps no secret
