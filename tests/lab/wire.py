"""A link that takes its time and loses frames: two TAP devices and what lies between.

`wire.py ONE OTHER DELAY_MS LOSS_PERCENT`
`tc netem` does the same on a kernel that has sch_netem, which not every one has; TAP devices are there wherever the lab runs.
Standard library only; it ends when one of its devices goes.
"""

import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from errno import EIO

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
LONGEST = 1 << 16


def tap(name: str) -> int:
    """The descriptor of a new TAP device."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def carry(one: int, other: int, *, delay_seconds: float, loss: float) -> None:
    """Bring each frame to the other end, in its order, or lose it."""
    across = {one: other, other: one}
    travelling: deque[tuple[float, int, bytes]] = deque()
    while True:
        patience = max(0.0, travelling[0][0] - time.monotonic()) if travelling else None
        for end in select.select(across, (), (), patience)[0]:
            frame = os.read(end, LONGEST)
            if random.random() >= loss:  # noqa: S311 - nobody guesses it
                travelling.append((time.monotonic() + delay_seconds, across[end], frame))
        while travelling and travelling[0][0] <= time.monotonic():
            _, end, frame = travelling.popleft()
            _put(end, frame)


def _put(end: int, frame: bytes) -> None:
    with suppress(BlockingIOError):
        try:
            os.write(end, frame)
        except OSError as error:
            if error.errno != EIO:  # the device is down
                raise


if __name__ == "__main__":
    _, name, other_name, delay_ms, loss_percent = sys.argv
    carry(tap(name), tap(other_name), delay_seconds=float(delay_ms) / 1000, loss=float(loss_percent) / 100)
