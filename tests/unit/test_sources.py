"""Where a node's pod networks are from, and what becomes of those that it had."""

import json
from collections.abc import Collection
from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest

from tests.builders import cluster, config, host, ips, key, nets, node
from wigglenet_operator.model.desired import DesiredState
from wigglenet_operator.model.facts import ForeignRoute, HostFacts, IPNetwork, NodeFacts, Offer, PodNetworkSource
from wigglenet_operator.model.problems import Code
from wigglenet_operator.model.report import Problem
from wigglenet_operator.plan.desired import Plan
from wigglenet_operator.plan.planner import plan

NONE, SPEC, FILE = PodNetworkSource.NONE, PodNetworkSource.SPEC, PodNetworkSource.FILE
A = node("a", pods="10.1.0.0/24 fd00:1::/64", internal="192.0.2.1")
BARE = replace(A, spec_pod_cidrs=nets(""), pod_cidrs=nets(""))
B = node("b", pods="10.2.0.0/24 fd00:2::/64", internal="192.0.2.2")


def pods(*addresses: str) -> frozenset[ForeignRoute]:
    """The routes that `ptp` makes for them."""
    return frozenset(ForeignRoute(ip_network(a), 0, f"veth{i}") for i, a in enumerate(addresses))


def offering(networks: str, *, problem: str = "", running: Collection[ForeignRoute] = ()) -> HostFacts:
    told = Problem(code=Code.PodFileUnusable, subject="file /pods", text=problem) if problem else None
    return replace(host("a"), offers={FILE: Offer(networks=nets(networks), problem=told)}, foreign_routes=frozenset(running))


def planned(
    own: NodeFacts,
    facts: HostFacts,
    four: PodNetworkSource = FILE,
    six: PodNetworkSource = FILE,
    *others: NodeFacts,
    earlier: Collection[IPNetwork] = (),
) -> Plan:
    return plan(cluster(own, *others), config("a", sources={4: four, 6: six}), facts, earlier)


def announced(found: Plan) -> set[str]:
    assert found.desired
    return set(json.loads(found.desired.annotations["wigglenet/pod-cidrs"]))


def ranges(state: DesiredState | None) -> set[str]:
    """What new pods get."""
    assert state
    return {
        one["subnet"]
        for text in state.cni.values()
        for some in json.loads(text)["plugins"][0]["ipam"]["ranges"]
        for one in some
    }


@pytest.mark.parametrize(
    ("four", "six", "expected"),
    [
        (SPEC, SPEC, "10.1.0.0/24 fd00:1::/64"),
        (SPEC, NONE, "10.1.0.0/24"),
        (NONE, SPEC, "fd00:1::/64"),
        (SPEC, FILE, "10.1.0.0/24 fd00:f::/64 fd00:e::/64"),
        (FILE, SPEC, "10.9.0.0/24 fd00:1::/64"),
        (FILE, FILE, "10.9.0.0/24 fd00:f::/64 fd00:e::/64"),
        (FILE, NONE, "10.9.0.0/24"),
        (NONE, FILE, "fd00:f::/64 fd00:e::/64"),
    ],
)
def test_each_family_has_a_source_of_its_own(four: PodNetworkSource, six: PodNetworkSource, expected: str) -> None:
    found = planned(A, offering("10.9.0.0/24 fd00:f::/64 fd00:e::/64"), four, six)

    assert found.desired
    assert ranges(found.desired) == announced(found) == set(expected.split())
    assert not found.problems
    assert {k.to for k in found.desired.closed} == nets(expected)


def test_a_source_that_offers_nothing_keeps_a_new_node_waiting_and_says_why() -> None:
    why = "line 3, 'x': it has no prefix length"
    found = planned(BARE, offering("", problem=why))

    assert (found.desired, found.registered) == (None, True)
    assert {p.text for p in found.problems} == {why}


@pytest.mark.parametrize("announced_before", ["", "10.8.0.0/24 fd00:8::/64"])
def test_a_network_of_the_file_that_holds_an_own_address_of_the_node_is_not_used(announced_before: str) -> None:
    facts = replace(offering("198.51.100.8/29 fd00:9::/64"), local_addresses=frozenset(ips("198.51.100.12")))
    found = planned(replace(BARE, pod_cidrs=nets(announced_before)), facts)

    assert ["holds this node's own address 198.51.100.12" in p.text for p in found.problems] == [True]
    if announced_before:
        assert announced(found) == {"10.8.0.0/24", "fd00:9::/64"}
        assert ranges(found.desired) == set()
    else:
        assert found.desired is None


def test_a_family_that_is_missing_in_the_file_is_named() -> None:
    found = planned(BARE, offering("10.9.0.0/24"))
    known = planned(replace(BARE, pod_cidrs=nets("10.9.0.0/24")), offering("10.9.0.0/24"))

    assert found.desired is None
    assert announced(known) == {"10.9.0.0/24"}
    assert known.desired
    assert known.desired.cni == {}
    assert found.problems == known.problems
    assert ["an IPv6 network" in p.text and "POD_CIDR_SOURCE_IPV6=none" in p.text for p in found.problems] == [True]


def test_a_source_that_offers_nothing_any_more_takes_nothing_away_but_the_cni_file() -> None:
    before = replace(BARE, pod_cidrs=nets("10.9.0.0/24 fd00:f::/64"))
    found = planned(before, offering("", problem="gone"), FILE, FILE, B)

    assert announced(found) == {"10.9.0.0/24", "fd00:f::/64"}
    assert found.desired
    assert found.desired.cni == {}
    assert set(found.desired.peers) == {key("b")}


def test_the_same_after_the_tunnel_was_turned_off_or_on() -> None:
    before = replace(BARE, pod_cidrs=nets("10.9.0.0/24 fd00:f::/64"))
    without = replace(offering("", problem="gone"), public_key=None, wireguard=None)
    native = config("a", sources={4: FILE, 6: FILE}, native=frozenset({4, 6}))

    assert announced(plan(cluster(before), native, without)) == {"10.9.0.0/24", "fd00:f::/64"}
    assert announced(planned(replace(before, public_key=None), offering("", problem="gone"))) == {"10.9.0.0/24", "fd00:f::/64"}


def test_what_somebody_else_announced_for_this_node_is_not_its_own() -> None:
    before = replace(BARE, pod_cidrs=nets("10.9.0.0/24"), public_key=key("somebody"))

    assert planned(before, offering("", problem="gone")).desired is None


def test_whoever_announced_it_running_pods_keep_their_network() -> None:
    """The key was lost, or the node had a tunnel before and has none now, while the file has half of what it had."""
    before = replace(BARE, pod_cidrs=nets("10.9.0.0/24 fd00:9::/64"), public_key=key("former"))
    found = planned(before, offering("10.9.0.0/24", running=pods("10.9.0.7/32", "fd00:9::7/128")))

    assert announced(found) == {"10.9.0.0/24", "fd00:9::/64"}
    assert ranges(found.desired) == set()


def test_an_old_network_stays_as_long_as_a_pod_has_an_address_in_it() -> None:
    before = replace(BARE, pod_cidrs=nets("10.8.0.0/24 fd00:8::/64"))
    new = "10.9.0.0/24 fd00:9::/64"
    one = planned(before, offering(new, running=pods("10.8.0.7/32")))

    assert announced(one) == {"10.8.0.0/24", "10.9.0.0/24", "fd00:9::/64"}
    assert ranges(one.desired) == set(new.split())
    assert one.desired
    assert ip_interface("10.8.0.1/32") in one.desired.addresses
    assert announced(planned(before, offering(new))) == set(new.split())


def test_a_pod_in_a_new_network_keeps_no_old_one_that_holds_it() -> None:
    before = replace(BARE, pod_cidrs=nets("10.8.0.0/16 fd00:8::/64"))
    new = "10.8.1.0/24 fd00:8::/64"

    assert announced(planned(before, offering(new, running=pods("10.8.1.7/32")))) == set(new.split())


def test_a_network_stays_if_one_around_it_is_offered_and_refused() -> None:
    before = replace(BARE, pod_cidrs=nets("10.8.0.0/24 fd00:8::/64"))
    running = pods("10.8.0.7/32", "fd00:8::7/128")
    found = planned(before, offering("10.0.0.0/8 ::/0", running=running), FILE, FILE, B)

    assert announced(found) == {"10.8.0.0/24", "fd00:8::/64"}
    assert found.desired
    assert found.desired.cni == {}


def test_neighbours_that_were_announced_as_one_are_remembered_apart() -> None:
    """The first is another node's by now, and the second has a pod."""
    now = replace(BARE, pod_cidrs=nets("10.8.0.0/23 fd00:9::/64"))
    heir = node("c", pods="10.8.0.0/24", spec="", internal="192.0.2.3", created="2026-06-01T00:00:00Z")
    facts = offering("10.9.0.0/24 fd00:9::/64", running=pods("10.8.1.7/32"))
    both = planned(now, offering("10.8.0.0/24 10.8.1.0/24 fd00:9::/64"))
    found = planned(now, facts, FILE, FILE, heir, earlier=both.networks)

    assert announced(found) == {"10.8.1.0/24", "10.9.0.0/24", "fd00:9::/64"}
    assert not found.problems


def test_new_pods_find_their_gateway_beside_an_old_neighbour() -> None:
    before = replace(BARE, pod_cidrs=nets("10.8.0.0/24 fd00:9::/64"))
    found = planned(before, offering("10.8.1.0/24 fd00:9::/64", running=pods("10.8.0.7/32")))

    assert announced(found) == {"10.8.0.0/23", "fd00:9::/64"}
    assert found.desired
    assert {ip_interface("10.8.0.1/32"), ip_interface("10.8.1.1/32")} <= found.desired.addresses.keys()


def test_a_pod_that_starts_late_brings_its_network_back() -> None:
    now = replace(BARE, pod_cidrs=nets("10.9.0.0/24 fd00:9::/64"))
    facts = offering("10.9.0.0/24 fd00:9::/64", running=pods("10.8.0.7/32"))

    assert announced(planned(now, facts, earlier=nets("10.8.0.0/24"))) == {"10.8.0.0/24", "10.9.0.0/24", "fd00:9::/64"}
    assert announced(planned(now, facts)) == {"10.9.0.0/24", "fd00:9::/64"}


def test_an_old_network_that_the_control_plane_gave_to_another_node_is_lost() -> None:
    heir = node("c", pods="10.8.0.0/24", internal="192.0.2.3")
    before = replace(BARE, pod_cidrs=nets("10.8.0.0/24 fd00:9::/64"))
    found = planned(before, offering("10.9.0.0/24 fd00:9::/64", running=pods("10.8.0.7/32")), FILE, FILE, heir)

    assert announced(found) == {"10.9.0.0/24", "fd00:9::/64"}
    assert any("10.8.0.0/24" in p.text and p.subject == "node a" for p in found.problems)


def test_what_a_file_offers_loses_to_what_the_control_plane_gave_to_another_node() -> None:
    found = planned(BARE, offering("10.2.0.0/24 fd00:9::/64"), FILE, FILE, B)

    assert found.desired
    assert found.desired.cni == {}
    assert announced(found) == {"fd00:9::/64"}
    assert any("withheld while 10.2.0.0/24" in p.text for p in found.problems)


def test_a_node_registered_anew_without_networks_keeps_those_of_its_pods() -> None:
    gone = replace(A, departed=True)
    anew = replace(BARE, uid=type(A.uid)("anew"), created="2026-06-01T00:00:00Z", public_key=None)
    running = replace(host("a"), foreign_routes=pods("10.1.0.7/32"))

    assert announced(plan(cluster(gone, anew), config("a"), running)) == {"10.1.0.0/24"}
    assert plan(cluster(gone, anew), config("a"), host("a")).desired is None
