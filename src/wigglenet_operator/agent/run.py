"""The agent of one node: everything wired together, one TaskGroup, an exit that leaves the data plane as it is."""

import asyncio
import logging
import signal
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from kubernetes_asyncio.client import ApiClient

from wigglenet_operator import __version__
from wigglenet_operator.agent.loop import Loop
from wigglenet_operator.agent.reconcile import Reconciler
from wigglenet_operator.agent.steps import Tables
from wigglenet_operator.agent.store import ClusterStore
from wigglenet_operator.agent.tell import Teller
from wigglenet_operator.errors import ApiError, WigglenetError
from wigglenet_operator.kernel import monitor
from wigglenet_operator.kernel.cni_file import CniFileTable
from wigglenet_operator.kernel.keys import PrivateKey, load_or_create
from wigglenet_operator.kernel.rtnl import AddressTable, LinkTable, RouteTable, Rtnl
from wigglenet_operator.kernel.sysctls import SysctlTable
from wigglenet_operator.kernel.wg_uapi import UapiDevice
from wigglenet_operator.kernel.wireguard import DeviceTable, PeerTable, WireGuardLink
from wigglenet_operator.kube.access import ApiAccess
from wigglenet_operator.kube.census import list_node_uids
from wigglenet_operator.kube.decode import decode_node
from wigglenet_operator.kube.operator import KopfOperator
from wigglenet_operator.kube.publish import AnnotationTable
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.desired import RouteKind
from wigglenet_operator.model.facts import ClusterState, HostFacts, NodeFacts, NodeUID, WireGuardKind
from wigglenet_operator.model.report import Problem
from wigglenet_operator.plan.desired import plan_sysctls

log = logging.getLogger(__name__)
BOOT_MARKER = Path("/run/wigglenet/boot")
CENSUS_SECONDS = 5.0
"""Between two censuses while the store is not complete."""

LOOK_AGAIN_SECONDS = 1.0
"""After a turn that wrote: what it led to, such as handshakes, has no event."""


async def run(config: AgentConfig, access: ApiAccess) -> None:
    """Serve this node until SIGTERM or SIGINT; ConfigError if it cannot start."""
    key = load_or_create(Path(config.key_path))
    cni = CniFileTable(Path(config.cni_path))
    if cni.forget_last_boot(BOOT_MARKER):
        log.info("removed %s of an earlier boot until this node can take pods", config.cni_path)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(access.client())
        rtnl = await stack.enter_async_context(Rtnl(config.link))
        await _Agent(config, key, cni, rtnl, api).serve(access)


class _Agent:
    """The parts of one agent and how they call each other."""

    def __init__(self, config: AgentConfig, key: PrivateKey, cni: CniFileTable, rtnl: Rtnl, api: ApiClient) -> None:
        self._config, self._key, self._rtnl, self._api = config, key, rtnl, api
        self._here = asyncio.get_running_loop()
        self.loop = Loop(self._turn)
        self.store = ClusterStore(self.loop.request)
        annotations = AnnotationTable(api, config.node_name, published=self._published, answered=self._put)
        self._cni = cni
        self._wireguard = WireGuardLink(rtnl, config.wireguard, UapiDevice(config.link))
        self._peers = PeerTable(self._wireguard)
        tables: Tables = {
            "closed": RouteTable(rtnl, RouteKind.CLOSED),
            "device": DeviceTable(self._wireguard, key),
            "link": LinkTable(rtnl),
            "sysctls": SysctlTable(plan_sysctls(config)),
            "addresses": AddressTable(rtnl),
            "annotations": annotations,
            "peers": self._peers,
            "routes": RouteTable(rtnl, RouteKind.TUNNEL),
            "cni": cni,
        }
        self._reconciler = Reconciler(self.store, config, tables, look=self._look, clock=_clock)
        self._teller = Teller(version=__version__, published=self._published, write=annotations.write)

    async def serve(self, access: ApiAccess) -> None:
        """Run every task until a signal; the kernel's state stays when they end."""
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._here.add_signal_handler(number, stopped.set)
        holder, could = self._wireguard.facts()
        if self._config.wireguard is None and holder is WireGuardKind.USERSPACE and not could:
            log.warning(
                "this kernel has no WireGuard (modprobe wireguard): a userspace implementation is used, which is slower"
            )
        log.info(
            "started version=%s node=%s link=%s port=%d public_key=%s mtu=%s wireguard=%s"
            " masquerade=not-yet network_policy=not-yet",
            *(__version__, self._config.node_name, self._config.link, self._config.port, self._key.public),
            *(self._config.mtu or "auto", holder.value),
        )
        async with asyncio.TaskGroup() as group:
            work = (
                KopfOperator(access, self).run(),
                self._complete(),
                monitor.watch(self._moved),
                self.loop.run(),
                self._peers.keep_primed(),
                self._teller.keep_status(),
            )
            tasks = [group.create_task(coroutine) for coroutine in work]
            await stopped.wait()
            log.info("stopping; links, routes and the CNI file stay")
            for task in tasks:
                task.cancel()

    def seen(self, body: Mapping[str, Any]) -> None:
        """Kopf's thread: decode there, record here."""
        decoded = decode_node(body, own=self._config.node_name)
        if isinstance(decoded, Problem):
            log.warning("problem: %s", decoded)
            self.gone(body)
        else:
            self._here.call_soon_threadsafe(self.store.put, decoded)

    def gone(self, body: Mapping[str, Any]) -> None:
        """Kopf's thread: a UID is all that is needed."""
        self._here.call_soon_threadsafe(self.store.drop, NodeUID(str(body["metadata"].get("uid"))))

    def _put(self, body: Mapping[str, Any]) -> None:
        decoded = decode_node(body, own=self._config.node_name)
        if isinstance(decoded, NodeFacts) and self.store.knows(decoded.uid):  # it may have been deleted meanwhile
            self.store.put(decoded)

    def _published(self) -> Mapping[str, str]:
        return self.store.published(self._config.node_name)

    async def _look(self, cluster: ClusterState) -> HostFacts:
        addresses = {a for n in cluster.nodes for a in n.internal_ips + n.external_ips + n.node_ips}
        paths, default = await self._rtnl.path_mtus(addresses)
        holder, could = self._wireguard.facts()
        return HostFacts(
            public_key=self._key.public,
            path_mtus=paths,
            default_mtu=default,
            wireguard=holder,
            earlier_cni=self._cni.earlier(),
            kernel_wireguard=could,
        )

    def _moved(self) -> None:
        """Something changed on this node."""
        self._rtnl.forget_paths()
        self.loop.request()

    async def _turn(self) -> bool:
        start = time.monotonic()
        try:
            report = await self._reconciler.turn()
        except WigglenetError as error:
            log.error("this node cannot be looked at, nothing was touched: %s", error)  # noqa: TRY400 - no bug, no traceback
            return False
        except Exception:  # the data plane must not depend on the absence of bugs
            log.exception("a turn ended by a bug of the agent, please report it; the next one is tried")
            return False
        self._teller.tell(report, seconds=time.monotonic() - start)
        if report.wrote:
            self._here.call_later(LOOK_AGAIN_SECONDS, self.loop.request)
        return not report.failed

    async def _complete(self) -> None:
        """Ask what exists until all of it has been recorded."""
        while not self.store.complete:
            try:
                uids = await list_node_uids(self._api)
            except ApiError as error:
                log.warning("%s", error)
            else:
                self.store.expect(uids)
                if not self.store.complete:
                    log.info("waiting until each of %d Nodes has been seen", len(uids))
            await asyncio.sleep(CENSUS_SECONDS)


def _clock() -> tuple[float, float]:
    return time.monotonic(), time.time()
