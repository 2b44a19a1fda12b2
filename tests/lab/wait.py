"""Waiting for a condition, never for a time."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS, MOST_POLL_SECONDS = 0.01, 0.2
"""Between two looks at a condition: as long as the look itself took, within these bounds, or a wait would fill a core."""
SLOWNESS = float(os.environ.get("LAB_SLOWNESS", "1"))
"""How many times longer than on a machine of its own everything takes: an emulated one is ten times slower."""


class NotSeenError(AssertionError):
    """A condition did not come true in time."""


def eventually(condition: Callable[[], T], *, what: str, seconds: float = 10.0) -> T:
    """The first true value of `condition`; NotSeenError that names `what` if there is none in time."""
    end = time.monotonic() + seconds * SLOWNESS
    while True:
        began = time.monotonic()
        if value := condition():
            return value
        if (now := time.monotonic()) > end:
            raise NotSeenError(f"not within {seconds * SLOWNESS:g} s: {what}")
        time.sleep(min(max(now - began, POLL_SECONDS), MOST_POLL_SECONDS))
