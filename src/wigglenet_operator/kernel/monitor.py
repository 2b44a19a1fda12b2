"""What happens on this node, as a wish to look again: the events say that something changed, a look says what."""

import asyncio
import logging
from collections.abc import Callable

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import (
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    RTMGRP_LINK,
)

log = logging.getLogger(__name__)
GROUPS = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE
"""Links and addresses as well: IPv4 routes that go with them vanish without an event of their own."""
RCVBUF = 8 << 20
"""Bytes; holds a burst of 10,000 route events while the loop is busy."""


async def watch(changed: Callable[[], None]) -> None:
    """Call `changed` after every change of links, addresses and routes, for ever; lost events count as one."""
    while True:
        try:
            async with AsyncIPRoute(rcvbuf=RCVBUF) as socket:
                await socket.bind(groups=GROUPS)
                changed()  # whatever came before this socket was there
                while True:
                    async for _ in socket.get():
                        changed()
        except (OSError, NetlinkError) as error:
            log.warning("netlink events were lost, looking again: %s", error)
            await asyncio.sleep(1)
