"""The firewall lets every flow of the table through, or not, as it says there, beside either kube-proxy."""

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

import pytest

from tests.lab.exchange import Protocol
from tests.lab.flows import FLOWS, Flow
from tests.lab.lab import ApiKind
from tests.lab.proxies import by_iptables, by_nftables, removed
from tests.lab.topology import Topology
from wigglenet_operator.model.facts import WireGuardKind

BOTH, NONE = frozenset({4, 6}), frozenset[int]()
SETTINGS = {
    "masquerade IPv4, filter IPv6": (frozenset({4}), frozenset({6})),
    "masquerade IPv6, filter IPv4": (frozenset({6}), frozenset({4})),
    "IPv4 both, IPv6 neither": (frozenset({4}), frozenset({4})),
    "IPv4 neither, IPv6 both": (frozenset({6}), frozenset({6})),
}
"""All four combinations of each family, the families never alike."""


@pytest.fixture(scope="module")
def topology(api_kind: ApiKind, request: pytest.FixtureRequest) -> Iterator[Topology]:
    with Topology(api=api_kind, wireguard=WireGuardKind(request.config.getoption("--wireguard"))) as made:
        made.listen()
        yield made


def expectations(masqueraded: frozenset[int], filtered: frozenset[int]) -> list[tuple[Flow, int, Protocol, str]]:
    return [
        (flow, version, protocol, flow.expected(masquerade=version in masqueraded, filtered=version in filtered))
        for flow in FLOWS
        for version in flow.versions
        for protocol in flow.protocols
    ]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("proxy", [by_iptables, by_nftables])
def test_every_flow_is_as_the_table_says(topology: Topology, settings: str, proxy: Callable[[Topology], None]) -> None:
    masqueraded, filtered = SETTINGS[settings]
    removed(topology)
    proxy(topology)
    topology.configure(masqueraded=masqueraded, filtered=filtered)
    topology.flush_caches()
    rows = expectations(masqueraded, filtered)

    wrong = [
        f"IPv{version} {protocol} {flow}: {heard}, expected {expected or 'nobody'}"
        for (flow, version, protocol, expected), heard in zip(rows, topology.send_all(rows), strict=True)
        if heard.source != expected or (expected and heard.answered is not flow.answered)
    ]

    wrong += [entry for version in (4, 6) for entry in rewritten(topology, version, masqueraded=version in masqueraded)]
    assert not wrong, "\n".join(wrong)


def test_what_nobody_may_see_arrives_where_nothing_forbids_it(topology: Topology) -> None:
    """So that the table can fail: with neither agent nor table every forged packet arrives that the tunnel takes."""
    removed(topology)
    by_nftables(topology)
    for node in topology.lab.nodes.values():
        node.stop_agent()
        node.place.run("nft", "delete", "table", "inet", "wigglenet")
    topology.flush_caches()
    nobody: list[tuple[Flow, int, Protocol, str]] = [
        (flow, version, "udp", "somebody") for flow in FLOWS if not flow.seen for version in flow.versions
    ]
    try:
        arrived = [
            (flow, version)
            for (flow, version, *_), heard in zip(nobody, topology.send_all(nobody), strict=True)
            if heard.source
        ]
    finally:
        for node in topology.lab.nodes.values():
            node.start_agent()

    assert arrived == [(flow, version) for flow, version, *_ in nobody if not flow.keyed]


def rewritten(topology: Topology, version: int, *, masqueraded: bool) -> Iterator[str]:
    """What the kernel's own table of connections says otherwise, of those that no Service has redirected."""
    host = topology.hosts["node a"]
    pods = [ip_network(node.pod_cidrs[version == 6]) for node in topology.lab.nodes.values()]
    spared = [
        topology.hosts[name].addresses.get(version) for name in ("direct", "link-local", "multicast", "node a", "gateway a")
    ]
    entries = host.place.run("conntrack", "-L", "-f", f"ipv{version}").splitlines()
    found = [[ip_address(word) for word in re.findall(r"(?:src|dst)=(\S+)", entry)] for entry in entries]
    direct = [(source, to, seen) for source, to, answering, seen in found if to == answering]
    assert direct, "no connection is tracked"
    for source, to, seen in direct:
        changes = masqueraded and source in pods[0] and not any(to in n for n in pods) and to not in spared
        if seen != (host.addresses[version] if changes else source):
            yield f"conntrack: {source} -> {to} is answered to {seen}"
