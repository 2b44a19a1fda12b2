"""Tunnel, native routing and firewall only, with every source of pod networks; a mode leaves nothing to the next."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
from itertools import permutations

import pytest

from tests.lab.capture import kinds
from tests.lab.lab import ApiKind, Lab
from tests.lab.node import KEY, LINK, LabNode, text_of
from tests.lab.sources import (
    NODE_IPS,
    POD_CIDRS,
    PUBLIC_KEY,
    Source,
    announced,
    closed,
    filed,
    first_address,
    gateways,
    ordered,
    replace_file,
    sources,
)
from tests.lab.state import IDENTITY, node_state
from tests.lab.wait import NotSeenError, eventually
from wigglenet_operator.model.facts import WireGuardKind

SOURCES: dict[str, tuple[Source, Source]] = {
    "spec-file": ("spec", "file"),
    "file-spec": ("file", "spec"),
    "none-file": ("none", "file"),
    "spec-none": ("spec", "none"),
}
"""Of IPv4 and IPv6, by node; each source for each family, and no family without a pair."""


@dataclass(frozen=True, kw_only=True)
class Mode:
    """The settings of every node, and what follows."""

    settings: Mapping[str, str] = field(default_factory=dict)
    native: frozenset[int] = frozenset()
    """The IP versions that somebody else routes."""
    firewall_only: bool = False

    @property
    def tunnelled(self) -> frozenset[int]:
        """The rest."""
        return frozenset({4, 6}) - self.native


BOTH = {"NATIVE_ROUTING_IPV4": "on", "NATIVE_ROUTING_IPV6": "on"}
OTHERS = {"FIREWALL_ONLY": "on", "NON_MASQUERADE_CIDRS": "10.1.0.0/16, fd00:10:1::/48"}
"""The plugin that makes the pods announces nothing, so agents know of each other's networks only what the Nodes' specs say."""
MODES = {
    "native": Mode(settings=BOTH, native=frozenset({4, 6})),
    "native IPv4": Mode(settings={"NATIVE_ROUTING_IPV4": "on"}, native=frozenset({4})),
    "native IPv6": Mode(settings={"NATIVE_ROUTING_IPV6": "on"}, native=frozenset({6})),
    "tunnel": Mode(),
    "firewall only": Mode(settings=OTHERS, native=frozenset({4, 6}), firewall_only=True),
}
CHANGES = ("native IPv4", "tunnel", "firewall only", "native IPv6", "tunnel", "native")
"""After native, with which they begin."""


def networks(node: LabNode) -> list[str]:
    """What the node's sources give it, IPv4 first."""
    given = zip(SOURCES[node.name], (4, 6), node.pod_cidrs, strict=True)
    return [filed(node, version) if source == "file" else spec for source, version, spec in given if source != "none"]


def of(versions: Iterable[int], found: Iterable[str]) -> set[str]:
    return {n for n in found if ip_network(n).version in set(versions)}


class Cluster:
    """A node for each pair of sources, all in one mode."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.mode = lab, MODES["native"]
        self._states: dict[str, Mapping[str, object]] = {}
        for name, (four, six) in SOURCES.items():
            node = lab.add_node(name, agent=False, environment={**sources(four, six), **self.mode.settings})
            if "file" in {four, six}:
                replace_file(node, *(filed(node, version) for version in (4, 6)))
        for node in lab.nodes.values():
            node.start_agent()
        self._wait_settled()
        self._route("add", self.mode.native)

    def enter(self, mode: Mode) -> None:
        """Restart every agent with other settings; beside native routing nobody starts a userspace WireGuard."""
        before, self.mode = self.mode, mode
        self._route("del", before.native)
        for node in self.lab.nodes.values():
            node.stop_agent()
            for name in before.settings:
                del node.environment[name]
            node.environment |= mode.settings
            if self.lab.wireguard is WireGuardKind.USERSPACE and before.tunnelled and not mode.tunnelled:
                node.abandon_wireguard()
        for node in self.lab.nodes.values():
            if not before.tunnelled and mode.tunnelled:
                self.lab.start(node)
            else:
                node.start_agent()
        self._wait_settled()
        self._route("add", mode.native)

    def _route(self, action: str, versions: Iterable[int]) -> None:
        """What an administrator or the fabric does for native routing."""
        for one, other in permutations(self.lab.nodes.values(), 2):
            lines = [
                f"route {action} {n} via {other.addresses[ip_network(n).version == 6]}" for n in of(versions, networks(other))
            ]
            if lines:
                one.place.batch(*lines)

    def _wait_settled(self) -> None:
        """Until nothing is missing and nothing is left of another mode, on every node."""
        for node in self.lab.nodes.values():
            found: list[str] = []

            def settled(node: LabNode = node, found: list[str] = found) -> bool:
                found[:] = self.contradictions(node)
                return not found

            try:
                eventually(settled, what=f"{node.name} is in its mode", seconds=30)
            except AssertionError as error:
                error.add_note("\n".join([*found, node.log()[-4000:]]))
                raise

    def contradictions(self, node: LabNode) -> list[str]:
        """What of a node does not belong to the mode."""
        own, tunnelled, meshed = networks(node), self.mode.tunnelled, not self.mode.firewall_only
        others = [n for other in self.lab.nodes.values() if other is not node for n in networks(other)]
        notes = self.lab.annotations(node.name)
        link = json.loads(node.place.run("ip", "-json", "link", "show", "dev", LINK, check=False) or "[]")
        expected = {
            "link": (bool(link), bool(tunnelled)),
            "addresses": (gateways(node), {first_address(n) for n in of(tunnelled, own)}),
            "routes": (node.routes(), of(tunnelled, others)),
            "closed": (closed(node), of(tunnelled, own + others)),
            "subnets": (node.subnets(), own if meshed else []),
            "CNI MTU": (mtu(node), (1420 if tunnelled else 1500) if meshed else None),
            "annotations": (
                {name for name in IDENTITY if name in notes},
                {*([PUBLIC_KEY] if tunnelled else []), *([NODE_IPS, POD_CIDRS] if meshed else [])},
            ),
            "announced": (announced(self.lab, node), ordered(own) if meshed else []),
            "firewall": ("wt_postrouting" in node.place.run("nft", "list", "table", "inet", "wigglenet", check=False), True),
        }
        return [f"{what}: {found}, expected {wanted}" for what, (found, wanted) in expected.items() if found != wanted]

    def expect_state(self, name: str) -> None:
        """That of the last time in this mode, if there was one; a key stays for ever."""

        def now() -> dict[str, object]:
            states = {name: node_state(self.lab, node) for name, node in self.lab.nodes.items()}
            return {f"{name}'s {what}": seen for name, one in states.items() for what, seen in one.items() if what != "key"}

        before = self._states.setdefault(name, now())
        with suppress(NotSeenError):
            eventually(lambda: now() == before, what="all is as the last time in this mode")
        assert now() == before

    def expect_packets(self) -> None:
        """Every pod reaches every other; what is routed natively crosses the underlay in clear, and nothing else does."""
        capture = self.lab.capture()
        self.lab.expect_mesh()
        packets = capture.stop()
        clear = [p for p in packets if p.of_pods]
        seen = {(p.addresses[0], p.addresses[1]) for p in clear}
        expected = {(one.addresses[v], other.addresses[v]) for one, other, v in self.lab.pairs() if v in self.mode.native}
        assert seen == expected
        assert bool(kinds(packets)["wireguard"]) == bool(self.mode.tunnelled)


def mtu(node: LabNode) -> int | None:
    """What new pods get."""
    conflist = node.conflist()
    return conflist["plugins"][0]["mtu"] if conflist else None


@pytest.fixture(scope="module")
def cluster(api_kind: ApiKind, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Lab(api=api_kind, wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as lab:
        yield Cluster(lab)


def test_with_native_routing_there_is_neither_link_nor_key(cluster: Cluster) -> None:
    cluster.expect_packets()

    cluster.expect_state("native")
    for node in cluster.lab.nodes.values():
        assert text_of(node.path(KEY)) is None
        assert not node.place.run("wg", "show")
        pod = node.pods[f"pod-{node.name}"]
        assert pod.addresses.keys() == {ip_network(n).version for n in networks(node)}
        assert all(any(a in ip_network(n) for n in networks(node)) for a in pod.addresses.values())


@pytest.mark.parametrize("name", CHANGES)
def test_a_mode_leaves_nothing_to_the_next_and_every_source_has_packets(cluster: Cluster, name: str) -> None:
    cluster.enter(MODES[name])
    cluster.expect_packets()

    cluster.expect_state(name)
