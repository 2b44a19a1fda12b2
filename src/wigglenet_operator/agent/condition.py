"""The own Node's condition NetworkUnavailable, by option: a node whose network is not as it should be gets no new pods."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from wigglenet_operator.errors import ApiError
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem

SETTLE_SECONDS = 2.0
"""What lasts less is no reason to write."""
PAUSE_SECONDS = 10.0
"""Between two writes, and before another attempt: every write wakes every agent."""
MESSAGE = 500
"""Characters."""


class Condition:
    """What it should be, written when it is not, for as long as `keep` runs."""

    def __init__(
        self, *, published: Callable[[], tuple[str, str] | None], publish: Callable[[str, str], Awaitable[None]]
    ) -> None:
        """`published` tells status and message of now, `publish` writes them; ApiError if it could not."""
        self._published, self._publish = published, publish
        self._wanted: tuple[str, str] | None = None
        self._news = asyncio.Event()
        self._refused = ""

    def judge(self, reasons: Sequence[str]) -> None:
        """Have it say whether this node's network is unavailable, and why: for these reasons, if there are any."""
        self._wanted = ("True", reasons[0][:MESSAGE]) if reasons else ("False", "the network of this node is as it should be")
        if self._published() != self._wanted:
            self._news.set()

    def problems(self) -> frozenset[Problem]:
        """That the API server refuses it, if it does."""
        if not self._refused:
            return frozenset()
        return frozenset({Problem(code=Code.ConditionFailed, subject="API server", text=self._refused)})

    async def keep(self) -> None:
        """Write until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._news.clear()
            if self._wanted is None or self._published() == self._wanted:
                continue
            try:
                await self._publish(*self._wanted)
                self._refused = ""
            except ApiError as error:
                self._refused = str(error) if error.status else self._refused
            await asyncio.sleep(PAUSE_SECONDS)
            if self._published() != self._wanted:  # nor was it kept, or it has changed again
                self._news.set()
