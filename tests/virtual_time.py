"""An event loop whose clock jumps to the next timer: hours pass at once, in order and always alike."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.DefaultSelector):
    """Never sleeps; adds the time that its loop would have slept to `now`."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine in virtual time; tasks that it leaves behind are cancelled.

    `asyncio.Runner` does the same, and installs a SIGINT handler each time, which costs as much as a reconcile pass on fakes.
    """
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        try:
            loop.run_until_complete(_finish(loop))
        finally:
            loop.close()


async def _finish(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
