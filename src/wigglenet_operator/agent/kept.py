"""One thing that the own Node says: written when it is not as it should be, neither too often nor by all agents at once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from wigglenet_operator.errors import ApiError
from wigglenet_operator.kube.pace import Budget, spread

log = logging.getLogger(__name__)
T = TypeVar("T")
SECONDS_PER_NODE, LEAST_SECONDS, MOST_SECONDS = 0.3, 60.0, 300.0
"""Between two writes, in the long run: every write wakes every agent.

What is urgent does not wait for that while it is within the writes of `MOST_SECONDS`: who mends something looks whether it
helped.  So a small cluster may have 5 in a row, one of 1,000 Nodes none.
"""
SETTLE_SECONDS = 2.0
"""Between a change and its write: a start or a join changes several things in a row."""
AGAIN_SECONDS = 15.0
"""After a write that failed."""


class Kept(Generic[T]):
    """What should be there is there, for as long as `keep` runs."""

    def __init__(
        self, *, published: Callable[[], T | None], write: Callable[[T], Awaitable[None]], nodes: Callable[[], int]
    ) -> None:
        """`published` tells what is there now, `write` writes it, ApiError if it could not; `nodes` are as many as listen."""
        self.published, self._write, self._nodes = published, write, nodes
        self._wanted: T | None = None
        self._news, self._urgent = asyncio.Event(), asyncio.Event()
        self.refused = ""
        """Why the API server does not take it; empty if it does."""

    def want(self, value: T, *, urgent: bool) -> None:
        """Have this there, soon if it is urgent."""
        if urgent and value != self._wanted:
            self._urgent.set()
        self._wanted = value
        if self.published() != value:
            self._news.set()

    async def keep(self) -> None:
        """Write until cancelled; what failed is tried again."""
        budget = Budget(MOST_SECONDS, asyncio.get_running_loop().time)
        while True:
            await self._news.wait()
            await asyncio.sleep(SETTLE_SECONDS + spread(self._nodes()))
            self._news.clear()
            self._urgent.clear()
            if self._wanted is None or self.published() == self._wanted:
                continue
            pause = min(max(self._nodes() * SECONDS_PER_NODE, LEAST_SECONDS), MOST_SECONDS)
            await asyncio.sleep(budget.spend(pause))
            try:
                await self._write(self._wanted)
                self.refused = ""
            except ApiError as error:
                pause = AGAIN_SECONDS
                self._failed(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause - SETTLE_SECONDS):
                    await self._urgent.wait()

    def _failed(self, error: ApiError) -> None:
        if str(error) != self.refused:
            log.warning("%s", error)
        if error.refused:
            self.refused = str(error)
        self._news.set()
