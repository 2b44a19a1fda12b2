"""The plan by cases that an administrator knows."""

import json
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from tests.builders import cluster, config, host, ips, key, nets, node, numbered
from wigglenet_operator.model.desired import DesiredState, Endpoint, Peer, Route, RouteKey, RouteKind
from wigglenet_operator.model.facts import ClusterState, HostFacts, IPNetwork, NodeFacts, PodNetworkSource, WireGuardKind
from wigglenet_operator.model.timing import PRODUCTION
from wigglenet_operator.plan.desired import STEPS
from wigglenet_operator.plan.planner import plan
from wigglenet_operator.plan.pod_networks import collapsed
from wigglenet_operator.plan.routes import keep_closed, plan_closed_routes
from wigglenet_operator.plan.tunnel import Sighting, settle_endpoints

A = node("a", pods="10.1.0.0/24 fd00:1::/64", internal="192.0.2.1 2001:db8::1")
B = node("b", pods="10.2.0.0/24 fd00:2::/64", internal="192.0.2.2 2001:db8::2")
C = node("c", pods="10.3.0.0/24 fd00:3::/64", internal="192.0.2.3 2001:db8::3", created="2026-01-02T00:00:00Z")


def desired(*nodes: NodeFacts, mtu: int | None = None, facts: HostFacts | None = None) -> DesiredState:
    state = plan(cluster(*nodes), config("a", mtu=mtu), facts or host("a")).desired
    assert state
    return state


def told(*nodes: NodeFacts) -> list[str]:
    return [str(p) for p in sorted(plan(cluster(*nodes), config("a"), host("a")).problems)]


def served(ranges: str, *others: NodeFacts) -> ClusterState:
    """A cluster with these Service ranges."""
    return ClusterState(nodes=frozenset((A, *others)), services=nets(ranges))


def tunnel_routes(state: DesiredState) -> set[str]:
    return {str(k.to) for k in state.routes}


def test_three_nodes_make_two_peers_with_their_networks_and_addresses() -> None:
    state = desired(A, B, C)

    assert set(state.peers) == {key("b"), key("c")}
    assert state.peers[key("b")].allowed_ips == nets("10.2.0.0/24 fd00:2::/64 192.0.2.2/32 2001:db8::2/128")
    assert str(state.peers[key("b")].endpoint) == "192.0.2.2:24601"
    assert tunnel_routes(state) == {"10.2.0.0/24", "fd00:2::/64", "10.3.0.0/24", "fd00:3::/64"}


def test_every_pod_network_own_ones_too_is_closed_behind_the_tunnel() -> None:
    state = desired(A, B)

    assert {str(k.to) for k in state.closed} == {"10.1.0.0/24", "fd00:1::/64", "10.2.0.0/24", "fd00:2::/64"}
    assert {k.metric for k in state.closed} == {0xFFFFFFFF}


def test_the_link_has_the_pods_gateways() -> None:
    assert set(desired(A).addresses) == {ip_interface("10.1.0.1/32"), ip_interface("fd00:1::1/128")}


def test_the_identity_is_announced_ipv6_first() -> None:
    assert desired(A).annotations == {
        "wigglenet/public-key": key("a"),
        "wigglenet/node-ips": "[]",
        "wigglenet/pod-cidrs": '["fd00:1::/64","10.1.0.0/24"]',
    }


def test_a_node_without_a_key_gets_no_peer_and_no_route() -> None:
    state = desired(A, replace(B, public_key=None, pod_cidrs=frozenset()))

    assert not state.peers
    assert not state.routes


@pytest.mark.parametrize("spec", [frozenset(), B.spec_pod_cidrs])
def test_a_node_that_announces_no_pod_networks_is_a_peer_with_its_addresses(spec: frozenset[IPNetwork]) -> None:
    state = desired(A, replace(B, spec_pod_cidrs=spec, pod_cidrs=frozenset()))

    assert not state.routes
    assert state.peers[key("b")].allowed_ips == nets("192.0.2.2/32 2001:db8::2/128")


def test_a_node_without_an_address_is_named() -> None:
    assert told(A, replace(B, internal_ips=()))[0].startswith("node b: it has a key but no usable IPv4 or IPv6 address")


def test_without_annotated_node_ips_the_status_is_enough() -> None:
    assert desired(A, B).peers[key("b")].endpoint == Endpoint(address=ip_address("192.0.2.2"), port=24601)


@pytest.mark.parametrize(
    ("internal", "external", "node_ips", "chosen"),
    [
        ("192.0.2.2", "198.18.0.2", "", "192.0.2.2"),
        ("", "198.18.0.2", "192.0.2.9", "198.18.0.2"),
        ("", "", "192.0.2.9", "192.0.2.9"),
        ("2001:db8::2 192.0.2.2", "", "", "2001:db8::2"),
        ("fe80::2 192.0.2.2", "", "", "192.0.2.2"),
    ],
)
def test_the_endpoint_is_the_first_of_the_best_rank(internal: str, external: str, node_ips: str, chosen: str) -> None:
    other = replace(B, internal_ips=ips(internal), external_ips=ips(external), node_ips=ips(node_ips))

    endpoint = desired(A, other).peers[key("b")].endpoint
    assert endpoint
    assert str(endpoint.address) == chosen


def test_within_a_rank_a_family_that_this_node_has_comes_first() -> None:
    only_six = replace(A, internal_ips=ips("2001:db8::1"))

    endpoint = desired(only_six, B).peers[key("b")].endpoint
    assert endpoint
    assert str(endpoint.address) == "2001:db8::2"


def test_a_younger_node_does_not_get_what_an_older_one_has() -> None:
    thief = replace(C, spec_pod_cidrs=frozenset(), pod_cidrs=nets("10.2.0.0/25 fd00:3::/64"))
    state = desired(A, B, thief)

    assert state.peers[key("b")].allowed_ips >= nets("10.2.0.0/24")
    assert not state.peers[key("c")].allowed_ips & nets("10.2.0.0/25")
    assert told(A, B, thief) == [
        "node c: 10.2.0.0/25 of wigglenet/pod-cidrs is not used: it overlaps what node b has by spec.podCIDRs"
    ]


def test_an_older_annotation_loses_to_the_control_plane() -> None:
    liar = node("0", pods="10.2.0.0/24", spec="", internal="192.0.2.9", created="2025-01-01T00:00:00Z")

    assert desired(A, B, liar).peers[key("b")].allowed_ips >= nets("10.2.0.0/24")


def test_a_network_over_an_endpoint_is_refused() -> None:
    covering = node("c", pods="192.0.2.0/24", spec="", internal="198.18.0.3")

    assert tunnel_routes(desired(A, B, covering)) == {"10.2.0.0/24", "fd00:2::/64"}


def test_a_network_that_holds_the_api_server_is_refused() -> None:
    covering = node("c", pods="198.51.100.0/24", internal="198.18.0.3")

    assert "it holds the API server's address 198.51.100.1" in told(A, covering)[0]


@pytest.mark.parametrize("network", ["10.96.0.0/16", "10.96.7.0/24", "10.0.0.0/8", "10.96.0.9/32"])
def test_a_pod_network_over_a_service_range_is_refused_whoever_says_it(network: str) -> None:
    for claimant in (node("c", pods=network, internal="198.18.0.3"), node("c", pods=network, spec="", internal="198.18.0.3")):
        result = plan(served("10.96.0.0/16 fd00:96::/112", claimant), config("a"), host("a"))
        texts = {p.text for p in result.problems}

        assert result.desired
        assert tunnel_routes(result.desired) == set()
        assert f"{network} of wigglenet/pod-cidrs is not used: it overlaps the Service range 10.96.0.0/16" in texts


def test_a_node_address_in_a_service_range_is_refused() -> None:
    inside = node("c", pods="10.3.0.0/24", internal="10.96.0.1 198.18.0.3", node_ips="fd00:96::1")
    result = plan(served("10.96.0.0/16 fd00:96::/112", inside), config("a"), host("a"))

    assert result.desired
    assert result.desired.peers[key("c")].allowed_ips == nets("10.3.0.0/24 198.18.0.3/32")
    assert {p.text for p in result.problems} == {
        "10.96.0.1/32 of status.addresses is not used: it overlaps the Service range 10.96.0.0/16",
        "fd00:96::1/128 of wigglenet/node-ips is not used: it overlaps the Service range fd00:96::/112",
    }


def test_an_own_network_over_a_service_range_withholds_the_cni_file() -> None:
    result = plan(served("10.1.0.0/25"), config("a"), host("a"))

    assert result.desired
    assert result.desired.cni == {}


def test_service_ranges_beside_all_claims_change_nothing() -> None:
    assert plan(served("10.4.0.0/14 fd00:4::/112", B), config("a"), host("a")).desired == desired(A, B)


def test_claims_that_are_refused_are_counted_after_the_fifth() -> None:
    greedy = node("c", pods=" ".join(f"10.2.0.{i}/32" for i in range(9)), spec="", internal="198.18.0.3")
    texts = told(A, B, greedy)

    assert len(texts) == 6
    assert texts[-1] == "node c: a further 4 of wigglenet/pod-cidrs are not used: they are refused as well"


def test_a_problem_is_short_however_long_the_names_are() -> None:
    older = node("b" * 253, pods="2001:db8:ffff:ffff:ffff:ffff:ffff:fff0/124", internal="192.0.2.2")
    younger = node("c" * 253, pods="2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/128", spec="", internal="198.18.0.3")
    (problem,) = plan(cluster(A, older, younger), config("a"), host("a")).problems

    assert len(problem.text) < 250
    assert "it overlaps what node bbb" in problem.text


def test_a_node_that_is_gone_keeps_what_nobody_else_has() -> None:
    assert desired(A, replace(B, departed=True)).routes == desired(A, B).routes


@pytest.mark.parametrize(
    "heir", [node("c", pods="10.2.0.0/25", internal="198.18.0.3"), node("c", node_ips="10.2.0.7 198.18.0.3")]
)
def test_what_a_node_that_is_gone_had_by_the_control_plane_goes_to_whoever_exists_and_says_to_have_it(heir: NodeFacts) -> None:
    late = replace(heir, spec_pod_cidrs=frozenset(), created="2027-01-01T00:00:00Z")
    state = desired(A, replace(B, departed=True), late)

    assert state.peers[key("c")] == desired(A, late).peers[key("c")]
    assert tunnel_routes(state) == tunnel_routes(desired(A, late)) | {"fd00:2::/64"}
    assert told(A, replace(B, departed=True), late) == []


def test_of_two_nodes_that_are_gone_the_older_one_has_it() -> None:
    old, young = replace(B, departed=True), replace(C, departed=True, spec_pod_cidrs=B.spec_pod_cidrs, pod_cidrs=B.pod_cidrs)

    assert desired(A, old, young).peers[key("b")] == desired(A, B).peers[key("b")]
    assert not desired(A, old, young).peers[key("c")].allowed_ips & B.pod_cidrs


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "169.254.0.0/16", "ff00::/8", "127.0.0.0/8"])
def test_what_nobody_can_have_is_refused(network: str) -> None:
    assert len(told(A, node("c", pods=network, spec="", internal="198.18.0.3"))) == 1


def test_of_two_nodes_with_one_key_the_older_is_the_peer_and_the_other_is_named() -> None:
    twin = replace(C, public_key=key("b"))

    assert desired(A, B, twin).peers[key("b")].allowed_ips >= nets("10.2.0.0/24")
    assert told(A, B, twin)[0].startswith("node c: its public key is that of node b")


def test_a_node_with_our_key_is_no_peer() -> None:
    assert not desired(A, replace(B, public_key=key("a"))).peers


def test_the_predecessor_of_our_own_node_is_no_peer() -> None:
    assert not desired(
        A, replace(A, uid=type(A.uid)("older"), created="2025-01-01T00:00:00Z", spec_pod_cidrs=frozenset())
    ).peers


def test_without_pod_networks_nothing_is_planned_and_the_reason_is_told() -> None:
    planned = plan(cluster(replace(A, spec_pod_cidrs=frozenset(), pod_cidrs=frozenset()), B), config("a"), host("a"))
    (problem,) = planned.problems

    assert (planned.desired, planned.registered) == (None, True)
    assert "no pod starts until spec.podCIDRs has an IPv4 network and an IPv6 network" in problem.text


def test_two_networks_of_a_family_are_one_range_set() -> None:
    (text,) = desired(replace(A, spec_pod_cidrs=nets("10.1.0.0/24 10.9.0.0/24 fd00:1::/64"))).cni.values()

    assert json.loads(text)["plugins"][0]["ipam"]["ranges"] == [
        [{"subnet": "10.1.0.0/24"}, {"subnet": "10.9.0.0/24"}],
        [{"subnet": "fd00:1::/64"}],
    ]


def test_a_single_stack_node_has_no_default_route_of_the_other_family() -> None:
    single = replace(A, spec_pod_cidrs=nets("10.1.0.0/24"))
    state = plan(cluster(single), config("a", sources={4: PodNetworkSource.SPEC, 6: PodNetworkSource.NONE}), host("a")).desired
    assert state
    (text,) = state.cni.values()

    assert json.loads(text)["plugins"][0]["ipam"]["routes"] == [{"dst": "0.0.0.0/0"}]


@pytest.mark.parametrize(
    ("paths", "default", "fixed", "expected"),
    [
        ({}, 1500, None, 1420),
        ({"192.0.2.2": 9000}, 1500, None, 8920),
        ({"192.0.2.2": 9000, "192.0.2.3": 1450}, 1500, None, 1370),
        ({"192.0.2.2": 1300}, 1500, None, 1280),
        ({"192.0.2.2": 1500}, 1500, 1400, 1400),
        ({}, None, None, 1280),
    ],
)
def test_the_mtu_is_what_fits_through_every_path(
    paths: dict[str, int], default: int | None, fixed: int | None, expected: int
) -> None:
    mtus = {ip_address(a): m for a, m in paths.items()}
    facts = HostFacts(public_key=key("a"), path_mtus=mtus, default_mtu=default)

    assert desired(A, B, C, mtu=fixed, facts=facts).link["wigglenet"].mtu == expected


def test_networks_that_do_not_make_a_whole_stay_apart() -> None:
    apart = nets("10.244.0.192/26 10.244.1.0/26 10.244.5.0/26")

    assert set(collapsed(apart)) == apart


def test_three_hundred_nodes_are_all_routed() -> None:
    nodes = [
        node(f"n{i}", pods=f"10.{i // 256}.{i % 256}.0/24", internal=f"192.0.{i // 250}.{i % 250 + 1}") for i in range(1, 300)
    ]
    own = node("a", pods="10.200.0.0/24", internal="198.18.0.1")

    assert len(desired(own, *nodes).routes) == 299


def test_each_step_needs_only_steps_before_it() -> None:
    for position, step in enumerate(STEPS):
        assert {n for n in step.needs if n != "*"} <= {s.table for s in STEPS[:position]}


def test_every_table_has_one_step() -> None:
    assert sorted(s.table for s in STEPS) == sorted(DesiredState.__dataclass_fields__)


CLOSED = Route(kind=RouteKind.CLOSED)
GONE = RouteKey(to=ip_network("10.9.0.0/24"), metric=0xFFFFFFFF)


def test_a_closed_route_stays_ten_minutes_after_its_claim() -> None:
    kept, orphans = keep_closed({}, {GONE: CLOSED}, {}, now=100.0)
    still, _ = keep_closed({}, {GONE: CLOSED}, orphans, now=99.0 + PRODUCTION.orphaned_route)
    gone, _ = keep_closed({}, {GONE: CLOSED}, orphans, now=100.0 + PRODUCTION.orphaned_route)

    assert kept == still == {GONE: CLOSED}
    assert gone == {}


@pytest.mark.parametrize("network", ["10.9.0.0/25", "10.8.0.0/15"])
def test_a_closed_route_goes_at_once_when_somebody_claims_an_overlapping_network(network: str) -> None:
    claimed = plan_closed_routes(nets(network))

    assert keep_closed(claimed, {GONE: CLOSED}, {}, now=100.0)[0] == claimed


def peer_at(text: str, *, handshake: int = 0, received: int = 0, sent: int = 0) -> Peer:
    return Peer(
        endpoint=Endpoint(address=ip_address(text), port=24601),
        allowed_ips=nets("10.2.0.0/24"),
        handshake=handshake,
        received=received,
        sent=sent,
    )


def settled(have: Peer | None, before: Sighting | None, *, now: float = 1000.0) -> str:
    actual = {} if have is None else {key("b"): have}
    seen = {} if before is None else {key("b"): before}
    peers, _ = settle_endpoints({key("b"): peer_at("192.0.2.2")}, actual, seen, now=now, unix_now=now)
    return str(peers[key("b")].endpoint)


ANNOUNCED = peer_at("192.0.2.2").endpoint


def test_a_new_peer_gets_the_announced_endpoint() -> None:
    assert settled(None, None) == "192.0.2.2:24601"


def test_a_roaming_peer_keeps_the_observed_endpoint() -> None:
    assert settled(peer_at("198.18.0.7"), None) == "198.18.0.7:24601"


def test_a_new_announcement_wins_over_the_observed_endpoint() -> None:
    before = Sighting(announced=peer_at("192.0.2.77").endpoint, received=0, sent=0, since=0)

    assert settled(peer_at("198.18.0.7"), before) == "192.0.2.2:24601"


@pytest.mark.parametrize(
    ("counters", "since", "chosen"),
    [
        ({"sent": 10, "received": 5, "handshake": 100}, 900.0, "192.0.2.2"),  # silent for long: dark
        ({"sent": 10, "received": 5, "handshake": 100}, 990.0, "198.18.0.7"),  # not for long enough
        ({"sent": 10, "received": 6, "handshake": 100}, 900.0, "198.18.0.7"),  # heard of
        ({"sent": 1, "received": 5, "handshake": 100}, 900.0, "198.18.0.7"),  # nothing was sent
        ({"sent": 10, "received": 5, "handshake": 900}, 900.0, "198.18.0.7"),  # a handshake lately
    ],
)
def test_a_dark_peer_gets_the_announced_endpoint_again(counters: dict[str, int], since: float, chosen: str) -> None:
    before = Sighting(announced=ANNOUNCED, received=5, sent=1, since=since)

    assert settled(peer_at("198.18.0.7", **counters), before) == f"{chosen}:24601"


def test_a_network_whose_node_is_no_peer_stays_closed_all_the_same() -> None:
    keyless = replace(B, public_key=None)

    assert {"10.2.0.0/24", "fd00:2::/64"} <= {str(k.to) for k in desired(A, keyless).closed}
    assert not desired(A, keyless).routes


def test_an_own_network_that_is_refused_withholds_the_cni_file() -> None:
    older = node("0", pods="10.1.0.0/24", internal="192.0.2.9", created="2025-01-01T00:00:00Z")

    assert desired(A, older).cni == {}
    assert any(
        "the CNI file is withheld while 10.1.0.0/24 of its pod networks cannot be used" in text for text in told(A, older)
    )
    assert json.loads(desired(A, older).annotations["wigglenet/pod-cidrs"]) == ["fd00:1::/64"]


def test_a_network_too_small_for_host_local_withholds_the_cni_file() -> None:
    tiny = replace(A, spec_pod_cidrs=nets("10.1.0.0/31 fd00:1::/64"))

    assert desired(tiny).cni == {}
    assert "host-local needs more than 10.1.0.0/31" in told(tiny)[0]


def test_of_two_nodes_of_one_name_the_younger_counts() -> None:
    moved = replace(B, uid=type(B.uid)("new"), created="2026-05-01T00:00:00Z", internal_ips=ips("192.0.2.77"))
    endpoint = desired(A, B, moved).peers[key("b")].endpoint

    assert endpoint
    assert str(endpoint.address) == "192.0.2.77"
    assert told(A, B, moved) == []


@pytest.mark.parametrize("network", ["128.0.0.0/2", "64.0.0.0/2", "fe00::/8", "240.0.0.0/8", "12.0.0.0/7", "2000::/3"])
def test_what_holds_more_than_a_nodes_unicast_addresses_is_refused(network: str) -> None:
    assert tunnel_routes(desired(A, node("c", pods=network, spec="", internal="198.18.0.3"))) == set()


def test_a_closed_route_of_somebody_else_stays_for_ever() -> None:
    foreign = {GONE: Route(kind=RouteKind.CLOSED, ours=False)}

    assert keep_closed({}, foreign, {GONE: 0.0}, now=1e6) == (foreign, {})


def test_a_dark_peer_is_found_dark_after_the_clock_was_set_back() -> None:
    before = Sighting(announced=ANNOUNCED, received=5, sent=1, since=900.0)

    assert settled(peer_at("198.18.0.7", sent=10, received=5, handshake=4600), before) == "192.0.2.2:24601"


@pytest.mark.parametrize(
    ("wanted", "holder", "could", "told"),
    [
        (None, WireGuardKind.KERNEL, False, ""),
        (None, WireGuardKind.USERSPACE, False, ""),
        (
            None,
            WireGuardKind.USERSPACE,
            True,
            "kernel WireGuard is available; to switch: stop the implementation, ip link del wigglenet",
        ),
        (WireGuardKind.KERNEL, WireGuardKind.KERNEL, False, ""),
        (
            WireGuardKind.KERNEL,
            WireGuardKind.USERSPACE,
            False,
            "by userspace WireGuard, not by kernel as set; to switch: stop the implementation, ip",
        ),
        (
            WireGuardKind.USERSPACE,
            WireGuardKind.KERNEL,
            False,
            "held by kernel WireGuard, not by userspace as set; to switch: ip link del wigglenet",
        ),
    ],
)
def test_a_working_link_is_kept_and_how_to_switch_is_told(
    *, wanted: WireGuardKind | None, holder: WireGuardKind, could: bool, told: str
) -> None:
    facts = replace(host("a"), wireguard=holder, kernel_wireguard=could)
    planned = plan(cluster(numbered(1, name="a")), replace(config("a"), wireguard=wanted), facts)
    told_of_link = [p.text for p in planned.problems if p.subject == "link wigglenet"]

    assert told_of_link if told else not told_of_link
    assert told in " ".join(told_of_link)
    assert planned.desired
    assert set(planned.desired.device) == {"wigglenet"}


def test_a_configuration_that_the_runtime_takes_first_is_a_problem_and_ours_is_written_all_the_same() -> None:
    facts = replace(host(), earlier_cni=frozenset({"/etc/cni/net.d/05-other.conf"}))
    planned = plan(cluster(A, B), config(), facts)

    assert planned.desired
    assert planned.desired.cni
    (problem,) = planned.problems
    assert problem.subject == "file /etc/cni/net.d/05-other.conf"
    assert problem.text == f"the container runtime takes it and not {config().cni_path}; remove what made it, then the file"
