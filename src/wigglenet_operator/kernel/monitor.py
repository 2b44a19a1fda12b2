"""What happens on this node, as a wish to look again: the events say that something changed, a look says what.

Own bytes, for of an event nothing matters but that it came; and a socket that lost events goes on, which pyroute2's does not.
"""

import asyncio
import ctypes
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import ENOBUFS
from pathlib import Path

log = logging.getLogger(__name__)
GROUPS = sum(1 << (group - 1) for group in (1, 5, 7, 9, 11, 24, 25))
"""RTNLGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE, _IPV4_NETCONF, _IPV6_NETCONF of linux/rtnetlink.h.

Links and addresses as well: IPv4 routes that go with them vanish without an event of their own.  Netconf tells of forwarding
and rp_filter.
"""
SO_RCVBUFFORCE = 33
RCVBUF = 8 << 20
"""Bytes; holds a burst of 10,000 route events while the loop is busy."""
DATAGRAM = 1 << 16
FILE_EVENTS = 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200
"""IN_ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE of linux/inotify.h."""
LOOK_SECONDS = 10.0
"""Between two looks for directories that were not there yet, or were made anew."""


async def watch(changed: Callable[[], None]) -> None:
    """Call `changed` after every change of links, addresses, routes and IP's settings, for ever; lost events count as one."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as netlink:
        with suppress(PermissionError):  # the size that anybody may have is large enough for all but a storm
            netlink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RCVBUF)
        netlink.bind((0, GROUPS))
        changed()  # whatever came before this socket was there
        with _reading(netlink.fileno(), lambda: _received(netlink), changed):
            await asyncio.get_running_loop().create_future()


async def watch_files(directories: Iterable[Path], changed: Callable[[], None]) -> None:
    """Call `changed` after every change of an entry of one of the directories, for ever; one may be made later.

    Source: inotify(7); the standard library has none of it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        reason = os.strerror(ctypes.get_errno())
        log.warning(
            "no inotify (%s), so that changed files are noticed 10 s later; raise fs.inotify.max_user_instances", reason
        )
        return
    wanted = [os.fsencode(path) for path in directories]
    news = asyncio.Event()
    watched: set[int] = set()
    try:
        with _reading(descriptor, lambda: bool(os.read(descriptor, DATAGRAM)), news.set):
            while True:
                # One that is watched already stays as it is; one that is missing is refused, with -1.
                found = {libc.inotify_add_watch(descriptor, path, FILE_EVENTS) for path in wanted}
                if found - watched - {-1}:  # whatever came into it before was no event
                    changed()
                watched |= found
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await news.wait()
                    news.clear()
                    changed()
    finally:
        os.close(descriptor)


@contextmanager
def _reading(descriptor: int, read: Callable[[], bool], changed: Callable[[], None]) -> Iterator[None]:
    """While the block runs: `changed` once for all that can be read, whenever there is something."""

    def readable() -> None:
        with suppress(BlockingIOError):
            while read():
                pass
        changed()

    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, readable)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)


def _received(netlink: socket.socket) -> bool:
    try:
        return bool(netlink.recv(DATAGRAM))
    except OSError as error:
        if error.errno == ENOBUFS:  # events were lost
            return True
        raise
