"""A plan as text for people: `wigglenet-operator plan`."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml

from wigglenet_operator.errors import ConfigError
from wigglenet_operator.kernel.nft_text import render
from wigglenet_operator.kernel.pod_file import PodFile
from wigglenet_operator.kube.decode import decode_node
from wigglenet_operator.model.config import AgentConfig
from wigglenet_operator.model.desired import DesiredState, RouteKind
from wigglenet_operator.model.facts import (
    ClusterState,
    HostFacts,
    NodeFacts,
    NodeName,
    PodNetworkSource,
    PublicKey,
    WireGuardKind,
)
from wigglenet_operator.model.report import Problem
from wigglenet_operator.plan.planner import plan
from wigglenet_operator.plan.pod_networks import collapsed
from wigglenet_operator.settings import read_settings

UNDERLAY_MTU = 1500
"""Bytes; a file does not tell what the routes to the endpoints carry."""
NO_KEY = PublicKey("(made at the first start)")


def show_plan(file: Path, node: str, environment: Mapping[str, str]) -> str:
    """What the agent of `node` would make of the Nodes in `file`; ConfigError if there is nothing to plan or set wrongly."""
    config = read_settings({"KUBERNETES_SERVICE_HOST": "unknown", **environment, "NODE_NAME": node}).config()
    decoded = [decode_node(body, own=NodeName(node)) for body in _nodes(file)]
    nodes = sorted((n for n in decoded if isinstance(n, NodeFacts)), key=lambda n: (n.created, n.uid))
    own = next((n for n in reversed(nodes) if n.name == node), None)
    if own is None:
        known = ", ".join(sorted(n.name for n in nodes)) or "no Node"
        raise ConfigError(f"{file} has no Node {node}; it has {known}")
    host = HostFacts(
        public_key=(own.public_key or NO_KEY) if config.tunnelled else None,
        default_mtu=UNDERLAY_MTU,
        wireguard=(config.wireguard or WireGuardKind.KERNEL) if config.tunnelled else None,
        node_ips=own.node_ips,
        offers={PodNetworkSource.FILE: PodFile(Path(config.source_path)).offer()} if config.source_path else {},
    )
    planned = plan(ClusterState(nodes=frozenset(nodes)), config, host)
    problems = planned.problems | {p for p in decoded if isinstance(p, Problem)}
    names = {n.public_key: n.name for n in reversed(nodes)}  # of a repeated key the oldest is the peer
    desired = planned.desired
    lines = [f"node {node}", *(_desired(desired, config, names) if desired else ()), *_section("problems", problems)]
    return "\n".join(lines) + "\n"


def _nodes(file: Path) -> Iterator[dict[str, object]]:
    try:
        documents = list(yaml.safe_load_all(file.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {error}; it must be what `kubectl get nodes -o yaml` prints") from error
    for document in documents:
        items = (document.get("items", [document]) or []) if isinstance(document, dict) else []
        yield from (i for i in items if isinstance(i, dict) and i.get("kind") == "Node")


def _desired(desired: DesiredState, config: AgentConfig, names: dict[PublicKey | None, NodeName]) -> Iterator[str]:
    addresses = " ".join(str(a) for a in sorted(desired.addresses, key=lambda a: (-a.version, a)))
    for name, link in desired.link.items():
        assumed = f"mtu {link.mtu} (underlay assumed {UNDERLAY_MTU})"
        yield f"link {name}: {assumed}, UDP port {config.port}, {addresses or 'no address'}"
    peers = ((names[key], peer) for key, peer in desired.peers.items())
    for name, peer in sorted(peers, key=lambda pair: pair[0]):
        yield f"peer {name}: {peer.endpoint} allowed {' '.join(map(str, collapsed(peer.allowed_ips)))}"
    for key in sorted({**desired.routes, **desired.closed}, key=lambda k: (-k.to.version, k.to, k.metric)):
        kind = RouteKind.TUNNEL if key in desired.routes else RouteKind.CLOSED
        way = f"dev {config.link}" if kind is RouteKind.TUNNEL else f"unreachable metric {key.metric}"
        yield f"route {key.to} {way}"
    for annotation, value in desired.annotations.items():
        yield f"annotation {annotation}={value}"
    for path, text in desired.cni.items():
        yield f"file {path}"
        yield from (f"  {line}" for line in text.splitlines())
    yield from (line.expandtabs(2) for line in render(desired.firewall).splitlines())


def _section(title: str, problems: Iterable[Problem]) -> Iterator[str]:
    found = sorted(problems)
    yield f"{title}: {len(found) or 'none'}"
    yield from (f"  {problem}" for problem in found)
