"""What holds for every cluster, however strange."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.builders import cluster, config, host, ips, key, nets, node
from tests.unit.choices import Choices, chosen
from wigglenet_operator.model.desired import DesiredState
from wigglenet_operator.model.facts import ClusterState, IPAddress, IPNetwork, NodeFacts, NodeName, NodeUID, host_network
from wigglenet_operator.plan.claims import Ownership, plan_ownership
from wigglenet_operator.plan.desired import Plan
from wigglenet_operator.plan.planner import plan

GROUPS: Sequence[Sequence[IPNetwork]] = (
    [IPv4Network((0x0A000000 + (i << 20), size), strict=False) for i in range(6) for size in range(8, 33)],
    [IPv6Network(((0xFD00 << 112) + (i << 64), size), strict=False) for i in range(6) for size in range(56, 129)],
    sorted(nets("0.0.0.0/0 127.0.0.0/8 169.254.0.0/16 198.51.100.0/24"), key=str),
)
"""Networks; a group is as likely as any other, and so is a network in its group."""
ADDRESSES = (
    [ip_address(0xC0000200 + i) for i in range(7)],
    [ip_address(0x0A000000 + (i << 20) + 7) for i in range(6)],
    [ip_address((0xFD00 << 112) + (i << 64) + 9) for i in range(6)],
    ips("127.0.0.1 fe80::1 ::"),
)
UIDS = [NodeUID(f"uid-{i}") for i in range(31)]
NAMES = [NodeName(letter) for letter in "abcdefgh"]
CREATED = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "", "unknown"]
KEYS = [None, None, *map(key, "abcdef")]


def network(choices: Choices) -> IPNetwork:
    return choices.one(choices.one(GROUPS))


def strange_node(choices: Choices) -> NodeFacts:
    """A Node that conflicts with many others."""

    def networks(most: int) -> frozenset[IPNetwork]:
        return frozenset(choices.some(lambda: network(choices), most=most))

    def addresses(most: int) -> tuple[IPAddress, ...]:
        return tuple(choices.some(lambda: choices.one(choices.one(ADDRESSES)), most=most))

    return NodeFacts(
        uid=choices.one(UIDS),
        name=choices.one(NAMES),
        created=choices.one(CREATED),
        spec_pod_cidrs=networks(2),
        internal_ips=addresses(2),
        external_ips=addresses(1),
        public_key=choices.one(KEYS),
        pod_cidrs=networks(3),
        node_ips=addresses(2),
    )


NETWORKS = chosen(network, size=3)
NODES = chosen(strange_node, size=34)
CLUSTERS = st.lists(NODES, max_size=8, unique_by=lambda n: n.uid)
MIXED = st.lists(
    chosen(lambda choices: replace(strange_node(choices), departed=choices.one([False, True])), size=35),
    max_size=8,
    unique_by=lambda n: n.uid,
)
"""Of Nodes that exist and Nodes that are gone."""
LIARS = NODES.map(
    lambda n: replace(
        n,
        uid=NodeUID("liar"),
        name=NodeName("liar"),
        public_key=key("liar"),
        spec_pod_cidrs=frozenset(),
        internal_ips=(),
        external_ips=(),
    )
)
"""Nodes that have nothing but what they say themselves."""
OWN = node("a", pods="10.240.0.0/24 fd00:f0::/64", internal="198.18.0.1 2001:db8::1", uid="own")
AGES = st.sampled_from(["2000-01-01T00:00:00Z", "2026-01-01T12:00:00Z", "2030-01-01T00:00:00Z"])
RANDOMS = st.randoms(use_true_random=True)
"""Seeded by Hypothesis, in one choice."""
SERVICES = st.frozensets(NETWORKS.filter(lambda n: n.prefixlen > 8), max_size=1)


def planned(nodes: list[NodeFacts], *, name: str = "a") -> Plan:
    return plan(ClusterState(nodes=frozenset(nodes)), config(name), host(name))


def desired_states(nodes: list[NodeFacts]) -> list[DesiredState]:
    """What node a plans for the cluster as it is, and with a sound own Node in it; without those that cannot be planned."""
    return [p.desired for p in (planned(nodes), planned([OWN, *nodes])) if p.desired]


def owned(nodes: list[NodeFacts], *, services: frozenset[IPNetwork] = frozenset()) -> Ownership:
    return plan_ownership(nodes, api_server=ip_address("198.51.100.1"), services=services)


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """The obvious way: networks nest or are apart."""
    return one.version == other.version and (one.network_address in other or other.network_address in one)


def only_accepted(node: NodeFacts, ownership: Ownership) -> NodeFacts:
    """The Node without what was refused to it."""
    return replace(
        node,
        spec_pod_cidrs=ownership.pod_networks(node.uid, node.spec_pod_cidrs),
        pod_cidrs=ownership.pod_networks(node.uid, node.pod_cidrs),
        internal_ips=ownership.addresses(node.uid, node.internal_ips),
        external_ips=ownership.addresses(node.uid, node.external_ips),
        node_ips=ownership.addresses(node.uid, node.node_ips),
    )


def said(node: NodeFacts) -> set[tuple[NodeUID, bool, IPNetwork]]:
    """All that a Node claims."""
    addresses = node.internal_ips + node.external_ips + node.node_ips
    pods = {(node.uid, True, n) for n in node.spec_pod_cidrs | node.pod_cidrs}
    return pods | {(node.uid, False, host_network(a)) for a in addresses}


def accepted(nodes: list[NodeFacts], ownership: Ownership) -> set[tuple[NodeUID, bool, IPNetwork]]:
    """All that was not refused."""
    return set().union(*map(said, nodes)) - {(uid, *claim) for uid, of in ownership.refused.items() for claim in of}


def given_to(nodes: list[NodeFacts], ownership: Ownership) -> list[object]:
    """What the control plane and the kubelets gave, as far as it was accepted, Node by Node."""
    pods = [ownership.pod_networks(n.uid, n.spec_pod_cidrs) for n in nodes]
    return [pods, [ownership.addresses(n.uid, n.internal_ips + n.external_ips) for n in nodes]]


@given(MIXED, SERVICES)
def test_no_address_has_two_owners(nodes: list[NodeFacts], services: frozenset[IPNetwork]) -> None:
    held = accepted(nodes, owned(nodes, services=services))

    for uid, for_pods, network in held:
        owners = {(u, p) for u, p, n in held if overlap(n, network)}
        assert owners == {(uid, for_pods)}


@given(CLUSTERS)
def test_no_address_is_both_this_nodes_and_a_peers(nodes: list[NodeFacts]) -> None:
    own = node("a", pods="10.0.0.0/24 fd00::/64", internal="10.16.0.7 192.0.2.1", uid="own", created="2027-01-01T00:00:00Z")
    everybody = [own, *(replace(n, name=NodeName(f"other-{n.uid}")) for n in nodes)]
    desired, ownership = planned(everybody).desired, owned(everybody)
    assert desired
    mine = [n for uid, _, n in accepted(everybody, ownership) if uid == own.uid] + [a.network for a in desired.addresses]
    theirs = [n for peer in desired.peers.values() for n in peer.allowed_ips]

    assert [(m, t) for m in mine for t in theirs if overlap(m, t)] == []


@given(MIXED, SERVICES)
def test_nothing_accepted_overlaps_a_service_range(nodes: list[NodeFacts], services: frozenset[IPNetwork]) -> None:
    held = accepted(nodes, owned(nodes, services=services))

    assert [(n, s) for _, _, n in held for s in services if overlap(n, s)] == []


@given(MIXED, SERVICES)
def test_what_is_refused_might_as_well_not_have_been_said(nodes: list[NodeFacts], services: frozenset[IPNetwork]) -> None:
    before = owned(nodes, services=services)
    without = [only_accepted(n, before) for n in nodes]
    after = owned(without, services=services)

    assert accepted(without, after) == accepted(nodes, before)
    assert after == Ownership(refused={}, problems=frozenset())


@given(MIXED)
def test_nothing_is_refused_without_a_reason(nodes: list[NodeFacts]) -> None:
    ownership = owned(nodes)

    held, claims = accepted(nodes, ownership), set().union(*map(said, nodes))
    for claim in claims - held:
        others = {n.uid: frozenset((p, net) for u, p, net in claims - {claim} if u == n.uid) for n in nodes}
        lone = [only_accepted(n, Ownership(refused=others, problems=frozenset())) for n in nodes]
        rivals = {(u, p) for u, p, n in held if overlap(n, claim[2])} - {claim[:2]}
        assert rivals or not accepted(lone, owned(lone))


@given(MIXED, RANDOMS, SERVICES)
def test_the_order_of_arrival_changes_neither_owners_nor_problems(
    nodes: list[NodeFacts], random: Random, services: frozenset[IPNetwork]
) -> None:
    shuffled = random.sample(nodes, len(nodes))

    assert owned(shuffled, services=services) == owned(nodes, services=services)


@given(MIXED)
def test_a_node_that_is_gone_takes_nothing_from_one_that_exists(nodes: list[NodeFacts]) -> None:
    existing = [n for n in nodes if not n.departed]
    before, after = owned(existing), owned(nodes)

    assert accepted(nodes, after) >= accepted(existing, before)
    assert after.problems == before.problems


@given(CLUSTERS, LIARS, AGES)
def test_what_the_control_plane_and_the_kubelets_gave_no_nodes_annotations_take_however_old_it_is(
    nodes: list[NodeFacts], liar: NodeFacts, created: str
) -> None:
    before, after = owned(nodes), owned([*nodes, replace(liar, created=created)])

    assert given_to(nodes, after) == given_to(nodes, before)


@given(CLUSTERS, LIARS, AGES)
def test_a_node_with_annotations_only_changes_nothing_between_the_others_however_old_it_is(
    nodes: list[NodeFacts], liar: NodeFacts, created: str
) -> None:
    honest = [replace(n, name=NodeName(f"honest-{n.uid}"), pod_cidrs=n.spec_pod_cidrs, node_ips=n.internal_ips) for n in nodes]
    honest.append(node("a", pods="10.240.0.0/24"))
    before, after = planned(honest).desired, planned([*honest, replace(liar, created=created)]).desired
    assert before
    assert after

    assert {k: p for k, p in after.peers.items() if k != key("liar")} == before.peers
    assert before.routes.items() <= after.routes.items()
    assert before.closed.items() <= after.closed.items()
    assert (after.addresses, after.annotations, after.cni) == (before.addresses, before.annotations, before.cni)


@given(st.sampled_from(["10.16.0.0", "fd00::"]), st.integers(16, 32), st.integers(16, 32), st.sampled_from([None, ""]))
def test_a_waiting_claim_takes_over_when_the_winner_leaves(at: str, size: int, other_size: int, spec: str | None) -> None:
    own = node("a", pods="172.16.1.0/24")
    winner = node("b", pods=f"{at}/{size}", internal="198.18.0.2")
    loser = node("c", pods=f"{at}/{other_size}", spec=spec, internal="198.18.0.3", created="2026-01-02T00:00:00Z")

    def routed(*nodes: NodeFacts) -> frozenset[IPNetwork]:
        desired = planned([own, *nodes]).desired
        assert desired
        return frozenset(k.to for k in desired.routes)

    assert routed(winner, loser) == nets(f"{at}/{size}")
    assert routed(loser) == nets(f"{at}/{other_size}")
    gone = replace(winner, departed=True)
    assert (routed(gone), routed(gone, loser)) == (routed(winner), routed(loser))


@given(CLUSTERS)
def test_a_plan_always_exists_when_the_own_node_has_a_network(nodes: list[NodeFacts]) -> None:
    result = planned(nodes)
    own = max((n for n in nodes if n.name == "a"), key=lambda n: (n.created, n.uid), default=None)

    both = own and {n.version for n in own.spec_pod_cidrs} == {4, 6}
    announced = own and own.pod_cidrs and (own.spec_pod_cidrs or own.public_key in {None, key("a")})

    assert (result.desired is None) is not bool(both or announced)
    assert result.desired is not None or result.problems


@given(CLUSTERS)
def test_no_two_peers_share_an_allowed_ip(nodes: list[NodeFacts]) -> None:
    for desired in desired_states(nodes):
        owned: list[tuple[str, IPNetwork]] = [(k, n) for k, p in desired.peers.items() for n in p.allowed_ips]
        for one_key, one in owned:
            for other_key, other in owned:
                assert one_key == other_key or one.version != other.version or not one.overlaps(other)


@given(CLUSTERS)
def test_no_endpoint_lies_in_a_routed_network(nodes: list[NodeFacts]) -> None:
    for desired in desired_states(nodes):
        endpoints = [p.endpoint.address for p in desired.peers.values() if p.endpoint]
        assert [(e, k.to) for e in endpoints for k in desired.routes if e in k.to] == []


@given(CLUSTERS, RANDOMS)
def test_the_order_of_arrival_changes_nothing(nodes: list[NodeFacts], random: Random) -> None:
    for all_nodes in (nodes, [OWN, *nodes]):
        assert planned(random.sample(all_nodes, len(all_nodes))) == planned(all_nodes)


@given(CLUSTERS)
def test_every_tunnel_route_has_a_peer_and_a_closed_twin(nodes: list[NodeFacts]) -> None:
    for desired in desired_states(nodes):
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
        created="unknown",
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
