"""What of this node is the mesh's: key, link, routes, peers, settings, CNI file; nothing of it with FIREWALL_ONLY."""

import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from wigglenet_operator.agent.steps import Tables
from wigglenet_operator.kernel import monitor
from wigglenet_operator.kernel.cni_file import CniFileTable
from wigglenet_operator.kernel.keys import KeyFileTable, load_or_create
from wigglenet_operator.kernel.rtnl import AddressTable, LinkTable, RouteTable, Rtnl
from wigglenet_operator.kernel.sysctls import SysctlTable
from wigglenet_operator.kernel.wg_uapi import DIRECTORY, UapiDevice
from wigglenet_operator.kernel.wireguard import DeviceTable, PeerTable, WireGuardLink
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.desired import RouteKind
from wigglenet_operator.model.facts import ClusterState, HostFacts, WireGuardKind
from wigglenet_operator.plan.desired import plan_sysctls

log = logging.getLogger(__name__)
BOOT_MARKER = Path("/run/wigglenet/boot")


class Mesh:
    """The adapters of one node, and what they tell of it."""

    def __init__(self, config: AgentConfig, rtnl: Rtnl) -> None:
        """ConfigError if the key cannot be used."""
        self._config, self._rtnl = config, rtnl
        self._key = load_or_create(Path(config.key_path))
        self._cni = CniFileTable(Path(config.cni_path))
        if self._cni.forget_last_boot(BOOT_MARKER):
            log.info("removed %s of an earlier boot until this node can take pods", config.cni_path)
        self._key_file = KeyFileTable(Path(config.key_path), self._key)
        self._wireguard = WireGuardLink(rtnl, config.wireguard, UapiDevice(config.link))
        self._peers = PeerTable(self._wireguard)

    @classmethod
    @asynccontextmanager
    async def opened(cls, config: AgentConfig) -> AsyncIterator[Self]:
        """One for as long as the block runs; the kernel's state stays."""
        async with Rtnl(config.link) as rtnl:
            yield cls(config, rtnl)

    def tables(self) -> Tables:
        """By the names of STEPS."""
        return {
            "key": self._key_file,
            "closed": RouteTable(self._rtnl, RouteKind.CLOSED),
            "device": DeviceTable(self._wireguard, self._key),
            "link": LinkTable(self._rtnl),
            "sysctls": SysctlTable(plan_sysctls(self._config), self._rtnl.advertised),
            "addresses": AddressTable(self._rtnl),
            "peers": self._peers,
            "routes": RouteTable(self._rtnl, RouteKind.TUNNEL),
            "cni": self._cni,
        }

    def started(self) -> str:
        """What it begins with, for the start-up line."""
        holder, could = self._wireguard.facts()
        if self._config.wireguard is None and holder is WireGuardKind.USERSPACE and not could:
            log.warning(
                "this kernel has no WireGuard (modprobe wireguard): a userspace implementation is used, which is slower"
            )
        link = f"link={self._config.link} port={self._config.port} public_key={self._key.public}"
        return f"{link} mtu={self._config.mtu or 'auto'} wireguard={holder.value}"

    def work(self, changed: Callable[[], None]) -> list[Coroutine[Any, Any, None]]:
        """What to run for as long as the agent does; `changed` is called when something moved on this node."""

        def moved() -> None:
            self._rtnl.forget_paths()
            changed()

        ours = {Path(path).parent for path in (self._config.cni_path, self._config.key_path)} | {DIRECTORY}
        return [monitor.watch(moved), monitor.watch_files(ours, moved), self._peers.keep_primed()]

    async def look(self, cluster: ClusterState) -> HostFacts:
        """What the plan must know of this node; KernelError if it cannot be read."""
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
