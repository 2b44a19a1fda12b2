"""What each mode has and has not: native routing by family, endpoints by family, links of node addresses, IPv6 disabled."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.builders import cluster, config, host, ips, key, nets, node
from wigglenet_operator.model.desired import DesiredState
from wigglenet_operator.model.facts import HostFacts, NodeFacts, PodNetworkSource
from wigglenet_operator.plan.desired import Memory, Plan, settle
from wigglenet_operator.plan.planner import plan
from wigglenet_operator.plan.routes import plan_closed_routes

A = node("a", pods="10.1.0.0/24 fd00:1::/64", internal="192.0.2.1 2001:db8::1")
B = node("b", pods="10.2.0.0/24 fd00:2::/64", internal="192.0.2.2 2001:db8::2")
EVERYTHING: dict[str, Any] = {"masqueraded": frozenset({4, 6}), "filtered": frozenset({4, 6})}


def planned(*nodes: NodeFacts, facts: HostFacts | None = None, **settings: Any) -> Plan:
    return plan(cluster(*nodes), config("a", **settings), facts or host("a"))


def desired(*nodes: NodeFacts, facts: HostFacts | None = None, **settings: Any) -> DesiredState:
    state = planned(*nodes, facts=facts, **settings).desired
    assert state
    return state


def versions(state: DesiredState) -> tuple[object, ...]:
    """Of tunnel routes, closed routes and addresses of the link."""
    routes, closed = ({k.to.version for k in some} for some in (state.routes, state.closed))
    return routes, closed, {a.version for a in state.addresses}


@pytest.mark.parametrize("native", [4, 6])
def test_a_native_family_has_no_route_and_no_address_and_the_other_is_as_before(native: int) -> None:
    state = desired(A, B, native=frozenset({native}))

    assert versions(state) == ({10 - native},) * 3
    assert state.peers == desired(A, B).peers
    assert state.annotations == desired(A, B).annotations
    assert state.cni == desired(A, B).cni


def test_without_a_tunnel_there_is_neither_link_nor_key() -> None:
    facts = replace(host("a"), public_key=None, wireguard=None)
    state = desired(A, B, facts=facts, native=frozenset({4, 6}))

    assert not any((state.key, state.device, state.link, state.peers, state.routes, state.closed, state.addresses))
    assert set(state.annotations) == {"wigglenet/node-ips", "wigglenet/pod-cidrs"}
    assert json.loads(next(iter(state.cni.values())))["plugins"][0]["mtu"] == 1500
    assert set(state.sysctls) == {"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"}


@pytest.mark.parametrize("native", [4, 6])
def test_the_right_door_is_for_tunnelled_families(native: int) -> None:
    ip = {4: "ip ", 6: "ip6 "}
    rules = desired(A, B, native=frozenset({native}), **EVERYTHING).firewall
    doors = [line for lines in rules.values() for line in lines if "fib saddr" in line or "@wt_doors" in line]

    assert any(ip[10 - native] in line for line in doors)
    assert not any(f" {ip[native]}" in f" {line}" for line in doors)
    assert any(f"@wt_nodes{native} accept" in line for lines in rules.values() for line in lines)


@pytest.mark.parametrize("native", [{4}, {6}, {4, 6}])
@pytest.mark.parametrize("settings", [{}, EVERYTHING, {"firewall_only": True}, {"masqueraded": frozenset()}])
def test_every_chain_that_is_called_is_there_and_has_a_rule(native: set[int], settings: dict[str, Any]) -> None:
    rules = desired(A, B, native=frozenset(native), **settings).firewall
    chains = {item.name: lines for item, lines in rules.items() if item.kind == "chain"}
    called = {line.partition(" jump ")[2] for lines in chains.values() for line in lines if " jump " in line}

    assert called == {name for name in chains if name not in {"wt_forward", "wt_postrouting"}}
    assert all(len(lines) > ("hook" in lines[0]) for lines in chains.values())


def test_closed_routes_of_a_family_without_a_tunnel_go_at_once() -> None:
    state = desired(A, native=frozenset({4}))
    there = plan_closed_routes(nets("10.1.0.0/24 10.7.0.0/24 fd00:7::/64"))
    settled, _ = settle(state, {"closed": there}, Memory(), tunnelled={6}, times=(0.0, 0.0))

    assert {str(k.to) for k in settled.closed} == {"fd00:1::/64", "fd00:7::/64"}


def test_a_setting_that_nobody_wants_stays_as_it_is() -> None:
    state = desired(A, facts=replace(host("a"), versions=frozenset({4}), new_versions=frozenset({4})))
    there = dict.fromkeys(state.sysctls, "0") | {"net/ipv6/conf/all/forwarding": "0", "net/ipv6/conf/eth0/accept_ra": "1"}
    settled, _ = settle(state, {"sysctls": there}, Memory(), tunnelled={4}, times=(0.0, 0.0))

    left = {"net/ipv6/conf/all/forwarding": "0", "net/ipv6/conf/eth0/accept_ra": "2"}
    assert settled.sysctls == {**state.sysctls, **left}


@pytest.mark.parametrize(
    ("announced", "port", "allowed", "expected"),
    [
        ("203.0.113.9", None, {4, 6}, "203.0.113.9:24601"),
        ("203.0.113.9", 555, {4, 6}, "203.0.113.9:555"),
        ("2001:db8:9::1", None, {6}, "[2001:db8:9::1]:24601"),
        ("2001:db8:9::1", 555, {4}, "192.0.2.2:24601"),
        ("203.0.113.9", None, {6}, "[2001:db8::2]:24601"),
    ],
)
def test_an_announced_endpoint_comes_first_if_its_family_is_allowed(
    announced: str, port: int | None, allowed: set[int], expected: str
) -> None:
    state = desired(A, replace(B, endpoint=(ips(announced)[0], port)), endpoint_versions=frozenset(allowed))

    assert str(state.peers[key("b")].endpoint) == expected
    assert state.peers[key("b")].allowed_ips == desired(A, B).peers[key("b")].allowed_ips


@pytest.mark.parametrize(("allowed", "expected"), [({6}, "[2001:db8::2]:24601"), ({4}, "192.0.2.2:24601")])
def test_an_endpoint_is_of_an_allowed_family(allowed: set[int], expected: str) -> None:
    assert str(desired(A, B, endpoint_versions=frozenset(allowed)).peers[key("b")].endpoint) == expected


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.1.0.9", "it lies in a pod network of node a"),
        ("10.2.0.1", "it lies in a pod network of node b"),
        ("fe80::1", "unicast"),
    ],
)
def test_an_endpoint_that_would_loop_is_named_and_the_next_one_taken(address: str, reason: str) -> None:
    found = planned(A, replace(B, endpoint=(ips(address)[0], None)))

    assert found.desired
    assert str(found.desired.peers[key("b")].endpoint) == "192.0.2.2:24601"
    (problem,) = found.problems
    assert problem.subject == "node b"
    assert f"its wigglenet/endpoint {address} is not used" in problem.text
    assert reason in problem.text


def test_nodes_behind_one_nat_may_announce_its_address() -> None:
    c = node("c", pods="10.3.0.0/24 fd00:3::/64", internal="192.0.2.3")
    nat = ips("203.0.113.9")[0]
    found = planned(A, replace(B, endpoint=(nat, 1001)), replace(c, endpoint=(nat, 1002)))

    assert found.desired
    assert {str(p.endpoint) for p in found.desired.peers.values()} == {"203.0.113.9:1001", "203.0.113.9:1002"}
    assert not found.problems


def test_a_peer_without_an_address_of_an_allowed_family_is_named() -> None:
    four = replace(B, internal_ips=ips("192.0.2.2"))
    found = planned(A, four, endpoint_versions=frozenset({6}))

    assert found.desired
    assert not found.desired.peers
    assert ["no usable IPv6 address" in p.text for p in found.problems] == [True]


def test_every_peer_has_the_keepalive() -> None:
    assert {p.keepalive for p in desired(A, B, keepalive=25).peers.values()} == {25}


@pytest.mark.parametrize(("allowed", "expected"), [({4}, 1440), ({6}, 1420), ({4, 6}, 1420)])
def test_the_mtu_leaves_room_for_the_largest_header(allowed: set[int], expected: int) -> None:
    assert {link.mtu for link in desired(A, B, endpoint_versions=frozenset(allowed)).link.values()} == {expected}


def test_addresses_of_named_links_are_announced_and_what_somebody_wrote_there_is_not() -> None:
    facts = replace(host("a"), node_ips=ips("198.18.0.1 10.2.0.1 2001:db8:5::1"))  # one of them in a pod network
    state = desired(replace(A, node_ips=ips("203.0.113.77")), B, facts=facts)

    assert state.annotations["wigglenet/node-ips"] == '["198.18.0.1","2001:db8:5::1"]'


def test_a_named_link_that_is_missing_is_a_problem() -> None:
    (problem,) = planned(A, facts=replace(host("a"), missing_links=frozenset({"eth7"}))).problems

    assert (problem.subject, "NODE_IP_INTERFACES" in problem.text) == ("link eth7", True)


def test_disabled_ipv6_is_one_problem_and_no_pod_starts_without_its_family() -> None:
    found = planned(A, B, facts=replace(host("a"), versions=frozenset({4}), new_versions=frozenset({4})))

    assert found.desired
    assert versions(found.desired) == ({4},) * 3
    assert found.desired.cni == {}
    assert "net/ipv6/conf/all/forwarding" not in found.desired.sysctls
    assert ["IPv6 is disabled" in p.text for p in found.problems] == [True]


def test_disabled_ipv6_is_no_problem_without_ipv6_pods() -> None:
    sources = {4: PodNetworkSource.SPEC, 6: PodNetworkSource.NONE}
    found = planned(A, B, facts=replace(host("a"), versions=frozenset({4}), new_versions=frozenset({4})), sources=sources)

    assert found.desired
    assert found.desired.cni
    assert not found.problems
