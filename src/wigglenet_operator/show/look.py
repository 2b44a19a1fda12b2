"""What there is to see on this node: the kernel first of all, then the agent's word, or the API server's without one."""

import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from wigglenet_operator.errors import KernelError, WigglenetError
from wigglenet_operator.kernel.at_work import agent_at_work, agent_word
from wigglenet_operator.kernel.cni_file import CniFileTable
from wigglenet_operator.kernel.link import HOLDERS, OwnLink, link_named
from wigglenet_operator.kernel.nft import nft
from wigglenet_operator.kernel.nft_text import parse
from wigglenet_operator.kernel.routes import PROTOCOL, dump_routes
from wigglenet_operator.kernel.sysctls import ip_versions
from wigglenet_operator.kernel.wg_netlink import NetlinkDevice
from wigglenet_operator.kernel.wg_uapi import UapiDevice
from wigglenet_operator.kube.one_shot import node_annotations
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.desired import CLOSED_METRIC, Device, Peer
from wigglenet_operator.model.facts import IPNetwork, PublicKey, WireGuardKind
from wigglenet_operator.model.ruleset import FAMILY, TABLE, Ruleset
from wigglenet_operator.plan.desired import PUBLIC_KEY, STATUS
from wigglenet_operator.show.told import Status, read_status

T = TypeVar("T")
RTN_UNICAST, RTN_UNREACHABLE = 1, 7
LOOPBACK = {4: ip_address("127.0.0.1"), 6: ip_address("::1")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look; what could not be read is as if it were not there, and `untold` says so."""

    config: AgentConfig
    at: float
    """Unix time."""
    at_work: bool = False
    """Whether there is an agent."""
    started: str = ""
    """When it was, RFC 3339; empty if it does not say."""
    ready: bool | None = None
    """What the agent says of itself; None if it does not answer."""
    reasons: tuple[str, ...] = ()
    """Why it is not ready."""
    status: Status = field(default_factory=Status)
    """As the agent says, or as the Node said the last time."""
    versions: frozenset[int] = frozenset()
    """IP versions that the kernel serves."""
    link: OwnLink | None = None
    device: Device | None = None
    peers: Mapping[PublicKey, Peer] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    """Nodes by public key."""
    tunnel: frozenset[IPNetwork] = frozenset()
    """Networks that our routes lead into the tunnel."""
    closed: frozenset[IPNetwork] = frozenset()
    """Networks that are unreachable but for the tunnel."""
    firewall: Ruleset = field(default_factory=dict)
    cni: str | None = None
    unread: frozenset[str] = frozenset()
    """Which of these could not be read, by field: of them nobody can say that they are missing."""
    untold: tuple[str, ...] = ()

    @property
    def wireguard(self) -> WireGuardKind | None:
        """Who holds the link; None if that is no WireGuard."""
        return HOLDERS.get(self.link.kind) if self.link else None


async def look(config: AgentConfig, *, host: str, port: int) -> Look:
    """This node now; `host` and `port` are the API server's, asked only if the agent does not answer."""
    unread: dict[str, str] = {}

    async def seen(what: str, reading: Coroutine[object, object, T]) -> T | None:
        try:
            return await reading
        except WigglenetError as error:
            unread[what] = str(error)
            return None

    def read(what: str, reading: Callable[[], T]) -> T | None:
        try:
            return reading()
        except WigglenetError as error:
            unread[what] = str(error)
            return None

    link = read("link", lambda: link_named(config.link))
    device, peers = await seen("device", _wireguard(config.link, link)) or (None, {})
    working = agent_at_work(config.link)
    found = Look(
        config=config,
        at=time.time(),
        at_work=working,
        versions=ip_versions(),
        link=link,
        device=device,
        peers=peers,
        tunnel=read("tunnel", lambda: _tunnel(link)) or frozenset(),
        closed=read("closed", _closed) or frozenset(),
        firewall=await seen("firewall", _firewall()) or {},
        cni=next(iter((await seen("cni", CniFileTable(Path(config.cni_path)).observe()) or {}).values()), None),
    )
    said = read("agent", lambda: _word(config)) if working else None
    said = said or read("nodes", lambda: _published(config, host, port))
    return replace(found, unread=frozenset(unread), untold=tuple(unread.values()), **(said or {}))


async def _wireguard(name: str, link: OwnLink | None) -> tuple[Device | None, dict[PublicKey, Peer]]:
    holder = HOLDERS.get(link.kind) if link else None
    if holder is None:
        return None, {}
    device = NetlinkDevice(name) if holder is WireGuardKind.KERNEL else UapiDevice(name)
    return await device.read_device(), await device.read_peers()


def _tunnel(link: OwnLink | None) -> frozenset[IPNetwork]:
    through = dump_routes(kind=RTN_UNICAST, oif=link.index) if link else []
    return frozenset(route.to for route in through if route.protocol == PROTOCOL)


def _closed() -> frozenset[IPNetwork]:
    closed = dump_routes(kind=RTN_UNREACHABLE)
    return frozenset(route.to for route in closed if route.protocol == PROTOCOL and route.metric == CLOSED_METRIC)


async def _firewall() -> Ruleset:
    return parse(await nft("-s", "list", "table", FAMILY, TABLE, missing=""))


def _word(config: AgentConfig) -> dict[str, Any]:
    """What the agent says."""
    host, port = config.health.host, config.health.port
    if host is None or host.is_unspecified:
        host = LOOPBACK[host.version if host else 4]
    word = agent_word(str(host), port)
    if (node := word.get("node")) != config.node_name:
        raise KernelError(f"the agent at {host}:{port} is that of node {node}, and NODE_NAME is {config.node_name}")
    reasons, names = word.get("reasons"), word.get("peer_names")
    return {
        "started": str(word.get("started") or ""),
        "ready": word.get("ready") is True,
        "reasons": tuple(map(str, reasons)) if isinstance(reasons, list) else (),
        "names": {str(key): str(name) for key, name in names.items()} if isinstance(names, dict) else {},
        "status": read_status(word),
    }


def _published(config: AgentConfig, host: str, port: int) -> dict[str, Any]:
    """What the Nodes say; the youngest of a repeated key need not be the peer, so its name is as good as any."""
    nodes = node_annotations(host, port)
    status = nodes.get(config.node_name, {}).get(STATUS)
    return {
        "names": {key: name for name, notes in nodes.items() if (key := notes.get(PUBLIC_KEY))},
        "status": read_status(status) if status else Status(),
    }
