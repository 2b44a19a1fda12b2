"""The agent of one node: everything wired together, one TaskGroup, an exit that leaves the data plane as it is."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kubernetes_asyncio.client import ApiClient

from wigglenet_operator import __version__
from wigglenet_operator.agent.census import Census
from wigglenet_operator.agent.loop import Loop
from wigglenet_operator.agent.reconcile import Reconciler
from wigglenet_operator.agent.steps import Tables
from wigglenet_operator.agent.store import ClusterStore
from wigglenet_operator.agent.tell import Teller
from wigglenet_operator.errors import KernelError, WigglenetError
from wigglenet_operator.kernel import monitor
from wigglenet_operator.kernel.cni_file import CniFileTable
from wigglenet_operator.kernel.keys import KeyFileTable, PrivateKey, load_or_create
from wigglenet_operator.kernel.rtnl import AddressTable, LinkTable, RouteTable, Rtnl
from wigglenet_operator.kernel.sysctls import SysctlTable
from wigglenet_operator.kernel.wg_uapi import DIRECTORY, UapiDevice
from wigglenet_operator.kernel.wireguard import DeviceTable, PeerTable, WireGuardLink
from wigglenet_operator.kube.access import ApiAccess
from wigglenet_operator.kube.census import list_nodes, list_service_ranges
from wigglenet_operator.kube.decode import decode_node
from wigglenet_operator.kube.operator import KopfOperator
from wigglenet_operator.kube.publish import AnnotationTable
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.desired import RouteKind
from wigglenet_operator.model.facts import ClusterState, HostFacts, NodeFacts, NodeUID, Version, WireGuardKind
from wigglenet_operator.model.report import Problem
from wigglenet_operator.plan.desired import plan_sysctls

log = logging.getLogger(__name__)
BOOT_MARKER = Path("/run/wigglenet/boot")
LOOK_AGAIN_SECONDS = 1.0
"""After a turn that wrote: what it led to, such as handshakes, has no event."""


async def run(config: AgentConfig, access: ApiAccess) -> None:
    """Serve this node until SIGTERM or SIGINT; ConfigError if it cannot start, KernelError if another agent is at work."""
    alone = only_agent(config.link)
    key = load_or_create(Path(config.key_path))
    cni = CniFileTable(Path(config.cni_path))
    if cni.forget_last_boot(BOOT_MARKER):
        log.info("removed %s of an earlier boot until this node can take pods", config.cni_path)
    async with AsyncExitStack() as stack:
        stack.enter_context(alone)
        api = await stack.enter_async_context(access.client())
        rtnl = await stack.enter_async_context(Rtnl(config.link))
        await _Agent(config, key, cni, rtnl, api, access).serve()


def only_agent(link: str) -> socket.socket:
    """What says, for as long as it is open, that this is the agent of the link; KernelError if there is another.

    A name that the node's network has once and that ends with its process: no file that could be stale, no directory to share.
    """
    name = f"wigglenet-operator/{link}"
    mine = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mine.bind(f"\0{name}")
    except OSError as error:
        mine.close()
        text = f"another agent serves link {link} on this node; end one of the two (`ss -xlp | grep {name}` shows it)"
        raise KernelError(text) from error
    mine.listen()
    return mine


class _Agent:
    """The parts of one agent and how they call each other."""

    def __init__(  # noqa: PLR0913, PLR0917 - what was opened for it
        self, config: AgentConfig, key: PrivateKey, cni: CniFileTable, rtnl: Rtnl, api: ApiClient, access: ApiAccess
    ) -> None:
        self._config, self._key, self._rtnl, self._access = config, key, rtnl, access
        self._here = asyncio.get_running_loop()
        self.loop = Loop(self._turn)
        self.store = ClusterStore(self.loop.request)
        self._operator = KopfOperator(access, self)
        self._census = Census(
            self.store,
            listed=partial(list_nodes, api),
            services=partial(list_service_ranges, api),
            renew=self._operator.renew,
        )
        annotations = AnnotationTable(api, config.node_name, published=self._published, answered=self._put)
        self._cni = cni
        self._key_file = KeyFileTable(Path(config.key_path), key)
        self._wireguard = WireGuardLink(rtnl, config.wireguard, UapiDevice(config.link))
        self._peers = PeerTable(self._wireguard)
        tables: Tables = {
            "key": self._key_file,
            "closed": RouteTable(rtnl, RouteKind.CLOSED),
            "device": DeviceTable(self._wireguard, key),
            "link": LinkTable(rtnl),
            "sysctls": SysctlTable(plan_sysctls(config), rtnl.advertised),
            "addresses": AddressTable(rtnl),
            "annotations": annotations,
            "peers": self._peers,
            "routes": RouteTable(rtnl, RouteKind.TUNNEL),
            "cni": cni,
        }
        self._reconciler = Reconciler(self.store, config, tables, look=self._look, clock=_clock)
        self._contested: frozenset[Problem] = frozenset()
        self._teller = Teller(version=__version__, published=self._published, write=annotations.write)

    async def serve(self) -> None:
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
        ours = {Path(path).parent for path in (self._config.cni_path, self._config.key_path)} | {DIRECTORY}
        async with asyncio.TaskGroup() as group:
            work = (
                self._operator.run(),
                self._census.keep(),
                monitor.watch(self._moved),
                monitor.watch_files(ours, self._moved),
                monitor.watch_files([self._access.directory], self._rotated),
                self.loop.run(),
                self._peers.keep_primed(),
                self._teller.keep_status(),
            )
            tasks = [group.create_task(coroutine) for coroutine in work]
            await stopped.wait()
            log.info("stopping; links, routes and the CNI file stay")
            for task in tasks:
                task.cancel()

    def began(self) -> None:
        """A watch begins anew."""
        self._census.request()

    def seen(self, body: Mapping[str, Any]) -> None:
        """Kopf's thread: decode there, record here."""
        decoded = decode_node(body, own=self._config.node_name)
        if isinstance(decoded, Problem):
            log.warning("problem: %s", decoded)
            self.gone(body)
        else:
            self._here.call_soon_threadsafe(self.store.put, decoded, _version(body))

    def gone(self, body: Mapping[str, Any]) -> None:
        """Kopf's thread: a UID is all that is needed."""
        self._here.call_soon_threadsafe(self.store.drop, NodeUID(str(body["metadata"].get("uid"))))

    def _put(self, body: Mapping[str, Any]) -> None:
        decoded = decode_node(body, own=self._config.node_name)
        if isinstance(decoded, NodeFacts) and self.store.knows(decoded.uid):  # it may have been deleted meanwhile
            self.store.put(decoded, _version(body))

    def _published(self) -> Mapping[str, str]:
        return self.store.published(self._config.node_name)

    async def _look(self, cluster: ClusterState) -> HostFacts:
        addresses = {a for n in cluster.nodes for a in n.internal_ips + n.external_ips + n.node_ips}
        paths, default = await self._rtnl.path_mtus(addresses)
        holder, could = self._wireguard.facts()
        link = self._rtnl.own_link()
        return HostFacts(
            public_key=self._key.public,
            path_mtus=paths,
            default_mtu=default,
            wireguard=holder,
            earlier_cni=self._cni.earlier(),
            stored_key=self._key_file.stored,
            link_index=link.index if link else 0,
            foreign_routes=self._rtnl.foreign_routes(),
            kernel_wireguard=could,
        )

    def _moved(self) -> None:
        """Something changed on this node."""
        self._rtnl.forget_paths()
        self.loop.request()

    def _rotated(self) -> None:
        """The kubelet has changed token or CA: what failed for their sake is tried again at once."""
        self._operator.renew_if_failing("token or CA has changed")
        self._census.request()
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
        report = replace(report, problems=report.problems | self._operator.problems())
        if report.contested - self._contested:
            self._census.request()
        self._contested = report.contested
        self._teller.tell(report, seconds=time.monotonic() - start)
        if report.wrote:
            self._here.call_later(LOOK_AGAIN_SECONDS, self.loop.request)
        return not report.failed


def _version(body: Mapping[str, Any]) -> Version:
    return Version(body["metadata"].get("resourceVersion") or "")


def _clock() -> tuple[float, float]:
    return time.monotonic(), time.time()
