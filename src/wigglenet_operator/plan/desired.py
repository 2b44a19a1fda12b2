"""What a plan is made of, the order of its application, and what only this node decides about it."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.desired import DesiredState, RouteKey
from wigglenet_operator.model.facts import (
    ClusterState,
    HostFacts,
    IPAddress,
    IPNetwork,
    NodeFacts,
    NodeName,
    PublicKey,
)
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.model.timing import PRODUCTION, Timing
from wigglenet_operator.plan.claims import Ownership
from wigglenet_operator.plan.pod_networks import OwnNetworks, collapsed
from wigglenet_operator.plan.repairs import Repairs
from wigglenet_operator.plan.routes import keep_closed
from wigglenet_operator.plan.tunnel import (
    Sighting,
    settle_endpoints,
)

MIN_ADDRESSES = 4
"""Network, gateway, one pod and broadcast: what host-local takes at least."""
PUBLIC_KEY = "wigglenet/public-key"
NODE_IPS = "wigglenet/node-ips"
POD_CIDRS = "wigglenet/pod-cidrs"
ENDPOINT = "wigglenet/endpoint"
STATUS = "wigglenet/status"
IDENTITY = frozenset({PUBLIC_KEY, NODE_IPS, POD_CIDRS})
"""The annotations that are reconciled; others with our prefix are an administrator's."""
AGENT_FIELDS = ("public_key", "pod_cidrs", "node_ips")
"""What a node's agent says of itself."""


@dataclass(frozen=True, slots=True)
class Step:
    """One table of the desired state, applied when the steps that it needs have not failed."""

    table: str
    needs: tuple[str, ...]
    failed: Code
    """What it is called when it cannot be read or written."""
    reason: str


STEPS = (
    Step("key", (), Code.KeyFileFailed, "a key that others may already know must outlive this process"),
    Step("closed", (), Code.RoutesFailed, "before anything is routed: what the tunnel does not take must not leave in clear"),
    Step("device", (), Code.TunnelFailed, "key and port first, so that the link listens with the key that is published"),
    Step("link", ("device",), Code.TunnelFailed, "up with the right MTU before an address or route lies on it"),
    Step(
        *("sysctls", ("link",), Code.SettingsFailed),
        "this node is its pods' router; rp_filter belongs to a link that exists",
    ),
    Step(
        *("addresses", ("link",), Code.TunnelFailed),
        "the kernel takes the source of the node's own packets to pods from them",
    ),
    Step(
        *("peers", ("link",), Code.TunnelFailed),
        "before the routes, for a packet without a peer is lost; priming wants the link up",
    ),
    Step(
        *("firewall", (), Code.FirewallFailed),
        "before the routes, or a connection keeps an address that it should not have; nobody waits for it",
    ),
    Step(
        *("routes", ("closed", "link"), Code.RoutesFailed),
        "each one moves pod traffic, so its peer is there and its closed twin as well",
    ),
    Step(
        *("annotations", ("link",), Code.PublishFailed),
        "others may send as soon as they read them, so we listen; a server that is slow holds up nobody",
    ),
    Step(
        *("cni", ("*",), Code.CNIFileFailed),
        "when all that pods need is there: the kubelet starts them at once; its removal waits for nothing",
    ),
    Step("leftovers", ("firewall",), Code.LeftoversFailed, "rules of the past go when ours are in force; no pod waits for it"),
)
"""The order of application: a failed step stops only what needs it; `*` needs everything before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What should be, or None while there is too little to say so, and what is wrong.

    Then nothing may be touched but the CNI file, which must go: pods that start now could get a network that is no longer
    this node's.
    """

    desired: DesiredState | None
    problems: frozenset[Problem]
    registered: bool = True
    """Whether this node has a Node object to tell anything on."""
    contested: frozenset[Problem] = frozenset()
    """Those of the problems that a Node leads to which may be gone without anybody having told."""
    networks: frozenset[IPNetwork] = frozenset()
    """This node's pod networks, as they were given."""


def plan_sysctls(config: AgentConfig, versions: frozenset[int]) -> dict[str, str]:
    """What a router of pods needs, by path below /proc/sys (kernel: Documentation/networking/ip-sysctl.rst)."""
    wanted = {"net/ipv4/ip_forward": "1"}
    if 6 in versions:
        wanted["net/ipv6/conf/all/forwarding"] = "1"
    if config.tunnelled:  # strict would drop what comes by the tunnel with a node's source address
        wanted[f"net/ipv4/conf/{config.link}/rp_filter"] = "2"
        if 6 in versions & config.tunnelled:
            wanted[f"net/ipv6/conf/{config.link}/disable_ipv6"] = "0"
    return wanted


def plan_annotations(key: PublicKey | None, node_ips: Iterable[IPAddress], networks: Iterable[IPNetwork]) -> dict[str, str]:
    """What the other nodes must know of this one, compact JSON; the key only where there is a tunnel."""
    return {
        **({PUBLIC_KEY: key} if key else {}),
        NODE_IPS: _json(node_ips),
        POD_CIDRS: _json(collapsed(networks)),
    }


def _json(values: Iterable[object]) -> str:
    return json.dumps([*map(str, values)], separators=(",", ":"))


def known_by_name(cluster: ClusterState) -> dict[NodeName, NodeFacts]:
    """Names are unique: of Nodes of one name the one that exists, the youngest first.

    One that was registered anew has neither networks nor addresses before controllers gave it some, and its agent says nothing
    before it has a new token; annotations can be removed by hand.  For as long as that is remembered, it is what it was.
    """
    known: dict[NodeName, NodeFacts] = {}
    for node in sorted(cluster.nodes, key=lambda n: (not n.departed, n.created, n.uid)):
        before = known.get(node.name)
        known[node.name] = _completed(node, before) if before and before.departed and not node.departed else node
    return known


def _completed(node: NodeFacts, before: NodeFacts) -> NodeFacts:
    """The Node with what it had in the place of what it does not say; its addresses are one answer, and so is its word."""
    addressed = node.internal_ips or node.external_ips
    spoken = node.public_key and node.pod_cidrs
    missing = (() if addressed else ("internal_ips", "external_ips")) + (() if spoken else AGENT_FIELDS)
    inherited = {name: getattr(before, name) for name in missing if not getattr(node, name)}
    return replace(node, **inherited, inherited=frozenset(inherited))


def unfit_for_pods(own: NodeFacts, sourced: OwnNetworks, ownership: Ownership, host: HostFacts) -> frozenset[Problem]:
    """Why this node may not take pods; empty if it may. A family that is missing would go unnoticed in each pod."""
    usable = ownership.pod_networks(own.uid, sourced.new)
    small = [n for n in collapsed(usable) if n.num_addresses < MIN_ADDRESSES]
    unserved = {n.version for n in usable} - host.new_versions
    if refused := sourced.new - usable:
        text = f"the CNI file is withheld while {' and '.join(sorted(map(str, refused)))} of its pod networks cannot be used"
    elif unserved:
        text = "the CNI file is withheld: IPv6 is disabled on this node (net.ipv6.conf.all.disable_ipv6, .default.disable_ipv6)"
        text += "; enable it" + (", or set POD_CIDR_SOURCE_IPV6=none" if {n.version for n in usable} > unserved else "")
    elif small:
        text = f"the CNI file is withheld: host-local needs more than {small[0]}; give it a larger network"
    else:
        return frozenset()
    return frozenset({Problem(code=Code.PodsWithheld, subject=f"node {own.name}", text=text)})


def missing_links(host: HostFacts) -> frozenset[Problem]:
    """Links whose addresses should be announced and that are not there."""
    text = "it is not there, so its addresses are not announced; make it, or take it out of NODE_IP_INTERFACES"
    return frozenset(Problem(code=Code.LinkMissing, subject=f"link {name}", text=text) for name in host.missing_links)


def outranked(config: AgentConfig, host: HostFacts) -> frozenset[Problem]:
    """What keeps this node's pods from getting our network although our file is there."""
    text = f"the container runtime takes it and not {config.cni_path}; remove what made it, then the file"
    return frozenset(Problem(code=Code.CNIOutranked, subject=f"file {path}", text=text) for path in host.earlier_cni)


def replaced_key(config: AgentConfig, host: HostFacts) -> frozenset[Problem]:
    """A key that somebody has put into the file is a wish, to which a restart listens."""
    if host.stored_key in {None, host.public_key}:
        return frozenset()
    text = "it holds another key than the one in force; restart the agent to use it, or remove it to get back the one in force"
    return frozenset({Problem(code=Code.KeyFileReplaced, subject=f"file {config.key_path}", text=text)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What no kernel can tell a turn: when something was seen for the first time. Losing it costs time, nothing else."""

    networks: frozenset[IPNetwork] = frozenset()
    """That were this node's pods': one may start late."""
    sightings: Mapping[PublicKey, Sighting] = field(default_factory=dict)
    orphans: Mapping[RouteKey, float] = field(default_factory=dict)
    repairs: Repairs = field(default_factory=dict)


def settle(  # noqa: PLR0913 - the two states, what is known beside them, and the time
    desired: DesiredState,
    actual: Mapping[str, Mapping[Any, Any]],
    memory: Memory,
    *,
    tunnelled: Collection[int],
    times: tuple[float, float],
    timing: Timing = PRODUCTION,
) -> tuple[DesiredState, Memory]:
    """The desired state in the light of what is there: roaming peers keep their endpoint, closed routes of a tunnel linger.

    Where the default route comes from router advertisements, which a router does not listen to, this one does.
    A setting that nobody wants, IPv6's where that is disabled, stays as it is: it cannot be removed.

    `actual` has the tables that could be read; `times` are monotonic and Unix seconds.  The memory is of use for a table
    only if that table's step succeeds.
    """
    now, unix_now = times
    known = actual.get("peers", {})
    peers, sightings = settle_endpoints(desired.peers, known, memory.sightings, now=now, unix_now=unix_now, timing=timing)
    there = {key: route for key, route in actual.get("closed", {}).items() if not route.ours or key.to.version in tunnelled}
    closed, orphans = keep_closed(desired.closed, there, memory.orphans, now=now, timing=timing)
    found = actual.get("sysctls", {})
    sysctls = {name: "2" if name.endswith("accept_ra") else value for name, value in found.items()} | {**desired.sysctls}
    settled = replace(desired, peers=peers, closed=closed, sysctls=sysctls)
    return settled, replace(memory, sightings=sightings, orphans=orphans)
