"""When a reconcile pass is made: soon after a request, never too often, again after a failure, and at each resync."""

import asyncio
from collections.abc import Awaitable, Callable

from wigglenet_operator.model.timing import PRODUCTION, Timing

ALL = frozenset({"all"})
"""Stands for every state table, and the host facts, among the names of stale ones."""


class Loop:
    """Runs one pass at a time; requests that come during a pass become one more pass."""

    def __init__(self, reconcile: Callable[[frozenset[str]], Awaitable[bool]], *, timing: Timing = PRODUCTION) -> None:
        """`reconcile` is given the names of the state tables that may have changed, or ALL, and returns whether it succeeded.

        It must not raise for what it expects to go wrong.
        """
        self._reconcile, self._timing = reconcile, timing
        self._requested = asyncio.Event()
        self._stale: frozenset[str] = ALL

    def request(self, stale: frozenset[str] = frozenset()) -> None:
        """Ask for a pass, which reads these state tables anew; from the loop's own thread."""
        self._stale |= stale
        self._requested.set()

    async def run(self) -> None:
        """Make passes until cancelled."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            started = clock()
            self._requested.clear()
            stale, self._stale = self._stale, frozenset()
            failures = 0 if await self._reconcile(stale) else failures + 1
            retries = self._timing.retries
            patience = retries[min(failures, len(retries)) - 1] if failures else self._timing.resync
            try:
                async with asyncio.timeout(patience):
                    await self._requested.wait()
                failures = 0  # what made it fail may be over
            except TimeoutError:
                self._stale = ALL
            await asyncio.sleep(max(0.0, started + self._timing.pass_interval - clock()))
