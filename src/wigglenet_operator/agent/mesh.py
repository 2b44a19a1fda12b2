"""All of this node: key, link, routes, peers, settings, CNI file, firewall, and where pod networks are from.

What a mode does not have is looked for all the same, for a former mode may have left it.
"""

import logging
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Self

from wigglenet_operator.agent.loop import ALL
from wigglenet_operator.agent.steps import Tables
from wigglenet_operator.errors import KernelError
from wigglenet_operator.kernel import monitor
from wigglenet_operator.kernel.cni_file import CniFileTable
from wigglenet_operator.kernel.former_sysctls import OF_WIREGUARD, FormerSysctls
from wigglenet_operator.kernel.keys import KeyFileTable, PrivateKey, load_or_create
from wigglenet_operator.kernel.leftovers import LeftoverTable
from wigglenet_operator.kernel.netlink import Message
from wigglenet_operator.kernel.network import HOST, OF_OUR_LINK, NodeNetwork
from wigglenet_operator.kernel.nft import NftTable
from wigglenet_operator.kernel.nft_others import OtherTables
from wigglenet_operator.kernel.nft_watch import NftWatch
from wigglenet_operator.kernel.pod_file import PodFile
from wigglenet_operator.kernel.ports import NetworkSource
from wigglenet_operator.kernel.rtnl import AddressTable, LinkTable, RouteTable, Rtnl
from wigglenet_operator.kernel.sysctls import SysctlTable, ip_versions
from wigglenet_operator.kernel.wg_uapi import DIRECTORY, UapiDevice
from wigglenet_operator.kernel.wireguard import DeviceTable, PeerTable, WireGuardLink
from wigglenet_operator.model.config import BOTH, AgentConfig
from wigglenet_operator.model.desired import RouteKind
from wigglenet_operator.model.facts import (
    ClusterState,
    HostFacts,
    IPAddress,
    NodeFacts,
    PodNetworkSource,
    PublicKey,
    WireGuardKind,
)
from wigglenet_operator.plan.desired import plan_sysctls

log = logging.getLogger(__name__)
BOOT_MARKER = Path("/run/wigglenet/boot")
FORMER_SYSCTLS = BOOT_MARKER.with_name("sysctls")
"""What settings were before the first start."""


class Mesh:
    """The adapters of one node, and what they tell of it."""

    def __init__(
        self,
        config: AgentConfig,
        rtnl: Rtnl,
        watch: NftWatch,
        *,
        public: PublicKey | None,
        private: PrivateKey | None = None,
    ) -> None:
        """`public` is the key in force, None without a tunnel; who only looks need not have the private one."""
        self._config, self._rtnl, self._public, self._private = config, rtnl, public, private
        self._network = NodeNetwork(config.link)
        self._endpoints: tuple[ClusterState | None, frozenset[IPAddress]] = None, frozenset()
        self._firewall, self._others = NftTable(watch), OtherTables(watch)
        self._cni = CniFileTable(Path(config.cni_path))
        self._key_file = KeyFileTable(Path(config.key_path), private) if public else None
        userspace = UapiDevice(config.link, timing=config.timing)
        self._wireguard = WireGuardLink(rtnl, config.wireguard, userspace, leftover=not config.tunnelled)
        self._peers = PeerTable(self._wireguard)
        self._sources: dict[PodNetworkSource, NetworkSource] = {}
        if config.source_path:
            self._sources[PodNetworkSource.FILE] = PodFile(Path(config.source_path))

    @classmethod
    @asynccontextmanager
    async def opened(cls, config: AgentConfig) -> AsyncIterator[Self]:
        """One for as long as the block runs; the kernel's state stays. ConfigError if the key cannot be used."""
        async with Rtnl(config.link) as rtnl:
            if not config.firewall_only and CniFileTable(Path(config.cni_path)).forget_last_boot(BOOT_MARKER):
                log.info("removed %s of an earlier boot until this node can take pods", config.cni_path)
            key = load_or_create(Path(config.key_path)) if config.tunnelled else None
            if key:
                FormerSysctls(FORMER_SYSCTLS, link=config.link).remember(OF_WIREGUARD)
            with closing(NftWatch()) as watch:
                yield cls(config, rtnl, watch, public=key.public if key else None, private=key)

    @classmethod
    @asynccontextmanager
    async def watched(cls, config: AgentConfig, public: PublicKey | None) -> AsyncIterator[Self]:
        """One to look at, for as long as the block runs: nothing is made or removed."""
        async with Rtnl(config.link) as rtnl:
            with closing(NftWatch()) as watch:
                yield cls(config, rtnl, watch, public=public)

    def tables(self) -> Tables:
        """By the names of STEPS; of a tunnel that is no longer wanted those whose removal takes the others along."""
        tables: Tables = {
            "closed": RouteTable(self._rtnl, RouteKind.CLOSED),
            "device": DeviceTable(self._wireguard, self._private),
            "cni": self._cni,
            "firewall": self._firewall,
            "leftovers": LeftoverTable(),
        }
        if self._key_file:
            tables = {
                **tables,
                "key": self._key_file,
                "link": LinkTable(self._rtnl),
                "addresses": AddressTable(self._rtnl),
                "peers": self._peers,
                "routes": RouteTable(self._rtnl, RouteKind.TUNNEL),
            }
        if not self._config.firewall_only:
            sysctls = plan_sysctls(self._config, BOTH)
            former = FormerSysctls(FORMER_SYSCTLS, link=self._config.link)
            tables = {**tables, "sysctls": SysctlTable(sysctls, self._network.advertised, former.remember)}
        return tables

    def started(self) -> str:
        """What it begins with, for the start-up line."""
        if not self._public:
            return "none, firewall only" if self._config.firewall_only else "none, native routing"
        holder, could = self._wireguard.facts()
        if self._config.wireguard is None and holder is WireGuardKind.USERSPACE and not could:
            log.warning(
                "this kernel has no WireGuard (modprobe wireguard): a userspace implementation is used, which is slower"
            )
        link = f"link={self._config.link} port={self._config.port} public_key={self._public}"
        return f"{link} mtu={self._config.mtu or 'auto'} wireguard={holder.value}"

    def work(self, changed: Callable[[frozenset[str]], None]) -> list[Coroutine[Any, Any, None]]:
        """What to run for as long as the agent does.

        `changed` is called with the names of the state tables that an event of this node may concern; HOST are the host facts.
        """

        def moved(events: Sequence[Message] | None) -> None:
            try:
                stale = ALL if events is None else frozenset(chain.from_iterable(map(self._network.follow, events)))
            except KernelError as error:  # what an event says is lost
                log.warning("an event of the network cannot be followed, everything is listed anew: %s", error)
                stale = ALL
            if stale >= ALL:
                self._network.forget()
            if stale:
                changed(stale)

        def concerns(tables: Collection[str]) -> Callable[[], None]:
            return partial(changed, frozenset(tables))

        ours = {Path(path).parent for path in (self._config.cni_path, self._config.key_path)}
        return [
            monitor.watch(moved),
            monitor.watch_files(ours, concerns({"cni", "key", HOST})),
            monitor.watch_files([DIRECTORY], concerns(OF_OUR_LINK)),
            self._firewall.watch(concerns({"firewall", HOST})),
            self._peers.keep_primed(),
            *(source.follow(concerns({HOST})) for source in self._sources.values()),
        ]

    async def look(self, cluster: ClusterState, *, resync: bool = True) -> HostFacts:
        """What the plan must know of this node; KernelError if it cannot be read.

        With `resync` the kernel's lists are read anew, else what events say is enough.
        """
        if resync:
            self._network.refresh()
        paths, default = self._network.path_mtus(self._addresses(cluster))
        holder, could = self._wireguard.facts() if self._public else (None, False)
        link = self._rtnl.own_link()
        found = self._network.global_addresses(self._config.node_ip_links)
        return HostFacts(
            public_key=self._public,
            versions=ip_versions(),
            new_versions=ip_versions(of="default"),
            offers={source: adapter.offer() for source, adapter in self._sources.items()},
            node_ips=tuple(dict.fromkeys(sorted(chain.from_iterable(found.values()), key=lambda a: (a.version, a)))),
            local_addresses=self._network.local_addresses() if self._sources else frozenset(),
            missing_links=self._config.node_ip_links - found.keys(),
            path_mtus=paths,
            default_mtu=default,
            wireguard=holder,
            earlier_cni=self._cni.earlier(),
            stored_key=self._key_file.stored if self._key_file else None,
            link_index=link.index if link else 0,
            foreign_routes=self._network.foreign_routes(),
            kernel_wireguard=could,
            dropping_chains=await self._others.dropping(),
        )

    def _addresses(self, cluster: ClusterState) -> frozenset[IPAddress]:
        """Every address that a Node of the cluster may be reached by; without a tunnel this node's."""
        if cluster is not self._endpoints[0]:
            nodes = [n for n in cluster.nodes if self._public or n.name == self._config.node_name]
            self._endpoints = cluster, frozenset(chain.from_iterable(map(_addresses, nodes)))
        return self._endpoints[1]


def _addresses(node: NodeFacts) -> tuple[IPAddress, ...]:
    endpoint = (node.endpoint[0],) if node.endpoint else ()
    return (*node.internal_ips, *node.external_ips, *node.node_ips, *endpoint)
