"""Events of this node: of its network by netlink, of its files by inotify.

Own bytes, because a socket that has lost events must go on, which pyroute2's does not.
"""

import asyncio
import ctypes
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import ENOBUFS
from pathlib import Path

from wigglenet_operator.kernel.netlink import Message, split

log = logging.getLogger(__name__)
GROUPS = sum(1 << (group - 1) for group in (1, 5, 7, 9, 11, 12, 24, 25))
"""RTNLGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE, _IPV6_IFINFO, _IPV4_NETCONF, _IPV6_NETCONF of
linux/rtnetlink.h.

Links and addresses as well: IPv4 routes that go with them vanish without an event of their own. IFINFO is sent when a router
has advertised another MTU, NETCONF when forwarding or rp_filter has changed.
"""
SO_RCVBUFFORCE = 33
RCVBUF = 8 << 20
"""Bytes; holds a burst of 10,000 route events while the loop is busy."""
DATAGRAM = 1 << 16
FILE_EVENTS = 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200
"""IN_ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE of linux/inotify.h."""
LOOK_SECONDS = 10.0
"""Between two looks for directories that were not there yet, or were made anew."""


async def watch(follow: Callable[[Sequence[Message] | None], None]) -> None:
    """Call `follow` with the events of links, addresses, routes and IP's settings, for ever.

    With None at the start and after events were lost: then anything may have changed.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as netlink:
        with suppress(PermissionError):  # the size that anybody may have is large enough for all but a storm
            netlink.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RCVBUF)
        netlink.bind((0, GROUPS))

        def readable() -> None:
            events: list[Message] = []
            lost = False
            with suppress(BlockingIOError):
                while True:
                    try:
                        events += split(netlink.recv(DATAGRAM))
                    except OSError as error:
                        if error.errno != ENOBUFS:
                            raise
                        lost = True
            follow(None if lost else events)

        follow(None)  # whatever came before this socket was there
        with _reading(netlink.fileno(), readable):
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

        def readable() -> None:
            with suppress(BlockingIOError):
                while os.read(descriptor, DATAGRAM):
                    pass
            news.set()

        with _reading(descriptor, readable):
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
def _reading(descriptor: int, readable: Callable[[], None]) -> Iterator[None]:
    """While the block runs, call `readable` whenever there is something to read."""
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, readable)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
