"""The agent of one node: everything wired together, one TaskGroup, an exit that leaves the data plane as it is."""

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from wigglenet_operator import __version__
from wigglenet_operator.agent.census import Census
from wigglenet_operator.agent.condition import Condition
from wigglenet_operator.agent.events import Events
from wigglenet_operator.agent.health import Turned, hindrances
from wigglenet_operator.agent.kept import Kept
from wigglenet_operator.agent.loop import Loop
from wigglenet_operator.agent.mesh import Mesh
from wigglenet_operator.agent.metrics import Meter
from wigglenet_operator.agent.reconcile import WAITING, Reconciler
from wigglenet_operator.agent.serve import server
from wigglenet_operator.agent.store import ClusterStore
from wigglenet_operator.agent.tell import Teller
from wigglenet_operator.errors import ApiError, WigglenetError
from wigglenet_operator.kernel import monitor
from wigglenet_operator.kernel.at_work import only_agent
from wigglenet_operator.kube.access import ApiAccess
from wigglenet_operator.kube.census import list_nodes, list_service_ranges
from wigglenet_operator.kube.decode import decode_node
from wigglenet_operator.kube.library import ApiClient
from wigglenet_operator.kube.operator import KopfOperator
from wigglenet_operator.kube.publish import AnnotationTable, publish_condition, publish_event
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.facts import NodeFacts, NodeUID, Version
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem, TurnReport
from wigglenet_operator.plan.desired import IDENTITY, STATUS

log = logging.getLogger(__name__)
COLLECTION = (50_000, 20, 100)
"""Thresholds of Python's `gc`: in a large cluster 100,000s of values live, and each turn would look at all of them."""
AFTER_WRITE = frozenset({"peers"})
"""State tables that change as a consequence of a write of theirs, without an event: a new peer shakes hands."""
YOUNG = 1
"""The youngest generations of Python's `gc`, which hold what a turn has made."""


async def run(config: AgentConfig, access: ApiAccess, *, started: Callable[[], None] = lambda: None) -> None:
    """Serve this node until SIGTERM or SIGINT; ConfigError if it cannot start, KernelError if another agent is at work.

    `started` is called when nothing is left that the start could hang on.
    """
    gc.set_threshold(*COLLECTION)
    async with AsyncExitStack() as stack:
        stack.enter_context(only_agent(config.link))
        mesh = await stack.enter_async_context(Mesh.opened(config))
        api = await stack.enter_async_context(access.client())
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        await Agent(config, mesh, api, access).serve(stopped, started)


class Agent:
    """The parts of one agent and how they call each other."""

    def __init__(self, config: AgentConfig, mesh: Mesh, api: ApiClient, access: ApiAccess) -> None:
        self._config, self._mesh, self._access = config, mesh, access
        self._here = asyncio.get_running_loop()
        timing = config.timing
        self.loop = Loop(self._clean_turn, timing=timing)
        self.store = ClusterStore(self._changed, timing=timing)
        self._operator = KopfOperator(access, self, timing=timing)
        meter = Meter() if config.metrics else None
        if meter:
            access.asked = meter.asked
        self._server = server(config, silent=self._operator.silent, meter=meter)
        self._event: float | None = None
        self._heard: float | None = None
        self._census = Census(
            self.store,
            listed=partial(list_nodes, api),
            services=partial(list_service_ranges, api),
            renew=self._operator.renew,
            timing=timing,
        )
        names = IDENTITY | {STATUS} if config.firewall_only else IDENTITY
        annotations = AnnotationTable(
            api,
            config.node_name,
            names=names,
            published=self._published,
            answered=self._put,
            ended=self.loop.request,
            timing=timing,
        )
        tables = {**mesh.tables(), "annotations": annotations}
        self._reconciler = Reconciler(self.store, config, tables, look=mesh.look)
        self._events = Events(partial(self._publish, api), nodes=self.store.count, timing=timing)
        self._status = Kept(
            published=lambda: self._published().get(STATUS),
            write=lambda status: annotations.write({STATUS: status}),
            nodes=self.store.count,
            timing=timing,
        )
        note = lambda problem, came: self._events.note(problem, came=came)  # noqa: E731
        self._teller = Teller(version=__version__, status=self._status, note=note)
        self._condition = Condition(
            published=self._unavailable, write=partial(self._say, api), nodes=self.store.count, timing=timing
        )
        self._last = WAITING
        """The report of the last pass that came to an end."""
        self._unreadable: dict[NodeUID, Problem] = {}

    async def serve(self, stopped: asyncio.Event, started: Callable[[], None] = lambda: None) -> None:
        """Run every task until `stopped` is set; the kernel's state stays when they end."""
        log.info(
            "started version=%s node=%s masquerade=%s filter=%s network_policy=not-yet mesh=%s",
            *(__version__, self._config.node_name, _versions(self._config.masqueraded)),
            *(_versions(self._config.filtered), self._mesh.started()),
        )
        started()
        with self._server.serving():
            await self._work(stopped)

    async def _work(self, stopped: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            work = [
                self._operator.run(),
                self._census.keep(),
                monitor.watch_files([self._access.directory], self._rotated),
                self._events.keep(),
                self.loop.run(),
                *self._mesh.work(self.loop.request),
            ]
            if not self._config.firewall_only:
                work.append(self._status.keep())
            if self._config.node_condition:
                work.append(self._condition.keep())
            tasks = [group.create_task(coroutine) for coroutine in work]
            await stopped.wait()
            log.info("stopping; links, routes, firewall and the CNI file stay")
            for task in tasks:
                task.cancel()

    def began(self) -> None:
        """A watch begins anew."""
        self._census.request()

    def seen(self, body: Mapping[str, Any]) -> None:
        """Kopf's thread: decode there, record here."""
        decoded = self.facts(body)
        if isinstance(decoded, Problem):
            self._here.call_soon_threadsafe(
                self._record, time.monotonic(), self._pass_over, _uid(body), _version(body), decoded
            )
        else:
            self._here.call_soon_threadsafe(self._record, time.monotonic(), self.store.put, decoded, _version(body))

    def facts(self, body: Mapping[str, Any]) -> NodeFacts | Problem:
        """Used fields of a Node object; from any thread."""
        return decode_node(body, own=self._config.node_name)

    def unchanged(self, body: Mapping[str, Any]) -> None:
        """Record the version of a Node object; called in Kopf's thread."""
        self._here.call_soon_threadsafe(self._touch, body)

    def gone(self, body: Mapping[str, Any]) -> None:
        """Kopf's thread: a UID is all that is needed."""
        self._here.call_soon_threadsafe(self._record, time.monotonic(), self._drop, _uid(body))

    def _touch(self, body: Mapping[str, Any]) -> None:
        if not self.store.touch(_uid(body), _version(body)):
            self.seen(body)  # a relist did not contain the Node, but the watch does

    def _record(self, event: float, record: Callable[..., None], *arguments: object) -> None:
        """What an event of the given time tells."""
        self._event = event
        record(*arguments)
        self._event = None

    def _changed(self) -> None:
        """A fact is another one now."""
        self._heard = self._heard or self._event
        self.loop.request()

    def _drop(self, uid: NodeUID) -> None:
        self._unreadable.pop(uid, None)
        self.store.drop(uid)
        self.loop.request()

    def _pass_over(self, uid: NodeUID, version: Version, why: Problem) -> None:
        """A Node that is there and cannot be read."""
        self._unreadable[uid] = why
        self.store.pass_over(uid, version)
        self.loop.request()

    def _put(self, body: Mapping[str, Any]) -> None:
        decoded = self.facts(body)
        if isinstance(decoded, NodeFacts) and self.store.knows(decoded.uid):  # it may have been deleted meanwhile
            self.store.answer(decoded, _version(body))

    def _published(self) -> Mapping[str, str]:
        return self.store.published(self._config.node_name)

    def _unavailable(self) -> tuple[str, str] | None:
        own = self.store.own(self._config.node_name)
        return own.network_unavailable if own else None

    async def _say(self, api: ApiClient, condition: tuple[str, str]) -> None:
        (status, message), before = condition, self._unavailable()
        moved = before is None or before[0] != status
        self._put(await publish_condition(api, self._config.node_name, status, message, moved=moved))

    def _rotated(self) -> None:
        """The kubelet has changed token or CA: what failed for their sake is tried again at once."""
        self._operator.renew_if_failing("token or CA has changed")
        self._census.request()
        self.loop.request()

    async def _clean_turn(self, stale: frozenset[str]) -> bool:
        """One turn, and no garbage of it left: libraries leave reference cycles behind, and COLLECTION collects them late."""
        try:
            return await self._turn(stale)
        finally:
            gc.collect(YOUNG)

    async def _turn(self, stale: frozenset[str]) -> bool:
        start, began = time.monotonic(), time.time()
        heard, self._heard = self._heard, None
        try:
            report = await self._reconciler.turn(stale)
        except WigglenetError as error:
            return self._stopped(Code.LookFailed, f"it cannot be looked at, nothing was touched: {error}", heard)
        except Exception as error:  # the data plane must not depend on the absence of bugs
            log.exception("a turn ended by a bug of the agent, please report it; the next one is tried")
            return self._stopped(Code.TurnCrashed, f"a turn ended by a bug of the agent: {type(error).__name__}", heard)
        around = self._operator.problems() | self._census.problems() | self._events.problems()
        around |= self._condition.problems() | self._server.problems() | frozenset(self._unreadable.values())
        before, self._last = self._last, replace(report, problems=report.problems | around)
        report = self._last
        if report.contested - before.contested:
            self._census.request()
        self._teller.tell(report, seconds=time.monotonic() - start)
        if report.failed:  # what followed from the event is not there yet
            heard, self._heard = None, heard or self._heard
        self._told(report, began=began, heard=heard if report.wrote else None)
        if any(step.wrote for name, step in report.steps.items() if name in AFTER_WRITE):
            self._here.call_later(self._config.timing.after_write, self.loop.request, AFTER_WRITE)
        return not report.failed

    def _stopped(self, code: Code, text: str, heard: float | None) -> bool:
        """Tell that a turn came to nothing; all else is as the last one has seen it."""
        self._heard = heard or self._heard
        problem = Problem(code=code, subject=f"node {self._config.node_name}", text=text)
        there = self._last.registered or self.store.own(self._config.node_name) is not None
        report = replace(self._last, steps={}, problems=self._last.problems | {problem}, registered=there)
        self._teller.tell(report, seconds=0)
        self._told(report, began=time.time(), stopped=True)
        return False

    def _told(self, report: TurnReport, *, began: float, heard: float | None = None, stopped: bool = False) -> None:
        """Hand a turn to whoever asks from outside."""
        since, ended = dict(self._teller.ledger.since), time.monotonic()
        if report.registered and self._config.node_condition:
            self._condition.judge(hindrances(report))
        self._server.turned(Turned(report=report, since=since, stopped=stopped, began=began, ended=ended, heard=heard))

    async def _publish(self, api: ApiClient, problem: Problem, came: bool) -> None:  # noqa: FBT001 - as Events has it
        own = self.store.own(self._config.node_name)
        if own is None:
            raise ApiError(f"there is no Node {self._config.node_name} to tell anything on")
        await publish_event(api, own.name, own.uid, problem, came=came)


def _uid(body: Mapping[str, Any]) -> NodeUID:
    return NodeUID(str(body["metadata"].get("uid")))


def _version(body: Mapping[str, Any]) -> Version:
    return Version(body["metadata"].get("resourceVersion") or "")


def _versions(families: Collection[int]) -> str:
    return ",".join(f"ipv{version}" for version in sorted(families)) or "off"
