"""A node at a provider: IPv4 from its spec, public IPv6 from a file that cloud-init writes after the agent has started.

IPv4 is masqueraded, IPv6 is not; what comes from outside to a pod's public address is for the filter to decide.
"""

from collections.abc import Iterator, Mapping
from ipaddress import ip_network

import pytest

from tests.lab.exchange import PORT, Exchange, Host, Protocol
from tests.lab.lab import ApiKind, Lab
from tests.lab.namespaces import Place
from tests.lab.node import LabNode
from tests.lab.sources import FILE, announced, replace_file, sources
from tests.lab.topology import DEFAULT, Topology, addresses
from tests.lab.wait import eventually
from wigglenet_operator.model.facts import WireGuardKind

SETTINGS = {**sources("spec", "file"), "MASQUERADE_IPV6": "off", "FILTER_IPV4": "on", "FILTER_IPV6": "on"}
VERSIONS = (4, 6)
PROTOCOLS: tuple[Protocol, ...] = ("udp", "tcp")


def public(node: LabNode) -> str:
    """What the provider routes to the node."""
    return f"2001:db8:f{node.number:02x}::/64"


class Provider:
    """Two nodes, their router, and the world behind it."""

    def __init__(self, lab: Lab, outside: Place) -> None:
        self.lab, self.outside = lab, outside
        lab.place.batch(f"link add u-x type veth peer name eth0 netns {outside.pid}", "link set u-x master underlay up")
        for name, lengths in (("router", {4: 24, 6: 64}), ("outside", {4: 32, 6: 128})):
            outside.batch(*(f"addr add {a}/{lengths[v]} dev eth0 nodad" for v, a in addresses(name).items()))
        outside.batch("link set eth0 up")
        for name in "ab":
            node = lab.add_node(name, agent=False, environment=SETTINGS)
            node.place.batch(*(f"route add {DEFAULT[v]} via {a}" for v, a in addresses("router").items()))
            outside.batch(f"route add {public(node)} via {node.addresses[1]}")
            lab.start(node)

    def hosts(self) -> dict[str, Host]:
        """The pods, their nodes and the world."""
        found = {"outside": Host("outside", self.outside, addresses("outside"))}
        for name, node in self.lab.nodes.items():
            found[f"node {name}"] = Host(f"node {name}", node.place, {a.version: a for a in node.addresses})
            pod = node.pods[f"pod-{name}"]
            found[pod.name] = Host(pod.name, node.place, pod.addresses, netns=pod.name)
        return found

    def filter_ipv6(self, *, on: bool) -> None:
        """Restart the agents with it, and return when it is in force."""
        for node in self.lab.nodes.values():
            node.stop_agent()
            node.environment["FILTER_IPV6"] = "on" if on else "off"
            node.start_agent()
        for node in self.lab.nodes.values():
            eventually(lambda n=node: Topology.in_force(n.place)["filter 6"] == on, what=f"filter of {node.name}", seconds=20)  # type: ignore[misc]  # bool


@pytest.fixture(scope="module")
def provider(api_kind: ApiKind, request: pytest.FixtureRequest) -> Iterator[Provider]:
    """Before cloud-init has written anything."""
    outside = Place("outside")
    try:
        with Lab(api=api_kind, wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as lab:
            yield Provider(lab, outside)
    finally:
        outside.close()


@pytest.fixture(scope="module")
def words(provider: Provider) -> Iterator["Words"]:
    """When cloud-init has written the files, and everybody listens."""
    for node in provider.lab.nodes.values():
        node.wait_logged("problem", FILE, since=0)
        assert node.conflist() is None
        replace_file(node, "# written by cloud-init", public(node))
    provider.lab.expect_mesh()
    hosts = provider.hosts()
    with Exchange({address: host.name for host in hosts.values() for address in host.addresses.values()}) as exchange:
        for host in hosts.values():
            exchange.listen(host, host.addresses.values())
        yield Words(hosts, exchange)


class Words:
    """What hosts hear of each other."""

    def __init__(self, hosts: Mapping[str, Host], exchange: Exchange) -> None:
        self._hosts, self._exchange = hosts, exchange

    def seen(self, origin: str, to: str, version: int, *, hopeless: bool = False) -> set[str]:
        """By which names the far end sees the origin, over UDP and TCP; the empty one if nothing arrives."""
        host, target = self._hosts[origin], (self._hosts[to].addresses[version], PORT)
        source = host.addresses[version] if origin == "outside" else None  # not the router's
        return {
            self._exchange.say(host, target, protocol=protocol, source=source, hopeless=hopeless).source
            for protocol in PROTOCOLS
        }


@pytest.mark.usefixtures("words")
def test_pods_have_public_ipv6_addresses_and_private_ipv4_addresses(provider: Provider) -> None:
    for name, node in provider.lab.nodes.items():
        four, six = (node.pods[f"pod-{name}"].addresses[version] for version in VERSIONS)
        assert four in ip_network(node.pod_cidrs[0])
        assert six in ip_network(public(node))
        assert announced(provider.lab, node) == [public(node), node.pod_cidrs[0]]


def test_the_world_sees_a_pods_own_ipv6_address_and_its_nodes_ipv4_address(words: Words) -> None:
    for name in "ab":
        assert words.seen(f"pod-{name}", "outside", 6) == {f"pod-{name}"}
        assert words.seen(f"pod-{name}", "outside", 4) == {f"node {name}"}


def test_between_nodes_public_addresses_are_tunnelled_and_seen_as_they_are(provider: Provider, words: Words) -> None:
    networks = [ip_network(public(node)) for node in provider.lab.nodes.values()]
    capture = provider.lab.capture(lambda packet: any(a in n for a in packet.addresses for n in networks if a.version == 6))
    for one, other in (("pod-a", "pod-b"), ("pod-b", "pod-a")):
        for version in VERSIONS:
            assert words.seen(one, other, version) == {one}
    assert not capture.stop()


@pytest.mark.parametrize("on", [False, True], ids=["filter off", "filter on"])
def test_the_world_reaches_a_pod_by_its_public_address_unless_it_is_filtered(
    provider: Provider, words: Words, *, on: bool
) -> None:
    provider.filter_ipv6(on=on)

    for name in "ab":
        assert words.seen("outside", f"pod-{name}", 6, hopeless=on) == ({""} if on else {"outside"})
        assert words.seen(f"pod-{name}", "outside", 6) == {f"pod-{name}"}, "what it asks for is answered"
