"""Waiting for a condition, never for a time."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.01
SLOWNESS = float(os.environ.get("LAB_SLOWNESS", "1"))
"""How many times longer than on a machine of its own everything takes: an emulated one is ten times slower."""


class NotSeenError(AssertionError):
    """A condition did not come true in time."""


def eventually(condition: Callable[[], T], *, what: str, seconds: float = 10.0) -> T:
    """The first true value of `condition`; NotSeenError that names `what` if there is none in time."""
    end = time.monotonic() + seconds * SLOWNESS
    while not (value := condition()):
        if time.monotonic() > end:
            raise NotSeenError(f"not within {seconds * SLOWNESS:g} s: {what}")
        time.sleep(POLL_SECONDS)
    return value
