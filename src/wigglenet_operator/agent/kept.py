"""One thing that the own Node says: written when it is not as it should be, neither too often nor by all agents at once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from wigglenet_operator.errors import ApiError
from wigglenet_operator.kube.pace import Budget, spread
from wigglenet_operator.model.timing import PRODUCTION, Timing

log = logging.getLogger(__name__)
T = TypeVar("T")


class Kept(Generic[T]):
    """What should be there is there, for as long as `keep` runs.

    An urgent value does not wait for `status_least` while a budget of `status_most` lasts, because whoever repairs something
    looks whether it helped: a small cluster may have 5 writes in a row, one of 1,000 Nodes none.
    """

    def __init__(
        self,
        *,
        published: Callable[[], T | None],
        write: Callable[[T], Awaitable[None]],
        nodes: Callable[[], int],
        timing: Timing = PRODUCTION,
    ) -> None:
        """`published` tells what is there now, `write` writes it, ApiError if it could not; `nodes` are as many as listen."""
        self.published, self._write, self._nodes, self._timing = published, write, nodes, timing
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
        timing = self._timing
        budget = Budget(timing.status_most, asyncio.get_running_loop().time)
        while True:
            await self._news.wait()
            await asyncio.sleep(timing.report_settle + spread(self._nodes()))
            self._news.clear()
            self._urgent.clear()
            if self._wanted is None or self.published() == self._wanted:
                continue
            pause = min(max(self._nodes() * timing.status_per_node, timing.status_least), timing.status_most)
            await asyncio.sleep(budget.spend(pause))
            try:
                await self._write(self._wanted)
                self.refused = ""
            except ApiError as error:
                pause = timing.report_retry
                self._failed(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause - timing.report_settle):
                    await self._urgent.wait()

    def _failed(self, error: ApiError) -> None:
        if str(error) != self.refused:
            log.warning("%s", error)
        if error.refused:
            self.refused = str(error)
        self._news.set()
