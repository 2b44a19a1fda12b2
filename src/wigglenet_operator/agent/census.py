"""What exists, compared with what has been recorded: no event that was lost is lost for ever, no watch stays deaf.

Kopf never tells of what vanished between two listings, and a watch can go silent in ways that it does not notice (an API server
whose storage was restored to an earlier state).
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from wigglenet_operator.agent.ledger import refusal
from wigglenet_operator.agent.store import ClusterStore
from wigglenet_operator.errors import ApiError
from wigglenet_operator.model.facts import IPNetwork, NodeUID, Version
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.model.timing import PRODUCTION, Timing

log = logging.getLogger(__name__)


class Census:
    """Takes a census now and then, and at once when somebody asks for it."""

    def __init__(
        self,
        store: ClusterStore,
        *,
        listed: Callable[[], Awaitable[Mapping[NodeUID, Version]]],
        services: Callable[[], Awaitable[frozenset[IPNetwork] | None]],
        renew: Callable[[str], None],
        timing: Timing = PRODUCTION,
    ) -> None:
        """`services` gives the ranges of Services, None if nobody tells; `renew` starts a fresh watch for a reason."""
        self._store, self._listed, self._services, self._renew = store, listed, services, renew
        self._timing = timing
        self._knows_services = True
        self._asked = asyncio.Event()
        self._behind: frozenset[tuple[NodeUID, Version]] = frozenset()
        self._renewed = 0
        self._failed = ""
        self._failures: dict[int, str] = {}  # by status, 0 for a server in trouble

    def request(self) -> None:
        """Ask for a census soon; from the loop's own thread."""
        self._asked.set()

    def problems(self) -> frozenset[Problem]:
        """That the last one failed, if it did."""
        return refusal(Code.CensusFailed, self._failed)

    async def keep(self) -> None:
        """Take censuses until cancelled."""
        while True:
            self._asked.clear()
            seconds = await self._take()
            if self._behind:  # what is missing may be on its way: asking sooner would tell nothing
                await asyncio.sleep(seconds)
                continue
            try:
                async with asyncio.timeout(seconds):
                    await self._asked.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(random.uniform(0, self._timing.relist_spread))  # noqa: S311 - spreads requests: what one asks for, all may

    async def _take(self) -> float:
        """One census; seconds until the next."""
        try:
            listed = await self._listed()
            self._serve(await self._services())
            self._store.expect(listed)
            await self._drop_the_vanished(listed)
        except ApiError as error:
            status = error.status if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else 0
            self._failed = self._failures.setdefault(status, str(error))  # an outage has many texts, and is one problem
            return self._timing.relist_retry
        self._failed = ""
        self._failures.clear()
        if not self._store.complete:
            log.info("waiting until each of %d Nodes has been seen", len(listed))
        return self._judge(listed)

    def _serve(self, services: frozenset[IPNetwork] | None) -> None:
        if services is None and self._knows_services:
            log.warning("no ServiceCIDR can be listed: of Services only the API server's address is kept out of pod networks")
        self._knows_services = services is not None
        self._store.serve(services or frozenset())

    async def _drop_the_vanished(self, listed: Mapping[NodeUID, Version]) -> None:
        """What came after a listing and was recorded since is in the next one."""
        if missing := self._store.missing(listed):
            again = await self._listed()
            for uid in missing.keys() - again.keys():
                log.info("node %s is gone, and no event told of it", missing[uid])
                self._store.drop(uid)

    def _judge(self, listed: Mapping[NodeUID, Version]) -> float:
        before, self._behind = self._behind, self._store.behind(listed)
        if not self._behind:
            self._renewed = 0
            timing = self._timing
            usual = min(max(len(listed) * timing.relist_per_node, timing.relist_least), timing.relist_most)
            return usual * random.uniform(0.8, 1.2)  # noqa: S311 - spreads requests
        if before and before <= self._behind:  # else it is on its way
            self._behind = frozenset()
            self._renew(f"it has not told what {len(before)} Nodes are by now")
            self._renewed = min(self._renewed + 1, len(self._timing.relist_patience) - 1)
        return self._timing.relist_patience[self._renewed]
