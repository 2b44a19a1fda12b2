"""When a turn is made: soon after it was asked for, never too often, again sooner after a failure, and now and then anyway."""

import asyncio
from collections.abc import Awaitable, Callable

from wigglenet_operator.model.timing import PRODUCTION, Timing


class Loop:
    """Runs one turn at a time; requests that come during a turn become one more turn."""

    def __init__(self, turn: Callable[[], Awaitable[bool]], *, timing: Timing = PRODUCTION) -> None:
        """`turn` tells whether it succeeded; it must not raise for what it expects to go wrong."""
        self._turn, self._timing = turn, timing
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Ask for a turn; from the loop's own thread."""
        self._requested.set()

    async def run(self) -> None:
        """Make turns until cancelled."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            started = clock()
            self._requested.clear()
            failures = 0 if await self._turn() else failures + 1
            retries = self._timing.retries
            patience = retries[min(failures, len(retries)) - 1] if failures else self._timing.resync
            try:
                async with asyncio.timeout(patience):
                    await self._requested.wait()
                failures = 0  # what made it fail may be over
            except TimeoutError:
                pass
            await asyncio.sleep(max(0.0, started + self._timing.pass_interval - clock()))
