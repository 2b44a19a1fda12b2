"""When a turn is made: soon after it was asked for, never too often, again sooner after a failure, and now and then anyway."""

import asyncio
from collections.abc import Awaitable, Callable

MIN_SECONDS = 0.1
"""Between the starts of two turns; a burst of events becomes one turn."""
RESYNC_SECONDS = 10.0
"""The longest without a turn: WireGuard tells nobody of changes, so peers are read so often."""
BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""After the first, second, … failed turn in a row; the last one for ever."""


class Loop:
    """Runs one turn at a time; requests that come during a turn become one more turn."""

    def __init__(self, turn: Callable[[], Awaitable[bool]]) -> None:
        """`turn` tells whether it succeeded; it must not raise for what it expects to go wrong."""
        self._turn = turn
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
            patience = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1] if failures else RESYNC_SECONDS
            try:
                async with asyncio.timeout(patience):
                    await self._requested.wait()
                failures = 0  # what made it fail may be over
            except TimeoutError:
                pass
            await asyncio.sleep(max(0.0, started + MIN_SECONDS - clock()))
