"""What holds for every cluster, however strange."""

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address

from hypothesis import given
from hypothesis import strategies as st

from tests.builders import cluster, config, host, key, nets, node
from wigglenet_operator.model.facts import ClusterState, IPNetwork, NodeFacts, NodeName, NodeUID
from wigglenet_operator.plan.desired import Plan, plan

NETWORKS = st.one_of(
    st.builds(lambda i, size: IPv4Network((0x0A000000 + (i << 20), size), strict=False), st.integers(0, 5), st.integers(8, 32)),
    st.builds(
        lambda i, size: IPv6Network(((0xFD00 << 112) + (i << 64), size), strict=False), st.integers(0, 5), st.integers(56, 128)
    ),
    st.sampled_from(sorted(nets("0.0.0.0/0 127.0.0.0/8 169.254.0.0/16 198.51.100.0/24"), key=str)),
)
ADDRESSES = st.one_of(
    st.builds(lambda i: ip_address(0xC0000200 + i), st.integers(0, 6)),
    st.builds(lambda i: ip_address(0x0A000000 + (i << 20) + 7), st.integers(0, 5)),
    st.builds(lambda i: ip_address((0xFD00 << 112) + (i << 64) + 9), st.integers(0, 5)),
    st.sampled_from([ip_address("127.0.0.1"), ip_address("fe80::1"), ip_address("::")]),
)
NODES = st.builds(
    NodeFacts,
    uid=st.integers(0, 30).map(lambda i: NodeUID(f"uid-{i}")),
    name=st.sampled_from("abcdefgh").map(NodeName),
    created=st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", ""]),
    spec_pod_cidrs=st.frozensets(NETWORKS, max_size=2),
    internal_ips=st.lists(ADDRESSES, max_size=2).map(tuple),
    external_ips=st.lists(ADDRESSES, max_size=1).map(tuple),
    public_key=st.one_of(st.none(), st.sampled_from("abcdef").map(key)),
    pod_cidrs=st.frozensets(NETWORKS, max_size=3),
    node_ips=st.lists(ADDRESSES, max_size=2).map(tuple),
)
CLUSTERS = st.lists(NODES, max_size=8, unique_by=lambda n: n.uid)


def planned(nodes: list[NodeFacts], *, name: str = "a") -> Plan:
    return plan(ClusterState(nodes=frozenset(nodes)), config(name), host(name))


@given(CLUSTERS)
def test_a_plan_always_exists_when_the_own_node_has_a_network(nodes: list[NodeFacts]) -> None:
    result = planned(nodes)
    own = max((n for n in nodes if n.name == "a"), key=lambda n: (n.created, n.uid), default=None)

    assert (result.desired is None) == (own is None or not own.spec_pod_cidrs)
    assert result.desired is not None or result.problems


@given(CLUSTERS)
def test_no_two_peers_share_an_allowed_ip(nodes: list[NodeFacts]) -> None:
    desired = planned(nodes).desired
    owned: list[tuple[str, IPNetwork]] = [(k, n) for k, p in (desired.peers if desired else {}).items() for n in p.allowed_ips]

    for one_key, one in owned:
        for other_key, other in owned:
            assert one_key == other_key or one.version != other.version or not one.overlaps(other)


@given(CLUSTERS)
def test_no_endpoint_lies_in_a_routed_network(nodes: list[NodeFacts]) -> None:
    desired = planned(nodes).desired
    endpoints = [p.endpoint.address for p in (desired.peers if desired else {}).values() if p.endpoint]

    assert not [(e, k.to) for e in endpoints for k in (desired.routes if desired else {}) if e in k.to]


@given(CLUSTERS, st.randoms())
def test_the_order_of_arrival_changes_nothing(nodes: list[NodeFacts], random: object) -> None:
    shuffled = list(nodes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives random.Random

    assert planned(shuffled) == planned(nodes)


@given(CLUSTERS)
def test_every_tunnel_route_has_a_peer_and_a_closed_twin(nodes: list[NodeFacts]) -> None:
    desired = planned(nodes).desired
    if desired is None:
        return
    allowed = [n for p in desired.peers.values() for n in p.allowed_ips]
    closed = {k.to for k in desired.closed}

    for route in desired.routes:
        assert route.to in closed
        assert any(route.to.version == n.version and route.to == n for n in allowed)


@given(CLUSTERS, NODES)
def test_what_the_control_plane_gave_cannot_be_taken_by_a_younger_nodes_annotations(
    nodes: list[NodeFacts], liar: NodeFacts
) -> None:
    honest = [
        replace(n, name=NodeName(f"honest-{n.uid}"), spec_pod_cidrs=n.spec_pod_cidrs | n.pod_cidrs, node_ips=()) for n in nodes
    ]
    honest.append(node("a", pods="10.240.0.0/24"))
    last = replace(
        liar,
        uid=NodeUID("zzz"),
        name=NodeName("liar"),
        created="2027-01-01T00:00:00Z",
        spec_pod_cidrs=frozenset(),
        internal_ips=(),
        external_ips=(),
    )
    before, after = planned(honest).desired, planned([*honest, last]).desired
    assert before
    assert after

    assert {k: p for k, p in after.peers.items() if k != last.public_key or k in before.peers} == before.peers


def test_a_snapshot_keeps_its_nodes_apart_by_uid() -> None:
    assert len(cluster(node("a", uid="1"), node("a", uid="2")).nodes) == 2
