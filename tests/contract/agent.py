"""An agent in the test's process: everything but the kernel is real, and its state tables are those of `tests.fakes`."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Self, cast

from tests.builders import config, host
from tests.fakes import FakePeers, FakeTable
from tests.lab.lab import API_ADDRESS
from tests.lab.node import SERVICE_ACCOUNT, LabNode
from wigglenet_operator.agent.mesh import Mesh
from wigglenet_operator.agent.run import Agent
from wigglenet_operator.agent.steps import Tables
from wigglenet_operator.kube.access import ApiAccess
from wigglenet_operator.model.facts import ClusterState, HostFacts
from wigglenet_operator.model.timing import Timing
from wigglenet_operator.plan.desired import STEPS

SECONDS = 10.0
"""For the agent to end."""


class FakeMesh:
    """The adapters of a node without a kernel."""

    def __init__(self) -> None:
        kernel = [step.table for step in STEPS if step.table != "annotations"]
        self.content: dict[str, FakeTable[Any, Any]] = {name: FakeTable() for name in kernel}
        self.content["peers"] = FakePeers()

    def tables(self) -> Tables:
        return self.content

    def started(self) -> str:
        return "nothing"

    def work(self, _: Callable[[frozenset[str]], None]) -> list[Coroutine[Any, Any, None]]:
        return []

    async def look(self, cluster: ClusterState, *, resync: bool) -> HostFacts:  # noqa: ARG002 - as Look has them
        return host("a")


class InProcess:
    """One agent in a thread whose sockets are in the network of a node of the lab."""

    def __init__(self, node: LabNode, *, timing: Timing) -> None:
        self.mesh = FakeMesh()
        self._place, self._timing = node.place, timing
        self._access = ApiAccess(host=API_ADDRESS, port=6443, directory=node.path(SERVICE_ACCOUNT), timing=timing)
        self._running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, name="agent", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._running.result(SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        loop, stopped = self._running.result(0)
        loop.call_soon_threadsafe(stopped.set)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the agent does not end"

    def runs(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        with self._place.network():  # threads that this one starts are in that network, too
            asyncio.run(self._serve())

    async def _serve(self) -> None:
        try:
            async with self._access.client() as api:
                agent = Agent(config("a", timing=self._timing), cast("Mesh", self.mesh), api, self._access)
                stopped = asyncio.Event()
                self._running.set_result((asyncio.get_running_loop(), stopped))
                await agent.serve(stopped)
        except BaseException as error:
            logging.getLogger(__name__).exception("the agent has ended")
            if not self._running.done():
                self._running.set_exception(error)
            raise
